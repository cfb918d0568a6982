//! The sections `zookeeper` and `exhibitor` of the configuration.

use std::time::Duration;

use patroni_core::JsonMap;
use patroni_http::TlsFiles;
use serde_json::Value;

use super::proto::{Acl, open_acl};
use crate::section::{Section, SectionError, host_port};

/// How ZooKeeper is reached.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ZooKeeperOptions {
    /// Where its servers are.
    pub(crate) hosts: Hosts,
    /// A path that stands before all others (`hosts: a:2181,b:2181/path`).
    pub(crate) chroot: String,
    /// `use_ssl` and what belongs to it.
    pub(crate) tls: Option<Tls>,
    /// `auth_data`: schemes and credentials.
    pub(crate) credentials: Vec<(String, String)>,
    /// `set_acls`: who may do what with new nodes.
    pub(super) acl: Vec<Acl>,
}

/// Where the servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// `zookeeper.hosts`: hosts and ports.
    Named(Vec<(String, u16)>),
    /// `exhibitor`: who is asked for them.
    Exhibitor(Exhibitor),
}

/// Where Exhibitor is, and how often it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exhibitor {
    /// `hosts`: any of them answers for all.
    pub(crate) hosts: Vec<String>,
    /// `port` of all of them.
    pub(crate) port: u16,
    /// `poll_interval`.
    pub(crate) interval: Duration,
}

impl Default for Hosts {
    fn default() -> Self {
        Hosts::Named(Vec::new())
    }
}

/// TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// `cacert`: path of the authorities that sign the servers' certificates; without it those of the system.
    pub(crate) cacert: Option<String>,
    /// `cert`, `key`, `key_password`.
    pub(crate) identity: Option<TlsFiles>,
    /// `verify: false`.
    pub(crate) unverified: bool,
}

const DEFAULT_PORT: u16 = 2181;

impl ZooKeeperOptions {
    /// Reads the section `zookeeper`.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn from_json(map: &JsonMap) -> Result<Self, SectionError> {
        let section = Section { name: "zookeeper", map };
        let listed = section.texts("hosts")?.join(",");
        let (listed, chroot) = listed.split_once('/').unwrap_or((&listed, ""));
        let error = |problem: String| section.error("hosts", problem, "write host:port of each server");
        if listed.is_empty() {
            return Err(error("names no server".to_owned()));
        }
        let hosts = listed.split(',').map(|host| host_port(host.trim(), DEFAULT_PORT).map_err(error));
        let hosts = Hosts::Named(hosts.collect::<Result<_, _>>()?);
        let chroot = chroot.trim_matches('/');
        Self::with(section, hosts, if chroot.is_empty() { String::new() } else { format!("/{chroot}") })
    }

    /// Reads the section `exhibitor`.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn from_exhibitor(map: &JsonMap) -> Result<Self, SectionError> {
        const USUAL_INTERVAL: u64 = 300;
        let section = Section { name: "exhibitor", map };
        let hosts = section.texts("hosts")?;
        if hosts.is_empty() {
            return Err(section.error("hosts", "names no host", "write hosts: [HOST, HOST]"));
        }
        let Some(port) = section.port("port")? else {
            return Err(section.error("port", "is missing", "write the port of Exhibitor, such as 8181"));
        };
        let seconds = section.text("poll_interval")?.map_or(Ok(USUAL_INTERVAL), |text| text.parse());
        let Ok(seconds @ 1..) = seconds else {
            return Err(section.error("poll_interval", "is no number of seconds", "write a whole number from 1 on"));
        };
        let exhibitor = Exhibitor { hosts, port, interval: Duration::from_secs(seconds) };
        Self::with(section, Hosts::Exhibitor(exhibitor), String::new())
    }

    fn with(section: Section<'_>, hosts: Hosts, chroot: String) -> Result<Self, SectionError> {
        let tls = if section.flag("use_ssl") == Some(true) { Some(tls(section)?) } else { None };
        Ok(ZooKeeperOptions { hosts, chroot, tls, credentials: credentials(section)?, acl: acl(section)? })
    }
}

fn tls(section: Section<'_>) -> Result<Tls, SectionError> {
    let keyfile = section.text("key")?;
    let Some(certfile) = section.text("cert")? else {
        if keyfile.is_some() {
            let remedy = "name the client certificate in cert, or remove the key";
            return Err(section.error("key", "is given without cert", remedy));
        }
        return Ok(Tls { cacert: section.text("cacert")?, identity: None, unverified: unverified(section) });
    };
    let identity = TlsFiles { certfile, keyfile, keyfile_password: section.text("key_password")? };
    Ok(Tls { cacert: section.text("cacert")?, identity: Some(identity), unverified: unverified(section) })
}

fn unverified(section: Section<'_>) -> bool {
    section.flag("verify") == Some(false)
}

/// `auth_data`: a mapping of schemes, such as `digest`, to credentials.
fn credentials(section: Section<'_>) -> Result<Vec<(String, String)>, SectionError> {
    let error = || section.error("auth_data", "is not a mapping of texts", "write digest: user:password below it");
    match section.map.get("auth_data") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(data)) => {
            let pair =
                |(scheme, credential): (&String, &Value)| Some((scheme.clone(), credential.as_str()?.to_owned()));
            data.iter().map(|entry| pair(entry).ok_or_else(error)).collect()
        }
        Some(_) => Err(error()),
    }
}

