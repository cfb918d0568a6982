//! The section `etcd3` of the configuration.

use patroni_core::JsonMap;
use serde_json::Value;

/// How etcd is reached.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Etcd3Options {
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

impl std::fmt::Debug for Etcd3Options {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd3Options")
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

/// A setting of the section that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("etcd3.{key}: {problem}; {remedy}")]
pub struct OptionsError {
    /// The key below `etcd3`.
    pub key: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

const DEFAULT_PORT: u16 = 2379;

impl Etcd3Options {
    /// Reads the section. As the reference: `proxy` beats `url`, this beats `hosts`, this beats `host`; `srv` beats
    /// `hosts` and `host` but not the former two.
    pub fn from_json(section: &JsonMap) -> Result<Self, OptionsError> {
        let text = |key| text(section, key);
        let mut options = Etcd3Options {
            srv_suffix: text("srv_suffix")?,
            use_proxies: section.get("use_proxies").is_some_and(enabled),
            cacert: text("cacert")?.or(text("ca_cert")?),
            cert: text("cert")?,
            key: text("key")?,
            credentials: text("username")?.zip(text("password")?),
            ..Etcd3Options::default()
        };
        let protocol = protocol(text("protocol")?)?;
        let port = port(section)?;
        if let Some(url) = text("proxy")? {
            options.use_proxies = true;
            options.set_url("proxy", &url)?;
        } else if let Some(url) = text("url")? {
            options.set_url("url", &url)?;
        } else {
            options.srv = text("srv")?.or(text("discovery_srv")?).or(text("srv_domain")?);
            let hosts = hosts(section)?;
            let hosts = if hosts.is_empty() { text("host")?.into_iter().collect() } else { hosts };
            for host in hosts {
                options.endpoints.push(endpoint(&protocol, &host, port.unwrap_or(DEFAULT_PORT))?);
            }
        }
        if options.endpoints.is_empty() && options.srv.is_none() {
            return Err(OptionsError {
                key: "hosts",
                problem: "Neither srv, hosts, host nor url are defined in etcd section of config".into(),
                remedy: "name at least one endpoint, such as hosts: 10.0.0.1:2379,10.0.0.2:2379",
            });
        }
        if options.key.is_some() && options.cert.is_none() {
            return Err(OptionsError {
                key: "key",
                problem: "is given without cert".into(),
                remedy: "name the client certificate in etcd3.cert, or remove the key",
            });
        }
        Ok(options)
    }

    /// What says where etcd is.
    pub(super) fn place(&self) -> (&[String], Option<&str>, Option<&str>, bool) {
        (&self.endpoints, self.srv.as_deref(), self.srv_suffix.as_deref(), self.use_proxies)
    }

    fn set_url(&mut self, key: &'static str, url: &str) -> Result<(), OptionsError> {
        let error =
            |problem: String| OptionsError { key, problem, remedy: "write http://host:port or https://host:port" };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| error(format!("{url:?} has no scheme")))?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        if let Some((name, password)) = user.and_then(|user| user.split_once(':')) {
            self.credentials = Some((name.to_owned(), password.to_owned()));
        }
        let scheme =
            protocol(Some(scheme.to_owned())).map_err(|_| error(format!("{scheme:?} is no scheme of etcd")))?;
        self.endpoints = vec![endpoint(&scheme, host, DEFAULT_PORT).map_err(|e| error(e.problem))?];
        Ok(())
    }
}

fn protocol(given: Option<String>) -> Result<String, OptionsError> {
    match given.as_deref().unwrap_or("http") {
        known @ ("http" | "https") => Ok(known.to_owned()),
        other => Err(OptionsError {
            key: "protocol",
            problem: format!("{other:?} is not known"),
            remedy: "use http or https",
        }),
    }
}

fn hosts(section: &JsonMap) -> Result<Vec<String>, OptionsError> {
    let error = |problem: String| OptionsError {
        key: "hosts",
        problem,
        remedy: "give a list of host:port, or one text with commas between them",
    };
    let listed = match section.get("hosts") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| error(format!("{item} is not a text"))))
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(error(format!("{other} is neither a list nor a text"))),
    };
    Ok(listed.iter().map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect())
}

/// `host`, `host:port`, `[::1]:port`, with or without a scheme of its own.
fn endpoint(protocol: &str, host: &str, default_port: u16) -> Result<String, OptionsError> {
    let error = |problem: String| OptionsError { key: "hosts", problem, remedy: "write host:port" };
    let (protocol, host) = match host.split_once("://") {
        Some((scheme @ ("http" | "https"), host)) => (scheme, host.trim_end_matches('/')),
        Some((scheme, _)) => return Err(error(format!("{scheme:?} is no scheme of etcd"))),
        None => (protocol, host),
    };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            (name, port.parse().map_err(|_| error(format!("{port:?} in {host:?} is not a port")))?)
        }
        Some(_) | None => (host, default_port),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(error(format!("{host:?} names no host")));
    }
    Ok(if name.contains(':') { format!("{protocol}://[{name}]:{port}") } else { format!("{protocol}://{name}:{port}") })
}

fn port(section: &JsonMap) -> Result<Option<u16>, OptionsError> {
    let value = match section.get("port") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(other) => other.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    value.map(Some).ok_or(OptionsError {
        key: "port",
        problem: "is not a port".into(),
        remedy: "use a number from 1 to 65535",
    })
}

fn text(section: &JsonMap, key: &'static str) -> Result<Option<String>, OptionsError> {
    match section.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        // A password of digits only is a number in YAML.
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Err(OptionsError { key, problem: "is not a text".into(), remedy: "write it as one text" })
        }
    }
}

fn enabled(value: &Value) -> bool {
    match value {
        Value::String(text) => patroni_core::tags::parse_bool(text).unwrap_or(false),
        other => patroni_core::tags::truthy(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(section: Value) -> Result<Etcd3Options, OptionsError> {
        match section {
            Value::Object(map) => Etcd3Options::from_json(&map),
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
