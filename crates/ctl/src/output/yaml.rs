//! YAML as commands print it: 200 columns wide, and the one-line form for tags.

use patroni_config::yaml::{Style, dump_with};
use serde_json::Value;

/// The value in block style, keys sorted, with a newline at the end.
pub(crate) fn block(value: &Value) -> String {
    dump_with(value, Style { width: 200, sort_keys: true })
}

/// The value on one line: `{clonefrom: true, list: [a, 1]}`.
pub(crate) fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| key.as_str());
            let pair =
                |(key, item): (&String, &Value)| format!("{}: {}", scalar(&Value::from(key.as_str())), flow(item));
            format!("{{{}}}", pairs.into_iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        other => scalar(other),
    }
}

/// A scalar as in a list in block style; what has a meaning inside brackets is quoted.
fn scalar(value: &Value) -> String {
    let listed = block(&Value::Array(vec![value.clone()]));
    let plain = listed.trim_end().strip_prefix("- ").unwrap_or_default().to_owned();
    match value {
        Value::String(text) if plain == *text && text.contains([',', '?', '[', ']', '{', '}']) => {
            format!("'{}'", text.replace('\'', "''"))
        }
        _ => plain,
    }
}
