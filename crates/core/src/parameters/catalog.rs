//! Which parameters a version of PostgreSQL has, and which values they take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value;

use crate::python::PythonText;
use crate::units::{parse_bool, parse_int, parse_real};

/// What becomes of a value that was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The value to write; `None` to leave the parameter out.
    pub value: Option<Value>,
    /// What is wrong with the one configured.
    pub warning: Option<String>,
}

impl Checked {
    fn keep(value: &Value) -> Self {
        Checked { value: Some(value.clone()), warning: None }
    }

    fn drop_with(warning: String) -> Self {
        Checked { value: None, warning: Some(warning) }
    }
}

/// Checks a parameter for `postgresql.conf`, for a server of `version` (`server_version_num`). `available` are the names
/// (lower case) that this very server says it has (`postgres --describe-config`): they are let through though nothing is known of
/// them here. Names with a dot belong to extensions and pass; recovery parameters are left out, they are written apart.
pub fn check_server_parameter(version: u32, name: &str, value: &Value, available: &BTreeSet<String>) -> Checked {
    let lower = name.to_lowercase();
    if name.contains('.') && !CATALOG.server.contains_key(&lower) {
        return Checked::keep(value);
    }
    if is_recovery_parameter(name) {
        return Checked { value: None, warning: None };
    }
    check(&CATALOG.server, version, name, value, available)
}

/// As [`check_server_parameter`], for a recovery parameter.
pub fn check_recovery_parameter(version: u32, name: &str, value: &Value, available: &BTreeSet<String>) -> Checked {
    check(&CATALOG.recovery, version, name, value, available)
}

/// The parameter is about recovery: before version 12 it belonged into `recovery.conf`.
pub fn is_recovery_parameter(name: &str) -> bool {
    let name = name.to_lowercase();
    CATALOG.recovery.contains_key(&name) || FORMER_RECOVERY_PARAMETERS.contains(&name.as_str())
}

/// The recovery parameters that some version from 13 on has.
pub fn recovery_parameters() -> impl Iterator<Item = &'static str> {
    CATALOG.recovery.keys().map(String::as_str)
}

/// Recovery parameters that no supported version has any more. They may still be configured, and are left out.
const FORMER_RECOVERY_PARAMETERS: [&str; 3] = ["pause_at_recovery_target", "standby_mode", "trigger_file"];

fn check(rules: &Rules, version: u32, name: &str, value: &Value, available: &BTreeSet<String>) -> Checked {
    let lower = name.to_lowercase();
    let rule = rules.get(&lower).and_then(|rules| rules.iter().find(|rule| rule.applies_to(version)));
    match rule {
        Some(rule) => rule.kind.check(name, value),
        None if available.contains(&lower) => Checked::keep(value),
        None => Checked::drop_with(format!(
            "Removing unexpected parameter={name} value={} from the config",
            value.python_text()
        )),
    }
}

type Rules = BTreeMap<String, Vec<Rule>>;

struct Catalog {
    recovery: Rules,
    server: Rules,
}

struct Rule {
    from: u32,
    till: Option<u32>,
    kind: Kind,
}

impl Rule {
    fn applies_to(&self, version: u32) -> bool {
        version >= self.from && self.till.is_none_or(|till| version < till)
    }
}

enum Kind {
    Bool,
    Integer(Range),
    Real(Range),
    Enum { words: Vec<String>, or_bool: bool },
    Text,
}

/// Limits in `unit`, as they are written.
struct Range {
    min: String,
    max: String,
    unit: Option<String>,
}

impl Kind {
    fn check(&self, name: &str, value: &Value) -> Checked {
        let text = value.python_text();
        let invalid = |kind: &str| {
            Checked::drop_with(format!(
                "Removing {kind} parameter={name} from the config due to the invalid value={text}"
            ))
        };
        match self {
            Kind::Text => Checked::keep(value),
            Kind::Bool if parse_bool(value).is_some() => Checked::keep(value),
            Kind::Bool => invalid("bool"),
            Kind::Enum { or_bool: true, .. } if parse_bool(value).is_some() => Checked::keep(value),
            Kind::Enum { words, .. } if words.contains(&text.to_lowercase()) => Checked::keep(value),
            Kind::Enum { .. } => invalid("enum"),
            // Within 2^53, where every number of the catalogue lies, comparing as f64 is exact.
            Kind::Integer(range) => match parse_int(value, range.unit.as_deref()) {
                Some(number) => range.clamp(name, value, number as f64),
                None => invalid("integer"),
            },
            Kind::Real(range) => match parse_real(value, range.unit.as_deref()) {
                Some(number) => range.clamp(name, value, number),
                None => invalid("real"),
            },
        }
    }
}

impl Range {
    fn clamp(&self, name: &str, value: &Value, number: f64) -> Checked {
        let limit = |text: &str| text.parse().unwrap_or(f64::NAN);
        let (bound, sentence) = if number < limit(&self.min) {
            (&self.min, "too low, increasing")
        } else if number > limit(&self.max) {
            (&self.max, "too big, decreasing")
        } else {
            return Checked::keep(value);
        };
        let unit = self.unit.as_deref().unwrap_or_default();
        let warning = format!("Value={} of parameter={name} is {sentence} to {bound}{unit}", value.python_text());
        Checked { value: Some(Value::String(bound.clone())), warning: Some(warning) }
    }
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let mut catalog = Catalog { recovery: Rules::new(), server: Rules::new() };
    let mut in_recovery = false;
    for line in include_str!("catalog.txt").lines().filter(|line| !line.starts_with('#')) {
        match line {
            "[recovery_parameters]" => in_recovery = true,
            "[parameters]" => in_recovery = false,
            line => {
                let Some((name, rule)) = parse_rule(line) else {
                    continue;
                };
                let rules = if in_recovery { &mut catalog.recovery } else { &mut catalog.server };
                rules.entry(name.to_lowercase()).or_default().push(rule);
            }
        }
    }
    catalog
});

fn parse_rule(line: &str) -> Option<(&str, Rule)> {
    let mut words = line.split(' ');
    let (name, kind) = (words.next()?, words.next()?);
    let (mut range, mut unit, mut values, mut from, mut till) = (None, None, Vec::new(), 0, None);
    for word in words {
        if let Some(versions) = word.strip_prefix("versions=") {
            let (first, last) = versions.split_once('-')?;
            from = if first.is_empty() { 0 } else { first.parse().ok()? };
            till = if last.is_empty() { None } else { Some(last.parse().ok()?) };
        } else if let Some(text) = word.strip_prefix("unit=") {
            unit = Some(text.to_owned());
        } else if let Some(pair) = word.split_once("..") {
            range = Some(pair);
        } else {
            values = word.split(',').map(str::to_owned).collect();
        }
    }
    let range = range.map(|(min, max)| Range { min: min.to_owned(), max: max.to_owned(), unit });
    let kind = match (kind, range) {
        ("bool", None) => Kind::Bool,
        ("string", None) => Kind::Text,
        ("int", Some(range)) => Kind::Integer(range),
        ("real", Some(range)) => Kind::Real(range),
        ("enum", None) => Kind::Enum { words: values, or_bool: false },
        ("enumbool", None) => Kind::Enum { words: values, or_bool: true },
        _ => return None,
    };
    Some((name, Rule { from, till, kind }))
}
