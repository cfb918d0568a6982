//! Reads typed values out of a mapping, and collects those that cannot be read. Null is a value that is not given.

use std::borrow::Cow;

use serde_json::Value;

use crate::JsonMap;
use crate::python::{PythonText, scalar_text};
use crate::tags::truthy;
use crate::units::{parse_bool, parse_int};

/// What a flag may be.
pub(super) const BOOLEAN: &str = "a boolean (on, off, true, false, yes, no)";

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{path} is {found}, but must be {allowed}")]
pub struct Unusable {
    /// The path of the setting, with dots.
    pub path: String,
    /// The value, in quotes; not shown if it may be secret.
    pub found: String,
    /// What is allowed.
    pub allowed: String,
}

impl Unusable {
    /// A finding about this value.
    pub fn new(path: impl Into<String>, value: &Value, allowed: impl Into<String>) -> Self {
        let path = path.into();
        let secret = ["password", "authentication", "token"].iter().any(|word| path.contains(word));
        let found = if secret { "not right".to_owned() } else { format!("\"{}\"", value.python_text()) };
        Unusable { path, found, allowed: allowed.into() }
    }
}

/// A mapping and what was wrong with it so far.
pub(super) struct Reader<'a> {
    map: &'a JsonMap,
    /// The path of the mapping with a dot behind it, or nothing.
    prefix: &'static str,
    unusable: Vec<Unusable>,
}

impl<'a> Reader<'a> {
    pub(super) fn of(map: &'a JsonMap, prefix: &'static str) -> Self {
        Reader { map, prefix, unusable: Vec::new() }
    }

    pub(super) fn into_unusable(self) -> Vec<Unusable> {
        self.unusable
    }

    pub(super) fn extend(&mut self, unusable: Vec<Unusable>) {
        self.unusable.extend(unusable);
    }

    /// The name is there, perhaps with null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    pub(super) fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A value that Python takes for true: Patroni looks at no other in sections and lists.
    pub(super) fn filled(&self, name: &str) -> Option<&'a Value> {
        self.value(name).filter(|value| truthy(value))
    }

    pub(super) fn refuse(&mut self, name: &str, value: &Value, allowed: &str) {
        self.unusable.push(Unusable::new(format!("{}{name}", self.prefix), value, allowed));
    }

    /// `on`, `off`, `true`, `false`, `yes`, `no`, `1`, `0`; what is empty is not given.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        let value = self.value(name)?;
        let flag = parse_bool(value);
        if flag.is_none() && truthy(value) {
            self.refuse(name, value, BOOLEAN);
        }
        flag
    }

    /// A whole number, in `unit` where one may be given.
    pub(super) fn int(&mut self, name: &str, unit: Option<&str>, allowed: &str) -> Option<i64> {
        let value = self.value(name)?;
        let number = parse_int(value, unit);
        if number.is_none() {
            self.refuse(name, value, allowed);
        }
        number
    }

    pub(super) fn mapping(&mut self, name: &str) -> Option<&'a JsonMap> {
        let value = self.filled(name)?;
        if !value.is_object() {
            self.refuse(name, value, "a mapping");
        }
        value.as_object()
    }

    /// A text or a number that is not empty.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let value = self.filled(name)?;
        let text = scalar_text(value).map(Cow::into_owned);
        if text.is_none() {
            self.refuse(name, value, "a text");
        }
        text
    }

    /// A list of texts, or a text whose parts are separated by commas.
    pub(super) fn words(&mut self, name: &str) -> Vec<String> {
        let Some(value) = self.filled(name) else { return Vec::new() };
        let words = match value {
            Value::Array(items) => items.iter().map(|item| scalar_text(item).map(Cow::into_owned)).collect(),
            Value::String(text) => {
                Some(text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        };
        words.unwrap_or_else(|| {
            self.refuse(name, value, "a list of texts");
            Vec::new()
        })
    }
}
