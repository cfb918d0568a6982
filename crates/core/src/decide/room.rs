//! A leader that cannot write WAL for lack of room makes way for a standby that can. Where there is none, it stays, and tries again
//! now and then.

use std::time::Duration;

use super::candidates::Bar;
use super::{Needs, Tick};
use crate::cluster::Cluster;
use crate::disk::{Fill, Place, Space};
use crate::job::DemoteMode;
use crate::memory::Handover;
use crate::peer::Peer;
use crate::server::{Role, Running};
use crate::settings::FullWalSwitchover;
use crate::verdict::{Level, Verdict};

/// After so many failures with little room for WAL, a checkpoint that makes room for a moment, or a standby that does not stream, is no
/// reason any more to go on as leader.
const FAILURES: u32 = 3;

/// A failure this long after the WAL directory was last seen scarce of room has another cause.
const SCARCE: Duration = Duration::from_secs(60);

/// A failure this long after the last one begins a new count.
const IN_A_ROW: Duration = Duration::from_secs(600);

/// A hand-over interrupts clients: one that did not succeed is not tried again sooner.
const PAUSE: Duration = Duration::from_secs(300);

/// How soon the standbys are looked at again while they connect after a crash, for which they need up to 5 seconds.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// As long as they may need for that. Later the loop goes at its usual pace.
const CONNECTING: Duration = Duration::from_secs(15);

/// From the second failure on a start as primary, or a promotion, is not tried again sooner.
const RETRY: Duration = Duration::from_secs(10);

