//! Values of PostgreSQL as the reference's driver gives them to Python, which prints them.

use serde_json::Value;
use tokio_postgres::types::{Kind, Type};

/// The value of a text that PostgreSQL sent. Without a type it stays a text.
pub(crate) fn of_text(text: Option<&str>, of: Option<&Type>) -> Value {
    let Some(text) = text else { return Value::Null };
    let Some(of) = of else { return text.into() };
    if let Kind::Array(element) = of.kind() {
        return array(text, element).unwrap_or_else(|| text.into());
    }
    match *of {
        Type::BOOL => (text == "t").into(),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => {
            text.parse::<i64>().map_or_else(|_| text.into(), Value::from)
        }
        Type::FLOAT4 | Type::FLOAT8 => float(text),
        Type::JSON | Type::JSONB => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME | Type::TIMETZ => time(text).into(),
        Type::BYTEA => bytes(text).into(),
        Type::INTERVAL => interval(text).unwrap_or_else(|| text.to_owned()).into(),
        _ => text.into(),
    }
}

/// JSON has no infinity; as text it prints the same.
fn float(text: &str) -> Value {
    match text {
        "NaN" => "nan".into(),
        "Infinity" => "inf".into(),
        "-Infinity" => "-inf".into(),
        _ => text.parse::<f64>().map_or_else(|_| text.into(), Value::from),
    }
}

/// Python shows six digits of a fraction, and the minutes of an offset.
fn time(text: &str) -> String {
    let Some(first) = text.find(':') else { return text.to_owned() };
    let end = text[first..].find(['+', '-']).map_or(text.len(), |after| first + after);
    let (time, offset) = text.split_at(end);
    let minutes = if offset.is_empty() || offset.contains(':') { "" } else { ":00" };
    match time.rsplit_once('.').filter(|(_, fraction)| fraction.bytes().all(|b| b.is_ascii_digit())) {
        Some((whole, fraction)) => format!("{whole}.{fraction:0<6}{offset}{minutes}"),
        None => format!("{time}{offset}{minutes}"),
    }
}

/// `1 mon 2 days 03:04:05.5` becomes `32 days, 3:04:05.500000`: Python counts days, a month as 30, a year as 365 of
/// them. Only the days are ever negative: `-02:00:00` becomes `-1 day, 22:00:00`.
fn interval(text: &str) -> Option<String> {
    let mut days: i64 = 0;
    let mut micros: i64 = 0;
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        if word.contains(':') {
            micros = time_of_day(word)?;
            continue;
        }
        let number: i64 = word.parse().ok()?;
        days += number
            * match words.next()? {
                "year" | "years" => 365,
                "mon" | "mons" => 30,
                "day" | "days" => 1,
                _ => return None,
            };
    }
    let days = days + micros.div_euclid(MICROS_OF_A_DAY);
    let micros = micros.rem_euclid(MICROS_OF_A_DAY);
    let shown = match days {
        0 => String::new(),
        1 | -1 => format!("{days} day, "),
        _ => format!("{days} days, "),
    };
    let seconds = micros / MICROS;
    let fraction = match micros % MICROS {
        0 => String::new(),
        fraction => format!(".{fraction:06}"),
    };
    Some(format!("{shown}{}:{:02}:{:02}{fraction}", seconds / 3600, seconds / 60 % 60, seconds % 60))
}

const MICROS: i64 = 1_000_000;
const MICROS_OF_A_DAY: i64 = 24 * 3600 * MICROS;

/// `-02:00:00.5` in microseconds.
fn time_of_day(text: &str) -> Option<i64> {
    let (sign, clock) = text.strip_prefix('-').map_or((1, text), |clock| (-1, clock));
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut seconds: i64 = 0;
    for part in whole.trim_start_matches('+').split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    Some(sign * seconds.checked_mul(MICROS)?.checked_add(fraction)?)
}

