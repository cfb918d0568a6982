//! The decision: from what is remembered and known to the next step.
//!
//! [`decide`] is pure and total. Called again with the same arguments it gives the same step; called with the answer
//! to the operation it asked for, it comes one step further, until the tick is decided. The rules live in families,
//! one file each; a rule that needs an answer first returns the operation, and `?` carries it out of the tick.

mod bootstrap;
mod candidates;
mod data_dir;
#[cfg(feature = "deliberate-bugs")]
pub mod deliberate;
mod disk;
mod failsafe;
mod follow;
mod handover;
mod hang;
mod hold;
mod job;
mod kept_out;
mod leader;
mod lease;
mod race;
mod recover;
mod requests;
mod room;
mod shutdown;
mod slots;
mod standby;
mod starting;
mod store_failure;
mod synchronous;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, Initialize, Member};
use crate::effects::effects;
use crate::facts::{Facts, InitializeWrite, JobFact, Op, Outcome};
use crate::health;
use crate::job::{CloneFrom, DemoteMode, Job, JobOutcome, Upstream, UpstreamMember};
use crate::member_key::MemberKey;
use crate::memory::{Memory, Rewind};
use crate::name::MemberName;
use crate::plan::{Callback, Exit, JobOrder, Plan, Step};
use crate::request::{Answer, RequestId};
use crate::server::{Postmaster, Role, Running, State};
use crate::settings::Settings;
use crate::sync::Enforcement;
use crate::time::Moment;
use crate::verdict::{Level, Note, Verdict};
use crate::view::View;

/// How often in a row the next tick may be asked for at once. Longer chains of steps that follow from each other do not exist.
const HURRIES: u8 = 4;

/// The pause where nothing gets better by haste.
const PAUSE: Duration = Duration::from_secs(1);

/// Decides the next step of a tick.
pub fn decide(memory: &Memory, facts: &Facts) -> Step {
    #[cfg(feature = "deliberate-bugs")]
    {
        let step = decide_by_rules(memory, &deliberate::told(memory, facts));
        if let Step::Run(op) = &step
            && let Some(answer) = deliberate::made_up(op, facts)
        {
            let mut facts = facts.clone();
            facts.answers.record(answer);
            return decide(memory, &facts);
        }
        deliberate::done(step, facts)
    }
    #[cfg(not(feature = "deliberate-bugs"))]
    decide_by_rules(memory, facts)
}

fn decide_by_rules(memory: &Memory, facts: &Facts) -> Step {
    match Tick::new(memory, facts).run() {
        Ok(plan) => Step::Finish(Box::new(plan)),
        Err(op) => Step::Run(op),
    }
}

/// What a rule comes to: its result, or the operation whose answer it lacks.
type Needs<T> = Result<T, Op>;

/// One run through the rules.
struct Tick<'a> {
    facts: &'a Facts,
    settings: &'a Settings,
    memory: Memory,
    job: JobOrder,
    notes: Vec<Note>,
    replies: BTreeMap<RequestId, Answer>,
    callbacks: Vec<Callback>,
    sync_slots: bool,
    resume_replay: bool,
    disable_watchdog: bool,
    wake_after: Duration,
    exit: Option<Exit>,
    /// Since when this node has been asking not to be synchronous, up to this tick.
    leaving_sync: Option<Moment>,
}

impl<'a> Tick<'a> {
    fn new(memory: &Memory, facts: &'a Facts) -> Self {
        Tick {
            facts,
            settings: &facts.settings,
            memory: memory.clone(),
            job: JobOrder::Keep,
            notes: Vec::new(),
            replies: BTreeMap::new(),
            callbacks: Vec::new(),
            sync_slots: false,
            resume_replay: false,
            disable_watchdog: false,
            wake_after: facts.settings.loop_wait,
            exit: None,
            leaving_sync: memory.leaving_sync,
        }
    }

