//! The lease: annotations of one object, renewed again and again. Others know that it is over when nothing of it changed for its length.

use std::time::SystemTime;

use jiff::Timestamp;
use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::time::Moment;
use serde_json::Value;
use tokio::time::Instant;

use super::bodies::{Address, subsets};
use super::keys::{ACQUIRED, Annotations, OPTIME, RECORD, RENEWED, TRANSITIONS, TTL, identity, of_update};
use super::objects::Object;
use super::store::{Changed, Store};
use super::view::Holder;
use crate::LeaderUpdate;
use crate::attempts::Failure;
use crate::boot_time::boot_time;
use crate::wire::LEADER;

/// How often an operation begins anew because the object changed meanwhile.
const ROUNDS: usize = 3;

impl Store {
    /// Takes the lease, if nobody has it. What is there is looked at first: a lease that others renewed is theirs, however late the
    /// news of it arrive.
    pub(super) async fn acquire(&self) -> Result<Outcome<Moment>, Failure> {
        let deadline = self.deadline();
        let mut sent: Option<(Annotations, Moment)> = None;
        for _ in 0..ROUNDS {
            let undecided =
                |failure: Failure| if sent.is_some() { failure.after_write() } else { failure.before_write() };
            let object = self.look(&self.names.leader, deadline).await.map_err(undecided)?;
            if let Some((annotations, from)) = &sent
                && object.as_ref().is_some_and(|object| holds(object, annotations))
            {
                self.note_lease(Some(*from));
                return Ok(Outcome::Done(*from));
            }
            if !self.is_free() {
                return Ok(Outcome::Refused);
            }
            let annotations = self.acquisition();
            let from = boot_time();
            let version = object.as_ref().map(|object| object.metadata.resource_version.as_str());
            let changed = self.change_leader(&annotations, version, true, deadline).await?;
            match changed {
                Changed::Done => {
                    self.note_lease(Some(from));
                    return Ok(Outcome::Done(from));
                }
                Changed::Otherwise { repeated: true } => sent = Some((annotations, from)),
                Changed::Otherwise { repeated: false } => {}
            }
        }
        Err(Failure::NotDone("the leader key changed again and again".to_owned()))
    }

    /// Whether this member may take the lease.
    fn is_free(&self) -> bool {
        let view = self.view();
        match view.holder(self.timing().ttl, boot_time()) {
            Holder::Nobody | Holder::Expired => true,
            // What it says is older than what this member did, or does not know of.
            Holder::Member(_) if view.is_outdated() => self.holds_by_its_clock(),
            Holder::Member(name) => name == self.name.as_str(),
        }
    }

    /// Annotations of who takes the lease.
    fn acquisition(&self) -> Annotations {
        let now = now();
        let view = self.view();
        let is_own = view.said(LEADER) == Some(self.name.as_str());
        let transitions: i64 = view.said(TRANSITIONS).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let is_first = RECORD.iter().all(|name| view.said(name).is_none());
        let transitions = if is_own || is_first { transitions } else { transitions.saturating_add(1) };
        let acquired = view.said(ACQUIRED).filter(|text| is_own && !text.is_empty()).map(str::to_owned);
        self.record(acquired.unwrap_or_else(|| now.clone()), transitions.to_string(), now)
    }

    /// Annotations of who holds the lease.
    fn record(&self, acquired: String, transitions: String, renewed: String) -> Annotations {
        Annotations::from([
            (LEADER, Some(self.name.as_str().to_owned())),
            (TTL, Some(self.timing().ttl.as_secs().to_string())),
            (RENEWED, Some(renewed)),
            (ACQUIRED, Some(acquired)),
            (TRANSITIONS, Some(transitions)),
        ])
    }

    /// Changes the object of the leader. The address of Endpoints is this member's, or nobody's.
    async fn change_leader(
        &self,
        annotations: &Annotations,
        version: Option<&str>,
        leads: bool,
        deadline: Instant,
    ) -> Result<Changed, Failure> {
        let subsets = self.subsets(leads).map(|subsets| ("subsets", subsets));
        self.change(&self.names.leader, annotations, version, subsets, deadline).await
    }

