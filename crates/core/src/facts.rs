//! What is known in a tick: the observations it begins with, and the answers to the operations it asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{Cluster, FailoverRequest, Member, Version};
use crate::disk::Disks;
use crate::hang::Standstill;
use crate::job::{Job, JobOutcome, JobView, RewindSource, Upstream};
use crate::lsn::Lsn;
use crate::member_key::MemberKey;
use crate::name::{MemberName, SystemId};
use crate::parameters::SynchronousStandbyNames;
use crate::peer::Peer;
use crate::request::{Request, RequestId};
use crate::server::Server;
use crate::settings::Settings;
use crate::slots::News;
use crate::sync::{Electorate, Inspection};
use crate::time::{Moment, Now};
use crate::view::{Addresses, View};

/// How an operation on the outside world ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome<T> {
    /// It happened.
    Done(T),
    /// It did not happen, and never will: somebody else holds the key, or the version was another. An answer, not
    /// an error.
    Refused,
    /// It did not happen: the text says why.
    Failed(String),
    /// A write that may or may not have happened: the connection broke or the deadline passed after it was sent.
    Unknown(String),
}

impl<T> Outcome<T> {
    /// It surely happened.
    pub fn is_done(&self) -> bool {
        matches!(self, Outcome::Done(_))
    }

    /// The result, if it surely happened.
    pub fn done(self) -> Option<T> {
        match self {
            Outcome::Done(value) => Some(value),
            Outcome::Refused | Outcome::Failed(_) | Outcome::Unknown(_) => None,
        }
    }

    /// The same with another result.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Outcome::Done(value) => Outcome::Done(change(value)),
            Outcome::Refused => Outcome::Refused,
            Outcome::Failed(why) => Outcome::Failed(why),
            Outcome::Unknown(why) => Outcome::Unknown(why),
        }
    }
}

/// Everything a decision may depend on, besides [`crate::memory::Memory`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The time at which the tick began.
    pub now: Now,
    /// The settings, after the dynamic configuration of `cluster` was applied.
    pub settings: Arc<Settings>,
    /// The snapshot of the store, or why there is none.
    pub cluster: Result<Arc<Cluster>, String>,
    /// The local server.
    pub server: Arc<Server>,
    /// The job.
    pub job: JobFact,
    /// Requests that wait for an answer.
    pub requests: BTreeMap<RequestId, Request>,
    /// The agent was told to stop.
    pub shutdown: bool,
    /// The watchdog device.
    pub watchdog: Watchdog,
    /// A primary that cannot reach the store and asked whether it may go on: this node said yes, and stands by it until
    /// then.
    pub failsafe_leader: Option<(MemberName, Moment)>,
    /// Where others reach this node.
    pub addresses: Addresses,
    /// What this node shows of itself since the last tick.
    pub shown: Arc<View>,
    /// What is known of this member's key, as of before the store was read.
    pub member_key: MemberKey,
    /// What work on replication slots in the background found out.
    pub slots: News,
    /// The server of this leader stands still.
    pub standstill: Option<Standstill>,
    /// Room on the disks of this node.
    pub disks: Disks,
    /// Answers of this tick's operations.
    pub answers: Answers,
}

impl Facts {
    /// What the leader writes to `/failsafe`: itself, and all members that can be asked. `None`: the mode is off, or the
    /// members are not known.
    pub fn failsafe_members(&self) -> Option<BTreeMap<MemberName, String>> {
        let cluster = self.cluster.as_ref().ok().filter(|_| self.settings.failsafe_mode)?;
        let own = (self.settings.name.clone(), self.addresses.api_url.clone());
        Some(std::iter::once(own).chain(cluster.members.values().filter_map(Member::address)).collect())
    }
}

/// The job of this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JobFact {
    /// None, and none ended since the last tick.
    Idle,
    /// One is under way.
    Running(JobView),
    /// One ended since the last tick.
    Ended(Job, JobOutcome),
}

