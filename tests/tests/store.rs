//! The store away, frozen, or full of garbage.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use patroni_tests::{Cluster, Limit, Signal, json, wait_for};

const TTL: u64 = 20;

/// Waits until no server takes writes any more; how long that took.
fn wait_demoted(cluster: &Cluster, postmaster_may_stop: bool) -> Duration {
    let start = Instant::now();
    wait_for("the leader is demoted", Limit(TTL + 5), || match cluster.nodes[0].query("SELECT pg_is_in_recovery()") {
        Ok(Some(standby)) if standby == "t" => Ok(()),
        Err(error) if postmaster_may_stop => {
            if error.code().is_none() {
                Ok(())
            } else {
                Err(error.to_string())
            }
        }
        other => Err(format!("{other:?}")),
    });
    start.elapsed()
}

#[test]
fn without_a_store_the_leader_is_demoted_in_time_and_comes_back_with_it() {
    let mut cluster = Cluster::of(2).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    cluster.etcd.stop();
    let elapsed = wait_demoted(&cluster, true);
    assert!(elapsed < Duration::from_secs(TTL), "demoted after {elapsed:?}, later than the lease's end");
    cluster.nodes[0].wait_sql("SELECT pg_is_in_recovery()", "t", Limit(20));
    assert_eq!(cluster.nodes[0].sql("SELECT row FROM t"), "1", "it goes on for readers");
    cluster.etcd.start(&cluster.sandbox);
    let leader = cluster.wait_leader_among(&[0, 1], Limit(40));
    cluster.wait_streaming(leader, Limit(40));
}

#[test]
fn with_a_frozen_store_the_leader_is_demoted_in_time() {
    let mut cluster = Cluster::of(2).start();
    cluster.etcd.signal(Signal::STOP);
    let elapsed = wait_demoted(&cluster, true);
    assert!(elapsed < Duration::from_secs(TTL), "demoted after {elapsed:?}, later than the lease's end");
    let asked = Instant::now();
    assert_eq!(cluster.nodes[1].status_of("/liveness"), 200);
    cluster.nodes[1].status_of("/health");
    assert!(asked.elapsed() < Duration::from_secs(3), "a health check hangs with the store");
    cluster.etcd.signal(Signal::CONT);
    let leader = cluster.wait_leader_among(&[0, 1], Limit(60));
    cluster.wait_streaming(leader, Limit(40));
}

#[test]
fn a_short_absence_of_the_store_is_survived() {
    let mut cluster = Cluster::of(2).dcs(json!({"retry_timeout": 8})).start();
    let postmaster = cluster.nodes[0].postmaster();
    cluster.etcd.stop();
    std::thread::sleep(Duration::from_secs(2));
    cluster.etcd.start(&cluster.sandbox);
    cluster.etcd.wait_value("leader", Some("n0"), Limit(20));
    cluster.wait_streaming(0, Limit(20));
    assert_eq!((cluster.nodes[0].postmaster(), cluster.nodes[0].timeline()), (postmaster, 1));
}

#[test]
fn garbage_in_every_key_loses_nothing() {
    let mut cluster = Cluster::of(2).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    let garbage =
        ["", "garbage", "{", "[]", "null", "42", "\"\u{fffd}\"", "{\"optime\": [], \"ttl\": \"x\", \"conn_url\": 7}"];
    let system = cluster.etcd.get("initialize");
    for key in [
        "members/n1",
        "members/ghost",
        "status",
        "optime/leader",
        "history",
        "sync",
        "failover",
        "failsafe",
        "config",
        "unknown",
        "initialize",
    ] {
        for value in garbage {
            cluster.etcd.put(key, value);
        }
        // Let both agents meet it: the value stays or is repaired, and nobody falls over.
        std::thread::sleep(Duration::from_millis(1500));
        for node in &mut cluster.nodes {
            assert!(node.agent_runs(), "{} has ended at garbage in {key}", node.name);
        }
        assert_eq!(cluster.nodes[0].query("SELECT row FROM t").unwrap().as_deref(), Some("1"), "garbage in {key}");
        if !matches!(key, "config" | "members/n1" | "initialize") {
            cluster.etcd.delete(key);
        }
    }
    cluster
        .etcd
        .put("config", "{\"ttl\":20,\"loop_wait\":1,\"retry_timeout\":3,\"postgresql\":{\"use_pg_rewind\":true}}");
    cluster.wait_leader_among(&[0], Limit(60));
    cluster.nodes[1].wait_streaming(Limit(60));
    assert_eq!(cluster.nodes[1].sql("SELECT row FROM t"), "1");
    assert_eq!(cluster.etcd.get("initialize"), system, "the leader writes it again");
}

