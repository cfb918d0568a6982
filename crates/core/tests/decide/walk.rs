//! Exhaustive walks: from each baseline, in many situations, all outcomes of all operations.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use patroni_core::decide::decide;
use patroni_core::effects::{Effect, OnServer};
use patroni_core::facts::{Answer, Facts, JobFact, Op, Outcome, RewindCheck, UpstreamCheck};
use patroni_core::fence::Fence;
use patroni_core::job::{Job, JobOutcome, Upstream};
use patroni_core::memory::{Memory, Rewind};
use patroni_core::plan::{Exit, JobOrder, Plan, Step};
use patroni_core::server::{DataDir, Postmaster, Role};
use patroni_core::sync::Inspection;
use patroni_core::verdict::Verdict;

use crate::scene::{BASELINES, JOBS, NOW, Peers, Scene};

/// What may be the case besides the baseline. Each pair of them is walked.
pub(crate) const SITUATIONS: [&[&str]; 57] = [
    &[],
    &["unlocked"],
    &["lock a"],
    &["lock b"],
    &["no-store"],
    &["failsafe-key a b c", "began 5"],
    &["failsafe a b c"],
    &["failsafe-leader b"],
    &["paused"],
    &["was-paused"],
    &["shutdown"],
    &["nofailover"],
    &["standby-cluster"],
    &["watchdog-required"],
    &["use-pg-rewind"],
    &["reinit-diverged"],
    &["reinit-failed-rewind"],
    &["primary-start-timeout 0"],
    &["check-timeline"],
    &["clone-without-leader"],
    &["initialize absent"],
    &["initialize in-progress", "stale-initialize 31"],
    &["initialize foreign"],
    &["config absent"],
    &["timeline 2"],
    &["switchover"],
    &["switchover to b"],
    &["switchover-from-b to a"],
    &["failover to a"],
    &["failover to c"],
    &["running primary", "role primary"],
    &["running standby"],
    &["starting", "role primary"],
    &["stopping"],
    &["unreachable", "role primary"],
    &["unreachable", "role primary", "hangs 15", "primary-hang-timeout 15"],
    &["storage-hangs 15", "primary-hang-timeout 15"],
    &["stopped in-production", "state running", "role primary"],
    &["stopped shut-down", "handover-stopped 11"],
    &["data-dir empty"],
    &["data-dir invalid"],
    &["data-dir inaccessible"],
    &["data-dir unknown"],
    &["divergence check"],
    &["divergence needed"],
    &["divergence failed-often"],
    &["divergence other-wal"],
    &["uncompared"],
    &["bootstrapping"],
    &["asked restart", "asked reinitialize"],
    &["restart-scheduled -1"],
    &["starting-since 301", "crash-recovery-since 301"],
    &["handover-waits 11"],
    &["lease-left 3"],
    &["mode on", "sync a 0 b"],
    &["mode on", "hold", "sync a 0 b", "holding 301"],
    &["mode quorum", "strict", "sync b 1 a c"],
];

fn outcomes<T: Clone>(done: T) -> Vec<Outcome<T>> {
    vec![Outcome::Done(done), Outcome::Refused, Outcome::Failed("no".into()), Outcome::Unknown("lost".into())]
}

fn shown(standby_names: &str) -> Answer {
    Answer::Synchronous(Ok(Inspection { standby_names: standby_names.into(), ..Inspection::default() }))
}

