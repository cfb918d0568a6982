//! Which layer wins, setting by setting. In general defaults < dynamic < local files < environment; [`RULES`] is the
//! whole truth.

use std::fmt;

use patroni_core::JsonMap;
use patroni_core::settings::{Timing, Unusable};
use patroni_core::units::{parse_bool, parse_int};
use serde_json::{Value, json};

use crate::environment::AUTHENTICATION;
use crate::error::WrongValue;
use crate::origin::Origin;
use crate::warning::Warning;

/// Which layers a setting is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// Defaults and the store; local values are ignored.
    DynamicOnly,
    /// Read straight from the store whenever they are needed, without a part in the merged tree.
    DynamicFlag,
    /// Local only; refused in the store.
    LocalOnly,
    /// The store, overridden by the local configuration as a whole (mappings are not merged).
    LocalOverDynamic,
    /// The store, overridden by the local configuration name by name.
    LocalOverDynamicByName,
}

/// A setting (`*` stands for any other one of the section) and the layers it is taken from. The first that matches counts.
pub const RULES: &[(&str, Layers)] = &[
    ("ttl", Layers::DynamicOnly),
    ("loop_wait", Layers::DynamicOnly),
    ("retry_timeout", Layers::DynamicOnly),
    ("standby_cluster", Layers::DynamicOnly),
    ("pause", Layers::DynamicFlag),
    ("failsafe_mode", Layers::DynamicFlag),
    ("check_timeline", Layers::DynamicFlag),
    ("synchronous_mode", Layers::DynamicFlag),
    ("synchronous_mode_strict", Layers::DynamicFlag),
    ("synchronous_mode_hold", Layers::DynamicFlag),
    ("disk_free_warning", Layers::DynamicFlag),
    ("full_wal_switchover", Layers::DynamicFlag),
    ("synchronous_node_count", Layers::DynamicFlag),
    ("maximum_lag_on_failover", Layers::DynamicFlag),
    ("maximum_lag_on_syncnode", Layers::DynamicFlag),
    ("primary_start_timeout", Layers::DynamicFlag),
    ("primary_hang_timeout", Layers::DynamicFlag),
    ("master_start_timeout", Layers::DynamicFlag),
    ("primary_stop_timeout", Layers::DynamicFlag),
    ("master_stop_timeout", Layers::DynamicFlag),
    ("max_timelines_history", Layers::DynamicFlag),
    ("member_slots_ttl", Layers::DynamicFlag),
    ("slots", Layers::DynamicFlag),
    ("permanent_slots", Layers::DynamicFlag),
    ("permanent_replication_slots", Layers::DynamicFlag),
    ("ignore_slots", Layers::DynamicFlag),
    ("postgresql.use_slots", Layers::DynamicOnly),
    ("postgresql.listen", Layers::LocalOnly),
    ("postgresql.connect_address", Layers::LocalOnly),
    ("postgresql.proxy_address", Layers::LocalOnly),
    ("postgresql.config_dir", Layers::LocalOnly),
    ("postgresql.data_dir", Layers::LocalOnly),
    ("postgresql.pgpass", Layers::LocalOnly),
    ("postgresql.authentication", Layers::LocalOnly),
    ("postgresql.parameters", Layers::LocalOverDynamicByName),
    ("postgresql.*", Layers::LocalOverDynamic),
    ("*", Layers::LocalOnly),
];

/// The layers of a setting at the top (`ttl`) or of the section `postgresql` (`postgresql.listen`).
pub fn layers_of(path: &str) -> Layers {
    let section = path.split_once('.').map_or("*".to_owned(), |(section, _)| format!("{section}.*"));
    let rule = RULES.iter().find(|(pattern, _)| *pattern == path || *pattern == section);
    rule.map_or(Layers::LocalOnly, |(_, layers)| *layers)
}

/// A parameter of PostgreSQL that stands on its command line: it has to be the same on all nodes, so it comes from the
/// store only, and only if it is valid.
pub struct CommandLineParameter {
    /// The name.
    pub name: &'static str,
    /// The value if none is set in the store.
    pub default: Option<fn() -> Value>,
    /// What is allowed.
    pub allowed: Allowed,
}

