//! The table of stores: all that is to be known of a store without talking to it. Whoever needs to know which stores there are,
//! what their sections look like and how their addresses are written asks here; the crate of stores adds how each is opened.

use patroni_core::JsonMap;
use serde_json::{Value, json};

use crate::validate::{Rule, schema};

/// A store that Patroni knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreKind {
    /// Consul.
    Consul,
    /// Version 2 of etcd's API.
    Etcd,
    /// Version 3 of etcd's API.
    Etcd3,
    /// ZooKeeper, whose hosts Exhibitor names.
    Exhibitor,
    /// The API of Kubernetes.
    Kubernetes,
    /// The store that agents keep themselves.
    Raft,
    /// ZooKeeper.
    ZooKeeper,
}

/// A row of the table.
pub struct Store {
    /// Which one.
    pub kind: StoreKind,
    /// The name of its section, and of its addresses (`NAME://HOST:PORT`).
    pub name: &'static str,
    /// The port of an address without one; `None`: it has no addresses.
    pub port: Option<u16>,
    /// The section that stands for addresses, each a host and its port.
    section: fn(&[(String, u16)]) -> Value,
    /// Settings of the configured section that an address does not replace.
    kept: &'static [&'static str],
    /// The settings of its section; empty: it may hold any.
    pub(crate) settings: &'static [&'static str],
    /// Whether `PATRONI_<NAME>_USERNAME` and `_PASSWORD` belong to it.
    pub(crate) has_user: bool,
    /// What the validator asks of its section.
    pub(crate) rule: Rule,
}

/// All stores, in the order in which 4.1.5 looks for their sections: the first one that is there is taken.
pub const STORES: &[Store] = &[
    Store {
        kind: StoreKind::Consul,
        name: "consul",
        port: Some(8500),
        section: host_or_hosts,
        kept: &[],
        settings: &[],
        has_user: false,
        rule: schema::CONSUL,
    },
    Store {
        kind: StoreKind::Etcd,
        name: "etcd",
        port: Some(2379),
        section: host_or_hosts,
        kept: &[],
        settings: ETCD,
        has_user: true,
        rule: schema::ETCD,
    },
    Store {
        kind: StoreKind::Etcd3,
        name: "etcd3",
        port: Some(2379),
        section: host_or_hosts,
        kept: &[],
        settings: ETCD,
        has_user: true,
        rule: schema::ETCD,
    },
    Store {
        kind: StoreKind::Exhibitor,
        name: "exhibitor",
        port: Some(8181),
        section: |addresses| {
            let hosts: Vec<&str> = addresses.iter().map(|(host, _)| host.as_str()).collect();
            json!({"hosts": hosts, "port": addresses.first().map(|(_, port)| port)})
        },
        kept: &[],
        settings: &[],
        has_user: false,
        rule: schema::EXHIBITOR,
    },
    Store {
        kind: StoreKind::Kubernetes,
        name: "kubernetes",
        port: None,
        section: host_or_hosts,
        kept: &[],
        settings: &[],
        has_user: false,
        rule: schema::KUBERNETES,
    },
    Store {
        kind: StoreKind::Raft,
        name: "raft",
        port: Some(9008),
        section: |addresses| json!({"partner_addrs": texts(addresses)}),
        // They prove that one may talk to the members, whatever their addresses are.
        kept: &["password", "cert", "key", "key_password", "cacert"],
        settings: &[],
        has_user: false,
        rule: schema::RAFT,
    },
    Store {
        kind: StoreKind::ZooKeeper,
        name: "zookeeper",
        port: Some(2181),
        section: |addresses| json!({"hosts": texts(addresses)}),
        kept: &[],
        settings: &[],
        has_user: false,
        rule: schema::ZOOKEEPER,
    },
];

/// The store of an address that names neither a store nor the usual port of one, as with 4.1.5.
pub const USUAL: StoreKind = StoreKind::Etcd;

const ETCD: &[&str] = &[
    "host",
    "hosts",
    "port",
    "use_proxies",
    "url",
    "proxy",
    "srv",
    "srv_suffix",
    "discovery_srv",
    "srv_domain",
    "protocol",
    "username",
    "password",
    "cacert",
    "cert",
    "key",
    "version_prefix",
];

impl Store {
    /// The store whose section is called so.
    pub fn named(name: &str) -> Option<&'static Store> {
        STORES.iter().find(|store| store.name == name)
    }

    /// The first store that has a section in this configuration, and what that says. An empty section is one, null is none.
    pub fn configured(configuration: &JsonMap) -> Option<(&'static Store, &Value)> {
        STORES.iter().find_map(|store| {
            let section = configuration.get(store.name).filter(|section| !section.is_null())?;
            Some((store, section))
        })
    }

    /// The section that stands for these addresses. Passwords are in no address: what of the configured section proves who one
    /// is stays.
    pub fn section(&self, addresses: &[(String, u16)], configuration: &JsonMap) -> Value {
        let mut section = (self.section)(addresses);
        let configured = configuration.get(self.name).and_then(Value::as_object);
        if let (Value::Object(section), Some(configured)) = (&mut section, configured) {
            let kept = self.kept.iter().filter_map(|key| Some(((*key).to_owned(), configured.get(*key)?.clone())));
            section.extend(kept);
        }
        section
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

fn host_or_hosts(addresses: &[(String, u16)]) -> Value {
    match texts(addresses).as_slice() {
        [host] => json!({"host": host}),
        hosts => json!({"hosts": hosts}),
    }
}

fn texts(addresses: &[(String, u16)]) -> Vec<String> {
    addresses.iter().map(|(host, port)| format!("{host}:{port}")).collect()
}
