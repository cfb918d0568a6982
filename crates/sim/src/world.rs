//! The world of one agent: the loop of production runs on it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, History, HistoryLine, Version};
use patroni_core::effects::{Effect, OnServer};
use patroni_core::facts::{Answer, Facts, JobFact, Op, Outcome, RewindCheck, UpstreamCheck, Watchdog};
use patroni_core::fence::Fence;
use patroni_core::hang::Watch;
use patroni_core::job::{RewindSource, Upstream};
use patroni_core::name::MemberName;
use patroni_core::peer::Peer;
use patroni_core::plan::Plan;
use patroni_core::server::Wal as ServerWal;
use patroni_core::settings::{Dynamic, Settings};
use patroni_core::slots::News;
use patroni_core::time::{Moment, Now};
use patroni_core::view::View;
use patroni_tick::agreement::Agreement;
use patroni_tick::driver::{Limit, Observation, World};
use serde_json::json;

use crate::shown::addresses;
use crate::store::{StoreReply, StoreRequest};
use crate::universe::{Arrived, Event, STORE, Sender, Shared, Universe};

/// How long one attempt to reach the store is waited for, before the next.
const ATTEMPT: Duration = Duration::from_millis(1700);

/// How long peers may take to answer.
const PEERS: Duration = Duration::from_secs(2);

/// What one agent sees.
pub(crate) struct SimWorld {
    pub(crate) shared: Shared,
    pub(crate) node: usize,
    life: u64,
    pub(crate) settings: Arc<Settings>,
    /// The dynamic configuration that was read last, or that of the file.
    dynamic: JsonMap,
}

/// Waits until there is something to return. Polled whenever something happened to the node.
pub(crate) async fn until<T>(shared: &Shared, mut ready: impl FnMut(&mut Universe) -> Option<T>) -> T {
    poll_fn(|_| ready(&mut shared.borrow_mut()).map_or(Poll::Pending, Poll::Ready)).await
}

/// Lets time pass.
pub(crate) async fn pause(shared: &Shared, node: usize, wait: Duration) {
    let end = {
        let mut universe = shared.borrow_mut();
        let end = universe.now + wait;
        universe.at(end, Event::Wake(node));
        end
    };
    until(shared, |universe| (universe.now >= end).then_some(())).await;
}

/// What became of a request to the store.
enum Asked {
    Answered(StoreReply, Moment),
    /// It never left.
    Unsent,
    /// It left, and no answer came.
    Lost,
}

impl SimWorld {
    /// The world of this node's present agent.
    pub(crate) fn new(shared: Shared, node: usize) -> Self {
        let (life, settings, dynamic) = {
            let universe = shared.borrow();
            let node = &universe.nodes[node];
            (node.life, Arc::new(node.settings.clone()), universe.dynamic.clone())
        };
        SimWorld { shared, node, life, settings, dynamic }
    }

    pub(crate) fn time(&self) -> Duration {
        self.shared.borrow().now
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment(self.time())
    }

    pub(crate) fn sender(&self) -> Sender {
        let ticket = self.shared.borrow_mut().unique();
        Sender { node: self.node, life: self.life, ticket }
    }

    /// Asks the store, and again while there is time, if asking twice does no harm.
    async fn ask(&self, request: StoreRequest, time: Duration, again: bool) -> Asked {
        let end = self.time() + time;
        let mut left_once = false;
        loop {
            let from = self.sender();
            let sent_at = Moment(self.time());
            let attempt = if again { end.min(sent_at.0 + ATTEMPT) } else { end };
            let left = {
                let mut universe = self.shared.borrow_mut();
                universe.at(attempt, Event::Wake(self.node));
                universe.send(self.node, STORE, Event::ToStore { from, request: request.clone() })
            };
            left_once |= left;
            let reply = until(&self.shared, |universe| {
                let arrived = universe.nodes[self.node].arrived.remove(&from.ticket);
                match arrived.into_iter().flatten().next() {
                    Some(Arrived::Store(reply)) => Some(Some(reply)),
                    Some(Arrived::Peer(..) | Arrived::Agreed(..)) | None => (universe.now >= attempt).then_some(None),
                }
            })
            .await;
            match reply {
                Some(reply) => return Asked::Answered(reply, sent_at),
                None if self.time() < end => {}
                None if left_once => return Asked::Lost,
                None => return Asked::Unsent,
            }
        }
    }

