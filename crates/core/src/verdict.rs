//! The one sentence per tick that tells what was decided, and the notes around it.
//!
//! The sentences are those that Patroni's operators and their tools know; tests compare the variants.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::name::{MemberName, SystemId};
use crate::python::quoted;

/// What a tick decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Leader, lease renewed, all is well.
    Leader(MemberName),
    /// Leader of a standby cluster, lease renewed.
    StandbyLeader(MemberName),
    /// Follows the leader of the cluster.
    Secondary(MemberName, Option<MemberName>),
    /// Follows the leader of a standby cluster.
    StandbySecondary(MemberName, Option<MemberName>),
    /// Paused, and nobody to follow.
    NoAction(MemberName),
    /// Paused: a primary without the lease is left alone.
    PrimaryWithoutLock,
    /// Paused: the lease could not be renewed.
    PrimaryRenewFailed,
    /// Paused: a manual promotion is awaited.
    AwaitingPromotion,
    /// Won the lease and is primary already.
    AcquiredLock,
    /// Won the lease: promotion ordered.
    PromotedByAcquiring,
    /// Has the lease, is a standby: promotion ordered.
    PromotedByHaving,
    /// Has, or won, the lease of a standby cluster.
    StandbyLeaderPromoted {
        /// Won just now.
        acquired: bool,
    },
    /// The lease could not be renewed by a standby that holds it.
    NotPromotingRenewFailed,
    /// The lease could not be renewed: a running primary is stopped.
    DemotedRenewFailed,
    /// Somebody else has the lease: a running primary is stopped.
    DemotedNoLock,
    /// No leader, and this primary may not go on.
    DemotedNotHealthiest,
    /// No leader, and this primary is tagged nofailover.
    DemotedNotAllowed,
    /// Tried to take the lease as primary and lost: stopped.
    DemotedLostRace,
    /// Cannot be primary in a standby cluster.
    DemotedStandbyCluster,
    /// Tried to take the lease and lost.
    FollowingLostRace,
    /// No leader, another node is better.
    FollowingNotHealthiest,
    /// No leader, tagged nofailover.
    FollowingNotAllowed,
    /// The store cannot be reached.
    StoreFailed,
    /// A primary leads without the store, because all members agreed.
    Failsafe,
    /// The store cannot be reached: a running primary is stopped.
    DemotedStoreFailed,
    /// The store cannot be reached; the lease still holds while it is retried.
    StoreRetrying {
        /// What is left of the lease.
        left: Duration,
    },
    /// A planned handover began.
    Demoting(Action),
    /// A planned handover waits for a candidate that streams.
    HandoverWaiting(Action),
    /// Stopped for a handover; waits for a candidate to have everything.
    HandoverStopped(Action),
    /// Stopped for a handover, nobody has everything: starts again as primary.
    HandoverAbandoned(Action),
    /// No room for WAL here, and room on a standby: hands over.
    HandingOverForRoom,
    /// No room for WAL here, nor on a standby: PostgreSQL, which has failed for that, is brought up again later.
    AwaitingRoom,
    /// Stepped down; waits for the new leader to show.
    AwaitingNewLeader,
    /// A job runs; the lease was renewed.
    JobWithLock(String),
    /// A job runs.
    JobInProgress(String),
    /// Lost the lease before the promotion began.
    LostBeforePromote,
    /// Lost the lease while a job ran on a primary.
    LostDuring(String),
    /// Crash recovery took longer than primary_start_timeout.
    CrashRecoveryTimeout,
    /// Somebody else changed `/sync`: the lease is given up.
    PromotionPostponed,
    /// The pre_promote script refused.
    PrePromoteFailed,
    /// Watchdog required, not available.
    WatchdogDemoted,
    /// Watchdog required, not available.
    WatchdogNotPromoting,
    /// PostgreSQL is starting; the seconds until others may take over.
    Starting(u64),
    /// PostgreSQL is starting for too long, and nobody can take over.
    StartTimedOutAlone,
    /// PostgreSQL is starting for too long: stopped for others to take over.
    StartTimedOut,
    /// Lost the lease while PostgreSQL was starting.
    StartLostLock,
    /// A crashed primary starts again.
    StartingPrimary,
    /// A crashed primary makes way (`primary_start_timeout: 0`).
    CrashFailover,
    /// Single-user crash recovery.
    CrashRecovery,
    /// pg_rewind began.
    Rewinding(String),
    /// A rewind is due; waits for the primary to be ready for it.
    RewindWaiting(String),
    /// Holds other WAL than the primary on the same timeline: follows nobody.
    KeptOut(MemberName),
    /// Diverged, and may be cloned anew.
    ReinitializingDiverged,
    /// pg_rewind failed, and the node may be cloned anew.
    ReinitializingFailedRewind,
    /// Starts as a standby, holding the lease.
    StartingReadonly,
    /// A former primary that is not promoted before its standbys have everything.
    HoldingClients {
        /// Standbys that have confirmed everything.
        confirmed: usize,
        /// How many have to.
        needed: usize,
    },
    /// Starts as leader of a standby cluster.
    StartingStandbyLeader,
    /// Starts as a standby of the remote primary, without a leader of the standby cluster.
    StartingRemote,
    /// Starts as a standby.
    StartingSecondary,
    /// The start failed; the leader key is given up.
    StartFailedReleased,
    /// The start failed.
    StartFailed,
    /// Paused, not running, holding the lease: given up.
    NotRunningReleased,
    /// Paused, not running.
    NotRunning,
    /// WAL that this standby needs is gone: it is cloned anew.
    ReinitializingMissingWal,
    /// Somebody else has shut PostgreSQL down, a moment ago.
    StoppedByOutsider,
    /// pg_rewind was not begun, because it would stop half-way.
    RewindRefused(Arc<str>),
    /// pg_rewind did not succeed: what is in the data directory is not started.
    RewindUnfinished,
    /// Paused, holding the lease, not primary: given up.
    NotPrimaryReleased,
    /// The same, and an earlier agent took the lease, which may have begun a promotion: it runs out.
    NotPrimaryWaiting,
    /// The data directory is empty or cannot be read, holding the lease: given up.
    DataDirReleased {
        /// It can be read, and is empty.
        empty: bool,
    },
    /// The data directory cannot be read.
    DataDirInaccessible(String),
    /// The data directory is no database system.
    DataDirInvalid,
    /// Paused, without data directory.
    DataDirEmptyPaused,
    /// Another database system than the cluster's. Fatal outside pause.
    SystemIdMismatch {
        /// Of the cluster.
        cluster: SystemId,
        /// Of the data directory.
        local: SystemId,
    },
    /// Paused, another database system, holding the lease: given up.
    SystemIdReleased,
    /// Refuses to initialize the cluster from a standby. Fatal.
    StandbyWithoutCluster,
    /// Won the race for the bootstrap.
    Bootstrapping,
    /// Won the race for the bootstrap of a standby cluster.
    BootstrappingStandbyLeader,
    /// Lost the race for the bootstrap.
    BootstrapLost,
    /// The new cluster is there.
    Initialized,
    /// The bootstrap failed; it will be tried again.
    BootstrapFailed,
    /// Clones from a leader or replica.
    Cloning(String),
    /// Cannot do anything before there is a leader.
    WaitingForLeader {
        /// Of a standby cluster.
        standby: bool,
    },
    /// Waits before a clone is tried again.
    CreationBackoff(u64),
    /// A restart began.
    RestartInitiated,
    /// A standby copies logical slots.
    CopyingSlots(Vec<String>),
    /// A reinitialization began.
    Reinitializing,
    /// PostgreSQL runs and does not answer.
    Unreachable,
    /// The server of the leader hangs: it is killed, and the lease given up.
    HungServer,
    /// Told to stop: stopping PostgreSQL.
    ShuttingDown,
    /// Told to stop: done.
    ShutDown,
}

