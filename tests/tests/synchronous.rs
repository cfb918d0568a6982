//! Synchronous replication on real clusters: how fast it follows events, and that it keeps what was acknowledged.

#![allow(clippy::disallowed_methods)] // Kills come at random moments.

use std::time::Duration;

use patroni_tests::{Cluster, Limit, Node, Value, Writer, json, wait_for};

/// A loop so long that nothing here can wait for it.
const LOOP_WAIT: u64 = 10;

/// Between an event and its effect, on a busy machine; without load it takes less than a second.
const REACTION: Limit = Limit(5);

fn sync_key(cluster: &Cluster) -> Value {
    cluster.etcd.get("sync").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null)
}

/// Waits until `/sync` says so: the voters, separated by commas, and the quorum.
#[track_caller]
fn wait_sync(cluster: &Cluster, leader: usize, voters: &str, quorum: u64, limit: Limit) {
    let voters = if voters.is_empty() { Value::Null } else { json!(voters) };
    let expected = json!({"leader": cluster.nodes[leader].name, "quorum": quorum, "sync_standby": voters});
    wait_for(&format!("/sync is {expected}"), limit, || match sync_key(cluster) {
        found if found == expected => Ok(()),
        other => Err(other),
    });
}

#[track_caller]
fn wait_names(node: &Node, expected: &str, limit: Limit) {
    node.wait_sql("SHOW synchronous_standby_names", expected, limit);
}

#[test]
fn standbys_that_come_and_go_are_noticed_at_once() {
    let mut cluster = Cluster::of(3).dcs(json!({"loop_wait": LOOP_WAIT, "ttl": 30})).start();
    let patch = |change: Value| cluster.nodes[0].patch_config(&change);
    patch(json!({"synchronous_mode": true, "synchronous_node_count": 2}));
    wait_sync(&cluster, 0, "n1,n2", 0, REACTION);
    wait_names(&cluster.nodes[0], "2 (n1,n2)", REACTION);
    cluster.nodes[1].wait_status_of("/sync", 200, REACTION);
    cluster.nodes[2].wait_status_of("/async", 503, REACTION);

    patch(json!({"synchronous_mode": "quorum", "synchronous_node_count": 1}));
    wait_sync(&cluster, 0, "n1,n2", 1, REACTION);
    wait_names(&cluster.nodes[0], "ANY 1 (n1,n2)", REACTION);
    cluster.nodes[1].wait_status_of("/quorum", 200, REACTION);

    // Lost without a word: only the connection tells.
    cluster.nodes[2].kill_hard();
    wait_sync(&cluster, 0, "n1", 0, REACTION);
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS id");
    cluster.start_node(2);
    cluster.nodes[2].wait_streaming(Limit(60));
    wait_sync(&cluster, 0, "n1,n2", 1, REACTION);

    cluster.nodes[0].patch_config(&json!({"synchronous_mode": null}));
    wait_for("/sync is gone", REACTION, || cluster.etcd.get("sync").map_or(Ok(()), Err));
    wait_names(&cluster.nodes[0], "", REACTION);
}

#[test]
fn a_standby_that_is_stopped_is_replaced_first() {
    let mut cluster = Cluster::of(3).dcs(json!({"loop_wait": LOOP_WAIT, "ttl": 30, "synchronous_mode": true})).start();
    let voter = wait_for("one synchronous standby", Limit(10), || match sync_key(&cluster)["sync_standby"].as_str() {
        Some("n1") => Ok(1),
        Some("n2") => Ok(2),
        other => Err(format!("{other:?}")),
    });
    let other = 3 - voter;
    let writer = Writer::start(&cluster, 0);
    cluster.nodes[voter].terminate(Limit(30));
    wait_sync(&cluster, 0, &format!("n{other}"), 0, REACTION);
    let written = writer.stop();
    assert!(written.longest_gap < Duration::from_secs(3), "commits waited for {:?}", written.longest_gap);
    written.assert_all_on(&cluster.nodes[0]);
}

