//! What the loop publishes after each tick: all that the REST API and the member's key are made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::COMPATIBLE_VERSION;
use crate::cluster::{Cluster, MemberData};
use crate::decide::title;
use crate::disk::{DISK_KEY, Disks};
use crate::facts::Facts;
use crate::health;
use crate::job::{Job, JobView, Stage};
use crate::memory::{Memory, Rewind};
use crate::peer::DIVERGED;
use crate::plan::{JobOrder, Plan};
use crate::request::ScheduledRestart;
use crate::server::{DataDir, Postmaster, Role, Running, Server, State, Wal};
use crate::settings::Settings;
use crate::slots::{Risk, at_risk};
use crate::tags::Tags;
use crate::time::{Moment, WallTime};
use crate::verdict::Verdict;

/// The state of this node, as published. Readers compare [`View::lease_until`] with the clock when they need to know
/// whether the node is leader: nobody trusts a boolean that was true some time ago.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The settings of the tick.
    pub settings: Arc<Settings>,
    /// The last snapshot of the store that could be read.
    pub cluster: Option<Arc<Cluster>>,
    /// It was read in the last tick.
    pub dcs_answers: bool,
    /// When the store last answered; `None` before the first time.
    pub dcs_last_seen: Option<WallTime>,
    /// The local server.
    pub server: Arc<Server>,
    /// The announced role.
    pub role: Role,
    /// The announced state of PostgreSQL.
    pub state: State,
    /// End of the lease this node holds, if it holds one.
    pub lease_until: Option<Moment>,
    /// End of failsafe mode, while it is on: of this node's own, or of that which it agreed to.
    pub failsafe_until: Option<Moment>,
    /// The job that runs.
    pub job: Option<JobView>,
    /// The restart that is scheduled.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// A watchdog is required and does not work.
    pub watchdog_failed: bool,
    /// After a promotion: no checkpoint yet.
    pub checkpoint_pending: bool,
    /// Asks not to be a synchronous standby, because it is about to stop.
    pub leaving_sync: bool,
    /// Holds other WAL than the primary on the same timeline.
    pub kept_out: bool,
    /// A former primary whose clients are held back.
    pub holding: bool,
    /// Where commits of this synchronous primary do not wait for standbys.
    pub turned_down: Vec<String>,
    /// Logical slots that a failover from or to this node would lose.
    pub slots_at_risk: BTreeMap<String, Risk>,
    /// Why PostgreSQL does not come up: a job failed to start it, pg_rewind cannot be begun, the data directory cannot be read.
    pub failure: Option<String>,
    /// Room on the disks.
    pub disks: Disks,
    /// The verdict of the last tick, in Patroni's words.
    pub verdict: String,
    /// When the tick had looked at everything.
    pub ticked_at: Moment,
    /// Ticks so far.
    pub ticks: u64,
}

/// Where others reach this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addresses {
    /// PostgreSQL: `postgres://host:port/database`.
    pub conn_url: String,
    /// The REST API: `http://host:port/patroni`.
    pub api_url: String,
    /// A proxy in front of PostgreSQL.
    pub proxy_url: Option<String>,
}

impl View {
    /// The view before the first tick.
    pub fn initial(settings: Arc<Settings>, server: Arc<Server>, now: Moment) -> Self {
        let memory = Memory::new();
        View {
            settings,
            cluster: None,
            dcs_answers: false,
            dcs_last_seen: None,
            server,
            role: memory.role,
            state: memory.state,
            lease_until: None,
            failsafe_until: None,
            job: None,
            scheduled_restart: None,
            watchdog_failed: false,
            checkpoint_pending: false,
            leaving_sync: false,
            kept_out: false,
            holding: false,
            turned_down: Vec::new(),
            slots_at_risk: BTreeMap::new(),
            failure: None,
            disks: Disks::default(),
            verdict: String::new(),
            ticked_at: now,
            ticks: 0,
        }
    }

