//! The world of production: a store, a PostgreSQL server, peers, and people who ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::cluster::Initialize;
use patroni_core::disk::Disks;
use patroni_core::effects::Effect;
use patroni_core::facts::{Answer, Facts, Op, Outcome};
use patroni_core::fence::Fence;
use patroni_core::name::MemberName;
use patroni_core::plan::Plan;
use patroni_core::server::Postmaster;
use patroni_core::slots::slot_positions;
use patroni_core::time::{Moment, Now};
use patroni_core::view::View;
use patroni_postgres::monitor::Monitor;
use patroni_tick::agreement::Agreement;
use patroni_tick::driver::{Limit, Observation, World};
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::api::Signal;
use crate::clock;
use crate::configuration::Configuration;
use crate::guard::Guard;
use crate::hang::HangWatch;
use crate::jobs::Jobs;
use crate::maintenance::Maintenance;
use crate::metrics::{Metrics, Takeover};
use crate::notify::Notifier;
use crate::publisher::Publisher;
use crate::requests::Requests;
use crate::slots::Slots;
use crate::store::Store;
use crate::synchronous::Synchronous;
use crate::watchdog::WatchdogDevice;

/// How long the local server may take to answer when it is looked at.
const INSPECT_LIMIT: Duration = Duration::from_secs(3);

/// How long the store may take to prepare for the end of this agent.
const HANDOVER_LIMIT: Duration = Duration::from_secs(1);

/// This node, as the loop needs it.
pub struct Node {
    pub(crate) store: Store,
    pub(crate) monitor: Monitor,
    pub(crate) jobs: Jobs,
    pub(crate) configuration: Configuration,
    pub(crate) maintenance: Maintenance,
    pub(crate) slots: Slots,
    pub(crate) disks: watch::Receiver<Disks>,
    pub(crate) synchronous: Synchronous,
    pub(crate) watchdog: WatchdogDevice,
    pub(crate) guard: Guard,
    pub(crate) hang: HangWatch,
    pub(crate) publisher: Publisher,
    pub(crate) notifier: Notifier,
    pub(crate) requests: Requests,
    pub(crate) signals: mpsc::Receiver<Signal>,
    pub(crate) shutdown: watch::Receiver<bool>,
    pub(crate) woken: Arc<Notify>,
    pub(crate) view: watch::Sender<Arc<View>>,
    /// The last tick found a postmaster, so its exit can be waited for.
    pub(crate) postmaster_seen: bool,
    pub(crate) agreement: Arc<Agreement>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) takeover: Takeover,
    /// When the tick that runs began.
    pub(crate) tick_began: Instant,
    /// The store knows that this agent ends.
    pub(crate) store_handed_over: bool,
}

impl World for Node {
    fn now(&self) -> Now {
        clock::now()
    }

    async fn observe(&mut self, limit: Limit) -> Observation {
        self.tick_began = Instant::now();
        let settings = self.configuration.settings();
        // Before the store is read: a key that it does not have although this was written is gone.
        let member_key = self.publisher.known();
        // Before the server is looked at: told that a job has ended, nobody may see the server as it was before.
        let job = self.jobs.fact(&settings, clock::boot());
        // Before PostgreSQL stops: whoever takes the lease then needs a store with a leader.
        let shutdown = *self.shutdown.borrow();
        if shutdown && !std::mem::replace(&mut self.store_handed_over, true) {
            self.store.hand_over(limit.within(HANDOVER_LIMIT, clock::boot())).await;
        }
        let budget = limit.within(settings.retry_timeout, clock::boot());
        let inspect_until = Instant::now() + budget.min(INSPECT_LIMIT);
        let (cluster, server) = tokio::join!(self.store.load(budget), self.monitor.inspect(inspect_until));
        if let Ok(cluster) = &cluster {
            self.configuration.take_dynamic(cluster.config.as_ref());
        }
        let settings = self.configuration.settings();
        self.store.configure(&settings);
        let server = self.maintenance.with_pending_restart(server);
        self.postmaster_seen = !matches!(server.postmaster, Postmaster::Stopped(_));
        Observation {
            cluster,
            server: Arc::new(server),
            job,
            requests: self.requests.facts(),
            shutdown,
            watchdog: self.watchdog.fact(&settings),
            failsafe_leader: self.agreement.given(settings.ttl, clock::boot()),
            addresses: self.configuration.addresses().clone(),
            member_key,
            slots: self.slots.news().await,
            standstill: self.hang.standstill(),
            disks: self.disks.borrow().clone(),
            settings,
        }
    }

    fn agreement(&self) -> Arc<Agreement> {
        Arc::clone(&self.agreement)
    }

    async fn fence(&mut self, order: Fence) {
        self.guard.tell(order).await;
    }

    fn show(&mut self, view: Arc<View>) {
        self.view.send_replace(view);
    }

