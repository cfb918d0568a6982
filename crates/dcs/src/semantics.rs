//! Patroni's meaning of keys and leases, over the primitives of any store that changes one key at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::JsonMap;
use patroni_core::cluster::{MemberData, Version};
use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::time::Moment;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::attempts::{Failure, jittered};
use crate::noticed::{Changes, Filter};
use crate::primitives::{Claimed, News, Primitives, Prolonged, Swap, When};
use crate::wire::{self, RawKey};
use crate::{Dcs, Expected, Key, LeaderUpdate, OpenError, Timing, Unread};

/// A handle for one member.
pub(crate) struct Semantics<P> {
    shared: Arc<Shared<P>>,
    changes: Changes,
}

struct Shared<P> {
    store: P,
    name: MemberName,
    member_key: String,
    state: Mutex<State>,
}

struct State {
    timing: Timing,
    /// Grows with each write: what a read that began before it saw is not taken for the present.
    writes: u64,
    /// What these keys are known to say, so that only changes are written.
    known: BTreeMap<&'static str, RawKey>,
    member: Option<RawKey>,
}

impl<P: Primitives> Semantics<P> {
    /// Makes a handle; nothing is sent until an operation is asked for.
    pub(crate) fn open(store: P, name: MemberName, timing: Timing) -> Arc<dyn Dcs> {
        store.configure(timing);
        let state = State { timing, writes: 0, known: BTreeMap::new(), member: None };
        let member_key = format!("{}{name}", wire::MEMBERS);
        let shared = Shared { store, name, member_key, state: Mutex::new(state) };
        Arc::new(Semantics { shared: Arc::new(shared), changes: Changes::new() })
    }
}

#[async_trait]
impl<P: Primitives> Dcs for Semantics<P> {
    fn configure(&self, timing: Timing) {
        self.shared.state().timing = timing;
        self.shared.store.configure(timing);
    }

    fn reload(&self, configuration: &JsonMap) -> Result<(), OpenError> {
        self.shared.store.reload(configuration)
    }

    async fn read(&self) -> Result<BTreeMap<String, RawKey>, Unread> {
        self.shared.read().await.map_err(Failure::unread)
    }

    async fn acquire(&self) -> Outcome<Moment> {
        self.shared.acquire().await.unwrap_or_else(Failure::outcome)
    }

    async fn renew(&self, update: &LeaderUpdate) -> Outcome<Moment> {
        self.shared.renew(update).await.unwrap_or_else(Failure::outcome)
    }

    async fn release(&self, last_lsn: Option<Lsn>) -> Outcome<()> {
        self.shared.release(last_lsn).await.unwrap_or_else(Failure::outcome)
    }

    async fn touch_member(&self, data: &MemberData) -> Outcome<()> {
        self.shared.touch_member(data).await.map_or_else(Failure::outcome, Outcome::Done)
    }

    async fn write(&self, key: Key, value: &str, expected: Expected) -> Outcome<Version> {
        self.shared.write(wire::key_name(key), value, expected).await.unwrap_or_else(Failure::outcome)
    }

    async fn delete(&self, key: Key, expected: Expected) -> Outcome<()> {
        self.shared.delete(wire::key_name(key), expected).await.unwrap_or_else(Failure::outcome)
    }

    async fn delete_cluster(&self) -> Outcome<()> {
        let shared = &self.shared;
        shared.store.delete_all(shared.deadline()).await.map_or_else(Failure::outcome, Outcome::Done)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe(|changes| watch_changes(self.shared.clone(), changes))
    }
}

/// How often an operation begins anew whose lease the store had forgotten, or whose key changed meanwhile.
const ROUNDS: usize = 3;

impl<P: Primitives> Shared<P> {
    async fn read(&self) -> Result<BTreeMap<String, RawKey>, Failure> {
        let writes = self.state().writes;
        let keys = self.store.read(self.deadline()).await?;
        let mut state = self.state();
        if state.writes == writes {
            let present = |name| Some((name, keys.get(name)?.clone()));
            state.known = [wire::STATUS, wire::FAILSAFE].into_iter().filter_map(present).collect();
            state.member = keys.get(&self.member_key).cloned();
        }
        Ok(keys)
    }

