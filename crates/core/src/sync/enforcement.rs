//! Since when PostgreSQL keeps to its `synchronous_standby_names`, and who has everything that was acknowledged before.
//!
//! A reload reaches the processes of a server one by one. Until the last WAL sender has taken a setting over, commits are
//! still acknowledged by the one before; until the checkpointer has (it does so between the buffers it writes, and not at
//! all during an immediate checkpoint), the first setting after none makes nobody wait. Only then does the flushed
//! position bound what the old setting acknowledged, and a standby that has reached it has all of that.

use std::time::Duration;

use super::names::StandbyNames;
use super::{Candidates, Names};
use crate::lsn::Lsn;
use crate::time::Moment;

/// How long a setting has to be seen in force where its effect on WAL senders cannot be seen (another number).
const SETTLE: Duration = Duration::from_millis(100);

/// What a primary says about its synchronous replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inspection {
    /// `SHOW synchronous_standby_names`
    pub standby_names: String,
    /// `SHOW synchronous_commit`
    pub synchronous_commit: String,
    /// `pg_current_wal_flush_lsn()`, read after the other values.
    pub flushed: Lsn,
    /// `pg_stat_replication`
    pub senders: Vec<Sender>,
    /// The checkpointer may not have taken over the last reload yet.
    pub checkpointer_busy: bool,
    /// When the postmaster was started, as text.
    pub start_time: String,
    /// Where users turned `synchronous_commit` down besides: `off for role app`, `local for role app in database shop`.
    pub turned_down: Vec<String>,
}

impl Inspection {
    /// Everywhere commits do not wait for standbys, whatever is named.
    pub fn commits_that_do_not_wait(&self) -> Vec<String> {
        let server = match self.synchronous_commit.as_str() {
            value @ ("off" | "local") => Some(format!("{value} for the server")),
            _ => None,
        };
        server.into_iter().chain(self.turned_down.iter().cloned()).collect()
    }
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sender {
    /// `application_name`
    pub name: String,
    /// `state`: `streaming`, `catchup`, ...
    pub state: String,
    /// `sync_state`: `async`, `potential`, `sync`, `quorum`.
    pub sync_state: String,
    /// `sync_priority`: the place in the list that this sender itself goes by; 0 where it is not in it.
    pub sync_priority: i64,
    /// `write_lsn`
    pub written: Option<Lsn>,
    /// `flush_lsn`
    pub flushed: Option<Lsn>,
    /// `replay_lsn`
    pub replayed: Option<Lsn>,
}

impl Sender {
    /// It streams, so its confirmations release commits.
    pub fn streams(&self) -> bool {
        self.state == "streaming"
    }
}

/// What is remembered of the setting in force, from tick to tick.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Enforcement {
    /// The setting, as the server shows it.
    shown: String,
    /// Since when it has been seen.
    pub since: Moment,
    /// The setting that was asked for last; `None` where that never happened.
    pub requested: Option<String>,
    /// PostgreSQL certainly waits for standbys: the checkpointer has taken over a setting that is not empty.
    waits: bool,
    /// Everything acknowledged by earlier settings lies before this position; `None` while they may still act.
    settled: Option<Lsn>,
    /// Who has reached it.
    reached: Names,
    /// When the server was started, as it says.
    pub start_time: String,
    /// When it became primary or was restarted, if that has been seen: its standbys are on their way back.
    pub begun: Option<Moment>,
    /// Where commits do not wait for standbys, as it was last told.
    pub turned_down: Vec<String>,
}

impl Enforcement {
    /// Of a primary that has just been promoted, at that time, or of one that was found as such.
    pub fn new(now: Moment, promoted: bool) -> Self {
        Enforcement {
            shown: String::new(),
            since: now,
            requested: None,
            waits: false,
            settled: None,
            reached: Names::new(),
            start_time: String::new(),
            begun: promoted.then_some(now),
            turned_down: Vec::new(),
        }
    }

    /// A new setting is being written: nothing is certain until it is seen in force.
    pub fn requested(&mut self, text: String, now: Moment) {
        self.requested = Some(text);
        self.since = now;
        self.settled = None;
        self.reached.clear();
    }

    /// Takes in what the server says now. `names`: its setting, read.
    pub fn observe(&mut self, inspection: &Inspection, names: &StandbyNames, standbys: &Candidates, now: Moment) {
        if self.start_time != inspection.start_time {
            if !self.start_time.is_empty() {
                self.begun = Some(now);
            }
            self.start_time = inspection.start_time.clone();
            self.forget(now);
        }
        if self.shown != inspection.standby_names {
            self.shown = inspection.standby_names.clone();
            self.waits &= !names.is_empty();
            self.forget(now);
        }
        self.waits |= !names.is_empty() && !inspection.checkpointer_busy;
        if self.settled.is_none() && self.is_taken_over(inspection, names, now) {
            self.settled = Some(inspection.flushed);
        }
        if let Some(mark) = self.settled {
            let listed = standbys.all.iter().filter(|standby| names.names.contains(&standby.name));
            self.reached.extend(listed.filter(|standby| standby.position >= mark).map(|standby| standby.name.clone()));
        }
    }

    /// Nothing is certain any more, but that there is a setting of ours.
    pub fn doubted(mut self) -> Self {
        self.shown.clear();
        self.start_time.clear();
        self.waits = false;
        self.settled = None;
        self.reached.clear();
        self
    }

