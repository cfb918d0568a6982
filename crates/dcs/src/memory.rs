//! A store in memory, for tests and simulation: linearizable, with leases, versions and watches, on a clock that is
//! given to it. Each member has a handle; all handles share one store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::cluster::{MemberData, Version};
use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::time::Moment;
use tokio::sync::watch;

use crate::wire::{self, RawKey};
use crate::{Dcs, Expected, Key, LeaderUpdate, Timing, Unread};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// What happens to the requests of a handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// They are carried out and answered.
    #[default]
    None,
    /// They never arrive: `Failed`.
    Unreachable,
    /// They are carried out, the answers are lost: `Unknown` for writes, `Failed` for reads.
    AnswersLost,
}

/// The store of one cluster. Clones share it.
#[derive(Clone)]
pub struct Store {
    clock: Clock,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    keys: BTreeMap<String, RawKey>,
    leases: BTreeMap<String, Moment>,
    granted: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    own_key: String,
    changes: watch::Sender<u64>,
}

impl Store {
    /// An empty store that takes its time from `clock`.
    pub fn new(clock: Clock) -> Self {
        Store { clock, inner: Arc::default() }
    }

    /// A handle for one member.
    pub fn handle(&self, name: MemberName, timing: Timing) -> Memory {
        let changes = watch::Sender::new(0);
        let own_key = format!("{}{name}", wire::MEMBERS);
        self.lock().watchers.push(Watcher { own_key: own_key.clone(), changes: changes.clone() });
        let own = Mutex::new(Own { timing, lease: None, fault: Fault::None });
        Memory { store: self.clone(), name, own_key, changes, own }
    }

    /// Removes the keys whose leases have ended. Happens by itself before each request; a simulation calls it when
    /// it moves its clock, so that watchers hear of it.
    pub fn expire(&self) {
        let now = (self.clock)();
        self.lock().expire(now);
    }

    /// Sets a key from outside, as an operator or another version might. `None` deletes it.
    pub fn set_raw(&self, name: &str, value: Option<&[u8]>) {
        let mut inner = self.lock();
        match value {
            Some(value) => {
                inner.put(name, value, None);
            }
            None => inner.remove(name),
        }
    }

    /// The content of a key.
    pub fn get_raw(&self, name: &str) -> Option<RawKey> {
        self.lock().keys.get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn expire(&mut self, now: Moment) {
        self.leases.retain(|_, until| now < *until);
        let alive = |raw: &RawKey| raw.session.as_ref().is_none_or(|lease| self.leases.contains_key(lease));
        let dead: Vec<String> = self.keys.iter().filter(|(_, raw)| !alive(raw)).map(|(name, _)| name.clone()).collect();
        for name in dead {
            self.remove(&name);
        }
    }

    fn put(&mut self, name: &str, value: &[u8], session: Option<String>) -> Version {
        self.revision += 1;
        let old = self.keys.get(name);
        let created = old.map_or(self.revision, |raw| raw.created);
        let heard = old.is_none_or(|raw| noticeable(name, &raw.value, value));
        let raw = RawKey { value: value.to_vec(), modified: self.revision, created, session };
        self.keys.insert(name.to_owned(), raw);
        if heard {
            self.notify(name);
        }
        Version(self.revision)
    }

    fn remove(&mut self, name: &str) {
        if self.keys.remove(name).is_some() {
            self.revision += 1;
            self.notify(name);
        }
    }

    fn notify(&mut self, name: &str) {
        if matches!(name, wire::STATUS | wire::FAILSAFE) {
            return;
        }
        self.watchers.retain(|watcher| watcher.changes.receiver_count() > 0 || watcher.changes.sender_count() > 1);
        for watcher in self.watchers.iter().filter(|watcher| watcher.own_key != name) {
            watcher.changes.send_modify(|count| *count += 1);
        }
    }

    fn version(&self, name: &str) -> Option<Version> {
        self.keys.get(name).map(|raw| Version(raw.modified))
    }

    fn holds(&self, name: &str, expected: Expected) -> bool {
        match expected {
            Expected::Anything => true,
            Expected::Absent => !self.keys.contains_key(name),
            Expected::Version(version) => self.version(name) == Some(version),
        }
    }
}

fn noticeable(name: &str, old: &[u8], new: &[u8]) -> bool {
    match name {
        wire::LEADER => old != new,
        _ if name.starts_with(wire::MEMBERS) => wire::lasting_content(old) != wire::lasting_content(new),
        _ => true,
    }
}

/// The handle of one member.
pub struct Memory {
    store: Store,
    name: MemberName,
    own_key: String,
    changes: watch::Sender<u64>,
    own: Mutex<Own>,
}

struct Own {
    timing: Timing,
    lease: Option<(String, Duration)>,
    fault: Fault,
}

impl Memory {
    /// Sets what happens to the requests of this handle from now on.
    pub fn set_fault(&self, fault: Fault) {
        self.own().fault = fault;
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, action: impl FnOnce(&mut Inner, Moment) -> Outcome<T>) -> Outcome<T> {
        let fault = self.own().fault;
        match fault {
            Fault::None => self.run(action),
            Fault::Unreachable => Outcome::Failed("the store cannot be reached".into()),
            Fault::AnswersLost => {
                self.run(action);
                Outcome::Unknown("the answer of the store was lost".into())
            }
        }
    }