    /// The view after a tick, whatever that was about: of [`Facts::shown`] nothing stays but what this tick could not look at.
    pub fn after(plan: &Plan, facts: &Facts) -> Self {
        let (memory, before) = (&plan.memory, &facts.shown);
        let cluster = facts.cluster.as_ref().ok().cloned();
        let job = job_after(&plan.job, facts);
        let postmaster = &facts.server.postmaster;
        View {
            settings: Arc::clone(&facts.settings),
            dcs_answers: cluster.is_some(),
            dcs_last_seen: if cluster.is_some() { Some(facts.now.wall) } else { before.dcs_last_seen },
            cluster: cluster.or_else(|| before.cluster.clone()),
            server: Arc::clone(&facts.server),
            role: health::role(memory.role, job.as_ref(), postmaster),
            state: health::state(memory.state, job.as_ref(), postmaster),
            job,
            lease_until: memory.lease_until,
            failsafe_until: memory.failsafe_until().max(facts.failsafe_leader.as_ref().map(|(_, until)| *until)),
            scheduled_restart: memory.scheduled_restart.clone(),
            watchdog_failed: facts.watchdog.required && !facts.watchdog.healthy,
            checkpoint_pending: memory.checkpoint_pending,
            leaving_sync: memory.leaving_sync.is_some(),
            kept_out: memory.rewind == Rewind::OtherWal,
            holding: memory.holding.is_some(),
            turned_down: memory.enforcement.as_ref().map_or_else(Vec::new, |known| known.turned_down.clone()),
            slots_at_risk: slots_at_risk(plan, facts).unwrap_or_else(|| before.slots_at_risk.clone()),
            failure: failure(memory, facts),
            disks: facts.disks.clone(),
            verdict: paused_prefix(facts.settings.paused) + &plan.verdict.to_string(),
            ticked_at: facts.now.boot,
            ticks: before.ticks + 1,
        }
    }

    /// The same while the lease is given up: from the moment at which somebody else may have it, nobody is answered that this node leads,
    /// however long the store takes.
    pub fn without_lease(&self) -> View {
        View { lease_until: None, ..self.clone() }
    }

    /// This node holds the leader lease at `now`.
    pub fn is_leader(&self, now: Moment) -> bool {
        self.lease_until.is_some_and(|until| now < until)
    }

    /// The server, if it answers.
    pub fn running(&self) -> Option<&Running> {
        self.server.running()
    }

    /// The tags as others should go by them now.
    pub fn announced_tags(&self) -> Tags {
        let mut tags = self.settings.tags.clone();
        let mut announce = |flags: &[(&str, Value)]| {
            tags.0.extend(flags.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        };
        if self.leaving_sync || self.kept_out {
            announce(&[("nosync", true.into()), ("sync_priority", 0.into())]);
        }
        if self.kept_out {
            // Nobody elects it, reads from it or copies it, and no WAL is kept for it.
            announce(&[("nofailover", true.into()), ("failover_priority", 0.into())]);
            announce(&[("noloadbalance", true.into()), ("clonefrom", false.into()), ("nostream", true.into())]);
        }
        tags
    }

    /// How this standby replicates, as others are told.
    pub fn replication_state<'a>(&self, running: &'a Running) -> Option<&'a str> {
        match &running.wal {
            Wal::Standby { .. } if self.kept_out => Some(DIVERGED),
            Wal::Standby { replication_state, .. } => replication_state.as_deref(),
            Wal::Primary { .. } => None,
        }
    }

    /// The content of this member's key (`touch_member` of Patroni).
    pub fn member_data(&self, addresses: &Addresses, now: Moment) -> MemberData {
        let mut data = MemberData {
            conn_url: Some(addresses.conn_url.clone()),
            api_url: Some(addresses.api_url.clone()),
            proxy_url: addresses.proxy_url.clone(),
            state: Some(self.state.to_string()),
            role: Some(self.role.to_string()),
            version: Some(COMPATIBLE_VERSION.to_owned()),
            tags: self.announced_tags(),
            checkpoint_after_promote: (self.is_leader(now) && self.checkpoint_pending).then_some(false),
            scheduled_restart: self.scheduled_restart.as_ref().map(ScheduledRestart::shown),
            pause: self.settings.paused,
            slots_at_risk: self.slots_at_risk.iter().map(|(slot, risk)| (slot.clone(), risk.to_string())).collect(),
            ..MemberData::default()
        };
        if let Some(running) = self.running() {
            data.pending_restart = !running.pending_restart.is_empty();
            data.pending_restart_reason = running.pending_restart.clone();
            self.describe_wal(&mut data, running);
        }
        // Not in Patroni, which ignores it.
        let copying = self.job.as_ref().filter(|job| matches!(job.stage, Stage::Copying(_)));
        data.extra.extend(copying.map(|job| (JOB_KEY.to_owned(), job.shown().into())));
        data.extra.extend(self.failure.as_ref().map(|why| (FAILURE_KEY.to_owned(), why.as_str().into())));
        let full = self.disks.trouble(self.settings.disk.warning);
        if !full.is_empty() {
            data.extra.insert(DISK_KEY.to_owned(), full.into());
        }
        data
    }

    /// Positions while PostgreSQL is announced to be up. How it replicates is shown in the place of the state by all that
    /// list members, so it must not hide that something is being done.
    fn describe_wal(&self, data: &mut MemberData, running: &Running) {
        if !matches!(self.state, State::Running | State::Restarting | State::Starting) {
            return;
        }
        data.xlog_location = Some(running.wal.position());
        data.timeline = running.timeline;
        if let Wal::Standby { received, replayed, .. } = &running.wal {
            data.receive_lsn = received.filter(|lsn| lsn.0 > 0);
            data.replay_lsn = replayed.filter(|lsn| lsn.0 > 0);
            let undisturbed = self.job.as_ref().is_none_or(|view| view.job == Job::Promote);
            data.replication_state = self.replication_state(running).map(str::to_owned).filter(|_| undisturbed);
        }
    }
}