    fn subsets(&self, leads: bool) -> Option<Value> {
        let options = self.options();
        if !options.use_endpoints {
            return None;
        }
        let view = self.view();
        let name = self.name.as_str();
        let address = if leads { Address::Own { name, pod: view.pod(name) } } else { Address::Nobody };
        subsets(&options, view.leader(), address)
    }

    /// Prolongs the lease. The object is the one that is known; where that is not so, it is looked at: only what the API server says now
    /// is a word about who leads.
    pub(super) async fn renew(&self, update: &LeaderUpdate) -> Result<Outcome<Moment>, Failure> {
        let deadline = self.deadline();
        let further = of_update(update);
        let mut looked = false;
        for _ in 0..ROUNDS {
            let Some(version) = self.own_version() else {
                if looked {
                    return Ok(Outcome::Refused);
                }
                self.look(&self.names.leader, deadline).await.map_err(Failure::before_write)?;
                looked = true;
                continue;
            };
            let mut annotations = self.renewal();
            annotations.extend(further.clone());
            let from = boot_time();
            if let Changed::Done = self.change_leader(&annotations, Some(&version), true, deadline).await? {
                self.note_lease(Some(from));
                return Ok(Outcome::Done(from));
            }
            // Another version is there: that of an earlier attempt, of somebody who edited it, or another leader's.
            self.look(&self.names.leader, deadline).await.map_err(Failure::after_write)?;
            looked = true;
        }
        Err(Failure::NotDone("the leader key changed again and again".to_owned()))
    }

    /// The version of the leader's object that is known, if it says that this member leads, however long ago.
    fn own_version(&self) -> Option<String> {
        let view = self.view();
        let object = view.leader()?;
        let is_own = match view.is_outdated() {
            true => self.holds_by_its_clock(),
            false => object.annotation(LEADER) == Some(self.name.as_str()),
        };
        is_own.then(|| object.metadata.resource_version.clone())
    }

    fn renewal(&self) -> Annotations {
        let now = now();
        let view = self.view();
        let said = |name: &str| view.said(name).filter(|text| !text.is_empty()).map(str::to_owned);
        let acquired = said(ACQUIRED).unwrap_or_else(|| now.clone());
        self.record(acquired, said(TRANSITIONS).unwrap_or_else(|| "0".to_owned()), now)
    }

    /// Gives the lease up, as it was found: a release that comes late does not hit one that this member won later.
    pub(super) async fn release(&self, last_lsn: Option<Lsn>) -> Result<Outcome<()>, Failure> {
        let deadline = self.deadline();
        let mut annotations = Annotations::from([(LEADER, None)]);
        if let Some(lsn) = last_lsn.filter(|lsn| lsn.0 > 0) {
            annotations.insert(OPTIME, Some(lsn.0.to_string()));
        }
        let mut found: Option<u64> = None;
        for _ in 0..ROUNDS {
            let object = self.look(&self.names.leader, deadline).await.map_err(Failure::before_write)?;
            let own = object.filter(|object| object.annotation(LEADER) == Some(self.name.as_str()));
            let Some(object) = own.filter(|object| found.is_none_or(|first| first == identity(object))) else {
                return Ok(Outcome::Refused);
            };
            let version = object.metadata.resource_version.as_str();
            match self.change_leader(&annotations, Some(version), false, deadline).await? {
                Changed::Done | Changed::Otherwise { repeated: true } => {
                    self.note_lease(None);
                    return Ok(Outcome::Done(()));
                }
                Changed::Otherwise { repeated: false } => found = Some(identity(&object)),
            }
        }
        Err(Failure::NotDone("the leader key changed again and again".to_owned()))
    }
}

/// Whether an object says what was sent: nobody else writes the same time.
fn holds(object: &Object, annotations: &Annotations) -> bool {
    annotations.iter().all(|(name, text)| object.annotation(name) == text.as_deref())
}

/// The time as Python's `isoformat` writes it.
fn now() -> String {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
    now.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_written_as_the_reference_writes_them() {
        let now = super::now();
        assert_eq!((now.len(), &now[10..11], &now[19..20], &now[26..]), (32, "T", ".", "+00:00"), "{now}");
    }
}