/// Every answer that the world could give.
pub(crate) fn possible_answers(op: &Op) -> Vec<Answer> {
    match op {
        Op::RenewLease => outcomes(NOW).into_iter().map(Answer::Renew).collect(),
        Op::AcquireLease => outcomes(NOW).into_iter().map(Answer::Acquire).collect(),
        Op::ReleaseLease(_) => outcomes(()).into_iter().map(Answer::Release).collect(),
        Op::AskFailsafe(_) => vec![Answer::Failsafe(Ok(NOW)), Answer::Failsafe(Err("c did not agree".into()))],
        Op::Initialize(_) => outcomes(()).into_iter().map(Answer::Initialize).collect(),
        // Of these only the texts of notes depend on how they failed.
        Op::WriteConfig(_) => vec![Answer::Config(Outcome::Done(())), Answer::Config(Outcome::Refused)],
        Op::WriteFailover(..) => outcomes(()).into_iter().map(Answer::Failover).collect(),
        Op::WriteHistory => vec![Answer::History(Outcome::Done(())), Answer::History(Outcome::Refused)],
        Op::PollPeers(names) => {
            let all = [
                Peers::Streaming,
                Peers::Idle,
                Peers::Behind,
                Peers::FarBehind,
                Peers::Ahead,
                Peers::Primary,
                Peers::Unreachable,
                Peers::Nofailover,
                Peers::NoWatchdog,
                Peers::OldTimeline,
                Peers::NotRunning,
                Peers::KeptOut,
            ];
            all.into_iter()
                .map(|peers| Answer::Peers(names.keys().map(|name| (name.clone(), peers.answer())).collect()))
                .collect()
        }
        Op::CheckRewind(_) => [
            RewindCheck::NotNeeded,
            RewindCheck::Needed(Ok(())),
            RewindCheck::Needed(Err("wal_log_hints is off".into())),
            RewindCheck::Unclear("it does not answer".into()),
            RewindCheck::Impossible("it wants a password".into()),
            RewindCheck::OtherWal("other WAL before 0/5000000".into()),
            RewindCheck::WalGone { file: "00000001000000000000000A".into(), archive: true },
        ]
        .map(Answer::Rewind)
        .into(),
        Op::CheckUpstream(_) => [
            Ok(UpstreamCheck::UpToDate),
            Ok(UpstreamCheck::Reload),
            Ok(UpstreamCheck::Restart),
            Err("it does not answer".into()),
        ]
        .map(Answer::Upstream)
        .into(),
        Op::InspectSynchronous => vec![Answer::Synchronous(Err("no".into())), shown(""), shown("b"), shown("*")],
        Op::SetSynchronousStandbyNames(_) => outcomes(()).into_iter().map(Answer::StandbyNames).collect(),
        Op::WriteSync(..) => outcomes(()).into_iter().map(Answer::Sync).collect(),
        Op::ActivateWatchdog => vec![Answer::Watchdog(true), Answer::Watchdog(false)],
    }
}

/// Calls `visit` with the facts and the plan at every end that the tick can come to.
pub(crate) fn walk(memory: &Memory, facts: Facts, depth: usize, visit: &mut impl FnMut(&Facts, &Plan)) {
    assert!(depth < 9, "the tick does not end: {:?}", facts.answers);
    match decide(memory, &facts) {
        Step::Finish(plan) => visit(&facts, &plan),
        Step::Run(op) => {
            for answer in possible_answers(&op) {
                let mut next = facts.clone();
                next.answers.record(answer);
                walk(memory, next, depth + 1, visit);
            }
        }
    }
}

