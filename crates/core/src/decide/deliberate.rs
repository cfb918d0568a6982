//! Mistakes on purpose, so that the proofs can be proven to find mistakes. Only with the feature `deliberate-bugs`.
//!
//! A mistake is made at the border of the rules, by what they are told or by what becomes of their decision: the rules
//! themselves contain no line for it.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::effects::{Effect, effects};
use crate::facts::{Answer, Facts, JobFact, Op, Outcome, RewindCheck};
use crate::fence::Fence;
use crate::hang::{Hung, Standstill};
use crate::job::{DemoteMode, Job, JobOutcome, Upstream};
use crate::lsn::Lsn;
use crate::memory::Memory;
use crate::peer::Peer;
use crate::plan::{JobOrder, Plan, Step};
use crate::server::{ControlState, DataDir, Postmaster, Role};
use crate::settings::SynchronousMode;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A renewal that was refused counts as a success.
    SkipLeaseCheck,
    /// The lease is counted from later than the moment before it was asked for.
    CountLeaseFromLater,
    /// An unknown outcome of the race counts as a victory.
    PromoteOnUnknown,
    /// A lost race counts as a victory.
    PromoteOnRefused,
    /// The history of timelines is not looked at.
    ForgetTimeline,
    /// Peers are not looked at.
    IgnorePeers,
    /// A primary goes on when the store does not answer.
    StayWithoutStore,
    /// A primary goes on although somebody else has the lease.
    StayWithoutLock,
    /// The lease is handed over before the candidate has everything.
    HandOverEarly,
    /// A promotion is not taken back when the lease is lost.
    KeepPromoting,
    /// A divergence is taken for none.
    NeverRewind,
    /// An unclear comparison is taken for a divergence.
    RewindUnclear,
    /// Who loses the race for a new cluster makes one all the same.
    BootstrapOnRefused,
    /// A data directory that cannot be read is taken for an empty one.
    CloneOverData,
    /// Requests for another leader are not looked at.
    IgnoreRequests,
    /// A server that is down stays down.
    NeverStart,
    /// A former primary starts as primary again, whoever leads now.
    StartAsPrimary,
    /// PostgreSQL stops waiting for a standby before `/sync` has been told that it does not count any more.
    StoreAfterPostgres,
    /// `/sync` names a standby as soon as it streams, not when it has everything.
    PublishBeforeCaughtUp,
    /// `/sync` is published though PostgreSQL was never told to wait.
    PublishBeforeWaiting,
    /// A setting is taken for settled while WAL senders and checkpointer still go by the one before.
    SettleAtOnce,
    /// The leader counts as one of the votes that a quorum needs.
    CountLeaderAsVote,
    /// One synchronous standby elects itself, without the quorum.
    ElectWithoutQuorum,
    /// Elections do not look at `/sync`.
    ForgetSyncSet,
    /// A new leader goes on with the electorate of the old one as if it were its own.
    TrustForeignSync,
    /// A new leader is promoted without having written `/sync`.
    PromoteBeforeSync,
    /// The mode is turned off for elections before the leader has withdrawn `/sync`.
    ForgetSyncWhenOff,
    /// `/sync` is lost, and so is the memory of it.
    ForgetLostSync,
    /// The guard is let go when a standby has no lease, before the promotion of that standby is replaced.
    LetGoEarly,
    /// In pause a promotion goes on whose lease is gone, and without a guard.
    PromoteInPause,
    /// The member key is renewed when a tick came by its timer, not when it is due.
    RenewKeyOnTimer,
    /// While the store is away, what was shown before goes on being shown.
    KeepOldView,
    /// The lease of a server that hangs is given up before its processes are killed.
    ReleaseBeforeKill,
    /// A server that does not answer is taken for one that hangs, whatever else is seen of it.
    HangByOneSign,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 34] = [
        Bug::SkipLeaseCheck,
        Bug::CountLeaseFromLater,
        Bug::PromoteOnUnknown,
        Bug::PromoteOnRefused,
        Bug::ForgetTimeline,
        Bug::IgnorePeers,
        Bug::StayWithoutStore,
        Bug::StayWithoutLock,
        Bug::HandOverEarly,
        Bug::KeepPromoting,
        Bug::NeverRewind,
        Bug::RewindUnclear,
        Bug::BootstrapOnRefused,
        Bug::CloneOverData,
        Bug::IgnoreRequests,
        Bug::NeverStart,
        Bug::StartAsPrimary,
        Bug::StoreAfterPostgres,
        Bug::PublishBeforeCaughtUp,
        Bug::PublishBeforeWaiting,
        Bug::SettleAtOnce,
        Bug::CountLeaderAsVote,
        Bug::ElectWithoutQuorum,
        Bug::ForgetSyncSet,
        Bug::TrustForeignSync,
        Bug::PromoteBeforeSync,
        Bug::ForgetSyncWhenOff,
        Bug::ForgetLostSync,
        Bug::LetGoEarly,
        Bug::PromoteInPause,
        Bug::RenewKeyOnTimer,
        Bug::KeepOldView,
        Bug::ReleaseBeforeKill,
        Bug::HangByOneSign,
    ];
}

