//! Mistakes on purpose, so that the proofs can be proven to find mistakes. Only with the feature `deliberate-bugs`.
//!
//! A mistake is made at the border of the rules, by what they are told or by what becomes of their decision: the rules
//! themselves contain no line for it.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::facts::{Facts, JobFact, Outcome, RewindCheck};
use crate::job::{DemoteMode, Job, Upstream};
use crate::lsn::Lsn;
use crate::peer::Peer;
use crate::plan::{JobOrder, Plan, Step};
use crate::server::{ControlState, DataDir, Postmaster, Role};

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
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 17] = [
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
pub(super) fn told(facts: &Facts) -> Facts {
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
        Bug::StayWithoutStore | Bug::StayWithoutLock | Bug::KeepPromoting | Bug::NeverStart | Bug::StartAsPrimary => {}
    }
    facts
}

/// What becomes of the decision.
pub(super) fn done(step: Step, facts: &Facts) -> Step {
    let Step::Finish(mut plan) = step else { return step };
    match PRESENT.get() {
        Some(Bug::StayWithoutStore) => stay(&mut plan, DemoteMode::Offline),
        Some(Bug::StayWithoutLock) => stay(&mut plan, DemoteMode::ImmediateNolock),
        Some(Bug::KeepPromoting) if plan.job == JobOrder::Cancel => plan.job = JobOrder::Keep,
        Some(Bug::NeverStart) => {
            if let JobOrder::Start(Job::Start { .. }) = plan.job {
                plan.job = JobOrder::Keep;
            }
        }
        Some(Bug::StartAsPrimary) => start_as_primary(&mut plan, facts),
        _ => {}
    }
    Step::Finish(plan)
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