/// What must be true of every end of every tick.
pub(crate) fn check(memory: &Memory, facts: &Facts, plan: &Plan) {
    let at = || format!("{:?}\n{:?}\n{:?}\n{:?}\n{memory:?}", plan.verdict, plan.job, facts.job, facts.answers);
    let lease_won = is_done(&facts.answers.renew) || is_done(&facts.answers.acquire);
    let data = !matches!(facts.server.data_dir, DataDir::Empty);
    if let Some(job) = ordered(plan) {
        match job {
            Job::Promote | Job::Start { role: Role::Primary, .. } => {
                assert!(lease_won, "a primary without a lease won in this tick: {}", at());
            }
            Job::Bootstrap | Job::Clone { .. } => assert!(!data, "on top of data: {}", at()),
            Job::Reinitialize { .. } => assert!(removal_is_wanted(facts), "removes data without need: {}", at()),
            Job::Rewind { .. } => {
                assert!(matches!(facts.answers.rewind, Some(RewindCheck::Needed(Ok(())))), "rewinds: {}", at());
            }
            Job::Start { .. }
            | Job::Restart { .. }
            | Job::Follow { .. }
            | Job::Demote(_)
            | Job::CrashRecovery
            | Job::CopySlots { .. }
            | Job::Shutdown
            | Job::StopImmediate => {}
        }
    }
    if facts.answers.release.is_some() {
        assert_eq!(plan.memory.lease_until, None, "believes in a lease it gave up: {}", at());
        let starts_primary = matches!(ordered(plan), Some(Job::Promote | Job::Start { role: Role::Primary, .. }));
        assert!(!starts_primary, "gives the lease up and becomes primary: {}", at());
        let running_primary = matches!(&facts.server.postmaster, Postmaster::Running(r) if !r.wal.is_standby());
        let handing_over = matches!(facts.job, JobFact::Running(_));
        assert!(
            !running_primary || handing_over || facts.settings.paused || facts.shutdown,
            "gives the lease up while it accepts writes: {}",
            at()
        );
    }
    if let Some(Outcome::Refused) = facts.answers.renew
        && !is_done(&facts.answers.acquire)
    {
        assert_eq!(plan.memory.lease_until, None, "believes in a lease that is refused: {}", at());
    }
    for won in [&facts.answers.renew, &facts.answers.acquire] {
        if let (Some(Outcome::Done(asked_at)), Some(until)) = (won, plan.memory.lease_until) {
            assert!(until <= *asked_at + facts.settings.ttl, "a lease that outlasts the one in the store: {}", at());
        }
    }
    if let (Some(Ok(asked_at)), Some(until)) = (&facts.answers.failsafe, plan.memory.lease_until) {
        assert!(until <= *asked_at + facts.settings.ttl, "counts on an agreement for longer than it is kept: {}", at());
    }
    kept_out(memory, facts, plan, &at);
    demoted_without_lease(memory, facts, plan, lease_won, &at);
    effects_are_in_order(plan, &at);
    guarded(facts, plan, &at);
    cancel_writes_nothing_else(facts, plan, &at);
}

/// Outside pause, a running primary is stopped without a lease that was prolonged in this tick, or the leave of all members.
fn demoted_without_lease(memory: &Memory, facts: &Facts, plan: &Plan, lease_won: bool, at: &dyn Fn() -> String) {
    let running_primary = matches!(&facts.server.postmaster, Postmaster::Running(r) if !r.wal.is_standby());
    let becoming = matches!(&facts.job, JobFact::Running(view) if matches!(view.job, Job::Promote | Job::Start { role: Role::Primary, .. }));
    let agreed = plan.verdict == Verdict::Failsafe && matches!(facts.answers.failsafe, Some(Ok(_)));
    if !(running_primary || becoming) || facts.settings.paused || lease_won || agreed {
        return;
    }
    let stops = |job: &Job| matches!(job, Job::Demote(_) | Job::Shutdown | Job::StopImmediate);
    // What failed a moment ago is tried again in a second.
    let stopping = match &facts.job {
        JobFact::Running(view) => stops(&view.job),
        JobFact::Ended(job, JobOutcome::Failed(_)) => stops(job) && plan.wake_after <= Duration::from_secs(1),
        JobFact::Ended(..) | JobFact::Idle => false,
    };
    let removed = matches!(&facts.job, JobFact::Running(view) if matches!(view.job, Job::Reinitialize { .. }));
    let ordered_to_stop = ordered(plan).is_some_and(stops) || plan.job == JobOrder::Cancel;
    // A restart, or a clone in its place, on request: PostgreSQL stops first, and the next tick comes at once.
    let asked = matches!(ordered(plan), Some(Job::Restart { .. } | Job::Reinitialize { .. }));
    let bootstrapping =
        memory.bootstrapping || matches!(&facts.job, JobFact::Running(view) if view.job == Job::Bootstrap);
    let gone = matches!(facts.server.data_dir, DataDir::Invalid(_));
    // As in Patroni: a stop that failed ends the agent, and the lease is kept until it runs out.
    let gave_up = plan.exit == Some(Exit::Fatal) && facts.shutdown;
    // A server older than the cluster in the store is looked at again in a second, before anything is done to it.
    let adopted = plan.verdict == Verdict::BootstrapLost && plan.wake_after <= Duration::from_secs(1);
    assert!(
        gave_up || adopted || stopping || ordered_to_stop || bootstrapping || asked || gone || removed,
        "a primary without a lease goes on: {}",
        at()
    );
}