    async fn execute(&mut self, op: Op, facts: &Facts, limit: Limit) -> Answer {
        let budget = limit.within(facts.settings.retry_timeout, clock::boot());
        let running = facts.server.running();
        match op {
            Op::RenewLease => {
                let update = self.slots.leader_update(facts, running);
                let outcome = self.store.renew(&update, budget).await;
                if outcome.is_done() {
                    self.watchdog.keepalive();
                }
                Answer::Renew(outcome)
            }
            Op::AcquireLease => Answer::Acquire(self.store.acquire(budget).await),
            Op::ReleaseLease(last_lsn) => Answer::Release(self.store.release(last_lsn, budget).await),
            Op::PollPeers(members) => Answer::Peers(self.store.poll_peers(&members, budget).await),
            Op::AskFailsafe(members) => Answer::Failsafe(self.ask_failsafe(&members, facts, budget).await),
            Op::Initialize(write) => {
                let absent = Initialize::Absent;
                let present = facts.cluster.as_ref().map_or(&absent, |cluster| &cluster.initialize);
                Answer::Initialize(self.store.initialize(write, present, budget).await)
            }
            Op::WriteConfig(version) => {
                let config = self.configuration.dynamic_to_store();
                Answer::Config(self.store.write_config(version, &config, budget).await)
            }
            Op::WriteFailover(version, request) => {
                Answer::Failover(self.store.write_failover(version, request.as_ref(), budget).await)
            }
            Op::WriteHistory => Answer::History(self.write_history(facts, budget).await),
            Op::CheckRewind(source) => {
                Answer::Rewind(self.maintenance.check_rewind(&mut self.jobs, &source, facts, budget).await)
            }
            Op::CheckUpstream(upstream) => {
                let starts = facts.server.postmaster == Postmaster::Starting;
                Answer::Upstream(self.maintenance.check_upstream(&mut self.jobs, &upstream, starts, budget).await)
            }
            Op::ActivateWatchdog => Answer::Watchdog(self.watchdog.activate(&facts.settings)),
            Op::InspectSynchronous => Answer::Synchronous(self.synchronous.inspect(budget).await),
            Op::SetSynchronousStandbyNames(names) => {
                // The files of a server that was not taken over yet are not ours to write.
                let control = self.jobs.control().filter(|_| self.configuration.knows_server());
                Answer::StandbyNames(self.synchronous.set(control, names, budget).await)
            }
            Op::WriteSync(version, electorate) => {
                let leader = &facts.settings.name;
                Answer::Sync(self.store.write_sync(version, leader, electorate.as_ref(), budget).await)
            }
        }
    }

    async fn carry_out(&mut self, effect: Effect, plan: &Plan, facts: &Facts) {
        self.effect(effect, plan, facts).await;
    }

    async fn sleep(&mut self, limit: Duration) {
        self.metrics.ticks.record(self.tick_began.elapsed());
        let exit_of_postmaster = async {
            match self.postmaster_seen {
                true => self.monitor.exit_of_postmaster().await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown_asked(&mut self.shutdown) => {}
            () = exit_of_postmaster => {}
            () = self.woken.notified() => {}
            () = self.requests.arrived() => {}
            Some(signal) = self.signals.recv() => self.take_signal(signal).await,
            () = self.store.changed() => {}
            () = tokio::time::sleep(limit) => {}
        }
    }
}

impl Node {
    /// Ends what the loop leaves behind: the last state of this member is written, the last callback started. The guard
    /// was told in the last tick: where PostgreSQL could not be stopped, it stays.
    pub async fn finish(self, limit: Duration) {
        let Node { publisher, jobs, mut watchdog, .. } = self;
        publisher.finish(limit).await;
        jobs.finish(limit).await;
        watchdog.disable();
    }

    async fn ask_failsafe(
        &mut self,
        members: &BTreeMap<MemberName, String>,
        facts: &Facts,
        budget: Duration,
    ) -> Result<Moment, String> {
        let addresses = self.configuration.addresses();
        let mut message = JsonMap::from_iter([
            ("name".to_owned(), facts.settings.name.as_str().into()),
            ("conn_url".to_owned(), addresses.conn_url.clone().into()),
            ("api_url".to_owned(), addresses.api_url.clone().into()),
        ]);
        if let Some(running) = facts.server.running() {
            let slots = slot_positions(&facts.settings.name, running.wal.position(), &running.slots);
            let slots = slots.into_iter().map(|(name, lsn)| (name, lsn.0.into()));
            message.insert("slots".to_owned(), Value::Object(slots.collect()));
        }
        let asked_at = clock::boot();
        let positions = self.store.ask_failsafe(members, &message, budget).await?;
        self.slots.heard_of_standbys(positions);
        self.watchdog.keepalive();
        Ok(asked_at)
    }

    async fn take_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Wake => {}
            Signal::Reload => {
                self.notifier.reloading().await;
                self.configuration.reload().await;
                self.store.reload(self.configuration.config().effective());
                self.store.set_http(self.configuration.http_client());
                self.notifier.reloaded().await;
            }
        }
    }

    async fn write_history(&mut self, facts: &Facts, budget: Duration) -> Outcome<()> {
        let Ok(cluster) = &facts.cluster else { return Outcome::Failed("the store was not read".to_owned()) };
        let Some(timeline) = facts.server.running().and_then(|running| running.timeline) else {
            return Outcome::Failed("the timeline is not known".to_owned());
        };
        match timeout(budget, self.maintenance.history(timeline, cluster, &facts.settings)).await {
            Ok(Ok(Some(value))) => {
                let found = cluster.history.as_ref().map(|history| history.version);
                self.store.write_history(found, &value, budget).await
            }
            Ok(Ok(None)) => Outcome::Done(()),
            Ok(Err(why)) => Outcome::Failed(why),
            Err(_) => Outcome::Failed("the history file could not be read in time".to_owned()),
        }
    }
}

/// Completes once, when the agent is told to stop; the ticks of a shutdown wake by other means.
async fn shutdown_asked(shutdown: &mut watch::Receiver<bool>) {
    if *shutdown.borrow_and_update() {
        return std::future::pending().await;
    }
    match shutdown.changed().await {
        Ok(()) => {}
        Err(_) => std::future::pending().await,
    }
}
