//! The guard: a process of its own that ends PostgreSQL where the agent does not come back before the lease ends. What it is
//! told, and when, is decided here.
//!
//! It is there while this node leads and its server accepts writes, or could come to. Once armed it is let go only when the
//! server surely is no primary and nothing under way could make it one: whatever becomes of the agent in between, what it has
//! begun does not outlast the lease.
//!
//! In pause a primary goes on without a lease, and without a guard. One that is still being made does not: whoever paused the
//! cluster wants what is there to be left alone.

use std::time::Duration;

use crate::facts::{Facts, JobFact, Op};
use crate::job::{Job, JobOutcome};
use crate::memory::Memory;
use crate::plan::JobOrder;
use crate::server::{Postmaster, Role, Server};
use crate::time::Moment;

/// What the guard is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fence {
    /// End PostgreSQL at this moment, unless another order comes before.
    Until(Moment, Target),
    /// Nothing: the last order stands, if there was one.
    Stands,
    /// Go: there is nothing to guard.
    LetGo,
    /// The same, to the guards of an earlier agent, too: the cluster is paused, and its primary is left alone.
    LetAllGo,
}

/// What is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The postmaster that runs now, and no other.
    Postmaster,
    /// Whichever runs in the data directory by then: one is being started that nobody can name yet.
    Whichever,
}

/// What the guard is told at the end of a tick that left this memory and this order.
pub fn fence(memory: &Memory, order: &JobOrder, facts: &Facts) -> Fence {
    let jobs = Jobs::of(order, facts);
    match (facts.settings.paused, memory.lease_until) {
        (true, _) if facts.server.is_primary() => Fence::LetAllGo,
        (true, Some(until)) if jobs.any(makes_a_primary) => jobs.until(until, facts),
        (true, _) if jobs.any(makes_a_primary) || jobs.any(stops) && !is_stopped(facts) => Fence::Stands,
        // An earlier agent may have told it to become a primary.
        (true, _) if facts.server.is_standby() => Fence::LetGo,
        (true, _) => Fence::LetAllGo,
        (false, _) if !may_write(memory, jobs, facts) => Fence::LetGo,
        (false, Some(until)) => jobs.until(until, facts),
        (false, None) => Fence::Stands,
    }
}

/// What the guard is told before an operation that is carried out at `now`. A server that is a primary already, as that of a
/// new cluster, does not outlast a lease of which the agent may never hear.
pub fn before(op: &Op, facts: &Facts, now: Moment) -> Fence {
    let takes_lease = matches!(op, Op::AcquireLease);
    if !takes_lease || facts.settings.paused || !facts.server.is_primary() {
        return Fence::Stands;
    }
    let ttl = facts.settings.ttl;
    Fence::Until(deadline(now + ttl, ttl), Target::Postmaster)
}

/// Out of this job comes a primary where there was none.
pub fn makes_a_primary(job: &Job) -> bool {
    matches!(job, Job::Promote | Job::Start { role: Role::Primary, .. })
}

/// What this job ends with may be a primary that somebody else has replaced meanwhile: it asks for the lease at the very moment, before
/// it does what cannot be taken back. A restart brings up what was there, and a former primary that was only stopped comes up as one.
/// In pause a primary is restarted without a lease, too.
pub fn needs_the_lease(job: &Job, memory: &Memory, facts: &Facts) -> bool {
    makes_a_primary(job)
        || restarts_a_primary(job) && !facts.settings.paused && !comes_up_as_standby(memory, &facts.server)
}

fn comes_up_as_standby(memory: &Memory, server: &Server) -> bool {
    match &server.postmaster {
        Postmaster::Running(running) => running.wal.is_standby(),
        Postmaster::Stopped(control) => control.as_ref().is_some_and(|control| control.standby_signal),
        Postmaster::Starting | Postmaster::Stopping | Postmaster::Unreachable(_) => {
            matches!(memory.role, Role::Replica | Role::StandbyLeader)
        }
    }
}

/// The job that runs, and the one that was ordered. One that was cancelled or replaced still runs until it notices.
#[derive(Clone, Copy)]
struct Jobs<'a> {
    running: Option<&'a Job>,
    ordered: Option<&'a Job>,
}

impl<'a> Jobs<'a> {
    fn of(order: &'a JobOrder, facts: &'a Facts) -> Self {
        let ordered = match order {
            JobOrder::Start(job) | JobOrder::Replace(job) => Some(job),
            JobOrder::Keep | JobOrder::Cancel => None,
        };
        let running = match &facts.job {
            JobFact::Running(view) => Some(&view.job),
            JobFact::Idle | JobFact::Ended(..) => None,
        };
        Jobs { running, ordered }
    }

    fn any(self, what: impl Fn(&Job) -> bool) -> bool {
        [self.running, self.ordered].into_iter().flatten().any(what)
    }

    fn until(self, lease_until: Moment, facts: &Facts) -> Fence {
        let target = if self.any(brings_up_a_primary) { Target::Whichever } else { Target::Postmaster };
        Fence::Until(deadline(lease_until, facts.settings.ttl), target)
    }
}

/// A little before the lease ends, so that PostgreSQL is down when it does.
fn deadline(lease_until: Moment, ttl: Duration) -> Moment {
    let reserve = (ttl / 24).max(Duration::from_millis(500));
    Moment(lease_until.0.saturating_sub(reserve))
}

/// The server accepts writes, or that cannot be ruled out before the next tick.
fn may_write(memory: &Memory, jobs: Jobs<'_>, facts: &Facts) -> bool {
    if jobs.any(brings_up_a_primary) {
        return true;
    }
    match &facts.server.postmaster {
        Postmaster::Stopped(_) => false,
        Postmaster::Starting | Postmaster::Stopping | Postmaster::Unreachable(_) => true,
        Postmaster::Running(server) if !server.wal.is_standby() => true,
        // What was told to become a primary may come to it by itself; what is being stopped was not seen stopped yet.
        Postmaster::Running(_) => {
            jobs.any(makes_a_primary)
                || jobs.any(stops)
                || memory.role == Role::Promoted
                || promotion_goes_on(&facts.job)
        }
    }
}

/// The job is over, and PostgreSQL was told.
fn promotion_goes_on(job: &JobFact) -> bool {
    match job {
        JobFact::Ended(Job::Promote, outcome) => {
            !matches!(outcome, JobOutcome::Cancelled | JobOutcome::PrePromoteFailed)
        }
        JobFact::Ended(..) | JobFact::Idle | JobFact::Running(_) => false,
    }
}

fn is_stopped(facts: &Facts) -> bool {
    matches!(facts.server.postmaster, Postmaster::Stopped(_))
}

/// Its postmaster is another one than that which runs now.
fn brings_up_a_primary(job: &Job) -> bool {
    matches!(job, Job::Start { role: Role::Primary, .. }) || restarts_a_primary(job)
}

fn restarts_a_primary(job: &Job) -> bool {
    matches!(job, Job::Restart { as_standby: false })
}

fn stops(job: &Job) -> bool {
    matches!(job, Job::Demote(_) | Job::Shutdown | Job::StopImmediate)
}