    async fn acquire(&self) -> Result<Outcome<Moment>, Failure> {
        let deadline = self.deadline();
        let mut uncertain = false;
        for _ in 0..ROUNDS {
            match self.store.claim(wire::LEADER, self.name.as_str(), deadline).await {
                Ok(Claimed::Ours(moment)) => return Ok(Outcome::Done(moment)),
                Ok(Claimed::Otherwise { repeated }) => uncertain |= repeated,
                Err(Failure::LeaseNotFound) => continue,
                Err(failure) if uncertain => return Err(failure.after_write()),
                Err(failure) => return Err(failure),
            }
            let undecided = |failure: Failure| if uncertain { failure.after_write() } else { failure.before_write() };
            match self.store.get(wire::LEADER, deadline).await.map_err(undecided)? {
                Some(raw) if self.is_own_name(&raw) && self.store.is_ours(&raw) => {
                    let prolonged = self.store.prolong(wire::LEADER, self.name.as_str(), deadline).await;
                    return Ok(match prolonged.map_err(Failure::after_write)? {
                        Prolonged::Ours(moment) => Outcome::Done(moment),
                        Prolonged::NotOurs => Outcome::Refused,
                    });
                }
                Some(_) if uncertain => return Err(undecided_about(wire::LEADER)),
                Some(_) => return Ok(Outcome::Refused),
                // It ended meanwhile.
                None => {}
            }
        }
        Err(if uncertain { undecided_about(wire::LEADER) } else { Failure::LeaseNotFound })
    }

    async fn renew(&self, update: &LeaderUpdate) -> Result<Outcome<Moment>, Failure> {
        let deadline = self.deadline();
        let prolonged = self.store.prolong(wire::LEADER, self.name.as_str(), deadline).await?;
        let Prolonged::Ours(moment) = prolonged else { return Ok(Outcome::Refused) };
        // The lease is worth more than these: they get half of the time that is left, and may fail.
        let deadline = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
        let failsafe = update.failsafe.as_ref().map(wire::failsafe);
        tokio::join!(
            self.write_if_changed(wire::STATUS, wire::status(update), deadline),
            self.write_if_changed(wire::FAILSAFE, failsafe, deadline),
        );
        Ok(Outcome::Done(moment))
    }

    async fn write_if_changed(&self, name: &'static str, text: Option<String>, deadline: Instant) {
        let Some(text) = text else { return };
        if self.state().known.get(name).is_some_and(|raw| raw.value == text.as_bytes()) {
            return;
        }
        self.begin_write().known.remove(name);
        match self.store.put(name, &text, When::Always, deadline).await {
            Ok(_) => {
                let raw = RawKey { value: text.into_bytes(), ..RawKey::default() };
                self.state().known.insert(name, raw);
            }
            Err(failure) => {
                let (Failure::NotDone(why) | Failure::Unknown(why)) = failure.after_write() else { return };
                tracing::warn!("the leader key is renewed, /{name} cannot be written: {why}");
            }
        }
    }

    /// The key is deleted as it was found, and only while it is the one that was found first: a release that comes late does
    /// not hit one that this member created later.
    async fn release(&self, last_lsn: Option<Lsn>) -> Result<Outcome<()>, Failure> {
        let deadline = self.deadline();
        let mut found: Option<RawKey> = None;
        for _ in 0..ROUNDS {
            let Some(leader) = self.own_leader_key(deadline).await? else { return Ok(Outcome::Refused) };
            if found.as_ref().is_some_and(|first| first.created != leader.created) {
                return Ok(Outcome::Refused);
            }
            if let (None, Some(lsn)) = (&found, last_lsn) {
                let present = self.store.get(wire::STATUS, deadline).await.map_err(Failure::before_write)?;
                let text = wire::status_with_lsn(present.as_ref().map(|raw| raw.value.as_slice()), lsn);
                self.write_if_changed(wire::STATUS, Some(text), deadline).await;
            }
            drop(self.begin_write());
            match self.store.delete(wire::LEADER, Version(leader.modified), deadline).await? {
                Swap::Done(_) | Swap::Otherwise { repeated: true } => return Ok(Outcome::Done(())),
                // A renewal whose answer was lost may have come in between.
                Swap::Otherwise { repeated: false } => found = found.or(Some(leader)),
            }
        }
        Err(Failure::NotDone("the leader key changed again and again".to_owned()))
    }

    async fn own_leader_key(&self, deadline: Instant) -> Result<Option<RawKey>, Failure> {
        let present = self.store.get(wire::LEADER, deadline).await.map_err(Failure::before_write)?;
        Ok(present.filter(|raw| self.is_own_name(raw)))
    }

