//! When the guard is armed and let go, and on which side of the job.

use std::time::Duration;

use patroni_core::effects::Effect;
use patroni_core::facts::Op;
use patroni_core::fence::{Fence, Target, before, needs_the_lease};
use patroni_core::job::{Job, Upstream};
use patroni_core::plan::Plan;
use patroni_core::server::Role;

use crate::scene::{NOW, Scene, order_words};

/// What is done about guard and job, in its order.
fn order_of(plan: &Plan) -> String {
    let words = plan.effects.iter().filter_map(|effect| match effect {
        Effect::Fence(Fence::Until(_, Target::Postmaster)) => Some("guard it".to_owned()),
        Effect::Fence(Fence::Until(_, Target::Whichever)) => Some("guard what starts".to_owned()),
        Effect::Fence(Fence::LetGo) => Some("let go".to_owned()),
        Effect::Fence(Fence::LetAllGo) => Some("let all go".to_owned()),
        Effect::Job { .. } => Some(order_words(&plan.job)),
        _ => None,
    });
    words.collect::<Vec<_>>().join(", ")
}

/// A baseline and differences; guard and job in their order. `-` is no order for the job.
const ROWS: &str = "
A leader is guarded until its lease ends, a standby is not, nor the leader of a standby cluster.
leader -> guard it, -
replica -> -, let go
replica; standby-cluster; lock a; role standby_leader -> -, let go
It is armed before the promotion begins, and stays while it lasts.
candidate -> guard it, start promote
replica; lock a; role replica; job promote -> guard it, -
What is being started cannot be named.
leader; stopped in-production; role primary -> guard what starts, start postgres as primary following nobody
died; job start primary -> guard what starts, -
leader; job restart -> guard what starts, -
The lease is gone, and the promotion under way: the guard that was armed stays until the server was seen stopped.
replica; role promoted; job promote -> replace by demote immediate-nolock
replica; lock a; role promoted; job promote; no-store -> replace by demote offline
replica; role demoted; job demote immediate-nolock -> -
replica; role demoted; job demote immediate-nolock; stopping -> -
replica; role demoted; job demote immediate-nolock; stopped in-archive-recovery -> -, let go
It was told to become a primary, no job waits for it any more, and it may still come to that.
replica; role promoted -> start demote immediate-nolock
replica; role promoted; no-store -> -
leader; lock b -> start demote immediate-nolock
In pause a primary has no guard, and one that is being made has.
leader; paused -> -, let all go
An earlier agent may have told a standby to become a primary, and left its guard.
replica; paused -> -, let go
replica; paused; lock a; role promoted; job promote -> guard it, -
leader; paused; role primary; job promote -> -, let all go
In pause, too, nothing becomes a primary whose lease is gone.
replica; paused; role promoted; job promote -> replace by demote immediate-nolock
candidate; paused; role promoted; job promote -> replace by demote immediate-nolock
replica; paused; lock a; role promoted; job promote; no-store -> replace by demote offline
replica; paused; role demoted; job demote immediate-nolock -> -
replica; paused; role promoted -> start demote immediate-nolock
leader; paused; lock b; role promoted; job promote -> -, let all go
";

#[test]
fn the_guard_is_there_in_time_and_for_long_enough() {
    let wrong = wrong_fences();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The rows that do not come out as written.
pub(crate) fn wrong_fences() -> Vec<String> {
    let mut wrong = Vec::new();
    for row in ROWS.lines() {
        let Some((scene, expected)) = row.split_once(" -> ") else { continue };
        let mut words = scene.split("; ");
        let mut scene = words.next().and_then(Scene::baseline).expect("a baseline");
        words.for_each(|word| scene.apply(word));
        let got = order_of(&scene.play().1);
        if got != expected {
            wrong.push(format!("{row}\n  got {got}"));
        }
    }
    wrong
}

/// The answer may be lost: a primary that exists already is guarded before the lease is asked for.
#[test]
fn a_primary_is_guarded_before_the_lease_is_asked_for() {
    let told = |baseline: &str, words: &[&str], op: &Op| {
        let mut scene = Scene::baseline(baseline).expect("a baseline");
        words.iter().for_each(|word| scene.apply(word));
        before(op, &scene.facts, NOW)
    };
    let armed = told("leader", &["unlocked"], &Op::AcquireLease);
    assert!(matches!(armed, Fence::Until(at, Target::Postmaster) if at < NOW + Duration::from_secs(30)));
    assert_eq!(told("leader", &["unlocked", "paused"], &Op::AcquireLease), Fence::Stands);
    assert_eq!(told("candidate", &[], &Op::AcquireLease), Fence::Stands);
    assert_eq!(told("leader", &[], &Op::RenewLease), Fence::Stands);
}

/// A restart brings up what was there: a former primary that was only stopped would come up as one.
#[test]
fn jobs_that_end_with_a_primary_ask_for_the_lease() {
    let start = |role| Job::Start { role, follow: Upstream::None, after_failure: true };
    let restart = |as_standby| Job::Restart { as_standby };
    for (job, baseline, words, needs) in [
        (Job::Promote, "replica", vec![], true),
        (Job::Promote, "replica", vec!["paused"], true),
        (start(Role::Primary), "died", vec!["paused"], true),
        (start(Role::Replica), "stopped", vec![], false),
        (restart(false), "leader", vec![], true),
        (restart(false), "leader", vec!["paused"], false),
        (restart(false), "leader", vec!["lock b"], true),
        (restart(false), "replica", vec![], false),
        (restart(false), "replica", vec!["starting"], false),
        (restart(false), "leader", vec!["starting"], true),
        (restart(false), "died", vec!["lock b", "role demoted"], true),
        (restart(true), "leader", vec![], false),
    ] {
        let mut scene = Scene::baseline(baseline).expect("a baseline");
        words.iter().for_each(|word| scene.apply(word));
        assert_eq!(needs_the_lease(&job, &scene.memory, &scene.facts), needs, "{job:?}, {baseline}, {words:?}");
    }
}

/// Found by the simulation when it went by the rule of production: it was stopped, or lost its lease, another was promoted, and
/// somebody asked for its restart. The request waits until it is a standby, or leads again.
#[test]
fn a_former_primary_is_not_restarted_as_one() {
    for (baseline, words) in [("died", ["lock b", "role demoted"]), ("leader", ["lock b", "role primary"])] {
        let mut scene = Scene::baseline(baseline).expect("a baseline");
        words.into_iter().chain(["asked restart"]).for_each(|word| scene.apply(word));
        let plan = scene.play().1;
        assert_ne!(order_words(&plan.job), "start restart", "{baseline}");
        assert!(plan.replies.is_empty(), "{baseline}: {:?}", plan.replies);
        let asks = |effect: &Effect| matches!(effect, Effect::Job { asks_for_lease: true });
        assert!(!plan.effects.iter().any(asks), "{baseline}: {:?}", plan.effects);
    }
}
