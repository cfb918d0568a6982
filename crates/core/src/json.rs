//! JSON as Python's `json.dumps` writes it: nothing but ASCII, floats by their `repr`. What goes to stores and over REST is
//! compared byte for byte with what Patroni writes.

use std::fmt::Write;

use serde_json::{Number, Value};

use crate::python::float_text;

/// What stands between items, and between a key and its value.
type Separators = (&'static str, &'static str);

/// The text of a value as `json.dumps(value)` gives it, with a blank after `,` and `:`: REST bodies and output for programs.
pub fn spaced(value: &Value) -> String {
    text(value, (", ", ": "))
}

/// The text of a value as `json.dumps(value, separators=(',', ':'))` gives it: what is kept in stores.
pub fn compact(value: &Value) -> String {
    text(value, (",", ":"))
}

fn text(value: &Value, separators: Separators) -> String {
    let mut out = String::with_capacity(256);
    write_value(&mut out, value, separators);
    out
}

fn write_value(out: &mut String, value: &Value, (comma, colon): Separators) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { comma } else { "" });
                write_value(out, item, (comma, colon));
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (index, (key, item)) in map.iter().enumerate() {
                out.push_str(if index > 0 { comma } else { "" });
                write_string(out, key);
                out.push_str(colon);
                write_value(out, item, (comma, colon));
            }
            out.push('}');
        }
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
    fn spaced_as_python_writes_it() {
        let rows = [
            (json!({}), "{}"),
            (json!([]), "[]"),
            (json!({"b": [1, 2.0, null], "a": {"x": true}}), r#"{"b": [1, 2.0, null], "a": {"x": true}}"#),
            (json!("é\u{1F600}\"\\\n\u{7f}\u{1}"), r#""\u00e9\ud83d\ude00\"\\\n\u007f\u0001""#),
            (json!([1e16, 0.00001, 18446744073709551615u64, -1]), "[1e+16, 1e-05, 18446744073709551615, -1]"),
        ];
        for (value, text) in rows {
            assert_eq!(spaced(&value), text);
        }
    }

    /// Recorded from `json.dumps(json.loads(TEXT), separators=(',', ':'))` of Python 3.11.
    #[test]
    fn compact_as_python_writes_it() {
        for (given, expected) in [
            (r#"{"b": 1, "a": [1, 2.0, true, null]}"#, r#"{"b":1,"a":[1,2.0,true,null]}"#),
            (r#""Zoë 𝄞 \u007f/\b\f\u0001""#, r#""Zo\u00eb \ud834\udd1e \u007f/\b\f\u0001""#),
            (
                "[1e16, 1e15, 1e-5, 0.0001, 1.5e300, -0.0, 123456789.125]",
                "[1e+16,1000000000000000.0,1e-05,0.0001,1.5e+300,-0.0,123456789.125]",
            ),
            ("[18446744073709551615, -9223372036854775808]", "[18446744073709551615,-9223372036854775808]"),
            (r#""a\"b\\c\n\t\r""#, r#""a\"b\\c\n\t\r""#),
            ("{}", "{}"),
            ("[]", "[]"),
        ] {
            let value: Value = serde_json::from_str(given).expect("the row is JSON");
            assert_eq!(compact(&value), expected);
        }
    }

    #[test]
    fn keys_keep_their_order() {
        let value = json!({"b": [1, 2.0, null], "a": {"x": "é\u{1F600}"}});
        assert_eq!(spaced(&value), r#"{"b": [1, 2.0, null], "a": {"x": "\u00e9\ud83d\ude00"}}"#);
    }
}
