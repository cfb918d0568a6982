//! `failsafe_mode`: a primary without a store goes on while all members agree, and only then.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use patroni_tests::Kind::{self, Ours, Reference};
use patroni_tests::{Cluster, Limit, Programs, json, wait_for};

const TTL: u64 = 20;
const GOES_ON: &str = "continue to run as a leader because failsafe mode is enabled and all members are accessible";

/// A cluster in failsafe mode, with all its members in the key.
fn start(kinds: &[Kind]) -> Cluster {
    let mut cluster = Cluster::mixed(kinds).dcs(json!({"failsafe_mode": true})).start();
    cluster.wait_streaming(0, Limit(60));
    wait_for("all members are in /failsafe", Limit(30), || {
        let key = cluster.etcd.get("failsafe").unwrap_or_default();
        if cluster.nodes.iter().all(|node| key.contains(&format!("\"{}\"", node.name))) { Ok(()) } else { Err(key) }
    });
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    cluster
}

/// The store goes away for longer than the lease: the primary stays, and is the same when it comes back.
fn outlives_the_store(cluster: &mut Cluster) {
    let postmaster = cluster.nodes[0].postmaster();
    cluster.etcd.stop();
    cluster.nodes[0].wait_log(GOES_ON, Limit(TTL));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(TTL + 5) {
        cluster.nodes[0].sql("INSERT INTO t SELECT max(row) + 1 FROM t");
        std::thread::sleep(Duration::from_millis(500));
    }
    for node in &cluster.nodes {
        node.wait_state("failsafe mode shows", Limit(TTL), |state| state["failsafe_mode_is_active"] == true);
    }
    assert_eq!(cluster.nodes[0].status_of("/primary"), 200);
    let rows = cluster.nodes[0].sql("SELECT count(*) FROM t");
    cluster.nodes[1].wait_sql("SELECT count(*) FROM t", &rows, Limit(10));
    cluster.etcd.start(&cluster.sandbox);
    cluster.etcd.wait_value("leader", Some("n0"), Limit(60));
    cluster.wait_streaming(0, Limit(30));
    assert_eq!((cluster.nodes[0].postmaster(), cluster.nodes[0].timeline()), (postmaster, 1));
    cluster.nodes[0]
        .wait_state("failsafe mode is over", Limit(TTL), |state| state.get("failsafe_mode_is_active").is_none());
}

#[test]
fn a_primary_goes_on_while_all_members_agree_and_is_demoted_when_one_does_not() {
    let mut cluster = start(&[Ours, Ours, Ours]);
    outlives_the_store(&mut cluster);

    cluster.etcd.stop();
    cluster.nodes[2].kill_hard();
    let killed = Instant::now();
    wait_for("the primary is demoted", Limit(TTL + 5), || match cluster.nodes[0].query("SELECT pg_is_in_recovery()") {
        Ok(Some(standby)) if standby == "f" => Err("it takes writes"),
        Ok(_) | Err(_) => Ok(()),
    });
    assert!(killed.elapsed() < Duration::from_secs(TTL), "demoted {:?} after a member was gone", killed.elapsed());
    cluster.etcd.start(&cluster.sandbox);
    let leader = cluster.wait_leader_among(&[0, 1], Limit(60));
    cluster.start_node(2);
    cluster.wait_streaming(leader, Limit(60));
}

fn reference_is_missing() -> bool {
    let missing = Programs::find().reference.is_none();
    if missing {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
    }
    missing
}

#[test]
fn a_primary_of_ours_is_agreed_to_by_the_reference() {
    if reference_is_missing() {
        return;
    }
    outlives_the_store(&mut start(&[Ours, Reference, Reference]));
}

#[test]
fn a_primary_of_the_reference_is_agreed_to_by_ours() {
    if reference_is_missing() {
        return;
    }
    outlives_the_store(&mut start(&[Reference, Ours, Ours]));
}
