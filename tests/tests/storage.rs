//! Storage that fails the leader: it cannot be read or written, hangs, or is gone. Somebody else leads soon, and the node comes back by itself.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use patroni_tests::{Cluster, FailingDisk, Limit, Node, Signal, Writer, json, process_exists, signal};

const TAKEOVER: Limit = Limit(30);
const COMEBACK: Limit = Limit(60);

/// The agent runs as the user of PostgreSQL, whom the mode of a directory concerns.
#[test]
fn a_data_directory_that_cannot_be_read_costs_the_lease_and_nothing_else() {
    // Nothing is acknowledged that the other one does not have: WAL that cannot be read cannot be sent either.
    let dcs = json!({"synchronous_mode": "on", "synchronous_mode_strict": true});
    let mut cluster = Cluster::of(2).dcs(dcs).start();
    let writer = Writer::start(&cluster, 0);
    cluster.nodes[1].wait_status_of("/synchronous", 200, TAKEOVER);
    let ticks = |log: &str| log.lines().count();
    let before = ticks(&cluster.nodes[0].log());
    let data = cluster.nodes[0].data.clone();
    std::fs::set_permissions(&data, Permissions::from_mode(0o000)).unwrap();
    cluster.wait_leader_among(&[1], TAKEOVER);
    cluster.nodes[0].wait_status_of("/primary", 503, TAKEOVER);
    std::thread::sleep(Duration::from_secs(5));
    let log = cluster.nodes[0].log();
    assert!(log.contains("released leader key voluntarily as data dir not accessible"), "{log}");
    let lines = ticks(&log) - before;
    assert!(lines < 400, "{lines} lines of log: a busy loop");
    std::fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    cluster.wait_streaming(1, COMEBACK);
    writer.stop().assert_all_on(&cluster.nodes[0]);
}

#[test]
fn a_leader_whose_server_hangs_makes_way_and_comes_back() {
    for mode in ["off", "on", "quorum"] {
        let dcs = json!({
            "synchronous_mode": mode, "synchronous_mode_strict": mode == "on", "primary_hang_timeout": 10,
        });
        let mut cluster = Cluster::of(3).dcs(dcs).start();
        let writer = Writer::start(&cluster, 0);
        std::thread::sleep(Duration::from_secs(3));
        let processes = processes_of(&cluster.nodes[0]);
        assert!(processes.len() > 5, "{processes:?}");
        processes.iter().for_each(|pid| signal(*pid, Signal::STOP));
        let leader = cluster.wait_leader_among(&[1, 2], TAKEOVER);
        assert!(cluster.nodes[0].log().contains("PostgreSQL hangs"), "it does not say what happened");
        cluster.wait_streaming(leader, COMEBACK);
        let written = writer.stop();
        // Half of ttl, 20 s here, and five more.
        println!("synchronous_mode {mode}: the longest gap between two writes was {:?}", written.longest_gap);
        if mode != "off" {
            written.assert_all_on(&cluster.nodes[leader]);
        }
    }
}

/// Two nodes, of which the first, the leader, has its data on a disk that can fail. Nothing is acknowledged that the other one does not have.
fn with_failing_disk() -> Option<(Cluster, FailingDisk, Writer)> {
    let dcs = json!({"synchronous_mode": "on", "synchronous_mode_strict": true, "primary_hang_timeout": 5});
    let mut cluster = Cluster::of(2).dcs(dcs).prepare();
    let disk = FailingDisk::new(&cluster.sandbox, "disk")?;
    cluster.nodes[0].data = disk.path().join("data");
    let config = json!({"postgresql": {"data_dir": cluster.nodes[0].data}});
    cluster.nodes[0].change_config(&config);
    cluster.start_all();
    let writer = Writer::start(&cluster, 0);
    cluster.nodes[1].wait_status_of("/synchronous", 200, TAKEOVER);
    Some((cluster, disk, writer))
}

