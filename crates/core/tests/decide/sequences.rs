//! Rules that need more than one tick to be seen: what a node remembers.

use std::time::Duration;

use patroni_core::effects::Effect;
use patroni_core::facts::Op;
use patroni_core::memory::Rewind;
use patroni_core::parameters::SynchronousStandbyNames;
use patroni_core::plan::{Callback, Plan};
use patroni_core::server::Role;
use patroni_core::time::Moment;

use crate::scene::Scene;

/// A node that may lead for all it knows, and what it does after each of these ticks.
fn last_verdict(baseline: &str, ticks: &[&[&str]]) -> String {
    let mut scene = Scene::baseline(baseline).expect("a baseline");
    let mut verdict = String::new();
    for words in ticks {
        words.iter().for_each(|word| scene.apply(word));
        let (_, plan) = scene.play();
        scene.memory = plan.memory;
        verdict = plan.verdict.to_string();
    }
    verdict
}

/// Found by the simulation: `/sync` was deleted by hand while the leader was being stopped, which therefore did not write
/// it again; a standby that had seen both forgot it, and was elected without the last writes.
#[test]
pub(crate) fn a_lost_sync_key_is_remembered_while_somebody_still_holds_the_lease() {
    let deferred = "following a different leader because i am not the healthiest node";
    let named = ["mode on", "sync b 0 c"];
    let lost = ["sync-absent", "lock b"];
    assert_eq!(last_verdict("replica", &[&named, &lost, &["unlocked"]]), deferred);
    // Removed by the leader because the mode is off: there is nothing to remember.
    let removed = ["sync-absent", "mode off"];
    let promoted = "promoted self to leader by acquiring session lock";
    assert_eq!(last_verdict("replica", &[&named, &removed, &["mode on", "unlocked"]]), promoted);
}

/// Found by the simulation: a node whose new cluster came to nothing because another made one first was cloned on request,
/// and went on waiting for the end of its own bootstrap.
#[test]
fn a_node_that_is_made_anew_is_no_longer_making_a_cluster() {
    let asked = ["bootstrapping", "running primary", "asked reinitialize"];
    assert_eq!(last_verdict("replica", &[&asked]), "reinitialize initiated");
    let cloned = ["ended reinitialize done", "running standby", "not-asked"];
    let follows = "no action. I am (a), a secondary, and following a leader (b)";
    assert_eq!(last_verdict("replica", &[&asked, &cloned]), follows);
}

/// In pause the lease may be lost, and the primary goes on, and goes on waiting for whom it was told to. It is the setting of
/// this node all the same: where the mode is turned off meanwhile, it has to be taken back.
#[test]
fn a_primary_that_lost_its_lease_takes_back_whom_it_waits_for() {
    let in_pause = [["paused", "unlocked", "acquire unknown"].as_slice(), &["lock a", "mode off", "sync-absent"]];
    // The mode was turned off, and the store went away before the setting was taken back.
    let after_failsafe_mode = [["unlocked", "mode off", "sync-absent"].as_slice(), &["lock a"]];
    for story in [in_pause, after_failsafe_mode] {
        let mut scene = Scene::baseline("leader").expect("a baseline");
        let published = ["mode on", "sync a 0 b", "shows b", "sender b sync", "settled"];
        let mut ops = Vec::new();
        for words in std::iter::once(published.as_slice()).chain(story) {
            words.iter().for_each(|word| scene.apply(word));
            let (done, plan) = scene.play();
            scene.memory = plan.memory;
            ops.extend(done);
        }
        assert!(
            ops.contains(&Op::SetSynchronousStandbyNames(SynchronousStandbyNames::Configured)),
            "{story:?}: {ops:?}"
        );
    }
}

/// The setting is shown, and the WAL sender of the standby does not go by it yet: commits do not wait for it.
#[test]
pub(crate) fn a_standby_is_not_published_before_its_wal_sender_goes_by_the_setting() {
    let mut scene = Scene::baseline("leader").expect("a baseline");
    for word in ["mode on", "sync a 0", "shows b", "sender b async"] {
        scene.apply(word);
    }
    for second in 0..5 {
        let (ops, plan) = scene.play();
        let written = ops.iter().any(|op| matches!(op, Op::WriteSync(..)));
        assert!(!written, "published after {second} s");
        scene.memory = plan.memory;
        scene.facts.now.boot = Moment(scene.facts.now.boot.0 + Duration::from_secs(1));
    }
}

/// A standby pauses where its settings are smaller than those of its primary; nobody else would make it go on.
#[test]
fn a_paused_replay_goes_on_unless_the_cluster_is_paused() {
    let resumes = |words: &[&str]| {
        let mut scene = Scene::baseline("replica").expect("a baseline");
        words.iter().for_each(|word| scene.apply(word));
        scene.play().1.resume_replay
    };
    assert!(resumes(&["replay-paused"]));
    assert!(!resumes(&[]));
    assert!(!resumes(&["replay-paused", "paused"]));
}

/// Found by the simulation: the answer to the first acquisition was lost. A standby was copied from the new primary, which
/// went on without the store, and the standby was promoted when the lease had ended.
#[test]
fn a_new_cluster_that_may_hold_the_lease_does_not_outlive_the_store() {
    let stopped = "demoted self because DCS is not accessible and I was a leader";
    let waits = "DCS is not accessible";
    for (answer, then) in [("acquire unknown", stopped), ("acquire failed", waits)] {
        let first = ["running primary", "role primary", "bootstrapping", "initialize in-progress", answer];
        assert_eq!(last_verdict("candidate", &[&first, &["no-store"]]), then, "{answer}");
    }
}