#[test]
fn a_leader_key_taken_by_a_stranger_demotes_and_is_recovered() {
    let mut cluster = Cluster::of(2).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    cluster.etcd.put("leader", "nobody");
    cluster.nodes[0].wait_sql("SELECT pg_is_in_recovery()", "t", Limit(30));
    cluster.etcd.delete("leader");
    let leader = cluster.wait_leader_among(&[0, 1], Limit(40));
    cluster.wait_streaming(leader, Limit(40));
    assert_eq!(cluster.nodes[leader].sql("SELECT row FROM t"), "1");
}

#[test]
fn a_changed_initialize_key_stops_the_node_and_touches_no_data() {
    let mut cluster = Cluster::of(1).start();
    let real = cluster.etcd.get("initialize").unwrap();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    cluster.etcd.put("initialize", "1234567890");
    let status = cluster.nodes[0].wait_exit(Limit(30));
    assert_eq!(status.code(), Some(1), "as the reference");
    let line = format!("system ID mismatch, node n0 belongs to a different cluster: 1234567890 != {real}");
    assert!(cluster.nodes[0].log().contains(&line), "{}", cluster.nodes[0].log());
    assert_eq!(cluster.nodes[0].postmaster(), None);
    cluster.etcd.put("initialize", &real);
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    assert_eq!(cluster.nodes[0].sql("SELECT row FROM t"), "1");
}

/// What these commands of patronictl say of a cluster whose store is away: exit code 1, and the members' own words.
#[track_caller]
fn assert_members_are_asked(cluster: &Cluster, store: &str, rows: &[&str], explained: &[&str]) {
    let run = |arguments: &[&str]| {
        let output = cluster.ctl(arguments);
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        text
    };
    let mark = format!("The store ({store} of the configuration) does not answer");
    for command in ["list", "topology"] {
        let text = run(&[command]);
        for row in rows.iter().chain(&[&*mark, "this is what the members say of themselves."]) {
            let words: Vec<&str> = row.split(' ').collect();
            let shown = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
            assert!(shown, "{command}: {row} is missing: {text}");
        }
    }
    let (explain, doctor) = (run(&["explain"]), run(&["doctor"]));
    for line in explained {
        assert!(explain.contains(line), "{line} is missing: {explain}");
    }
    assert!(explain.contains("Nobody takes over while the store does not answer."), "{explain}");
    assert!(doctor.contains(&format!("* {mark}")), "{doctor}");
    let json = cluster.ctl(&["list", "-f", "json"]);
    assert!(serde_json::from_slice::<patroni_tests::Value>(&json.stdout).is_ok_and(|rows| rows[0]["Member"] == "n0"));
}

#[test]
fn with_the_store_away_the_members_are_asked() {
    let mut cluster = Cluster::of(2).in_etcd().dcs(json!({"failsafe_mode": true})).start();
    cluster.wait_streaming(0, Limit(20));
    wait_for("failsafe mode", Limit(20), || cluster.etcd.get("failsafe").ok_or("no key"));
    let rows = ["n0 Leader running", "n1 Replica streaming"];
    let explained = ["n0 is primary (running)", "n1 is replica (streaming)"];
    cluster.etcd.signal(Signal::STOP);
    assert_members_are_asked(&cluster, "etcd3", &rows, &explained);
    cluster.etcd.signal(Signal::CONT);
    cluster.ctl_ok(&["list"]);
    cluster.etcd.stop();
    let output = cluster.ctl(&["list"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("what the members say") && text.contains("Leader") && text.contains("streaming"), "{text}");
}

#[test]
fn with_the_agents_own_store_away_the_members_are_asked() {
    let mut cluster = Cluster::of(2).embedded().start();
    cluster.wait_voters(3, Limit(40));
    cluster.nodes[1].kill_agent();
    drop(cluster.witness.take());
    wait_for("the store misses its majority", Limit(20), || match cluster.ctl(&["list"]).status.success() {
        true => Err("it answers"),
        false => Ok(()),
    });
    assert_members_are_asked(&cluster, "raft", &["n0", "n1 no answer"], &["n1 does not answer"]);
}
