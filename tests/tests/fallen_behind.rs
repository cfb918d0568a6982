//! Replicas that fell behind or broke in the middle: from the archive, by what is allowed, with what helps, and how far they are.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::PathBuf;

use patroni_tests::{Cluster, Limit, json, wait_for};

#[test]
fn wal_comes_from_the_archive_and_where_it_is_gone_that_is_told_once_and_the_node_cloned_when_allowed() {
    let mut cluster = Cluster::of(2).prepare();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference goes on without a word");
        return;
    }
    let archive = cluster.sandbox.directory("archive");
    for node in &mut cluster.nodes {
        let parameters = &mut node.config["postgresql"]["parameters"];
        parameters["archive_mode"] = json!("on");
        parameters["archive_command"] = json!(format!("cp %p {}/%f", archive.display()));
        parameters["restore_command"] = json!(format!("cp {}/%f %p", archive.display()));
        node.config["bootstrap"]["dcs"]["postgresql"]["use_slots"] = json!(false);
        node.config["bootstrap"]["dcs"]["postgresql"]["parameters"]["wal_keep_size"] = json!("16MB");
        node.config["bootstrap"]["dcs"]["postgresql"]["parameters"]["min_wal_size"] = json!("32MB");
        node.config["bootstrap"]["dcs"]["postgresql"]["parameters"]["max_wal_size"] = json!("48MB");
    }
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    let copy = inode(&cluster, 1);

    leave_behind(&mut cluster);
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    assert!(cluster.nodes[1].log().contains("restored log file"), "from the archive");
    assert_eq!(inode(&cluster, 1), copy, "not cloned anew");

    leave_behind(&mut cluster);
    for file in std::fs::read_dir(&archive).unwrap().flatten() {
        std::fs::remove_file(file.path()).unwrap();
    }
    cluster.start_node(1);
    let gone = "which this node needs next, is no longer on n0, and restore_command does not bring it";
    cluster.nodes[1].wait_log(gone, Limit(60));
    cluster.nodes[1].wait_log("patronictl reinit batman n1", Limit(1));
    // Looked into again and again, told once.
    let compared = || cluster.nodes[1].log().matches("primary_timeline=").count();
    let before = compared();
    wait_for("two more looks", Limit(60), || if compared() >= before + 2 { Ok(()) } else { Err(compared()) });
    assert_eq!(cluster.nodes[1].log().matches(gone).count(), 1);
    assert_eq!(inode(&cluster, 1), copy, "not cloned anew without leave");
    // A new directory may well get the inodes of the old one.
    let marker = cluster.nodes[1].data.join("is-not-in-a-new-copy");
    std::fs::write(&marker, "").unwrap();
    cluster.nodes[0].patch_config(&json!({"postgresql": {"remove_data_directory_on_missing_wal": true}}));
    // For a moment it also streams each time it finds that the WAL is gone.
    wait_for("it is cloned anew", Limit(60), || if marker.exists() { Err(()) } else { Ok(()) });
    cluster.nodes[1].wait_streaming(Limit(60));
}

fn inode(cluster: &Cluster, node: usize) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(cluster.nodes[node].data.join("PG_VERSION")).unwrap().ino()
}

/// Node 1 is down until the primary has removed WAL that it needs.
fn leave_behind(cluster: &mut Cluster) {
    // What comes next for a node that has everything. (At the end of a file PostgreSQL names that file.)
    let end = cluster.nodes[0].sql("SELECT pg_current_wal_flush_lsn()");
    cluster.nodes[1].wait_sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t", Limit(20));
    let file = cluster.nodes[0].sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn() + 1)");
    let needed = cluster.nodes[0].data.join("pg_wal").join(file);
    cluster.nodes[1].kill_hard();
    wait_for("the primary has removed the WAL", Limit(60), || {
        cluster.nodes[0].sql("SELECT pg_switch_wal() FROM txid_current()");
        cluster.nodes[0].sql("CHECKPOINT");
        if needed.exists() { Err("still there") } else { Ok(()) }
    });
}