/// `set_acls`: a mapping of names in certificates to lists of permissions.
fn acl(section: Section<'_>) -> Result<Vec<Acl>, SectionError> {
    let error = |problem: String| {
        let remedy = "write CN=NAME: [ALL], with CREATE, READ, WRITE, DELETE, ADMIN or ALL";
        section.error("set_acls", problem, remedy)
    };
    let entries = match section.map.get("set_acls") {
        None | Some(Value::Null) => return Ok(open_acl()),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(error(format!("{other} is not a mapping"))),
    };
    let one = |(id, permissions): (&String, &Value)| {
        let names = permissions.as_array().ok_or_else(|| error(format!("{permissions} is not a list")))?;
        let mut permissions = 0;
        for name in names {
            permissions |= permission(name).ok_or_else(|| error(format!("{name} is not known")))?;
        }
        Ok(Acl { permissions, scheme: "x509".to_owned(), id: id.clone() })
    };
    entries.iter().map(one).collect()
}

fn permission(name: &Value) -> Option<i32> {
    Some(match name.as_str()?.to_uppercase().as_str() {
        "READ" => 1,
        "WRITE" => 2,
        "CREATE" => 4,
        "DELETE" => 8,
        "ADMIN" => 16,
        "ALL" => 31,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(section: Value) -> JsonMap {
        match section {
            Value::Object(map) => map,
            other => panic!("not an object: {other}"),
        }
    }

    fn read(section: Value) -> Result<ZooKeeperOptions, SectionError> {
        ZooKeeperOptions::from_json(&object(section))
    }

    #[test]
    fn hosts_in_all_forms() {
        let one = |host: &str, port: u16| (host.to_owned(), port);
        for (hosts, expected, chroot) in [
            (json!("a"), vec![one("a", 2181)], ""),
            (json!("a:1, b"), vec![one("a", 1), one("b", 2181)], ""),
            (json!(["a:1", "[::1]:2"]), vec![one("a", 1), one("::1", 2)], ""),
            (json!("a:1,b:2/path/x/"), vec![one("a", 1), one("b", 2)], "/path/x"),
            (json!(["a", "b/path"]), vec![one("a", 2181), one("b", 2181)], "/path"),
            (json!("a/"), vec![one("a", 2181)], ""),
        ] {
            let options = read(json!({"hosts": hosts})).expect("valid");
            assert_eq!((options.hosts, options.chroot.as_str()), (Hosts::Named(expected), chroot), "{hosts}");
        }
        for hosts in [json!([]), json!(""), json!("/path"), json!("a:x"), json!("a:1,/x"), json!({"a": 1}), json!(null)]
        {
            assert_eq!(read(json!({"hosts": hosts})).err().map(|error| error.key), Some("hosts"), "{hosts}");
        }
    }

    #[test]
    fn the_rest_of_the_section() {
        let options = read(json!({"hosts": "a", "use_ssl": "on", "cacert": "ca", "cert": "c", "key": "k",
            "key_password": "p", "verify": false, "auth_data": {"digest": "u:p"},
            "set_acls": {"CN=x": ["create", "READ"], "CN=y": ["ALL"]}}))
        .expect("valid");
        let identity = TlsFiles { certfile: "c".into(), keyfile: Some("k".into()), keyfile_password: Some("p".into()) };
        let expected = Tls { cacert: Some("ca".into()), identity: Some(identity), unverified: true };
        assert_eq!(options.tls, Some(expected));
        assert_eq!(options.credentials, [("digest".to_owned(), "u:p".to_owned())]);
        let acl = |permissions, id: &str| Acl { permissions, scheme: "x509".into(), id: id.into() };
        assert_eq!(options.acl, [acl(5, "CN=x"), acl(31, "CN=y")]);
        let plain = read(json!({"hosts": "a", "key": "k"})).expect("without TLS it does not matter");
        assert_eq!((plain.tls, plain.acl), (None, open_acl()));
        for (section, key) in [
            (json!({"hosts": "a", "use_ssl": true, "key": "k"}), "key"),
            (json!({"hosts": "a", "auth_data": ["digest"]}), "auth_data"),
            (json!({"hosts": "a", "auth_data": {"digest": 5}}), "auth_data"),
            (json!({"hosts": "a", "set_acls": {"CN=x": "ALL"}}), "set_acls"),
            (json!({"hosts": "a", "set_acls": {"CN=x": ["EAT"]}}), "set_acls"),
        ] {
            assert_eq!(read(section.clone()).err().map(|error| error.key), Some(key), "{section}");
        }
    }

    #[test]
    fn exhibitor_names_the_hosts() {
        let read = |section: Value| ZooKeeperOptions::from_exhibitor(&object(section));
        let options =
            read(json!({"hosts": ["a", "b"], "port": "8181", "auth_data": {"digest": "u:p"}})).expect("valid");
        let exhibitor =
            Exhibitor { hosts: vec!["a".into(), "b".into()], port: 8181, interval: Duration::from_secs(300) };
        assert_eq!((options.hosts, options.credentials.len()), (Hosts::Exhibitor(exhibitor), 1));
        for (section, key) in [
            (json!({"port": 1}), "hosts"),
            (json!({"hosts": ["a"]}), "port"),
            (json!({"hosts": ["a"], "port": 1, "poll_interval": 0}), "poll_interval"),
            (json!({"hosts": ["a"], "port": 1, "poll_interval": "often"}), "poll_interval"),
        ] {
            assert_eq!(read(section.clone()).err().map(|error| error.key), Some(key), "{section}");
        }
    }
}
