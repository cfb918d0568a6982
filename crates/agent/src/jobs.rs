//! Long actions: one at a time, each owning [`Control`] while it works.
//!
//! The loop starts a job, looks at its stage, and takes note of its end; it never waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use patroni_core::decide::title;
use patroni_core::facts::JobFact;
use patroni_core::job::{DemoteMode, Job, JobOutcome, JobView, Stage, Upstream};
use patroni_core::parameters::SynchronousStandbyNames;
use patroni_core::plan::JobOrder;
use patroni_core::server::Role;
use patroni_core::settings::{Settings, SynchronousMode};
use patroni_core::time::Moment;
use patroni_postgres::Error;
use patroni_postgres::callbacks::CallbackAction;
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::control::{Control, Copied, Mode, Promoted, StartOptions, Started, StopOptions};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot, watch};

use crate::{clock, rewind};

/// How long a promotion is waited for. It goes on beyond; the ticks then see what became of it.
const PROMOTION_LIMIT: Duration = Duration::from_secs(60);

/// The job that runs, or the handle it would need.
pub struct Jobs {
    /// Here while no job has it.
    control: Option<Box<Control>>,
    running: Option<RunningJob>,
    /// To be started when the running one, which was cancelled for it, is gone.
    next: Option<Next>,
    ended: Option<(Job, JobOutcome)>,
    lease: Arc<Lease>,
    /// Makes a new handle, should a job die with the old one.
    make_control: Box<dyn Fn() -> Control + Send + Sync>,
    /// Since when a job has had the handle.
    working: Arc<watch::Sender<Option<Moment>>>,
    woken: Arc<Notify>,
}

/// What a tick decided about jobs.
#[derive(Clone, Debug)]
pub struct Order {
    /// What happens.
    pub job: JobOrder,
    /// The job that is ordered asks for the lease before it does what cannot be taken back.
    pub asks_for_lease: bool,
    /// Until when this node may lead.
    pub lease_until: Option<Moment>,
}

/// A job to be started.
struct Next {
    job: Job,
    asks_for_lease: bool,
}

/// Until when this node may lead, as of the last tick.
#[derive(Default)]
struct Lease(Mutex<Option<Moment>>);

impl Lease {
    fn set(&self, until: Option<Moment>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn until(&self) -> Option<Moment> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent may have stood still since it was prolonged.
    fn allows_a_primary(&self) -> bool {
        let holds = self.until().is_some_and(|until| clock::boot() < until);
        if !holds {
            tracing::warn!("the leader lease has ended: the server is not made a primary");
        }
        holds
    }
}

struct RunningJob {
    job: Job,
    since: Moment,
    cancel: Cancel,
    stage: watch::Receiver<Stage>,
    end: oneshot::Receiver<(Box<Control>, JobOutcome)>,
}

impl Jobs {
    /// No job yet. `woken` is notified when a job ends, or reaches a stage that the loop waits for.
    pub fn new(make_control: impl Fn() -> Control + Send + Sync + 'static, woken: Arc<Notify>) -> Self {
        let control = Some(Box::new(make_control()));
        let (lease, make_control) = (Arc::default(), Box::new(make_control));
        let working = Arc::new(watch::Sender::new(None));
        Jobs { control, running: None, next: None, ended: None, lease, make_control, working, woken }
    }

    /// Since when a job has been working on the server, as of now and not of the last tick.
    pub fn working(&self) -> watch::Receiver<Option<Moment>> {
        self.working.subscribe()
    }

    /// The handle of the server, while no job has it.
    pub fn control(&mut self) -> Option<&mut Control> {
        self.control.as_deref_mut()
    }

    /// The agent ends. A job that still runs is left to itself.
    pub async fn finish(self, limit: Duration) {
        if let Some(control) = self.control {
            control.finish(limit).await;
        }
    }

    /// What a tick should know. The end of a job is told once.
    pub fn fact(&mut self, settings: &Arc<Settings>, now: Moment) -> JobFact {
        self.collect(settings, now);
        match (&self.running, self.ended.take()) {
            (Some(running), _) => JobFact::Running(running.view()),
            (None, Some((job, outcome))) => JobFact::Ended(job, outcome),
            (None, None) => JobFact::Idle,
        }
    }

    /// Carries out what a tick decided about jobs.
    pub fn apply(&mut self, order: Order, settings: &Arc<Settings>, now: Moment) {
        let Order { job, asks_for_lease, lease_until } = order;
        self.lease.set(lease_until);
        match job {
            JobOrder::Keep => {}
            JobOrder::Cancel => self.cancel(),
            // What is shown of it is not true.
            JobOrder::Start(_) if asks_for_lease && !self.lease.allows_a_primary() => self.woken.notify_one(),
            JobOrder::Start(job) => self.start(Next { job, asks_for_lease }, settings, now),
            JobOrder::Replace(job) => {
                self.cancel();
                self.next = Some(Next { job, asks_for_lease });
                self.collect(settings, now);
            }
        }
    }

