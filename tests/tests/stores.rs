//! On each store beside etcd 3 and the embedded one: our nodes and those of Patroni 4.1.5 in one cluster, led in turns.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use patroni_tests::{Cluster, Kind, Limit, Programs, Signal, Store, json, wait_for};

/// Bootstraps, switches over both ways with both kinds of patronictl, and survives kill -9 of the other kind's leader.
fn lives_with_the_reference(store: Store) {
    if !can_be_mixed(store) {
        return;
    }
    let mut cluster = Cluster::mixed(&[Kind::Ours, Kind::Reference]).on(store).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 0 AS row");
    for (kind, from, to) in [(Kind::Ours, 0, 1), (Kind::Reference, 1, 0), (Kind::Ours, 0, 1)] {
        let (leader, candidate) = (format!("n{from}"), format!("n{to}"));
        let arguments = ["switchover", "batman", "--leader", &leader, "--candidate", &candidate, "--force"];
        let output = cluster.ctl_of(kind, &arguments);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{kind:?} {from} to {to}: {text}");
        cluster.wait_streaming(to, Limit(40));
        cluster.nodes[to].sql(&format!("INSERT INTO t VALUES ({to})"));
    }
    if store != Store::Kubernetes {
        both_members_by_the_address_of_the_store(&mut cluster);
    }
    cluster.nodes[0].wait_sql("SELECT count(*) FROM t", "4", Limit(20));

    // The key of the other kind's leader ends by itself.
    cluster.nodes[1].kill_hard();
    assert_eq!(cluster.wait_leader_among(&[0], Limit(60)), 0);
    assert_eq!(cluster.nodes[0].sql("SELECT count(*) FROM t"), "4");
    cluster.start_node(1);
    cluster.wait_streaming(0, Limit(60));
}

/// Whether such a cluster can be made here.
fn can_be_mixed(store: Store) -> bool {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return false;
    }
    store.is_here()
}

fn both_members_by_the_address_of_the_store(cluster: &mut Cluster) {
    let address = cluster.server.as_ref().unwrap().address();
    for kind in [Kind::Ours, Kind::Reference] {
        wait_for("both members, by the address of the store", Limit(10), || {
            let output = cluster.ctl_of(kind, &["-d", &address, "list", "-f", "tsv", "batman"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let good = output.status.success() && text.contains("n0") && text.matches("streaming").count() == 1;
            if good { Ok(()) } else { Err(format!("{kind:?}: {text}{}", String::from_utf8_lossy(&output.stderr))) }
        });
    }
}

#[test]
fn etcd_by_version_2() {
    lives_with_the_reference(Store::Etcd);
}

#[test]
fn consul() {
    lives_with_the_reference(Store::Consul);
}

#[test]
fn zookeeper() {
    lives_with_the_reference(Store::ZooKeeper);
}

#[test]
fn kubernetes() {
    lives_with_the_reference(Store::Kubernetes);
}

/// The same ZooKeeper, found by another way: the shortest that shows both kinds of agents and of patronictl.
#[test]
fn exhibitor() {
    if !can_be_mixed(Store::Exhibitor) {
        return;
    }
    let mut cluster = Cluster::mixed(&[Kind::Ours, Kind::Reference]).on(Store::Exhibitor).start();
    both_members_by_the_address_of_the_store(&mut cluster);
}

/// The store stands still for longer than leases and sessions last, which may end them all as soon as it goes on: nobody takes the lead
/// from a primary that all members agreed to. With Consul it may have to take it once more: a session that ends between the read and the
/// renewal looks like a lease that is lost.
fn its_silence_is_outlived(store: Store) {
    const LEASE: Duration = Duration::from_secs(20);
    if !store.is_here() {
        return;
    }
    let mut cluster = Cluster::of(2).on(store).dcs(json!({"failsafe_mode": true})).start();
    cluster.wait_streaming(0, Limit(60));
    wait_for("all members are in /failsafe", Limit(30), || {
        let said = String::from_utf8_lossy(&cluster.ctl(&["store", "get", "failsafe"]).stdout).into_owned();
        if said.contains("\"n0\"") && said.contains("\"n1\"") { Ok(()) } else { Err(said) }
    });
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 0 AS row");
    let postmaster = cluster.nodes[0].postmaster();
    cluster.server.as_ref().unwrap().signal(Signal::STOP);
    let (begun, mut written) = (Instant::now(), 0);
    while begun.elapsed() < LEASE + Duration::from_secs(5) {
        cluster.nodes[0].sql("INSERT INTO t SELECT max(row) + 1 FROM t");
        written += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    cluster.nodes[0].wait_state("failsafe mode shows", Limit(20), |state| state["failsafe_mode_is_active"] == true);
    cluster.server.as_ref().unwrap().signal(Signal::CONT);
    cluster.nodes[0]
        .wait_state("failsafe mode is over", Limit(60), |state| state.get("failsafe_mode_is_active").is_none());
    let leader = cluster.wait_leader_among(&[0, 1], Limit(60));
    cluster.wait_streaming(leader, Limit(60));
    let rows = cluster.nodes[leader].sql("SELECT max(row) FROM t");
    assert_eq!(rows, written.to_string(), "what was written meanwhile is there");
    if store != Store::Consul {
        assert_eq!((leader, cluster.nodes[0].postmaster(), cluster.nodes[0].timeline()), (0, postmaster, 1));
    }
}

#[test]
fn the_silence_of_etcd_by_version_2_is_outlived() {
    its_silence_is_outlived(Store::Etcd);
}

#[test]
fn the_silence_of_consul_is_outlived() {
    its_silence_is_outlived(Store::Consul);
}

#[test]
fn the_silence_of_zookeeper_is_outlived() {
    its_silence_is_outlived(Store::ZooKeeper);
}

#[test]
fn the_silence_of_kubernetes_is_outlived() {
    its_silence_is_outlived(Store::Kubernetes);
}