/// Started while nobody led, it has nobody to get WAL from, and does not answer before it has it.
#[test]
fn a_replica_that_lacks_what_makes_it_consistent_gets_it_from_whoever_leads_next() {
    let mut cluster = Cluster::of(2).start();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference waits for a minute first");
        return;
    }
    cluster.nodes[0].sql("CHECKPOINT");
    let end = cluster.nodes[0].sql("SELECT pg_current_wal_flush_lsn()");
    cluster.nodes[1].wait_sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t", Limit(20));
    cluster.nodes[1].sql("CHECKPOINT");
    let last = cluster.nodes[0].sql("SELECT pg_walfile_name(pg_switch_wal())");
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    cluster.nodes[1].wait_sql("SELECT to_regclass('t') IS NULL", "f", Limit(20));
    cluster.nodes[1].terminate(Limit(30));
    for file in std::fs::read_dir(cluster.nodes[1].data.join("pg_wal")).unwrap().flatten() {
        let name = file.file_name().into_string().unwrap();
        if name.len() == last.len() && name > last {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    cluster.nodes[0].terminate(Limit(30));
    cluster.start_node(1);
    cluster.nodes[1].wait_log("starting as a secondary", Limit(60));
    cluster.start_node(0);
    cluster.nodes[1].wait_streaming(Limit(30));
    assert_eq!(cluster.nodes[1].sql("SELECT count(*) FROM t"), "1");
}

#[test]
fn a_delayed_replica_shows_nothing_before_its_time_and_loses_nothing_when_it_is_promoted() {
    let delay = json!({"postgresql": {"recovery_conf": {"recovery_min_apply_delay": "1h"}}});
    let mut cluster = Cluster::of(2).node(1, delay).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    let end = cluster.nodes[0].sql("SELECT pg_current_wal_flush_lsn()");
    cluster.nodes[1].wait_sql(&format!("SELECT pg_last_wal_receive_lsn() >= '{end}'"), "t", Limit(20));
    assert_eq!(cluster.nodes[1].sql("SELECT to_regclass('t') IS NULL"), "t");
    wait_for("/cluster shows what is received and not replayed", Limit(20), || {
        let member = cluster.nodes[0].request("GET", "/cluster", None).unwrap().json()["members"][1].clone();
        let shown = member["receive_lag"] == 0 && member["replay_lag"].as_u64() > Some(0);
        if shown { Ok(()) } else { Err(member) }
    });
    cluster.nodes[0].kill_hard();
    cluster.nodes[1].wait_primary(Limit(60));
    assert_eq!(cluster.nodes[1].sql("SELECT count(*) FROM t"), "1");
    cluster.start_node(0);
    cluster.wait_streaming(1, Limit(60));
}

#[test]
fn progress_of_a_clone_is_shown_and_one_that_was_killed_in_the_middle_is_made_again() {
    let slow = json!({"postgresql": {"basebackup": [{"checkpoint": "fast"}, {"max-rate": "1M"}]}});
    let mut cluster = Cluster::of(2).node(1, slow).prepare();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference shows no progress, and keeps half a copy for ever");
        return;
    }
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    let state = cluster.nodes[1].wait_state("a part is copied", Limit(60), |state| {
        state["job"]["percent"].as_u64().is_some_and(|percent| percent > 2)
    });
    let job = &state["job"];
    assert!(
        job["bytes"].as_u64() < job["total_bytes"].as_u64() && job["total_bytes"].as_u64() > Some(10 << 20),
        "{job}"
    );
    assert!(job["progress"].as_str().unwrap().contains(" MB ("), "{job}");
    let shown = |cluster: &Cluster| {
        cluster.nodes[0].request("GET", "/cluster", None).unwrap().json()["members"][1]["job"].clone()
    };
    wait_for("/cluster of the leader shows it", Limit(20), || {
        let job = shown(&cluster);
        if job["percent"].is_u64() { Ok(()) } else { Err(job) }
    });
    cluster.nodes[1].kill_agent();
    assert!(cluster.nodes[1].data.join("backup_label").exists(), "half a copy");
    cluster.nodes[1].config["postgresql"]["basebackup"] = json!([{"checkpoint": "fast"}, "no-sync"]);
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    wait_for("/cluster shows no job", Limit(20), || if shown(&cluster).is_null() { Ok(()) } else { Err("still") });
    assert!(!mark(&cluster).exists());
}

