//! What is said of this node to whoever asks: state and role of its server, and which health checks pass.
//!
//! The loop publishes a [`View`] after each tick. A tick can take as long as the store does, so the server is looked at
//! again for an answer: what it does now counts, and the view says what the loop knows beyond that.

pub mod checks;
mod query;

use std::sync::LazyLock;

use crate::JsonMap;
use crate::cluster::{Cluster, is_synchronous};
use crate::job::{Job, JobView, Stage};
use crate::lsn::Lsn;
use crate::server::{Postmaster, Role, Running, State, Wal};
use crate::settings::SynchronousMode;
use crate::time::Now;
use crate::view::View;

pub use query::Query;

/// A server that should answer and does not, as far as an answer goes.
pub static NO_ANSWER: LazyLock<Postmaster> = LazyLock::new(|| Postmaster::Unreachable("no answer in time".to_owned()));

/// The state that is announced of a server: by what it does itself, and where that does not say it, by the job that works
/// on it. `before`: the state announced last, which tells apart why a server is down.
pub fn state(before: State, job: Option<&JobView>, postmaster: &Postmaster) -> State {
    job.and_then(|view| state_under(view, postmaster)).unwrap_or(match postmaster {
        Postmaster::Running(_) => State::Running,
        Postmaster::Starting => State::Starting,
        Postmaster::Stopping => State::Stopping,
        Postmaster::Stopped(_) => state_of_stopped(before),
        // It is alive. Before it was up for the first time it is not expected to answer.
        Postmaster::Unreachable(_) if before == State::Starting => State::Starting,
        Postmaster::Unreachable(_) => State::Running,
    })
}

fn state_of_stopped(before: State) -> State {
    match before {
        State::Running | State::Starting | State::Restarting => State::Crashed,
        State::Stopping => State::Stopped,
        State::Initdb
        | State::InitdbFailed
        | State::CustomBootstrap
        | State::CustomBootstrapFailed
        | State::CreatingReplica
        | State::BootstrapStarting
        | State::StartFailed
        | State::RestartFailed
        | State::Stopped
        | State::StopFailed
        | State::Crashed => before,
    }
}

/// `None`: the job does not matter for it.
fn state_under(view: &JobView, postmaster: &Postmaster) -> Option<State> {
    let up = matches!(postmaster, Postmaster::Running(_));
    let down = matches!(postmaster, Postmaster::Stopped(_));
    match &view.job {
        Job::Bootstrap => Some(bootstrap_state(&view.stage)),
        Job::Restart { .. } => Some(State::Restarting),
        Job::Demote(_) | Job::Shutdown | Job::StopImmediate => {
            Some(if down { State::Stopped } else { State::Stopping })
        }
        Job::Clone { .. } | Job::Reinitialize { .. } if !up => Some(State::CreatingReplica),
        Job::Follow { restart: true, .. } | Job::CopySlots { .. } if !up => Some(State::Restarting),
        Job::Start { .. } if !up => Some(State::Starting),
        Job::Rewind { .. } | Job::CrashRecovery if !up => Some(State::Stopped),
        Job::Clone { .. }
        | Job::Reinitialize { .. }
        | Job::Follow { .. }
        | Job::CopySlots { .. }
        | Job::Start { .. }
        | Job::Rewind { .. }
        | Job::CrashRecovery
        | Job::Promote => None,
    }
}

pub(crate) fn bootstrap_state(stage: &Stage) -> State {
    match stage {
        Stage::Committed(text) if text.starts_with("running custom") => State::CustomBootstrap,
        Stage::Committed(text) if text.starts_with("starting after custom") => State::BootstrapStarting,
        Stage::Committed(_) | Stage::Copying(_) | Stage::Revocable | Stage::ShutDown { .. } => State::Initdb,
    }
}

