//! Which changes of keys wake an agent.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::wire;

/// Knows which changes are none, by remembering what the keys said.
pub(crate) struct Filter {
    own_key: String,
    hasher: RandomState,
    seen: HashMap<String, u64>,
}

impl Filter {
    /// For the member whose own key has this full name.
    pub(crate) fn new(own_key: &str) -> Self {
        Filter { own_key: own_key.to_owned(), hasher: RandomState::new(), seen: HashMap::new() }
    }

    /// What happened meanwhile is not known.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
    }

    /// Does the change of a key below `prefix` matter? `value`: what it says now; `None`: it is gone.
    pub(crate) fn matters(&mut self, prefix: &str, key: &str, value: Option<&[u8]>) -> bool {
        let name = key.strip_prefix(prefix).unwrap_or(key);
        if key == self.own_key || matches!(name, wire::STATUS | wire::FAILSAFE | wire::LEGACY_STATUS) {
            return false;
        }
        let Some(value) = value else {
            self.seen.remove(key);
            return true;
        };
        let said = match name {
            wire::LEADER => self.hasher.hash_one(value),
            _ if name.starts_with(wire::MEMBERS) => self.hasher.hash_one(wire::lasting_content(value)),
            _ => return true,
        };
        self.seen.insert(key.to_owned(), said) != Some(said)
    }
}
