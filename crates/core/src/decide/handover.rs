//! A planned change of the leader, seen from the leader: the key `/failover`.

use std::time::Duration;

use super::candidates::Bar;
use super::{Needs, Tick};
use crate::cluster::{Cluster, FailoverRequest, Schedule};
use crate::job::{DemoteMode, Job};
use crate::lsn::Timeline;
use crate::memory::{Handover, Rewind};
use crate::server::{Postmaster, Role, Running};
use crate::verdict::{Action, Level, Verdict};

/// How long a leader waits for a candidate to stream before it refuses. A standby that lost its connection tries again
/// after `wal_retrieve_retry_interval`, 5 seconds where that was not changed.
const STREAMING_PATIENCE: Duration = Duration::from_secs(10);

/// How long a stopped leader waits for a candidate to have the last WAL. PostgreSQL does not end before it has sent
/// everything to the standbys that stream: what is not there by then will not come, and clients are waiting.
const LAST_WAL_PATIENCE: Duration = Duration::from_secs(3);

/// What a schedule means now.
enum Due {
    Now,
    /// Not yet; look again after this time.
    Later(Duration),
    /// Too late, or not a time.
    Stale,
}

impl Tick<'_> {
    /// How Patroni calls what is asked for, or what is going on.
    pub(super) fn action_name(&self, cluster: &Cluster) -> String {
        cluster.failover.as_ref().map_or_else(|| "failover".to_owned(), |request| action(request).to_string())
    }

    /// The leader carries out, awaits, or removes a request. `None`: nothing to do with it now.
    pub(super) fn handover_from_leader(
        &mut self,
        cluster: &Cluster,
        running: Option<&Running>,
    ) -> Needs<Option<Verdict>> {
        let primary = running.is_some_and(|running| !running.wal.is_standby());
        // A standby that holds the lease is promoted first, and a server that starts is waited for: what is stopped
        // before it wrote a shutdown checkpoint could not be handed over, only started again.
        let not_ready = running.is_none() || self.memory.holding.is_some();
        let can_act = |request: &&FailoverRequest| {
            if self.is_standby_cluster() {
                return !self.settings.paused && running.is_some() && !primary;
            }
            primary || !self.settings.paused && not_ready && action(request) == Action::ManualFailover
        };
        let Some(request) = cluster.failover.as_ref().filter(can_act) else {
            self.memory.handover = None;
            return Ok(None);
        };
        if let Some(schedule) = &request.scheduled_at {
            match self.due(schedule, "switchover") {
                Due::Now => {}
                Due::Later(wait) => {
                    self.wake_after = self.wake_after.min(wait);
                    return Ok(None);
                }
                Due::Stale => return self.remove_request(request),
            }
        }
        let what = action(request);
        let bare = what.to_string().replace("manual ", "");
        if let Some(leader) = request.leader.as_ref().filter(|leader| *leader != self.me()) {
            let text = format!("{what}: leader name does not match: {leader} != {}", self.me());
            self.note(Level::Warning, text);
        } else if request.candidate.as_ref() == Some(self.me()) {
            self.note(Level::Warning, format!("{what}: I am already the leader, no need to {bare}"));
        } else if request.candidate.is_none() && self.settings.paused {
            self.note(
                Level::Warning,
                format!("{} is possible only to a specific candidate in a paused state", capitalized(what)),
            );
        } else {
            if self.is_standby_cluster() {
                return self.hand_over_standby_cluster(cluster, request, running, what);
            }
            let mode = if not_ready { DemoteMode::Immediate } else { DemoteMode::Graceful };
            let timeline = running.and_then(|running| running.timeline);
            return self.hand_over(cluster, request, what, mode, timeline);
        }
        self.remove_request(request)
    }

    fn hand_over(
        &mut self,
        cluster: &Cluster,
        request: &FailoverRequest,
        what: Action,
        mode: DemoteMode,
        timeline: Option<Timeline>,
    ) -> Needs<Option<Verdict>> {
        let bar = match what {
            Action::Switchover => Bar::Streaming(timeline),
            Action::ManualFailover => Bar::WithinMaximumLag,
        };
        if self.failover_possible(cluster, bar, false)? {
            self.memory.handover = (mode == DemoteMode::Graceful).then(|| Handover {
                since: self.memory.handover.map_or(self.facts.now.boot, |h| h.since),
                stopped_at: None,
            });
            self.demote(mode);
            return Ok(Some(Verdict::Demoting(what)));
        }
        if matches!(bar, Bar::Streaming(_)) && !self.candidates(cluster, false).is_empty() {
            let since =
                self.memory.handover.get_or_insert(Handover { since: self.facts.now.boot, stopped_at: None }).since;
            if self.facts.now.boot.since(since) < STREAMING_PATIENCE {
                self.wake_after = Duration::from_millis(200);
                return Ok(Some(Verdict::HandoverWaiting(what)));
            }
        }
        self.refuse_handover(request, what).map(|()| None)
    }

    pub(super) fn refuse_handover(&mut self, request: &FailoverRequest, what: Action) -> Needs<()> {
        let bare = what.to_string().replace("manual ", "");
        self.note(Level::Warning, format!("{what}: no healthy members found, {bare} is not possible"));
        self.remove_request(request).map(|_| ())
    }

    fn remove_request(&mut self, request: &FailoverRequest) -> Needs<Option<Verdict>> {
        self.memory.handover = None;
        self.note(Level::Info, "Cleaning up failover key");
        self.write_failover(request, None)?;
        Ok(None)
    }

    fn due(&mut self, schedule: &Schedule, what: &str) -> Due {
        let (at, text) = match schedule {
            Schedule::At(at, text) => (*at, text),
            Schedule::Invalid(text) => {
                self.note(Level::Warning, format!("Incorrect value of scheduled_at: {text}"));
                return Due::Stale;
            }
        };
        if self.settings.paused {
            return Due::Later(self.settings.loop_wait);
        }
        let left = at.0 - self.facts.now.wall.0;
        let loop_wait = self.settings.loop_wait.as_millis() as i64;
        if left <= 0 && left >= -(loop_wait * 3 / 2) {
            self.note(Level::Info, format!("Manual scheduled {what} at {text}"));
            return Due::Now;
        }
        if left > 0 {
            self.note(Level::Info, format!("Awaiting {what} at {text} (in {} seconds)", (left + 500) / 1000));
            return Due::Later(Duration::from_millis(left as u64));
        }
        self.note(Level::Warning, format!("Found a stale {what} value, cleaning up: {text}"));
        Due::Stale
    }

    /// The same for a scheduled restart: `Some(true)` now, `Some(false)` never, `None` not yet.
    pub(super) fn restart_due(&mut self, schedule: &Schedule) -> Option<bool> {
        match self.due(schedule, "restart") {
            Due::Now => Some(true),
            Due::Stale => Some(false),
            Due::Later(wait) => {
                self.wake_after = self.wake_after.min(wait);
                None
            }
        }
    }

    /// PostgreSQL was stopped for a handover and the lease is still ours: give it to a candidate that has everything,
    /// or, if there is none, take PostgreSQL up again.
    pub(super) fn handover_stopped(
        &mut self,
        cluster: &Cluster,
        checkpoint: crate::lsn::Lsn,
        previous: crate::lsn::Lsn,
        exited: bool,
    ) -> Needs<Verdict> {
        let what = cluster.failover.as_ref().map_or(Action::Switchover, action);
        let now = self.facts.now.boot;
        let handover = self.memory.handover.get_or_insert(Handover { since: now, stopped_at: None });
        let stopped_at = *handover.stopped_at.get_or_insert(now);
        let left = self.memory.lease_until.map_or(Duration::ZERO, |until| until.since(now));
        if left < self.settings.ttl / 2 {
            let outcome = self.renew()?;
            self.note_failure("update leader lock", &outcome);
        }
        if self.failover_possible(cluster, Bar::Received(checkpoint), false)? {
            self.release(Some(previous))?;
            self.memory.handover = None;
            return Ok(Verdict::AwaitingNewLeader);
        }
        if what == Action::ManualFailover && exited {
            // Asked for although the candidate lacks something: that is what a manual failover is for.
            self.release(Some(previous))?;
            self.memory.handover = None;
            return Ok(Verdict::AwaitingNewLeader);
        }
        if !exited || now.since(stopped_at) < LAST_WAL_PATIENCE {
            self.wake_after = Duration::from_millis(20);
            return Ok(Verdict::HandoverStopped(what));
        }
        self.abandon_handover(cluster, what)
    }

    fn abandon_handover(&mut self, cluster: &Cluster, what: Action) -> Needs<Verdict> {
        let bare = what.to_string().replace("manual ", "");
        self.note(
            Level::Warning,
            format!("{what}: no candidate received the last WAL of this primary, {bare} is not possible without loss"),
        );
        // A primary starts only under a lease that was prolonged in this tick.
        let renewed = self.renew()?;
        if !renewed.is_done() {
            self.note_failure("update leader lock", &renewed);
            self.wake_after = Duration::from_secs(1);
            return Ok(Verdict::HandoverStopped(what));
        }
        if let Some(request) = &cluster.failover {
            self.write_failover(request, None)?;
        }
        self.memory.handover = None;
        self.memory.rewind = Rewind::Unknown;
        self.memory.recovering = true;
        let role = self.role_of_comeback(cluster);
        self.start(Job::Start { role, follow: crate::job::Upstream::None, after_failure: false });
        Ok(Verdict::HandoverAbandoned(what))
    }

    /// Stopped for a handover by an earlier tick, with the lease in hand and the job gone.
    pub(super) fn handover_after_job(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        if self.memory.handover.is_none() || self.memory.role != Role::Demoted {
            return Ok(None);
        }
        let Postmaster::Stopped(Some(control)) = &self.facts.server.postmaster else {
            return Ok(None);
        };
        if control.state != crate::server::ControlState::ShutDown {
            self.memory.handover = None;
            return Ok(None);
        }
        let checkpoint = control.checkpoint;
        self.handover_stopped(cluster, checkpoint, checkpoint, true).map(Some)
    }
}

fn action(request: &FailoverRequest) -> Action {
    if request.leader.is_some() { Action::Switchover } else { Action::ManualFailover }
}

fn capitalized(action: Action) -> &'static str {
    match action {
        Action::Switchover => "Switchover",
        Action::ManualFailover => "Manual Failover",
    }
}
