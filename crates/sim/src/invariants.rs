//! What must be true after every step, and what must come true once faults stop.

use std::time::Duration;

use patroni_core::job::Job;
use patroni_core::plan::JobOrder;
use patroni_core::settings::SynchronousMode;

use crate::postgres::Process;
use crate::shown;
use crate::universe::{STORE, Universe};

/// Checks what must be true at any time.
pub(crate) fn check(universe: &mut Universe) {
    let writers: Vec<usize> =
        (0..universe.nodes.len()).filter(|&node| universe.nodes[node].postgres.accepts_writes()).collect();
    two_primaries(universe, &writers);
    for node in 0..universe.nodes.len() {
        belief(universe, node);
        shown::check(universe, node);
        universe.check_kept_out(node);
    }
    for node in writers {
        attended(universe, node);
    }
}

/// Two servers of one database system accept writes only where an agent was frozen or dead without a guard, or people
/// had the cluster paused.
fn two_primaries(universe: &mut Universe, writers: &[usize]) {
    for (index, &one) in writers.iter().enumerate() {
        for &other in &writers[index + 1..] {
            let system = |node: usize| universe.nodes[node].postgres.data().map(|data| data.system);
            let excused =
                |node: usize| universe.nodes[node].was_paused || universe.nodes[node].unattended && !universe.guarded;
            if system(one) == system(other) && !excused(one) && !excused(other) {
                let names = (universe.nodes[one].name.clone(), universe.nodes[other].name.clone());
                universe.violation(one, format!("two primaries accept writes: {} and {}", names.0, names.1));
            }
        }
    }
}

impl Universe {
    /// Whoever becomes a primary holds the lease, in pause too, unless nobody was there to prevent it.
    pub(crate) fn promoted_under_lease(&mut self, node: usize) {
        let this = &self.nodes[node];
        let holder = self.store.cluster().leader_name().cloned();
        // An agent that was started again does not know of it.
        let unknown = this.promoted_by != this.life;
        // Nor does it know to what others agreed in failsafe mode. Until the guard of that agent ends it, nobody else takes the lease.
        let agreed = unknown && holder.is_none() && this.guard.is_some();
        let excused = this.failsafe_until.is_some() || agreed || (unknown || this.unattended) && !self.guarded;
        if holder.as_ref() != Some(&this.name) && !excused {
            self.violation(node, format!("becomes primary while {holder:?} holds the lease"));
        }
    }
}

/// Whoever believes in a lease holds it in the store.
fn belief(universe: &mut Universe, node: usize) {
    let this = &universe.nodes[node];
    let believes = this.alive && this.lease_until.is_some_and(|until| universe.now < until);
    // In failsafe mode it goes on by the leave of all others.
    if believes && this.failsafe_until.is_none() && universe.store.cluster().leader_name() != Some(&this.name) {
        let holder = universe.store.cluster().leader_name().cloned();
        universe.violation(node, format!("believes in a lease that is held by {holder:?}"));
    }
}

/// Outside pause, a primary that its agent looks after accepts writes only under a lease that has not ended, or is
/// being stopped.
fn attended(universe: &mut Universe, node: usize) {
    let this = &universe.nodes[node];
    let stops = |job: &Job| matches!(job, Job::Demote(_) | Job::Shutdown | Job::StopImmediate);
    let stopping = this.job.as_ref().is_some_and(|view| stops(&view.job))
        || matches!(&this.order, Some(JobOrder::Start(job) | JobOrder::Replace(job)) if stops(job));
    let excused = !this.alive || this.unattended || this.was_paused || this.bootstrapping || stopping;
    if !excused && this.lease_until.is_none_or(|until| until <= universe.now) {
        let until = this.lease_until.map(|until| universe.now - until);
        universe.violation(node, format!("accepts writes without a lease (ended {until:?} ago)"));
    }
}

/// There is one leader: it holds the lease, knows it, and accepts writes.
pub(crate) fn leader(universe: &Universe) -> Option<usize> {
    let node = universe.node_named(universe.store.cluster().leader_name()?)?;
    let this = &universe.nodes[node];
    let knows = this.alive && this.lease_until.is_some_and(|until| universe.now < until);
    (knows && this.postgres.accepts_writes()).then_some(node)
}