impl JobFact {
    /// The job that is under way.
    pub fn running(&self) -> Option<&JobView> {
        match self {
            JobFact::Running(view) => Some(view),
            JobFact::Idle | JobFact::Ended(..) => None,
        }
    }
}

/// The kernel watchdog as configured and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Watchdog {
    /// `watchdog.mode` is `required`.
    pub required: bool,
    /// The device can be used (always true where none is configured).
    pub healthy: bool,
}

/// A short operation. Each has a deadline and one slot among the [`Answers`], so that every tick ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Prolong the lease, and publish position and slots with it.
    RenewLease,
    /// Take the leader key, if nobody has it.
    AcquireLease,
    /// Give the leader key up, leaving this as the last position.
    ReleaseLease(Option<Lsn>),
    /// Ask peers for their state, by the addresses of their REST APIs.
    PollPeers(BTreeMap<MemberName, String>),
    /// Ask these members, by the addresses of their REST APIs, whether this primary may go on without the store.
    AskFailsafe(BTreeMap<MemberName, String>),
    /// Write or delete `/initialize`.
    Initialize(InitializeWrite),
    /// Write the dynamic configuration this node knows to `/config`, which is absent or unreadable.
    WriteConfig(Option<Version>),
    /// Replace (or, without a value, delete) `/failover` at this version.
    WriteFailover(Version, Option<FailoverRequest>),
    /// Bring `/history` up to date with the timelines of this primary.
    WriteHistory,
    /// Compare timeline and position with those of a primary.
    CheckRewind(RewindSource),
    /// Compare what the standby follows, or was told to follow when it was started, with what it should follow.
    CheckUpstream(Upstream),
    /// Open the watchdog, or be sure it is open.
    ActivateWatchdog,
    /// Ask PostgreSQL about its synchronous replication.
    InspectSynchronous,
    /// Change `synchronous_standby_names`, and see the server take it over.
    SetSynchronousStandbyNames(SynchronousStandbyNames),
    /// Write `/sync`, which has this version, in the name of this node; or, without an electorate, delete it.
    WriteSync(Option<Version>, Option<Electorate>),
}

/// What to do with `/initialize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InitializeWrite {
    /// Enter the race: create it, empty.
    Begin,
    /// Write the system identifier.
    Finish(SystemId),
    /// The bootstrap failed: remove it.
    Cancel,
}

/// The answers so far, one slot per kind of operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Answers {
    /// [`Op::RenewLease`]: the moment before it was sent.
    pub renew: Option<Outcome<Moment>>,
    /// [`Op::AcquireLease`]: the moment before it was sent.
    pub acquire: Option<Outcome<Moment>>,
    /// [`Op::ReleaseLease`].
    pub release: Option<Outcome<()>>,
    /// [`Op::PollPeers`].
    pub peers: Option<BTreeMap<MemberName, Peer>>,
    /// [`Op::AskFailsafe`]: the moment before they were asked, if all of them agreed; or who did not, and why.
    pub failsafe: Option<Result<Moment, String>>,
    /// [`Op::Initialize`].
    pub initialize: Option<Outcome<()>>,
    /// [`Op::WriteConfig`].
    pub config: Option<Outcome<()>>,
    /// [`Op::WriteFailover`].
    pub failover: Option<Outcome<()>>,
    /// [`Op::WriteHistory`].
    pub history: Option<Outcome<()>>,
    /// [`Op::CheckRewind`].
    pub rewind: Option<RewindCheck>,
    /// [`Op::CheckUpstream`].
    pub upstream: Option<Result<UpstreamCheck, String>>,
    /// [`Op::ActivateWatchdog`]: it is active, or not needed.
    pub watchdog: Option<bool>,
    /// [`Op::InspectSynchronous`].
    pub synchronous: Option<Result<Inspection, String>>,
    /// [`Op::SetSynchronousStandbyNames`]: the server shows the new value.
    pub standby_names: Option<Outcome<()>>,
    /// [`Op::WriteSync`].
    pub sync: Option<Outcome<()>>,
}

