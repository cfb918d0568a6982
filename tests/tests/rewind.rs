//! What pg_rewind needs and does not find: WAL that only the archive still has, a password, success.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, Signal, json, signal, wait_for};

/// Node 1 leads, and node 0 is down with rows that node 1 never saw. `meanwhile` acts on node 0 while it is cut off.
fn diverge(cluster: &mut Cluster, meanwhile: impl FnOnce(&Cluster)) {
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 'common' AS row");
    cluster.nodes[1].wait_sql("SELECT count(*) FROM t", "1", Limit(10));
    cluster.nodes[0].signal(Signal::STOP);
    let receiver = cluster.nodes[1].sql("SELECT pid FROM pg_stat_wal_receiver").parse().unwrap();
    signal(receiver, Signal::STOP);
    cluster.nodes[0].sql("INSERT INTO t SELECT 'lost' FROM generate_series(1, 100)");
    meanwhile(cluster);
    cluster.nodes[0].kill_hard();
    signal(receiver, Signal::KILL);
    cluster.nodes[1].wait_primary(Limit(60));
    cluster.nodes[1].sql("INSERT INTO t VALUES ('kept')");
}

fn assert_follows(cluster: &Cluster) {
    cluster.nodes[0].wait_streaming(Limit(60));
    cluster.nodes[0].wait_sql("SELECT string_agg(row, ' ' ORDER BY row) FROM t", "common kept", Limit(10));
}

fn assert_not_copied(cluster: &Cluster) {
    assert!(!cluster.nodes[0].log().contains("replica has been created"), "copied anew");
}

#[test]
fn wal_that_pg_rewind_misses_comes_from_the_archive() {
    let mut cluster = Cluster::of(2).prepare();
    let archive = cluster.sandbox.directory("archive");
    for node in &mut cluster.nodes {
        let dcs = &mut node.config["bootstrap"]["dcs"]["postgresql"];
        dcs["use_slots"] = json!(false);
        dcs["parameters"]["wal_keep_size"] = json!("16MB");
        dcs["parameters"]["min_wal_size"] = json!("32MB");
        dcs["parameters"]["max_wal_size"] = json!("48MB");
        dcs["parameters"]["archive_mode"] = json!("on");
    }
    // Node 1 must not find there what it never received.
    let parameters = &mut cluster.nodes[0].config["postgresql"]["parameters"];
    parameters["archive_command"] = json!(format!("cp %p {}/%f", archive.display()));
    parameters["restore_command"] = json!(format!("cp {}/%f %p", archive.display()));
    cluster.nodes[1].config["postgresql"]["parameters"]["archive_command"] = json!("true");
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    let file = cluster.nodes[0].sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let needed = cluster.nodes[0].data.join("pg_wal").join(&file);
    diverge(&mut cluster, |cluster| {
        wait_for("the WAL with the fork is in the archive only", Limit(15), || {
            cluster.nodes[0].sql("SELECT pg_switch_wal() FROM txid_current()");
            cluster.nodes[0].sql("CHECKPOINT");
            if needed.exists() || !archive.join(&file).exists() { Err(needed.exists()) } else { Ok(()) }
        });
    });
    cluster.start_node(0);
    assert_follows(&cluster);
    assert_not_copied(&cluster);
}

/// Two nodes, of which node 0 has this script for pg_rewind.
fn with_own_pg_rewind(script: impl FnOnce(&Cluster) -> String) -> Cluster {
    let mut cluster = Cluster::of(2).prepare();
    let script = format!("#!/bin/sh\ncase $1 in --help) exit 0;; esac\n{}\n", script(&cluster));
    cluster.replace_program(0, "pg_rewind", &script);
    cluster.start_all();
    cluster
}

/// Killed while pg_rewind flushes what it has written, a node was recovered like a primary for another rewind: it wrote WAL of its own on
/// the timeline of the primary, and stood still for ever.
#[test]
fn a_node_that_dies_at_the_very_end_of_pg_rewind_goes_on_from_there() {
    let mut cluster = with_own_pg_rewind(|cluster| {
        let (bin, sandbox) = (cluster.programs.pg_bin.display(), cluster.sandbox.path().display());
        format!("{bin}/pg_rewind \"$@\" || exit\ntouch {sandbox}/rewound\nsleep 1000")
    });
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference leaves such a node to itself");
        return;
    }
    diverge(&mut cluster, |_| {});
    cluster.start_node(0);
    let rewound = cluster.sandbox.path().join("rewound");
    wait_for("the end of pg_rewind", Limit(60), || if rewound.exists() { Ok(()) } else { Err(()) });
    cluster.nodes[0].kill_agent();
    cluster.start_node(0);
    assert_follows(&cluster);
    assert_not_copied(&cluster);
}