    async fn write<T>(
        &self,
        request: StoreRequest,
        limit: Limit,
        again: bool,
        done: impl Fn(Moment) -> T,
    ) -> Outcome<T> {
        let time = limit.within(self.settings.retry_timeout, Moment(self.time()));
        match self.ask(request, time, again).await {
            Asked::Answered(StoreReply::Done | StoreReply::Cluster(_), sent_at) => Outcome::Done(done(sent_at)),
            Asked::Answered(StoreReply::Refused, _) => Outcome::Refused,
            Asked::Unsent => Outcome::Failed("connection refused".into()),
            Asked::Lost => Outcome::Unknown("timed out".into()),
        }
    }

    fn apply_config(&mut self, cluster: &Cluster) {
        let Some(config) = &cluster.config else { return };
        if self.settings.config_version == Some(config.version) {
            return;
        }
        let mut settings = self.shared.borrow().nodes[self.node].settings.clone();
        settings.config_version = Some(config.version);
        if let Some(data) = &config.data {
            self.dynamic = data.clone();
        }
        settings.dynamic = Dynamic::of(&self.dynamic);
        let mut universe = self.shared.borrow_mut();
        universe.nodes[self.node].settings.dynamic.ttl = settings.ttl;
        universe.nodes[self.node].synchronous = settings.synchronous.clone();
        universe.nodes[self.node].failsafe_mode = settings.failsafe_mode;
        drop(universe);
        self.settings = Arc::new(settings);
    }

    fn lease(&self, outcome: &Outcome<Moment>) {
        if let Outcome::Done(sent_at) = outcome {
            let until = sent_at.0 + self.settings.ttl;
            self.shared.borrow_mut().nodes[self.node].lease_until = Some(until);
        }
    }

    async fn job(&self) -> JobFact {
        // What the last tick ordered has begun.
        until(&self.shared, |universe| universe.nodes[self.node].order.is_none().then_some(())).await;
        let node = &mut self.shared.borrow_mut().nodes[self.node];
        match (node.ended.take(), &node.job) {
            (Some((job, outcome)), _) => JobFact::Ended(job, outcome),
            (None, Some(view)) => JobFact::Running(view.clone()),
            (None, None) => JobFact::Idle,
        }
    }

    async fn poll_peers(&self, names: &BTreeMap<MemberName, String>) -> BTreeMap<MemberName, Peer> {
        let from = self.sender();
        let end = self.time() + PEERS;
        {
            let mut universe = self.shared.borrow_mut();
            universe.at(end, Event::Wake(self.node));
            for name in names.keys() {
                if let Some(peer) = universe.node_named(name) {
                    universe.send(self.node, peer, Event::ToPeer { from, peer });
                }
            }
        }
        let mut answers = BTreeMap::new();
        until(&self.shared, |universe| {
            for arrived in universe.nodes[self.node].arrived.remove(&from.ticket).into_iter().flatten() {
                if let Arrived::Peer(name, status) = arrived {
                    answers.insert(name, Peer::Status(status));
                }
            }
            (answers.len() == names.len() || universe.now >= end).then_some(())
        })
        .await;
        for name in names.keys() {
            answers.entry(name.clone()).or_insert_with(|| Peer::Unreachable("timed out".into()));
        }
        answers
    }

    /// Timelines and positions of this server against those of a primary, as far as PostgreSQL shows them.
    async fn check_rewind(&self, source: &RewindSource) -> RewindCheck {
        let unclear = |why: &str| RewindCheck::Unclear(why.into());
        let RewindSource::Leader(source) = source else { return unclear("there is no remote primary") };
        let mine = self.shared.borrow().nodes[self.node].postgres.data().map(|data| (data.wal.clone(), data.standby));
        pause(&self.shared, self.node, Duration::from_millis(4)).await;
        let universe = self.shared.borrow();
        let Some(other) = universe.node_named(&source.name) else { return unclear("unknown") };
        let upstream = &universe.nodes[other].postgres;
        if universe.is_cut(self.node, other) || universe.is_cut(other, self.node) || !upstream.accepts_writes() {
            return unclear("it is not reachable, or no primary");
        }
        let (Some((wal, _)), Some(theirs)) = (mine, upstream.data()) else { return unclear("no data") };
        if theirs.checkpoint_timeline != theirs.wal.timeline() {
            return unclear("no checkpoint since it was promoted");
        }
        // The WAL itself is compared, on the timeline of this node.
        if wal.contradicts(&theirs.wal) {
            return RewindCheck::OtherWal("other WAL on the same timeline".into());
        }
        if wal.seems_prefix_of(&theirs.wal) {
            return RewindCheck::NotNeeded;
        }
        let possible = self.settings.rewind.use_pg_rewind;
        RewindCheck::Needed(if possible { Ok(()) } else { Err("use_pg_rewind is off".into()) })
    }