    fn forget(&mut self, now: Moment) {
        self.since = now;
        self.settled = None;
        self.reached.clear();
    }

    fn is_taken_over(&self, inspection: &Inspection, names: &StandbyNames, now: Moment) -> bool {
        let as_asked = !self.is_unsure();
        let senders = inspection.senders.iter().filter(|sender| sender.streams());
        let by_all = senders.clone().all(|sender| (sender.sync_priority > 0) == names.lists(&sender.name));
        as_asked && by_all && (self.waits || names.is_empty()) && now.since(self.since) >= SETTLE
    }

    /// The setting that was asked for is not the one that is seen: either may come to act.
    pub fn is_unsure(&self) -> bool {
        self.requested.as_ref().is_some_and(|requested| *requested != self.shown)
    }

    /// No earlier setting acknowledges commits any more.
    pub fn is_settled(&self) -> bool {
        self.settled.is_some()
    }

    /// Who has everything that earlier settings acknowledged. Empty until the present one is settled.
    pub fn reached(&self) -> &Names {
        &self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::MemberName;
    use crate::sync::pick::Candidate;

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    fn inspection(names: &str, flushed: u64, priority: i64, position: u64) -> Inspection {
        let sender = Sender {
            name: "a".into(),
            state: "streaming".into(),
            sync_priority: priority,
            flushed: Some(Lsn(position)),
            ..Sender::default()
        };
        Inspection {
            standby_names: names.into(),
            flushed: Lsn(flushed),
            senders: vec![sender],
            start_time: "noon".into(),
            ..Inspection::default()
        }
    }

    fn observe(enforcement: &mut Enforcement, inspection: &Inspection, now: Moment) {
        let names: StandbyNames = inspection.standby_names.parse().unwrap();
        let all = inspection.senders.iter().map(|sender| Candidate {
            name: MemberName::new(sender.name.as_str()),
            sync_state: sender.sync_state.clone(),
            position: sender.flushed.unwrap(),
            priority: 1,
            nofailover: false,
        });
        let standbys = Candidates { all: all.collect(), latest: inspection.flushed };
        enforcement.observe(inspection, &names, &standbys, now);
    }

    #[test]
    fn a_standby_counts_when_the_setting_acts_and_it_has_all_from_before() {
        let mut enforcement = Enforcement::new(at(0), false);
        observe(&mut enforcement, &inspection("a", 100, 0, 100), at(0));
        assert!(!enforcement.is_settled(), "the sender still goes by the old list");
        observe(&mut enforcement, &inspection("a", 200, 1, 150), at(50));
        assert!(!enforcement.is_settled(), "too early to be sure");
        observe(&mut enforcement, &inspection("a", 300, 1, 250), at(100));
        assert!(enforcement.is_settled() && enforcement.reached().is_empty(), "300 may have been acknowledged");
        observe(&mut enforcement, &inspection("a", 400, 1, 299), at(200));
        assert!(enforcement.reached().is_empty());
        observe(&mut enforcement, &inspection("a", 500, 1, 300), at(300));
        assert!(enforcement.reached().contains("a"));
        // Another setting, or another server: all over again.
        observe(&mut enforcement, &inspection("a,b", 600, 1, 600), at(1000));
        assert!(!enforcement.is_settled() && enforcement.reached().is_empty());
    }

    #[test]
    fn a_busy_checkpointer_delays_the_first_setting_only() {
        let mut enforcement = Enforcement::new(at(0), false);
        let busy = |names: &str| Inspection { checkpointer_busy: true, ..inspection(names, 100, 1, 100) };
        observe(&mut enforcement, &busy("a"), at(0));
        observe(&mut enforcement, &busy("a"), at(1000));
        assert!(!enforcement.is_settled());
        observe(&mut enforcement, &inspection("a", 100, 1, 100), at(2000));
        assert!(enforcement.is_settled());
        observe(&mut enforcement, &busy("a,b"), at(3000));
        observe(&mut enforcement, &busy("a,b"), at(4000));
        assert!(enforcement.is_settled(), "commits wait since the first setting");
    }

    #[test]
    fn a_setting_that_was_asked_for_and_is_not_seen_leaves_nothing_certain() {
        let mut enforcement = Enforcement::new(at(0), false);
        observe(&mut enforcement, &inspection("a", 100, 1, 100), at(0));
        observe(&mut enforcement, &inspection("a", 100, 1, 100), at(100));
        assert!(enforcement.is_settled());
        enforcement.requested("b".into(), at(200));
        observe(&mut enforcement, &inspection("a", 100, 1, 100), at(400));
        assert!(!enforcement.is_settled() && enforcement.is_unsure());
        enforcement.requested("a".into(), at(500));
        observe(&mut enforcement, &inspection("a", 100, 1, 100), at(600));
        assert!(enforcement.is_settled() && !enforcement.is_unsure());
    }

    #[test]
    fn a_restart_is_noticed() {
        let mut enforcement = Enforcement::new(at(0), false);
        observe(&mut enforcement, &inspection("a", 100, 1, 100), at(10));
        assert_eq!(enforcement.begun, None);
        let restarted = Inspection { start_time: "later".into(), ..inspection("a", 100, 1, 100) };
        observe(&mut enforcement, &restarted, at(5000));
        assert_eq!(enforcement.begun, Some(at(5000)));
        assert!(!enforcement.is_settled());
    }
}
