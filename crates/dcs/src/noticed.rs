//! Which changes of keys wake an agent, and how.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::wire;

/// The count of changes that a handle tells of, and the task that counts them, which ends with the handle.
pub(crate) struct Changes {
    count: watch::Sender<u64>,
    watcher: OnceLock<JoinHandle<()>>,
}

impl Changes {
    /// Nobody watches yet.
    pub(crate) fn new() -> Self {
        Changes { count: watch::Sender::new(0), watcher: OnceLock::new() }
    }

    /// What [`crate::Dcs::changes`] gives. The first call starts the task.
    pub(crate) fn subscribe<W>(&self, watch: impl FnOnce(watch::Sender<u64>) -> W) -> watch::Receiver<u64>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        self.watcher.get_or_init(|| tokio::spawn(watch(self.count.clone())));
        self.count.subscribe()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.abort();
        }
    }
}

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