impl Tick<'_> {
    /// A server that runs tells by its statistics whether it has crashed since the last tick.
    pub(super) fn notice_overcome_crash(&mut self, running: &Running) {
        let reset = running.statistics_reset.clone().filter(|_| !running.wal.is_standby());
        let now = reset.map(|reset| (running.start_time.clone(), reset));
        let before = std::mem::replace(&mut self.memory.disk.statistics_reset, now.clone());
        // One postmaster, which began anew.
        let changed = before.zip(now).is_some_and(|(before, now)| before.0 == now.0 && before.1 != now.1);
        if changed && self.memory.role == Role::Primary {
            self.count_failure();
        }
    }

    /// PostgreSQL of this leader has died, or did not come up. It counts where it may have lacked room for WAL.
    pub(super) fn count_failure(&mut self) {
        let now = self.facts.now.boot;
        if !self.wal_was_scarce() {
            return;
        }
        let failures = self.failures() + 1;
        self.memory.disk.failures = failures;
        self.memory.disk.failed_at = Some(now);
        self.note(Level::Error, format!("PostgreSQL has failed with little or no room for WAL ({failures} in a row)"));
    }

    /// Another node leads: what failed here does not matter any more.
    pub(super) fn forget_failures(&mut self, cluster: &Cluster) {
        if cluster.leader_name().is_some_and(|leader| leader != self.me()) {
            self.memory.disk.failures = 0;
        }
    }

    /// The next segment of WAL does not fit.
    fn wal_is_full(&self) -> bool {
        self.facts.disks.fill(&Place::Wal, self.settings.disk.warning) == Some(Fill::Full)
    }

    /// It was seen with little room, not long ago.
    fn wal_was_scarce(&self) -> bool {
        self.memory.disk.wal_scarce_at.is_some_and(|at| self.facts.now.boot.since(at) <= SCARCE)
    }

    /// Failures in a row, the last of them not long ago.
    fn failures(&self) -> u32 {
        if self.memory.disk.failed_at.is_some_and(|at| self.facts.now.boot.since(at) <= IN_A_ROW) {
            self.memory.disk.failures
        } else {
            0
        }
    }

    /// This leader has failed to write WAL, and will fail again.
    fn cannot_write(&self) -> bool {
        let failures = self.failures();
        self.settings.disk.switchover != FullWalSwitchover::Off
            && !self.settings.paused
            && !self.is_standby_cluster()
            && (failures > 0 && self.wal_is_full() || failures >= FAILURES && self.wal_was_scarce())
    }

    /// A primary that cannot go on writing WAL, as far as the setting cares, is stopped in order, where a standby that has room has all
    /// its WAL.
    pub(super) fn hand_over_for_room(&mut self, cluster: &Cluster, running: &Running) -> Needs<Option<Verdict>> {
        let now = self.facts.now.boot;
        let tried = self.memory.disk.handed_over_at.is_some_and(|at| now.since(at) < PAUSE);
        let before_it_fails = self.settings.disk.switchover == FullWalSwitchover::On
            && !self.settings.paused
            && !self.is_standby_cluster()
            && self.wal_is_full();
        let due = self.cannot_write() || before_it_fails;
        if !due || running.wal.is_standby() || tried || self.people_ask(cluster) {
            return Ok(None);
        }
        if !self.somebody_takes_over(cluster, Bar::Streaming(running.timeline), |space| space == Space::Enough)? {
            if self.memory.disk.failed_at.is_some_and(|at| now.since(at) < CONNECTING) {
                self.wake_after = self.wake_after.min(LOOK_AGAIN);
            }
            return Ok(None);
        }
        self.memory.disk.handed_over_at = Some(now);
        self.memory.handover = Some(Handover { since: now, stopped_at: None });
        self.demote(DemoteMode::Graceful);
        Ok(Some(Verdict::HandingOverForRoom))
    }

    /// PostgreSQL of this leader is down. It makes way where that is not the first time, or where it was no primary yet, and somebody has
    /// room. `None`: bring it up.
    pub(super) fn make_way_for_room(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        if !self.cannot_write() {
            return Ok(None);
        }
        let tried = self.failures() >= 2 || self.memory.role != Role::Primary;
        let has_room = |space| space == Space::Enough;
        if tried && (self.people_ask(cluster) || self.somebody_takes_over(cluster, Bar::WithinMaximumLag, has_room)?) {
            return self.fail_over_after_crash().map(Some);
        }
        Ok(self.await_room())
    }

    /// The lease is held, and nobody else would do better: the next attempt comes later. `None`: now.
    pub(super) fn await_room(&mut self) -> Option<Verdict> {
        if !self.cannot_write() || self.failures() < 2 {
            return None;
        }
        let passed = self.facts.now.boot.since(self.memory.disk.failed_at?);
        let left = RETRY.checked_sub(passed).filter(|left| !left.is_zero())?;
        self.wake_after = self.wake_after.min(left);
        Some(Verdict::AwaitingRoom)
    }

    /// A start of this leader has failed: it keeps its lease where nobody who could take over may have room. Nodes of Patroni do not say
    /// whether they have.
    pub(super) fn stays_without_room(&mut self, cluster: &Cluster) -> Needs<bool> {
        if !self.cannot_write() || self.people_ask(cluster) {
            return Ok(false);
        }
        let may_have_room = |space| space != Space::Full;
        self.somebody_takes_over(cluster, Bar::WithinMaximumLag, may_have_room).map(|possible| !possible)
    }

    /// A request of people, which comes first.
    fn people_ask(&self, cluster: &Cluster) -> bool {
        cluster.failover.as_ref().is_some_and(|request| request.scheduled_at.is_none())
    }

    /// A failover is possible, and one of those who could take over has the room that is asked for.
    fn somebody_takes_over(&mut self, cluster: &Cluster, bar: Bar, room: fn(Space) -> bool) -> Needs<bool> {
        let candidates = self.candidates(cluster, false);
        let peers = self.ask_peers(candidates.iter().copied())?;
        let has_room = |name| matches!(peers.get(name), Some(Peer::Status(status)) if room(status.space));
        let fit = candidates
            .iter()
            .any(|member| has_room(&member.name) && self.unfit(cluster, peers.get(&member.name), bar).is_none());
        if !fit && !self.memory.disk.told_of_nobody {
            let text = "there is no room for WAL here, and no standby that could take over is known to have room";
            self.note(Level::Warning, text);
        }
        self.memory.disk.told_of_nobody = !fit;
        if !fit {
            return Ok(false);
        }
        self.failover_possible(cluster, bar, false)
    }
}
