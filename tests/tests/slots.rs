//! Permanent logical slots: a consumer goes on after failovers, and what would be lost is told before.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Consumer, Kind, Limit, Programs, Value, Writer, json, wait_for};

const SAFE: &str = "Logical slot cdc is safe to be used after a failover";

fn dcs() -> Value {
    json!({
        "slots": {"cdc": {"type": "logical", "database": "postgres", "plugin": "test_decoding"}},
        "postgresql": {"parameters": {"wal_level": "logical"}},
    })
}

/// Waits until the node has the slot and says that it would survive a failover to it.
#[track_caller]
fn wait_ready(cluster: &Cluster, index: usize) {
    let (node, name) = (&cluster.nodes[index], format!("n{index}"));
    node.wait_sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'cdc'", "1", Limit(60));
    wait_for(&format!("cdc would survive a failover to {name}"), Limit(60), || {
        let metrics = node.request("GET", "/metrics", None).unwrap().body;
        let risks: Vec<_> = metrics.lines().filter(|line| line.contains("patroni_rs_slot_at_risk{")).collect();
        if metrics.contains("patroni_replica{") && risks.is_empty() { Ok(()) } else { Err(risks.join("\n")) }
    });
    node.wait_log(SAFE, Limit(10));
}

/// With `SLOT_FAILOVERS` more than the usual two.
#[test]
fn a_logical_consumer_misses_no_change_over_failovers() {
    let count = std::env::var("SLOT_FAILOVERS").map_or(2, |text| text.parse().unwrap());
    let mut cluster = Cluster::of(2).dcs(dcs()).start();
    let writer = Writer::start(&cluster, 0);
    let consumer = Consumer::start(&cluster, "cdc");
    let mut leader = 0;
    for round in 0..count {
        let other = 1 - leader;
        wait_ready(&cluster, other);
        if round % 2 == 0 {
            cluster.nodes[leader].kill_hard();
            cluster.nodes[other].wait_primary(Limit(60));
            cluster.start_node(leader);
        } else {
            let body = json!({"leader": format!("n{leader}"), "candidate": format!("n{other}")});
            let answer = cluster.nodes[leader].post("/switchover", &body);
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        cluster.wait_streaming(other, Limit(60));
        leader = other;
    }
    writer.stop();
    consumer.assert_read_all_of(&cluster.nodes[leader]);
}

/// A slot that nobody asked us to keep is told of, and only as long as it is there.
#[test]
fn a_slot_that_would_not_survive_is_told_of() {
    let cluster = Cluster::of(1).dcs(dcs()).start();
    let node = &cluster.nodes[0];
    node.wait_sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'cdc'", "1", Limit(30));
    cluster.ctl_ok(&["pause", "batman", "--wait"]);
    node.sql("SELECT pg_create_logical_replication_slot('mine', 'test_decoding')");
    let text = "Slot mine would not survive a failover: not a permanent slot";
    wait_for("patronictl list tells of it", Limit(20), || {
        let shown = cluster.ctl_ok(&["list"]);
        if shown.contains(text) { Ok(()) } else { Err(shown) }
    });
    let shown = node.request("GET", "/cluster", None).unwrap().json();
    assert_eq!(shown["members"][0]["slots_at_risk"], json!({"mine": "not a permanent slot"}), "{shown}");
    let metrics = node.request("GET", "/metrics", None).unwrap().body;
    assert!(metrics.contains("slot=\"mine\",reason=\"not a permanent slot\"} 1"), "{metrics}");

    cluster.ctl_ok(&["resume", "batman", "--wait"]);
    node.wait_sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'mine'", "0", Limit(20));
    wait_for("nothing is told any more", Limit(20), || {
        let shown = cluster.ctl_ok(&["list"]);
        if shown.contains("would not survive") { Err(shown) } else { Ok(()) }
    });
}

/// While the server runs, only our own slots are dropped; after a start also what others left unused, but for what PostgreSQL makes and drops
/// by itself.
fn keeps_the_slots_of_others(kind: Kind) {
    let cluster = Cluster::mixed(&[kind]).dcs(json!({"slots": {"mine": {"type": "physical"}}})).start();
    let node = &cluster.nodes[0];
    let count = |slot: &str| format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'");
    node.wait_sql(&count("mine"), "1", Limit(30));
    // 4.1.5 looks again in the loop after it made a slot.
    let loops = || node.log().matches("no action. I am (n0), the leader with the lock").count();
    let before = loops();
    wait_for("two loops", Limit(30), || if loops() > before + 2 { Ok(()) } else { Err(loops()) });
    for slot in ["other", "pg_16399_sync_16391_7433894621"] {
        node.sql(&format!("SELECT pg_create_physical_replication_slot('{slot}', true)"));
    }
    node.patch_config(&json!({"slots": null}));
    node.wait_sql(&count("mine"), "0", Limit(30));
    let before = loops();
    wait_for("two loops", Limit(30), || if loops() > before + 2 { Ok(()) } else { Err(loops()) });
    assert_eq!(node.sql(&count("other")), "1");
    assert_eq!(node.sql(&count("pg_16399_sync_16391_7433894621")), "1");
    assert_eq!(node.post("/restart", &json!({})).status, 200);
    node.wait_sql(&count("other"), "0", Limit(30));
    if kind == Kind::Ours {
        assert_eq!(node.sql(&count("pg_16399_sync_16391_7433894621")), "1");
        let log = node.log();
        for expected in ["Trying to drop unknown replication slot 'other'", "Replication slot 'other' kept "] {
            assert!(log.contains(expected), "{log}");
        }
    }
}

#[test]
fn slots_of_others_are_left_alone_while_the_server_runs() {
    keeps_the_slots_of_others(Kind::Ours);
}

#[test]
fn slots_of_others_are_left_alone_by_the_reference() {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    keeps_the_slots_of_others(Kind::Reference);
}

/// Each copies from the other.
#[test]
fn a_logical_consumer_goes_on_in_a_mixed_cluster() {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    let mut cluster = Cluster::mixed(&[Kind::Ours, Kind::Reference]).dcs(dcs()).start();
    let writer = Writer::start(&cluster, 0);
    let consumer = Consumer::start(&cluster, "cdc");
    cluster.nodes[1].wait_log(SAFE, Limit(60));
    // 4.1.5 also copies a slot whose WAL it does not have, or whose snapshot, and calls it safe. One that has come to a snapshot of its own
    // can be used.
    let now = cluster.nodes[0].sql("SELECT pg_current_wal_lsn()");
    let moved = format!("SELECT restart_lsn >= '{now}' FROM pg_replication_slots WHERE slot_name = 'cdc'");
    wait_for("the copy has moved on", Limit(60), || {
        cluster.nodes[0].sql("CHECKPOINT");
        match cluster.nodes[1].query(&moved) {
            Ok(Some(answer)) if answer == "t" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // The power cut makes ours come back by pg_rewind, which removes slots, or by a clone: it has to copy.
    cluster.nodes[0].kill_hard();
    cluster.nodes[1].wait_primary(Limit(60));
    cluster.start_node(0);
    cluster.wait_streaming(1, Limit(60));
    wait_ready(&cluster, 0);
    let answer = cluster.nodes[0].post("/switchover", &json!({"leader": "n1", "candidate": "n0"}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.wait_streaming(0, Limit(60));
    writer.stop();
    consumer.assert_read_all_of(&cluster.nodes[0]);
}