#[test]
fn strictly_nothing_is_acknowledged_without_a_standby() {
    let mut cluster = Cluster::of(2)
        .dcs(json!({"loop_wait": LOOP_WAIT, "ttl": 30, "synchronous_mode": true, "synchronous_mode_strict": true}))
        .prepare();
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    wait_names(&cluster.nodes[0], "*", Limit(10));
    let mut client = cluster.nodes[0].connect().unwrap();
    client.batch_execute("SET synchronous_commit = on; SET statement_timeout = 0").unwrap();
    let commit = std::thread::spawn(move || client.batch_execute("CREATE TABLE t AS SELECT 1 AS id"));
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'CREATE TABLE%'";
    cluster.nodes[0].wait_sql(waiting, "1", Limit(10));
    assert!(!commit.is_finished());
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(90));
    commit.join().unwrap().unwrap();
    wait_sync(&cluster, 0, "n1", 0, REACTION);
    wait_names(&cluster.nodes[0], "n1", REACTION);
    cluster.nodes[1].wait_sql("SELECT count(*) FROM t", "1", Limit(10));
}

#[test]
fn an_agent_that_comes_back_leaves_the_standbys_alone() {
    let mut cluster = Cluster::of(2).dcs(json!({"loop_wait": LOOP_WAIT, "ttl": 30, "synchronous_mode": true})).start();
    wait_sync(&cluster, 0, "n1", 0, Limit(10));
    wait_names(&cluster.nodes[0], "n1", REACTION);
    let log = cluster.nodes[0].log().len();
    cluster.nodes[0].kill_agent();
    cluster.start_node(0);
    let again = "no action. I am (n0), the leader with the lock";
    wait_for("it has looked at the server", Limit(20), || {
        let text = cluster.nodes[0].log()[log..].to_owned();
        if text.contains(again) { Ok(()) } else { Err(text) }
    });
    wait_sync(&cluster, 0, "n1", 0, REACTION);
    wait_names(&cluster.nodes[0], "n1", REACTION);
    let text = cluster.nodes[0].log()[log..].to_owned();
    assert!(!text.contains("parameter \"synchronous_standby_names\""), "it was changed in between:\n{text}");
}

/// How often the leader is killed; `SYNC_KILLS` for more.
fn kills() -> usize {
    std::env::var("SYNC_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Kills the primary at odd moments, under a client that writes all the time.
#[track_caller]
fn nothing_is_lost(mode: Value) {
    let dcs =
        json!({"loop_wait": 2, "primary_start_timeout": 0, "maximum_lag_on_failover": 0, "synchronous_mode": mode});
    let mut cluster = Cluster::of(3).dcs(dcs).start();
    let writer = Writer::start(&cluster, 0);
    let (mut leader, mut seed) = (0, u64::from(std::process::id()));
    for kill in 0..kills() {
        wait_for("somebody can be elected", Limit(90), || {
            let sync = sync_key(&cluster);
            let voters = sync["sync_standby"].as_str().map_or(0, |names| names.split(',').count() as u64);
            let own = sync["leader"] == json!(cluster.nodes[leader].name);
            if own && voters > sync["quorum"].as_u64().unwrap_or(0) { Ok(()) } else { Err(sync) }
        });
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(seed >> 33 & 0x3FF));
        let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        if kill % 10 == 9 {
            cluster.nodes[leader].kill_hard();
            let old = leader;
            leader = cluster.wait_leader_among(&others, Limit(60));
            cluster.start_node(old);
        } else {
            cluster.nodes[leader].kill_postmaster();
            leader = cluster.wait_leader_among(&others, Limit(60));
        }
    }
    let written = writer.stop();
    assert!(written.acknowledged.len() > 10 * kills(), "{} writes only", written.acknowledged.len());
    eprintln!("{} kills, {} writes acknowledged, {:?}", kills(), written.acknowledged.len(), written.longest_gap);
    written.assert_all_on(&cluster.nodes[leader]);
}

#[test]
fn no_acknowledged_write_is_lost_in_mode_on() {
    nothing_is_lost(json!(true));
}

#[test]
fn no_acknowledged_write_is_lost_in_mode_quorum() {
    nothing_is_lost(json!("quorum"));
}