    fn check_upstream(&self, wanted: &Upstream) -> Result<UpstreamCheck, String> {
        let universe = self.shared.borrow();
        let server = &universe.nodes[self.node].postgres;
        let data = server.data().filter(|_| !server.hung).ok_or("it does not answer")?;
        let name = match wanted {
            Upstream::None | Upstream::Isolated | Upstream::Remote => None,
            Upstream::Member(member) => Some(&member.name),
        };
        Ok(if data.follows.as_ref() == name { UpstreamCheck::UpToDate } else { UpstreamCheck::Reload })
    }

    fn history(&self, facts: &Facts) -> (Option<Version>, History) {
        let universe = self.shared.borrow();
        let branches = universe.nodes[self.node].postgres.data().map(|data| data.wal.branches.clone());
        let line = |pair: &[crate::wal::Branch]| {
            let (timeline, end) = (pair[0].timeline.0, pair[1].start.0);
            HistoryLine(vec![json!(timeline), json!(end), json!("no recovery target"), json!(""), json!("")])
        };
        let mut lines: Vec<HistoryLine> = branches.unwrap_or_default().windows(2).map(line).collect();
        if let Some(leader) = lines.last_mut().and_then(|line| line.0.last_mut()) {
            *leader = json!(self.settings.name.as_str());
        }
        let raw = if lines.is_empty() { "[]".into() } else { format!("[{} lines]", lines.len()) };
        let present = facts.cluster.as_ref().ok().and_then(|cluster| cluster.history.as_ref());
        (present.map(|history| history.version), History { version: Version(0), raw, lines })
    }
}

impl World for SimWorld {
    fn now(&self) -> Now {
        let universe = self.shared.borrow();
        universe.nodes[self.node].time(universe.now)
    }

    async fn observe(&mut self, limit: Limit) -> Observation {
        let member_key = self.shared.borrow().nodes[self.node].key.clone();
        // Before the server is looked at: it is at least as far as its job is said to be.
        let job = self.job().await;
        let time = limit.within(self.settings.retry_timeout, Moment(self.time()));
        let cluster = match self.ask(StoreRequest::Load, time, true).await {
            Asked::Answered(StoreReply::Cluster(cluster), _) => Ok(cluster),
            Asked::Answered(..) | Asked::Unsent | Asked::Lost => Err("timed out".to_owned()),
        };
        if let Ok(cluster) = &cluster {
            self.apply_config(cluster);
        }
        if self.shared.borrow().nodes[self.node].postgres.hung {
            let patience = limit.within(Duration::from_secs(1), Moment(self.time()));
            pause(&self.shared, self.node, patience).await;
        }
        let mut universe = self.shared.borrow_mut();
        let replication = universe.replication(self.node);
        let now = universe.now;
        let node = &mut universe.nodes[self.node];
        let standstill = node.hang.see(Moment(now), node.postgres.signs());
        Observation {
            settings: Arc::clone(&self.settings),
            cluster,
            server: Arc::new(node.postgres.inspect(replication, node.started_at)),
            job,
            requests: node.requests.clone(),
            shutdown: node.stopping,
            watchdog: Watchdog { required: false, healthy: true },
            failsafe_leader: node.agreement.given(self.settings.ttl, Moment(now)),
            addresses: addresses(&node.name),
            member_key,
            slots: News::default(),
            standstill,
            disks: node.postgres.disks(),
        }
    }

    fn agreement(&self) -> Arc<Agreement> {
        Arc::clone(&self.shared.borrow().nodes[self.node].agreement)
    }

    async fn fence(&mut self, order: Fence) {
        self.shared.borrow_mut().tell_guard(self.node, order);
    }

    fn show(&mut self, view: Arc<View>) {
        self.shared.borrow_mut().nodes[self.node].view = view;
    }

