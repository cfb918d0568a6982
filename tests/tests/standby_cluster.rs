//! Standby clusters: two clusters, each with a store of its own, of which one follows the other.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::Write;
use std::process::{Output, Stdio};

use patroni_tests::{Cluster, Kind, Limit, json, wait_for};

fn ports(cluster: &Cluster) -> String {
    cluster.nodes.iter().map(|node| node.pg_port.to_string()).collect::<Vec<_>>().join(",")
}

/// Who sends WAL to a node, by its port.
fn wait_upstream(cluster: &Cluster, index: usize, port: u16, limit: Limit) {
    cluster.nodes[index].wait_sql("SELECT sender_port FROM pg_stat_wal_receiver", &port.to_string(), limit);
}

#[test]
fn a_standby_cluster_outlives_what_happens_on_the_other_side_and_changes_sides() {
    let mut main = Cluster::of(2).dcs(json!({"slots": {"standby": {"type": "physical"}}})).start();
    main.nodes[0].sql("CREATE TABLE t AS SELECT 'begin' AS row");
    let section = json!({
        "host": "127.0.0.1,127.0.0.1", "port": ports(&main), "primary_slot_name": "standby", "recovery_min_apply_delay": "1ms",
    });

    // Born as a copy of the remote primary, with a replica of its own.
    let mut standby = Cluster::of(2).dcs(json!({"standby_cluster": section, "synchronous_mode": true})).prepare();
    standby.start_node(0);
    standby.wait_standby_leader(0, Limit(60));
    wait_upstream(&standby, 0, main.nodes[0].pg_port, Limit(20));
    assert_eq!(standby.key("initialize"), main.key("initialize"));
    main.nodes[0].wait_sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'standby'", "t", Limit(20));
    standby.start_node(1);
    standby.nodes[1].wait_streaming(Limit(60));
    wait_upstream(&standby, 1, standby.nodes[0].pg_port, Limit(20));
    let delay = |index: usize| standby.nodes[index].sql("SHOW recovery_min_apply_delay");
    assert_eq!((delay(0).as_str(), delay(1).as_str()), ("1ms", "0"), "the delay is the leader's alone");
    let codes = ["/primary", "/replica", "/leader"].map(|path| standby.nodes[0].status_of(path));
    assert_eq!(codes, [503, 503, 200]);
    standby.nodes[1].wait_sql("SELECT row FROM t", "begin", Limit(10));

    // The doctor looks at a server that is in recovery as at any other.
    let doctor = standby.ctl(&["doctor"]);
    assert!(!String::from_utf8_lossy(&doctor.stderr).contains("not looked at"), "{doctor:?}");

    // A switchover inside: nothing is stopped.
    let postmaster = standby.nodes[0].postmaster();
    standby.ctl_ok(&["switchover", "batman", "--candidate", "n1", "--force"]);
    standby.wait_standby_leader(1, Limit(30));
    wait_upstream(&standby, 1, main.nodes[0].pg_port, Limit(30));
    wait_upstream(&standby, 0, standby.nodes[1].pg_port, Limit(30));
    assert_eq!(standby.nodes[0].postmaster(), postmaster);

    // The remote side loses what the standby cluster has already received.
    main.nodes[1].terminate(Limit(30));
    main.nodes[0].sql("INSERT INTO t VALUES ('lost')");
    for node in &standby.nodes {
        node.wait_sql("SELECT count(*) FROM t WHERE row = 'lost'", "1", Limit(20));
    }
    main.nodes[0].kill_hard();
    main.start_node(1);
    main.nodes[1].wait_primary(Limit(60));
    main.nodes[1].sql("INSERT INTO t VALUES ('kept')");
    for index in [1, 0] {
        standby.nodes[index].wait_sql("SELECT string_agg(row, ' ' ORDER BY row) FROM t", "begin kept", Limit(90));
        standby.nodes[index].wait_log("running pg_rewind from the remote primary", Limit(1));
    }
    let leader = if standby.nodes[0].status_of("/standby-leader") == 200 { 0 } else { 1 };
    wait_upstream(&standby, leader, main.nodes[1].pg_port, Limit(30));

    // It becomes a primary, and writes what the other side does not have; then it is told to follow again.
    let refused = standby.ctl(&["promote-cluster", "batman"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("both would take writes"), "{refused:?}");
    standby.ctl_ok(&["promote-cluster", "batman", "--force"]);
    standby.nodes[leader].wait_primary(Limit(30));
    standby.nodes[leader].sql("INSERT INTO t VALUES ('alone')");
    standby.nodes[1 - leader].wait_streaming(Limit(30));
    standby.nodes[1 - leader].wait_sql("SELECT count(*) FROM t WHERE row = 'alone'", "1", Limit(20));
    standby.ctl_ok(&[
        "demote-cluster",
        "batman",
        "--host",
        "127.0.0.1",
        "--port",
        &main.nodes[1].pg_port.to_string(),
        "--force",
    ]);
    main.nodes[1].sql("INSERT INTO t VALUES ('last')");
    for node in &standby.nodes {
        node.wait_sql("SELECT string_agg(row, ' ' ORDER BY row) FROM t", "begin kept last", Limit(90));
    }
    wait_for("one leads the standby cluster, one follows it", Limit(30), || {
        let mut roles: Vec<String> = standby.nodes.iter().map(|node| node.status()["role"].to_string()).collect();
        roles.sort();
        if roles == ["\"replica\"", "\"standby_leader\""] { Ok(()) } else { Err(roles) }
    });
}

#[test]
fn two_clusters_change_sides_through_an_archive_without_pg_rewind() {
    let mut main = Cluster::of(1).dcs(json!({"postgresql": {"use_pg_rewind": false}})).prepare();
    let archive = main.sandbox.directory("archive");
    let (put, get) = (format!("cp %p {}/%f", archive.display()), format!("cp {}/%f %p", archive.display()));
    let archiving = json!({"postgresql": {"use_pg_rewind": false, "parameters": {
        "archive_mode": "on", "archive_command": format!("test ! -e {}/%f && {put}", archive.display()),
        "restore_command": get,
    }}});
    main.nodes[0].config["bootstrap"]["dcs"]["postgresql"]["parameters"] =
        archiving["postgresql"]["parameters"].clone();
    main.start_node(0);
    main.nodes[0].wait_primary(Limit(60));

    // A copy from a backup that needs no connection, and an archive in place of a stream.
    let backup = main.sandbox.directory("backup");
    let copy = format!(
        "#!/bin/sh\nfor a; do case $a in --datadir=*) d=${{a#*=}};; esac; done\ncp -a {}/. \"$d\" && chmod 700 \"$d\"\n",
        backup.display()
    );
    let mut standby = Cluster::of(1).dcs(archiving).prepare();
    let cleaned = standby.sandbox.path().join("cleaned");
    standby.nodes[0].config["bootstrap"]["dcs"]["standby_cluster"] = json!({
        "restore_command": get, "archive_cleanup_command": format!("echo %r >{}", cleaned.display()),
        "create_replica_methods": ["from_backup"],
    });
    let script = standby.sandbox.file("from_backup", &copy);
    standby.nodes[0].config["postgresql"]["from_backup"] = json!({"command": script, "no_leader": true});
    let port = main.nodes[0].pg_port.to_string();
    let address = format!("host=127.0.0.1 port={port} user=replicator password=rep-secret");
    main.nodes[0].pg_program(
        &main.sandbox,
        "pg_basebackup",
        &["-D", backup.to_str().unwrap(), "-d", &address, "-c", "fast", "-X", "none"],
    );
    standby.start_node(0);
    standby.wait_standby_leader(0, Limit(60));
    assert_eq!(standby.nodes[0].sql("SELECT count(*) FROM pg_stat_wal_receiver"), "0");

    main.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    main.ctl_ok(&["demote-cluster", "batman", "--restore-command", &get, "--force"]);
    main.wait_standby_leader(0, Limit(30));
    main.nodes[0].wait_log("Archiving the WAL file with the shutdown checkpoint", Limit(1));
    // All is in the archive, with the end of the former primary: nothing is lost, and nobody has to be rewound.
    standby.nodes[0].wait_sql("SELECT count(*) FROM t", "1", Limit(30));
    let end = main.nodes[0].pg_program(&main.sandbox, "pg_controldata", &["-D", main.nodes[0].data.to_str().unwrap()]);
    let end = end.lines().find_map(|line| line.strip_prefix("Latest checkpoint location:")).unwrap().trim().to_owned();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() > '{end}'");
    standby.nodes[0].wait_sql(&replayed, "t", Limit(30));
    standby.nodes[0].sql("CHECKPOINT");
    wait_for("the archive is cleaned", Limit(20), || std::fs::read_to_string(&cleaned));
    standby.ctl_ok(&["promote-cluster", "batman", "--force"]);
    standby.nodes[0].wait_primary(Limit(30));
    standby.nodes[0].sql("INSERT INTO t VALUES (2)");
    standby.nodes[0].sql("SELECT pg_switch_wal()");
    main.nodes[0].wait_sql("SELECT count(*) FROM t", "2", Limit(60));
    assert_eq!(main.nodes[0].status()["role"], "standby_leader");
}

/// By patronictl, or by a section that somebody writes: neither loses what the cluster has.
#[test]
fn a_cluster_that_is_no_copy_is_not_followed() {
    let (main, stranger) = (Cluster::of(1).start(), Cluster::of(1).start());
    main.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    let port = stranger.nodes[0].pg_port;
    let refused =
        main.ctl(&["demote-cluster", "batman", "--host", "127.0.0.1", "--port", &port.to_string(), "--force"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it is no copy of this cluster"), "{refused:?}");
    assert!(main.nodes[0].is_writable_primary());
    assert!(!main.key("config").unwrap().contains("standby_cluster"));

    main.nodes[0].patch_config(&json!({"standby_cluster": {"host": "127.0.0.1", "port": port}}));
    main.wait_standby_leader(0, Limit(30));
    main.nodes[0].wait_log("it is no member of this cluster", Limit(30));
    main.nodes[0].patch_config(&json!({"standby_cluster": null}));
    main.nodes[0].wait_primary(Limit(30));
    assert_eq!(main.nodes[0].sql("SELECT count(*) FROM t"), "1");
}

/// Each asks the other before, and neither is a primary then.
#[test]
fn two_clusters_promoted_at_once_do_not_go_unnoticed() {
    let main = Cluster::of(1).start();
    let mut standby =
        Cluster::of(1).dcs(json!({"standby_cluster": {"host": "127.0.0.1", "port": main.nodes[0].pg_port}})).prepare();
    standby.start_node(0);
    standby.wait_standby_leader(0, Limit(60));
    wait_upstream(&standby, 0, main.nodes[0].pg_port, Limit(30));
    let port = standby.nodes[0].pg_port.to_string();
    main.ctl_ok(&["demote-cluster", "batman", "--host", "127.0.0.1", "--port", &port, "--force"]);
    main.wait_standby_leader(0, Limit(30));
    let outputs = std::thread::scope(|scope| {
        let promotions = [&main, &standby].map(|cluster| scope.spawn(|| promote_with_a_question(cluster)));
        promotions.map(|promotion| promotion.join().unwrap())
    });
    // The slower one was refused before it began, or has seen the other one afterwards.
    let told = outputs.iter().any(|output| {
        let text = String::from_utf8_lossy(&output.stderr);
        !output.status.success() && ["both would take writes", "at the same time"].iter().any(|why| text.contains(why))
    });
    assert!(told, "{outputs:?}");
    wait_for("one of them takes writes", Limit(30), || {
        let primaries = [&main, &standby].map(|cluster| cluster.nodes[0].is_writable_primary());
        if primaries == [false, false] { Err(()) } else { Ok(()) }
    });
}

/// Without `--force`.
fn promote_with_a_question(cluster: &Cluster) -> Output {
    let mut ctl = cluster.sandbox.command(&cluster.programs.ctl(Kind::Ours));
    ctl.arg("-c").arg(cluster.nodes[0].directory().join("patroni.yml")).args(["promote-cluster", "batman"]);
    let mut child = ctl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may be refused before it is asked.
    let _ = child.stdin.take().unwrap().write_all(b"y\n");
    child.wait_with_output().unwrap()
}