    fn run<T>(&self, action: impl FnOnce(&mut Inner, Moment) -> T) -> T {
        let now = (self.store.clock)();
        let mut inner = self.store.lock();
        inner.expire(now);
        action(&mut inner, now)
    }

    /// Keeps the lease of this member alive, or gets another one if it has ended or `ttl` changed.
    fn lease(&self, inner: &mut Inner, now: Moment) -> String {
        let mut own = self.own();
        let ttl = own.timing.ttl;
        let alive = own.lease.clone().filter(|(id, length)| *length == ttl && inner.leases.contains_key(id));
        let (id, _) = alive.unwrap_or_else(|| {
            inner.granted += 1;
            (inner.granted.to_string(), ttl)
        });
        inner.leases.insert(id.clone(), now + ttl);
        own.lease = Some((id.clone(), ttl));
        id
    }

    fn is_leader(&self, inner: &Inner) -> bool {
        inner.keys.get(wire::LEADER).is_some_and(|raw| raw.value == self.name.as_str().as_bytes())
    }
}

#[async_trait]
impl Dcs for Memory {
    fn configure(&self, timing: Timing) {
        self.own().timing = timing;
    }

    async fn read(&self) -> Result<BTreeMap<String, RawKey>, Unread> {
        let fault = self.own().fault;
        match fault {
            Fault::None => Ok(self.run(|inner, _| inner.keys.clone())),
            Fault::Unreachable | Fault::AnswersLost => Err(Unread("the store cannot be reached".to_owned())),
        }
    }

    async fn acquire(&self) -> Outcome<Moment> {
        self.write(|inner, now| {
            let lease = self.lease(inner, now);
            match inner.keys.get(wire::LEADER) {
                Some(raw) if self.is_leader(inner) && raw.session.as_ref() == Some(&lease) => Outcome::Done(now),
                Some(_) => Outcome::Refused,
                None => {
                    inner.put(wire::LEADER, self.name.as_str().as_bytes(), Some(lease));
                    Outcome::Done(now)
                }
            }
        })
    }

    async fn renew(&self, update: &LeaderUpdate) -> Outcome<Moment> {
        self.write(|inner, now| {
            if !self.is_leader(inner) {
                return Outcome::Refused;
            }
            let lease = self.lease(inner, now);
            if inner.keys.get(wire::LEADER).and_then(|raw| raw.session.as_ref()) != Some(&lease) {
                inner.put(wire::LEADER, self.name.as_str().as_bytes(), Some(lease));
            }
            let texts =
                [(wire::STATUS, wire::status(update)), (wire::FAILSAFE, update.failsafe.as_ref().map(wire::failsafe))];
            for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text?))) {
                if inner.keys.get(name).is_none_or(|raw| raw.value != text.as_bytes()) {
                    inner.put(name, text.as_bytes(), None);
                }
            }
            Outcome::Done(now)
        })
    }

    async fn release(&self, last_lsn: Option<Lsn>) -> Outcome<()> {
        self.write(|inner, _| {
            if !self.is_leader(inner) {
                return Outcome::Refused;
            }
            if let Some(lsn) = last_lsn {
                let present = inner.keys.get(wire::STATUS).map(|raw| raw.value.as_slice());
                let text = wire::status_with_lsn(present, lsn);
                inner.put(wire::STATUS, text.as_bytes(), None);
            }
            inner.remove(wire::LEADER);
            Outcome::Done(())
        })
    }

    async fn touch_member(&self, data: &MemberData) -> Outcome<()> {
        let text = wire::member(data);
        self.write(|inner, now| {
            let lease = self.lease(inner, now);
            let present = inner.keys.get(&self.own_key);
            if present.is_none_or(|raw| raw.value != text.as_bytes() || raw.session.as_ref() != Some(&lease)) {
                inner.put(&self.own_key, text.as_bytes(), Some(lease));
            }
            Outcome::Done(())
        })
    }

    async fn write(&self, key: Key, value: &str, expected: Expected) -> Outcome<Version> {
        let name = wire::key_name(key);
        self.write(|inner, _| {
            if !inner.holds(name, expected) {
                return Outcome::Refused;
            }
            Outcome::Done(inner.put(name, value.as_bytes(), None))
        })
    }

    async fn delete(&self, key: Key, expected: Expected) -> Outcome<()> {
        let name = wire::key_name(key);
        self.write(|inner, _| {
            if !inner.holds(name, expected) {
                return Outcome::Refused;
            }
            inner.remove(name);
            Outcome::Done(())
        })
    }

    async fn delete_cluster(&self) -> Outcome<()> {
        self.write(|inner, _| {
            for name in inner.keys.keys().cloned().collect::<Vec<_>>() {
                inner.remove(&name);
            }
            Outcome::Done(())
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
