//! JSON text as Python's `json.dumps(value, separators=(',', ':'))` writes it: no spaces, ASCII only.

use std::fmt::Write;

use serde_json::{Number, Value};

/// The text of a value.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(string) => write_string(out, string),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(out, key);
                out.push(':');
                write_value(out, item);
            }
            out.push('}');
        }
    }
}

fn write_string(out: &mut String, string: &str) {
    out.push('"');
    for c in string.chars() {
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
                    push_fmt(out, format_args!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

fn write_number(out: &mut String, number: &Number) {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => write_float(out, float),
        None => push_fmt(out, format_args!("{number}")),
    }
}

/// Python's `repr`: the shortest digits that read back the same, with an exponent below 1e-4 and from 1e16 on.
fn write_float(out: &mut String, float: f64) {
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float == 0.0 || (-4..16).contains(&exponent) {
        push_fmt(out, format_args!("{float:?}"));
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        push_fmt(out, format_args!("{mantissa}e{sign}{:02}", exponent.abs()));
    }
}

fn push_fmt(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from `json.dumps(json.loads(TEXT), separators=(',', ':'))` of Python 3.11.
    #[test]
    fn text_is_what_python_writes() {
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
            assert_eq!(text(&value), expected);
        }
    }
}
