//! Permanent logical slots: they are created, and what a failover would lose is told before.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, Value, json, wait_for};

fn dcs() -> Value {
    json!({
        "slots": {"cdc": {"type": "logical", "database": "postgres", "plugin": "test_decoding"}},
        "postgresql": {"parameters": {"wal_level": "logical"}},
    })
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
