//! PostgreSQL's parameters: what the cluster wants, what a server accepts, and what a change asks for.
//!
//! Pure: the texts for the log are returned, not written.

mod catalog;
mod changes;
mod global;
mod shared_memory;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::JsonMap;
use crate::python::scalar_text;
use crate::units::parse_int;

pub use catalog::{
    Checked, check_recovery_parameter, check_server_parameter, is_recovery_parameter, recovery_parameters,
};
pub use changes::{Changes, Setting, changes, parameter_difference, pending_restart};
pub use global::{CommandLineOption, GLOBAL, GlobalRule, check_global_parameter, command_line};
pub use shared_memory::{ControlSettings, Raised, raise_to_control_data};

/// Parameters by name. Case does not tell names apart, as in PostgreSQL; the case in which one was written last is kept.
///
/// Every value in it has a text. Null takes a parameter away, wherever it comes from, and so do lists and mappings, which PostgreSQL
/// knows nothing of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Parameters(BTreeMap<String, (String, Value)>);

impl Parameters {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(&name.to_lowercase()).map(|(_, value)| value)
    }

    /// The value of a parameter as text, as it goes into a file.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(scalar_text).map(Cow::into_owned)
    }

    /// The parameter is there.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(&name.to_lowercase())
    }

    /// Sets a parameter, or takes it away where the value has no text.
    pub fn insert(&mut self, name: &str, value: impl Into<Value>) {
        let (key, value) = (name.to_lowercase(), value.into());
        match scalar_text(&value) {
            Some(_) => self.0.insert(key, (name.to_owned(), value)),
            None => self.0.remove(&key),
        };
    }

    /// Takes a parameter away.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.0.remove(&name.to_lowercase()).map(|(_, value)| value)
    }

    /// No parameter at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them in the order in which Patroni writes them: by name, upper case first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        let mut all: Vec<_> = self.0.values().map(|(name, value)| (name.as_str(), value)).collect();
        all.sort_by_key(|(name, _)| *name);
        all.into_iter()
    }
}

impl From<&JsonMap> for Parameters {
    fn from(map: &JsonMap) -> Self {
        map.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

impl FromIterator<(String, Value)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Self {
        let mut parameters = Parameters::default();
        for (name, value) in pairs {
            parameters.insert(&name, value);
        }
        parameters
    }
}

/// A sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// For information.
    Info(String),
    /// Something of the configuration is not used as it stands.
    Warning(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Info(text) | Note::Warning(text) => f.write_str(text),
        }
    }
}

/// What a node adds to the parameters of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// `scope`, for `cluster_name`.
    pub scope: &'a str,
    /// The host part of `postgresql.listen`.
    pub listen_addresses: &'a str,
    /// The port of `postgresql.listen`.
    pub port: u16,
    /// Where relative names of `hba_file` and `ident_file` begin.
    pub config_dir: &'a str,
}

/// Who decides about `synchronous_standby_names`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum SynchronousStandbyNames {
    /// The configuration (`synchronous_mode` is off).
    #[default]
    Configured,
    /// The leader: this value, or none.
    Managed(Option<String>),
}

/// The parameters of one server: those configured, with the names of the node, and in the words of its version.
pub fn server_parameters(configured: &JsonMap, identity: &Identity<'_>, names: &SynchronousStandbyNames) -> Parameters {
    let mut parameters = Parameters::from(configured);
    parameters.insert("cluster_name", identity.scope);
    parameters.insert("listen_addresses", identity.listen_addresses);
    parameters.insert("port", identity.port.to_string());
    match names {
        SynchronousStandbyNames::Configured => {}
        SynchronousStandbyNames::Managed(None) => {
            parameters.remove("synchronous_standby_names");
        }
        SynchronousStandbyNames::Managed(Some(names)) => {
            parameters.insert("synchronous_standby_names", names.as_str());
        }
    }
    if parameters.get("wal_level").and_then(Value::as_str) == Some("hot_standby") {
        parameters.insert("wal_level", "replica");
    }
    keep_size(&mut parameters);
    for name in ["hba_file", "ident_file"] {
        if let Some(file) = parameters.text(name).filter(|file| !file.starts_with('/')) {
            parameters.insert(name, format!("{}/{file}", identity.config_dir));
        }
    }
    parameters
}

