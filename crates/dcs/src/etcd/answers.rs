//! What version 2 of etcd's API answers.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::attempts::Fate;
use crate::wire::RawKey;

/// A key or a directory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) key: String,
    value: Option<String>,
    nodes: Vec<Node>,
    modified_index: u64,
    created_index: u64,
    ttl: Option<i64>,
}

/// The answer to a request for keys that was carried out.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) action: String,
    pub(super) node: Node,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Refusal {
    pub(super) error_code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    cause: String,
    /// Where the store was.
    #[serde(default)]
    pub(super) index: Option<u64>,
}

pub(super) const KEY_NOT_FOUND: u32 = 100;
pub(super) const COMPARE_FAILED: u32 = 101;
pub(super) const NODE_EXISTS: u32 = 105;
pub(super) const EVENT_INDEX_CLEARED: u32 = 401;

impl Node {
    /// A key as all stores show it.
    pub(super) fn raw(&self) -> RawKey {
        RawKey {
            value: self.value.clone().unwrap_or_default().into_bytes(),
            modified: self.modified_index,
            created: self.created_index,
            // There are no sessions: each key has a life of its own.
            session: self.ttl.map(|seconds| format!("{seconds} s left")),
        }
    }

    /// The keys in this directory and those below it, with names without `prefix`.
    pub(super) fn keys(&self, prefix: &str) -> BTreeMap<String, RawKey> {
        let mut keys = BTreeMap::new();
        let mut nodes = vec![self];
        while let Some(node) = nodes.pop() {
            nodes.extend(&node.nodes);
            if let (Some(_), Some(name)) = (&node.value, node.key.strip_prefix(prefix)) {
                keys.insert(name.to_owned(), node.raw());
            }
        }
        keys
    }

    /// What the key says after this change; `None`: it is gone.
    pub(super) fn content(&self) -> Option<Vec<u8>> {
        self.value.as_ref().map(|value| value.clone().into_bytes())
    }

    pub(super) fn index(&self) -> u64 {
        self.modified_index
    }
}

impl Refusal {
    /// Whether the request may have been carried out all the same. The numbers are those of etcd's `v2error`.
    pub(super) fn fate(&self) -> Fate {
        match self.error_code {
            // What Raft says: a time-out, no leader, a leader that changed.
            300.. => Fate::Unknown,
            _ => Fate::Refused,
        }
    }

    pub(super) fn text(&self) -> String {
        format!("{} ({}): {}", self.message, self.error_code, self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_flattened() {
        let listing = r#"{"action":"get","node":{"key":"/service/a","dir":true,"nodes":[
            {"key":"/service/a/leader","value":"n0","expiration":"x","ttl":29,"modifiedIndex":9,"createdIndex":7},
            {"key":"/service/a/initialize","value":"","modifiedIndex":5,"createdIndex":5},
            {"key":"/service/a/members","dir":true,"nodes":[
                {"key":"/service/a/members/n0","value":"{}","ttl":3,"modifiedIndex":8,"createdIndex":8}],
             "modifiedIndex":6,"createdIndex":6}],"modifiedIndex":3,"createdIndex":3}}"#;
        let answer: Answer = serde_json::from_str(listing).unwrap();
        let keys = answer.node.keys("/service/a/");
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["initialize", "leader", "members/n0"]);
        assert_eq!((keys["leader"].modified, keys["leader"].created), (9, 7));
        assert!(keys["leader"].session.is_some() && keys["initialize"].session.is_none());
    }

    #[test]
    fn only_what_surely_did_not_happen_is_called_so() {
        for (code, fate) in [(100, Fate::Refused), (110, Fate::Refused), (300, Fate::Unknown), (301, Fate::Unknown)] {
            let text = format!(r#"{{"errorCode":{code},"message":"m","cause":"c","index":1}}"#);
            assert_eq!(serde_json::from_str::<Refusal>(&text).unwrap().fate(), fate, "{code}");
        }
    }
}
