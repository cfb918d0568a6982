//! The start of a standby whose primary ran with larger shared memory settings.

use serde_json::Value;

use super::{Note, Parameters, parameter_difference};
use crate::JsonMap;
use crate::units::parse_int;

/// The settings in `pg_control`, as `pg_controldata` labels them. `None`: the label is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlSettings {
    /// `max_connections setting`
    pub max_connections: Option<i64>,
    /// `max_worker_processes setting`
    pub max_worker_processes: Option<i64>,
    /// `max_prepared_xacts setting`
    pub max_prepared_transactions: Option<i64>,
    /// `max_locks_per_xact setting`
    pub max_locks_per_transaction: Option<i64>,
    /// `max_wal_senders setting`
    pub max_wal_senders: Option<i64>,
}

/// Parameters to start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Those wanted, raised where they are too small.
    pub effective: Parameters,
    /// The ones raised, for `pending_restart_reason`.
    pub pending_restart: JsonMap,
    /// For the log.
    pub notes: Vec<Note>,
}

/// A standby refuses to start, or pauses, with fewer connections, workers, ... than the primary had when it wrote the
/// WAL: it starts with the values of `pg_control` instead, and waits for a restart.
pub fn raise_to_control_data(wanted: &Parameters, control: &ControlSettings) -> Raised {
    let mut raised = Raised { effective: wanted.clone(), pending_restart: JsonMap::new(), notes: Vec::new() };
    for (name, label, setting) in control.labelled() {
        let Some(setting) = setting else {
            raised.notes.push(Note::Warning(format!("{label} is missing from pg_controldata output")));
            continue;
        };
        let Some(value) = wanted.get(name).and_then(|v| parse_int(v, None)).filter(|value| setting > *value) else {
            continue;
        };
        raised.effective.insert(name, setting);
        raised.notes.push(Note::Info(format!(
            "{name} value in pg_controldata: {setting}, in the global configuration: {value}. pg_controldata value \
             will be used. Setting 'Pending restart' flag"
        )));
        let difference = parameter_difference(Some(&setting.to_string()), Some(&value.to_string()), None);
        raised.pending_restart.insert(name.to_owned(), Value::Object(difference));
    }
    raised
}

impl ControlSettings {
    fn labelled(&self) -> [(&'static str, &'static str, Option<i64>); 5] {
        [
            ("max_connections", "max_connections setting", self.max_connections),
            ("max_prepared_transactions", "max_prepared_xacts setting", self.max_prepared_transactions),
            ("max_locks_per_transaction", "max_locks_per_xact setting", self.max_locks_per_transaction),
            ("max_worker_processes", "max_worker_processes setting", self.max_worker_processes),
            ("max_wal_senders", "max_wal_senders setting", self.max_wal_senders),
        ]
    }

    /// From the values of `pg_controldata`, by label without the word `Current `.
    pub fn from_labels<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let number = |label: &str| get(label).and_then(|text| text.trim().parse().ok());
        ControlSettings {
            max_connections: number("max_connections setting"),
            max_worker_processes: number("max_worker_processes setting"),
            max_prepared_transactions: number("max_prepared_xacts setting"),
            max_locks_per_transaction: number("max_locks_per_xact setting"),
            max_wal_senders: number("max_wal_senders setting"),
        }
    }
}
