//! What is lost, and who comes back: leaders killed as a whole, PostgreSQL alone, the agent alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use patroni_tests::{Cluster, Limit, Signal, Writer, json, process_exists, wait_for};

const TTL: u64 = 20;

#[test]
fn the_others_go_on_when_leader_agent_and_server_are_killed() {
    let mut cluster = Cluster::of(3).start();
    let old = &cluster.nodes[0];
    old.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    for node in &cluster.nodes {
        node.wait_sql("SELECT count(*) FROM t", "1000", Limit(10));
    }
    let killed = Instant::now();
    cluster.nodes[0].kill_hard();
    let new = cluster.wait_leader_among(&[1, 2], Limit(60));
    assert!(killed.elapsed() < Duration::from_secs(TTL + 2), "a new leader after {:?}", killed.elapsed());
    assert_eq!(cluster.nodes[new].sql("SELECT count(*) FROM t"), "1000");
    cluster.nodes[new].sql("INSERT INTO t VALUES (1001)");

    cluster.start_node(0);
    cluster.wait_streaming(new, Limit(60));
    cluster.nodes[0].wait_sql("SELECT count(*) FROM t", "1001", Limit(10));
    // Slots for the two others, none for itself, on the new leader; the same count on the old one once it is a replica.
    for node in &cluster.nodes {
        node.wait_sql("SELECT count(*) FROM pg_replication_slots", "2", Limit(20));
    }
    let own = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'n{new}'");
    cluster.nodes[new].wait_sql(&own, "0", Limit(20));
    let history = cluster.nodes[new].request("GET", "/history", None).unwrap().json();
    assert_eq!(history[0][0], 1, "timeline 1 has ended: {history}");
}

#[test]
fn an_old_leader_with_rows_of_its_own_is_rewound() {
    let mut cluster = Cluster::of(2).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 'common' AS row");
    cluster.nodes[1].wait_sql("SELECT count(*) FROM t", "1", Limit(10));
    // The replica hears nothing of the last rows; the server then dies with them.
    cluster.nodes[0].signal(Signal::STOP);
    let walreceiver = cluster.nodes[1].sql("SELECT pid FROM pg_stat_wal_receiver").parse().unwrap();
    patroni_tests::signal(walreceiver, Signal::STOP);
    cluster.nodes[0].sql("INSERT INTO t SELECT 'diverged' FROM generate_series(1, 100)");
    cluster.nodes[0].sql("CHECKPOINT");
    cluster.nodes[0].kill_hard();
    patroni_tests::signal(walreceiver, Signal::KILL);
    cluster.nodes[1].wait_primary(Limit(60));
    let diverged = "SELECT count(*) FROM t WHERE row = 'diverged'";
    let at_new = cluster.nodes[1].sql(diverged);
    cluster.nodes[1].sql("INSERT INTO t VALUES ('new')");

    let marker = cluster.nodes[0].data.join("survives-a-rewind-not-a-clone-of-another-inode");
    std::fs::write(&marker, "").unwrap();
    let inode =
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(cluster.nodes[0].data.join("PG_VERSION")).unwrap());
    cluster.start_node(0);
    cluster.nodes[0].wait_streaming(Limit(60));
    cluster.nodes[0].wait_sql(diverged, &at_new, Limit(10));
    cluster.nodes[0].wait_sql("SELECT count(*) FROM t WHERE row = 'new'", "1", Limit(10));
    let after =
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(cluster.nodes[0].data.join("PG_VERSION")).unwrap());
    assert!(at_new == "0" && cluster.nodes[0].log().contains("pg_rewind"), "{at_new} diverged rows were replicated");
    assert_eq!(inode, after, "rewound in place, not cloned anew");
}