    fn cancel(&mut self) {
        if let Some(running) = &self.running {
            tracing::info!("cancelling {}", title(&running.job));
            running.cancel.cancel();
        }
    }

    /// Takes the handle back from a job that has ended, and starts the one that waits for it.
    fn collect(&mut self, settings: &Arc<Settings>, now: Moment) {
        if let Some(running) = &mut self.running {
            let (control, outcome) = match running.end.try_recv() {
                Ok(end) => end,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Closed) => {
                    let why = "internal error, see the log".to_owned();
                    (Box::new((self.make_control)()), JobOutcome::Failed(why))
                }
            };
            self.ended = Some((running.job.clone(), outcome));
            self.control = Some(control);
            self.running = None;
        }
        if let Some(next) = self.next.take() {
            self.ended = None;
            self.start(next, settings, now);
        }
    }

    fn start(&mut self, next: Next, settings: &Arc<Settings>, now: Moment) {
        let Next { job, asks_for_lease } = next;
        let Some(control) = self.control.take() else {
            tracing::error!("{} was ordered while another action runs; please report it as a BUG", title(&job));
            return;
        };
        let cancel = Cancel::new();
        let (progress, stage) = if asks_for_lease {
            let lease = Arc::clone(&self.lease);
            Progress::with_condition(move || lease.allows_a_primary())
        } else {
            Progress::new()
        };
        watch_stage(stage.clone(), Arc::clone(&self.woken));
        self.working.send_replace(Some(now));
        let ends = JobEnds { since: now, working: Arc::clone(&self.working), woken: Arc::clone(&self.woken) };
        let end = spawn(control, job.clone(), Arc::clone(settings), cancel.clone(), progress, ends);
        self.running = Some(RunningJob { job, since: now, cancel, stage, end });
    }
}

impl RunningJob {
    fn view(&self) -> JobView {
        JobView {
            job: self.job.clone(),
            title: title(&self.job),
            since: self.since,
            stage: self.stage.borrow().clone(),
        }
    }
}

/// Wakes the loop when PostgreSQL has reached a point that a decision waits for.
fn watch_stage(mut stage: watch::Receiver<Stage>, woken: Arc<Notify>) {
    tokio::spawn(async move {
        while stage.changed().await.is_ok() {
            if matches!(*stage.borrow_and_update(), Stage::ShutDown { .. }) {
                woken.notify_one();
            }
        }
    });
}

fn spawn(
    mut control: Box<Control>,
    job: Job,
    settings: Arc<Settings>,
    cancel: Cancel,
    progress: Progress,
    ends: JobEnds,
) -> oneshot::Receiver<(Box<Control>, JobOutcome)> {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        // Dropped last, however this ends: the loop then finds the outcome, or that there will be none.
        let _ends = ends;
        let outcome = match run(&mut control, &job, &settings, &cancel, &progress).await {
            Ok(outcome) => outcome,
            Err(Error::Cancelled) => JobOutcome::Cancelled,
            Err(error) => JobOutcome::Failed(error.to_string()),
        };
        let _ = sender.send((control, outcome));
    });
    receiver
}

/// Dropped with the job: nobody works on the server any more, and the loop looks at what became of it.
struct JobEnds {
    since: Moment,
    working: Arc<watch::Sender<Option<Moment>>>,
    woken: Arc<Notify>,
}

impl Drop for JobEnds {
    fn drop(&mut self) {
        // Unless the next one has begun.
        self.working.send_if_modified(|since| since.take_if(|since| *since == self.since).is_some());
        self.woken.notify_one();
    }
}

