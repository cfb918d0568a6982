//! `ttl`, `loop_wait` and `retry_timeout`: their limits, and the rule that keeps a lease from ending during retries.

use patroni_core::JsonMap;
use serde_json::Value;

use crate::warning::Warning;

/// A setting with its default and its minimum, in seconds.
struct Limit {
    name: &'static str,
    default: i64,
    min: i64,
}

const LOOP_WAIT: Limit = Limit { name: "loop_wait", default: 10, min: 1 };
const RETRY_TIMEOUT: Limit = Limit { name: "retry_timeout", default: 10, min: 3 };
const TTL: Limit = Limit { name: "ttl", default: 30, min: 20 };

/// Brings the three settings to their limits and to `loop_wait + 2*retry_timeout <= ttl`: `loop_wait` gives way first.
/// Fails with a text if one of them is not a number.
pub(crate) fn adjust(config: &mut JsonMap, warnings: &mut Vec<Warning>) -> Result<(), String> {
    let loop_wait = at_least(config, &LOOP_WAIT, warnings)?;
    let retry_timeout = at_least(config, &RETRY_TIMEOUT, warnings)?;
    let ttl = at_least(config, &TTL, warnings)?;
    let retries = retry_timeout.saturating_mul(2);
    if retries.saturating_add(LOOP_WAIT.min) > ttl {
        let shorter = (ttl - LOOP_WAIT.min) / 2;
        config.insert(LOOP_WAIT.name.to_owned(), LOOP_WAIT.min.into());
        config.insert(RETRY_TIMEOUT.name.to_owned(), shorter.into());
        warnings.push(Warning::BothTimeouts { ttl, loop_wait, retry_timeout, shorter });
    } else if retries.saturating_add(loop_wait) > ttl {
        let shorter = ttl - retries;
        config.insert(LOOP_WAIT.name.to_owned(), shorter.into());
        warnings.push(Warning::LoopWait { ttl, retry_timeout, loop_wait, shorter });
    }
    Ok(())
}

fn at_least(config: &mut JsonMap, limit: &Limit, warnings: &mut Vec<Warning>) -> Result<i64, String> {
    let value = match config.get(limit.name) {
        None => limit.default,
        Some(value) => whole_seconds(value).ok_or_else(|| format!("{} is not a number: {value}", limit.name))?,
    };
    if value >= limit.min {
        return Ok(value);
    }
    warnings.push(Warning::TooSmall { name: limit.name, value, min: limit.min });
    config.insert(limit.name.to_owned(), limit.min.into());
    Ok(limit.min)
}

/// What Python's `int()` makes of a value.
pub(crate) fn whole_seconds(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(b) => Some(i64::from(*b)),
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().filter(|f| f.abs() < 9e18).map(|f| f.trunc() as i64)),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Results of Patroni 4.1.5.
    #[test]
    fn rows() {
        let rows = [
            (json!({}), json!({}), vec![]),
            (
                json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}),
                json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}),
                vec![],
            ),
            (
                json!({"ttl": 20}),
                json!({"ttl": 20, "loop_wait": 1, "retry_timeout": 9}),
                vec![
                    "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl=20. Adjusting loop_wait from 10 \
                     to 1 and retry_timeout from 10 to 9",
                ],
            ),
            (
                json!({"loop_wait": "12"}),
                json!({"loop_wait": 10}),
                vec![
                    "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl=30 and retry_timeout=10. \
                     Adjusting loop_wait from 12 to 10",
                ],
            ),
            (
                json!({"ttl": 5, "loop_wait": 0, "retry_timeout": 1}),
                json!({"ttl": 20, "loop_wait": 1, "retry_timeout": 3}),
                vec![
                    "loop_wait=0 can't be smaller than 1, adjusting...",
                    "retry_timeout=1 can't be smaller than 3, adjusting...",
                    "ttl=5 can't be smaller than 20, adjusting...",
                ],
            ),
        ];
        for (config, expected, texts) in rows {
            let Value::Object(mut map) = config.clone() else { panic!() };
            let mut warnings = Vec::new();
            adjust(&mut map, &mut warnings).unwrap();
            assert_eq!(Value::Object(map), expected, "{config}");
            assert_eq!(warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), texts, "{config}");
        }
        for bad in [json!({"ttl": "x"}), json!({"ttl": null}), json!({"ttl": "30.5"})] {
            let Value::Object(mut map) = bad.clone() else { panic!() };
            assert!(adjust(&mut map, &mut Vec::new()).is_err(), "{bad}");
        }
    }
}
