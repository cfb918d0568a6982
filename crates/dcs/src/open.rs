//! Choosing the store by the section of the configuration, and opening it: the column of the table of stores that needs the
//! stores themselves.

use std::sync::Arc;

use patroni_config::{Store, StoreKind};
use patroni_core::JsonMap;
use patroni_core::name::MemberName;
use serde_json::Value;

use crate::raft::{Raft, RaftClient, RaftNode, RaftOptions, RaftOptionsError, StartError, TransportError};
#[cfg(any(feature = "consul", feature = "etcd", feature = "kubernetes", feature = "zookeeper"))]
use crate::section::SectionError;
use crate::wire::ClusterPath;
use crate::{Dcs, Timing};

/// No store can be chosen, or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No section names a store, and the address of the embedded one does not follow from the rest.
    #[error(
        "Can not find suitable configuration of distributed configuration store\nAvailable implementations: {list}; add a section such as\netcd3:\n  hosts: 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379",
        list = available()
    )]
    Missing,
    /// A store that is not supported, or that this program was built without.
    #[error("the store {0} is not supported; supported are: {list}", list = available())]
    Unsupported(&'static str),
    /// Another store, while one is in use.
    #[error("the configuration names another store; it takes effect when the agent is started again")]
    Replaced,
    /// The section is not a mapping.
    #[error("the section {0} is not a mapping; write its settings below it")]
    NotAMapping(&'static str),
    /// The section has an error.
    #[cfg(any(feature = "consul", feature = "etcd", feature = "kubernetes", feature = "zookeeper"))]
    #[error(transparent)]
    Section(#[from] SectionError),
    /// The section has an error.
    #[error(transparent)]
    RaftOptions(#[from] RaftOptionsError),
    /// The certificates of the embedded store cannot be used.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The embedded store cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Whether this program can open it.
fn is_available(kind: StoreKind) -> bool {
    match kind {
        StoreKind::Raft => true,
        StoreKind::Consul => cfg!(feature = "consul"),
        StoreKind::Etcd => cfg!(feature = "etcd"),
        StoreKind::Etcd3 => cfg!(feature = "etcd3"),
        StoreKind::Exhibitor | StoreKind::ZooKeeper => cfg!(feature = "zookeeper"),
        StoreKind::Kubernetes => cfg!(feature = "kubernetes"),
    }
}

fn available() -> String {
    let names = patroni_config::STORES.iter().filter(|store| is_available(store.kind)).map(|store| store.name);
    names.collect::<Vec<_>>().join(", ")
}

/// Who asks for a handle.
enum Purpose {
    /// An agent: if it is to be a member of the embedded store, it is one as long as the handle lives.
    Agent,
    /// Somebody who reads, and writes [`crate::Key`]s.
    Visitor,
}

/// Opens the store that the configuration names in one of its sections; without any, the embedded store. Does not wait
/// for the store to be up. `name` may be any text for a handle that only reads or writes [`crate::Key`]s.
///
/// # Errors
/// There is no store, or its section has an error.
pub fn open(
    configuration: &JsonMap,
    path: &ClusterPath,
    name: MemberName,
    timing: Timing,
) -> Result<Arc<dyn Dcs>, OpenError> {
    open_for(&Purpose::Visitor, configuration, path, name, timing)
}

/// The same for an agent: if it is to be a member of the embedded store, it is one as long as the handle lives.
///
/// # Errors
/// As [`open`], and the node of the embedded store cannot start.
pub fn open_for_agent(
    configuration: &JsonMap,
    path: &ClusterPath,
    name: MemberName,
    timing: Timing,
) -> Result<Arc<dyn Dcs>, OpenError> {
    open_for(&Purpose::Agent, configuration, path, name, timing)
}

fn open_for(
    purpose: &Purpose,
    configuration: &JsonMap,
    path: &ClusterPath,
    name: MemberName,
    timing: Timing,
) -> Result<Arc<dyn Dcs>, OpenError> {
    let kind = chosen(configuration)?.map_or(StoreKind::Raft, |(store, _)| store.kind);
    match kind {
        #[cfg(feature = "consul")]
        StoreKind::Consul => {
            let mut options = consul_options(configuration)?;
            if let Purpose::Visitor = purpose {
                // Whoever decides by one look wants to see the last word, as with 4.1.5.
                options.consistency = crate::consul::Consistency::Consistent;
            }
            Ok(crate::consul::connect(options, path, name, timing))
        }
        #[cfg(feature = "etcd")]
        StoreKind::Etcd => Ok(crate::etcd::connect(etcd_options(configuration)?, path, name, timing)),
        #[cfg(feature = "etcd3")]
        StoreKind::Etcd3 => Ok(crate::etcd3::Etcd3::connect(etcd3_options(configuration)?, path, name, timing)),
        #[cfg(feature = "kubernetes")]
        StoreKind::Kubernetes => {
            let mut options = kubernetes_options(configuration)?;
            // As with 4.1.5, whoever asks a few times asks at the one address.
            options.bypass_api_service &= matches!(purpose, Purpose::Agent);
            Ok(crate::kubernetes::connect(options, path, name, timing))
        }
        #[cfg(feature = "zookeeper")]
        StoreKind::Exhibitor | StoreKind::ZooKeeper => {
            Ok(crate::zookeeper::connect(zookeeper_options(configuration)?, path, name, timing))
        }
        // What is not available was refused.
        _ => {
            let options = embedded_options(configuration)?;
            let is_member = matches!(purpose, Purpose::Agent) && options.self_addr.is_some();
            let node = is_member.then(|| RaftNode::start(options.clone())).transpose()?;
            Ok(Raft::open(RaftClient::new(&options, node)?, path, name, timing))
        }
    }
}

/// Reads the section of the store that the configuration names, without opening anything. What the embedded store says of its section is
/// not asked here: [`RaftOptions::from_json`] does that.
///
/// # Errors
/// The store is not supported, or its section has an error.
pub fn check(configuration: &JsonMap) -> Result<(), OpenError> {
    match chosen(configuration)?.map_or(StoreKind::Raft, |(store, _)| store.kind) {
        #[cfg(feature = "consul")]
        StoreKind::Consul => consul_options(configuration).map(drop),
        #[cfg(feature = "etcd")]
        StoreKind::Etcd => etcd_options(configuration).map(drop),
        #[cfg(feature = "etcd3")]
        StoreKind::Etcd3 => etcd3_options(configuration).map(drop),
        #[cfg(feature = "kubernetes")]
        StoreKind::Kubernetes => kubernetes_options(configuration).map(drop),
        #[cfg(feature = "zookeeper")]
        StoreKind::Exhibitor | StoreKind::ZooKeeper => zookeeper_options(configuration).map(drop),
        _ => Ok(()),
    }
}

/// The store whose section is there, with that; `None`: no section, so the embedded store.
fn chosen(configuration: &JsonMap) -> Result<Option<(&'static Store, &JsonMap)>, OpenError> {
    match Store::configured(configuration) {
        None => Ok(None),
        Some((store, _)) if !is_available(store.kind) => Err(OpenError::Unsupported(store.name)),
        Some((store, Value::Object(section))) => Ok(Some((store, section))),
        Some((store, _)) => Err(OpenError::NotAMapping(store.name)),
    }
}

fn embedded_options(configuration: &JsonMap) -> Result<RaftOptions, OpenError> {
    RaftOptions::from_json(configuration).map_err(|error| match error.key {
        "self_addr" if configuration.get("raft").is_none_or(Value::is_null) => OpenError::Missing,
        _ => error.into(),
    })
}

/// The section of the embedded store, for one that is open already.
pub(crate) fn raft_options(configuration: &JsonMap) -> Result<RaftOptions, OpenError> {
    match chosen(configuration)? {
        Some((store, _)) if store.kind != StoreKind::Raft => Err(OpenError::Replaced),
        Some(_) | None => embedded_options(configuration),
    }
}

/// The section of a store that is open already.
#[cfg(any(feature = "consul", feature = "etcd", feature = "etcd3", feature = "kubernetes"))]
fn section_of(kind: StoreKind, configuration: &JsonMap) -> Result<(&'static str, &JsonMap), OpenError> {
    match chosen(configuration)? {
        Some((store, section)) if store.kind == kind => Ok((store.name, section)),
        Some(_) | None => Err(OpenError::Replaced),
    }
}

/// What the configuration says of Consul.
#[cfg(feature = "consul")]
pub(crate) fn consul_options(configuration: &JsonMap) -> Result<crate::consul::ConsulOptions, OpenError> {
    let (_, section) = section_of(StoreKind::Consul, configuration)?;
    Ok(crate::consul::ConsulOptions::from_json(section)?)
}

/// What the configuration says of etcd, for version 2 of its API.
#[cfg(feature = "etcd")]
pub(crate) fn etcd_options(configuration: &JsonMap) -> Result<crate::etcd::EtcdOptions, OpenError> {
    let (name, section) = section_of(StoreKind::Etcd, configuration)?;
    Ok(crate::etcd::EtcdOptions::from_json(name, section)?)
}

/// What the configuration says of etcd, for version 3 of its API.
#[cfg(feature = "etcd3")]
pub(crate) fn etcd3_options(configuration: &JsonMap) -> Result<crate::etcd::EtcdOptions, OpenError> {
    let (name, section) = section_of(StoreKind::Etcd3, configuration)?;
    Ok(crate::etcd::EtcdOptions::from_json(name, section)?)
}

/// What the configuration says of Kubernetes.
#[cfg(feature = "kubernetes")]
pub(crate) fn kubernetes_options(configuration: &JsonMap) -> Result<crate::kubernetes::KubernetesOptions, OpenError> {
    let (_, section) = section_of(StoreKind::Kubernetes, configuration)?;
    Ok(crate::kubernetes::KubernetesOptions::from_json(section)?)
}

/// What the configuration says of ZooKeeper, or of who knows where it is.
#[cfg(feature = "zookeeper")]
pub(crate) fn zookeeper_options(configuration: &JsonMap) -> Result<crate::zookeeper::ZooKeeperOptions, OpenError> {
    use crate::zookeeper::ZooKeeperOptions;
    Ok(match chosen(configuration)? {
        Some((store, section)) if store.kind == StoreKind::ZooKeeper => ZooKeeperOptions::from_json(section)?,
        Some((store, section)) if store.kind == StoreKind::Exhibitor => ZooKeeperOptions::from_exhibitor(section)?,
        Some(_) | None => return Err(OpenError::Replaced),
    })
}

#[cfg(all(
    test,
    feature = "consul",
    feature = "etcd",
    feature = "etcd3",
    feature = "kubernetes",
    feature = "zookeeper"
))]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_section_chooses_the_store() {
        let second = Duration::from_secs(1);
        let timing = Timing { ttl: second, loop_wait: second, retry_timeout: second };
        let path = ClusterPath { namespace: "service".into(), scope: "s".into() };
        let error = |configuration: Value| {
            let Value::Object(configuration) = configuration else { panic!("not an object") };
            open(&configuration, &path, "a".into(), timing).err().map(|error| error.to_string())
        };
        assert_eq!(error(json!({"etcd3": {"host": "a"}, "etcd": {"host": "b"}})), None);
        assert_eq!(error(json!({"etcd": {"host": "a"}})), None);
        assert_eq!(error(json!({"consul": {}})), None);
        assert_eq!(error(json!({"zookeeper": {"hosts": "a,b:1/x"}})), None);
        assert_eq!(error(json!({"exhibitor": {"hosts": ["a"], "port": 1}, "zookeeper": {}})), None, "the first one");
        assert_eq!(error(json!({"raft": {"partner_addrs": ["127.0.0.1:1"]}})), None);
        assert_eq!(error(json!({"restapi": {"connect_address": "127.0.0.1:8008"}})), None, "the embedded store");
        for (configuration, part) in [
            (json!({}), "Available implementations: consul, etcd, etcd3, exhibitor, kubernetes, raft, zookeeper"),
            (json!({"etcd3": null}), "Available implementations: consul, etcd"),
            (json!({"kubernetes": {"labels": {}, "context": "none"}}), "kubernetes.context: "),
            (json!({"consul": {"host": "a:x"}}), "consul.host: \"x\" in \"a:x\" is not a port"),
            (json!({"etcd": {"key": "x", "host": "a"}}), "etcd.key: is given without cert"),
            (json!({"zookeeper": {"hosts": []}}), "zookeeper.hosts: names no server; write host:port"),
            (json!({"exhibitor": {"hosts": ["a"]}}), "exhibitor.port: is missing"),
            (json!({"etcd3": []}), "is not a mapping"),
            (json!({"raft": []}), "is not a mapping"),
            (json!({"restapi": {"connect_address": "10.0.0.1:8008"}}), "raft.password: without a password"),
            (json!({"etcd3": {}}), "Neither srv, hosts, host nor url are defined"),
        ] {
            let text = error(configuration.clone()).unwrap_or_default();
            assert!(text.contains(part), "{configuration}: {text}");
        }
    }
}