/// The end: everybody streams from one leader, and nothing is left undone.
pub(crate) fn settled(universe: &mut Universe, calm: bool) {
    let Some(leader) = leader(universe) else {
        let verdicts: Vec<String> =
            universe.nodes.iter().map(|node| format!("{}: {}", node.name, node.verdict)).collect();
        return universe.violation(STORE, format!("there is no leader: {}", verdicts.join("; ")));
    };
    let Some(wal) = universe.nodes[leader].postgres.data().map(|data| data.wal.clone()) else { return };
    for node in 0..universe.nodes.len() {
        let excused = universe.nodes[node].absent || universe.nodes[node].view.kept_out || universe.ambiguous;
        if node != leader && !excused {
            member(universe, node, &wal);
        }
    }
    if let Some(request) = universe.store.cluster().failover.clone() {
        universe.violation(leader, format!("a request is neither done nor refused: {request:?}"));
    }
    if let Some((id, node)) = universe.unanswered.first_key_value() {
        let (id, node) = (*id, *node);
        universe.violation(node, format!("request {} was not answered", id.0));
    }
    let broken = universe.promises_broken_by(&wal);
    if broken > 0 && !universe.amnesia && !universe.ambiguous {
        universe.violation(leader, format!("{broken} acknowledged writes that were promised to survive are lost"));
    }
    synchronous(universe, leader);
    if calm {
        let lost = universe.writes.iter().filter(|write| !wal.contains(write.branch, write.end)).count();
        if lost > 0 {
            universe.violation(leader, format!("{lost} acknowledged writes were lost by planned actions alone"));
        }
    }
}

/// Writers do not wait for ever, and what PostgreSQL waits for is what the settings say.
fn synchronous(universe: &mut Universe, leader: usize) {
    let settings = universe.nodes[leader].synchronous.clone();
    let since = universe.now.saturating_sub(universe.acknowledged_at);
    let names = universe.nodes[leader].postgres.sync.shown.clone();
    let possible = |node: &&crate::node::Node| !node.settings.tags.nosync() && !node.view.kept_out && !node.absent;
    let standbys =
        universe.nodes.iter().filter(possible).filter(|node| node.name != universe.nodes[leader].name).count();
    let blocked = settings.mode != SynchronousMode::Off && settings.strict && standbys == 0;
    if since > Duration::from_secs(20) && !blocked {
        universe.violation(leader, format!("no write was acknowledged for {since:?}; waits for '{names}'"));
    }
    if settings.mode == SynchronousMode::Off && !names.is_empty() {
        universe.violation(leader, format!("waits for '{names}' although the mode is off"));
    }
    let wanted = standbys.min(settings.node_count as usize).min(1);
    let published = universe.store.cluster().sync.standbys.len();
    // With so small a limit every write of a client takes the standby out for a moment.
    let comes_and_goes = settings.maximum_lag.is_some_and(|limit| (1..600).contains(&limit));
    if settings.mode != SynchronousMode::Off && published < wanted && !universe.ambiguous && !comes_and_goes {
        universe.violation(leader, format!("no synchronous standby is published; waits for '{names}'"));
    }
}

fn member(universe: &mut Universe, node: usize, leader: &crate::wal::Wal) {
    let this = &universe.nodes[node];
    let streams = matches!(this.postgres.process, Process::Up { primary: false, stream: Some(_) });
    let follows = this.postgres.data().is_some_and(|data| data.wal.is_prefix_of(leader));
    let level = this.postgres.data().is_some_and(|data| data.wal.timeline() == leader.timeline());
    if !(streams && follows && level) {
        let text =
            format!("does not stream from the leader in the end: {} ({:?})", this.verdict, this.postgres.process);
        universe.violation(node, text);
    }
}

/// How long the cluster may take to have a leader again once nothing is wrong any more: the lease has to end, two
/// ticks have to pass, and PostgreSQL has to start and be promoted.
pub(crate) fn leader_bound(ttl: Duration, loop_wait: Duration) -> Duration {
    ttl + 2 * loop_wait + Duration::from_secs(25)
}