/// The guard and the REST API go by the end of the lease alone: with another leader nothing of failsafe mode is left.
#[test]
fn failsafe_mode_ends_with_the_claim_to_lead() {
    let mut scene = Scene::baseline("leader").expect("a baseline");
    let store = scene.facts.cluster.clone();
    ["failsafe a b c", "no-store"].iter().for_each(|word| scene.apply(word));
    scene.memory = scene.play().1.memory;
    assert_eq!(scene.memory.failsafe_until(), scene.memory.lease_until);
    assert!(scene.memory.lease_until.is_some());
    scene.facts.cluster = store;
    scene.apply("lock b");
    let memory = scene.play().1.memory;
    assert_eq!((memory.lease_until, memory.failsafe_until()), (None, None));
}

/// It cannot tell the store where its slots are, and tells those that agreed.
#[test]
fn slots_of_a_standby_are_moved_while_a_primary_goes_on_without_the_store() {
    let moves = |words: &[&str]| {
        let mut scene = Scene::baseline("replica").expect("a baseline");
        words.iter().for_each(|word| scene.apply(word));
        scene.play().1.effects.contains(&Effect::SyncSlots)
    };
    assert!(moves(&["failsafe-leader b", "no-store"]));
    assert!(!moves(&["no-store"]), "nobody said where the slots of the primary are");
    assert!(!moves(&["failsafe-leader b", "divergence other-wal", "no-store"]));
    assert!(!moves(&["failsafe-leader b", "stopped shut-down-in-recovery", "no-store"]));
    assert!(!moves(&["failsafe-leader b", "job restart", "no-store"]));
}

/// Standbys that read from another one say how far they are when they agree: on the primary nothing else moves their slots.
#[test]
fn a_primary_that_goes_on_without_the_store_moves_slots() {
    let moves = |words| plan_of("leader", words).effects.contains(&Effect::SyncSlots);
    assert!(moves(&["failsafe a b c", "no-store"]));
    assert!(!moves(&["failsafe a b c", "failsafe-answer refused", "no-store"]));
    assert!(!moves(&["failsafe a b c", "job restart", "no-store"]));
}

/// Whoever is not in `/failsafe` would not be asked by others either: it does not go on.
#[test]
fn only_a_leader_that_failsafe_names_goes_on_without_the_store() {
    let (goes_on, stops) = (
        "continue to run as a leader because failsafe mode is enabled and all members are accessible",
        "demoted self because DCS is not accessible and I was a leader",
    );
    for (key, then) in [("failsafe-key a b c", goes_on), ("failsafe-key b c", stops)] {
        assert_eq!(last_verdict("leader", &[&[key], &["no-store"]]), then, "{key}");
    }
}

/// A standby whose WAL is in order, and that does not get on: said once as long as it stands there.
#[test]
fn a_standby_that_stands_still_for_no_reason_known_says_so_once() {
    let mut scene = Scene::baseline("replica").expect("a baseline");
    ["not-streaming", "comparison same"].into_iter().for_each(|word| scene.apply(word));
    let mut told = Vec::new();
    for second in 0..120 {
        let (_, plan) = scene.play();
        scene.memory = plan.memory;
        told.extend(plan.notes.iter().any(|note| note.text.contains("stands still at")).then_some(second));
        scene.facts.now.boot = Moment(scene.facts.now.boot.0 + Duration::from_secs(1));
    }
    // After two rounds of the loop.
    assert_eq!(told, [20]);
}

fn plan_of(baseline: &str, words: &[&str]) -> Plan {
    let mut scene = Scene::baseline(baseline).expect("a baseline");
    words.iter().for_each(|word| scene.apply(word));
    scene.play().1
}

#[test]
fn callbacks_tell_of_changes_and_of_nothing_else() {
    for baseline in ["leader", "replica"] {
        assert_eq!(plan_of(baseline, &[]).callbacks, [], "{baseline}: nothing has changed");
        assert_eq!(plan_of(baseline, &["not-started"]).callbacks, [Callback::OnStart], "{baseline}");
    }
    let leads = plan_of("replica", &["standby-cluster", "lock a"]);
    assert_eq!(leads.callbacks, [Callback::OnRoleChange], "a standby becomes the standby leader");
}

#[test]
fn a_server_found_running_is_compared_once_and_only_as_a_standby() {
    let rewind = |baseline, words: &[&str]| plan_of(baseline, words).memory.rewind;
    assert_eq!(rewind("replica", &["not-started"]), Rewind::Check);
    assert_eq!(rewind("leader", &["not-started"]), Rewind::Unknown);
    let mut scene = Scene::baseline("replica").expect("a baseline");
    (scene.memory.started, scene.memory.rewind) = (false, Rewind::NotNeeded);
    assert_eq!(scene.play().1.memory.rewind, Rewind::NotNeeded, "it has been compared");
}

#[test]
fn what_a_job_is_about_is_announced_when_it_is_certain() {
    let role = |words: &[&str]| plan_of("leader", words).memory.role;
    assert_eq!(role(&["running standby", "role replica", "job promote", "stage revocable"]), Role::Replica);
    assert_eq!(role(&["running standby", "role replica", "job promote"]), Role::Promoted);
    // One that is still starting is announced by the handle that started it.
    let started = |outcome| plan_of("stopped", &["not-started", outcome]).memory.started;
    assert!(!started("ended start replica failed"));
    assert!(started("ended start replica still-starting"));
}