/// The job that runs once the order is carried out.
fn job_after(order: &JobOrder, facts: &Facts) -> Option<JobView> {
    match order {
        JobOrder::Keep | JobOrder::Cancel => facts.job.running().cloned(),
        JobOrder::Start(job) | JobOrder::Replace(job) => {
            Some(JobView { job: job.clone(), title: title(job), since: facts.now.boot, stage: Stage::Revocable })
        }
    }
}

/// Why PostgreSQL does not come up: what stands in the way of that now, else how the last attempt ended.
fn failure(memory: &Memory, facts: &Facts) -> Option<String> {
    if let DataDir::Inaccessible(why) = &facts.server.data_dir {
        return Some(Verdict::DataDirInaccessible(why.clone()).to_string());
    }
    let awaits_rewind = matches!(memory.rewind, Rewind::Refused(_) | Rewind::Needed | Rewind::Postponed(_));
    let refusal = memory.rewind_refusal.as_ref().filter(|_| awaits_rewind);
    refusal.map(|refusal| Verdict::RewindRefused(Arc::clone(&refusal.why)).to_string()).or(memory.failure.clone())
}

/// `None` while nobody knows: the server restarts, or the store is silent.
fn slots_at_risk(plan: &Plan, facts: &Facts) -> Option<BTreeMap<String, Risk>> {
    let (Ok(cluster), Postmaster::Running(running)) = (&facts.cluster, &facts.server.postmaster) else { return None };
    Some(at_risk(&facts.settings, cluster, running, &plan.memory.readiness))
}

/// Where the member's key, and `/cluster`, tell how far a copy is while it is made.
pub const JOB_KEY: &str = "job";

/// Where the member's key, `/patroni` and `/cluster` say why PostgreSQL does not run.
pub const FAILURE_KEY: &str = "failure";

/// The parts of a member's key that others react to; positions and progress change all the time and wake nobody.
pub fn without_positions(data: &MemberData) -> MemberData {
    let mut data = MemberData { xlog_location: None, receive_lsn: None, replay_lsn: None, ..data.clone() };
    data.extra.shift_remove(JOB_KEY);
    data.extra.shift_remove(DISK_KEY);
    data
}

/// What Patroni puts before the sentence of a tick while the cluster is paused.
pub fn paused_prefix(paused: bool) -> String {
    if paused { "PAUSE: ".to_owned() } else { String::new() }
}