/// The values that a command line parameter may have.
#[derive(Clone, Copy, Debug)]
pub enum Allowed {
    /// None: Patroni sets it itself.
    Nothing,
    /// A boolean that is true.
    True,
    /// A boolean.
    Bool,
    /// One of these, in any case.
    OneOf(&'static [&'static str]),
    /// An integer of at least this size, in this unit.
    AtLeast(i64, Option<&'static str>),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Nothing => write!(f, "left to Patroni"),
            Allowed::True => write!(f, "on"),
            Allowed::Bool => write!(f, "a boolean (on, off, true, false, yes, no)"),
            Allowed::OneOf(names) => write!(f, "one of {}", names.join(", ")),
            Allowed::AtLeast(min, unit) => write!(f, "a number of at least {min}{}", unit.unwrap_or_default()),
        }
    }
}

/// All command line parameters, with the defaults of Patroni 4.1.5.
pub const COMMAND_LINE: &[CommandLineParameter] = &[
    CommandLineParameter { name: "listen_addresses", default: None, allowed: Allowed::Nothing },
    CommandLineParameter { name: "port", default: None, allowed: Allowed::Nothing },
    CommandLineParameter { name: "cluster_name", default: None, allowed: Allowed::Nothing },
    CommandLineParameter {
        name: "wal_level",
        default: Some(|| json!("hot_standby")),
        allowed: Allowed::OneOf(&["hot_standby", "replica", "logical"]),
    },
    CommandLineParameter { name: "hot_standby", default: Some(|| json!("on")), allowed: Allowed::True },
    CommandLineParameter { name: "max_connections", default: Some(|| json!(100)), allowed: Allowed::AtLeast(25, None) },
    CommandLineParameter { name: "max_wal_senders", default: Some(|| json!(10)), allowed: Allowed::AtLeast(3, None) },
    CommandLineParameter { name: "wal_keep_segments", default: Some(|| json!(8)), allowed: Allowed::AtLeast(1, None) },
    CommandLineParameter {
        name: "wal_keep_size",
        default: Some(|| json!("128MB")),
        allowed: Allowed::AtLeast(16, Some("MB")),
    },
    CommandLineParameter {
        name: "max_prepared_transactions",
        default: Some(|| json!(0)),
        allowed: Allowed::AtLeast(0, None),
    },
    CommandLineParameter {
        name: "max_locks_per_transaction",
        default: Some(|| json!(64)),
        allowed: Allowed::AtLeast(32, None),
    },
    CommandLineParameter { name: "track_commit_timestamp", default: Some(|| json!("off")), allowed: Allowed::Bool },
    CommandLineParameter {
        name: "max_replication_slots",
        default: Some(|| json!(10)),
        allowed: Allowed::AtLeast(4, None),
    },
    CommandLineParameter {
        name: "max_worker_processes",
        default: Some(|| json!(8)),
        allowed: Allowed::AtLeast(2, None),
    },
    CommandLineParameter { name: "wal_log_hints", default: Some(|| json!("on")), allowed: Allowed::Bool },
];

impl CommandLineParameter {
    /// The parameter of this name, in any case.
    pub fn named(name: &str) -> Option<&'static CommandLineParameter> {
        COMMAND_LINE.iter().find(|p| p.name.eq_ignore_ascii_case(name))
    }

    /// The value as it is used; `None` if it is not allowed.
    fn checked(&self, value: &Value) -> Option<Value> {
        let allowed = match self.allowed {
            Allowed::Nothing => false,
            Allowed::True => parse_bool(value) == Some(true),
            Allowed::Bool => parse_bool(value).is_some(),
            Allowed::OneOf(names) => value.as_str().is_some_and(|v| names.iter().any(|n| n.eq_ignore_ascii_case(v))),
            Allowed::AtLeast(min, unit) => parse_int(value, unit).is_some_and(|n| n >= min),
        };
        let number = matches!(self.allowed, Allowed::AtLeast(..)).then(|| parse_int(value, None)).flatten();
        allowed.then(|| number.map_or_else(|| value.clone(), Value::from))
    }
}

