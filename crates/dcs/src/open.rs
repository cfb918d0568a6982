//! Choosing the backend by the section of the configuration.

use std::sync::Arc;

use patroni_core::JsonMap;
use patroni_core::name::MemberName;
use serde_json::Value;

use crate::etcd3::{Etcd3, Etcd3Options, OptionsError};
use crate::wire::ClusterPath;
use crate::{Dcs, Timing};

/// No store can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No section names a store.
    #[error(
        "Can not find suitable configuration of distributed configuration store\nAvailable implementations: etcd3; add a section such as\netcd3:\n  hosts: 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379"
    )]
    Missing,
    /// The second version of etcd's API.
    #[error(
        "the section etcd speaks version 2 of etcd's API, which etcd itself has removed; rename the section to etcd3 (its keys stay the same; what is stored under version 2 is not carried over)"
    )]
    Etcd2,
    /// A store that is not supported.
    #[error("the store {0} is not supported; supported is: etcd3")]
    Unsupported(&'static str),
    /// The section is not a mapping.
    #[error("the section etcd3 is not a mapping; write hosts: below it")]
    NotAMapping,
    /// The section has an error.
    #[error(transparent)]
    Options(#[from] OptionsError),
}

const UNSUPPORTED: [&str; 5] = ["consul", "exhibitor", "kubernetes", "raft", "zookeeper"];

/// Opens the store that the configuration names in one of its sections. Does not wait for the store to be up.
/// `name` may be any text for a handle that only reads or writes [`crate::Key`]s.
pub fn open(
    configuration: &JsonMap,
    path: &ClusterPath,
    name: MemberName,
    timing: Timing,
) -> Result<Arc<dyn Dcs>, OpenError> {
    let present = |section: &str| configuration.get(section).filter(|value| !value.is_null());
    match present("etcd3") {
        Some(Value::Object(section)) => Ok(Etcd3::connect(Etcd3Options::from_json(section)?, path, name, timing)),
        Some(_) => Err(OpenError::NotAMapping),
        None if present("etcd").is_some() => Err(OpenError::Etcd2),
        None => match UNSUPPORTED.into_iter().find(|section| present(section).is_some()) {
            Some(section) => Err(OpenError::Unsupported(section)),
            None => Err(OpenError::Missing),
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
        for (configuration, part) in [
            (json!({}), "Available implementations: etcd3"),
            (json!({"etcd3": null}), "Available implementations: etcd3"),
            (json!({"etcd": {"host": "a"}}), "rename the section to etcd3"),
            (json!({"zookeeper": {}}), "the store zookeeper is not supported; supported is: etcd3"),
            (json!({"etcd3": []}), "is not a mapping"),
            (json!({"etcd3": {}}), "Neither srv, hosts, host nor url are defined"),
        ] {
            let text = error(configuration.clone()).unwrap_or_default();
            assert!(text.contains(part), "{configuration}: {text}");
        }
    }
}
