//! Properties of sequences of ticks: one memory, a world that answers anything.

use std::time::Duration;

use patroni_core::decide::decide;
use patroni_core::facts::{Answer, Facts, JobFact, Op, Outcome};
use patroni_core::job::{Job, JobOutcome, JobView, Stage};
use patroni_core::memory::Memory;
use patroni_core::plan::{JobOrder, Plan, Step};
use patroni_core::server::{Postmaster, Role};
use patroni_core::time::Moment;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::scene::{BASELINES, Scene};
use crate::walk::{check, possible_answers};

/// What changes between two ticks.
const EVENTS: [&str; 36] = [
    "unlocked",
    "lock a",
    "lock b",
    "no-store",
    "failsafe-key a b c",
    "failsafe-leader b",
    "paused",
    "nofailover",
    "use-pg-rewind",
    "reinit-diverged",
    "primary-start-timeout 0",
    "check-timeline",
    "initialize absent",
    "initialize in-progress",
    "initialize foreign",
    "config absent",
    "timeline 2",
    "my-timeline 3",
    "leader-on-timeline 2",
    "switchover",
    "switchover to b",
    "switchover-from-b to a",
    "failover to a",
    "running primary",
    "running standby",
    "starting",
    "stopping",
    "unreachable",
    "stopped in-production",
    "stopped shut-down",
    "stopped in-archive-recovery",
    "data-dir empty",
    "asked restart",
    "asked restart-later",
    "asked reinitialize-force",
    "watchdog-required",
];

#[derive(Clone, Debug)]
struct Round {
    events: Vec<&'static str>,
    answers: Vec<Index>,
    job_ends: Option<Index>,
    passes: u64,
}

fn rounds() -> impl Strategy<Value = (&'static str, Vec<Round>)> {
    let round = (
        prop::collection::vec(select(EVENTS.to_vec()), 0..3),
        prop::collection::vec(any::<Index>(), 9),
        prop::option::of(any::<Index>()),
        0_u64..15_000,
    )
        .prop_map(|(events, answers, job_ends, passes)| Round { events, answers, job_ends, passes });
    (select(BASELINES.to_vec()), prop::collection::vec(round, 1..20))
}

/// One tick with the answers that the round has drawn.
fn tick(memory: &Memory, mut facts: Facts, answers: &[Index]) -> (Facts, Plan) {
    for index in answers {
        match decide(memory, &facts) {
            Step::Finish(plan) => return (facts, *plan),
            Step::Run(op) => {
                let mut possible = possible_answers(&op);
                let mut answer = possible.swap_remove(index.index(possible.len()));
                date(&mut answer, &op, facts.now.boot);
                facts.answers.record(answer);
            }
        }
    }
    panic!("the tick did not end: {:?}", facts.answers);
}

/// A lease counts from the moment at which it was asked for.
fn date(answer: &mut Answer, op: &Op, now: Moment) {
    match (answer, op) {
        (Answer::Renew(Outcome::Done(at)), Op::RenewLease) | (Answer::Acquire(Outcome::Done(at)), Op::AcquireLease) => {
            *at = now;
        }
        (Answer::Failsafe(Ok(at)), Op::AskFailsafe(_)) => *at = now,
        _ => {}
    }
}

/// The job as the order leaves it, seen by the next tick.
fn next_job(present: &JobFact, order: &JobOrder, ends: Option<&Index>, now: Moment) -> JobFact {
    let running = match (order, present) {
        (JobOrder::Start(job) | JobOrder::Replace(job), _) => Some(job.clone()),
        (JobOrder::Cancel, JobFact::Running(view)) => {
            return JobFact::Ended(view.job.clone(), JobOutcome::Cancelled);
        }
        (JobOrder::Keep, JobFact::Running(view)) => Some(view.job.clone()),
        (JobOrder::Keep | JobOrder::Cancel, JobFact::Idle | JobFact::Ended(..)) => None,
    };
    let Some(job) = running else { return JobFact::Idle };
    let outcomes = [JobOutcome::Done, JobOutcome::Failed("no".into()), JobOutcome::StillStarting];
    if let Some(index) = ends {
        return JobFact::Ended(job, index.get(&outcomes).clone());
    }
    let title = patroni_core::decide::title(&job);
    let stage = if job == Job::Promote { Stage::Revocable } else { Stage::Committed("working".into()) };
    JobFact::Running(JobView { job, title, since: now, stage })
}