    /// The families of rules, in their order of precedence.
    fn run(mut self) -> Needs<Plan> {
        let verdict = self.verdict()?;
        Ok(self.finish(verdict))
    }

    fn verdict(&mut self) -> Needs<Verdict> {
        self.memory.leaving_sync = None;
        self.memory.began.get_or_insert(self.facts.now.boot);
        self.watch_disks();
        self.end_of_job();
        self.recall_other_wal();
        let cluster = match &self.facts.cluster {
            Ok(cluster) => self.with_known_sync(Arc::clone(cluster)),
            Err(why) => {
                let why = why.clone();
                return if self.facts.shutdown { self.shutdown(None) } else { self.store_failure(&why) };
            }
        };
        self.remember(&cluster);
        if self.facts.shutdown {
            return self.shutdown(Some(&cluster));
        }
        if let Some(verdict) = self.give_up_again(&cluster)? {
            return Ok(verdict);
        }
        self.keep_keys(&cluster)?;
        if let Some(verdict) = self.hangs(&cluster)? {
            return Ok(verdict);
        }
        if let Some(verdict) = self.requests(&cluster) {
            return Ok(verdict);
        }
        if let JobFact::Running(view) = &self.facts.job {
            let stops = matches!(view.job, Job::Restart { .. } | Job::CopySlots { .. });
            self.memory.leaving_sync = self.leaving_sync.filter(|_| stops);
            return self.job_in_progress(&cluster, view);
        }
        if let Some(verdict) = self.after_job(&cluster)? {
            return Ok(verdict);
        }
        if let Some(verdict) = self.data_dir(&cluster)? {
            return Ok(verdict);
        }
        match &self.facts.server.postmaster {
            Postmaster::Starting => self.starting(&cluster),
            Postmaster::Stopped(control) => {
                let control = control.clone();
                self.recover(&cluster, control.as_ref())
            }
            Postmaster::Stopping => self.stopping(&cluster),
            Postmaster::Unreachable(why) => {
                let why = why.clone();
                self.unreachable(&cluster, &why)
            }
            Postmaster::Running(running) => self.running(&cluster, running),
        }
    }

    /// PostgreSQL runs and answers.
    fn running(&mut self, cluster: &Cluster, running: &Running) -> Needs<Verdict> {
        self.seen_running(running);
        self.learn_of_slots(running);
        let verdict = if cluster.is_unlocked() {
            self.note(Level::Info, format!("Lock owner: None; I am {}", self.settings.name));
            self.race(cluster, running)?
        } else {
            self.healthy_cluster(cluster, running)?
        };
        if self.job == JobOrder::Keep || matches!(self.job, JobOrder::Start(Job::Promote)) {
            // Without the configuration nobody knows which slots are wanted.
            let is_configured = cluster.config.as_ref().is_some_and(|config| config.data.is_some());
            self.sync_slots = is_configured && !self.is_kept_out();
            self.announce_start(running);
        }
        if matches!(self.job, JobOrder::Start(Job::Promote)) {
            self.warn_of_unready_slots();
        }
        if self.job == JobOrder::Keep {
            let order = self.scheduled_restart(cluster, running).or_else(|| self.copy_slots(cluster, running));
            return Ok(order.unwrap_or(verdict));
        }
        Ok(verdict)
    }

