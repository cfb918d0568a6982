//! The section `kubernetes` of the configuration.

use std::collections::{BTreeMap, BTreeSet};

use patroni_core::JsonMap;
use serde_json::{Value, json};

use super::access::Access;
use crate::section::{Section, SectionError};

/// Where the objects of a cluster are, and what they say of this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesOptions {
    /// The API server, and how this process shows who it is.
    pub access: Access,
    /// `namespace` of all objects.
    pub namespace: String,
    /// `labels`, which all objects of the cluster have.
    pub labels: BTreeMap<String, String>,
    /// `scope_label`: a label whose value is the name of the cluster, beside those.
    pub scope_label: String,
    /// Labels of this member's Pod that say its role.
    pub roles: RoleLabels,
    /// `bootstrap_labels`: what the Pod has in addition while its data directory is being made.
    pub bootstrap_labels: BTreeMap<String, String>,
    /// `use_endpoints`: keys are in Endpoints; otherwise in ConfigMaps.
    pub use_endpoints: bool,
    /// `pod_ip`: the address that Endpoints name while this member leads; without it that of its Pod.
    pub pod_ip: Option<String>,
    /// `ports` of those Endpoints.
    pub ports: Vec<Port>,
    /// `bypass_api_service`: API servers are asked by their own addresses, so that one that is gone does not matter.
    pub bypass_api_service: bool,
    /// `retriable_http_codes`: after an answer with one of these a request is tried again, as after all from 500 on.
    pub retriable: BTreeSet<u16>,
}

/// The labels that say which role a Pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleLabels {
    /// `role_label`.
    pub label: String,
    /// `leader_label_value`.
    pub leader: String,
    /// `follower_label_value`.
    pub follower: String,
    /// `standby_leader_label_value`.
    pub standby_leader: String,
    /// `tmp_role_label`: has Patroni's own names of roles.
    pub tmp_label: Option<String>,
}

/// A port of Endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name that the Service has for it.
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// TCP where none is given.
    pub protocol: Option<String>,
}

const NAME: &str = "kubernetes";

impl KubernetesOptions {
    /// Reads the section; then the files and variables that a Pod has, or else the configuration of kubectl.
    ///
    /// # Errors
    /// A setting cannot be used, or nothing says where the API server is.
    pub fn from_json(map: &JsonMap) -> Result<Self, SectionError> {
        let section = Section { name: NAME, map };
        let access = Access::find(section)?;
        Self::with_access(map, access)
    }

    /// The same for an API server that is known.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn with_access(map: &JsonMap, access: Access) -> Result<Self, SectionError> {
        let section = Section { name: NAME, map };
        let text = |key, usual: &str| Ok(section.text(key)?.unwrap_or_else(|| usual.to_owned()));
        let labels = pairs(section, "labels")?;
        if labels.is_empty() && !map.contains_key("labels") {
            let remedy = "name labels that all objects of the cluster have, such as {application: patroni}";
            return Err(section.error("labels", "is missing", remedy));
        }
        Ok(KubernetesOptions {
            access,
            namespace: text("namespace", "default")?,
            labels,
            scope_label: text("scope_label", "cluster-name")?,
            roles: RoleLabels {
                label: text("role_label", "role")?,
                leader: text("leader_label_value", "primary")?,
                follower: text("follower_label_value", "replica")?,
                standby_leader: text("standby_leader_label_value", "primary")?,
                tmp_label: section.text("tmp_role_label")?,
            },
            bootstrap_labels: pairs(section, "bootstrap_labels")?,
            use_endpoints: section.flag("use_endpoints") == Some(true),
            pod_ip: section.text("pod_ip")?,
            ports: ports(section)?,
            bypass_api_service: section.flag("bypass_api_service") == Some(true),
            retriable: retriable(section)?,
        })
    }
}

/// A mapping of texts. Numbers and the like count as the texts that they are written as.
fn pairs(section: Section<'_>, key: &'static str) -> Result<BTreeMap<String, String>, SectionError> {
    let remedy = "write names and values, such as {application: patroni}";
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    };
    match section.map.get(key) {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Object(pairs)) => pairs
            .iter()
            .map(|(name, value)| {
                let value =
                    text(value).ok_or_else(|| section.error(key, format!("{name} has no text as its value"), remedy));
                Ok((name.clone(), value?))
            })
            .collect(),
        Some(_) => Err(section.error(key, "is not a mapping", remedy)),
    }
}

