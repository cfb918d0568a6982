//! Choosing the backend by the section of the configuration.

use std::sync::Arc;

use patroni_core::JsonMap;
use patroni_core::name::MemberName;
use serde_json::Value;

use crate::etcd3::{Etcd3, Etcd3Options, OptionsError};
use crate::raft::{Raft, RaftClient, RaftNode, RaftOptions, RaftOptionsError, StartError, TransportError};
use crate::wire::ClusterPath;
use crate::{Dcs, Timing};

/// No store can be chosen, or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No section names a store, and the address of the embedded one does not follow from the rest.
    #[error(
        "Can not find suitable configuration of distributed configuration store\nAvailable implementations: etcd3, raft; add a section such as\netcd3:\n  hosts: 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379"
    )]
    Missing,
    /// The second version of etcd's API.
    #[error(
        "the section etcd speaks version 2 of etcd's API, which etcd itself has removed; rename the section to etcd3 (its keys stay the same; what is stored under version 2 is not carried over)"
    )]
    Etcd2,
    /// A store that is not supported.
    #[error("the store {0} is not supported; supported are: etcd3, raft")]
    Unsupported(&'static str),
    /// Another store, while one is in use.
    #[error("the configuration names another store; it takes effect when the agent is started again")]
    Replaced,
    /// The section is not a mapping.
    #[error("the section {0} is not a mapping; write its settings below it")]
    NotAMapping(&'static str),
    /// The section has an error.
    #[error(transparent)]
    Options(#[from] OptionsError),
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

const UNSUPPORTED: [&str; 4] = ["consul", "exhibitor", "kubernetes", "zookeeper"];

/// The store that the configuration chooses.
enum Chosen<'a> {
    Etcd3(&'a JsonMap),
    Raft(Box<RaftOptions>),
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
    open_with(configuration, path, name, timing, |_| Ok(None))
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
    open_with(configuration, path, name, timing, |options| {
        options.self_addr.is_some().then(|| RaftNode::start(options.clone())).transpose()
    })
}

/// `join`: makes this process a member of the embedded store, or not.
fn open_with(
    configuration: &JsonMap,
    path: &ClusterPath,
    name: MemberName,
    timing: Timing,
    join: impl FnOnce(&RaftOptions) -> Result<Option<Arc<RaftNode>>, StartError>,
) -> Result<Arc<dyn Dcs>, OpenError> {
    match choose(configuration)? {
        Chosen::Etcd3(section) => Ok(Etcd3::connect(Etcd3Options::from_json(section)?, path, name, timing)),
        Chosen::Raft(options) => {
            let node = join(&options)?;
            Ok(Raft::open(RaftClient::new(&options, node)?, path, name, timing))
        }
    }
}

/// The section of the embedded store, for one that is open already.
pub(crate) fn raft_options(configuration: &JsonMap) -> Result<RaftOptions, OpenError> {
    match choose(configuration)? {
        Chosen::Raft(options) => Ok(*options),
        Chosen::Etcd3(_) => Err(OpenError::Replaced),
    }
}

/// The section of etcd, for a store that is open already.
pub(crate) fn etcd3_options(configuration: &JsonMap) -> Result<Etcd3Options, OpenError> {
    match choose(configuration)? {
        Chosen::Etcd3(section) => Ok(Etcd3Options::from_json(section)?),
        Chosen::Raft(_) => Err(OpenError::Replaced),
    }
}

fn choose(configuration: &JsonMap) -> Result<Chosen<'_>, OpenError> {
    let present = |section: &str| configuration.get(section).filter(|value| !value.is_null());
    match (present("etcd3"), present("raft")) {
        (Some(Value::Object(section)), _) => return Ok(Chosen::Etcd3(section)),
        (Some(_), _) => return Err(OpenError::NotAMapping("etcd3")),
        (None, _) if present("etcd").is_some() => return Err(OpenError::Etcd2),
        (None, Some(Value::Object(_))) => return Ok(Chosen::Raft(Box::new(RaftOptions::from_json(configuration)?))),
        (None, Some(_)) => return Err(OpenError::NotAMapping("raft")),
        (None, None) => {}
    }
    match UNSUPPORTED.into_iter().find(|section| present(section).is_some()) {
        Some(section) => Err(OpenError::Unsupported(section)),
        None => match RaftOptions::from_json(configuration) {
            Ok(options) => Ok(Chosen::Raft(Box::new(options))),
            Err(RaftOptionsError { key: "self_addr", .. }) => Err(OpenError::Missing),
            Err(error) => Err(error.into()),
        },
    }
}

#[cfg(test)]
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
        assert_eq!(error(json!({"raft": {"partner_addrs": ["127.0.0.1:1"]}})), None);
        assert_eq!(error(json!({"restapi": {"connect_address": "127.0.0.1:8008"}})), None, "the embedded store");
        for (configuration, part) in [
            (json!({}), "Available implementations: etcd3"),
            (json!({"etcd3": null}), "Available implementations: etcd3"),
            (json!({"etcd": {"host": "a"}}), "rename the section to etcd3"),
            (json!({"zookeeper": {}}), "the store zookeeper is not supported; supported are: etcd3, raft"),
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