/// By a script that has copied what makes the directory look whole.
#[test]
fn a_copy_by_a_script_that_was_interrupted_is_made_again_and_the_script_ended() {
    let mut cluster = Cluster::of(2).prepare();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference starts half a copy, beside the script that goes on");
        return;
    }
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    let (source, data) = (cluster.nodes[0].data.clone(), cluster.nodes[1].data.clone());
    let pid_file = cluster.sandbox.path().join("pid");
    let script = format!(
        "#!/bin/sh\necho $$ > {pid}\nmkdir -p {data}/global\ncp {source}/PG_VERSION {data}\n\
         cp {source}/global/pg_control {data}/global\nsleep 600\ntouch {data}/still-at-work\n",
        pid = pid_file.display(),
        data = data.display(),
        source = source.display()
    );
    let command = cluster.sandbox.file("copy", &script);
    for keep_data in [false, true] {
        let postgresql = &mut cluster.nodes[1].config["postgresql"];
        postgresql["create_replica_methods"] = json!(["half"]);
        postgresql["half"] = json!({"command": command, "keep_data": keep_data, "no_params": true});
        cluster.start_node(1);
        wait_for("it looks whole, and is marked", Limit(60), || {
            let text = std::fs::read_to_string(data.join("logrotate")).unwrap_or_default();
            let known = std::fs::read_to_string(mark(&cluster)).unwrap_or_default();
            if text.contains("clone") && known.contains("\"pid\"") { Ok(()) } else { Err((text, known)) }
        });
        cluster.nodes[1].kill_agent();
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let is_at_work = || std::path::Path::new("/proc").join(pid.to_string()).join("exe").exists();
        assert!(is_at_work());
        cluster.nodes[1].config["postgresql"]["create_replica_methods"] = json!(["basebackup"]);
        cluster.start_node(1);
        cluster.nodes[1].wait_streaming(Limit(60));
        assert!(!is_at_work(), "keep_data: {keep_data}");
        cluster.nodes[1].wait_log("the rest of a copy that was interrupted", Limit(1));
        assert!(!mark(&cluster).exists() && !data.join("logrotate").exists());
        cluster.nodes[1].terminate(Limit(30));
        std::fs::remove_dir_all(&data).unwrap();
    }
}

#[test]
fn an_interrupted_rewind_is_not_started_and_finished_after_a_power_cut() {
    let mut cluster = Cluster::of(2).prepare();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference starts what pg_rewind has left");
        return;
    }
    // A pg_rewind that hangs in the middle, until it is allowed to work.
    let allowed = cluster.sandbox.path().join("may-rewind");
    let pid_file = cluster.sandbox.path().join("pid");
    let real = cluster.programs.pg_bin.join("pg_rewind");
    let script = format!(
        "#!/bin/sh\ncase $1 in --help) exit 0;; esac\ntest -e {allowed} && exec {real} \"$@\"\n\
         echo 'pg_rewind: need to copy 20 MB (total source directory size is 30 MB)' >&2\n\
         echo $$ > {pid}\necho '  1024/20480 kB (5%) copied' >&2\nsleep 600\n",
        pid = pid_file.display(),
        allowed = allowed.display(),
        real = real.display()
    );
    cluster.replace_program(1, "pg_rewind", &script);
    cluster.start_node(1);
    cluster.nodes[1].wait_primary(Limit(60));
    cluster.start_node(0);
    cluster.nodes[0].wait_streaming(Limit(60));

    cluster.nodes[1].signal(patroni_tests::Signal::STOP);
    let receiver = cluster.nodes[0].sql("SELECT pid FROM pg_stat_wal_receiver").parse().unwrap();
    patroni_tests::signal(receiver, patroni_tests::Signal::STOP);
    cluster.nodes[1].sql("CREATE TABLE lost AS SELECT generate_series(1, 1000)");
    cluster.nodes[1].kill_hard();
    patroni_tests::signal(receiver, patroni_tests::Signal::KILL);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_state("pg_rewind is at work", Limit(60), |state| state["job"]["percent"] == 5);
    assert!(mark(&cluster).exists());

    // Nobody leads: it is not started even so, nor does it lead.
    cluster.nodes[1].kill_agent();
    let pid = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    patroni_tests::signal(pid, patroni_tests::Signal::KILL);
    cluster.nodes[0].kill_hard();
    wait_for("the lease ends", Limit(40), || cluster.key("leader").map_or(Ok(()), Err));
    cluster.start_node(1);
    cluster.nodes[1].wait_log("not starting postgres, because pg_rewind did not succeed", Limit(30));
    assert_eq!(cluster.nodes[1].postmaster(), None);
    cluster.sandbox.file("may-rewind", "");
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.nodes[1].wait_streaming(Limit(60));
    cluster.nodes[1].wait_sql("SELECT to_regclass('lost') IS NULL", "t", Limit(10));
    assert!(!mark(&cluster).exists());
}

fn mark(cluster: &Cluster) -> PathBuf {
    cluster.nodes[1].data.with_extension("unfinished")
}
