//! Numbers, booleans, sizes and times as PostgreSQL and Patroni read them in settings.
//!
//! A number may be decimal, octal (`070`), hexadecimal (`0x40`) or real, and may carry a unit that is converted to the
//! base unit of the setting. Units are case sensitive: `B kB MB GB TB`, `us ms s min h d`. Base units are
//! `B kB MB` and `ms s min`, also with a factor, as `pg_settings.unit` gives them (`8kB`, `16MB`).

use std::time::Duration;

use crate::python::{PythonText, general_text};

/// A duration as people read it: `40 ms`, `4.9 s`, `15 s`.
pub fn in_words(duration: Duration) -> String {
    let ms = duration.as_millis();
    match (ms + 50) / 100 {
        0..10 => format!("{ms} ms"),
        tenths @ 10..100 if tenths % 10 != 0 => format!("{}.{} s", tenths / 10, tenths % 10),
        tenths => format!("{} s", (tenths + 5) / 10),
    }
}

/// The value as an integer in `base_unit`, rounded half to even; `None` if it is not a number, its unit does not fit,
/// or it does not fit in 64 bits.
pub fn parse_int<T: PythonText + ?Sized>(value: &T, base_unit: Option<&str>) -> Option<i64> {
    let text = value.python_text();
    let (number, rest) = strtol(&text);
    if rest.starts_with(['.', 'e', 'E']) {
        let (number, rest) = strtod(&text);
        return rounded(with_unit(number?, rest, base_unit)?);
    }
    let number = number?;
    if rest.trim().is_empty() { Some(number) } else { rounded(with_unit(number as f64, rest, base_unit)?) }
}

/// The value as a real number in `base_unit`; `None` if it is not a number or its unit does not fit.
pub fn parse_real<T: PythonText + ?Sized>(value: &T, base_unit: Option<&str>) -> Option<f64> {
    let text = value.python_text();
    let (number, rest) = strtod(&text);
    with_unit(number?, rest, base_unit)
}

/// `on true yes 1` and `off false no 0`, in any case; anything else is neither.
pub fn parse_bool<T: PythonText + ?Sized>(value: &T) -> Option<bool> {
    crate::tags::parse_bool(&value.python_text())
}

/// Are a value of `pg_settings` and one of the configuration the same, read as `vartype` (`bool`, `integer`, `real`,
/// `enum`, anything else is a string)? `unit` is the unit of the setting; a value of `pg_settings` is already in it.
pub fn compare_values<S, C>(vartype: &str, unit: Option<&str>, settings_value: &S, config_value: &C) -> bool
where
    S: PythonText + ?Sized,
    C: PythonText + ?Sized,
{
    fn same<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
        a.is_some() && a == b
    }
    match vartype {
        "bool" => same(parse_bool(settings_value), parse_bool(config_value)),
        "integer" => same(parse_int(settings_value, None), parse_int(config_value, unit)),
        "real" => same(parse_real(settings_value, None), parse_real(config_value, unit)),
        "enum" => settings_value.python_text().to_lowercase() == config_value.python_text().to_lowercase(),
        _ => settings_value.python_text() == config_value.python_text(),
    }
}

/// The value of `pg_settings` for people: in the greatest unit that shows it without loss, else as it is.
pub fn maybe_convert_from_base_unit(base_value: &str, vartype: &str, base_unit: Option<&str>) -> String {
    let converted = match vartype {
        "integer" => parse_int(base_value, None).filter(|n| *n != 0).and_then(|n| int_with_unit(n, base_unit)),
        "real" => parse_real(base_value, None).filter(|n| *n != 0.0).and_then(|n| real_with_unit(n, base_unit)),
        _ => None,
    };
    converted.unwrap_or_else(|| base_value.to_owned())
}

/// Units from the greatest to the smallest, with how many of each base unit they are.
type Table = &'static [(&'static str, [f64; 3])];

const MEMORY_BASE: [&str; 3] = ["B", "kB", "MB"];
const MEMORY: Table = &[
    ("TB", [1_099_511_627_776.0, 1_073_741_824.0, 1_048_576.0]),
    ("GB", [1_073_741_824.0, 1_048_576.0, 1024.0]),
    ("MB", [1_048_576.0, 1024.0, 1.0]),
    ("kB", [1024.0, 1.0, 1.0 / 1024.0]),
    ("B", [1.0, 1.0 / 1024.0, 1.0 / 1_048_576.0]),
];
const TIME_BASE: [&str; 3] = ["ms", "s", "min"];
const TIME: Table = &[
    ("d", [86_400_000.0, 86_400.0, 1440.0]),
    ("h", [3_600_000.0, 3600.0, 60.0]),
    ("min", [60_000.0, 60.0, 1.0]),
    ("s", [1000.0, 1.0, 1.0 / 60.0]),
    ("ms", [1.0, 0.001, 1.0 / 60_000.0]),
    ("us", [0.001, 0.000_001, 1.0 / 60_000_000.0]),
];

