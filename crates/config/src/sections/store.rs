//! `etcd3` (and `etcd`): how the store is reached.

use std::path::PathBuf;

use crate::secret::Secret;
use crate::section::Section;

/// `etcd3`, and `etcd`, which has the same settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Etcd {
    /// `hosts` (a list, or texts separated by commas), or `host`; each host or host and port.
    pub hosts: Vec<String>,
    /// `port`, for hosts without one.
    pub port: Option<u16>,
    /// `use_proxies`: `hosts` are proxies; the members of the cluster are not asked for.
    pub use_proxies: bool,
    /// `url`
    pub url: Option<String>,
    /// `proxy`
    pub proxy: Option<String>,
    /// `srv`: the domain whose SRV records name the hosts.
    pub srv: Option<String>,
    /// `srv_suffix`
    pub srv_suffix: Option<String>,
    /// `protocol`: http or https.
    pub protocol: Option<String>,
    /// `username`
    pub username: Option<String>,
    /// `password`
    pub password: Option<Secret>,
    /// `cacert`; with it the protocol is https.
    pub cacert: Option<PathBuf>,
    /// `cert`
    pub cert: Option<PathBuf>,
    /// `key`
    pub key: Option<PathBuf>,
    /// `version_prefix` of the gateway's paths.
    pub version_prefix: Option<String>,
}

impl Etcd {
    pub(crate) fn read(section: &Section<'_>) -> Etcd {
        let hosts = section.words("hosts");
        Etcd {
            hosts: if hosts.is_empty() { section.filled("host").into_iter().collect() } else { hosts },
            port: port(section),
            use_proxies: section.flag("use_proxies").unwrap_or(false),
            url: section.filled("url"),
            proxy: section.filled("proxy"),
            srv: section.filled("srv"),
            srv_suffix: section.filled("srv_suffix"),
            protocol: section.filled("protocol"),
            username: section.filled("username"),
            password: section.secret("password"),
            cacert: section.path("cacert"),
            cert: section.path("cert"),
            key: section.path("key"),
            version_prefix: section.filled("version_prefix"),
        }
    }
}

fn port(section: &Section<'_>) -> Option<u16> {
    let port = section.int("port", None, 0)?;
    let valid = u16::try_from(port).ok();
    if valid.is_none() {
        section.refuse("port", &port.into(), "a port (0 to 65535)");
    }
    valid
}
