//! The sections `etcd` and `etcd3` of the configuration: their settings are the same.

use patroni_core::JsonMap;

use crate::section::{Section, SectionError, host_port, url};

/// How etcd is reached.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Endpoints with scheme, such as `http://10.0.0.1:2379`. Empty only with `srv`.
    pub endpoints: Vec<String>,
    /// The domain whose SRV records name the endpoints (`srv`, `discovery_srv`, `srv_domain`).
    pub srv: Option<String>,
    /// `srv_suffix`.
    pub srv_suffix: Option<String>,
    /// The endpoints are proxies: the members of etcd are not asked for, and not connected to.
    pub use_proxies: bool,
    /// `cacert`: path of the authorities that sign the servers' certificates; without it those of the system.
    pub cacert: Option<String>,
    /// `cert`: path of the client certificate.
    pub cert: Option<String>,
    /// `key`: path of the key of the client certificate; without it the key is in the file of the certificate.
    pub key: Option<String>,
    /// `username` and `password`.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for EtcdOptions {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("srv", &self.srv)
            .field("srv_suffix", &self.srv_suffix)
            .field("use_proxies", &self.use_proxies)
            .field("cacert", &self.cacert)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("username", &self.credentials.as_ref().map(|(name, _)| name))
            .finish()
    }
}

const DEFAULT_PORT: u16 = 2379;

impl EtcdOptions {
    /// Reads the section `etcd` or `etcd3`, called `name`. As the reference: `proxy` beats `url`, this beats `hosts`, this beats
    /// `host`; `srv` beats `hosts` and `host` but not the former two.
    ///
    /// # Errors
    /// A setting cannot be used, or none says where etcd is.
    pub fn from_json(name: &'static str, section: &JsonMap) -> Result<Self, SectionError> {
        let section = Section { name, map: section };
        let text = |key| section.text(key);
        let mut options = EtcdOptions {
            srv_suffix: text("srv_suffix")?,
            use_proxies: section.flag("use_proxies").unwrap_or(false),
            cacert: text("cacert")?.or(text("ca_cert")?),
            cert: text("cert")?,
            key: text("key")?,
            credentials: text("username")?.zip(text("password")?),
            ..EtcdOptions::default()
        };
        let protocol = section.protocol("protocol")?;
        let port = section.port("port")?.unwrap_or(DEFAULT_PORT);
        let proxy = section.url("proxy", DEFAULT_PORT)?;
        options.use_proxies |= proxy.is_some();
        if let Some(given) = proxy.map_or_else(|| section.url("url", DEFAULT_PORT), |proxy| Ok(Some(proxy)))? {
            options.endpoints = vec![url(given.protocol, (given.host, given.port))];
            options.credentials = given.credentials.or(options.credentials);
        } else {
            options.srv = text("srv")?.or(text("discovery_srv")?).or(text("srv_domain")?);
            let hosts = section.texts("hosts")?;
            let hosts = if hosts.is_empty() { text("host")?.into_iter().collect() } else { hosts };
            for host in hosts {
                options.endpoints.push(endpoint(section, protocol, &host, port)?);
            }
        }
        if options.endpoints.is_empty() && options.srv.is_none() {
            return Err(section.error(
                "hosts",
                "Neither srv, hosts, host nor url are defined in etcd section of config",
                "name at least one endpoint, such as hosts: 10.0.0.1:2379,10.0.0.2:2379",
            ));
        }
        if options.key.is_some() && options.cert.is_none() {
            let remedy = "name the client certificate in cert, or remove the key";
            return Err(section.error("key", "is given without cert", remedy));
        }
        Ok(options)
    }

    /// What says where etcd is.
    pub(crate) fn place(&self) -> (&[String], Option<&str>, Option<&str>, bool) {
        (&self.endpoints, self.srv.as_deref(), self.srv_suffix.as_deref(), self.use_proxies)
    }

    /// Other credentials and certificates; the addresses stay, since others could be those of another etcd.
    pub(crate) fn at_the_place_of(self, old: &EtcdOptions) -> EtcdOptions {
        EtcdOptions {
            endpoints: old.endpoints.clone(),
            srv: old.srv.clone(),
            srv_suffix: old.srv_suffix.clone(),
            use_proxies: old.use_proxies,
            ..self
        }
    }
}

/// `host`, `host:port`, `[::1]:port`, with or without a scheme of its own.
fn endpoint(section: Section<'_>, protocol: &str, host: &str, default_port: u16) -> Result<String, SectionError> {
    let error = |problem: String| section.error("hosts", problem, "write host:port");
    let (protocol, host) = match host.split_once("://") {
        Some((scheme @ ("http" | "https"), host)) => (scheme, host.trim_end_matches('/')),
        Some((scheme, _)) => return Err(error(format!("{scheme:?} is no scheme of etcd"))),
        None => (protocol, host),
    };
    Ok(url(protocol, host_port(host, default_port).map_err(error)?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(section: Value) -> Result<EtcdOptions, SectionError> {
        match section {
            Value::Object(map) => EtcdOptions::from_json("etcd", &map),
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn endpoints_in_all_forms() {
        for (section, endpoints) in [
            (json!({"hosts": "a:1, b ,[::1]:3"}), vec!["http://a:1", "http://b:2379", "http://[::1]:3"]),
            (json!({"hosts": ["a:1", "b"], "protocol": "https", "port": "99"}), vec!["https://a:1", "https://b:99"]),
            (json!({"host": "a"}), vec!["http://a:2379"]),
            (json!({"host": "a", "port": 99}), vec!["http://a:99"]),
            (json!({"host": "::1"}), vec!["http://[::1]:2379"]),
            (json!({"url": "https://u:p@a:1/x", "hosts": "b"}), vec!["https://a:1"]),
            (json!({"proxy": "http://a", "url": "http://b"}), vec!["http://a:2379"]),
            (json!({"hosts": "https://a:1"}), vec!["https://a:1"]),
            (json!({"srv": "example.org"}), vec![]),
        ] {
            assert_eq!(
                read(section.clone()).map(|options| options.endpoints),
                Ok(endpoints.iter().map(|&e| e.to_owned()).collect()),
                "{section}"
            );
        }
        let url = read(json!({"url": "https://u:p@a:1"})).expect("valid");
        assert_eq!(url.credentials, Some(("u".into(), "p".into())));
        assert!(read(json!({"proxy": "http://a"})).expect("valid").use_proxies);
        assert!(read(json!({"host": "a", "use_proxies": "on"})).expect("valid").use_proxies);
        assert!(!format!("{url:?}").contains("\"p\""), "the password is shown");
    }

    #[test]
    fn errors_name_key_and_remedy() {
        for (section, key) in [
            (json!({}), "hosts"),
            (json!({"hosts": 5}), "hosts"),
            (json!({"hosts": ["a:x"]}), "hosts"),
            (json!({"hosts": "a", "protocol": "ftp"}), "protocol"),
            (json!({"url": "a:1"}), "url"),
            (json!({"host": "a", "port": 70000}), "port"),
            (json!({"host": "a", "key": "k"}), "key"),
            (json!({"host": ["a"]}), "host"),
        ] {
            let error = read(section.clone()).expect_err("a bad section was accepted");
            assert_eq!(error.key, key, "{section}: {error}");
            assert!(!error.remedy.is_empty());
        }
    }
}
