//! A living cluster goes to another store and back: PostgreSQL runs on, clients write on.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Etcd, Limit, Server, Store, Value, Writer, json, wait_for};

/// The procedure of docs/embedded-store.md, but for what belongs to one kind of store. `change` makes a node's
/// configuration name the new store, `old` is the old one for patronictl.
fn move_all(cluster: &mut Cluster, leader: usize, old: &str, new: &str, change: &Value) {
    let postmasters: Vec<_> = cluster.nodes.iter().map(|node| node.postmaster().unwrap()).collect();
    cluster.ctl_ok(&["pause", "--wait"]);
    let said = cluster.ctl_ok(&["store", "move", "--to", new, "--force"]);
    assert!(said.contains("  initialize is created\nSuccess: the keys are in "), "{said}");
    let again = cluster.ctl_ok(&["store", "move", "--to", new]);
    assert!(!again.contains("is created") && again.contains("  config     is the same"), "{again}");

    let others = (0..cluster.nodes.len()).filter(|index| *index != leader);
    for index in std::iter::once(leader).chain(others) {
        cluster.nodes[index].terminate(Limit(20));
        cluster.nodes[index].change_config(change);
        cluster.start_node(index);
        cluster.nodes[index].wait_state("runs with the new store", Limit(40), |state| {
            state["state"] == "running" && state["pause"] == true
        });
        if index == leader {
            cluster.nodes[leader].wait_primary(Limit(40));
        }
    }
    // Node 0 names the new store by now.
    wait_for("all have moved", Limit(60), || {
        let output = cluster.ctl(&["store", "move", "--from", old, "--verify"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    });
    wait_for("all members are in the new store", Limit(40), || {
        let rows = cluster.list();
        if rows.len() == cluster.nodes.len() { Ok(()) } else { Err(rows) }
    });
    cluster.ctl_ok(&["resume", "--wait"]);
    cluster.wait_streaming(leader, Limit(40));
    for (node, postmaster) in cluster.nodes.iter().zip(postmasters) {
        assert_eq!(node.postmaster(), Some(postmaster), "PostgreSQL of {} runs on", node.name);
        assert_eq!(node.timeline(), 1);
    }
}

#[test]
fn from_one_etcd_to_another() {
    let mut cluster = Cluster::of(2).start();
    let second = Etcd::named(&cluster.sandbox, "etcd2");
    let address = |etcd: &Etcd| format!("etcd3://127.0.0.1:{}", etcd.port);
    let (old, new) = (address(&cluster.etcd), address(&second));

    let refused = cluster.ctl(&["store", "move", "--to", &new, "--force"]);
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success() && said.contains("the cluster is not paused"), "{said}");
    assert_eq!(second.get("config"), None, "nothing was copied");

    let writer = Writer::start(&cluster, 0);
    move_all(&mut cluster, 0, &old, &new, &json!({"etcd3": {"hosts": [format!("127.0.0.1:{}", second.port)]}}));
    let written = writer.stop();
    let lost = cluster.nodes[0].sql("SELECT count(*) FROM written");
    assert!(lost.parse::<usize>().unwrap() >= written.acknowledged.len(), "{lost}");
    assert!(written.longest_gap.as_secs() < 5, "clients noticed: {:?}", written.longest_gap);
    for key in ["config", "initialize"] {
        let (there, here) = (second.get(key).unwrap(), cluster.etcd.get(key).unwrap());
        assert!(there == here || key == "config" && here.contains("\"pause\":true"), "{key}: {here} | {there}");
    }
    cluster.etcd.stop();
    cluster.ctl_ok(&["switchover", "--candidate", "n1", "--force"]);
    cluster.nodes[1].wait_primary(Limit(40));
}

/// Each time the keys are those of before, whatever the next store calls a version, a lease, or nothing.
#[test]
fn through_the_other_stores() {
    let mut cluster = Cluster::of(2).start();
    let mut old = format!("etcd3://127.0.0.1:{}", cluster.etcd.port);
    let mut section = "etcd3";
    // All of them, while the keys are there.
    let mut servers = Vec::new();
    for (store, name) in [(Store::Consul, "consul"), (Store::ZooKeeper, "zookeeper"), (Store::Etcd, "etcd")] {
        if !store.is_here() {
            continue;
        }
        let server = Server::start(store, &cluster.sandbox);
        let mut change = server.configuration();
        change[section] = Value::Null;
        move_all(&mut cluster, 0, &old, &server.address(), &change);
        (old, section) = (server.address(), name);
        servers.push(server);
    }
    cluster.ctl_ok(&["switchover", "--candidate", "n1", "--force"]);
    cluster.nodes[1].wait_primary(Limit(40));
}