fn is_primary(facts: &Facts) -> bool {
    matches!(&facts.server.postmaster, Postmaster::Running(running) if !running.wal.is_standby())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The rules hold in every tick of every sequence; the same facts give the same plan; no lease is believed in for
    /// longer than `ttl` after it was asked for.
    #[test]
    fn sequences_of_ticks_keep_the_rules((baseline, rounds) in rounds()) {
        let mut scene = Scene::baseline(baseline).expect("a baseline");
        let store = scene.facts.cluster.clone();
        for round in &rounds {
            if scene.facts.cluster.is_err() {
                scene.facts.cluster = store.clone();
            }
            let (failing, others): (Vec<&str>, Vec<&str>) = round.events.iter().partition(|event| **event == "no-store");
            others.iter().chain(&failing).for_each(|event| scene.apply(event));
            let (facts, plan) = tick(&scene.memory, scene.facts.clone(), &round.answers);
            prop_assert_eq!(&tick(&scene.memory, scene.facts.clone(), &round.answers).1, &plan);
            check(&scene.memory, &facts, &plan);
            let now = facts.now.boot;
            if let Some(until) = plan.memory.lease_until {
                let told = scene.memory.lease_until.is_some_and(|old| old >= until);
                prop_assert!(told || until <= now + facts.settings.ttl, "a lease out of nothing");
            }
            prop_assert!(plan.wake_after <= facts.settings.loop_wait.max(Duration::from_secs(10)), "sleeps too long");
            scene.facts.job = next_job(&scene.facts.job, &plan.job, round.job_ends.as_ref(), now);
            scene.facts.requests.clear();
            if let Some(data) = plan.member {
                scene.facts.member_key.order(data.clone());
                scene.facts.member_key.ended(&data, &Outcome::Done(()), now, now);
            }
            scene.facts.shown = plan.view;
            scene.memory = plan.memory;
            scene.facts.now.boot = Moment(now.0 + Duration::from_millis(round.passes));
            scene.facts.now.wall.0 += i64::try_from(round.passes).expect("small");
        }
    }

    /// A decision does not depend on what it must not depend on: the time of day without anything scheduled, the time
    /// since boot, settings of other nodes' business.
    #[test]
    fn decisions_depend_on_nothing_else((baseline, rounds) in rounds(), wall in any::<i32>()) {
        let mut scene = Scene::baseline(baseline).expect("a baseline");
        let (failing, others): (Vec<&str>, Vec<&str>) =
            rounds[0].events.iter().partition(|event| **event == "no-store");
        others.iter().filter(|event| **event != "asked restart-later").chain(&failing).for_each(|event| scene.apply(event));
        let (_, plan) = tick(&scene.memory, scene.facts.clone(), &rounds[0].answers);
        let mut moved = scene.facts.clone();
        moved.now.wall.0 += i64::from(wall) * 1000;
        moved.addresses.api_url = "http://elsewhere:8008/patroni".into();
        std::sync::Arc::make_mut(&mut moved.settings).max_timelines_history = 7;
        // What is shown tells of settings, addresses and the time of day.
        let other = tick(&scene.memory, moved, &rounds[0].answers).1;
        prop_assert_eq!(Plan { view: plan.view.clone(), member: plan.member.clone(), ..other }, plan);
    }

    /// However a sequence went: with the store silent from now on, a primary is stopped unless all members agree that it
    /// goes on, and nothing becomes primary.
    #[test]
    fn silence_ends_every_primary((baseline, rounds) in rounds()) {
        let mut scene = Scene::baseline(baseline).expect("a baseline");
        for round in &rounds {
            let allowed = |event: &&&str| !matches!(**event, "no-store" | "paused");
            round.events.iter().filter(allowed).for_each(|event| scene.apply(event));
            let (_, plan) = tick(&scene.memory, scene.facts.clone(), &round.answers);
            scene.facts.job = next_job(&scene.facts.job, &plan.job, round.job_ends.as_ref(), scene.facts.now.boot);
            scene.memory = plan.memory;
        }
        prop_assume!(!scene.memory.bootstrapping);
        scene.apply("no-store");
        let (facts, plan) = tick(&scene.memory, scene.facts.clone(), &rounds[0].answers);
        let stopping = |job: &Job| matches!(job, Job::Demote(_) | Job::Shutdown | Job::StopImmediate | Job::Bootstrap);
        let stops = match (&plan.job, &facts.job) {
            (JobOrder::Start(job) | JobOrder::Replace(job), _) => stopping(job),
            (JobOrder::Cancel, _) => true,
            (JobOrder::Keep, JobFact::Running(view)) => stopping(&view.job),
            // What failed a moment ago is tried again in a second.
            (JobOrder::Keep, JobFact::Ended(job, JobOutcome::Failed(_))) => stopping(job),
            (JobOrder::Keep, JobFact::Idle | JobFact::Ended(..)) => false,
        };
        let agreed = matches!(facts.answers.failsafe, Some(Ok(_)));
        prop_assert!(stops || agreed || !is_primary(&facts), "{:?}", plan.verdict);
        let promotes = matches!(plan.job, JobOrder::Start(Job::Promote | Job::Start { role: Role::Primary, .. }));
        prop_assert!(!promotes, "becomes primary without a store");
    }
}
