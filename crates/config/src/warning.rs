//! What is wrong with a configuration but does not stop us. The sentences are Patroni's where it has one.

use patroni_core::python::{PythonText, quoted};
use patroni_core::settings::{Adjustment, Unusable};
use serde_json::Value;

use crate::origin::Origin;

/// A finding to log at level WARNING.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Warning {
    /// A time-out had to be changed.
    #[error(transparent)]
    Adjusted(Adjustment),
    /// A flag and a priority contradict each other.
    #[error(
        "Conflicting configuration between {flag}: {} and {priority}: {number}. Defaulting to {flag}: {}",
        value.python_text(),
        value.python_text()
    )]
    Tags {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: Value,
        /// The priority.
        priority: &'static str,
        /// Its value.
        number: i64,
    },
    /// A parameter of the dynamic configuration was refused.
    #[error("postgresql parameter {name}={} failed validation, defaulting to {}", value.python_text(), default.python_text())]
    Parameter {
        /// The parameter.
        name: String,
        /// The value refused.
        value: Value,
        /// The value in force.
        default: Value,
        /// The same, as it is said before the value is stored.
        what: Unusable,
    },
    /// The dynamic configuration cannot be used; the one before stays.
    #[error("Exception when setting dynamic_configuration: {0}; the settings before stay in force")]
    Dynamic(String),
    /// A key that nobody reads.
    #[error("{origin}: unknown setting {path}{}", suggestion(nearest.as_deref()))]
    Unknown {
        /// The path of the setting.
        path: String,
        /// Where it stands.
        origin: Origin,
        /// A known setting with a similar name.
        nearest: Option<String>,
    },
    /// A setting of the past, or in a place where nobody reads it.
    #[error("{origin}: the setting {path} has no effect; {instead}")]
    Replaced {
        /// The path of the setting.
        path: String,
        /// Where it stands.
        origin: Origin,
        /// What to use instead.
        instead: &'static str,
    },
    /// A value of the dynamic configuration has the wrong type; the default is used.
    #[error("{0}; using the default")]
    Value(crate::error::WrongValue),
    /// The name cannot stand in the lists of `/sync`.
    #[error(
        "{origin}: the name {name:?} has a comma, or spaces around it, so that /sync cannot hold it: this node is never a synchronous standby; choose another name"
    )]
    Name {
        /// Where it stands.
        origin: Origin,
        /// It.
        name: String,
    },
    /// A variable cannot be parsed.
    #[error("Exception when parsing {what} {}: {error}; the variable is ignored", quoted(variable))]
    Environment {
        /// The variable; its value may be secret.
        variable: String,
        /// `list` or `dict`.
        what: &'static str,
        /// Why.
        error: String,
    },
    /// The local copy of the dynamic configuration cannot be read.
    #[error("Exception when loading file: {path}: {error}; waiting for the configuration in the store")]
    Cache {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}
