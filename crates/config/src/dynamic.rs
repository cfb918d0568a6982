//! What can be said against a dynamic configuration, before it is stored and after.

use std::sync::Arc;

use patroni_core::JsonMap;
use serde_json::{Value, json};

use crate::config::{Draft, Purpose};
use crate::local::{Local, Source};
use crate::warning::Warning;

/// What of a dynamic configuration cannot be used, one line each. Settings that are adjusted, that nobody knows or that have no
/// effect in the store are not among it.
pub fn unusable(config: &JsonMap) -> Vec<String> {
    let source = Arc::new(Source::new(None, Default::default()));
    // Without the section, users are looked for beside it, as Patroni 1 had them, and use_pg_rewind follows from them.
    let users = JsonMap::from_iter([("authentication".to_owned(), json!({}))]);
    let tree = JsonMap::from_iter([("postgresql".to_owned(), users.into())]);
    let draft = Draft { local: Arc::new(Local { tree, ..Local::default() }), source, purpose: Purpose::Ctl };
    let mut warnings = Vec::new();
    match draft.build(config.clone(), None, &mut warnings) {
        Ok(_) => warnings.iter().filter_map(fault).collect(),
        Err(error) => vec![error.to_string()],
    }
}

/// What a change of the dynamic configuration would add to that.
pub fn faults_of_change(before: &JsonMap, after: &JsonMap) -> Vec<String> {
    let known = unusable(before);
    unusable(after).into_iter().filter(|fault| !known.contains(fault)).collect()
}

fn fault(warning: &Warning) -> Option<String> {
    match warning {
        Warning::Value(wrong) => Some(wrong.what.to_string()),
        // Those without a default are set by Patroni itself: what the store says of them never counts.
        Warning::Parameter { default: Value::Null, .. } => None,
        Warning::Parameter { what, .. } => Some(what.to_string()),
        Warning::Adjusted(_)
        | Warning::Tags { .. }
        | Warning::Dynamic(_)
        | Warning::Unknown { .. }
        | Warning::Replaced { .. }
        | Warning::Environment { .. }
        | Warning::Name { .. }
        | Warning::Cache { .. } => None,
    }
}