/// Nothing is done twice, and what others see comes after the job was ordered.
fn effects_are_in_order(plan: &Plan, at: &dyn Fn() -> String) {
    let place = |effect: Effect| plan.effects.iter().position(|other| *other == effect);
    let job = place_of_job(plan);
    let always = [place(Effect::Log), job, place(Effect::Reply), place(Effect::Publish), place(Effect::Settle)];
    assert!(!always.contains(&None) && always.is_sorted(), "{:?}: {}", plan.effects, at());
    let prepared = place(Effect::Server(OnServer::Prepare));
    assert!(prepared.is_none_or(|prepared| Some(prepared) < job), "starts unprepared: {}", at());
    let once: BTreeSet<&Effect> = plan.effects.iter().collect();
    assert_eq!(once.len(), plan.effects.len(), "{:?}: {}", plan.effects, at());
}

fn place_of_job(plan: &Plan) -> Option<usize> {
    plan.effects.iter().position(|effect| matches!(effect, Effect::Job { .. }))
}

/// Whatever is or may become a primary has a guard that is armed before the job begins, as long as there is a lease, and that is not let
/// go before it is known to be none. It is never let go before the job was ordered.
fn guarded(facts: &Facts, plan: &Plan, at: &dyn Fn() -> String) {
    let place = |what: &dyn Fn(&Fence) -> bool| {
        plan.effects.iter().position(|effect| matches!(effect, Effect::Fence(fence) if what(fence)))
    };
    let armed = place(&|fence| matches!(fence, Fence::Until(..)));
    let let_go = place(&|fence| matches!(fence, Fence::LetGo | Fence::LetAllGo));
    let job = place_of_job(plan);
    assert!(armed.is_none_or(|armed| Some(armed) < job), "armed too late: {:?} {}", plan.effects, at());
    assert!(let_go.is_none_or(|let_go| Some(let_go) > job), "let go too early: {:?} {}", plan.effects, at());
    let makes = |job: &Job| matches!(job, Job::Promote | Job::Start { role: Role::Primary, .. });
    let being_made =
        matches!(&facts.job, JobFact::Running(view) if makes(&view.job)) || ordered(plan).is_some_and(makes);
    let primary = facts.server.is_primary();
    let needed = if facts.settings.paused { being_made && !primary } else { being_made || primary };
    let died = matches!(facts.server.postmaster, Postmaster::Stopped(_)) && ordered(plan) != Some(&Job::Promote);
    let promotes = matches!(&facts.job, JobFact::Running(view) if view.job == Job::Promote);
    if needed && !(died && promotes) {
        assert_eq!(let_go, None, "let go although it may write: {:?} {}", plan.effects, at());
        assert!(armed.is_some() || plan.memory.lease_until.is_none(), "not guarded: {:?} {}", plan.effects, at());
    }
    for effect in &plan.effects {
        if let Effect::Fence(Fence::Until(deadline, _)) = effect {
            assert!(Some(*deadline) < plan.memory.lease_until, "the guard comes too late: {}", at());
        }
    }
}

/// What holds other WAL than the primary on the same timeline neither follows nor leads.
fn kept_out(memory: &Memory, facts: &Facts, plan: &Plan, at: &dyn Fn() -> String) {
    if let Some(Job::Reinitialize { follow, .. } | Job::Clone { follow, .. }) = ordered(plan) {
        assert_ne!(*follow, Upstream::Isolated, "the copy follows nobody: {}", at());
    }
    if plan.memory.rewind != Rewind::OtherWal {
        return;
    }
    match ordered(plan) {
        Some(Job::Start { role, follow, .. }) => {
            assert!(*follow == Upstream::Isolated && *role != Role::Primary, "starts on two histories: {}", at());
        }
        Some(Job::Follow { upstream, .. }) => assert_eq!(*upstream, Upstream::Isolated, "follows: {}", at()),
        Some(Job::Promote | Job::CopySlots { .. }) => panic!("is promoted, or copies slots: {}", at()),
        _ => {}
    }
    assert!(!plan.sync_slots || ordered(plan).is_some(), "moves slots along another history: {}", at());
    let took = memory.rewind == Rewind::OtherWal && !memory.bootstrapping && facts.answers.acquire.is_some();
    assert!(!took, "takes the lease: {}", at());
}