/// The settings that are in force without any configuration.
pub fn defaults() -> JsonMap {
    let parameters: JsonMap = COMMAND_LINE
        .iter()
        // PostgreSQL's version decides which of these two is written.
        .filter(|p| !matches!(p.name, "wal_keep_segments" | "wal_keep_size"))
        .filter_map(|p| Some((p.name.to_owned(), p.default?())))
        .collect();
    object(json!({
        "ttl": 30, "loop_wait": 10, "retry_timeout": 10,
        "standby_cluster": {
            "create_replica_methods": "", "host": "", "port": "", "primary_slot_name": "", "restore_command": "",
            "archive_cleanup_command": "", "recovery_min_apply_delay": "",
        },
        "postgresql": {"use_slots": true, "parameters": parameters},
    }))
}

fn object(value: Value) -> JsonMap {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => JsonMap::new(),
    }
}

/// The settings in force: defaults, `dynamic` (with the time-outs that follow from it) and `local` merged by [`RULES`]. What cannot
/// be used of `dynamic` is left out.
///
/// # Errors
/// A value of `local` is no mapping where there has to be one.
pub(crate) fn effective(
    dynamic: &JsonMap,
    timing: Timing,
    local: &JsonMap,
    warnings: &mut Vec<Warning>,
) -> Result<JsonMap, Unusable> {
    let mut config = defaults();
    config.extend(timing.by_name().map(|(name, seconds)| (name.to_owned(), seconds.into())));
    for (name, value) in dynamic {
        match (name.as_str(), value) {
            ("postgresql", value) => dynamic_postgresql(section(&mut config, name), value, warnings),
            ("standby_cluster", value) => known_names(section(&mut config, name), value),
            // The rest is read from the store directly.
            _ => {}
        }
    }
    for (name, value) in local {
        match name.as_str() {
            "postgresql" => local_postgresql(section(&mut config, name), value)?,
            "citus" if !is_citus(value) => {}
            name if layers_of(name) == Layers::DynamicOnly => {}
            name => {
                let value = if patroni_core::tags::truthy(value) { value.clone() } else { json!({}) };
                config.insert(name.to_owned(), value);
            }
        }
    }
    derived(&mut config);
    Ok(config)
}

fn section<'a>(config: &'a mut JsonMap, name: &str) -> &'a mut JsonMap {
    let value = config.entry(name).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

fn entries<'a>(value: &'a Value, path: &str) -> Result<Option<&'a JsonMap>, Unusable> {
    match value {
        Value::Object(map) => Ok(Some(map)),
        value if !patroni_core::tags::truthy(value) => Ok(None),
        // The value may be a secret in a wrong place: its kind says enough.
        _ => Err(Unusable { path: path.to_owned(), found: kind(value).to_owned(), allowed: "a mapping".to_owned() }),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn known_names(known: &mut JsonMap, value: &Value) {
    for (name, value) in value.as_object().into_iter().flatten() {
        if let Some(slot) = known.get_mut(name) {
            *slot = value.clone();
        }
    }
}

fn dynamic_postgresql(config: &mut JsonMap, value: &Value, warnings: &mut Vec<Warning>) {
    for (name, value) in dynamic_entries(value, "postgresql", warnings) {
        if name == "parameters" {
            for (name, value) in dynamic_entries(value, "postgresql.parameters", warnings) {
                set_parameter(section(config, "parameters"), name, dynamic_parameter(name, value, warnings));
            }
        } else if layers_of(&format!("postgresql.{name}")) != Layers::LocalOnly {
            config.insert(name.clone(), value.clone());
        }
    }
}

fn dynamic_entries<'a>(
    value: &'a Value,
    path: &str,
    warnings: &mut Vec<Warning>,
) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    let entries = entries(value, path).unwrap_or_else(|what| {
        warnings.push(Warning::Value(WrongValue { origin: Origin::Dynamic, what }));
        None
    });
    entries.into_iter().flatten()
}

fn dynamic_parameter(name: &str, value: &Value, warnings: &mut Vec<Warning>) -> Option<Value> {
    let Some(parameter) = CommandLineParameter::named(name) else { return Some(value.clone()) };
    let checked = parameter.checked(value);
    if checked.is_none() && !value.is_null() {
        let default = parameter.default.map_or(Value::Null, |default| default());
        let what = Unusable::new(format!("postgresql.parameters.{name}"), value, parameter.allowed.to_string());
        warnings.push(Warning::Parameter { name: name.to_owned(), value: value.clone(), default, what });
    }
    checked
}