    /// Things to remember of the cluster before any rule looks at it.
    fn remember(&mut self, cluster: &Cluster) {
        self.remember_whom_to_ask(cluster);
        self.forget_failures(cluster);
        self.expect_promotion_of_earlier_agent(cluster);
        if !cluster.is_unlocked() || self.memory.known_members.is_empty() {
            if *self.memory.known_members != cluster.members {
                self.memory.known_members = Arc::new(cluster.members.clone());
            }
            self.memory.last_leader = cluster.leader_name().cloned().or(self.memory.last_leader.take());
        }
        if cluster.is_unlocked() {
            self.memory.comparison_awaited_since = None;
        }
        if !self.has_lock(cluster) {
            self.memory.lease_until = None;
            // In pause, and after failsafe mode, the primary goes on, and goes on waiting for whom it was told to.
            let runs = self.settings.paused || self.facts.server.is_primary();
            let goes_on = self.memory.role == Role::Primary && runs;
            self.memory.enforcement = self.memory.enforcement.take().filter(|_| goes_on).map(Enforcement::doubted);
            self.memory.holding = None;
        } else {
            self.memory.stepped_down = self.memory.stepped_down.filter(|given_up| given_up.unanswered);
        }
        if self.settings.paused {
            self.disable_watchdog = true;
        } else if self.memory.was_paused {
            // While it was paused people may have done anything to PostgreSQL.
            self.suspect_divergence();
            self.memory.checkpoint_pending = true;
        }
        self.memory.was_paused = self.settings.paused;
    }

    /// This node has the lease by an agent that was before this one, and its standby may have been told to become primary: a promotion can take
    /// long, and nothing shows it. It is taken for one that was, until it was stopped or is primary: the lease does not go to others before.
    /// In pause it runs out, and the guard of that agent ends what was begun.
    fn expect_promotion_of_earlier_agent(&mut self, cluster: &Cluster) {
        let had_lock = self.has_lock(cluster) && !self.is_standby_cluster();
        let unseen = matches!(self.facts.server.postmaster, Postmaster::Unreachable(_));
        if !self.memory.knows_no_server || had_lock && (unseen || self.settings.paused) {
            return;
        }
        self.memory.knows_no_server = false;
        if had_lock && self.facts.server.is_standby() {
            self.memory.role = Role::Promoted;
        }
    }

    /// The holder of the lease restores keys that were lost.
    fn keep_keys(&mut self, cluster: &Cluster) -> Needs<()> {
        if !self.has_lock(cluster) || self.memory.bootstrapping {
            return Ok(());
        }
        self.is_the_cluster(cluster)?;
        match &cluster.config {
            Some(config) if config.data.as_ref().is_some_and(|data| !data.is_empty()) => Ok(()),
            config => {
                let version = config.as_ref().map(|config| config.version);
                let outcome = ask(&self.facts.answers.config, || Op::WriteConfig(version))?.clone();
                self.note_failure("write the dynamic configuration", &outcome);
                Ok(())
            }
        }
    }

    /// Done: `/initialize` is there, or now says that the data directory of this node is the cluster.
    fn is_the_cluster(&mut self, cluster: &Cluster) -> Needs<Outcome<()>> {
        let (Initialize::Absent | Initialize::Invalid(..) | Initialize::InProgress(_), Some(id)) =
            (&cluster.initialize, self.system_id())
        else {
            return Ok(Outcome::Done(()));
        };
        let outcome = self.initialize(InitializeWrite::Finish(id))?;
        self.note_failure("write the initialize key", &outcome);
        Ok(outcome)
    }

    /// A server was seen running: what this proves.
    fn seen_running(&mut self, running: &Running) {
        self.notice_overcome_crash(running);
        let memory = &mut self.memory;
        if !running.wal.is_standby() && memory.rewind == Rewind::OtherWal {
            // People promoted it, on a timeline of its own.
            memory.rewind = Rewind::Unknown;
        }
        memory.recovering = false;
        memory.starting = None;
        memory.crash_recovery_since = None;
        memory.stopped_by_outsider = None;
        memory.failure = None;
        memory.creation_failed_at = None;
        memory.state = State::Running;
        if memory.rewind == Rewind::Done {
            memory.rewind = Rewind::NotNeeded;
        }
        let timelines = [memory.timeline, running.timeline, running.control_timeline];
        memory.timeline = timelines.into_iter().flatten().max();
        if !running.wal.is_standby() && running.control_timeline == running.timeline {
            memory.checkpoint_pending = false;
        }
        memory.role = health::role(memory.role, None, &self.facts.server.postmaster);
    }