fn cancel_writes_nothing_else(facts: &Facts, plan: &Plan, at: &dyn Fn() -> String) {
    if plan.verdict == Verdict::Bootstrapping {
        let begun = matches!(facts.answers.initialize, Some(Outcome::Done(())));
        assert!(begun, "bootstraps without having won the race: {}", at());
    }
}

fn ordered(plan: &Plan) -> Option<&Job> {
    match &plan.job {
        JobOrder::Start(job) | JobOrder::Replace(job) => Some(job),
        JobOrder::Keep | JobOrder::Cancel => None,
    }
}

fn is_done<T>(answer: &Option<Outcome<T>>) -> bool {
    answer.as_ref().is_some_and(Outcome::is_done)
}

/// Somebody asked for it, or the comparison was clear and the settings allow it.
fn removal_is_wanted(facts: &Facts) -> bool {
    let asked = !facts.requests.is_empty();
    let diverged = matches!(facts.answers.rewind, Some(RewindCheck::Needed(_) | RewindCheck::OtherWal(_)))
        && facts.settings.rewind.remove_data_directory_on_diverged_timelines;
    asked || diverged || facts.settings.rewind.remove_data_directory_on_rewind_failure
}

#[test]
fn every_tick_ends_well_whatever_is_answered() {
    let (ends, verdicts) = walk_everything();
    assert!(ends > 50_000 && verdicts > 60, "the walk is too small: {ends} ends, {verdicts} verdicts");
}

/// All baselines in all pairs of situations: how many ends there were, and how many different verdicts.
pub(crate) fn walk_everything() -> (u64, usize) {
    let mut ends = 0_u64;
    let mut verdicts = HashSet::new();
    for baseline in BASELINES {
        for (index, first) in SITUATIONS.iter().enumerate() {
            for second in &SITUATIONS[index..] {
                let Some(scene) = scene(baseline, &[first, second]) else { continue };
                walk(&scene.memory, scene.facts.clone(), 0, &mut |facts, plan| {
                    check(&scene.memory, facts, plan);
                    ends += 1;
                    verdicts.insert(std::mem::discriminant(&plan.verdict));
                });
            }
        }
    }
    (ends, verdicts.len())
}

#[test]
fn every_job_ends_well_whatever_is_answered() {
    for baseline in BASELINES {
        for job in JOBS {
            for situation in SITUATIONS {
                for stage in ["", "stage revocable", "stage shut-down", "stage exited"] {
                    let running = format!("job {job}");
                    let words: Vec<&str> = [running.as_str(), stage].into_iter().filter(|w| !w.is_empty()).collect();
                    walk_scene(baseline, &[situation, &words]);
                }
                for outcome in ["done", "cancelled", "failed", "still-starting", "pre-promote-failed"] {
                    let ended = format!("ended {job} {outcome}");
                    walk_scene(baseline, &[situation, &[ended.as_str()]]);
                }
            }
        }
    }
}

fn walk_scene(baseline: &str, situations: &[&[&str]]) {
    let Some(scene) = scene(baseline, situations) else { return };
    walk(&scene.memory, scene.facts.clone(), 0, &mut |facts, plan| check(&scene.memory, facts, plan));
}

/// `None`: the words contradict each other (a request that is to be scheduled without store, and the like).
pub(crate) fn scene(baseline: &str, situations: &[&[&str]]) -> Option<Scene> {
    let words: Vec<&str> = situations.iter().flat_map(|words| words.iter().copied()).collect();
    let mut scene = Scene::baseline(baseline).expect("a baseline");
    let (store, rest): (Vec<&str>, Vec<&str>) = words.into_iter().partition(|word| *word == "no-store");
    rest.iter().for_each(|word| scene.apply(word));
    store.iter().for_each(|word| scene.apply(word));
    Some(scene)
}