#[test]
fn a_killed_server_is_started_in_place() {
    let cluster = Cluster::of(2).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    let before = cluster.nodes[0].postmaster();
    cluster.nodes[0].kill_postmaster();
    wait_for("a new postmaster", Limit(30), || match cluster.nodes[0].postmaster() {
        Some(pid) if Some(pid) != before => Ok(()),
        other => Err(other),
    });
    cluster.nodes[0].wait_primary(Limit(30));
    cluster.nodes[0].wait_state("it runs on its timeline", Limit(30), |state| state["timeline"] == 1);
    assert_eq!(cluster.key("leader").as_deref(), Some("n0"));
    assert_eq!(cluster.nodes[0].sql("SELECT row FROM t"), "1");
    cluster.nodes[1].wait_streaming(Limit(30));
}

#[test]
fn a_killed_server_costs_the_lease_with_primary_start_timeout_0() {
    let mut cluster = Cluster::of(2).dcs(json!({"primary_start_timeout": 0})).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    cluster.nodes[1].wait_sql("SELECT row FROM t", "1", Limit(10));
    let killed = Instant::now();
    cluster.nodes[0].kill_postmaster();
    cluster.nodes[1].wait_primary(Limit(15));
    if !cluster.programs.test_the_reference() {
        assert!(killed.elapsed() < Duration::from_secs(2), "primary after {:?}", killed.elapsed());
    }
    assert_eq!(cluster.nodes[1].sql("SELECT row FROM t"), "1");
    cluster.wait_streaming(1, Limit(60));
    assert_eq!(cluster.nodes[1].timeline(), 2);
}

#[test]
fn a_restarted_agent_adopts_the_running_server() {
    let mut cluster = Cluster::of(2).start();
    for index in [0, 1] {
        let postmaster = cluster.nodes[index].postmaster().unwrap();
        let mut client = cluster.nodes[index].connect().unwrap();
        cluster.nodes[index].kill_agent();
        assert!(process_exists(postmaster));
        cluster.start_node(index);
        let path = if index == 0 { "/primary" } else { "/replica" };
        cluster.nodes[index].wait_status_of(path, 200, Limit(15));
        assert_eq!(cluster.nodes[index].postmaster(), Some(postmaster), "the server was not restarted");
        client.simple_query("SELECT 1").expect("a client has not noticed");
    }
    assert_eq!(cluster.nodes[0].timeline(), 1);
}

#[test]
fn a_stopped_leader_hands_over_at_once() {
    let mut cluster = Cluster::of(2).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    let postmaster = cluster.nodes[0].postmaster().unwrap();
    let asked = Instant::now();
    let status = cluster.nodes[0].terminate(Limit(30));
    assert!(status.success(), "{status}");
    assert!(!process_exists(postmaster), "the server was stopped with the agent");
    cluster.nodes[1].wait_primary(Limit(15));
    assert!(asked.elapsed() < Duration::from_secs(10), "handed over in {:?}, not by the lease's end", asked.elapsed());
    assert_eq!(cluster.nodes[1].sql("SELECT row FROM t"), "1");
    assert!(cluster.nodes[0].data.join("patroni.dynamic.json").exists());
    cluster.start_node(0);
    cluster.wait_streaming(1, Limit(30));
}

#[test]
fn a_frozen_leader_and_its_heir_never_both_take_writes() {
    let mut cluster = Cluster::of(2).start();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference needs a watchdog device for this");
        return;
    }
    let writer = Writer::start(&cluster, 0);
    wait_for("rows arrive", Limit(20), || match cluster.nodes[1].query("SELECT max(id) FROM written") {
        Ok(Some(max)) if max.parse::<i64>().unwrap() > 10 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let postmaster = cluster.nodes[0].postmaster().unwrap();
    cluster.nodes[0].signal(Signal::STOP);
    wait_for("node 1 leads", Limit(60), || {
        let promoted = cluster.nodes[1].query("SELECT pg_is_in_recovery()").is_ok_and(|v| v.as_deref() == Some("f"));
        assert!(!(promoted && process_exists(postmaster)), "two primaries at the same time");
        if promoted { Ok(()) } else { Err("") }
    });
    cluster.nodes[1].wait_primary(Limit(20));
    cluster.nodes[0].signal(Signal::CONT);
    cluster.wait_streaming(1, Limit(60));
    let written = writer.stop();
    cluster.nodes[0].wait_sql(
        "SELECT max(id) FROM written",
        &written.acknowledged.last().unwrap().to_string(),
        Limit(20),
    );
}

#[test]
fn a_primary_whose_agent_died_is_stopped_before_the_lease_ends() {
    let mut cluster = Cluster::of(2).start();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference leaves the server running, and two primaries");
        return;
    }
    let postmaster = cluster.nodes[0].postmaster().unwrap();
    cluster.nodes[0].kill_agent();
    wait_for("node 1 leads", Limit(60), || {
        let promoted = cluster.nodes[1].query("SELECT pg_is_in_recovery()").is_ok_and(|v| v.as_deref() == Some("f"));
        assert!(!(promoted && process_exists(postmaster)), "two primaries at the same time");
        if promoted { Ok(()) } else { Err("") }
    });
    cluster.start_node(0);
    cluster.wait_streaming(1, Limit(60));
}

