//! Clusters whose agents keep the store themselves: lost hosts, lost disks, all at once, a witness.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use patroni_tests::{Cluster, Controller, Limit, Sandbox, Value, Writer, json, wait_for};

const TTL: u64 = 20;

fn insert(cluster: &Cluster, index: usize, value: u32) {
    cluster.nodes[index].sql("CREATE TABLE IF NOT EXISTS kept(value int)");
    cluster.nodes[index].sql(&format!("INSERT INTO kept VALUES ({value})"));
}

/// Kills the host of `lost`, which leads; the new leader, within the time that it takes with etcd.
#[track_caller]
fn lose_leader(cluster: &mut Cluster, lost: usize) -> usize {
    let others: Vec<usize> = (0..cluster.nodes.len()).filter(|index| *index != lost).collect();
    let killed = Instant::now();
    cluster.nodes[lost].kill_hard();
    let leader = cluster.wait_leader_among(&others, Limit(60));
    println!("a new leader after {:.1?}, ttl {TTL} s", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(TTL + 2), "a new leader after {:?}", killed.elapsed());
    leader
}

/// Where the leader of the store is.
fn leads_store(rows: &[Value]) -> &Value {
    &rows.iter().find(|row| row["Role"] == "Leader").unwrap()["Address"]
}

#[test]
fn a_lost_leader_host_costs_a_lease_and_comes_back() {
    let mut cluster = Cluster::of(3).embedded().start();
    insert(&cluster, 0, 1);
    let rows = cluster.wait_voters(3, Limit(10));
    assert_eq!(leads_store(&rows), cluster.members.as_ref().unwrap().0[0].as_str(), "the store loses its leader too");
    let leader = lose_leader(&mut cluster, 0);
    insert(&cluster, leader, 2);
    cluster.start_node(0);
    cluster.wait_streaming(leader, Limit(60));
    cluster.nodes[0].wait_sql("SELECT sum(value) FROM kept", "3", Limit(10));
    let rows = cluster.wait_voters(3, Limit(30));
    assert_eq!(rows.len(), 3, "it is the member that it was: {rows:?}");
}

/// After its end the others elect nobody for some seconds, in which nobody can take the lease.
#[test]
fn a_leader_that_is_stopped_hands_the_store_over_before_its_lease() {
    let mut cluster = Cluster::of(3).embedded().start();
    let rows = cluster.wait_voters(3, Limit(10));
    assert_eq!(leads_store(&rows), cluster.members.as_ref().unwrap().0[0].as_str(), "it leads the store, too");
    let writer = Writer::start(&cluster, 0);
    std::thread::sleep(Duration::from_secs(1));
    cluster.nodes[0].terminate(Limit(30));
    let leader = cluster.wait_leader_among(&[1, 2], Limit(30));
    cluster.nodes[leader].wait_primary(Limit(10));
    std::thread::sleep(Duration::from_secs(1));
    println!("the longest gap between two writes was {:?}", writer.stop().longest_gap);
    let log = cluster.nodes[0].log();
    let (store, lease) = (log.find("the lead was handed over to"), log.find("Leader key released"));
    assert!(store.is_some() && store < lease, "{log}");
}

#[test]
fn all_agents_at_once_find_their_cluster_again() {
    let mut cluster = Cluster::of(3).embedded().prepare();
    let leader = cluster.start_together();
    insert(&cluster, leader, 1);
    cluster.wait_voters(3, Limit(60));
    let postmasters: Vec<_> = cluster.nodes.iter().map(|node| node.postmaster().unwrap()).collect();
    cluster.nodes.iter_mut().for_each(patroni_tests::Node::kill_agent);
    (0..3).for_each(|index| cluster.start_node(index));
    cluster.wait_streaming(leader, Limit(40));
    for (node, postmaster) in cluster.nodes.iter().zip(postmasters) {
        assert_eq!((node.postmaster(), node.timeline()), (Some(postmaster), 1), "PostgreSQL of {} ran on", node.name);
    }

    // The power fails.
    cluster.nodes.iter_mut().for_each(patroni_tests::Node::kill_hard);
    (0..3).for_each(|index| cluster.start_node(index));
    let leader = cluster.wait_leader_among(&[0, 1, 2], Limit(90));
    cluster.nodes[leader].wait_sql("SELECT sum(value) FROM kept", "1", Limit(10));
    cluster.wait_streaming(leader, Limit(60));
}

