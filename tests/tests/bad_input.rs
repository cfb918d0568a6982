//! Wrong passwords, taken ports, full disks, missing programs, broken files: a clear line, and no loss.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, Signal, SmallDisk, json, wait_for};

fn empty(directory: &std::path::Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn a_wrong_replication_password_is_told_and_leaves_no_half_copy() {
    let authentication = json!({"postgresql": {"authentication": {"replication": {"password": "wrong"}}}});
    let mut cluster = Cluster::of(2).node(1, authentication).prepare();
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_log("password authentication failed for user \"replicator\"", Limit(60));
    cluster.nodes[1].wait_log("pg_basebackup exited with code=1", Limit(60));
    wait_for("nothing is left of the copy", Limit(30), || if empty(&cluster.nodes[1].data) { Ok(()) } else { Err("") });
    assert_eq!(cluster.nodes[0].status_of("/primary"), 200);
    // Put right and reloaded, the same agent goes on.
    cluster.nodes[1].config["postgresql"]["authentication"]["replication"]["password"] = json!("rep-secret");
    cluster.nodes[1].write_config(&cluster.sandbox);
    cluster.nodes[1].post("/reload", &json!({}));
    cluster.nodes[1].wait_streaming(Limit(60));
}

#[test]
fn a_wrong_superuser_password_is_told_and_harms_nobody() {
    let authentication = json!({"postgresql": {"authentication": {"superuser": {"password": "wrong"}}}});
    // Only over TCP a password is asked for here.
    let tcp = json!({"postgresql": {"use_unix_socket": false}});
    let mut cluster = Cluster::of(2).config(tcp).node(1, authentication).prepare();
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_log("password authentication failed for user \"postgres\"", Limit(60));
    assert_eq!(cluster.nodes[1].status_of("/replica"), 503);
    assert_eq!(cluster.nodes[0].status_of("/primary"), 200);
    cluster.nodes[1].config["postgresql"]["authentication"]["superuser"]["password"] = json!("super-secret");
    cluster.nodes[1].write_config(&cluster.sandbox);
    cluster.nodes[1].post("/reload", &json!({}));
    cluster.nodes[1].wait_streaming(Limit(60));
}

#[test]
fn a_taken_rest_port_ends_the_agent_with_a_clear_line() {
    let mut cluster = Cluster::of(1).prepare();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", cluster.nodes[0].rest_port)).unwrap();
    cluster.start_node(0);
    let status = cluster.nodes[0].wait_exit(Limit(30));
    assert!(!status.success());
    let log = cluster.nodes[0].log();
    assert!(log.contains("Address already in use"), "{log}");
    assert!(log.contains(&cluster.nodes[0].rest_port.to_string()) || cluster.programs.test_the_reference(), "{log}");
}

#[test]
fn a_taken_port_of_the_embedded_store_ends_the_agent_with_a_clear_line() {
    let mut cluster = Cluster::of(1).embedded().prepare();
    let address = cluster.nodes[0].config["raft"]["self_addr"].as_str().unwrap().to_owned();
    let _taken = std::net::TcpListener::bind(&address).unwrap();
    cluster.start_node(0);
    assert!(!cluster.nodes[0].wait_exit(Limit(30)).success());
    let log = cluster.nodes[0].log();
    assert!(log.contains("Address already in use") && log.contains(&address), "{log}");
}

#[test]
fn a_taken_postgresql_port_is_told_and_leaves_a_cluster_to_come() {
    let mut cluster = Cluster::of(1).prepare();
    let taken = std::net::TcpListener::bind(("127.0.0.1", cluster.nodes[0].pg_port)).unwrap();
    cluster.start_node(0);
    cluster.nodes[0].wait_log("Address already in use", Limit(60));
    drop(taken);
    wait_for("the next attempt works", Limit(90), || {
        if !cluster.nodes[0].agent_runs() {
            cluster.start_node(0);
        }
        if cluster.nodes[0].is_writable_primary() { Ok(()) } else { Err("no primary") }
    });
}

#[test]
fn a_replica_whose_port_is_taken_and_its_leader_still_end_when_asked() {
    let mut cluster = Cluster::of(2).prepare();
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    let _taken = std::net::TcpListener::bind(("127.0.0.1", cluster.nodes[1].pg_port)).unwrap();
    cluster.start_node(1);
    cluster.nodes[1].wait_log("Address already in use", Limit(60));
    cluster.nodes[0].signal(Signal::TERM);
    cluster.nodes[1].signal(Signal::TERM);
    for node in &mut cluster.nodes {
        assert!(node.wait_exit(Limit(15)).success());
        assert_eq!(node.postmaster(), None);
    }
}

/// Puts the data of a node on a file system that is too small for them.
fn small_disk_below(cluster: &mut Cluster, node: usize) -> Option<SmallDisk> {
    let disk = SmallDisk::new(&cluster.sandbox, "small", "12m")?;
    cluster.nodes[node].data = disk.path().join("data");
    cluster.nodes[node].config["postgresql"]["data_dir"] = json!(cluster.nodes[node].data);
    Some(disk)
}

#[test]
fn a_full_disk_at_clone_is_told_and_the_clone_comes_once_there_is_room() {
    let mut cluster = Cluster::of(2).prepare();
    let Some(disk) = small_disk_below(&mut cluster, 1) else { return };
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_log("No space left on device", Limit(60));
    wait_for("the rest of the copy is removed", Limit(30), || {
        if cluster.nodes[1].data.join("PG_VERSION").exists() { Err("still there") } else { Ok(()) }
    });
    disk.grow("500m");
    cluster.nodes[1].wait_streaming(Limit(60));
    cluster.nodes[1].kill_hard();
}

#[test]
fn a_full_disk_at_bootstrap_is_told_and_the_cluster_comes_once_there_is_room() {
    let mut cluster = Cluster::of(1).prepare();
    let Some(disk) = small_disk_below(&mut cluster, 0) else { return };
    cluster.start_node(0);
    cluster.nodes[0].wait_log("No space left on device", Limit(60));
    wait_for("others may try", Limit(30), || cluster.etcd.get("initialize").map_or(Ok(()), Err));
    disk.grow("500m");
    wait_for("the next attempt works", Limit(90), || {
        if !cluster.nodes[0].agent_runs() {
            cluster.start_node(0);
        }
        if cluster.nodes[0].is_writable_primary() { Ok(()) } else { Err("no primary") }
    });
    cluster.nodes[0].kill_hard();
}

#[test]
fn missing_programs_are_named() {
    let mut cluster = Cluster::of(1).prepare();
    let nowhere = cluster.sandbox.directory("nowhere");
    cluster.nodes[0].config["postgresql"]["bin_dir"] = json!(nowhere);
    cluster.start_node(0);
    wait_for("the missing program is named", Limit(30), || {
        let log = cluster.nodes[0].log();
        let named =
            log.contains(nowhere.to_str().unwrap()) && (log.contains("No such file") || log.contains("not found"));
        if named { Ok(()) } else { Err(log) }
    });
    assert!(empty(&cluster.nodes[0].data));
}

#[test]
fn an_unwritable_data_directory_is_told() {
    let mut cluster = Cluster::of(1).prepare();
    cluster.nodes[0].config["postgresql"]["data_dir"] = json!("/proc/nowhere/data");
    cluster.start_node(0);
    cluster.nodes[0].wait_log("/proc/nowhere", Limit(30));
    assert_ne!(cluster.nodes[0].status_of("/primary"), 200);
}

#[test]
fn broken_files_end_the_agent_with_what_and_where() {
    let mut cluster = Cluster::of(1).prepare();
    let path = cluster.nodes[0].directory().join("patroni.yml");
    for (text, expected) in [
        ("scope: [batman\n", "patroni.yml"),
        ("name: n0\n", "scope"),
        ("scope: batman\nname: n0\n", "listen"),
        ("just words", ""),
    ] {
        cluster.sandbox.file(&path, text);
        let output = cluster.sandbox.command(&cluster.programs.patroni).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success(), "{text:?} was accepted: {said}");
        assert!(!said.contains("panicked"), "{text:?}: {said}");
        assert!(said.contains(expected) || cluster.programs.test_the_reference(), "{text:?}: {said}");
    }
    let output = cluster.sandbox.command(&cluster.programs.patroni).arg("/does/not/exist.yml").output().unwrap();
    assert!(!output.status.success());
    cluster.nodes[0].write_config(&cluster.sandbox);
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
}

#[test]
fn secrets_are_not_logged() {
    let mut cluster = Cluster::of(2).config(json!({"log": {"level": "DEBUG"}})).start();
    let answer = cluster.nodes[0].post("/switchover", &json!({"leader": "n0", "candidate": "n1"}));
    assert_eq!(answer.status, 200);
    cluster.wait_streaming(1, Limit(30));
    if cluster.programs.test_the_reference() {
        return;
    }
    for node in &cluster.nodes {
        for secret in ["super-secret", "rep-secret", "rewind-secret"] {
            let log = node.log();
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{} logs a password", node.name);
        }
    }
}