/// A request to change the leader, in Patroni's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// From a named leader.
    Switchover,
    /// To a named candidate.
    ManualFailover,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Switchover => "switchover",
            Action::ManualFailover => "manual failover",
        })
    }
}

fn or_none(name: &Option<MemberName>) -> &str {
    name.as_ref().map_or("None", MemberName::as_str)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Leader(me) => write!(f, "no action. I am ({me}), the leader with the lock"),
            Verdict::StandbyLeader(me) => write!(f, "no action. I am ({me}), the standby leader with the lock"),
            Verdict::Secondary(me, leader) => {
                write!(f, "no action. I am ({me}), a secondary, and following a leader ({})", or_none(leader))
            }
            Verdict::StandbySecondary(me, leader) => {
                write!(f, "no action. I am ({me}), a secondary, and following a standby leader ({})", or_none(leader))
            }
            Verdict::NoAction(me) => write!(f, "no action. I am ({me})"),
            Verdict::PrimaryWithoutLock => f.write_str("continue to run as primary without lock"),
            Verdict::PrimaryRenewFailed => {
                f.write_str("continue to run as primary after failing to update leader lock in DCS")
            }
            Verdict::AwaitingPromotion => f.write_str("waiting to become primary after promote..."),
            Verdict::AcquiredLock => f.write_str("acquired session lock as a leader"),
            Verdict::PromotedByAcquiring => f.write_str("promoted self to leader by acquiring session lock"),
            Verdict::PromotedByHaving => f.write_str("promoted self to leader because I had the session lock"),
            Verdict::StandbyLeaderPromoted { acquired: true } => {
                f.write_str("promoted self to a standby leader by acquiring session lock")
            }
            Verdict::StandbyLeaderPromoted { acquired: false } => {
                f.write_str("promoted self to a standby leader because i had the session lock")
            }
            Verdict::NotPromotingRenewFailed => {
                f.write_str("not promoting because failed to update leader lock in DCS")
            }
            Verdict::DemotedRenewFailed => f.write_str("demoted self because failed to update leader lock in DCS"),
            Verdict::DemotedNoLock => f.write_str("demoting self because I do not have the lock and I was a leader"),
            Verdict::DemotedNotHealthiest => f.write_str("demoting self because i am not the healthiest node"),
            Verdict::DemotedNotAllowed => f.write_str("demoting self because I am not allowed to become primary"),
            Verdict::DemotedLostRace => f.write_str("demoted self after trying and failing to obtain lock"),
            Verdict::DemotedStandbyCluster => f.write_str("cannot be a real primary in a standby cluster"),
            Verdict::FollowingLostRace => f.write_str("following new leader after trying and failing to obtain lock"),
            Verdict::FollowingNotHealthiest => {
                f.write_str("following a different leader because i am not the healthiest node")
            }
            Verdict::FollowingNotAllowed => {
                f.write_str("following a different leader because I am not allowed to promote")
            }
            Verdict::Failsafe => f.write_str(
                "continue to run as a leader because failsafe mode is enabled and all members are accessible",
            ),
            Verdict::StoreFailed => f.write_str("DCS is not accessible"),
            Verdict::DemotedStoreFailed => f.write_str("demoted self because DCS is not accessible and I was a leader"),
            Verdict::StoreRetrying { left } => write!(
                f,
                "DCS is not accessible, retrying: my leader lock is valid for another {:.1} seconds",
                left.as_secs_f64()
            ),
            Verdict::Demoting(action) => write!(f, "{action}: demoting myself"),
            Verdict::HandingOverForRoom => {
                f.write_str("demoting myself because there is no room for WAL here, and a standby has room")
            }
            Verdict::AwaitingRoom => {
                f.write_str("waiting for room for WAL, which no standby that could take over is known to have either")
            }
            Verdict::HandoverWaiting(action) => {
                write!(f, "{action}: waiting for a candidate that is streaming and close enough")
            }
            Verdict::HandoverStopped(action) => {
                write!(f, "{action}: stopped, waiting for a candidate to receive the last WAL")
            }
            Verdict::HandoverAbandoned(action) => {
                write!(f, "{action}: no candidate received the last WAL, starting again as primary")
            }
            Verdict::AwaitingNewLeader => f.write_str("stepped down, waiting for the new leader"),
            Verdict::JobWithLock(title) => write!(f, "updated leader lock during {title}"),
            Verdict::JobInProgress(title) => write!(f, "{title} in progress"),
            Verdict::LostBeforePromote => f.write_str("lost leader before promote"),
            Verdict::LostDuring(title) => write!(f, "lost leader lock during {title}"),
            Verdict::CrashRecoveryTimeout => f.write_str("terminated crash recovery because of startup timeout"),
            Verdict::PromotionPostponed => {
                f.write_str("Postponing promotion because synchronous replication state was updated by somebody else")
            }
            Verdict::PrePromoteFailed => f.write_str("Promotion cancelled because the pre-promote script failed"),
            Verdict::WatchdogDemoted => f.write_str("Demoting self because watchdog could not be activated"),
            Verdict::WatchdogNotPromoting => f.write_str("Not promoting self because watchdog could not be activated"),
            Verdict::Starting(seconds) => {
                write!(f, "PostgreSQL is still starting up, {seconds} seconds until timeout")
            }
            Verdict::StartTimedOutAlone => {
                f.write_str("primary start has timed out, but continuing to wait because failover is not possible")
            }
            Verdict::StartTimedOut => f.write_str("stopped PostgreSQL because of startup timeout"),
            Verdict::StartLostLock => f.write_str("stopped PostgreSQL while starting up because leader key was lost"),
            Verdict::StartingPrimary => f.write_str("starting primary after failure"),
            Verdict::CrashFailover => f.write_str("stopped PostgreSQL to fail over after a crash"),
            Verdict::CrashRecovery => f.write_str("doing crash recovery in a single user mode"),
            Verdict::Rewinding(from) => write!(f, "running pg_rewind from {from}"),
            Verdict::RewindWaiting(from) => {
                write!(f, "waiting for {from} to be ready before comparing timelines with it")
            }
            Verdict::KeptOut(me) => {
                write!(
                    f,
                    "no action. I am ({me}), and follow nobody: this node has other WAL than the primary on the same timeline"
                )
            }
            Verdict::ReinitializingDiverged => f.write_str("reinitializing due to diverged timelines"),
            Verdict::ReinitializingFailedRewind => f.write_str("reinitializing because pg_rewind failed"),
            Verdict::StartingReadonly => f.write_str("starting as readonly because i had the session lock"),
            Verdict::HoldingClients { confirmed, needed } => {
                write!(f, "holding clients back, {confirmed} of {needed} standbys have all WAL of this former primary")
            }
            Verdict::StartingStandbyLeader => {
                f.write_str("starting as a standby leader because i had the session lock")
            }
            Verdict::StartingRemote => {
                f.write_str("trying to follow a remote member because standby cluster is unhealthy")
            }
            Verdict::StartingSecondary => f.write_str("starting as a secondary"),
            Verdict::StartFailedReleased => {
                f.write_str("removed leader key after trying and failing to start postgres")
            }
            Verdict::StartFailed => f.write_str("failed to start postgres"),
            Verdict::NotRunningReleased => f.write_str("removed leader lock because postgres is not running"),
            Verdict::NotRunning => f.write_str("postgres is not running"),
            Verdict::ReinitializingMissingWal => f.write_str("reinitializing because the WAL that follows is gone"),
            Verdict::StoppedByOutsider => {
                f.write_str("postgres was shut down, and not by this agent: it is started again in a moment")
            }
            Verdict::RewindRefused(why) => {
                write!(f, "pg_rewind would stop half-way and was not begun: {why}")
            }
            Verdict::RewindUnfinished => f.write_str("not starting postgres, because pg_rewind did not succeed"),
            Verdict::NotPrimaryReleased => {
                f.write_str("removed leader lock because postgres is not running as primary")
            }
            Verdict::NotPrimaryWaiting => f.write_str(
                "not renewing leader lock because postgres is not running as primary, and an earlier agent may have promoted it",
            ),
            Verdict::DataDirReleased { empty } => write!(
                f,
                "released leader key voluntarily as data dir {} and currently leader",
                if *empty { "empty" } else { "not accessible" }
            ),
            Verdict::DataDirInaccessible(why) => write!(f, "data directory is not accessible: {why}"),
            Verdict::DataDirInvalid => f.write_str(
                "data dir for the cluster is not empty, but system ID is invalid; consider doing reinitialize",
            ),
            Verdict::DataDirEmptyPaused => f.write_str("running with empty data directory"),
            Verdict::SystemIdMismatch { cluster, local } => {
                write!(f, "system ID mismatch, node belongs to a different cluster: {cluster} != {local}")
            }
            Verdict::SystemIdReleased => f.write_str("released leader key voluntarily due to the system ID mismatch"),
            Verdict::StandbyWithoutCluster => {
                f.write_str("No initialize key in DCS and PostgreSQL is running as replica, aborting start")
            }
            Verdict::Bootstrapping => f.write_str("trying to bootstrap a new cluster"),
            Verdict::BootstrappingStandbyLeader => f.write_str("trying to bootstrap a new standby leader"),
            Verdict::BootstrapLost => f.write_str("failed to acquire initialize lock"),
            Verdict::Initialized => f.write_str("initialized a new cluster"),
            Verdict::BootstrapFailed => f.write_str("failed to bootstrap the cluster, will try again"),
            Verdict::Cloning(from) => write!(f, "trying to bootstrap {from}"),
            Verdict::WaitingForLeader { standby } => {
                write!(f, "waiting for {}leader to bootstrap", if *standby { "standby_" } else { "" })
            }
            Verdict::CreationBackoff(seconds) => {
                write!(f, "will try again to create the data directory in {seconds} seconds")
            }
            Verdict::RestartInitiated => f.write_str("restart initiated"),
            Verdict::CopyingSlots(slots) => {
                let names: Vec<String> = slots.iter().map(|slot| quoted(slot)).collect();
                write!(f, "Copying logical slots [{}] from the primary", names.join(", "))
            }
            Verdict::Reinitializing => f.write_str("reinitialize initiated"),
            Verdict::Unreachable => f.write_str("Error communicating with PostgreSQL. Will try again later"),
            Verdict::HungServer => f.write_str("killing PostgreSQL, which hangs, to fail over"),
            Verdict::ShuttingDown => f.write_str("shutting down"),
            Verdict::ShutDown => f.write_str("shut down"),
        }
    }
}

/// A line for the log beside the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// How serious.
    pub level: Level,
    /// What.
    pub text: String,
}

/// How serious a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// For people who look for the cause of something.
    Info,
    /// An operator would act on it.
    Warning,
    /// Something failed.
    Error,
    /// The agent stops because of it.
    Critical,
}