/// The factor, the table and the column of a base unit such as `8kB`.
fn base(base_unit: Option<&str>) -> Option<(f64, Table, usize)> {
    let (factor, name) = strtol(base_unit?);
    let factor = factor.unwrap_or(1) as f64;
    let column = |names: [&str; 3]| names.iter().position(|n| *n == name);
    let (table, column) = match column(MEMORY_BASE) {
        Some(column) => (MEMORY, column),
        None => (TIME, column(TIME_BASE)?),
    };
    (factor != 0.0).then_some((factor, table, column))
}

fn with_unit(number: f64, unit: &str, base_unit: Option<&str>) -> Option<f64> {
    let unit = unit.trim();
    if unit.is_empty() {
        return Some(number);
    }
    let (factor, table, column) = base(base_unit)?;
    let index = table.iter().position(|(name, _)| *name == unit)?;
    let value = number * (table[index].1[column] / factor);
    Some(match table.get(index + 1) {
        // PostgreSQL rounds to a multiple of the next smaller unit.
        Some((_, smaller)) => (value / smaller[column]).round_ties_even() * smaller[column],
        None => value,
    })
}

fn int_with_unit(base_value: i64, base_unit: Option<&str>) -> Option<String> {
    let (factor, table, column) = base(base_unit)?;
    let value = base_value as f64 * factor;
    let (unit, multiplier) =
        table.iter().map(|(unit, row)| (unit, row[column])).find(|(_, m)| *m <= 1.0 || value % m == 0.0)?;
    Some(format!("{}{unit}", (value / multiplier).round_ties_even()))
}

fn real_with_unit(base_value: f64, base_unit: Option<&str>) -> Option<String> {
    let (factor, table, column) = base(base_unit)?;
    let mut text = None;
    for (unit, row) in table {
        let value = base_value * factor / row[column];
        text = Some(format!("{}{unit}", general_text(value)));
        if value > 0.0 && (value.round_ties_even() / value - 1.0).abs() <= 1e-8 {
            break;
        }
    }
    text
}

fn rounded(number: f64) -> Option<i64> {
    let number = number.round_ties_even();
    // 2^63 is the first number that does not fit.
    (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number).then_some(number as i64)
}

/// The integer at the beginning of a text, as C's `strtol` with base 0 finds it, and what follows.
fn strtol(text: &str) -> (Option<i64>, &str) {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let (radix, start) = match digits.strip_prefix("0x") {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, hex),
        Some(_) | None if digits.starts_with('0') => (8, digits),
        Some(_) | None => (10, digits),
    };
    let end = start.find(|c: char| !c.is_digit(radix)).unwrap_or(start.len());
    if end == 0 {
        return (None, text);
    }
    let (number, rest) = start.split_at(end);
    let signed = if negative { format!("-{number}") } else { number.to_owned() };
    (i64::from_str_radix(&signed, radix).ok(), rest)
}

/// The real number at the beginning of a text and what follows.
fn strtod(text: &str) -> (Option<f64>, &str) {
    let text = text.trim();
    let sign = usize::from(text.starts_with(['-', '+']));
    let whole = digits(&text[sign..]);
    let mut end = sign + whole;
    if text[end..].starts_with('.') {
        let fraction = digits(&text[end + 1..]);
        end += if fraction > 0 { fraction + 1 } else { 0 };
    }
    if end == sign {
        return (None, text);
    }
    end += exponent(&text[end..]);
    (text[..end].parse().ok(), &text[end..])
}

fn digits(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())
}

