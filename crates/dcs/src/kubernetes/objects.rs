//! What is read of objects, of all that they hold.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A Pod, or an object that holds keys: Endpoints or a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Object {
    pub(super) metadata: Metadata,
    /// Of Endpoints.
    pub(super) subsets: Value,
    /// Of a Pod.
    pub(super) spec: PodSpec,
    /// Of a Pod.
    pub(super) status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) hostname: Option<String>,
    pub(super) node_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct PodStatus {
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
}

impl Object {
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// Its version as a number that grows. What the API calls opaque is a number in all its servers.
    pub(super) fn version(&self) -> u64 {
        number(&self.metadata.resource_version)
    }
}

/// A version as a number; 0 where it is none, so that no comparison with it holds things up.
pub(super) fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

/// An answer to a request for all objects of a kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct List {
    pub(super) metadata: Metadata,
    pub(super) items: Vec<Object>,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) object: Value,
}

/// What an answer says that is no object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    kind: String,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Status {
    /// `None`: it is not the API server that speaks.
    pub(super) fn parse(body: &str) -> Option<Status> {
        serde_json::from_str(body).ok().filter(|status: &Status| status.kind == "Status")
    }
}