async fn run(
    control: &mut Control,
    job: &Job,
    settings: &Settings,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<JobOutcome, Error> {
    match job {
        Job::Bootstrap => control.bootstrap(cancel, progress).await.map(|()| JobOutcome::Done),
        Job::Clone { source, follow } => {
            control.clone_from(source, cancel, progress).await?;
            start_standby(control, follow, Role::Replica, settings, cancel, progress).await
        }
        Job::Reinitialize { source, follow } => {
            control.stop(StopOptions::immediate(), cancel, progress).await?;
            control.clone_from(source, cancel, progress).await?;
            start_standby(control, follow, Role::Replica, settings, cancel, progress).await
        }
        Job::Start { role: Role::Primary, .. } => {
            let timeout = Some(settings.primary_start_timeout).filter(|timeout| !timeout.is_zero());
            let start =
                StartOptions { role: Role::Primary, follow: None, timeout, callback: Some(CallbackAction::OnStart) };
            control.start(start, cancel, progress).await.map(started)
        }
        Job::Start { role, follow, .. } => start_standby(control, follow, *role, settings, cancel, progress).await,
        Job::Restart { as_standby: false } => {
            control.restart(None, Some(CallbackAction::OnRestart), cancel, progress).await.map(started)
        }
        Job::Restart { as_standby: true } => {
            waits_for_nobody(control, settings);
            control.follow(Upstream::None, Role::Replica, true, cancel, progress).await.map(started)
        }
        Job::Follow { upstream, role, restart } => {
            control.follow(upstream.clone(), *role, *restart, cancel, progress).await.map(started)
        }
        Job::Promote => control.promote(PROMOTION_LIMIT, cancel, progress).await.map(|promoted| match promoted {
            Promoted::Done => JobOutcome::Done,
            Promoted::PrePromoteFailed => JobOutcome::PrePromoteFailed,
            Promoted::StillInRecovery => JobOutcome::StillStarting,
        }),
        Job::Demote(DemoteMode::DemoteCluster) => {
            control.stop(StopOptions::planned(), cancel, progress).await?;
            rewind::archive_last_wal(control, cancel).await.map(|()| JobOutcome::Done)
        }
        Job::Demote(DemoteMode::Hung) => control.kill_hung(cancel, progress).await.map(|()| JobOutcome::Done),
        Job::Demote(mode) => control.stop(demotion(*mode, settings), cancel, progress).await.map(|_| JobOutcome::Done),
        Job::CrashRecovery => control.crash_recovery(cancel, progress).await.map(|()| JobOutcome::Done),
        Job::CopySlots { source, slots } => match control.copy_slots(source, slots, cancel, progress).await {
            Ok(Copied::Done(started_as)) => Ok(started(started_as)),
            Ok(Copied::Nothing) => Ok(JobOutcome::Cancelled),
            Err(error) if progress.is_revocable() => {
                tracing::error!("Failed to copy logical slots from the {}: {error}", source.name);
                Ok(JobOutcome::Cancelled)
            }
            Err(error) => Err(error),
        },
        Job::Rewind { source } => rewind::run(control, source, settings, cancel, progress).await,
        Job::Shutdown => {
            let stop = demotion(DemoteMode::Graceful, settings);
            control.stop(stop, cancel, progress).await.map(|_| JobOutcome::Done)
        }
        Job::StopImmediate => control.stop(StopOptions::immediate(), cancel, progress).await.map(|_| JobOutcome::Done),
    }
}

async fn start_standby(
    control: &mut Control,
    follow: &Upstream,
    role: Role,
    settings: &Settings,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<JobOutcome, Error> {
    waits_for_nobody(control, settings);
    control.follow(follow.clone(), role, false, cancel, progress).await.map(started)
}

/// What it waited for as a primary means nothing on a standby; whoever is promoted decides anew.
fn waits_for_nobody(control: &mut Control, settings: &Settings) {
    control.conf().set_synchronous_standby_names(match settings.synchronous.mode {
        SynchronousMode::Off => SynchronousStandbyNames::Configured,
        SynchronousMode::On | SynchronousMode::Quorum => SynchronousStandbyNames::Managed(None),
    });
}

fn started(started: Started) -> JobOutcome {
    match started {
        Started::Running => JobOutcome::Done,
        Started::StillStarting => JobOutcome::StillStarting,
    }
}

fn demotion(mode: DemoteMode, settings: &Settings) -> StopOptions {
    let synchronous = settings.synchronous.mode != SynchronousMode::Off && !settings.primary_stop_timeout.is_zero();
    match mode {
        DemoteMode::Graceful => StopOptions {
            report_shutdown: true,
            timeout: synchronous.then_some(settings.primary_stop_timeout),
            ..StopOptions::planned()
        },
        // What is left of the lease is short: a shutdown that takes longer becomes immediate.
        DemoteMode::Offline => StopOptions {
            mode: Mode::Fast,
            checkpoint: false,
            report_shutdown: false,
            timeout: Some(settings.ttl / 12),
            callback: true,
        },
        DemoteMode::Immediate | DemoteMode::ImmediateNolock | DemoteMode::Hung => StopOptions::immediate(),
        DemoteMode::DemoteCluster => StopOptions::planned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_primary_comes_out_of_a_job_whose_lease_has_ended() {
        let lease = Lease::default();
        assert!(!lease.allows_a_primary());
        lease.set(Some(clock::boot() + Duration::from_secs(60)));
        assert!(lease.allows_a_primary());
        lease.set(Some(clock::boot()));
        assert!(!lease.allows_a_primary());
    }
}
