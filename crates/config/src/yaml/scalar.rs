//! What a plain scalar means in YAML 1.1, by the expressions of PyYAML's resolver.

use super::Data;

/// The type that an unquoted scalar has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Int,
    Float,
    Timestamp,
    /// `<<`
    Merge,
    /// `=`
    Value,
    Text,
}

/// The type of an unquoted scalar.
pub(super) fn kind(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "<<" => Kind::Merge,
        "=" => Kind::Value,
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "true" | "True" | "TRUE" | "false" | "False" | "FALSE" | "on"
        | "On" | "ON" | "off" | "Off" | "OFF" => Kind::Bool,
        text if is_float(text) => Kind::Float,
        text if is_int(text) => Kind::Int,
        text if is_timestamp(text) => Kind::Timestamp,
        _ => Kind::Text,
    }
}

/// The value of a scalar read as `kind`; `None` if it has no such value.
pub(super) fn value(text: &str, kind: Kind) -> Option<Data> {
    match kind {
        Kind::Null => Some(Data::Null),
        Kind::Bool => bool_value(text).map(Data::Bool),
        Kind::Int => int_value(text).map(Data::Int),
        Kind::Float => float_value(text).map(Data::Float),
        Kind::Timestamp | Kind::Text => Some(Data::Text(text.to_owned())),
        // PyYAML has no value for these two outside of a key.
        Kind::Merge | Kind::Value => None,
    }
}

fn bool_value(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "yes" | "true" | "on" => Some(true),
        "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

fn int_value(text: &str) -> Option<i128> {
    let text = text.replace('_', "");
    let (negative, digits) = sign(&text);
    let magnitude = if let Some(binary) = digits.strip_prefix("0b") {
        i128::from_str_radix(binary, 2).ok()?
    } else if let Some(hex) = digits.strip_prefix("0x") {
        i128::from_str_radix(hex, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from_str_radix(digits, 8).ok()?
    } else {
        digits.split(':').try_fold(0i128, |sum, part| sum.checked_mul(60)?.checked_add(part.parse().ok()?))?
    };
    Some(if negative { -magnitude } else { magnitude })
}

fn float_value(text: &str) -> Option<f64> {
    let text = text.replace('_', "").to_lowercase();
    let (negative, digits) = sign(&text);
    let magnitude = match digits {
        ".inf" => f64::INFINITY,
        ".nan" => f64::NAN,
        digits if digits.contains(':') => sexagesimal(digits)?,
        digits => digits.parse().ok()?,
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// From the last part on, so that the sums are rounded as Python's.
fn sexagesimal(text: &str) -> Option<f64> {
    let (mut sum, mut base) = (0.0, 1.0);
    for part in text.rsplit(':') {
        sum += part.parse::<f64>().ok()? * base;
        base *= 60.0;
    }
    Some(sum)
}

fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    }
}

fn is_int(text: &str) -> bool {
    let digits = sign(text).1;
    let all = |s: &str, valid: fn(char) -> bool| !s.is_empty() && s.chars().all(|c| c == '_' || valid(c));
    if let Some(binary) = digits.strip_prefix("0b") {
        return all(binary, |c| matches!(c, '0' | '1'));
    }
    if let Some(hex) = digits.strip_prefix("0x") {
        return all(hex, |c| c.is_ascii_hexdigit());
    }
    if let Some(octal) = digits.strip_prefix('0') {
        return octal.is_empty() || all(octal, |c| matches!(c, '0'..='7'));
    }
    let (head, tail) = split_sexagesimal(digits);
    is_decimal(head) && tail.is_none_or(is_sixties)
}

fn is_float(text: &str) -> bool {
    let (signed, digits) = (text.starts_with(['-', '+']), sign(text).1);
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let Some((whole, fraction)) = digits.split_once('.') else { return false };
    if whole.is_empty() {
        let mantissa = without_exponent(fraction);
        return !signed && mantissa.is_some_and(is_decimal);
    }
    match split_sexagesimal(whole) {
        (head, Some(tail)) => is_decimal(head) && is_sixties(tail) && is_digits(fraction),
        (head, None) => is_decimal(head) && without_exponent(fraction).is_some_and(is_digits),
    }
}

/// The part before `e+NN` or `e-NN`, or everything; `None` if the exponent is not one.
fn without_exponent(text: &str) -> Option<&str> {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return Some(text) };
    let digits = exponent.strip_prefix(['-', '+'])?;
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(mantissa)
}

fn split_sexagesimal(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    }
}

fn is_decimal(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && is_digits(text)
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b == b'_' || b.is_ascii_digit())
}

/// Parts of a number to base 60, after the first: `0` to `59`.
fn is_sixties(text: &str) -> bool {
    text.split(':').all(|part| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
}

/// `2001-12-14`, or with a time: `2001-12-14t21:59:43.10-05:00`, `2001-1-4 21:59:43`.
fn is_timestamp(text: &str) -> bool {
    let Some((date, time)) = date_and_time(text) else { return false };
    match time {
        None => date.len() == 10,
        Some(time) => is_time(time),
    }
}

fn date_and_time(text: &str) -> Option<(&str, Option<&str>)> {
    let mut rest = digits_between(text, 4, 4)?;
    for _ in 0..2 {
        rest = digits_between(rest.strip_prefix('-')?, 1, 2)?;
    }
    let date = &text[..text.len() - rest.len()];
    if rest.is_empty() {
        return Some((date, None));
    }
    let time = match rest.strip_prefix(['T', 't']) {
        Some(time) => time,
        None => {
            let time = rest.trim_start_matches([' ', '\t']);
            if time.len() == rest.len() {
                return None;
            }
            time
        }
    };
    Some((date, Some(time)))
}

fn is_time(text: &str) -> bool {
    let seconds = || {
        let rest = digits_between(text, 1, 2)?.strip_prefix(':')?;
        digits_between(digits_between(rest, 2, 2)?.strip_prefix(':')?, 2, 2)
    };
    let Some(rest) = seconds() else { return false };
    let rest = rest.strip_prefix('.').map_or(rest, |r| r.trim_start_matches(|c: char| c.is_ascii_digit()));
    if rest.is_empty() {
        return true;
    }
    let zone = rest.trim_start_matches([' ', '\t']);
    zone == "Z" || zone.strip_prefix(['-', '+']).is_some_and(is_offset)
}

fn is_offset(text: &str) -> bool {
    match digits_between(text, 1, 2) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(':').and_then(|r| digits_between(r, 2, 2)) == Some(""),
        None => false,
    }
}

/// What follows between `min` and `max` digits at the beginning of the text.
fn digits_between(text: &str, min: usize, max: usize) -> Option<&str> {
    let count = text.bytes().take(max).take_while(u8::is_ascii_digit).count();
    (count >= min).then(|| &text[count..])
}
