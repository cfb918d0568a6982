//! Nodes die and freeze at random under a client that writes all the time: nothing that was acknowledged may be lost.
//!
//! `SYNC_KILLS` faults (3 by default), `SYNC_SEED` to have the same again, `SYNC_DCS` for other settings, as JSON. Long runs
//! without the time limit of nextest: `SYNC_KILLS=50 cargo test -p patroni-tests --test synchronous_kills`.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // Faults come at random moments.

use std::time::Duration;

use patroni_tests::{Cluster, Kind, Limit, Programs, Value, Writer, json, wait_for};

/// How long it may take until the cluster has a leader that can be succeeded: a lease has to end, nodes have to come back.
const RECOVERY: Limit = Limit(120);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// PostgreSQL of the leader dies.
    LeaderCrashes,
    /// The leader dies with its agent.
    LeaderDies,
    /// The leader stands still until another leads, then goes on as if nothing had happened.
    LeaderFreezes,
    /// The agent of the leader dies and is started again; PostgreSQL lives.
    AgentDies,
    /// A standby dies with its agent, and is started again.
    StandbyDies,
    /// A standby stands still for a moment.
    StandbyFreezes,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn fault(&mut self) -> Fault {
        match self.below(20) {
            0..9 => Fault::LeaderCrashes,
            9..11 => Fault::LeaderDies,
            11..13 => Fault::LeaderFreezes,
            13..15 => Fault::AgentDies,
            15..18 => Fault::StandbyDies,
            _ => Fault::StandbyFreezes,
        }
    }

    fn pause(&mut self, milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(self.below(milliseconds)));
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Waits until the leader can be succeeded by somebody; its index.
#[track_caller]
fn succeedable(cluster: &Cluster) -> usize {
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    wait_for("somebody can be elected", RECOVERY, || {
        let leader = cluster.etcd.get("leader");
        let sync = cluster.etcd.get("sync").and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let sync = sync.unwrap_or_default();
        let voters = sync["sync_standby"].as_str().map_or(0, |names| names.split(',').count() as u64);
        let electable = voters > sync["quorum"].as_u64().unwrap_or(0);
        let found = all.iter().find(|node| leader.as_ref() == Some(&cluster.nodes[**node].name));
        match found {
            Some(node) if electable && sync["leader"].as_str() == leader.as_deref() => Ok(*node),
            _ => Err(sync.to_string()),
        }
    })
}

fn strike(cluster: &mut Cluster, leader: usize, fault: Fault, random: &mut Random) {
    let others: Vec<usize> = (0..cluster.nodes.len()).filter(|node| *node != leader).collect();
    let standby = others[random.below(others.len() as u64) as usize];
    match fault {
        Fault::LeaderCrashes => {
            cluster.nodes[leader].kill_postmaster();
            // Where nobody else can be reached in that moment it comes back itself.
            cluster.wait_leader_among(&[0, 1, 2], RECOVERY);
        }
        Fault::LeaderDies => {
            cluster.nodes[leader].kill_hard();
            cluster.wait_leader_among(&others, RECOVERY);
            cluster.start_node(leader);
        }
        Fault::LeaderFreezes => {
            let frozen = cluster.nodes[leader].freeze();
            cluster.wait_leader_among(&others, RECOVERY);
            frozen.thaw();
        }
        Fault::AgentDies => {
            cluster.nodes[leader].kill_agent();
            random.pause(3000);
            cluster.start_node(leader);
        }
        Fault::StandbyDies => {
            cluster.nodes[standby].kill_hard();
            random.pause(3000);
            cluster.start_node(standby);
        }
        Fault::StandbyFreezes => {
            let frozen = cluster.nodes[standby].freeze();
            random.pause(6000);
            frozen.thaw();
        }
    }
}

#[track_caller]
fn nothing_is_lost(mode: Value) {
    let dcs = json!({
        "loop_wait": 2, "primary_start_timeout": 0, "maximum_lag_on_failover": 0, "synchronous_mode": mode,
    });
    let other = std::env::var("SYNC_DCS").map_or(json!({}), |text| serde_json::from_str(&text).unwrap());
    let mut cluster = Cluster::of(3).dcs(dcs).dcs(other).start();
    let (faults, seed) = (number("SYNC_KILLS").unwrap_or(3), number("SYNC_SEED"));
    let mut random = Random(seed.unwrap_or_else(|| u64::from(std::process::id())));
    eprintln!("SYNC_SEED={}", random.0);
    let writer = Writer::start(&cluster, 0);
    for count in 1..=faults {
        let leader = succeedable(&cluster);
        random.pause(1000);
        let fault = random.fault();
        eprintln!("{count}: n{leader} leads, {fault:?}");
        strike(&mut cluster, leader, fault, &mut random);
    }
    let leader = succeedable(&cluster);
    cluster.nodes[leader].wait_primary(RECOVERY);
    let written = writer.stop();
    assert!(written.acknowledged.len() as u64 > 10 * faults, "{} writes only", written.acknowledged.len());
    let (writes, gap) = (written.acknowledged.len(), written.longest_gap);
    eprintln!("{faults} faults, {writes} writes acknowledged, none for {gap:?} at the longest");
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

/// A node of 4.1.5 between two of ours: kills leaders until each kind has succeeded the other.
fn the_guarantee_is_kept_with_the_reference(mode: Value) {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    let kinds = [Kind::Ours, Kind::Reference, Kind::Ours];
    let dcs = json!({
        "loop_wait": 2, "primary_start_timeout": 0, "maximum_lag_on_failover": 0, "synchronous_mode": mode,
    });
    // Where there is a choice the reference is synchronous, and preferred in an election.
    let preferred = json!({"tags": {"sync_priority": 2, "failover_priority": 2}});
    let mut cluster = Cluster::mixed(&kinds).dcs(dcs).node(1, preferred).start();
    let writer = Writer::start(&cluster, 0);
    let (mut to_reference, mut to_ours) = (false, false);
    for _ in 0..6 {
        if to_reference && to_ours {
            break;
        }
        let leader = succeedable(&cluster);
        // All have to be back: a quorum counts a former leader as a voter before it is.
        cluster.wait_streaming(leader, RECOVERY);
        // Without its agent it cannot come back before another leads.
        cluster.nodes[leader].kill_hard();
        let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        let next = cluster.wait_leader_among(&others, RECOVERY);
        cluster.start_node(leader);
        to_reference |= kinds[leader] == Kind::Ours && kinds[next] == Kind::Reference;
        to_ours |= kinds[leader] == Kind::Reference && kinds[next] == Kind::Ours;
    }
    assert!(to_reference && to_ours, "one kind never succeeded the other: {to_reference} {to_ours}");
    let leader = succeedable(&cluster);
    cluster.nodes[leader].wait_primary(RECOVERY);
    let written = writer.stop();
    assert!(written.acknowledged.len() > 50, "{} writes only", written.acknowledged.len());
    written.assert_all_on(&cluster.nodes[leader]);
}

#[test]
fn mode_on_keeps_its_promise_in_a_mixed_cluster() {
    the_guarantee_is_kept_with_the_reference(json!(true));
}

#[test]
fn mode_quorum_keeps_its_promise_in_a_mixed_cluster() {
    the_guarantee_is_kept_with_the_reference(json!("quorum"));
}