/// Nobody can name a postmaster that is only being started: the guard stops whichever there is when the lease ends.
#[test]
fn a_primary_that_comes_up_while_its_agent_is_frozen_is_stopped_before_the_lease_ends() {
    let mut cluster = Cluster::of(2).prepare();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference leaves two primaries");
        return;
    }
    let (real, sandbox) = (cluster.programs.pg_bin.join("postgres"), cluster.sandbox.path().to_owned());
    // The server to be freezes the agent that starts it: before the agent can tell the guard of it.
    let gate = sandbox.join("gate");
    let script = format!(
        "#!/bin/sh\nif test \"$1\" = -D && test -e {gate}; then kill -STOP $PPID; rm {gate}; fi\nexec {real} \"$@\"\n",
        gate = gate.display(),
        real = real.display()
    );
    cluster.replace_program(0, "postgres", &script);
    cluster.start_all();
    cluster.sandbox.file("gate", "");
    std::thread::scope(|scope| {
        // It is answered when the agent is thawed, if at all.
        scope.spawn(|| cluster.nodes[0].request("POST", "/restart", Some(&json!({}))));
        wait_for("the new server starts", Limit(30), || if gate.exists() { Err("") } else { Ok(()) });
        let is_primary = |node: usize| {
            let answer = cluster.nodes[node].query("SELECT pg_is_in_recovery()");
            answer.is_ok_and(|value| value.as_deref() == Some("f"))
        };
        wait_for("it is up without its agent", Limit(15), || if is_primary(0) { Ok(()) } else { Err("") });
        wait_for("node 1 leads", Limit(60), || {
            let promoted = is_primary(1);
            assert!(!(promoted && cluster.nodes[0].postmaster().is_some()), "two primaries at the same time");
            if promoted { Ok(()) } else { Err("") }
        });
        cluster.nodes[0].signal(Signal::CONT);
    });
    cluster.wait_streaming(1, Limit(60));
}

#[test]
fn all_nodes_killed_come_back_with_the_last_leader() {
    let mut cluster = Cluster::of(2).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    cluster.nodes[1].wait_sql("SELECT row FROM t", "1", Limit(10));
    for node in &mut cluster.nodes {
        node.kill_hard();
    }
    cluster.start_node(0);
    cluster.start_node(1);
    let leader = cluster.wait_leader_among(&[0, 1], Limit(60));
    cluster.wait_streaming(leader, Limit(60));
    assert_eq!(cluster.nodes[leader].sql("SELECT row FROM t"), "1");
}

#[test]
fn a_replica_killed_comes_back_and_its_slot_lives_for_member_slots_ttl() {
    let mut cluster = Cluster::of(2).dcs(json!({"member_slots_ttl": "25s"})).start();
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'n1'";
    cluster.nodes[1].kill_hard();
    wait_for("the member's key expires", Limit(40), || cluster.key("members/n1").map_or(Ok(()), Err));
    assert_eq!(cluster.nodes[0].sql(slots), "1", "the slot outlives the key");
    cluster.nodes[0].wait_sql(slots, "0", Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    cluster.nodes[0].wait_sql(slots, "1", Limit(20));
}
