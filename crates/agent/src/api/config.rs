//! `/config`: reading and changing the dynamic configuration.
//!
//! A change is written only over the version it was made from; if another one came between, it is made again from that.

use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, Version};
use patroni_core::facts::Outcome;
use patroni_core::python::PythonText;
use patroni_dcs::{Expected, Key, wire};
use serde_json::Value;

use super::reply::Reply;
use super::{ApiState, Signal};

/// How often a change is made again because another one came between.
const ATTEMPTS: usize = 10;

/// GET
pub(crate) async fn get(state: &ApiState, cluster: Option<&Cluster>) -> Reply {
    let loaded;
    let cluster = match cluster {
        Some(cluster) => cluster,
        None => match state.load().await {
            Ok(fresh) => {
                loaded = fresh;
                &loaded
            }
            Err(reply) => return reply,
        },
    };
    match current(cluster) {
        Some((_, data)) => Reply::json(200, &Value::Object(data.clone())),
        None => Reply::error(502),
    }
}

/// PATCH
pub(crate) async fn patch(state: &ApiState, changes: &JsonMap) -> Reply {
    for _ in 0..ATTEMPTS {
        let cluster = match state.load().await {
            Ok(cluster) => cluster,
            Err(reply) => return reply,
        };
        let Some((version, data)) = current(&cluster) else { return Reply::error(503) };
        let mut data = data.clone();
        if !merge(&mut data, changes) {
            state.signal(Signal::Wake);
            return Reply::json(200, &Value::Object(data));
        }
        match state.dcs.write(Key::Config, &wire::config(&data), Expected::Version(version)).await {
            Outcome::Done(_) => {
                state.signal(Signal::Wake);
                return Reply::json(200, &Value::Object(data));
            }
            Outcome::Refused => {}
            Outcome::Failed(reason) | Outcome::Unknown(reason) => return Reply::error_saying(409, &reason),
        }
    }
    Reply::error(409)
}

/// PUT
pub(crate) async fn put(state: &ApiState, wanted: JsonMap) -> Reply {
    let cluster = match state.load().await {
        Ok(cluster) => cluster,
        Err(reply) => return reply,
    };
    let same = current(&cluster).is_some_and(|(_, data)| same_settings(&wanted, data));
    if !same {
        match state.dcs.write(Key::Config, &wire::config(&wanted), Expected::Anything).await {
            Outcome::Done(_) => {
                state.signal(Signal::Wake);
            }
            Outcome::Refused => return Reply::error(502),
            Outcome::Failed(reason) | Outcome::Unknown(reason) => return Reply::error_saying(502, &reason),
        }
    }
    Reply::json(200, &Value::Object(wanted))
}

fn current(cluster: &Cluster) -> Option<(Version, &JsonMap)> {
    let config = cluster.config.as_ref()?;
    Some((config.version, config.data.as_ref()?))
}

/// Puts the changes over the settings: null removes, objects are merged, anything else replaces what prints
/// differently. Tells whether that changed anything.
fn merge(settings: &mut JsonMap, changes: &JsonMap) -> bool {
    let mut changed = false;
    for (name, change) in changes {
        match (settings.get_mut(name), change) {
            (_, Value::Null) => {
                // shift_remove keeps the order of the others.
                changed |= settings.shift_remove(name).is_some_and(|old| !old.is_null());
            }
            (Some(Value::Object(inner)), Value::Object(change)) => changed |= merge(inner, change),
            (Some(old), change) if !change.is_object() && old.python_text() == change.python_text() => {}
            (Some(old), change) => {
                *old = change.clone();
                changed = true;
            }
            (None, change) => {
                settings.insert(name.clone(), change.clone());
                changed = true;
            }
        }
    }
    changed
}

/// The same keys, and values that print the same.
fn same_settings(one: &JsonMap, other: &JsonMap) -> bool {
    one.len() == other.len()
        && one.iter().all(|(name, value)| match (value, other.get(name)) {
            (Value::Object(inner), Some(Value::Object(other))) => same_settings(inner, other),
            (Value::Object(_), _) | (_, None) => false,
            (value, Some(other)) => value.python_text() == other.python_text(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> JsonMap {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn changes_are_merged_as_patroni_does() {
        let start = json!({"ttl": 30, "postgresql": {"parameters": {"max_connections": "100", "a": 1}}, "pause": null});
        let rows = [
            (json!({"ttl": "30"}), start.clone(), false),
            (
                json!({"ttl": 20}),
                json!({"ttl": 20, "postgresql": {"parameters": {"max_connections": "100", "a": 1}}, "pause": null}),
                true,
            ),
            (json!({"nothing": null}), start.clone(), false),
            (
                json!({"postgresql": {"parameters": {"max_connections": null}, "use_slots": true}}),
                json!({"ttl": 30, "postgresql": {"parameters": {"a": 1}, "use_slots": true}, "pause": null}),
                true,
            ),
            (json!({"postgresql": {"parameters": {}}}), start.clone(), false),
            (json!({"ttl": {}}), json!({"ttl": {}, "postgresql": start["postgresql"], "pause": null}), true),
            (json!({"postgresql": 1}), json!({"ttl": 30, "postgresql": 1, "pause": null}), true),
            // A setting that is null already is removed, but nothing changed.
            (json!({"pause": null}), json!({"ttl": 30, "postgresql": start["postgresql"]}), false),
        ];
        for (changes, expected, changed) in rows {
            let mut settings = map(start.clone());
            assert_eq!(merge(&mut settings, &map(changes.clone())), changed, "{changes}");
            assert_eq!(Value::Object(settings).to_string(), expected.to_string(), "{changes}");
        }
    }

    #[test]
    fn the_same_settings() {
        assert!(same_settings(&map(json!({"a": 1, "b": {"c": true}})), &map(json!({"b": {"c": "True"}, "a": "1"}))));
        assert!(!same_settings(&map(json!({"a": 1})), &map(json!({"a": 1, "b": 2}))));
        assert!(!same_settings(&map(json!({"a": {}})), &map(json!({"a": null}))));
    }
}