/// The role that is announced: `primary` no earlier than PostgreSQL says that it is out of recovery, and not while it is
/// being stopped. `before`: the role by the rules, which counts where the server does not say more.
pub fn role(before: Role, job: Option<&JobView>, postmaster: &Postmaster) -> Role {
    let Postmaster::Running(running) = postmaster else { return role_of_silent(before, job) };
    if job.is_some_and(|view| stops(&view.job) || view.job == Job::Bootstrap) {
        return before;
    }
    let promoted = job.is_some_and(|view| view.job == Job::Promote && matches!(view.stage, Stage::Committed(_)));
    match (running.wal.is_standby(), before) {
        (false, _) => Role::Primary,
        (true, Role::Replica | Role::StandbyLeader) if promoted => Role::Promoted,
        (true, Role::Promoted | Role::StandbyLeader | Role::Replica) => before,
        (true, Role::Uninitialized | Role::Primary | Role::Demoted) => Role::Replica,
    }
}

/// Half a copy is no data directory.
fn role_of_silent(before: Role, job: Option<&JobView>) -> Role {
    let copies = job.is_some_and(|view| {
        matches!(view.job, Job::Clone { .. } | Job::Reinitialize { .. })
            && matches!(view.stage, Stage::Committed(_) | Stage::Copying(_))
    });
    if copies { Role::Uninitialized } else { before }
}

/// It ends with a server that does not run.
fn stops(job: &Job) -> bool {
    matches!(job, Job::Demote(_) | Job::Shutdown | Job::StopImmediate)
}

/// What is known of this node at one moment. All that health checks, documents and metrics say derives from it.
#[derive(Clone, Copy, Debug)]
pub struct Status<'a> {
    /// The published view.
    pub view: &'a View,
    /// The job that works on the server now.
    pub job: Option<&'a JobView>,
    /// The server as just looked at.
    postmaster: &'a Postmaster,
    /// What time it is.
    pub now: Now,
}

impl<'a> Status<'a> {
    /// The status of a node whose server was just looked at; without an answer in time it is [`NO_ANSWER`]. `working`: a job
    /// has the server. That of the view may have ended since.
    pub fn new(view: &'a View, working: bool, postmaster: &'a Postmaster, now: Now) -> Self {
        Status { view, job: view.job.as_ref().filter(|_| working), postmaster, now }
    }

    /// By the view alone, for what does not depend on the server, or cannot wait for it.
    pub fn of_view(view: &'a View, now: Now) -> Self {
        Status { view, job: view.job.as_ref(), postmaster: &view.server.postmaster, now }
    }

