//! The address of a store on the command line: `etcd3://HOST:PORT/NAMESPACE`, `raft://HOST:PORT,HOST:PORT`.

use patroni_config::stores::USUAL;
use patroni_config::{STORES, Store};
use patroni_core::JsonMap;

use crate::error::{CtlError, failed};

/// A store.
#[derive(Clone, Debug)]
pub(crate) struct DcsUrl {
    store: &'static Store,
    /// Each with its port.
    addresses: Vec<(String, u16)>,
    /// The namespace, if the address names one.
    pub(crate) namespace: Option<String>,
}

impl DcsUrl {
    /// The section of the configuration that it stands for.
    pub(crate) fn section(&self, configuration: &JsonMap) -> JsonMap {
        let section = self.store.section(&self.addresses, configuration);
        [(self.store.name.to_owned(), section)].into_iter().collect()
    }
}

/// Reads an address; host, port and namespace may be missing, several hosts have commas between them.
pub(crate) fn parse(url: &str) -> Result<DcsUrl, CtlError> {
    let (scheme, rest) = match url.split_once("//") {
        Some((scheme, rest)) => (scheme.trim_end_matches(':').to_lowercase(), rest),
        None => (String::new(), url),
    };
    // As in any address: what follows is no part of the path, and means nothing here.
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let mut hosts = Vec::new();
    for address in authority.split(',') {
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (address, None),
        };
        let port = match port.filter(|port| !port.is_empty()).map(str::parse::<u16>) {
            // 0 is the usual port, as with 4.1.5.
            None | Some(Ok(0)) => None,
            Some(Ok(port)) => Some(port),
            Some(Err(_)) => {
                return failed(format!("{url} is not an address of a store: a port is a number up to 65535"));
            }
        };
        hosts.push((if host.is_empty() { "localhost".to_owned() } else { host.to_lowercase() }, port));
    }
    let port = hosts.first().and_then(|(_, port)| *port);
    let found = match scheme.as_str() {
        "" => {
            let usual = || STORES.iter().find(|store| store.kind == USUAL);
            STORES.iter().find(|store| port.is_some() && store.port == port).or_else(usual)
        }
        name => Store::named(name),
    };
    let Some((store, usual_port)) = found.and_then(|store| Some((store, store.port?))) else {
        return failed(format!("Unknown dcs scheme: {scheme}"));
    };
    let path = path.trim();
    Ok(DcsUrl {
        store,
        addresses: hosts.into_iter().map(|(host, port)| (host, port.unwrap_or(usual_port))).collect(),
        namespace: (!path.is_empty() && path != "/").then(|| path.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn addresses() {
        let rows = [
            ("", "etcd", "localhost:2379", None),
            ("etcd://:2399", "etcd", "localhost:2399", None),
            ("etcd3://Random.com:2399/custom", "etcd3", "random.com:2399", Some("/custom")),
            ("host:8500", "consul", "host:8500", None),
            ("zookeeper://a,b", "zookeeper", "a:2181 b:2181", None),
            ("//h:8181", "exhibitor", "h:8181", None),
            ("etcd3://[::1]:23/", "etcd3", "[::1]:23", None),
            ("etcd3://[::1]", "etcd3", "[::1]:2379", None),
            ("etcd3://a,B:1/n", "etcd3", "a:2379 b:1", Some("/n")),
            ("etcd3://a:0", "etcd3", "a:2379", None),
            ("etcd3://a:1?x=/y", "etcd3", "a:1", None),
            ("etcd3://a:1/n?x=y#z", "etcd3", "a:1", Some("/n")),
            ("raft://db1", "raft", "db1:9008", None),
            ("raft://db1,db2:7000,[::1]:1/custom", "raft", "db1:9008 db2:7000 [::1]:1", Some("/custom")),
        ];
        for (url, store, hosts, namespace) in rows {
            let parsed = parse(url).expect(url);
            let addresses: Vec<String> = parsed.addresses.iter().map(|(host, port)| format!("{host}:{port}")).collect();
            assert_eq!((parsed.store.name, addresses.join(" ").as_str()), (store, hosts), "{url}");
            assert_eq!(parsed.namespace.as_deref(), namespace, "{url}");
        }
        assert_eq!(parse("foo://x").map(|_| ()).map_err(|e| e.to_string()), Err("Unknown dcs scheme: foo".to_owned()));
        assert!(parse("etcd3://x:y").is_err() && parse("raft://x,z:y").is_err());
        let error = parse("etcd3://a:99999").map_err(|e| e.to_string()).unwrap_err();
        assert!(error.ends_with("a port is a number up to 65535"), "{error}");
    }

    #[test]
    fn the_section_of_an_address() {
        let Value::Object(configured) = json!({
            "etcd3": {"host": "old", "username": "u"},
            "raft": {"self_addr": "db9:1", "bind_addr": "x:1", "partner_addrs": ["db8:1"], "password": "p", "cacert": "ca"},
        }) else {
            panic!("an object")
        };
        for (url, expected) in [
            ("etcd3://a", json!({"etcd3": {"host": "a:2379"}})),
            ("consul://a/n", json!({"consul": {"host": "a:8500"}})),
            ("exhibitor://a,b", json!({"exhibitor": {"hosts": ["a", "b"], "port": 8181}})),
            ("zookeeper://a,b:1", json!({"zookeeper": {"hosts": ["a:2181", "b:1"]}})),
            ("etcd3://a,b", json!({"etcd3": {"hosts": ["a:2379", "b:2379"]}})),
            ("raft://a,b:1", json!({"raft": {"partner_addrs": ["a:9008", "b:1"], "password": "p", "cacert": "ca"}})),
        ] {
            assert_eq!(Value::Object(parse(url).expect(url).section(&configured)), expected, "{url}");
        }
    }
}
