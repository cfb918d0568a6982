//! What the members of the store agree on: keys, versions, leases, and the time by which leases end.
//!
//! Pure: the state after an entry of the log follows from the state before and that entry alone, so all members have
//! the same one. Time comes with the entries, stamped by the leader of the store; no clock is read here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

/// The time of the consensus in milliseconds: it stands still while there is no leader, and never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

/// Counts changes of contents; the version of a key is the revision of its last change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// A lease, named at random by whoever takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

/// A request, named by whoever makes it, so that asking twice does not do it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// A random number of the client.
    pub client: u64,
    /// Counted by the client.
    pub number: u64,
}

/// The content of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The bytes.
    pub value: Vec<u8>,
    /// Revision of its creation.
    pub created: Revision,
    /// Revision of its last change.
    pub modified: Revision,
    /// The lease it ends with.
    pub lease: Option<LeaseId>,
}

/// Changes that happen together, if all conditions are true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// A lease that is taken, or prolonged, whether or not the conditions are true.
    pub keep: Option<Keep>,
    /// What must be true.
    pub when: Vec<Condition>,
    /// What is then done, in this order.
    pub then: Vec<Change>,
}

/// A lease to take or prolong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Which.
    pub lease: LeaseId,
    /// For how many milliseconds from now on.
    pub ttl: u64,
}

/// Something that must be true of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// It does not exist.
    Absent(String),
    /// This is the revision of its last change.
    Modified(String, Revision),
    /// This is the revision of its creation.
    Created(String, Revision),
    /// This is its value.
    Value(String, Vec<u8>),
    /// The lease has not ended.
    Alive(LeaseId),
}

/// Something that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A key gets a value, and a lease or none. One that gets a lease and the value it has is only attached to the
    /// lease: that is no change.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The lease it ends with.
        lease: Option<LeaseId>,
    },
    /// A key is deleted, if it exists.
    Delete(String),
    /// All keys that begin with this are deleted.
    DeletePrefix(String),
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// All conditions were true and the changes are made.
    Done(Revision),
    /// Some condition was not true: nothing was changed. With the keys that the conditions name, as they are.
    Refused(BTreeMap<String, Content>),
    /// Nothing was changed, because there is no room for it.
    Full(String),
}

/// A change that watchers hear of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The key.
    pub key: String,
    /// Its new value; `None`: it was deleted.
    pub value: Option<Vec<u8>>,
}

/// The state itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    now: Time,
    revision: Revision,
    keys: BTreeMap<String, Content>,
    leases: BTreeMap<LeaseId, Lease>,
    /// Transactions that were carried out in the last [`REMEMBERED`], oldest first.
    recent: VecDeque<(Time, RequestId, Revision)>,
    recent_ids: BTreeSet<RequestId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    until: Time,
}

/// How long a transaction is remembered, so that the same request is not carried out again. No client may repeat a
/// request for longer.
pub const REMEMBERED: u64 = 60_000;
/// How many may be remembered; more than that in [`REMEMBERED`] are refused.
const MOST_REQUESTS: usize = 16_384;
/// So many more if they keep a lease alive: however much else is written, no leader loses its lease by that.
const MOST_KEPT: usize = 4096;
/// Limits of the contents: a store of agents holds kilobytes.
const MOST_KEYS: usize = 10_000;
const MOST_LEASES: usize = 10_000;
const LONGEST_KEY: usize = 1024;
/// The largest value.
pub const LARGEST_VALUE: usize = 512 * 1024;
const MOST_BYTES: usize = 16 * 1024 * 1024;

impl State {
    /// Moves the time on, and ends what has ended by then.
    pub fn advance(&mut self, time: Time, events: &mut Vec<Event>) {
        self.now = self.now.max(time);
        let now = self.now;
        if self.leases.values().any(|lease| lease.until <= now) {
            self.leases.retain(|_, lease| now < lease.until);
            self.delete_where(events, |state, _, content| {
                content.lease.is_some_and(|lease| !state.leases.contains_key(&lease))
            });
        }
        while let Some((time, id, _)) = self.recent.front().copied().filter(|(t, ..)| t.0 + REMEMBERED < now.0) {
            debug_assert!(time <= now);
            self.recent.pop_front();
            self.recent_ids.remove(&id);
        }
    }

    /// Carries out a transaction, unless it was already.
    pub fn transact(&mut self, id: RequestId, transaction: &Transaction, events: &mut Vec<Event>) -> Reply {
        if self.recent_ids.contains(&id)
            && let Some((.., revision)) = self.recent.iter().rev().find(|(_, known, _)| *known == id)
        {
            return Reply::Done(*revision);
        }
        if let Some(full) = self.full(transaction) {
            return Reply::Full(full);
        }
        if let Some(Keep { lease, ttl }) = transaction.keep {
            self.leases.insert(lease, Lease { until: Time(self.now.0.saturating_add(ttl)) });
        }
        if !transaction.when.iter().all(|condition| self.holds(condition)) || !self.leases_alive(transaction) {
            return Reply::Refused(self.named(&transaction.when));
        }
        for change in &transaction.then {
            self.apply(change, events);
        }
        self.recent.push_back((self.now, id, self.revision));
        self.recent_ids.insert(id);
        Reply::Done(self.revision)
    }

