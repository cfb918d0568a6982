//! What comes out of a tick.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::MemberData;
use crate::effects::Effect;
use crate::facts::Op;
use crate::job::Job;
use crate::memory::Memory;
use crate::request::{Answer, RequestId};
use crate::verdict::{Note, Verdict};
use crate::view::View;

/// One step of a decision: an operation whose outcome it needs, or the end of the tick.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Carry this out and ask again, with its answer among the facts.
    Run(Op),
    /// The tick is decided.
    Finish(Box<Plan>),
}

/// The decision of a tick. Nothing is left to choose for whoever carries it out: it does [`Plan::effects`], one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// What the next tick will remember.
    pub memory: Memory,
    /// What happens to the job.
    pub job: JobOrder,
    /// What was decided, for people.
    pub verdict: Verdict,
    /// Further lines for the log.
    pub notes: Vec<Note>,
    /// Answers to requests.
    pub replies: BTreeMap<RequestId, Answer>,
    /// Callback scripts to start, in order: those that no job calls, because nothing is done to PostgreSQL.
    pub callbacks: Vec<Callback>,
    /// Bring the replication slots in order.
    pub sync_slots: bool,
    /// Go on with a replay that was paused.
    pub resume_replay: bool,
    /// Close the watchdog device: nothing is left for it to guard.
    pub disable_watchdog: bool,
    /// What is done, in this order. The other fields are what it is about.
    pub effects: Vec<Effect>,
    /// What this node shows of itself from now on.
    pub view: Arc<View>,
    /// This member's key is due: what is written to it.
    pub member: Option<Arc<MemberData>>,
    /// The longest time until the next tick.
    pub wake_after: Duration,
    /// The agent ends after this tick.
    pub exit: Option<Exit>,
}

/// What happens to the job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JobOrder {
    /// Nothing: let it run, or let there be none.
    Keep,
    /// Start this one. There is none.
    Start(Job),
    /// Take the running one back.
    Cancel,
    /// Cancel the running one and start this one as soon as PostgreSQL's owner is back.
    Replace(Job),
}

/// A callback script of `postgresql.callbacks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Callback {
    /// `on_start`: a server that this agent did not start was found running.
    OnStart,
    /// `on_role_change`: the role changed without PostgreSQL's doing.
    OnRoleChange,
}

/// How the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// As asked.
    Clean,
    /// Something an operator has to resolve.
    Fatal,
}
