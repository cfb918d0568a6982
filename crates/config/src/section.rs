//! Reads typed values out of the merged tree, and collects what cannot be read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use patroni_core::JsonMap;
use patroni_core::python::{PythonText, scalar_text};
use patroni_core::settings::Unusable;
use patroni_core::tags::truthy;
use patroni_core::units::{parse_bool, parse_int};
use serde_json::Value;

use crate::error::WrongValue;
use crate::origin::Origins;
use crate::secret::Secret;

/// One section of the tree.
pub(crate) struct Section<'a> {
    path: String,
    map: &'a JsonMap,
    context: &'a Context<'a>,
}

/// What all sections share: where settings come from, and the findings.
pub(crate) struct Context<'a> {
    pub(crate) origins: &'a Origins,
    pub(crate) wrong: std::cell::RefCell<Vec<WrongValue>>,
}

static EMPTY: std::sync::LazyLock<JsonMap> = std::sync::LazyLock::new(JsonMap::new);

impl<'a> Section<'a> {
    pub(crate) fn root(map: &'a JsonMap, context: &'a Context<'a>) -> Section<'a> {
        Section { path: String::new(), map, context }
    }

    /// A section below this one; empty if it is absent.
    pub(crate) fn section(&self, name: &str) -> Section<'a> {
        let path = self.path_of(name);
        let map = match self.map.get(name) {
            Some(Value::Object(map)) => map,
            None => &*EMPTY,
            Some(value) => {
                if truthy(value) {
                    self.refuse(name, value, "a mapping");
                }
                &*EMPTY
            }
        };
        Section { path, map, context: self.context }
    }

    pub(crate) fn map(&self) -> &'a JsonMap {
        self.map
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A value that is there; null is not.
    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    pub(crate) fn refuse(&self, name: &str, value: &Value, allowed: &str) {
        let what = Unusable::new(self.path_of(name), value, allowed);
        let origin = self.context.origins.of(&what.path).clone();
        self.context.wrong.borrow_mut().push(WrongValue { origin, what });
    }

    /// A text; numbers and booleans become their text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::String(text) => Some(text.clone()),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.python_text().into_owned()),
            value => {
                if truthy(value) {
                    self.refuse(name, value, "a text");
                }
                None
            }
        }
    }

    /// A text that is not empty.
    pub(crate) fn filled(&self, name: &str) -> Option<String> {
        self.text(name).filter(|text| !text.is_empty())
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.filled(name).map(PathBuf::from)
    }

    pub(crate) fn secret(&self, name: &str) -> Option<Secret> {
        self.text(name).map(Secret::new)
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        let value = self.value(name).filter(|v| truthy(v) || v.is_boolean() || v.is_number())?;
        let flag = parse_bool(value);
        if flag.is_none() {
            self.refuse(name, value, "a boolean (on, off, true, false, yes, no)");
        }
        flag
    }

    /// An integer in `unit`, at least `min`.
    pub(crate) fn int(&self, name: &str, unit: Option<&str>, min: i64) -> Option<i64> {
        let value = self.value(name).filter(|v| **v != Value::String(String::new()))?;
        let number = parse_int(value, unit).filter(|n| *n >= min);
        if number.is_none() {
            self.refuse(name, value, &format!("an integer of at least {min}"));
        }
        number
    }

    /// One of several words, in any case; gives the word as listed.
    pub(crate) fn word(&self, name: &str, words: &[&'static str]) -> Option<&'static str> {
        let value = self.value(name).filter(|v| truthy(v))?;
        let word = words.iter().find(|w| w.eq_ignore_ascii_case(&value.python_text())).copied();
        if word.is_none() {
            self.refuse(name, value, &format!("one of {}", words.join(", ")));
        }
        word
    }

    /// A list of texts. A dash with nothing behind it is no item.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let Some(value) = self.value(name).filter(|value| truthy(value)) else { return Vec::new() };
        let texts = value.as_array().and_then(|items| {
            let given = items.iter().filter(|item| !item.is_null());
            given.map(|item| scalar_text(item).map(Cow::into_owned)).collect::<Option<Vec<_>>>()
        });
        texts.unwrap_or_else(|| {
            self.refuse(name, value, "a list of texts");
            Vec::new()
        })
    }

    /// A list of texts, or one text whose parts are separated by commas.
    pub(crate) fn words(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::String(text)) => {
                text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
            }
            _ => self.texts(name),
        }
    }

    /// A mapping of texts.
    pub(crate) fn text_map(&self, name: &str) -> BTreeMap<String, String> {
        let section = self.section(name);
        let text = |(name, value): (&String, &Value)| Some((name.clone(), section.text_of(name, value)?));
        section.map.iter().filter_map(text).collect()
    }

    fn text_of(&self, name: &str, value: &Value) -> Option<String> {
        if value.is_null() { None } else { self.text(name) }
    }

    /// A mapping whose values have a text or are null, as it is written; others are left out.
    pub(crate) fn scalars(&self, name: &str) -> JsonMap {
        let section = self.section(name);
        let has_text = |(name, value): &(&String, &Value)| {
            let fits = value.is_null() || scalar_text(value).is_some();
            if !fits {
                section.refuse(name, value, "a text, a number or a boolean");
            }
            fits
        };
        section.map.iter().filter(has_text).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// A mapping as it is written.
    pub(crate) fn raw(&self, name: &str) -> JsonMap {
        self.section(name).map.clone()
    }
}