    /// The first time a server is seen running, the on_start callback tells so.
    fn announce_start(&mut self, running: &Running) {
        if self.memory.started {
            return;
        }
        self.memory.started = true;
        self.callbacks.push(Callback::OnStart);
        if running.wal.is_standby() && self.job == JobOrder::Keep && self.memory.rewind == Rewind::Unknown {
            self.memory.rewind = Rewind::Check;
            self.wake_after = Duration::ZERO;
        }
    }

    fn finish(mut self, verdict: Verdict) -> Plan {
        self.look_whether_it_hangs();
        let hurries = if self.wake_after.is_zero() { self.memory.hurries + 1 } else { 0 };
        self.memory.hurries = hurries.min(HURRIES);
        if hurries > HURRIES {
            self.wake_after = PAUSE;
        }
        let facts = self.facts;
        let mut plan = Plan {
            memory: self.memory,
            job: self.job,
            verdict,
            notes: self.notes,
            replies: self.replies,
            callbacks: self.callbacks,
            sync_slots: self.sync_slots,
            resume_replay: self.resume_replay,
            disable_watchdog: self.disable_watchdog,
            effects: Vec::new(),
            view: Arc::clone(&facts.shown),
            member: None,
            wake_after: self.wake_after,
            exit: self.exit,
        };
        plan.view = Arc::new(View::after(&plan, facts));
        write_member_if_due(&mut plan, facts);
        plan.effects = effects(&plan, facts);
        plan
    }

    // What rules ask and do. Each in terms of the tick, so that the rules read as sentences.

    fn me(&self) -> &'a MemberName {
        &self.settings.name
    }

    fn has_lock(&self, cluster: &Cluster) -> bool {
        cluster.leader_name() == Some(self.me())
    }

    fn system_id(&self) -> Option<crate::name::SystemId> {
        match &self.facts.server.data_dir {
            crate::server::DataDir::Present(id) => Some(*id),
            crate::server::DataDir::Empty
            | crate::server::DataDir::Inaccessible(_)
            | crate::server::DataDir::Unknown(_)
            | crate::server::DataDir::Invalid(_) => None,
        }
    }

    fn note(&mut self, level: Level, text: impl Into<String>) {
        self.notes.push(Note { level, text: text.into() });
    }

    fn note_failure<T>(&mut self, what: &str, outcome: &Outcome<T>) {
        match outcome {
            Outcome::Done(_) => {}
            Outcome::Refused => self.note(Level::Info, format!("did not {what}: somebody else changed it")),
            Outcome::Failed(why) => self.note(Level::Warning, format!("failed to {what}: {why}")),
            Outcome::Unknown(why) => {
                self.note(Level::Warning, format!("it is not known whether this node did {what}: {why}"))
            }
        }
    }

    /// What has failed a moment ago may fail again as fast, and its end wakes the loop: it is not tried again before a pause.
    fn start(&mut self, job: Job) {
        if matches!(&self.facts.job, JobFact::Ended(ended, JobOutcome::Failed(_)) if *ended == job) {
            self.wake_after = PAUSE;
        } else {
            self.start_at_once(job);
        }
    }

    fn start_at_once(&mut self, job: Job) {
        self.job = match self.facts.job {
            JobFact::Running(_) => JobOrder::Replace(job),
            JobFact::Idle | JobFact::Ended(..) => JobOrder::Start(job),
        };
    }

    fn initialize(&self, write: InitializeWrite) -> Needs<Outcome<()>> {
        ask(&self.facts.answers.initialize, || Op::Initialize(write)).cloned()
    }

    fn demote(&mut self, mode: DemoteMode) {
        self.note(Level::Info, format!("Demoting self ({mode})"));
        self.suspect_divergence();
        self.memory.role = Role::Demoted;
        self.disable_watchdog = true;
        self.wake_after = Duration::ZERO;
        self.start(Job::Demote(mode));
    }

    /// Whom this node streams from, as a standby.
    fn upstream(&self, cluster: &Cluster) -> Upstream {
        if self.is_kept_out() { Upstream::Isolated } else { self.upstream_of_copy(cluster) }
    }

    /// The same, once its data directory was copied.
    fn upstream_of_copy(&self, cluster: &Cluster) -> Upstream {
        let tags = &self.settings.tags;
        if tags.nostream() {
            return Upstream::None;
        }
        if self.is_standby_cluster() && (self.has_lock(cluster) || cluster.is_unlocked() && !self.settings.paused) {
            return Upstream::Remote;
        }
        let leader = cluster
            .leader_member()
            .or_else(|| self.failsafe_leader().and_then(|name| self.memory.known_members.get(name)));
        let wanted = tags.replicatefrom().filter(|name| name != self.me());
        // A member that is gone is replaced by the leader, as in Patroni; so is one that has WAL of another history.
        let wanted = wanted.as_ref().and_then(|name| cluster.members.get(name));
        let member = wanted.filter(|member| !member.data.is_kept_out()).or(leader);
        member.and_then(|member| self.upstream_member(member)).map_or(Upstream::None, Upstream::Member)
    }

    fn upstream_member(&self, member: &Member) -> Option<UpstreamMember> {
        if member.name == *self.me() {
            return None;
        }
        Some(UpstreamMember {
            name: member.name.clone(),
            conn_url: member.data.conn_url.clone()?,
            slot: self.settings.slots.use_slots.then(|| self.me().slot_name()),
        })
    }
}

