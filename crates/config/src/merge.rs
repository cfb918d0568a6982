//! How one configuration is laid over another, and when two are the same.

use patroni_core::JsonMap;
use patroni_core::python::PythonText;
use serde_json::Value;

/// Lays `data` over `config`: mappings are merged, null removes a key, anything else replaces. A value whose text is
/// the same is not replaced. `true` if anything changed. (Also the rule of PATCH `/config`.)
pub fn patch(config: &mut JsonMap, data: &JsonMap) -> bool {
    let mut changed = false;
    for (name, value) in data {
        changed |= match (config.get_mut(name), value) {
            (_, Value::Null) => config.shift_remove(name).is_some_and(|old| !old.is_null()),
            (Some(Value::Object(old)), Value::Object(new)) => patch(old, new),
            (Some(old), new) if !new.is_object() && old.python_text() == new.python_text() => false,
            _ => {
                config.insert(name.clone(), value.clone());
                true
            }
        };
    }
    changed
}

/// Do two configurations have the same keys, and values with the same text?
pub fn same(a: &JsonMap, b: &JsonMap) -> bool {
    a.len() == b.len()
        && a.iter().all(|(name, value)| match (value, b.get(name)) {
            (_, None) => false,
            (Value::Object(a), Some(Value::Object(b))) => same(a, b),
            (Value::Object(_), Some(_)) => false,
            (a, Some(b)) => a.python_text() == b.python_text(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> JsonMap {
        match value {
            Value::Object(map) => map,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn patches() {
        let rows = [
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 3}}), json!({"a": {"b": 3, "c": 2}}), true),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null}}), json!({"a": {"c": 2}}), true),
            (json!({"a": 1}), json!({"a": "1"}), json!({"a": 1}), false),
            (json!({"a": 1}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}}), true),
            (json!({"a": {"b": 1}}), json!({"a": 1}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"b": {"c": null}}), json!({"a": 1, "b": {"c": null}}), true),
            (json!({"a": [1, 2]}), json!({"a": [2]}), json!({"a": [2]}), true),
            (json!({"a": 1}), json!({"z": null}), json!({"a": 1}), false),
            // A setting that is null already is removed, but nothing changed.
            (json!({"a": null, "b": 1}), json!({"a": null}), json!({"b": 1}), false),
        ];
        for (config, data, expected, changed) in rows {
            let mut config = map(config);
            assert_eq!(patch(&mut config, &map(data.clone())), changed, "{data}");
            assert_eq!(Value::Object(config), expected);
        }
    }

    #[test]
    fn comparison_is_by_text() {
        assert!(same(&map(json!({"1": 2})), &map(json!({"1": "2"}))));
        assert!(same(&map(json!({"1": {"2": [3, 4]}})), &map(json!({"1": {"2": [3, 4]}}))));
        assert!(!same(&map(json!({"1": null})), &map(json!({}))));
        assert!(!same(&map(json!({"1": {}})), &map(json!({"1": null}))));
        assert!(!same(&map(json!({"1": [1]})), &map(json!({"1": [2]}))));
    }
}
