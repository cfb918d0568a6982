//! The section `consul` of the configuration.

use std::str::FromStr;

use patroni_core::JsonMap;
use patroni_http::{ClientOptions, HeaderName, HeaderValue, TlsFiles};

use crate::section::{Section, SectionError, Url, host_port, url};

/// How Consul is reached, and what it is told of this member.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConsulOptions {
    /// The address of the agent with scheme, such as `http://127.0.0.1:8500`.
    pub address: String,
    /// `token`: sent with each request.
    pub token: Option<String>,
    /// `dc`: the datacenter; without it that of the agent.
    pub dc: Option<String>,
    /// `consistency`: how the cluster is read.
    pub consistency: Consistency,
    /// `verify: false`: the certificate of the agent is not verified, unless there is a `cacert`.
    pub unverified: bool,
    /// `cacert`: path of the authorities that sign the agent's certificate; without it those of the system.
    pub cacert: Option<String>,
    /// `cert` and `key`: the certificate that is shown.
    pub identity: Option<TlsFiles>,
    /// `checks`: what of the node has to be healthy for the session to last. Usually nothing: not even `serfHealth`.
    pub checks: Vec<String>,
    /// `register_service` and what belongs to it; `None`: this member is no service.
    pub service: Option<ServiceOptions>,
}

/// How this member is registered as a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// `service_tags`, beside the role.
    pub tags: Vec<String>,
    /// `service_check_interval`.
    pub check_interval: String,
    /// `service_check_tls_server_name`.
    pub tls_server_name: Option<String>,
}

/// `consistency`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// What Consul's leader knows, without asking the others whether it still leads.
    #[default]
    Default,
    /// What Consul's leader knows after it asked the others.
    Consistent,
    /// What any server knows, however old.
    Stale,
}

impl std::fmt::Debug for ConsulOptions {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsulOptions")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("dc", &self.dc)
            .field("consistency", &self.consistency)
            .field("checks", &self.checks)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

const DEFAULT_PORT: u16 = 8500;

impl ConsulOptions {
    /// Reads the section. As the reference: `url` beats `host`, and both are optional.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn from_json(map: &JsonMap) -> Result<Self, SectionError> {
        let section = Section { name: "consul", map };
        let cert = section.text("cert")?;
        let keyfile = section.text("key")?;
        if keyfile.is_some() && cert.is_none() {
            return Err(section.error(
                "key",
                "is given without cert",
                "name the client certificate in cert, or remove the key",
            ));
        }
        let identity = cert.map(|certfile| TlsFiles { certfile, keyfile, keyfile_password: None });
        let cacert = section.text("cacert")?.or(section.text("ca_cert")?);
        let token = section.text("token")?;
        if token.as_ref().is_some_and(|token| HeaderValue::from_str(token).is_err()) {
            return Err(section.error(
                "token",
                "holds characters that cannot be sent",
                "write the token as Consul shows it",
            ));
        }
        Ok(ConsulOptions {
            address: address(section)?,
            token,
            dc: section.text("dc")?,
            consistency: consistency(section)?,
            unverified: section.flag("verify") == Some(false) && cacert.is_none(),
            cacert,
            identity,
            checks: section.texts("checks")?,
            service: match section.flag("register_service") {
                Some(true) => Some(service(section)?),
                Some(false) | None => None,
            },
        })
    }

    /// How requests are made.
    pub(super) fn client_options(&self) -> ClientOptions {
        ClientOptions {
            cacert: self.cacert.clone(),
            identity: self.identity.clone(),
            unverified: self.unverified,
            ..ClientOptions::default()
        }
    }

    /// The header with the token.
    pub(super) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let header = |token: &String| {
            let mut value = HeaderValue::from_str(token).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_str("x-consul-token").ok()?, value))
        };
        self.token.iter().filter_map(header).collect()
    }
}

fn address(section: Section<'_>) -> Result<String, SectionError> {
    if let Some(Url { protocol, host, port, .. }) = section.url("url", DEFAULT_PORT)? {
        return Ok(url(protocol, (host, port)));
    }
    let host = section.text("host")?.unwrap_or_else(|| "127.0.0.1".to_owned());
    let (host, of_host) = host_port(&host, DEFAULT_PORT)
        .map_err(|problem| section.error("host", problem, "write host:port, such as 127.0.0.1:8500"))?;
    Ok(url(section.protocol("scheme")?, (host, section.port("port")?.unwrap_or(of_host))))
}

fn consistency(section: Section<'_>) -> Result<Consistency, SectionError> {
    match section.text("consistency")?.as_deref() {
        None | Some("default") => Ok(Consistency::Default),
        Some("consistent") => Ok(Consistency::Consistent),
        Some("stale") => Ok(Consistency::Stale),
        Some(other) => {
            let problem = format!("{other:?} is not known");
            Err(section.error("consistency", problem, "use default, consistent or stale"))
        }
    }
}

fn service(section: Section<'_>) -> Result<ServiceOptions, SectionError> {
    let mut tags = section.texts("service_tags")?;
    tags.sort();
    Ok(ServiceOptions {
        tags,
        check_interval: section.text("service_check_interval")?.unwrap_or_else(|| "5s".to_owned()),
        tls_server_name: section.text("service_check_tls_server_name")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(section: Value) -> Result<ConsulOptions, SectionError> {
        match section {
            Value::Object(map) => ConsulOptions::from_json(&map),
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn addresses_in_all_forms() {
        for (section, address) in [
            (json!({}), "http://127.0.0.1:8500"),
            (json!({"host": "a"}), "http://a:8500"),
            (json!({"host": "a:1"}), "http://a:1"),
            (json!({"host": "a:1", "port": "2"}), "http://a:2"),
            (json!({"host": "::1", "scheme": "https"}), "https://[::1]:8500"),
            (json!({"url": "https://a/x", "host": "b"}), "https://a:8500"),
        ] {
            assert_eq!(read(section.clone()).map(|options| options.address), Ok(address.to_owned()), "{section}");
        }
    }

    #[test]
    fn the_rest_of_the_section() {
        let section = json!({"token": "t", "dc": "d", "consistency": "stale", "verify": "off", "checks": ["x"],
            "register_service": true, "service_tags": ["b", "a"], "service_check_interval": "7s"});
        let options = read(section).expect("valid");
        assert!(options.unverified && options.consistency == Consistency::Stale && options.checks == ["x"]);
        let service = options.service.clone().expect("a service");
        assert_eq!((service.tags.join(","), service.check_interval.as_str()), ("a,b".to_owned(), "7s"));
        assert!(!format!("{options:?}").contains("\"t\""), "the token is shown");
        assert!(!read(json!({"verify": false, "cacert": "c"})).expect("valid").unverified, "as 4.1.5");
        for (section, key) in [
            (json!({"consistency": "eventual"}), "consistency"),
            (json!({"key": "k"}), "key"),
            (json!({"host": "a:x"}), "host"),
            (json!({"scheme": "ftp"}), "scheme"),
            (json!({"token": "a\nb"}), "token"),
        ] {
            assert_eq!(read(section.clone()).expect_err("was accepted").key, key, "{section}");
        }
    }
}
