//! What `/patroni` and the health checks show is what the server does, whatever the store does: there, slow, frozen, away.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use patroni_tests::{Cluster, Limit, Node, Signal, json, signal, wait_for};

const TTL: u64 = 20;

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Primary,
    Standby,
    Starting,
    /// It is stopped, and nobody starts it.
    Down,
    /// All its processes stand still.
    Hung,
}

/// State and role of `/patroni`, where they are certain, and the status of these checks.
const CHECKS: [&str; 4] = ["/primary", "/replica", "/read-only", "/health"];

fn expected(does: Does) -> (Option<&'static str>, Option<&'static str>, [u16; 4]) {
    match does {
        Does::Primary => (Some("running"), Some("primary"), [200, 503, 200, 200]),
        Does::Standby => (Some("running"), Some("replica"), [503, 200, 200, 200]),
        Does::Starting => (Some("starting"), None, [503, 503, 503, 503]),
        Does::Down => (None, None, [503, 503, 503, 503]),
        Does::Hung => (Some("unknown"), None, [503, 503, 503, 503]),
    }
}

/// Waits until everything that the node shows is true. Far shorter than a tick can take while the store does not answer.
#[track_caller]
fn wait_true(node: &Node, does: Does) {
    wait_true_within(node, does, Limit(5));
}

/// The same of what is yet to come about.
#[track_caller]
fn wait_true_within(node: &Node, does: Does, limit: Limit) {
    let (state, role, checks) = expected(does);
    wait_for(&format!("{} shows that it is {does:?}", node.name), limit, || {
        let shown = node.status();
        let told = CHECKS.map(|check| node.status_of(check));
        let says = |key: &str, word: Option<&str>| word.is_none_or(|word| shown[key] == word);
        let runs = does == Does::Down && shown["state"] == "running";
        if says("state", state) && says("role", role) && told == checks && !runs {
            Ok(())
        } else {
            Err(format!("{told:?} {shown}"))
        }
    });
}

/// The processes of a server.
fn processes(node: &Node) -> Vec<u32> {
    let postmaster = node.postmaster().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
    std::iter::once(postmaster).chain(children.split_whitespace().map(|pid| pid.parse().unwrap())).collect()
}

/// A replica that hangs and answers again.
#[track_caller]
fn hangs_for_a_while(node: &Node) {
    let stopped = processes(node);
    stopped.iter().for_each(|pid| signal(*pid, Signal::STOP));
    wait_true(node, Does::Hung);
    stopped.iter().for_each(|pid| signal(*pid, Signal::CONT));
    wait_true(node, Does::Standby);
}

/// A replica whose server dies. It starts only while there is no file of this name.
#[track_caller]
fn dies_and_takes_its_time_to_start(node: &Node, hold: &Path) {
    std::fs::write(hold, "").unwrap();
    node.kill_postmaster();
    wait_true(node, Does::Starting);
    std::fs::remove_file(hold).unwrap();
    wait_true(node, Does::Standby);
}

/// Two nodes. The server of n1 starts only while there is no file of this name.
fn with_held_starts() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::of(2).in_etcd().prepare();
    let hold = cluster.sandbox.path().join("hold");
    let real = cluster.programs.pg_bin.join("postgres");
    let script =
        format!("#!/bin/sh\nwhile [ -e {} ]; do sleep 0.1; done\nexec {} \"$@\"\n", hold.display(), real.display());
    cluster.replace_program(1, "postgres", &script);
    cluster.start_all();
    (cluster, hold)
}

/// Every request takes the store most of a second, as on a network that is overloaded.
#[test]
fn what_is_shown_is_true_while_the_store_is_slow() {
    let (cluster, hold) = with_held_starts();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ended = EndsWith(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cluster.etcd.signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(700));
                cluster.etcd.signal(Signal::CONT);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        wait_true(&cluster.nodes[0], Does::Primary);
        hangs_for_a_while(&cluster.nodes[1]);
        dies_and_takes_its_time_to_start(&cluster.nodes[1], &hold);
        // In pause nobody starts what has died.
        cluster.nodes[0].patch_config(&json!({"pause": true}));
        cluster.nodes[1].wait_state("it knows of the pause", Limit(30), |state| state["pause"] == true);
        cluster.nodes[1].kill_postmaster();
        wait_true(&cluster.nodes[1], Does::Down);
        cluster.nodes[0].patch_config(&json!({"pause": null}));
        wait_true_within(&cluster.nodes[1], Does::Standby, Limit(30));
        // The former leader is a standby from the moment that it is one.
        let asked = json!({"leader": "n0", "candidate": "n1"});
        wait_for("the switchover is done", Limit(60), || {
            let answer = cluster.nodes[0].post("/switchover", &asked);
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
        wait_true_within(&cluster.nodes[1], Does::Primary, Limit(30));
        wait_true_within(&cluster.nodes[0], Does::Standby, Limit(30));
        drop(ended);
    });
}

/// Also when the test fails.
struct EndsWith<'a>(&'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_shown_is_true_whatever_the_store_does() {
    let (mut cluster, hold) = with_held_starts();

    wait_true(&cluster.nodes[0], Does::Primary);
    wait_true(&cluster.nodes[1], Does::Standby);
    hangs_for_a_while(&cluster.nodes[1]);

    dies_and_takes_its_time_to_start(&cluster.nodes[1], &hold);
    wait_true(&cluster.nodes[0], Does::Primary);

    // From here on ticks take as long as they may: the store takes requests and does not answer.
    cluster.etcd.signal(Signal::STOP);
    hangs_for_a_while(&cluster.nodes[1]);
    cluster.nodes[0].wait_sql("SELECT pg_is_in_recovery()", "t", Limit(40));
    for node in &cluster.nodes {
        wait_true(node, Does::Standby);
        node.wait_state("nobody is known to lead", Limit(20), |state| state["cluster_unlocked"] == true);
    }

    cluster.etcd.stop();
    wait_true(&cluster.nodes[0], Does::Standby);
    hangs_for_a_while(&cluster.nodes[1]);
    cluster.nodes[1].kill_postmaster();
    wait_true(&cluster.nodes[1], Does::Down);

    cluster.etcd.start(&cluster.sandbox);
    let leader = cluster.wait_leader_among(&[0, 1], Limit(60));
    wait_true(&cluster.nodes[leader], Does::Primary);
    cluster.wait_streaming(leader, Limit(60));
    wait_true(&cluster.nodes[1 - leader], Does::Standby);
}

/// Whoever is woken again and again still renews its key.
#[test]
fn a_setting_that_is_changed_all_the_time_costs_nobody_its_key() {
    let mut cluster = Cluster::of(2).in_etcd().start();
    cluster.wait_streaming(0, Limit(60));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(TTL + 5) {
        cluster.nodes[0].patch_config(&json!({"note": begun.elapsed().as_millis() as u64}));
        let key = cluster.etcd.get("members/n1");
        assert!(key.is_some(), "the key of n1 ran out after {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(500));
    }
    cluster.wait_streaming(0, Limit(30));
}