/// One answer on its way into its slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// To [`Op::RenewLease`].
    Renew(Outcome<Moment>),
    /// To [`Op::AcquireLease`].
    Acquire(Outcome<Moment>),
    /// To [`Op::ReleaseLease`].
    Release(Outcome<()>),
    /// To [`Op::PollPeers`].
    Peers(BTreeMap<MemberName, Peer>),
    /// To [`Op::AskFailsafe`].
    Failsafe(Result<Moment, String>),
    /// To [`Op::Initialize`].
    Initialize(Outcome<()>),
    /// To [`Op::WriteConfig`].
    Config(Outcome<()>),
    /// To [`Op::WriteFailover`].
    Failover(Outcome<()>),
    /// To [`Op::WriteHistory`].
    History(Outcome<()>),
    /// To [`Op::CheckRewind`].
    Rewind(RewindCheck),
    /// To [`Op::CheckUpstream`].
    Upstream(Result<UpstreamCheck, String>),
    /// To [`Op::ActivateWatchdog`].
    Watchdog(bool),
    /// To [`Op::InspectSynchronous`].
    Synchronous(Result<Inspection, String>),
    /// To [`Op::SetSynchronousStandbyNames`].
    StandbyNames(Outcome<()>),
    /// To [`Op::WriteSync`].
    Sync(Outcome<()>),
}

impl Answers {
    /// Puts an answer into its slot.
    ///
    /// # Panics
    /// If the slot is taken: a tick that asks twice would never end.
    pub fn record(&mut self, answer: Answer) {
        fn fill<T>(slot: &mut Option<T>, value: T, what: &str) {
            assert!(slot.is_none(), "the operation {what} was asked for twice in one tick");
            *slot = Some(value);
        }
        match answer {
            Answer::Renew(outcome) => fill(&mut self.renew, outcome, "renew"),
            Answer::Acquire(outcome) => fill(&mut self.acquire, outcome, "acquire"),
            Answer::Release(outcome) => fill(&mut self.release, outcome, "release"),
            Answer::Peers(peers) => fill(&mut self.peers, peers, "peers"),
            Answer::Failsafe(agreed) => fill(&mut self.failsafe, agreed, "failsafe"),
            Answer::Initialize(outcome) => fill(&mut self.initialize, outcome, "initialize"),
            Answer::Config(outcome) => fill(&mut self.config, outcome, "config"),
            Answer::Failover(outcome) => fill(&mut self.failover, outcome, "failover"),
            Answer::History(outcome) => fill(&mut self.history, outcome, "history"),
            Answer::Rewind(check) => fill(&mut self.rewind, check, "rewind"),
            Answer::Upstream(check) => fill(&mut self.upstream, check, "upstream"),
            Answer::Watchdog(active) => fill(&mut self.watchdog, active, "watchdog"),
            Answer::Synchronous(inspection) => fill(&mut self.synchronous, inspection, "synchronous"),
            Answer::StandbyNames(outcome) => fill(&mut self.standby_names, outcome, "standby_names"),
            Answer::Sync(outcome) => fill(&mut self.sync, outcome, "sync"),
        }
    }
}

/// Does the data directory have WAL that the primary does not have?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RewindCheck {
    /// It can follow as it is.
    NotNeeded,
    /// It diverged. pg_rewind can be used (it is configured and the server keeps what it needs), or not, and why.
    Needed(Result<(), String>),
    /// It has other WAL than the primary on a timeline that both have; the text says which. Neither PostgreSQL nor pg_rewind would notice.
    OtherWal(String),
    /// It is no other, but the primary has not all the WAL any more that is missing here.
    WalGone {
        /// The file that comes next.
        file: String,
        /// There is a `restore_command`, which may have it.
        archive: bool,
    },
    /// Could not be found out; the text says why.
    Unclear(String),
    /// Cannot be found out as this node is configured, however often it asks: it has no password, or no permission.
    Impossible(String),
}

/// What it takes to follow as wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamCheck {
    /// Nothing.
    UpToDate,
    /// New settings and a reload.
    Reload,
    /// New settings and a restart.
    Restart,
}