/// pg_rewind removes the WAL that it goes by: it cannot be repeated, and must not be interrupted.
#[test]
fn pg_rewind_outlives_an_agent_that_dies_and_the_next_one_waits_for_it() {
    let mut cluster = with_own_pg_rewind(|cluster| {
        let (bin, sandbox) = (cluster.programs.pg_bin.display(), cluster.sandbox.path().display());
        let wait = format!("while [ ! -e {sandbox}/go-on ]; do sleep 0.1; done");
        format!("touch {sandbox}/began\n{wait}\n{bin}/pg_rewind \"$@\"")
    });
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference does not look for it");
        return;
    }
    diverge(&mut cluster, |_| {});
    cluster.start_node(0);
    let sandbox = cluster.sandbox.path().to_owned();
    wait_for("pg_rewind", Limit(60), || if sandbox.join("began").exists() { Ok(()) } else { Err(()) });
    cluster.nodes[0].kill_agent();
    cluster.start_node(0);
    cluster.nodes[0].wait_log("pg_rewind of an earlier run is still at work", Limit(30));
    // Told to stop, an agent leaves it alone, too.
    cluster.nodes[0].terminate(Limit(30));
    cluster.start_node(0);
    let waited = || cluster.nodes[0].log().matches("pg_rewind of an earlier run is still at work").count();
    wait_for("the third agent waits", Limit(30), || if waited() == 2 { Ok(()) } else { Err(waited()) });
    std::fs::write(sandbox.join("go-on"), "").unwrap();
    assert_follows(&cluster);
    assert_eq!(cluster.nodes[0].log().matches("running pg_rewind from dbname=").count(), 1);
    assert_not_copied(&cluster);
}

/// A file that root owns: pg_rewind stopped half-way there, and what it left could neither be started nor rewound again.
#[test]
fn pg_rewind_is_not_begun_where_it_would_stop_half_way() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make a file that the user of PostgreSQL cannot replace");
        return;
    }
    let mut cluster = Cluster::of(2).start();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference begins");
        return;
    }
    diverge(&mut cluster, |_| {});
    cluster.sandbox.file(cluster.nodes[1].data.join("notes"), "of the primary, so that pg_rewind copies them");
    let notes = cluster.nodes[0].data.join("notes");
    std::fs::write(&notes, "of root").unwrap();
    cluster.start_node(0);
    cluster.nodes[0].wait_log("pg_rewind would stop half-way, and is not begun", Limit(60));
    cluster.nodes[0].wait_log("notes (Permission denied", Limit(1));
    assert_eq!(cluster.nodes[0].log().matches("running pg_rewind from dbname=").count(), 0);
    assert_eq!(cluster.nodes[0].postmaster(), None, "started with rows that nobody else has");
    cluster.sandbox.give(&notes);
    assert_follows(&cluster);
    assert_not_copied(&cluster);
}

#[test]
fn a_node_that_cannot_be_rewound_is_kept_until_it_may_be_copied_anew() {
    let mut cluster = with_own_pg_rewind(|_| "echo 'pg_rewind: fatal: it is Monday' >&2\nexit 1".to_owned());
    diverge(&mut cluster, |_| {});
    let mark = cluster.sandbox.file(cluster.nodes[0].data.join("is-not-in-a-new-copy"), "");
    cluster.start_node(0);
    cluster.nodes[0].wait_log("it is Monday", Limit(60));
    if !cluster.programs.test_the_reference() {
        cluster.nodes[0].wait_log("pg_rewind failed 5 times", Limit(60));
        cluster.nodes[0].wait_log("patronictl reinit batman n0", Limit(1));
    }
    assert!(mark.exists(), "nothing is removed without leave");
    assert_eq!(cluster.nodes[0].postmaster(), None, "nor started with rows that nobody else has");
    cluster.nodes[1].patch_config(&json!({"postgresql": {"remove_data_directory_on_rewind_failure": true}}));
    assert_follows(&cluster);
    assert!(!mark.exists(), "copied anew");
}

#[test]
fn a_wrong_rewind_password_is_told_and_the_data_wait_for_the_right_one() {
    let mut cluster = Cluster::of(2).start();
    diverge(&mut cluster, |_| {});
    let password = "/postgresql/authentication/rewind/password";
    *cluster.nodes[0].config.pointer_mut(password).unwrap() = json!("wrong");
    cluster.start_node(0);
    cluster.nodes[0].wait_log("password authentication failed for user \"rewinder\"", Limit(60));
    *cluster.nodes[0].config.pointer_mut(password).unwrap() = json!("rewind-secret");
    cluster.nodes[0].write_config(&cluster.sandbox);
    cluster.nodes[0].post("/reload", &json!({}));
    assert_follows(&cluster);
    assert_not_copied(&cluster);
}
