//! The loop: observe, decide, act, sleep.
//!
//! The loop owns what survives a tick ([`Memory`]) and nothing else. Everything outside is a [`World`]: the store,
//! PostgreSQL and the network in production (`node`), a simulated cluster in `patroni-sim`. The loop is
//! the same in both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::Cluster;
use patroni_core::decide::decide;
use patroni_core::disk::Disks;
use patroni_core::effects::Effect;
use patroni_core::facts::{Answer, Answers, Facts, JobFact, Op, Watchdog};
use patroni_core::fence::{self, Fence};
use patroni_core::hang::Standstill;
use patroni_core::member_key::MemberKey;
use patroni_core::memory::Memory;
use patroni_core::name::MemberName;
use patroni_core::plan::{Exit, Plan, Step};
use patroni_core::request::{Request, RequestId};
use patroni_core::server::Server;
use patroni_core::settings::Settings;
use patroni_core::slots::News;
use patroni_core::time::{Moment, Now};
use patroni_core::view::{Addresses, View};

use crate::agreement::Agreement;

/// More operations than this in one tick are a mistake in the rules: each kind has one slot, and there are fewer.
const OPS_PER_TICK: usize = 16;

/// Everything outside the loop. Each asynchronous method ends by itself within the time it is given.
#[allow(async_fn_in_trait)] // The loop is generic over its world and spawns nothing, so no bound on the futures is needed.
pub trait World {
    /// What time it is.
    fn now(&self) -> Now;

    /// Reads store and server, and applies the dynamic configuration that came with it. `limit`: the end of the lease,
    /// which nothing may outlast.
    async fn observe(&mut self, limit: Limit) -> Observation;

    /// What this node agreed to in failsafe mode.
    fn agreement(&self) -> Arc<Agreement>;

    /// Tells the guard.
    async fn fence(&mut self, order: Fence);

    /// Shows this to whoever asks, in the middle of a tick.
    fn show(&mut self, view: Arc<View>);

    /// Carries out one operation of a tick.
    async fn execute(&mut self, op: Op, facts: &Facts, limit: Limit) -> Answer;

    /// Carries out one effect of a tick: what the plan says of it, and no more.
    async fn carry_out(&mut self, effect: Effect, plan: &Plan, facts: &Facts);

    /// Waits for something to happen, at most so long.
    async fn sleep(&mut self, limit: Duration);
}

/// What a tick begins with.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The settings, with the dynamic configuration of `cluster`.
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
    /// See [`Facts::failsafe_leader`].
    pub failsafe_leader: Option<(MemberName, Moment)>,
    /// Where others reach this node.
    pub addresses: Addresses,
    /// What is known of this member's key, as of before the store was read.
    pub member_key: MemberKey,
    /// What work on replication slots in the background found out.
    pub slots: News,
    /// The server of this leader stands still.
    pub standstill: Option<Standstill>,
    /// Room on the disks of this node.
    pub disks: Disks,
}

/// The moment that no operation may outlast: before the lease ends there must be time to stop PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub Option<Moment>);

impl Limit {
    /// The limit of a node with this memory. A twelfth of `ttl`, at least a second, is kept for stopping PostgreSQL.
    pub fn of(memory: &Memory, settings: &Settings) -> Limit {
        let reserve = (settings.ttl / 12).max(Duration::from_secs(1));
        Limit(memory.lease_until.map(|until| Moment(until.0.saturating_sub(reserve))))
    }

    /// The time left for an operation that may take `wanted`; never zero, so that an expired lease still gets one try
    /// to find out what became of it.
    pub fn within(self, wanted: Duration, now: Moment) -> Duration {
        let left = self.0.map_or(wanted, |until| until.since(now));
        wanted.min(left).max(Duration::from_millis(500))
    }
}

/// Runs ticks until one says that the agent ends. `shown`: what the node shows before the first.
pub async fn run(world: &mut impl World, shown: Arc<View>) -> Exit {
    let mut memory = Memory::new();
    let mut settings = Arc::clone(&shown.settings);
    let mut shown = shown;
    loop {
        let (plan, facts) = tick(world, &memory, &settings, &shown).await;
        for effect in &plan.effects {
            world.carry_out(*effect, &plan, &facts).await;
        }
        if let Some(exit) = plan.exit {
            return exit;
        }
        (memory, shown, settings) = (plan.memory, plan.view, facts.settings);
        let until_limit = Limit::of(&memory, &settings).within(plan.wake_after, world.now().boot);
        world.sleep(until_limit.min(plan.wake_after)).await;
    }
}

/// One tick: a dialogue between the pure decision and the world.
pub async fn tick(world: &mut impl World, memory: &Memory, settings: &Settings, shown: &Arc<View>) -> (Plan, Facts) {
    let limit = Limit::of(memory, settings);
    let mut facts = observe(world, limit, shown).await;
    for _ in 0..OPS_PER_TICK {
        match decide(memory, &facts) {
            Step::Finish(plan) => return (*plan, facts),
            Step::Run(op) => {
                let answer = execute(world, op, &facts, limit).await;
                facts.answers.record(answer);
            }
        }
    }
    unreachable!("a tick ends after at most one operation of each kind, and there are fewer than {OPS_PER_TICK}")
}

/// One operation, unless this node agreed that it does not happen. The guard knows of it before.
async fn execute(world: &mut impl World, op: Op, facts: &Facts, limit: Limit) -> Answer {
    let now = world.now().boot;
    if let Some(refused) = world.agreement().refuses(&op, facts, now) {
        return refused;
    }
    world.fence(fence::before(&op, facts, now)).await;
    if matches!(op, Op::ReleaseLease(_)) {
        world.show(Arc::new(facts.shown.without_lease()));
    }
    world.execute(op, facts, limit).await
}

async fn observe(world: &mut impl World, limit: Limit, shown: &Arc<View>) -> Facts {
    let observation = world.observe(limit).await;
    Facts {
        now: world.now(),
        settings: observation.settings,
        cluster: observation.cluster,
        server: observation.server,
        job: observation.job,
        requests: observation.requests,
        shutdown: observation.shutdown,
        watchdog: observation.watchdog,
        failsafe_leader: observation.failsafe_leader,
        addresses: observation.addresses,
        shown: Arc::clone(shown),
        member_key: observation.member_key,
        slots: observation.slots,
        standstill: observation.standstill,
        disks: observation.disks,
        answers: Answers::default(),
    }
}
