//! Requests made of this node over REST.

use std::time::Duration;

use super::Tick;
use crate::cluster::{Cluster, Schedule};
use crate::facts::JobFact;
use crate::fence::needs_the_lease;
use crate::job::{CloneFrom, CloneSource, Job};
use crate::memory::Starting;
use crate::plan::JobOrder;
use crate::request::{Answer, Request, RequestId, RestartConditions, ScheduledRestart};
use crate::server::{Postmaster, Running};
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    /// Accepts or refuses what was asked. `Some`: a job was ordered.
    pub(super) fn requests(&mut self, cluster: &Cluster) -> Option<Verdict> {
        let mut verdict = None;
        for (id, request) in &self.facts.requests {
            if self.replies.contains_key(id) {
                continue; // Answered by the end of its job, in this tick.
            }
            let answer = match request {
                Request::Restart(conditions) => {
                    let (answer, begun) = self.restart_requested(cluster, *id, conditions);
                    verdict = begun.or(verdict);
                    answer
                }
                Request::ScheduleRestart(restart) => Some(self.schedule_restart(restart)),
                Request::CancelRestart => Some(match self.memory.scheduled_restart.take() {
                    Some(_) => Answer::Done("scheduled restart deleted".to_owned()),
                    None => Answer::NotFound("no restarts are scheduled".to_owned()),
                }),
                Request::Reinitialize { force, from_leader } => {
                    let (answer, begun) = self.reinitialize_requested(cluster, *force, *from_leader);
                    verdict = begun.or(verdict);
                    Some(answer)
                }
            };
            if let Some(answer) = answer {
                self.replies.insert(*id, answer);
            }
        }
        verdict
    }

    fn busy_with(&self) -> Option<String> {
        match (&self.job, &self.facts.job) {
            (JobOrder::Start(job) | JobOrder::Replace(job), _) => Some(super::title(job)),
            (JobOrder::Keep | JobOrder::Cancel, JobFact::Running(view)) => Some(view.title.clone()),
            (JobOrder::Keep | JobOrder::Cancel, JobFact::Idle | JobFact::Ended(..)) => None,
        }
    }

    /// A restart that begins is answered when it ends.
    fn restart_requested(
        &mut self,
        cluster: &Cluster,
        id: RequestId,
        conditions: &RestartConditions,
    ) -> (Option<Answer>, Option<Verdict>) {
        // The request that the running job answers stays among the facts until then.
        if self.memory.answering == Some(id) {
            return (None, None);
        }
        if let Err(why) = self.restart_matches(conditions) {
            self.note(Level::Info, format!("not proceeding with the restart: {why}"));
            return (Some(Answer::Refused("restart conditions are not satisfied".to_owned())), None);
        }
        if let Some(busy) = self.busy_with() {
            return (Some(Answer::Refused(format!("{busy} already in progress"))), None);
        }
        if self.leaves_synchronous(cluster) {
            return (None, None); // The request stays, and is looked at again.
        }
        let restart = Job::Restart { as_standby: false };
        if self.memory.lease_until.is_none() && needs_the_lease(&restart, &self.memory, self.facts) {
            return (None, None); // First it is led, demoted, or brought back as a standby. Then the request is looked at again.
        }
        self.memory.answering = Some(id);
        (None, Some(self.begin_restart(cluster, conditions)))
    }

    fn begin_restart(&mut self, cluster: &Cluster, conditions: &RestartConditions) -> Verdict {
        let timeout = conditions.timeout.map(Duration::from_secs);
        self.memory.starting = Some(Starting { since: self.facts.now.boot, timeout });
        self.memory.recovering = true;
        let as_standby = self.restart_would_show_too_much(cluster);
        self.start_at_once(Job::Restart { as_standby });
        self.wake_after = Duration::ZERO;
        Verdict::RestartInitiated
    }

    fn restart_matches(&self, conditions: &RestartConditions) -> Result<(), &'static str> {
        let running = match &self.facts.server.postmaster {
            Postmaster::Running(running) => Some(running),
            Postmaster::Starting | Postmaster::Stopping | Postmaster::Stopped(_) | Postmaster::Unreachable(_) => None,
        };
        if conditions.role.as_ref().is_some_and(|role| *role != self.memory.role.to_string()) {
            return Err("host role mismatch");
        }
        if conditions.older_than.is_some_and(|version| running.is_some_and(|r| r.server_version >= version)) {
            return Err("postgres version mismatch");
        }
        if conditions.only_pending && running.is_none_or(|running| running.pending_restart.is_empty()) {
            return Err("pending restart flag is not set");
        }
        Ok(())
    }

    fn schedule_restart(&mut self, restart: &ScheduledRestart) -> Answer {
        if self.memory.scheduled_restart.is_some() {
            return Answer::Refused("Another restart is already scheduled".to_owned());
        }
        let postmaster_start_time = match &self.facts.server.postmaster {
            Postmaster::Running(running) => Some(running.start_time.clone()),
            Postmaster::Starting | Postmaster::Stopping | Postmaster::Stopped(_) | Postmaster::Unreachable(_) => None,
        };
        self.memory.scheduled_restart = Some(ScheduledRestart { postmaster_start_time, ..restart.clone() });
        self.wake_after = Duration::ZERO;
        Answer::Scheduled("Restart scheduled".to_owned())
    }

    /// The scheduled restart, when its time has come.
    pub(super) fn scheduled_restart(&mut self, cluster: &Cluster, running: &Running) -> Option<Verdict> {
        let restart = self.memory.scheduled_restart.clone()?;
        if restart.postmaster_start_time.as_ref().is_some_and(|start| *start != running.start_time) {
            let text = format!(
                "Cancelling scheduled restart: postgres restart has already happened at {}",
                running.start_time
            );
            self.note(Level::Info, text);
            self.memory.scheduled_restart = None;
            return None;
        }
        let now = self.restart_due(&Schedule::At(restart.at, restart.at_text.clone()))?;
        self.memory.scheduled_restart = None;
        if !now {
            return None;
        }
        if let Err(why) = self.restart_matches(&restart.conditions) {
            self.note(Level::Info, format!("not proceeding with the restart: {why}"));
            self.note(Level::Warning, "Scheduled restart: restart conditions are not satisfied");
            return None;
        }
        if self.leaves_synchronous(cluster) {
            self.memory.scheduled_restart = Some(restart);
            return None;
        }
        Some(self.begin_restart(cluster, &restart.conditions))
    }

    fn reinitialize_requested(
        &mut self,
        cluster: &Cluster,
        force: bool,
        from_leader: bool,
    ) -> (Answer, Option<Verdict>) {
        let refused = |why: String| (Answer::Refused(why), None);
        if cluster.is_unlocked() {
            return refused("Cluster has no leader, can not reinitialize".to_owned());
        }
        if self.has_lock(cluster) {
            return refused("I am the leader, can not reinitialize".to_owned());
        }
        if let Some(busy) = self.busy_with().filter(|_| !force) {
            return refused(format!("{busy} already in progress"));
        }
        let mut source = self.clone_from(cluster);
        if from_leader {
            source = cluster.leader_member().and_then(|leader| {
                Some(CloneFrom::Member(CloneSource {
                    name: leader.name.clone(),
                    conn_url: leader.data.conn_url.clone()?,
                    is_leader: true,
                }))
            });
        }
        // Nothing is removed before there is something to copy.
        let Some(source) = source else {
            return refused("there is no member to clone from, can not reinitialize".to_owned());
        };
        let follow = self.upstream_of_copy(cluster);
        // What becomes of a new cluster that this node was making is no question any more.
        self.memory.bootstrapping = false;
        self.start_at_once(Job::Reinitialize { source, follow });
        self.wake_after = Duration::ZERO;
        (Answer::Done("reinitialize started".to_owned()), Some(Verdict::Reinitializing))
    }
}
