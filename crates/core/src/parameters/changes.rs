//! What a change of the configuration asks of a running server.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Note, Parameters, is_recovery_parameter};
use crate::JsonMap;
use crate::python::PythonText;
use crate::units::{compare_values, maybe_convert_from_base_unit, parse_int};

/// A row of `pg_settings`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// `name`
    pub name: String,
    /// `setting`, in the unit below.
    pub setting: Option<String>,
    /// `unit`
    pub unit: Option<String>,
    /// `vartype`
    pub vartype: String,
    /// `context`: `postmaster` for what needs a restart, `internal` for what cannot be set.
    pub context: String,
    /// `sourcefile`
    pub sourcefile: Option<String>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Something differs: write `postgresql.conf` and reload.
    pub write: bool,
    /// What needs a restart, and why: for `pending_restart_reason`.
    pub pending_restart: JsonMap,
    /// Wanted parameters that the server does not have: to be taken out.
    pub unknown: Vec<String>,
    /// `listen_addresses` or `port` wait for a restart: connections still go to the old address.
    pub address_changed: bool,
    /// For the log.
    pub notes: Vec<Note>,
}

/// Compares the parameters written last (`previous`), those wanted now, and the server's own (`running`: the rows of
/// `pg_settings` for all names in both, and for `shared_buffers`, `wal_segment_size` and `wal_block_size` where
/// `wal_buffers` is among them).
pub fn changes(previous: &Parameters, wanted: &Parameters, running: &[Setting]) -> Changes {
    let rows: BTreeMap<String, &Setting> = running.iter().map(|s| (s.name.to_lowercase(), s)).collect();
    let mut changes = Changes::default();
    let dropped = previous.iter().filter(|(name, _)| !wanted.contains(name)).map(|(name, _)| (name, None));
    let names = wanted.iter().map(|(name, value)| (name, Some(value))).chain(dropped);
    for (name, value) in names.filter(|(name, _)| !is_left_alone(name)) {
        match rows.get(&name.to_lowercase()) {
            Some(row) if row.context == "internal" => unexpected(name, value, previous, &mut changes),
            Some(row) if name.eq_ignore_ascii_case("wal_buffers") && same_wal_buffers(row, value, &rows) => {}
            Some(row) => known(row, value, previous, &mut changes),
            None => unexpected(name, value, previous, &mut changes),
        }
    }
    changes
}

/// Set by the role of the node, not by the configuration.
fn is_left_alone(name: &str) -> bool {
    is_recovery_parameter(name) || name.eq_ignore_ascii_case("hot_standby")
}

fn known(row: &Setting, wanted: Option<&Value>, previous: &Parameters, changes: &mut Changes) {
    let running = row.setting.as_deref().unwrap_or_default();
    let unit = row.unit.as_deref();
    let same = |value: &Value| compare_values(&row.vartype, unit, running, value);
    let text = wanted.map_or("None".into(), PythonText::python_text);
    if !wanted.is_some_and(same) {
        changes.write = true;
        let old = maybe_convert_from_base_unit(running, &row.vartype, unit);
        if row.context == "postmaster" {
            let wanted = wanted.map(PythonText::python_text);
            let difference = parameter_difference(Some(running), wanted.as_deref(), Some(row));
            changes.pending_restart.insert(row.name.clone(), Value::Object(difference));
            changes.note(format!("Changed {} from '{old}' to '{text}' (restart might be required)", row.name));
            changes.address_changed |=
                ["listen_addresses", "port", "unix_socket_directories"].contains(&row.name.as_str());
        } else {
            changes.note(format!("Changed {} from '{old}' to '{text}'", row.name));
        }
    } else if let Some(before) = previous.get(&row.name).filter(|value| !same(value)) {
        // Set back to what the server has while the file still says something else.
        changes.write = true;
        changes.note(format!("Changed {} from '{}' to '{text}'", row.name, before.python_text()));
    }
}

