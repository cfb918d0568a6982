//! All that survives a tick.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Member, Version};
use crate::disk::{Fill, Place};
use crate::lsn::{Lsn, Timeline};
use crate::name::MemberName;
use crate::request::{RequestId, ScheduledRestart};
use crate::server::{Role, State};
use crate::slots::Readiness;
use crate::sync::Enforcement;
use crate::time::Moment;

/// What the agent remembers from one tick to the next. Everything else is observed anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Memory {
    /// The announced role.
    pub role: Role,
    /// The announced state of PostgreSQL.
    pub state: State,
    /// When the first tick of this agent was.
    pub began: Option<Moment>,
    /// Until when this node may lead: the end of the lease that it holds, or of what all members agreed to in failsafe mode.
    pub lease_until: Option<Moment>,
    /// Which of the two.
    pub leads_by_agreement: bool,
    /// Whom the leader has to ask before it goes on without the store: all who could take the lease meanwhile. Empty
    /// where that is not an option.
    pub failsafe_members: Arc<BTreeMap<MemberName, String>>,
    /// The members when the cluster last had a leader: whom to ask in a race.
    pub known_members: Arc<BTreeMap<MemberName, Member>>,
    /// The last leader seen.
    pub last_leader: Option<MemberName>,
    /// The latest timeline this data directory was seen on.
    pub timeline: Option<Timeline>,
    /// What is known of a divergence.
    pub rewind: Rewind,
    /// This standby should stream and does not.
    pub stalled: Option<Stalled>,
    /// The leader, and its timeline, with which this node was compared last and found to have no other WAL.
    pub compared_with: Option<(MemberName, Timeline)>,
    /// How often pg_rewind failed in a row.
    pub rewind_attempts: u32,
    /// pg_rewind was not begun when it was last tried.
    pub rewind_refusal: Option<RewindRefusal>,
    /// When the remote primary of a standby cluster was last asked for a comparison, and nothing followed from it.
    pub remote_asked_at: Option<Moment>,
    /// Since when a stopped node waits for the leader to be ready for a comparison.
    pub comparison_awaited_since: Option<Moment>,
    /// Since when a crash recovery in single-user mode was tried, until PostgreSQL runs again.
    pub crash_recovery_since: Option<Moment>,
    /// When a server that ran was found shut down, and not by this agent.
    pub stopped_by_outsider: Option<Moment>,
    /// A start of a server that was down was ordered; until it is known how that went.
    pub recovering: bool,
    /// The last tick was paused.
    pub was_paused: bool,
    /// What an agent before this one did with the server is not known yet: it may have told it to become primary.
    pub knows_no_server: bool,
    /// A new cluster is being made here.
    pub bootstrapping: bool,
    /// Since when `/initialize` has been empty, in that version, with nobody at work on it.
    pub initialize_stale_since: Option<(Version, Moment)>,
    /// When a bootstrap or clone failed last: not tried again at once.
    pub creation_failed_at: Option<Moment>,
    /// Since when PostgreSQL is starting, and the limit where a request gave one.
    pub starting: Option<Starting>,
    /// When the pre_promote script refused: this node stays out of races for a `ttl`.
    pub promotion_refused_at: Option<Moment>,
    /// The on_start callback was called for the server that runs.
    pub started: bool,
    /// A new primary has not yet written a checkpoint on its timeline.
    pub checkpoint_pending: bool,
    /// A planned switchover that waits for its candidate, or a server that was stopped for one.
    pub handover: Option<Handover>,
    /// Since when nobody has led, and this node has left the lease to whom a switchover or failover asks for.
    pub request_awaited_since: Option<Moment>,
    /// This node gave its lease up for others to take.
    pub stepped_down: Option<StepDown>,
    /// The restart that is scheduled.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// The request that the running job answers when it ends.
    pub answering: Option<RequestId>,
    /// What is known of `synchronous_standby_names` of this primary, while it manages them.
    pub enforcement: Option<Enforcement>,
    /// Who wrote `/sync` when it was last there: who alone may lead should it be lost while nobody does.
    pub wrote_sync: Option<MemberName>,
    /// Since when this standby, about to stop, asks not to be synchronous.
    pub leaving_sync: Option<Moment>,
    /// Clients of this former primary are held back.
    pub holding: Option<Holding>,
    /// Which logical slots of this standby can be used after a failover.
    pub readiness: Readiness,
    /// Not before then, logical slots are copied again.
    pub copy_slots_after: Option<Moment>,
    /// How many ticks in a row asked for the next one at once.
    pub hurries: u8,
    /// Why the last job that was to bring PostgreSQL up failed, until it runs.
    pub failure: Option<String>,
    /// What became of full disks.
    pub disk: DiskMemory,
}

