//! JSON as Python's `json.dumps` writes it by default: a blank after `,` and `:`, and nothing but ASCII.
//!
//! People grep these bodies and compare them with what Patroni answered; so they are the same byte for byte.

use std::fmt::Write;

use patroni_core::python::float_text;
use serde_json::{Number, Value};

/// The text of a value.
pub(crate) fn dumps(value: &Value) -> String {
    let mut out = String::with_capacity(256);
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                separate(out, index);
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (index, (key, item)) in map.iter().enumerate() {
                separate(out, index);
                write_string(out, key);
                out.push_str(": ");
                write_value(out, item);
            }
            out.push('}');
        }
    }
}

fn separate(out: &mut String, index: usize) {
    if index > 0 {
        out.push_str(", ");
    }
}

fn write_number(out: &mut String, number: &Number) {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => out.push_str(&float_text(float)),
        None => out.push_str(&number.to_string()),
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_python_writes_it() {
        let rows = [
            (json!({}), "{}"),
            (json!([]), "[]"),
            (json!({"b": [1, 2.0, null], "a": {"x": true}}), r#"{"b": [1, 2.0, null], "a": {"x": true}}"#),
            (json!("é\u{1F600}\"\\\n\u{7f}\u{1}"), r#""\u00e9\ud83d\ude00\"\\\n\u007f\u0001""#),
            (json!([1e16, 0.00001, 18446744073709551615u64, -1]), "[1e+16, 1e-05, 18446744073709551615, -1]"),
        ];
        for (value, text) in rows {
            assert_eq!(dumps(&value), text);
        }
    }
}