/// The other one leads and takes writes; the former leader says nothing else, and says it quietly.
#[track_caller]
fn wait_handed_over(cluster: &Cluster, failed: Instant) {
    cluster.nodes[1].wait_primary(TAKEOVER);
    println!("the other one took writes after {:?}", failed.elapsed());
    assert_eq!(cluster.nodes[0].status_of("/primary"), 503, "{}", cluster.nodes[0].status());
    let lines = || cluster.nodes[0].log().lines().count();
    std::thread::sleep(Duration::from_secs(2));
    let before = lines();
    std::thread::sleep(Duration::from_secs(5));
    let written = lines() - before;
    assert!(written < 60, "{written} lines of log in five seconds: a busy loop");
}

/// It comes back as a standby, and what was acknowledged before and after is there.
#[track_caller]
fn wait_comeback(mut cluster: Cluster, writer: Writer) {
    cluster.wait_streaming(1, COMEBACK);
    writer.stop().assert_all_on(&cluster.nodes[1]);
}

/// So does `dmsetup suspend`. What was frozen goes on where it stood, once it is thawed: no write of the former primary is acknowledged then.
#[test]
fn a_leader_whose_file_system_is_frozen_makes_way_and_comes_back() {
    let Some((cluster, disk, writer)) = with_failing_disk() else { return };
    let former = cluster.nodes[0].postmaster().unwrap();
    let failed = Instant::now();
    assert!(disk.freeze());
    wait_handed_over(&cluster, failed);
    assert!(cluster.nodes[0].log().contains("hangs"), "it does not say what happened");
    assert!(disk.thaw());
    cluster.nodes[0].wait_streaming(COMEBACK);
    assert_ne!(cluster.nodes[0].postmaster(), Some(former), "the server that hung is gone");
    wait_comeback(cluster, writer);
}

#[test]
fn a_leader_whose_file_system_becomes_read_only_makes_way_and_comes_back() {
    let Some((cluster, disk, writer)) = with_failing_disk() else { return };
    let failed = Instant::now();
    assert!(disk.make_read_only());
    wait_handed_over(&cluster, failed);
    let list = cluster.ctl_ok(&["list"]);
    assert!(list.contains("n0: ") && list.contains("Read-only file system"), "{list}");
    disk.repair();
    wait_comeback(cluster, writer);
}

/// What is left where a file system was mounted is an empty directory. Nothing is copied there: what a server in it writes by its path
/// would go into the old data directory, once that is mounted again.
#[test]
fn a_leader_whose_file_system_is_unmounted_makes_way_and_comes_back_with_it() {
    let Some((cluster, disk, writer)) = with_failing_disk() else { return };
    let former = cluster.nodes[0].postmaster().unwrap();
    let failed = Instant::now();
    assert!(disk.unmount());
    wait_handed_over(&cluster, failed);
    assert!(!process_exists(former), "a server that lost its files runs on");
    cluster.nodes[0].wait_log("data directory is not accessible: it was in the file system at", TAKEOVER);
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 0, "it was copied to where nothing is mounted");
    assert!(disk.mount_again());
    wait_comeback(cluster, writer);
}

/// What was on the disk is lost. An empty one in its place is filled.
#[test]
fn a_leader_whose_disk_fails_makes_way_and_is_copied_to_a_new_one() {
    let Some((cluster, disk, writer)) = with_failing_disk() else { return };
    let failed = Instant::now();
    assert!(disk.fail());
    wait_handed_over(&cluster, failed);
    assert!(cluster.ctl_ok(&["list"]).contains("n0: "), "it does not say what happened");
    assert!(disk.replace(&cluster.sandbox));
    wait_comeback(cluster, writer);
}

fn processes_of(node: &Node) -> Vec<u32> {
    let postmaster = node.postmaster().expect("PostgreSQL runs");
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    std::iter::once(postmaster).chain(children).collect()
}