    /// All keys that begin with this.
    pub fn range(&self, prefix: &str) -> BTreeMap<String, Content> {
        let from = self.keys.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, content)| (key.clone(), content.clone()))
            .collect()
    }

    /// The time of the last entry.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Counts changes of contents.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// When the next lease ends that is not prolonged.
    pub fn next_end(&self) -> Option<Time> {
        self.leases.values().map(|lease| lease.until).min()
    }

    fn holds(&self, condition: &Condition) -> bool {
        let key = |key: &String| self.keys.get(key);
        match condition {
            Condition::Absent(name) => key(name).is_none(),
            Condition::Modified(name, revision) => key(name).is_some_and(|content| content.modified == *revision),
            Condition::Created(name, revision) => key(name).is_some_and(|content| content.created == *revision),
            Condition::Value(name, value) => key(name).is_some_and(|content| content.value == *value),
            Condition::Alive(lease) => self.leases.contains_key(lease),
        }
    }

    /// A key cannot be attached to a lease that has ended.
    fn leases_alive(&self, transaction: &Transaction) -> bool {
        let mut leases = puts(transaction).filter_map(|(.., lease)| lease);
        leases.all(|lease| self.leases.contains_key(&lease))
    }

    fn named(&self, conditions: &[Condition]) -> BTreeMap<String, Content> {
        let name = |condition: &Condition| match condition {
            Condition::Absent(name)
            | Condition::Modified(name, _)
            | Condition::Created(name, _)
            | Condition::Value(name, _) => Some(name.clone()),
            Condition::Alive(_) => None,
        };
        let names = conditions.iter().filter_map(name);
        names.filter_map(|name| Some((name.clone(), self.keys.get(&name)?.clone()))).collect()
    }

    fn apply(&mut self, change: &Change, events: &mut Vec<Event>) {
        match change {
            Change::Put { key, value, lease } => {
                // A key is kept alive without anything being changed.
                if lease.is_some()
                    && let Some(content) = self.keys.get_mut(key).filter(|content| content.value == *value)
                {
                    content.lease = *lease;
                    return;
                }
                self.revision.0 += 1;
                let created = self.keys.get(key).map_or(self.revision, |content| content.created);
                let content = Content { value: value.clone(), created, modified: self.revision, lease: *lease };
                self.keys.insert(key.clone(), content);
                events.push(Event { key: key.clone(), value: Some(value.clone()) });
            }
            Change::Delete(key) => self.delete_where(events, |_, name, _| name == key),
            Change::DeletePrefix(prefix) => self.delete_where(events, |_, name, _| name.starts_with(prefix)),
        }
    }

    fn delete_where(&mut self, events: &mut Vec<Event>, dead: impl Fn(&State, &String, &Content) -> bool) {
        let names: Vec<String> = self
            .keys
            .iter()
            .filter(|(name, content)| dead(self, name, content))
            .map(|(name, _)| name.clone())
            .collect();
        for key in names {
            self.keys.remove(&key);
            self.revision.0 += 1;
            events.push(Event { key, value: None });
        }
    }

    /// Why there is no room for a transaction.
    fn full(&self, transaction: &Transaction) -> Option<String> {
        let too_large = |key: &str, value: &[u8]| key.len() > LONGEST_KEY || value.len() > LARGEST_VALUE;
        if let Some((key, value, _)) = puts(transaction).find(|(key, value, _)| too_large(key, value)) {
            return Some(format!(
                "a key of {} bytes with a value of {} bytes: at most {LONGEST_KEY} and {LARGEST_VALUE} are stored",
                key.len(),
                value.len()
            ));
        }
        let most = MOST_REQUESTS + if transaction.keep.is_some() { MOST_KEPT } else { 0 };
        if self.recent.len() >= most {
            return Some(format!("more than {most} changes in {} seconds", REMEMBERED / 1000));
        }
        let new_keys = puts(transaction).filter(|(key, ..)| !self.keys.contains_key(*key)).count();
        let new_lease = transaction.keep.is_some_and(|keep| !self.leases.contains_key(&keep.lease));
        if (new_keys > 0 && self.keys.len() + new_keys > MOST_KEYS) || (new_lease && self.leases.len() >= MOST_LEASES) {
            return Some(format!("at most {MOST_KEYS} keys and {MOST_LEASES} leases are stored"));
        }
        // What takes the place of as many bytes needs no room: a leader goes on renewing its key in a store that is full.
        let growth = |key: &str, value: &[u8]| match self.keys.get(key) {
            Some(present) => value.len().saturating_sub(present.value.len()),
            None => key.len() + value.len(),
        };
        let bytes: usize = puts(transaction).map(|(key, value, _)| growth(key, value)).sum();
        let stored: usize = self.keys.iter().map(|(key, content)| key.len() + content.value.len()).sum();
        (bytes > 0 && stored + bytes > MOST_BYTES).then(|| format!("at most {MOST_BYTES} bytes are stored"))
    }
}

fn puts(transaction: &Transaction) -> impl Iterator<Item = (&str, &[u8], Option<LeaseId>)> {
    transaction.then.iter().filter_map(|change| match change {
        Change::Put { key, value, lease } => Some((key.as_str(), value.as_slice(), *lease)),
        Change::Delete(_) | Change::DeletePrefix(_) => None,
    })
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
