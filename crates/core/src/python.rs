//! How Python prints the values that JSON and YAML can hold.
//!
//! Patroni compares settings by their text and puts that text into messages and into the keys of the store. Members
//! of a mixed cluster and people's tools read it, so it has to be the same text.

use std::borrow::Cow;

use serde_json::{Number, Value};

/// Something that Python's `str()` turns into text.
pub trait PythonText {
    /// The text of Python's `str()`.
    fn python_text(&self) -> Cow<'_, str>;
}

impl PythonText for str {
    fn python_text(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl PythonText for String {
    fn python_text(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl PythonText for Value {
    fn python_text(&self) -> Cow<'_, str> {
        match self {
            Value::String(text) => Cow::Borrowed(text),
            other => Cow::Owned(repr(other)),
        }
    }
}

/// The text of a value that has one: a text, a number or a boolean. Null, lists and mappings have none, and must not get into a
/// command or a file as what Python would print for them.
pub fn scalar_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => Some(value.python_text()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The text of Python's `repr()`.
pub fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number_text(number),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(repr))),
        Value::Object(map) => format!("{{{}}}", joined(map.iter().map(|(k, v)| format!("{}: {}", quoted(k), repr(v))))),
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// The text of Python's `repr()` of a string: single quotes, unless only these occur in it.
pub fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 || (0x7f..0xa1).contains(&u32::from(c)) || c == '\u{ad}' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

fn number_text(number: &Number) -> String {
    if number.is_f64() { float_text(number.as_f64().unwrap_or_default()) } else { number.to_string() }
}

/// The text of Python's `repr()` of a float: the shortest digits that read back as the same number, with an exponent
/// below 1e-4 and from 1e16 on.
pub fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if number != 0.0 && !(-4..16).contains(&exponent) {
        return format!("{mantissa}{}", exponent_text(exponent));
    }
    let plain = format!("{number}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// The text of Python's (and C's) `%g`: six significant digits, without trailing zeros.
pub fn general_text(number: f64) -> String {
    if !number.is_finite() {
        return float_text(number);
    }
    let scientific = format!("{number:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or_default();
        return without_trailing_zeros(&format!("{number:.decimals$}")).to_owned();
    }
    format!("{}{}", without_trailing_zeros(mantissa), exponent_text(exponent))
}

fn exponent_text(exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("e{sign}{:02}", exponent.abs())
}

fn without_trailing_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_print_as_in_python() {
        let rows = [
            (json!(null), "None"),
            (json!(true), "True"),
            (json!(12), "12"),
            (json!(1.0), "1.0"),
            (json!(1e16), "1e+16"),
            (json!(1e15), "1000000000000000.0"),
            (json!(0.0001), "0.0001"),
            (json!(0.00001), "1e-05"),
            (json!(1.5e-7), "1.5e-07"),
            (json!(-0.0), "-0.0"),
            (json!("it's"), "\"it's\""),
            (json!("a'\"b\\\n\u{1}é"), "'a\\'\"b\\\\\\n\\x01é'"),
            (
                json!({"nofailover": true, "p": "1", "l": [1, "x", null]}),
                "{'nofailover': True, 'p': '1', 'l': [1, 'x', None]}",
            ),
        ];
        for (value, text) in rows {
            assert_eq!(repr(&value), text);
        }
        assert_eq!(json!("plain").python_text(), "plain");
    }

    #[test]
    fn general_format() {
        let rows = [
            (5.0, "5"),
            (2500.0, "2500"),
            (0.5, "0.5"),
            (1e6, "1e+06"),
            (123456.7, "123457"),
            (0.00012345678, "0.000123457"),
            (0.000012, "1.2e-05"),
            (0.0, "0"),
        ];
        for (number, text) in rows {
            assert_eq!(general_text(number), text);
        }
    }
}