/// `\x6869` becomes `b'hi'`.
fn bytes(text: &str) -> String {
    let Some(digits) = text.strip_prefix("\\x") else { return text.to_owned() };
    let pairs = digits.as_bytes().chunks(2);
    let value = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let escaped = |byte: u8| match byte {
        b'\\' => "\\\\".to_owned(),
        b'\'' => "\\'".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        other => format!("\\x{other:02x}"),
    };
    format!("b'{}'", pairs.filter_map(value).map(escaped).collect::<String>())
}

/// A one-dimensional array; others stay as PostgreSQL writes them.
fn array(text: &str, element: &Type) -> Option<Value> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    if inner.is_empty() {
        return Some(Value::Array(Vec::new()));
    }
    let mut items = Vec::new();
    let mut characters = inner.chars().peekable();
    loop {
        let mut item = String::new();
        let is_quoted = characters.next_if_eq(&'"').is_some();
        while let Some(c) = characters.next_if(|c| is_quoted || *c != ',') {
            match c {
                '"' if is_quoted => break,
                '\\' => item.push(characters.next()?),
                '{' if !is_quoted => return None,
                other => item.push(other),
            }
        }
        let is_null = !is_quoted && item == "NULL";
        items.push(of_text((!is_null).then_some(&item), Some(element)));
        match characters.next() {
            Some(',') => {}
            None => return Some(Value::Array(items)),
            Some(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use patroni_core::python::PythonText;

    #[test]
    fn as_python_prints_them() {
        let rows: &[(&str, Type, &str)] = &[
            ("t", Type::BOOL, "True"),
            ("42", Type::INT4, "42"),
            ("1", Type::FLOAT8, "1.0"),
            ("Infinity", Type::FLOAT8, "inf"),
            ("2026-01-31 12:00:00.5+02", Type::TIMESTAMPTZ, "2026-01-31 12:00:00.500000+02:00"),
            ("2026-01-31 12:00:00.5", Type::TIMESTAMP, "2026-01-31 12:00:00.500000"),
            ("01.02.2026 12:00:00", Type::TIMESTAMP, "01.02.2026 12:00:00"),
            ("infinity", Type::TIMESTAMP, "infinity"),
            ("0001-01-01 00:00:00.5 BC", Type::TIMESTAMP, "0001-01-01 00:00:00.5 BC"),
            ("01:02:03.25", Type::TIME, "01:02:03.250000"),
            ("01:02:03-05", Type::TIMETZ, "01:02:03-05:00"),
            ("01:02:03.5+05:30", Type::TIMETZ, "01:02:03.500000+05:30"),
            ("\\x6869ff", Type::BYTEA, "b'hi\\xff'"),
            ("{1,2,NULL}", Type::INT4_ARRAY, "[1, 2, None]"),
            ("{a,\"b,\\\"c\"}", Type::TEXT_ARRAY, "['a', 'b,\"c']"),
            ("{\"a\": 1}", Type::JSONB, "{'a': 1}"),
            ("1.10", Type::NUMERIC, "1.10"),
            ("1 day 02:03:00", Type::INTERVAL, "1 day, 2:03:00"),
            ("1 mon 2 days 03:04:05.5", Type::INTERVAL, "32 days, 3:04:05.500000"),
            ("-1 days", Type::INTERVAL, "-1 day, 0:00:00"),
            ("00:00:00", Type::INTERVAL, "0:00:00"),
            ("-00:00:01", Type::INTERVAL, "-1 day, 23:59:59"),
            ("1 day -00:00:01.5", Type::INTERVAL, "23:59:58.500000"),
            ("11 mons -3 days -25:00:00", Type::INTERVAL, "325 days, 23:00:00"),
            ("-1 mons +5 days", Type::INTERVAL, "-25 days, 0:00:00"),
            ("-24:00:00", Type::INTERVAL, "-1 day, 0:00:00"),
            ("PT2H", Type::INTERVAL, "PT2H"),
        ];
        for (text, of, expected) in rows {
            assert_eq!(of_text(Some(text), Some(of)).python_text(), *expected, "{text}");
        }
        assert_eq!(of_text(None, Some(&Type::INT4)), Value::Null);
    }
}