#[test]
fn a_node_that_lost_its_disk_comes_back_under_its_name() {
    let mut cluster = Cluster::of(3).embedded().start();
    insert(&cluster, 0, 1);
    let own = cluster.members.as_ref().unwrap().0[0].clone();
    let id = |rows: &[Value]| rows.iter().find(|row| row["Address"] == own.as_str()).unwrap()["Member"].clone();
    let before = id(&cluster.wait_voters(3, Limit(10)));
    let leader = lose_leader(&mut cluster, 0);
    let data = cluster.nodes[0].data.clone();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::remove_dir_all(PathBuf::from(format!("{}.raft", data.display()))).unwrap();
    cluster.start_node(0);
    cluster.wait_streaming(leader, Limit(60));
    assert_ne!(id(&cluster.wait_voters(3, Limit(30))), before, "it must not vote again on what it voted on before");
    cluster.nodes[0].wait_sql("SELECT sum(value) FROM kept", "1", Limit(10));
    // Its vote counts again: it and the leader of PostgreSQL are a majority without the third.
    cluster.nodes[3 - leader].kill_hard();
    insert(&cluster, leader, 2);
    cluster.ctl_ok(&["edit-config", "-s", "ttl=21", "--force"]);
}

#[test]
fn one_witness_bears_two_clusters_of_two() {
    let [mut one, mut two] = [0, 1].map(|_| Cluster::of(2).embedded().prepare());
    let configurations = [one.add_witness(), two.add_witness()];
    let witness = Controller::start(&one, "witness", &configurations);
    let leaders = [one.start_together(), two.start_together()];
    one.wait_voters(3, Limit(60));
    two.wait_voters(3, Limit(60));
    insert(&one, leaders[0], 1);
    insert(&two, leaders[1], 1);

    let untouched = two.nodes[leaders[1]].postmaster();
    let leader = lose_leader(&mut one, leaders[0]);
    assert_eq!((two.nodes[leaders[1]].postmaster(), two.nodes[leaders[1]].timeline()), (untouched, 1));
    one.start_node(leaders[0]);
    one.wait_streaming(leader, Limit(60));
    let other = lose_leader(&mut two, leaders[1]);
    for (cluster, leader) in [(&one, leader), (&two, other)] {
        cluster.nodes[leader].wait_sql("SELECT sum(value) FROM kept", "1", Limit(10));
    }
    println!("the witness has {} KiB of its own", witness.memory());
    assert!(witness.memory() < 25 * 1024);

    // Without the witness a whole cluster lives as well.
    one.wait_voters(3, Limit(60));
    drop(witness);
    insert(&one, leader, 2);
    wait_for("the lease is renewed without the witness", Limit(40), || {
        let output = one.ctl(&["edit-config", "-s", "ttl=21", "--force"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
}

/// A small file system, which only root may have.
struct Small(PathBuf);

impl Small {
    fn mount(directory: PathBuf) -> Self {
        let arguments = ["-t", "tmpfs", "-o", "size=1m,mode=1777", "tmpfs"];
        assert!(Command::new("mount").args(arguments).arg(&directory).status().unwrap().success());
        Small(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_of_the_store_costs_a_vote_and_no_primary() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may mount a small file system");
        return;
    }
    let store = Sandbox::new();
    let small = Small::mount(store.directory("small"));
    let raft = json!({"raft": {"data_dir": small.0.join("raft")}});
    let cluster = Cluster::of(3).embedded().node(0, raft).start();
    let rows = cluster.wait_voters(3, Limit(10));
    assert_eq!(
        leads_store(&rows),
        cluster.members.as_ref().unwrap().0[0].as_str(),
        "its disk is that of the store's leader"
    );

    // It has begun without partners: the others have come later.
    for address in &cluster.members.as_ref().unwrap().0[1..] {
        cluster.nodes[0].wait_log(&format!("the member {address} is known as well"), Limit(20));
    }

    let filler = small.0.join("filler");
    assert!(std::fs::write(&filler, vec![1; 2 << 20]).is_err(), "there is room left");
    cluster.nodes[0].wait_log("No space left on device", Limit(60));
    // It uses the store through the others: the lease would have ended by now.
    let settled = Instant::now();
    while settled.elapsed() < Duration::from_secs(TTL + 5) {
        assert_eq!(cluster.nodes[0].status_of("/primary"), 200, "{}", cluster.nodes[0].status());
        std::thread::sleep(Duration::from_millis(500));
    }
    insert(&cluster, 0, 1);
    std::fs::remove_file(&filler).unwrap();
    cluster.wait_voters(3, Limit(60));
    assert_eq!(cluster.nodes[0].timeline(), 1);
}