thread_local! {
    static PRESENT: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// From now on, decisions of this thread have this mistake, or none.
pub fn commit(bug: Option<Bug>) {
    PRESENT.set(bug);
}

/// What the rules are told.
pub(super) fn told(memory: &Memory, facts: &Facts) -> Facts {
    let mut facts = facts.clone();
    let Some(bug) = PRESENT.get() else { return facts };
    let now = facts.now.boot;
    let answers = &mut facts.answers;
    match bug {
        Bug::SkipLeaseCheck => {
            answers.renew = answers.renew.take().map(|_| Outcome::Done(now));
        }
        Bug::CountLeaseFromLater => {
            for slot in [&mut answers.renew, &mut answers.acquire] {
                if let Some(Outcome::Done(at)) = slot {
                    at.0 += Duration::from_secs(15);
                }
            }
        }
        Bug::PromoteOnUnknown => {
            if let Some(Outcome::Unknown(_)) = answers.acquire {
                answers.acquire = Some(Outcome::Done(now));
            }
        }
        Bug::PromoteOnRefused => {
            if let Some(Outcome::Refused) = answers.acquire {
                answers.acquire = Some(Outcome::Done(now));
            }
        }
        Bug::ForgetTimeline => {
            if let Ok(cluster) = &mut facts.cluster {
                Arc::make_mut(cluster).history = None;
            }
        }
        Bug::IgnorePeers => {
            for peer in answers.peers.iter_mut().flat_map(|peers| peers.values_mut()) {
                *peer = Peer::Unreachable("not looked at".into());
            }
        }
        Bug::HandOverEarly => {
            for peer in answers.peers.iter_mut().flat_map(|peers| peers.values_mut()) {
                if let Peer::Status(status) = peer {
                    status.wal_position = Lsn(u64::MAX);
                    status.replication_state = Some("streaming".into());
                }
            }
        }
        Bug::NeverRewind => {
            if let Some(RewindCheck::Needed(_)) = answers.rewind {
                answers.rewind = Some(RewindCheck::NotNeeded);
            }
        }
        Bug::RewindUnclear => {
            if let Some(RewindCheck::Unclear(_)) = answers.rewind {
                answers.rewind = Some(RewindCheck::Needed(Ok(())));
            }
        }
        Bug::BootstrapOnRefused => {
            if let Some(Outcome::Refused) = answers.initialize {
                answers.initialize = Some(Outcome::Done(()));
            }
        }
        Bug::CloneOverData => {
            if let DataDir::Invalid(_) = facts.server.data_dir {
                Arc::make_mut(&mut facts.server).data_dir = DataDir::Empty;
            }
        }
        Bug::IgnoreRequests => {
            if let Ok(cluster) = &mut facts.cluster {
                Arc::make_mut(cluster).failover = None;
            }
        }
        // A tick that comes earlier than its timer comes a short while after the last one.
        Bug::RenewKeyOnTimer => facts.member_key.pretend_renewed(facts.shown.ticked_at),
        Bug::StoreAfterPostgres
        | Bug::PublishBeforeCaughtUp
        | Bug::SettleAtOnce
        | Bug::CountLeaderAsVote
        | Bug::ElectWithoutQuorum
        | Bug::ForgetSyncSet
        | Bug::TrustForeignSync
        | Bug::ForgetSyncWhenOff
        | Bug::PublishBeforeWaiting => told_of_sync(bug, memory, &mut facts),
        Bug::ReleaseBeforeKill => {
            let limit = facts.settings.hang_limit();
            let idle = !matches!(facts.job, JobFact::Running(_));
            if idle && facts.standstill.is_some_and(|still| limit.is_some_and(|limit| still.lasted >= limit)) {
                facts.job = JobFact::Ended(Job::Demote(DemoteMode::Hung), JobOutcome::Done);
                Arc::make_mut(&mut facts.server).postmaster = Postmaster::Stopping;
            }
        }
        Bug::HangByOneSign => {
            if let Postmaster::Unreachable(_) = facts.server.postmaster {
                facts.standstill = Some(Standstill { what: Hung::Server, lasted: Duration::from_secs(3600) });
            }
        }
        Bug::StayWithoutStore
        | Bug::StayWithoutLock
        | Bug::KeepPromoting
        | Bug::NeverStart
        | Bug::StartAsPrimary
        | Bug::PromoteBeforeSync
        | Bug::ForgetLostSync
        | Bug::LetGoEarly
        | Bug::PromoteInPause
        | Bug::KeepOldView => {}
    }
    facts
}

/// What the rules are told of synchronous replication.
fn told_of_sync(bug: Bug, memory: &Memory, facts: &mut Facts) {
    let me = facts.settings.name.clone();
    let off = facts.settings.synchronous.mode == SynchronousMode::Off;
    let mut nothing = Cluster::default();
    let cluster = facts.cluster.as_mut().map_or(&mut nothing, Arc::make_mut);
    let mine = cluster.leader_name() == Some(&me);
    let sync = &mut cluster.sync;
    match bug {
        Bug::StoreAfterPostgres if mine && sync.leader.as_ref() == Some(&me) => {
            sync.standbys.clear();
            sync.quorum = 0;
        }
        Bug::CountLeaderAsVote if !mine => sync.quorum = sync.quorum.saturating_sub(1),
        Bug::ElectWithoutQuorum if !mine => sync.quorum = 0,
        Bug::ForgetSyncSet if !mine => {
            sync.standbys.clear();
            sync.leader = Some(me);
            sync.quorum = 0;
        }
        Bug::ForgetSyncWhenOff if !mine && off => sync.standbys.clear(),
        Bug::TrustForeignSync if mine && sync.leader.is_some() => sync.leader = Some(me),
        _ => {}
    }
    let Some(Ok(inspection)) = &mut facts.answers.synchronous else { return };
    let requested = memory.enforcement.as_ref().and_then(|enforcement| enforcement.requested.clone());
    if let (Bug::PublishBeforeWaiting, Some(requested)) = (bug, requested) {
        inspection.standby_names = requested;
    }
    for sender in &mut inspection.senders {
        match bug {
            Bug::PublishBeforeCaughtUp => sender.flushed = Some(Lsn(u64::MAX)),
            Bug::SettleAtOnce | Bug::PublishBeforeWaiting => {
                sender.sync_priority = i64::from(inspection.standby_names.contains(&sender.name))
            }
            _ => {}
        }
    }
    if bug == Bug::SettleAtOnce {
        inspection.checkpointer_busy = false;
        inspection.flushed = Lsn(0);
    }
    inspection.checkpointer_busy &= bug != Bug::PublishBeforeWaiting;
}

/// The answer that is made up for an operation that is never carried out.
pub(super) fn made_up(op: &Op, facts: &Facts) -> Option<Answer> {
    let standby = facts.server.is_standby();
    match (PRESENT.get()?, op) {
        (Bug::PublishBeforeWaiting, Op::SetSynchronousStandbyNames(_)) => Some(Answer::StandbyNames(Outcome::Done(()))),
        (Bug::PromoteBeforeSync, Op::WriteSync(..)) if standby => Some(Answer::Sync(Outcome::Done(()))),
        _ => None,
    }
}

/// What becomes of the decision.
pub(super) fn done(step: Step, facts: &Facts) -> Step {
    let Step::Finish(mut plan) = step else { return step };
    match PRESENT.get() {
        Some(Bug::StayWithoutStore) => stay(&mut plan, DemoteMode::Offline),
        Some(Bug::StayWithoutLock) => stay(&mut plan, DemoteMode::ImmediateNolock),
        Some(Bug::ForgetLostSync) => plan.memory.wrote_sync = None,
        Some(Bug::KeepOldView) if facts.cluster.is_err() => plan.view = Arc::clone(&facts.shown),
        Some(Bug::KeepPromoting) if plan.job == JobOrder::Cancel => plan.job = JobOrder::Keep,
        Some(Bug::NeverStart) => {
            if let JobOrder::Start(Job::Start { .. }) = plan.job {
                plan.job = JobOrder::Keep;
            }
        }
        Some(Bug::StartAsPrimary) => start_as_primary(&mut plan, facts),
        _ => {}
    }
    if PRESENT.get() == Some(Bug::PromoteInPause) && facts.settings.paused && is_promoted(&facts.job) {
        stay(&mut plan, DemoteMode::ImmediateNolock);
        stay(&mut plan, DemoteMode::Offline);
    }
    plan.effects = effects(&plan, facts);
    match PRESENT.get() {
        Some(Bug::LetGoEarly) if plan.memory.lease_until.is_none() && facts.server.is_standby() => {
            let_go(&mut plan, Fence::LetGo);
        }
        Some(Bug::PromoteInPause) if facts.settings.paused => let_go(&mut plan, Fence::LetAllGo),
        _ => {}
    }
    Step::Finish(plan)
}

fn is_promoted(job: &JobFact) -> bool {
    matches!(job, JobFact::Running(view) if view.job == Job::Promote)
}

/// First of all.
fn let_go(plan: &mut Plan, how: Fence) {
    plan.effects.retain(|effect| !matches!(effect, Effect::Fence(_)));
    plan.effects.insert(0, Effect::Fence(how));
}

fn stay(plan: &mut Plan, mode: DemoteMode) {
    let demote = Job::Demote(mode);
    if plan.job == JobOrder::Start(demote.clone()) || plan.job == JobOrder::Replace(demote) {
        plan.job = JobOrder::Keep;
    }
}

fn start_as_primary(plan: &mut Plan, facts: &Facts) {
    let former = matches!(
        (&facts.server.postmaster, &facts.job),
        (Postmaster::Stopped(Some(control)), JobFact::Idle | JobFact::Ended(..))
            if matches!(control.state, ControlState::ShutDown | ControlState::InProduction)
    );
    if former && let JobOrder::Start(Job::Start { role: Role::Replica, .. }) = plan.job {
        plan.job = JobOrder::Start(Job::Start { role: Role::Primary, follow: Upstream::None, after_failure: true });
    }
}
