//! What a tick does to the world, in its order.
//!
//! The list is made with the plan, from it and the facts. Whoever carries it out does one after the other and looks at nothing
//! but what the effect needs: whether something is done, and what comes first, is decided here.

use crate::facts::{Facts, JobFact};
use crate::fence::{Fence, fence, needs_the_lease};
use crate::job::Job;
use crate::memory::Rewind;
use crate::plan::{JobOrder, Plan};
use crate::server::{DataDir, Role, Running};
use crate::slots::{Node, needs_feedback};

/// One thing that is done to the world at the end of a tick. What it is about is in the [`Plan`], unless it is given here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Write notes and verdict to the log.
    Log,
    /// Close the watchdog device.
    DisableWatchdog,
    /// Arm the guard, prolong its deadline, or let it go.
    Fence(Fence),
    /// Leave the mark of a data directory with other WAL than the primary ([`crate::server::Server::other_wal`]), or remove it: the next agent
    /// knows by it what this one found out.
    MarkOtherWal(bool),
    /// Carry out what was decided about the job.
    Job {
        /// The one that is ordered asks for the lease before it does what cannot be taken back.
        asks_for_lease: bool,
    },
    /// Answer requests.
    Reply,
    /// Show the outcome to the REST API.
    Publish,
    /// What became of a claim to lead is published: from now on this node may agree again that somebody else goes on.
    Settle,
    /// Write the key of this member, which is due.
    WriteMember,
    /// Write the first checkpoint of a new primary.
    Checkpoint,
    /// This node does not lead: when it last saw the members for which it keeps slots counts for nothing.
    ForgetSlotHolders,
    /// Bring the replication slots in order.
    SyncSlots,
    /// Watch standbys that come and go, or stop that.
    WatchStandbys(bool),
    /// Watch whether the server of this leader hangs, or stop that.
    WatchForHang(bool),
    /// Something that needs the handle of the server. While a job has it, this is left to the job, or to a later tick.
    Server(OnServer),
}

/// What is done by the owner of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnServer {
    /// From now on callbacks are told this role.
    TellRole(Role),
    /// Start the callbacks of the plan, in their order.
    CallBack,
    /// `hot_standby_feedback` has to be on for the sake of logical slots; or it is left to the configuration.
    EnforceFeedback(bool),
    /// No server answers: the next one is started as configured now.
    Prepare,
    /// It answers: what was left to do after its start is done now.
    FinishStart,
    /// Go on with a replay that was paused.
    ResumeReplay,
    /// It answers, and is told of the configuration, where that is new to it.
    Configure,
}

/// Everything that this plan does, in the order in which it is done.
///
/// The guard is armed before the job begins, and let go after it was ordered, never before: whatever becomes of the agent in
/// between, what a job makes, or has made before it was replaced, does not outlast the lease. The job comes before the replies and what is published, so that whoever reads them finds it.
pub fn effects(plan: &Plan, facts: &Facts) -> Vec<Effect> {
    let running = facts.server.running();
    let mut effects = vec![Effect::Log];
    effects.extend(plan.disable_watchdog.then_some(Effect::DisableWatchdog));
    effects.extend(role_to_tell(plan).map(|role| Effect::Server(OnServer::TellRole(role))));
    effects.extend((!plan.callbacks.is_empty()).then_some(Effect::Server(OnServer::CallBack)));
    effects.extend(feedback(facts).map(|needed| Effect::Server(OnServer::EnforceFeedback(needed))));
    let fence = fence(&plan.memory, &plan.job, facts);
    let arms = matches!(fence, Fence::Until(..));
    effects.extend(arms.then_some(Effect::Fence(fence)));
    effects.extend(mark_of_other_wal(plan, facts).map(Effect::MarkOtherWal));
    effects.extend(running.is_none().then_some(Effect::Server(OnServer::Prepare)));
    effects.push(Effect::Job { asks_for_lease: asks_for_lease(plan, facts) });
    let lets_go = matches!(fence, Fence::LetGo | Fence::LetAllGo);
    effects.extend(lets_go.then_some(Effect::Fence(fence)));
    effects.extend([Effect::Reply, Effect::Publish, Effect::Settle]);
    effects.extend(plan.member.is_some().then_some(Effect::WriteMember));
    effects.extend(running.is_some_and(|running| checkpoint_is_due(plan, running)).then_some(Effect::Checkpoint));
    effects.extend(plan.memory.lease_until.is_none().then_some(Effect::ForgetSlotHolders));
    effects.extend((plan.sync_slots && running.is_some()).then_some(Effect::SyncSlots));
    effects.push(Effect::WatchStandbys(plan.memory.enforcement.is_some()));
    let may_hang = plan.memory.lease_until.is_some() && !facts.settings.paused && facts.settings.hang_limit().is_some();
    effects.push(Effect::WatchForHang(may_hang));
    effects.extend(running.map(|_| Effect::Server(OnServer::FinishStart)));
    effects.extend(plan.resume_replay.then_some(Effect::Server(OnServer::ResumeReplay)));
    effects.extend(running.map(|_| Effect::Server(OnServer::Configure)));
    effects
}

fn asks_for_lease(plan: &Plan, facts: &Facts) -> bool {
    match &plan.job {
        JobOrder::Start(job) | JobOrder::Replace(job) => needs_the_lease(job, &plan.memory, facts),
        JobOrder::Keep | JobOrder::Cancel => false,
    }
}

/// A job that changes the role tells of it itself, and a stop is told in the role that the server had.
fn role_to_tell(plan: &Plan) -> Option<Role> {
    let keeps = matches!(plan.job, JobOrder::Start(Job::Follow { .. } | Job::Demote(_)));
    Some(plan.memory.role).filter(|role| *role != Role::Uninitialized && !keeps)
}

fn feedback(facts: &Facts) -> Option<bool> {
    let (cluster, settings) = (facts.cluster.as_ref().ok()?, &facts.settings);
    let node = Node { name: &settings.name, role: Role::Replica, tags: &settings.tags };
    Some(needs_feedback(settings, cluster, &node))
}

/// Nobody writes into a data directory that is being replaced.
fn mark_of_other_wal(plan: &Plan, facts: &Facts) -> Option<bool> {
    let replaced = matches!(plan.job, JobOrder::Start(Job::Reinitialize { .. }) | JobOrder::Replace(_));
    let at_work = matches!(facts.job, JobFact::Running(_));
    let present = matches!(facts.server.data_dir, DataDir::Present(_));
    let wanted = plan.memory.rewind == Rewind::OtherWal;
    (present && !replaced && !at_work && wanted != facts.server.other_wal).then_some(wanted)
}

fn checkpoint_is_due(plan: &Plan, running: &Running) -> bool {
    plan.memory.checkpoint_pending && plan.memory.lease_until.is_some() && !running.wal.is_standby()
}
