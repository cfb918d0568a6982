//! patronictl and the embedded store: from anywhere, looking after it, backup, and moving a living cluster.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::PathBuf;
use std::process::Output;

use patroni_tests::{Cluster, Controller, Limit, Members, PASSWORD, Value, Writer, json, wait_for};

/// patronictl on a machine without any configuration.
fn elsewhere(cluster: &Cluster, url: &str, password: &str, arguments: &[&str]) -> Output {
    let mut command = cluster.sandbox.command(&cluster.programs.patronictl);
    command.env("PATRONI_RAFT_PASSWORD", password).args(["-d", url]).args(arguments).output().unwrap()
}

fn both(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

fn rows(cluster: &Cluster) -> Vec<Value> {
    serde_json::from_str(&cluster.ctl_ok(&["store", "status", "-f", "json"])).unwrap()
}

#[test]
fn patronictl_looks_after_the_store_from_anywhere() {
    let mut cluster = Cluster::of(3).embedded().prepare();
    let leader = cluster.start_together();
    let store = cluster.members.clone().unwrap();
    let seen = cluster.wait_voters(3, Limit(60));
    assert!(seen.iter().all(|row| row["Keys"].as_u64() > Some(3)), "{seen:?}");

    let listed = elsewhere(&cluster, &store.url(), PASSWORD, &["list", "batman", "-f", "json"]);
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&listed.stdout).unwrap().len(), 3, "{}", both(&listed));
    let refused = elsewhere(&cluster, &store.url(), "a guess", &["list", "batman"]);
    assert!(!refused.status.success() && both(&refused).contains("raft.password"), "{}", both(&refused));
    let said = cluster.ctl_ok(&["explain"]);
    assert!(said.contains("3 of 3 voters answer, one of them may fail."), "{said}");
    wait_for("the doctor finds nothing", Limit(30), || {
        let output = cluster.ctl(&["doctor"]);
        if output.status.success() { Ok(()) } else { Err(both(&output)) }
    });

    backup_and_restore(&mut cluster, leader);
    a_lost_member_is_removed_and_comes_back_as_a_new_one(&mut cluster, &store, leader);
}

fn backup_and_restore(cluster: &mut Cluster, leader: usize) {
    let postmaster = cluster.nodes[leader].postmaster();
    let file = cluster.sandbox.path().join("backup.json").display().to_string();
    cluster.ctl_ok(&["store", "backup", &file]);
    assert!(both(&cluster.ctl(&["store", "backup", &file])).contains("exists"));
    cluster.ctl_ok(&["edit-config", "-s", "ttl=25", "--force"]);

    let refused = cluster.ctl(&["store", "restore", &file, "--force"]);
    assert!(!refused.status.success() && both(&refused).contains("agents use the store"), "{}", both(&refused));
    let whole = std::fs::read_to_string(&file).unwrap();
    cluster.sandbox.file("torn.json", &whole[..whole.len() / 2]);
    let torn = cluster.sandbox.path().join("torn.json").display().to_string();
    let refused = cluster.ctl(&["store", "restore", &torn, "--force", "--overwrite-living"]);
    assert!(!refused.status.success() && both(&refused).contains("only a part of one"), "{}", both(&refused));
    assert!(cluster.ctl_ok(&["show-config"]).contains("ttl: 25"), "nothing was restored");

    cluster.ctl_ok(&["pause", "--wait"]);
    let said = cluster.ctl_ok(&["store", "restore", &file, "--force", "--overwrite-living"]);
    assert!(said.contains("/service/batman/config is replaced") && said.contains("Success: "), "{said}");
    let settings = cluster.ctl_ok(&["show-config"]);
    assert!(settings.contains("ttl: 20") && settings.contains("pause: true"), "{settings}");
    wait_for("all are back in the list", Limit(40), || {
        let rows = cluster.list();
        let leaders = rows.iter().filter(|row| row["Role"] == "Leader").count();
        if rows.len() == 3 && leaders == 1 { Ok(()) } else { Err(rows) }
    });
    cluster.ctl_ok(&["resume", "--wait"]);
    cluster.wait_streaming(leader, Limit(40));
    assert_eq!(cluster.nodes[leader].postmaster(), postmaster, "PostgreSQL ran on");
}

fn a_lost_member_is_removed_and_comes_back_as_a_new_one(cluster: &mut Cluster, store: &Members, leader: usize) {
    let lost = (leader + 1) % 3;
    let address = store.0[lost].clone();
    let id = |rows: &[Value]| rows.iter().find(|row| row["Address"] == address.as_str()).unwrap()["Member"].clone();
    let before = id(&rows(cluster));
    cluster.nodes[lost].kill_hard();
    let found = both(&cluster.ctl(&["doctor"]));
    assert!(found.contains(&format!("the member {address} of the embedded store does not answer")), "{found}");
    // The configuration of node 0 is read by patronictl whether or not its agent runs.
    wait_for("it is removed", Limit(30), || {
        let output = cluster.ctl(&["store", "remove", &address, "--force"]);
        if output.status.success() { Ok(()) } else { Err(both(&output)) }
    });
    cluster.wait_voters(2, Limit(60));
    let refused = cluster.ctl(&["store", "remove", &address, "--force"]);
    assert!(!refused.status.success() && both(&refused).contains("is no member of the store"), "{}", both(&refused));

    let files = PathBuf::from(format!("{}.raft", cluster.nodes[lost].data.display()));
    std::fs::remove_dir_all(files).unwrap();
    cluster.start_node(lost);
    let after = cluster.wait_voters(3, Limit(60));
    assert_ne!(id(&after), before, "it is another member");
    cluster.wait_streaming(leader, Limit(60));
    let said = cluster.ctl_ok(&["store", "add", &address, "--force"]);
    assert!(said.contains("is a member and votes"), "{said}");
}