fn exponent(text: &str) -> usize {
    if !text.starts_with(['e', 'E']) {
        return 0;
    }
    let sign = 1 + usize::from(text[1..].starts_with(['-', '+']));
    match digits(&text[sign..]) {
        0 => 0,
        count => sign + count,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations() {
        let rows = [
            (0, "0 ms"),
            (40, "40 ms"),
            (949, "949 ms"),
            (950, "1 s"),
            (4933, "4.9 s"),
            (4960, "5 s"),
            (9950, "10 s"),
            (12_345, "12 s"),
            (12_500, "13 s"),
        ];
        for (ms, expected) in rows {
            assert_eq!(super::in_words(std::time::Duration::from_millis(ms)), expected, "{ms}");
        }
    }
    use super::*;
    use serde_json::json;

    /// Results of Patroni 4.1.5.
    #[test]
    fn integers() {
        let rows = [
            ("1", None, Some(1)),
            (" 0x400 MB ", Some("16384kB"), Some(64)),
            ("1MB", Some("kB"), Some(1024)),
            ("1000 ms", Some("s"), Some(1)),
            ("1TB", Some("GB"), None),
            ("nonsense", None, None),
            ("nonsense", Some("kB"), None),
            ("6GB", Some("16MB"), Some(384)),
            ("4097.4kB", Some("kB"), Some(4097)),
            ("4097.5kB", Some("kB"), Some(4098)),
            ("1gB", Some("MB"), None),
            ("1GB", Some("512 MB"), None),
            ("-070", None, Some(-56)),
            ("08", None, None),
            ("0.5", None, Some(0)),
            ("1.5", None, Some(2)),
            (".5", None, Some(0)),
            (".6", None, Some(1)),
            ("1e3", None, Some(1000)),
            ("1e", None, None),
            ("1.", None, None),
            ("e5", None, None),
            ("1 d", Some("min"), Some(1440)),
            ("30min", Some("s"), Some(1800)),
            ("0x", None, None),
            ("", None, None),
            ("+5", None, Some(5)),
            ("99999us", Some("ms"), Some(100)),
            ("99999999999999999999", None, None),
        ];
        for (text, unit, expected) in rows {
            assert_eq!(parse_int(text, unit), expected, "{text:?} in {unit:?}");
        }
        assert_eq!(parse_int(&json!(50), None), Some(50));
        assert_eq!(parse_int(&json!(50.5), None), Some(50));
        assert_eq!(parse_int(&json!("51"), None), Some(51));
        assert_eq!(parse_int(&json!(true), None), None);
        assert_eq!(parse_int(&json!(null), None), None);
        assert_eq!(parse_int(&json!(1e16), None), Some(10_000_000_000_000_000));
    }

    #[test]
    fn reals() {
        let rows = [
            (" +0.0005 ", None, Some(0.0005)),
            ("0.0005ms", Some("ms"), Some(0.0)),
            ("0.00051ms", Some("ms"), Some(0.001)),
            ("1.5A", None, None),
            ("8.325e-10", None, Some(8.325e-10)),
            ("2s", Some("ms"), Some(2000.0)),
            ("A", None, None),
        ];
        for (text, unit, expected) in rows {
            assert_eq!(parse_real(text, unit), expected, "{text:?} in {unit:?}");
        }
    }

    #[test]
    fn comparison() {
        let rows = [
            ("enum", None, json!("remote_write"), json!("REMOTE_WRITE"), true),
            ("string", None, json!("remote_write"), json!("REMOTE_WRITE"), false),
            ("real", None, json!("1e-06"), json!(0.000001), true),
            ("integer", Some("MB"), json!("6GB"), json!("6GB"), false),
            ("integer", None, json!("6GB"), json!("6GB"), false),
            ("integer", Some("16384kB"), json!("64"), json!(" 0x400 MB "), true),
            ("integer", Some("2MB"), json!(524288), json!("1TB"), true),
            ("integer", Some("MB"), json!(1048576), json!("1TB"), true),
            ("integer", Some("kB"), json!(4098), json!("4097.5kB"), true),
            ("bool", None, json!("on"), json!(true), true),
            ("bool", None, json!("x"), json!("x"), false),
        ];
        for (vartype, unit, a, b, expected) in rows {
            assert_eq!(compare_values(vartype, unit, &a, &b), expected, "{vartype} {unit:?} {a} {b}");
        }
    }

    #[test]
    fn for_people() {
        let rows = [
            ("5", "integer", Some("ms"), "5ms"),
            ("4.2", "real", Some("ms"), "4200us"),
            ("on", "bool", None, "on"),
            ("", "integer", Some("256MB"), ""),
            ("1024", "integer", Some("kB"), "1MB"),
            ("1025", "integer", Some("kB"), "1025kB"),
            ("4", "integer", Some("256MB"), "1GB"),
            ("4", "integer", Some("256 MB"), "4"),
            ("1024", "integer", Some("KB"), "1024"),
            ("-1", "integer", Some("ms"), "-1ms"),
            ("2.5", "real", Some("ms"), "2500us"),
            ("4.0", "real", Some("256MB"), "1GB"),
            ("0", "integer", Some("s"), "0"),
        ];
        for (value, vartype, unit, expected) in rows {
            assert_eq!(maybe_convert_from_base_unit(value, vartype, unit), expected, "{value} {vartype} {unit:?}");
        }
    }
}