impl Memory {
    /// End of failsafe mode, while this node leads by it.
    pub fn failsafe_until(&self) -> Option<Moment> {
        self.lease_until.filter(|_| self.leads_by_agreement)
    }

    /// The memory of an agent that has just been started.
    pub fn new() -> Self {
        Memory {
            role: Role::Uninitialized,
            state: State::Stopped,
            lease_until: None,
            began: None,
            knows_no_server: true,
            leads_by_agreement: false,
            failsafe_members: Arc::default(),
            known_members: Arc::default(),
            last_leader: None,
            timeline: None,
            rewind: Rewind::Unknown,
            stalled: None,
            compared_with: None,
            rewind_attempts: 0,
            rewind_refusal: None,
            remote_asked_at: None,
            comparison_awaited_since: None,
            crash_recovery_since: None,
            stopped_by_outsider: None,
            recovering: false,
            was_paused: false,
            bootstrapping: false,
            initialize_stale_since: None,
            creation_failed_at: None,
            starting: None,
            promotion_refused_at: None,
            started: false,
            checkpoint_pending: false,
            handover: None,
            request_awaited_since: None,
            stepped_down: None,
            scheduled_restart: None,
            answering: None,
            enforcement: None,
            wrote_sync: None,
            leaving_sync: None,
            holding: None,
            readiness: Readiness::default(),
            copy_slots_after: None,
            hurries: 0,
            failure: None,
            disk: DiskMemory::default(),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

/// What is remembered of the disks, and of failures for lack of room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DiskMemory {
    /// How full each place was when it was last logged; `None` while that is not known.
    pub logged: BTreeMap<Place, Option<Fill>>,
    /// When the WAL directory was last seen full or nearly full.
    pub wal_scarce_at: Option<Moment>,
    /// How often PostgreSQL of this leader has failed in a row, with little or no room for WAL.
    pub failures: u32,
    /// When the last of these failures was noticed.
    pub failed_at: Option<Moment>,
    /// Of the primary that runs: when it was started, and [`crate::server::Running::statistics_reset`], a change of which tells of a crash.
    pub statistics_reset: Option<(String, String)>,
    /// It was logged that no standby is known to have room.
    pub told_of_nobody: bool,
    /// When a hand-over for lack of room was last begun.
    pub handed_over_at: Option<Moment>,
}

/// What is known of a divergence from the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rewind {
    /// Nothing gave a reason to look.
    Unknown,
    /// To be compared with the primary as soon as there is one.
    Check,
    /// Compared: it can follow.
    NotNeeded,
    /// Compared: it cannot follow.
    Needed,
    /// Compared: it holds other WAL than the primary on the same timeline, and is kept out until it was cloned.
    OtherWal,
    /// pg_rewind was run; the server was not yet seen running since.
    Done,
    /// pg_rewind was called off or put off at that time.
    Postponed(Moment),
    /// pg_rewind failed at that time, and so often in a row.
    Failed(Moment, u32),
    /// It failed too often: people have been told.
    GivenUp,
    /// pg_rewind was not begun at that time, because it would stop half-way. Nothing was changed.
    Refused(Moment),
}

/// pg_rewind would stop half-way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RewindRefusal {
    /// What is in the way, and what to do.
    pub why: Arc<str>,
    /// How often in a row.
    pub times: u32,
}

/// A standby that does not stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stalled {
    /// Where it stands still; `None` while it starts, which does not tell.
    pub at: Option<Lsn>,
    /// Since when, or when that was looked into last.
    pub since: Moment,
    /// It has stood there for so long that it was looked into.
    pub suspect: bool,
    /// It was told that WAL is gone.
    pub told: bool,
    /// It was told that it stands still although it could follow.
    pub told_of_standstill: bool,
}

/// A former primary that waits, as a standby with the lease, for its own standbys to have all that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holding {
    /// Since when.
    pub since: Moment,
    /// How far its WAL has been replayed.
    pub position: Lsn,
    /// Since when it has been there.
    pub at_rest_since: Moment,
}

/// A lease that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepDown {
    /// When.
    pub at: Moment,
    /// The position that goes to `/status` with it.
    pub last_lsn: Option<Lsn>,
    /// The store did not say whether the key is gone: the request may still be on its way.
    pub unanswered: bool,
}

/// A server that is starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Starting {
    /// Since when.
    pub since: Moment,
    /// The limit that a restart request gave.
    pub timeout: Option<Duration>,
}

/// A planned handover of the leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handover {
    /// When the leader first tried: it waits for a candidate only so long.
    pub since: Moment,
    /// PostgreSQL was stopped for it, at that time: the wait for a candidate that has everything counts from here.
    pub stopped_at: Option<Moment>,
}