/// A member of the store in the place of this node's agent.
fn controller(cluster: &Cluster, index: usize, store: &Members) -> Controller {
    let mut config = cluster.nodes[index].config.clone();
    config.as_object_mut().unwrap().remove("etcd3");
    config["raft"] = store.change(index)["raft"].clone();
    Controller::start(cluster, &format!("controller{index}"), &[config])
}

/// Restarts the agents with other configurations, the leader's first; `each` happens between end and start.
fn switch_agents(cluster: &mut Cluster, leader: usize, change: impl Fn(usize) -> Value, mut each: impl FnMut(usize)) {
    let others = (0..cluster.nodes.len()).filter(|index| *index != leader);
    for index in std::iter::once(leader).chain(others) {
        cluster.nodes[index].terminate(Limit(20));
        each(index);
        cluster.nodes[index].change_config(&change(index));
        cluster.start_node(index);
        cluster.nodes[index].wait_state("runs with the new store", Limit(60), |state| {
            state["state"] == "running" && state["pause"] == true
        });
        if index == leader {
            cluster.nodes[leader].wait_primary(Limit(60));
        }
    }
}

#[track_caller]
fn wait_moved(cluster: &Cluster, old: &str) {
    wait_for("all have moved", Limit(60), || {
        let output = cluster.ctl(&["store", "move", "--from", old, "--verify"]);
        if output.status.success() { Ok(()) } else { Err(both(&output)) }
    });
    wait_for("all members are in the new store", Limit(40), || {
        let rows = cluster.list();
        if rows.len() == cluster.nodes.len() { Ok(()) } else { Err(rows) }
    });
}

#[test]
fn a_living_cluster_moves_from_etcd_to_the_embedded_store_and_back() {
    let mut cluster = Cluster::of(3).start();
    let (leader, store) = (0, Members::of(3));
    let postmasters: Vec<_> = cluster.nodes.iter().map(|node| node.postmaster().unwrap()).collect();
    let writer = Writer::start(&cluster, leader);
    let etcd = format!("etcd3://127.0.0.1:{}", cluster.etcd.port);
    let file = cluster.sandbox.path().join("controller0-0.yml").display().to_string();

    cluster.ctl_ok(&["pause", "--wait"]);
    let mut controllers: Vec<Option<Controller>> =
        (0..3).map(|index| Some(controller(&cluster, index, &store))).collect();
    wait_for("the new store is founded", Limit(60), || {
        let output = elsewhere(&cluster, &store.url(), PASSWORD, &["store", "status", "-f", "json"]);
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let voters = rows.iter().filter(|row| row["State"] == "running").count();
        if voters == 3 && rows.iter().any(|row| row["Role"] == "Leader") { Ok(()) } else { Err(both(&output)) }
    });
    let said = cluster.ctl_ok(&["store", "move", "--to", &file, "--force"]);
    assert!(said.contains("Success: the keys are in "), "{said}");
    switch_agents(
        &mut cluster,
        leader,
        |index| store.change(index),
        |index| {
            controllers[index].take().unwrap().end();
        },
    );
    wait_moved(&cluster, &etcd);
    cluster.ctl_ok(&["resume", "--wait"]);
    cluster.wait_streaming(leader, Limit(40));
    cluster.wait_voters(3, Limit(60));
    let said = elsewhere(&cluster, &etcd, "", &["list", "batman", "-f", "json"]);
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "[]", "nobody uses etcd");

    // And back: what the first move left in etcd is compared and replaced.
    cluster.ctl_ok(&["edit-config", "-s", "ttl=21", "--force"]);
    cluster.ctl_ok(&["pause", "--wait"]);
    let said = cluster.ctl_ok(&["store", "move", "--to", &etcd, "--force"]);
    assert!(said.contains("  config     is replaced") && said.contains("  initialize is the same"), "{said}");
    let hosts = json!([format!("127.0.0.1:{}", cluster.etcd.port)]);
    switch_agents(&mut cluster, leader, |_| json!({"raft": null, "etcd3": {"hosts": hosts}}), |_| {});
    wait_for("the primary leads in etcd", Limit(40), || {
        let leads = cluster.etcd.get("leader");
        if leads.as_deref() == Some("n0") { Ok(()) } else { Err(leads) }
    });
    cluster.ctl_ok(&["resume", "--wait"]);
    cluster.wait_streaming(leader, Limit(40));
    assert!(cluster.ctl_ok(&["show-config"]).contains("ttl: 21"));

    for (node, postmaster) in cluster.nodes.iter().zip(postmasters) {
        assert_eq!((node.postmaster(), node.timeline()), (Some(postmaster), 1), "PostgreSQL of {} ran on", node.name);
    }
    let written = writer.stop();
    let kept: usize = cluster.nodes[leader].sql("SELECT count(*) FROM written").parse().unwrap();
    assert!(kept >= written.acknowledged.len(), "{kept} of {} rows", written.acknowledged.len());
    assert!(written.longest_gap.as_secs() < 5, "clients noticed: {:?}", written.longest_gap);
}