    /// The snapshot of the store, as long as the store answers, and it is not older than `ttl`. Without one nothing is known of
    /// the cluster.
    pub fn cluster(&self) -> Option<&'a Cluster> {
        let seen = self.view.dcs_last_seen?;
        let age_ms = self.now.wall.0.saturating_sub(seen.0);
        let ttl_ms = i64::try_from(self.view.settings.ttl.as_millis()).unwrap_or(i64::MAX);
        self.view.cluster.as_deref().filter(|_| self.view.dcs_answers && age_ms < ttl_ms)
    }

    /// The state of the server; `None` where PostgreSQL should answer and does not.
    pub fn state(&self) -> Option<State> {
        let state = self.expected_state();
        (state != State::Running || matches!(self.postmaster, Postmaster::Running(_))).then_some(state)
    }

    fn expected_state(&self) -> State {
        state(self.view.state, self.job, self.postmaster)
    }

    /// What the server says, in the states in which it is asked.
    pub fn running(&self) -> Option<&'a Running> {
        let Postmaster::Running(running) = self.postmaster else { return None };
        let asked = matches!(self.expected_state(), State::Running | State::Restarting | State::Starting);
        asked.then_some(running)
    }

    /// Up, and answering.
    pub fn is_running(&self) -> bool {
        self.state() == Some(State::Running)
    }

    /// Up as far as is known: it answers, or it did and is alive; and nobody is stopping it.
    fn is_up(&self) -> bool {
        match self.postmaster {
            Postmaster::Running(_) => !self.job.is_some_and(|view| stops(&view.job)),
            // What a job made of it that has ended since the view is known by its own word only.
            Postmaster::Unreachable(_) => self.expected_state() == State::Running && !self.job_has_ended(),
            Postmaster::Stopped(_) | Postmaster::Starting | Postmaster::Stopping => false,
        }
    }

    /// A job has worked on the server since the view was made, and does no more.
    fn job_has_ended(&self) -> bool {
        self.view.job.is_some() && self.job.is_none()
    }

    /// The role by PostgreSQL's own word, if it answers.
    pub fn role(&self) -> Role {
        match self.running().map(|running| running.wal.is_standby()) {
            Some(false) => Role::Primary,
            Some(true) if !self.is_standby_cluster() => Role::Replica,
            Some(true) | None => role(self.view.role, self.job, self.postmaster),
        }
    }

    /// This node leads, so that nobody else goes on as a primary with its leave (`POST /failsafe`). An agent that was just started does not know
    /// what it had: until its first tick its server has to say that it is no primary.
    pub fn leads(&self) -> bool {
        let view = self.view;
        if view.ticks == 0 {
            return match self.postmaster {
                Postmaster::Running(running) => !running.wal.is_standby(),
                Postmaster::Stopped(_) => false,
                Postmaster::Starting | Postmaster::Stopping | Postmaster::Unreachable(_) => true,
            };
        }
        view.state == State::Running && view.role == Role::Primary || view.is_leader(self.now.boot)
    }

    /// The cluster follows another one.
    pub fn is_standby_cluster(&self) -> bool {
        self.view.settings.standby_cluster.is_some()
    }

    /// This node is listed in `/sync` and so is a synchronous standby of that mode.
    pub fn synchronous(&self) -> Option<SynchronousMode> {
        let mode = self.view.settings.synchronous.mode;
        let replica = self.running().is_some() && self.role() == Role::Replica;
        let listed = || {
            let name = self.view.settings.name.as_str();
            self.cluster().is_some_and(|cluster| is_synchronous(&cluster.sync, name))
        };
        let managed = mode != SynchronousMode::Off && !self.is_standby_cluster();
        (replica && managed && listed()).then_some(mode)
    }

    /// Nobody holds the leader key, as far as is known. While the store is away nothing is.
    pub fn is_unlocked(&self) -> bool {
        self.cluster().is_none_or(Cluster::is_unlocked)
    }

    /// Failsafe mode is on.
    pub fn is_failsafe_active(&self) -> bool {
        self.view.failsafe_until.is_some_and(|until| self.now.boot < until)
    }

    /// How far the leader is known to be: the store's word, or that of the WAL sender.
    pub fn leader_lsn(&self) -> Lsn {
        let store = self.cluster().map(|cluster| cluster.status.last_lsn).unwrap_or_default();
        store.max(self.latest_end().unwrap_or_default())
    }

    /// The last word of the WAL sender.
    pub fn latest_end(&self) -> Option<Lsn> {
        match &self.running()?.wal {
            Wal::Standby { latest_end, .. } => latest_end.filter(|lsn| lsn.0 > 0),
            Wal::Primary { .. } => None,
        }
    }

    /// `streaming` and the like, of a standby.
    pub fn replication_state(&self) -> Option<&'a str> {
        self.view.replication_state(self.running()?)
    }

    /// When the store last answered, in seconds since 1970; 0 before the first time.
    pub fn dcs_last_seen_s(&self) -> i64 {
        self.view.dcs_last_seen.map_or(0, |seen| seen.0.div_euclid(1000))
    }

    /// Settings that wait for a restart, if there are any: as the loop knows and publishes them, with their reasons. The
    /// server alone does not know all.
    pub fn pending_restart(&self) -> Option<&'a JsonMap> {
        let running = self.view.running()?;
        Some(&running.pending_restart).filter(|reason| !reason.is_empty())
    }
}