fn local_postgresql(config: &mut JsonMap, value: &Value) -> Result<(), Unusable> {
    for (name, value) in entries(value, "postgresql")?.into_iter().flatten() {
        match layers_of(&format!("postgresql.{name}")) {
            Layers::DynamicOnly | Layers::DynamicFlag => {}
            Layers::LocalOverDynamicByName => {
                for (name, value) in entries(value, "postgresql.parameters")?.into_iter().flatten() {
                    let value = CommandLineParameter::named(name).is_none().then(|| value.clone());
                    set_parameter(section(config, "parameters"), name, value);
                }
            }
            Layers::LocalOnly | Layers::LocalOverDynamic => {
                config.insert(name.clone(), value.clone());
            }
        }
    }
    Ok(())
}

/// Names of parameters are the same in any case; the last spelling is kept.
fn set_parameter(parameters: &mut JsonMap, name: &str, value: Option<Value>) {
    let Some(value) = value else { return };
    let old = parameters.keys().find(|old| old.eq_ignore_ascii_case(name)).cloned();
    match old {
        Some(old) if old != name => {
            parameters.shift_remove(&old);
        }
        Some(_) | None => {}
    }
    parameters.insert(name.to_owned(), value);
}

fn is_citus(value: &Value) -> bool {
    value.get("group").is_some_and(|g| g.is_i64() || g.is_u64() || g.is_boolean())
        && value.get("database").is_some_and(Value::is_string)
}

/// Old spellings, and values that follow from others.
fn derived(config: &mut JsonMap) {
    if let Some(Value::Object(zookeeper)) = config.get_mut("zookeeper")
        && let Some(exhibitor) = zookeeper.shift_remove("exhibitor")
    {
        config.insert("exhibitor".to_owned(), exhibitor);
        config.shift_remove("zookeeper");
    }
    authentication(section(config, "postgresql"));
    if let (false, Some(name)) = (config.contains_key("name"), config["postgresql"].get("name").cloned()) {
        config.insert("name".to_owned(), name);
    }
    if config.contains_key("citus") {
        let dcs = section(section(config, "bootstrap"), "dcs");
        dcs.entry("synchronous_mode").or_insert_with(|| json!("quorum"));
    }
}

/// Users given beside `authentication`, as Patroni 1 had them, and only the settings of users that exist.
fn authentication(postgresql: &mut JsonMap) {
    if !postgresql.contains_key("authentication") {
        let use_pg_rewind = postgresql.contains_key("pg_rewind");
        postgresql.insert("use_pg_rewind".to_owned(), use_pg_rewind.into());
        let users = ["replication", "superuser"];
        let old: JsonMap =
            users.iter().filter_map(|user| Some(((*user).to_owned(), postgresql.get(*user)?.clone()))).collect();
        postgresql.insert("authentication".to_owned(), Value::Object(old));
    }
    let pg_rewind = postgresql.get("pg_rewind").cloned();
    let users = section(postgresql, "authentication");
    if let (false, Some(pg_rewind)) = (users.contains_key("superuser"), pg_rewind) {
        users.insert("superuser".to_owned(), pg_rewind);
    }
    for (_, user) in users.iter_mut() {
        if let Value::Object(user) = user {
            user.retain(|name, _| AUTHENTICATION.contains(&name.as_str()));
        }
    }
}

/// The sentence about flags and priorities that contradict each other.
pub(crate) fn contradictory_tags(tags: &JsonMap) -> Vec<Warning> {
    let pairs = [("nofailover", "failover_priority"), ("nosync", "sync_priority")];
    let conflict = |(flag, priority): (&'static str, &'static str)| {
        let value = tags.get(flag)?;
        let number = tags.get(priority).and_then(|p| parse_int(p, None))?;
        let contradicts = patroni_core::tags::truthy(value) == (number > 0);
        contradicts.then(|| Warning::Tags { flag, value: value.clone(), priority, number })
    };
    pairs.into_iter().filter_map(conflict).collect()
}