/// A name that `pg_settings` does not show: of an extension that is not loaded, or nobody's.
fn unexpected(name: &str, wanted: Option<&Value>, previous: &Parameters, changes: &mut Changes) {
    if name.contains('.') {
        let before = previous.get(name);
        let text = |value: Option<&Value>| value.map_or("None".to_owned(), |v| v.python_text().into_owned());
        if wanted.is_none() || before.is_none() || text(wanted) != text(before) {
            changes.write = true;
            changes.note(format!("Changed {name} from '{}' to '{}'", text(before), text(wanted)));
        }
    } else if wanted.is_some() {
        changes.unknown.push(name.to_owned());
        let warning = format!("Removing invalid parameter `{name}` from postgresql.parameters");
        changes.notes.push(Note::Warning(warning));
    }
}

impl Changes {
    fn note(&mut self, text: String) {
        self.notes.push(Note::Info(text));
    }
}

/// `wal_buffers` -1 stands for a 32nd of `shared_buffers`, at least 8 blocks, at most a WAL segment.
fn same_wal_buffers(row: &Setting, wanted: Option<&Value>, rows: &BTreeMap<String, &Setting>) -> bool {
    let number =
        |name: &str| rows.get(name).and_then(|row| parse_int(row.setting.as_deref()?, None)).filter(|n| *n != 0);
    let block_size = number("wal_block_size").unwrap_or(8192);
    let segment_unit = rows.get("wal_segment_size").and_then(|row| row.unit.as_deref());
    let unit_bytes = match segment_unit {
        Some(unit) if unit.starts_with(|c: char| c.is_ascii_digit()) => parse_int(unit, Some("B")).unwrap_or(8192),
        Some(_) | None => 1,
    };
    let segment = number("wal_segment_size").unwrap_or(16_777_216) * unit_bytes / block_size;
    let by_default = (number("shared_buffers").unwrap_or(16_384) / 32).max(8).min(segment);
    let running = row.setting.as_deref().unwrap_or("-1");
    let old = if running == "-1" { Some(by_default) } else { parse_int(running, None) };
    let wanted = wanted.filter(|value| crate::tags::truthy(value)).map_or("-1".into(), PythonText::python_text);
    let new = if wanted == "-1" { Some(by_default) } else { parse_int(&*wanted, row.unit.as_deref()) };
    old == new
}

/// What waits for a restart by the server's own word (`pending_restart` in `pg_settings`) after a reload: `rows` are
/// the parameters concerned, with `setting` from `current_setting()`; `restarted` tells the value a restart would give (`postgres
/// -C`), `None` where that cannot be found out. `expected` is what [`changes`] said; anything else was changed by others.
pub fn pending_restart<'a>(
    rows: &[Setting],
    expected: &JsonMap,
    restarted: impl Fn(&str) -> Option<&'a str>,
) -> (JsonMap, Option<Note>) {
    let differences: JsonMap = rows
        .iter()
        .filter(|row| !is_left_alone(&row.name))
        .map(|row| {
            let new = restarted(&row.name).unwrap_or("?");
            let difference = parameter_difference(row.setting.as_deref(), Some(new), Some(row));
            (row.name.clone(), Value::Object(difference))
        })
        .collect();
    let is_external = |(name, difference): &(&String, &Value)| expected.get(*name) != Some(*difference);
    let external: Vec<_> = differences.iter().filter(is_external).map(|(name, _)| name.as_str()).collect();
    let note = (!external.is_empty()).then(|| {
        Note::Info(format!(
            "PostgreSQL configuration parameters requiring restart ({}) seem to be changed bypassing Patroni config. \
             Setting 'Pending restart' flag",
            external.join(", ")
        ))
    });
    (differences, note)
}

/// One entry of `pending_restart_reason`, in units for people where the type is known.
pub fn parameter_difference(old: Option<&str>, new: Option<&str>, row: Option<&Setting>) -> JsonMap {
    let shown = |value: Option<&str>| {
        let value = value.unwrap_or_default();
        row.map_or_else(|| value.to_owned(), |r| maybe_convert_from_base_unit(value, &r.vartype, r.unit.as_deref()))
    };
    JsonMap::from_iter([
        ("old_value".to_owned(), Value::String(shown(old))),
        ("new_value".to_owned(), Value::String(shown(new))),
    ])
}
