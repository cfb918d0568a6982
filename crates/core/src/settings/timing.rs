//! `ttl`, `loop_wait` and `retry_timeout`: their limits, and the rule that keeps a lease from ending during retries.

use std::time::Duration;

use serde_json::Value;

use super::reader::Reader;
use crate::JsonMap;

/// The three time-outs as they are in force, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `ttl`
    pub ttl: i64,
    /// `loop_wait`
    pub loop_wait: i64,
    /// `retry_timeout`
    pub retry_timeout: i64,
}

/// A time-out that had to be changed. The sentences are Patroni's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Adjustment {
    /// A setting is below its limit.
    #[error("{name}={value} can't be smaller than {min}, adjusting...")]
    TooSmall {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: i64,
        /// The limit, now in force.
        min: i64,
    },
    /// `loop_wait` and `retry_timeout` had to be reduced.
    #[error(
        "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl={ttl}. Adjusting loop_wait from {loop_wait} \
         to 1 and retry_timeout from {retry_timeout} to {shorter}"
    )]
    BothTimeouts {
        /// `ttl`.
        ttl: i64,
        /// `loop_wait` as given.
        loop_wait: i64,
        /// `retry_timeout` as given.
        retry_timeout: i64,
        /// `retry_timeout` now.
        shorter: i64,
    },
    /// `loop_wait` had to be reduced.
    #[error(
        "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl={ttl} and retry_timeout={retry_timeout}. \
         Adjusting loop_wait from {loop_wait} to {shorter}"
    )]
    LoopWait {
        /// `ttl`.
        ttl: i64,
        /// `retry_timeout`.
        retry_timeout: i64,
        /// `loop_wait` as given.
        loop_wait: i64,
        /// `loop_wait` now.
        shorter: i64,
    },
}

/// A setting with its default and its minimum, in seconds.
struct Limit {
    name: &'static str,
    default: i64,
    min: i64,
}

const LOOP_WAIT: Limit = Limit { name: "loop_wait", default: 10, min: 1 };
const RETRY_TIMEOUT: Limit = Limit { name: "retry_timeout", default: 10, min: 3 };
const TTL: Limit = Limit { name: "ttl", default: 30, min: 20 };

impl Timing {
    /// Reads the three settings and brings them to their limits and to `loop_wait + 2*retry_timeout <= ttl`: `loop_wait` gives
    /// way first.
    pub(super) fn read(reader: &mut Reader<'_>, adjusted: &mut Vec<Adjustment>) -> Self {
        let loop_wait = at_least(reader, &LOOP_WAIT, adjusted);
        let retry_timeout = at_least(reader, &RETRY_TIMEOUT, adjusted);
        let ttl = at_least(reader, &TTL, adjusted);
        let retries = retry_timeout.saturating_mul(2);
        if retries.saturating_add(LOOP_WAIT.min) > ttl {
            let shorter = (ttl - LOOP_WAIT.min) / 2;
            adjusted.push(Adjustment::BothTimeouts { ttl, loop_wait, retry_timeout, shorter });
            return Timing { ttl, loop_wait: LOOP_WAIT.min, retry_timeout: shorter };
        }
        if retries.saturating_add(loop_wait) > ttl {
            let shorter = ttl - retries;
            adjusted.push(Adjustment::LoopWait { ttl, retry_timeout, loop_wait, shorter });
            return Timing { ttl, loop_wait: shorter, retry_timeout };
        }
        Timing { ttl, loop_wait, retry_timeout }
    }

    /// The settings by their names.
    pub fn by_name(self) -> [(&'static str, i64); 3] {
        self.with_limits().map(|(limit, seconds)| (limit.name, seconds))
    }

    /// Puts the values in force into the configuration they were read from, where it says something else.
    pub fn write_back(self, config: &mut JsonMap) {
        for (limit, seconds) in self.with_limits() {
            let given = config.get(limit.name);
            if given.map_or(Some(limit.default), whole_seconds) != Some(seconds) {
                config.insert(limit.name.to_owned(), seconds.into());
            }
        }
    }

    fn with_limits(self) -> [(Limit, i64); 3] {
        [(TTL, self.ttl), (LOOP_WAIT, self.loop_wait), (RETRY_TIMEOUT, self.retry_timeout)]
    }
}

fn at_least(reader: &mut Reader<'_>, limit: &Limit, adjusted: &mut Vec<Adjustment>) -> i64 {
    let Some(value) = reader.value(limit.name) else { return limit.default };
    let Some(value) = whole_seconds(value) else {
        reader.refuse(limit.name, value, "a whole number of seconds");
        return limit.default;
    };
    if value < limit.min {
        adjusted.push(Adjustment::TooSmall { name: limit.name, value, min: limit.min });
    }
    value.max(limit.min)
}

/// What Python's `int()` makes of a value.
fn whole_seconds(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(b) => Some(i64::from(*b)),
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().filter(|f| f.abs() < 9e18).map(|f| f.trunc() as i64)),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

pub(super) fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::Dynamic;
    use serde_json::json;

    /// Results of Patroni 4.1.5.
    #[test]
    fn rows() {
        let rows = [
            (json!({}), [30, 10, 10], vec![]),
            (json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}), [30, 10, 10], vec![]),
            (
                json!({"ttl": 20}),
                [20, 1, 9],
                vec![
                    "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl=20. Adjusting loop_wait from 10 \
                     to 1 and retry_timeout from 10 to 9",
                ],
            ),
            (
                json!({"loop_wait": "12"}),
                [30, 10, 10],
                vec![
                    "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl=30 and retry_timeout=10. \
                     Adjusting loop_wait from 12 to 10",
                ],
            ),
            (
                json!({"ttl": 5, "loop_wait": 0, "retry_timeout": 1}),
                [20, 1, 3],
                vec![
                    "loop_wait=0 can't be smaller than 1, adjusting...",
                    "retry_timeout=1 can't be smaller than 3, adjusting...",
                    "ttl=5 can't be smaller than 20, adjusting...",
                ],
            ),
            (json!({"ttl": 40.9, "retry_timeout": " 15 "}), [40, 10, 15], vec![]),
        ];
        for (config, expected, texts) in rows {
            let reading = Dynamic::read(config.as_object().expect("a mapping"));
            assert_eq!(reading.timing.by_name().map(|(_, seconds)| seconds), expected, "{config}");
            assert_eq!(reading.adjusted.iter().map(ToString::to_string).collect::<Vec<_>>(), texts, "{config}");
            assert_eq!(reading.unusable, [], "{config}");
        }
    }
}
