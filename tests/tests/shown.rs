//! What `/patroni` and the health checks show is what the server does, whatever the store does: there, frozen, away.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

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
    let (state, role, checks) = expected(does);
    wait_for(&format!("{} shows that it is {does:?}", node.name), Limit(5), || {
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

#[test]
fn what_is_shown_is_true_whatever_the_store_does() {
    // The server of n1 starts only while there is no file `hold`.
    let mut cluster = Cluster::of(2).in_etcd().prepare();
    let hold = cluster.sandbox.path().join("hold");
    let real = cluster.programs.pg_bin.join("postgres");
    let script =
        format!("#!/bin/sh\nwhile [ -e {} ]; do sleep 0.1; done\nexec {} \"$@\"\n", hold.display(), real.display());
    cluster.replace_program(1, "postgres", &script);
    cluster.start_all();

    wait_true(&cluster.nodes[0], Does::Primary);
    wait_true(&cluster.nodes[1], Does::Standby);
    hangs_for_a_while(&cluster.nodes[1]);

    std::fs::write(&hold, "").unwrap();
    cluster.nodes[1].kill_postmaster();
    wait_true(&cluster.nodes[1], Does::Starting);
    std::fs::remove_file(&hold).unwrap();
    wait_true(&cluster.nodes[1], Does::Standby);
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