    async fn execute(&mut self, op: Op, facts: &Facts, limit: Limit) -> Answer {
        match op {
            Op::RenewLease => {
                let last_lsn = facts.server.running().and_then(|running| match running.wal {
                    ServerWal::Primary { location } => Some(location),
                    ServerWal::Standby { .. } => None,
                });
                let failsafe = facts.failsafe_members();
                let outcome = self.write(StoreRequest::Renew { last_lsn, failsafe }, limit, true, |at| at).await;
                self.lease(&outcome);
                Answer::Renew(outcome)
            }
            Op::AcquireLease => {
                let outcome = self.write(StoreRequest::Acquire, limit, false, |at| at).await;
                self.lease(&outcome);
                Answer::Acquire(outcome)
            }
            Op::ReleaseLease(last_lsn) => {
                let key = {
                    let mut universe = self.shared.borrow_mut();
                    universe.nodes[self.node].lease_until = None;
                    universe.store.cluster().leader.as_ref().map(|leader| leader.version)
                };
                let request = StoreRequest::Release { key, last_lsn };
                Answer::Release(self.write(request, limit, false, |_| ()).await)
            }
            Op::PollPeers(names) => Answer::Peers(self.poll_peers(&names).await),
            Op::AskFailsafe(members) => Answer::Failsafe(self.ask_failsafe(&members, limit).await),
            Op::Initialize(write) => {
                let found = facts.cluster.as_ref().map(|cluster| cluster.initialize.clone()).unwrap_or_default();
                Answer::Initialize(self.write(StoreRequest::Initialize { write, found }, limit, false, |_| ()).await)
            }
            Op::WriteConfig(expected) => {
                let data = self.dynamic.clone();
                let request = StoreRequest::WriteConfig { expected, data };
                Answer::Config(self.write(request, limit, false, |_| ()).await)
            }
            Op::WriteFailover(version, request) => {
                let request = StoreRequest::WriteFailover { expected: Some(version), request };
                Answer::Failover(self.write(request, limit, false, |_| ()).await)
            }
            Op::WriteHistory => {
                let (expected, history) = self.history(facts);
                let request = StoreRequest::WriteHistory { expected, history };
                Answer::History(self.write(request, limit, false, |_| ()).await)
            }
            Op::CheckRewind(source) => Answer::Rewind(self.check_rewind(&source).await),
            Op::CheckUpstream(upstream) => Answer::Upstream(self.check_upstream(&upstream)),
            Op::ActivateWatchdog => Answer::Watchdog(true),
            Op::InspectSynchronous => Answer::Synchronous(self.inspect_synchronous(limit).await),
            Op::SetSynchronousStandbyNames(names) => Answer::StandbyNames(self.set_standby_names(&names, limit).await),
            Op::WriteSync(expected, electorate) => {
                let request = StoreRequest::WriteSync { expected, electorate };
                Answer::Sync(self.write(request, limit, false, |_| ()).await)
            }
        }
    }

    async fn carry_out(&mut self, effect: Effect, plan: &Plan, facts: &Facts) {
        match effect {
            Effect::Log => self.write_log(plan),
            Effect::Fence(order) => self.fence(order).await,
            Effect::MarkOtherWal(present) => self.shared.borrow_mut().mark_other_wal(self.node, present),
            Effect::Job { asks_for_lease } => {
                self.may_die_half_way(plan).await;
                self.order(plan, asks_for_lease, facts);
            }
            Effect::Reply => self.reply(plan),
            Effect::Publish => self.publish(plan, facts),
            Effect::Settle => self.shared.borrow().nodes[self.node].agreement.settle(),
            Effect::WriteMember => self.write_member(plan),
            Effect::Server(OnServer::Prepare | OnServer::Configure) => self.adopt(facts),
            Effect::WatchForHang(false) => self.shared.borrow_mut().nodes[self.node].hang = Watch::default(),
            // There are no watchdogs, slots and callbacks here, and what wakes an agent does so by itself.
            Effect::DisableWatchdog
            | Effect::Checkpoint
            | Effect::ForgetSlotHolders
            | Effect::SyncSlots
            | Effect::WatchStandbys(_)
            | Effect::WatchForHang(true)
            | Effect::Server(
                OnServer::TellRole(_)
                | OnServer::CallBack
                | OnServer::EnforceFeedback(_)
                | OnServer::FinishStart
                | OnServer::ResumeReplay,
            ) => {}
        }
    }

    async fn sleep(&mut self, limit: Duration) {
        let end = self.time() + limit;
        self.shared.borrow_mut().at(end, Event::Wake(self.node));
        until(&self.shared, |universe| {
            let node = &mut universe.nodes[self.node];
            (std::mem::take(&mut node.woken) || universe.now >= end).then_some(())
        })
        .await;
    }
}
