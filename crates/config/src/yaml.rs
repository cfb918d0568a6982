//! YAML as PyYAML's `safe_load` and `safe_dump` read and write it: YAML 1.1 scalars, merge keys, the last of two equal
//! keys wins. Every node knows its line and column.
//!
//! Dates stay texts; keys that are not texts become the texts that Python's `json.dumps` makes of them.

mod emit;
mod load;
mod scalar;

use serde_json::Value;

pub use emit::{Style, dump, dump_with};
pub use load::{YamlError, parse};

/// A place in a file; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub data: Data,
    /// Where it begins.
    pub mark: Mark,
}

/// What a YAML document can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `null`, `~`, or nothing.
    Null,
    /// `on`, `off`, `yes`, `no`, `true`, `false`.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// A real number.
    Float(f64),
    /// A text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub mark: Mark,
    /// The value.
    pub value: Node,
}

impl Node {
    /// The value as JSON. What JSON cannot hold (infinity, an integer of more than 64 bits) becomes its YAML text.
    pub fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(b) => Value::Bool(*b),
            Data::Int(n) => int_to_json(*n),
            Data::Float(f) => {
                serde_json::Number::from_f64(*f).map_or_else(|| Value::String(special(*f)), Value::Number)
            }
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Data::Map(entries) => Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect()),
        }
    }
}

fn int_to_json(number: i128) -> Value {
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(n), _) => n.into(),
        (_, Ok(n)) => n.into(),
        _ => Value::String(number.to_string()),
    }
}

fn special(number: f64) -> String {
    if number.is_nan() {
        ".nan"
    } else if number > 0.0 {
        ".inf"
    } else {
        "-.inf"
    }
    .to_owned()
}