fn ports(section: Section<'_>) -> Result<Vec<Port>, SectionError> {
    let key = "ports";
    let error = |problem: String| section.error(key, problem, "write a list such as [{name: postgresql, port: 5432}]");
    let listed = match section.map.get(key) {
        None | Some(Value::Null) => vec![json!({})],
        Some(Value::Array(listed)) => listed.clone(),
        Some(_) => return Err(error("is not a list".to_owned())),
    };
    let one = |port: &Value| {
        let Value::Object(map) = port else { return Err(error(format!("{port} is not a mapping"))) };
        let inner = Section { name: NAME, map };
        let number = inner.port("port").map_err(|_| error(format!("{port} has no usable port")))?;
        Ok(Port { name: inner.text("name")?, port: number.unwrap_or(5432), protocol: inner.text("protocol")? })
    };
    listed.iter().map(one).collect()
}

/// A number, a list, or a text with commas.
fn retriable(section: Section<'_>) -> Result<BTreeSet<u16>, SectionError> {
    let key = "retriable_http_codes";
    let listed: Vec<String> = match section.map.get(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect()
        }
        Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
        Some(other) => vec![other.to_string()],
    };
    let code = |text: &String| match text.trim().parse() {
        Ok(code) => Ok(code),
        Err(_) => Err(section.error(key, format!("{text:?} is not a status code"), "write a list such as [500, 503]")),
    };
    listed.iter().filter(|text| !text.trim().is_empty()).map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(section: Value) -> Result<KubernetesOptions, SectionError> {
        let Value::Object(map) = section else { panic!("not an object") };
        KubernetesOptions::with_access(&map, Access::at("https://a"))
    }

    #[test]
    fn the_usual_values_are_those_of_the_reference() {
        let options = read(json!({"labels": {"application": "patroni", "level": 5}})).expect("valid");
        assert_eq!(options.namespace, "default");
        assert_eq!(options.labels["level"], "5");
        assert_eq!((options.scope_label.as_str(), options.roles.label.as_str()), ("cluster-name", "role"));
        let roles = &options.roles;
        assert_eq!([&roles.leader, &roles.follower, &roles.standby_leader], ["primary", "replica", "primary"]);
        assert_eq!(options.ports, [Port { name: None, port: 5432, protocol: None }]);
        assert!(!options.use_endpoints && !options.bypass_api_service && options.retriable.is_empty());
    }

    #[test]
    fn what_variables_and_files_say() {
        let section = json!({
            "labels": {"a": "b"}, "namespace": "n", "use_endpoints": "on", "bypass_api_service": true, "pod_ip": "10.0.0.1",
            "ports": [{"name": "postgresql", "port": "5433", "protocol": "UDP"}], "retriable_http_codes": "401, 429",
            "bootstrap_labels": {"foo": "bar"}, "tmp_role_label": "tmp", "leader_label_value": "master",
        });
        let options = read(section).expect("valid");
        assert!(options.use_endpoints && options.bypass_api_service);
        assert_eq!(
            options.ports[0],
            Port { name: Some("postgresql".into()), port: 5433, protocol: Some("UDP".into()) }
        );
        assert_eq!(options.retriable, BTreeSet::from([401, 429]));
        assert_eq!((options.bootstrap_labels["foo"].as_str(), options.roles.leader.as_str()), ("bar", "master"));
        let codes = |value: Value| read(json!({"labels": {}, "retriable_http_codes": value})).expect("valid").retriable;
        assert_eq!(codes(json!(418)), BTreeSet::from([418]));
        assert_eq!(codes(json!([418, "419"])), BTreeSet::from([418, 419]));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (section, key) in [
            (json!({}), "labels"),
            (json!({"labels": "a"}), "labels"),
            (json!({"labels": {"a": []}}), "labels"),
            (json!({"labels": {}, "ports": {"port": 1}}), "ports"),
            (json!({"labels": {}, "ports": [{"port": 70000}]}), "ports"),
            (json!({"labels": {}, "retriable_http_codes": ["x"]}), "retriable_http_codes"),
        ] {
            assert_eq!(read(section.clone()).expect_err("was accepted").key, key, "{section}");
        }
    }
}