    async fn touch_member(&self, data: &MemberData) -> Result<(), Failure> {
        let (text, deadline) = (wire::member(data), self.deadline());
        for _ in 0..ROUNDS {
            let known = self.begin_write().member.take();
            match self.store.hold(&self.member_key, &text, known, deadline).await {
                Ok(raw) => {
                    self.state().member = Some(raw);
                    self.store.member_written(data, deadline).await;
                    return Ok(());
                }
                Err(Failure::LeaseNotFound) => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::LeaseNotFound)
    }

    async fn write(&self, name: &str, value: &str, expected: Expected) -> Result<Outcome<Version>, Failure> {
        let deadline = self.deadline();
        loop {
            let when = self.condition(name, expected, deadline).await?;
            drop(self.begin_write());
            match self.store.put(name, value, when, deadline).await? {
                Swap::Done(version) => return Ok(Outcome::Done(version)),
                Swap::Otherwise { repeated: false } if expected == Expected::Anything => {}
                Swap::Otherwise { repeated: false } => return Ok(Outcome::Refused),
                Swap::Otherwise { repeated: true } => {
                    let present = self.store.get(name, deadline).await.map_err(Failure::after_write)?;
                    // The same value, written after our first attempt: ours, or as good as ours. A key that was absent is
                    // another matter: creating it decides a race.
                    let same = present.filter(|raw| expected != Expected::Absent && raw.value == value.as_bytes());
                    return same.map(|raw| Outcome::Done(Version(raw.modified))).ok_or_else(|| undecided_about(name));
                }
            }
        }
    }

    async fn delete(&self, name: &str, expected: Expected) -> Result<Outcome<()>, Failure> {
        let deadline = self.deadline();
        loop {
            let version = match self.condition(name, expected, deadline).await? {
                When::Version(version) => version,
                When::Absent | When::Always if expected == Expected::Anything => return Ok(Outcome::Done(())),
                When::Absent | When::Always => {
                    let present = self.store.get(name, deadline).await.map_err(Failure::before_write)?;
                    return Ok(if present.is_none() { Outcome::Done(()) } else { Outcome::Refused });
                }
            };
            drop(self.begin_write());
            match self.store.delete(name, version, deadline).await? {
                Swap::Done(_) => return Ok(Outcome::Done(())),
                Swap::Otherwise { repeated: false } if expected == Expected::Anything => {}
                Swap::Otherwise { repeated: false } => return Ok(Outcome::Refused),
                Swap::Otherwise { repeated: true } => {
                    let present = self.store.get(name, deadline).await.map_err(Failure::after_write)?;
                    let gone = present.is_none().then_some(Outcome::Done(()));
                    return gone.ok_or_else(|| undecided_about(name));
                }
            }
        }
    }

    /// The condition of a write. For `Anything` the key is read first: an attempt that is delayed on its way then cannot undo
    /// what others write later.
    async fn condition(&self, name: &str, expected: Expected, deadline: Instant) -> Result<When, Failure> {
        Ok(match expected {
            Expected::Absent => When::Absent,
            Expected::Version(version) => When::Version(version),
            Expected::Anything => {
                let present = self.store.get(name, deadline).await.map_err(Failure::before_write)?;
                present.map_or(When::Absent, |raw| When::Version(Version(raw.modified)))
            }
        })
    }

    fn is_own_name(&self, raw: &RawKey) -> bool {
        raw.value == self.name.as_str().as_bytes()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.state().timing.retry_timeout
    }

    /// The state, in which reads that are under way will leave nothing.
    fn begin_write(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.writes += 1;
        state
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn undecided_about(name: &str) -> Failure {
    Failure::Unknown(format!("{name} changed while it was not known whether our change of it was carried out"))
}

/// Counts the changes that matter. Runs until it is dropped.
async fn watch_changes<P: Primitives>(shared: Arc<Shared<P>>, changes: watch::Sender<u64>) {
    const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);
    let (mut cursor, mut filter) = (P::Cursor::default(), Filter::new(&shared.member_key));
    let mut pause = SHORTEST_PAUSE;
    loop {
        match shared.store.news(&mut cursor).await {
            Ok(News::Begun(keys)) => {
                // What happened in between was missed; what is written again from now on is no change.
                filter.forget();
                for (name, raw) in &keys {
                    filter.matters("", name, Some(&raw.value));
                }
                changes.send_modify(|count| *count += 1);
            }
            Ok(News::Changed(events)) => {
                // Every event has to be looked at, because the filter remembers them.
                let matters = |(name, value): &&(String, Option<Vec<u8>>)| filter.matters("", name, value.as_deref());
                if events.iter().filter(matters).count() > 0 {
                    changes.send_modify(|count| *count += 1);
                }
            }
            Err(why) => {
                tracing::debug!("cannot watch {}: {why}", P::NAME);
                cursor = P::Cursor::default();
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        }
        pause = SHORTEST_PAUSE;
    }
}
