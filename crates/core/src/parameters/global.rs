//! Parameters that must be the same on all members: set in the store only, and passed on the command line, so that
//! `ALTER SYSTEM` cannot change them.

use serde_json::Value;

use super::Parameters;
use crate::python::PythonText;
use crate::units::{parse_bool, parse_int};

/// A parameter of the command line.
#[derive(Clone, Copy, Debug)]
pub struct CommandLineOption {
    /// Its name.
    pub name: &'static str,
    /// The value where none is given, or a wrong one; a number where PostgreSQL's is one.
    default: Fallback,
    /// What the store may say.
    pub rule: GlobalRule,
}

impl CommandLineOption {
    /// The value where none is given, or a wrong one; `None` where the node supplies it.
    pub fn default(&self) -> Option<Value> {
        match self.default {
            Fallback::None => None,
            Fallback::Word(word) => Some(word.into()),
            Fallback::Number(number) => Some(number.into()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fallback {
    None,
    Word(&'static str),
    Number(i64),
}

/// Which values of a global parameter are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalRule {
    /// None: the node's own configuration decides.
    Never,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any boolean.
    Bool,
    /// Only true.
    True,
    /// A number from this on, in this unit.
    AtLeast(i64, Option<&'static str>),
}

/// All of them, in the order of the command line (`ConfigHandler.CMDLINE_OPTIONS` of Patroni 4.1).
pub const GLOBAL: [CommandLineOption; 15] = {
    use Fallback::{None as No, Number, Word};
    use GlobalRule::{AtLeast, Bool, Never, True};
    const fn option(name: &'static str, default: Fallback, rule: GlobalRule) -> CommandLineOption {
        CommandLineOption { name, default, rule }
    }
    [
        option("listen_addresses", No, Never),
        option("port", No, Never),
        option("cluster_name", No, Never),
        option("wal_level", Word("hot_standby"), GlobalRule::Word(&["hot_standby", "replica", "logical"])),
        option("hot_standby", Word("on"), True),
        option("max_connections", Number(100), AtLeast(25, None)),
        option("max_wal_senders", Number(10), AtLeast(3, None)),
        option("wal_keep_segments", Number(8), AtLeast(1, None)),
        option("wal_keep_size", Word("128MB"), AtLeast(16, Some("MB"))),
        option("max_prepared_transactions", Number(0), AtLeast(0, None)),
        option("max_locks_per_transaction", Number(64), AtLeast(32, None)),
        option("track_commit_timestamp", Word("off"), Bool),
        option("max_replication_slots", Number(10), AtLeast(4, None)),
        option("max_worker_processes", Number(8), AtLeast(2, None)),
        option("wal_log_hints", Word("on"), Bool),
    ]
};

/// The options for the start of PostgreSQL: `--max_connections=100` and so on, as many as are set.
pub fn command_line(parameters: &Parameters) -> Vec<String> {
    let names = GLOBAL.iter().map(|option| option.name).filter(|name| !name.starts_with("wal_keep_"));
    names.filter_map(|name| Some(format!("--{name}={}", parameters.text(name)?))).collect()
}

/// Checks a value from the store. Parameters that are not global pass.
///
/// # Errors
/// The value is not accepted, and the default takes its place; the text says so.
pub fn check_global_parameter(name: &str, value: &Value) -> Result<Value, String> {
    let Some(option) = GLOBAL.iter().find(|option| option.name.eq_ignore_ascii_case(name)) else {
        return Ok(value.clone());
    };
    let accepted = match option.rule {
        GlobalRule::Never => None,
        GlobalRule::Word(words) => {
            value.as_str().filter(|w| words.contains(&w.to_lowercase().as_str())).map(|_| value.clone())
        }
        GlobalRule::Bool => parse_bool(value).map(|_| value.clone()),
        GlobalRule::True => parse_bool(value).filter(|on| *on).map(|_| value.clone()),
        GlobalRule::AtLeast(min, unit) => parse_int(value, unit)
            .filter(|number| *number >= min)
            // A plain number is kept as such, one with a unit as it was written.
            .map(|_| parse_int(value, None).map_or_else(|| value.clone(), Value::from)),
    };
    accepted.ok_or_else(|| {
        let default = option.default().unwrap_or(Value::Null);
        format!(
            "postgresql parameter {name}={} failed validation, defaulting to {}",
            value.python_text(),
            default.python_text()
        )
    })
}