/// `wal_keep_segments`, gone since PostgreSQL 13, as `wal_keep_size`, by segments of 16 MB.
fn keep_size(parameters: &mut Parameters) {
    const DEFAULT_SEGMENTS: i64 = 8;
    let segments = parameters.remove("wal_keep_segments").and_then(|v| parse_int(&v, None)).unwrap_or(DEFAULT_SEGMENTS);
    if !parameters.contains("wal_keep_size") {
        parameters.insert("wal_keep_size", format!("{}MB", segments.saturating_mul(16)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> JsonMap {
        match value {
            Value::Object(map) => map,
            other => panic!("not an object: {other}"),
        }
    }

    const IDENTITY: Identity<'_> =
        Identity { scope: "batman", listen_addresses: "127.0.0.1", port: 5433, config_dir: "/conf" };

    fn server(value: Value, names: &SynchronousStandbyNames) -> Parameters {
        server_parameters(&map(value), &IDENTITY, names)
    }

    #[test]
    fn the_node_adds_its_names_and_its_version_words() {
        let names = SynchronousStandbyNames::Configured;
        let rows = [
            (json!({}), "wal_keep_size", Some("128MB")),
            (json!({"wal_keep_segments": 10}), "wal_keep_size", Some("160MB")),
            (json!({"wal_keep_segments": "12", "wal_keep_size": "1GB"}), "wal_keep_size", Some("1GB")),
            (json!({"wal_keep_segments": 10}), "wal_keep_segments", None),
            (json!({"wal_level": "hot_standby"}), "wal_level", Some("replica")),
            (json!({"wal_level": "logical"}), "wal_level", Some("logical")),
            (json!({"port": 1, "cluster_name": "x"}), "port", Some("5433")),
            (json!({"CLUSTER_NAME": "x"}), "cluster_name", Some("batman")),
            (json!({"hba_file": "hba"}), "hba_file", Some("/conf/hba")),
            (json!({"ident_file": "/etc/i"}), "ident_file", Some("/etc/i")),
            (json!({"fsync": false}), "fsync", Some("False")),
            (json!({"synchronous_standby_names": "a"}), "synchronous_standby_names", Some("a")),
        ];
        for (configured, name, expected) in rows {
            let text = server(configured.clone(), &names).text(name);
            assert_eq!(text.as_deref(), expected, "{name} of {configured}");
        }
    }

    #[test]
    fn the_leader_decides_about_synchronous_standbys_in_synchronous_mode() {
        let configured = json!({"synchronous_standby_names": "mine"});
        let managed = SynchronousStandbyNames::Managed(Some("\"b\"".into()));
        assert_eq!(server(configured.clone(), &managed).text("synchronous_standby_names").as_deref(), Some("\"b\""));
        let none = SynchronousStandbyNames::Managed(None);
        assert!(!server(configured, &none).contains("synchronous_standby_names"));
    }

    /// `archive_command: ` in YAML is null. As the word `None` it would fail for ever, and as `synchronous_standby_names` every commit
    /// would wait for ever.
    #[test]
    fn a_value_without_a_text_takes_the_parameter_away() {
        let names = SynchronousStandbyNames::Configured;
        for wrong in [json!(null), json!([]), json!(["a"]), json!({}), json!({"a": 1})] {
            let own = ["archive_command", "synchronous_standby_names", "my.ext", "unheard_of", "wal_level", "hba_file"];
            let configured = own.map(|name| (name.to_owned(), wrong.clone())).into_iter().collect();
            let found = server_parameters(&configured, &IDENTITY, &names);
            assert_eq!(own.map(|name| found.text(name)), [const { None }; 6], "{wrong}");
            // In another case it is the same parameter.
            assert!(!server(json!({"work_mem": 1, "WORK_MEM": wrong}), &names).contains("work_mem"));
        }
        assert_eq!(server(json!({"wal_keep_segments": null}), &names).text("wal_keep_size").as_deref(), Some("128MB"));
    }

    #[test]
    fn names_keep_their_case_and_differ_in_more_than_case() {
        let mut parameters = Parameters::from(&map(json!({"work_mem": 1, "DateStyle": "iso", "archive_mode": "on"})));
        parameters.insert("datestyle", "german");
        parameters.insert("TimeZone", "UTC");
        let names: Vec<_> = parameters.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["TimeZone", "archive_mode", "datestyle", "work_mem"]);
        assert_eq!(parameters.text("DATESTYLE").as_deref(), Some("german"));
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod recorded_tests;