/// The key of this member says what the view shows. An agent that ends tries to write it whatever became of earlier writes.
fn write_member_if_due(plan: &mut Plan, facts: &Facts) {
    let Ok(cluster) = &facts.cluster else { return };
    let (settings, now) = (&facts.settings, facts.now.boot);
    let data = plan.view.member_data(&facts.addresses, now);
    let missing = !cluster.members.contains_key(&settings.name);
    let left = facts.member_key.due_in(&data, missing, settings, now);
    let due = left.is_zero() || plan.exit.is_some();
    plan.wake_after = plan.wake_after.min(if due { MemberKey::next_look(settings) } else { left });
    plan.member = due.then(|| Arc::new(data));
}

/// The answer in a slot, or the operation that fills it.
fn ask<T>(slot: &Option<T>, op: impl FnOnce() -> Op) -> Needs<&T> {
    slot.as_ref().ok_or_else(op)
}

/// The words of Patroni for a job, by which it is known in messages and logs.
pub fn title(job: &Job) -> String {
    match job {
        Job::Bootstrap => "bootstrap".to_owned(),
        Job::Clone { source: CloneFrom::Remote, .. } => "bootstrap_standby_leader".to_owned(),
        Job::Clone { source, .. } => format!("bootstrap {source}"),
        Job::Reinitialize { .. } => "reinitialize".to_owned(),
        Job::Start { role: Role::Primary, .. } => "starting primary after failure".to_owned(),
        Job::Start { after_failure: true, .. } => "restarting after failure".to_owned(),
        Job::Start { .. } => "starting after demotion".to_owned(),
        Job::Restart { .. } => "restart".to_owned(),
        Job::Follow { .. } => "changing primary_conninfo and restarting".to_owned(),
        Job::Promote => "promote".to_owned(),
        Job::Demote(_) => "demote".to_owned(),
        Job::CrashRecovery => "doing crash recovery in a single user mode".to_owned(),
        Job::Rewind { source } => format!("running pg_rewind from {source}"),
        Job::CopySlots { .. } => "copy_logical_slots".to_owned(),
        Job::Shutdown => "shutdown".to_owned(),
        Job::StopImmediate => "stop".to_owned(),
    }
}
