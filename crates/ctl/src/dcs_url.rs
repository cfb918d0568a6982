//! The address of a store on the command line: `etcd3://HOST:PORT/NAMESPACE`.

use patroni_core::JsonMap;
use serde_json::json;

use crate::error::{CtlError, failed};

/// Stores and their ports. The order decides which one a port alone stands for.
const PORTS: &[(&str, u16)] =
    &[("zookeeper", 2181), ("exhibitor", 8181), ("consul", 8500), ("etcd", 2379), ("etcd3", 2379)];

/// A store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DcsUrl {
    store: &'static str,
    host: String,
    port: u16,
    /// The namespace, if the address names one.
    pub(crate) namespace: Option<String>,
}

impl DcsUrl {
    /// The section of the configuration that it stands for.
    pub(crate) fn section(&self) -> JsonMap {
        let host = format!("{}:{}", self.host, self.port);
        [(self.store.to_owned(), json!({"host": host}))].into_iter().collect()
    }
}

/// Reads an address; host, port and namespace may be missing.
pub(crate) fn parse(url: &str) -> Result<DcsUrl, CtlError> {
    let (scheme, rest) = match url.split_once("//") {
        Some((scheme, rest)) => (scheme.trim_end_matches(':').to_lowercase(), rest),
        None => (String::new(), url),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    let port = match port.filter(|port| !port.is_empty()).map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(_)) => return failed(format!("{url} is not an address of a store: the port is not a number")),
    };
    let known = |name: &str| PORTS.iter().find(|(known, _)| *known == name);
    let found = match scheme.as_str() {
        "" => PORTS.iter().find(|(_, known)| Some(*known) == port).or_else(|| known("etcd")),
        name => known(name),
    };
    let Some((store, usual_port)) = found else { return failed(format!("Unknown dcs scheme: {scheme}")) };
    let path = path.trim();
    Ok(DcsUrl {
        store,
        host: if host.is_empty() { "localhost".to_owned() } else { host.to_lowercase() },
        port: port.unwrap_or(*usual_port),
        namespace: (!path.is_empty() && path != "/").then(|| path.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let rows = [
            ("", "etcd", "localhost", 2379, None),
            ("etcd://:2399", "etcd", "localhost", 2399, None),
            ("etcd3://Random.com:2399/custom", "etcd3", "random.com", 2399, Some("/custom")),
            ("host:8500", "consul", "host", 8500, None),
            ("etcd3://[::1]:23/", "etcd3", "[::1]", 23, None),
            ("etcd3://[::1]", "etcd3", "[::1]", 2379, None),
        ];
        for (url, store, host, port, namespace) in rows {
            let parsed = parse(url).expect(url);
            assert_eq!((parsed.store, parsed.host.as_str(), parsed.port), (store, host, port), "{url}");
            assert_eq!(parsed.namespace.as_deref(), namespace, "{url}");
        }
        assert_eq!(parse("foo://x").map_err(|e| e.to_string()), Err("Unknown dcs scheme: foo".to_owned()));
        assert!(parse("etcd3://x:y").is_err());
    }
}
