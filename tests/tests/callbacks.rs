//! Callbacks in the life of a cluster, beside those of Patroni 4.1.5 in the same life.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::PathBuf;

use patroni_tests::{Builder, Cluster, Kind, Limit, Programs, Signal, json, wait_for};

/// What has been called on each node: in order, but for reloads, of which either may have more.
#[derive(Debug, PartialEq)]
struct Calls {
    main: Vec<Vec<String>>,
    reloads: Vec<Vec<String>>,
}

struct Life {
    cluster: Cluster,
    files: Vec<PathBuf>,
}

impl Life {
    fn of(builder: Builder) -> Self {
        let mut cluster = builder.prepare();
        let mut files = Vec::new();
        for node in &mut cluster.nodes {
            let file = node.directory().join("calls");
            // A call ends the one before: nothing in it takes time.
            let call = json!(format!("/bin/sh -c 'echo \"$@\" >> {}' 'sh'", file.display()));
            node.config["postgresql"]["callbacks"] = json!({
                "on_start": call, "on_stop": call, "on_restart": call, "on_reload": call, "on_role_change": call,
            });
            files.push(file);
        }
        Life { cluster, files }
    }

    fn calls(&self, node: usize) -> Vec<String> {
        fs::read_to_string(&self.files[node]).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Does something, and waits until it was told on that node.
    #[track_caller]
    fn told(&mut self, node: usize, call: &str, act: impl FnOnce(&mut Cluster)) {
        let wanted = format!("{call} batman");
        let before = self.calls(node).len();
        act(&mut self.cluster);
        wait_for(&format!("n{node} calls: {wanted}"), Limit(60), || {
            let calls = self.calls(node);
            if calls.iter().skip(before).any(|call| *call == wanted) { Ok(()) } else { Err(calls) }
        });
    }

    fn end(self) -> Calls {
        let (mut main, mut reloads) = (Vec::new(), Vec::new());
        for node in 0..self.files.len() {
            let (mut reloaded, others): (Vec<_>, Vec<_>) =
                self.calls(node).into_iter().partition(|call| call.starts_with("on_reload "));
            reloaded.sort();
            reloaded.dedup();
            // 4.1.5 has changed the role already where it sees in time that a standby has the shutdown checkpoint.
            main.push(others.into_iter().map(|call| call.replace("on_stop demoted", "on_stop primary")).collect());
            reloads.push(reloaded);
        }
        Calls { main, reloads }
    }
}

fn switchover(cluster: &Cluster, from: usize, to: usize) {
    let body = json!({"leader": format!("n{from}"), "candidate": format!("n{to}")});
    let answer = cluster.nodes[from].post("/switchover", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Servers and agents that die. What 4.1.5 calls there depends on what its loop is at.
fn crashes(life: &mut Life) {
    let before: Vec<String> = life.files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    life.told(1, "on_role_change replica", |cluster| switchover(cluster, 1, 0));
    life.cluster.wait_streaming(0, Limit(60));
    life.told(1, "on_start replica", |cluster| cluster.nodes[1].kill_postmaster());
    life.cluster.wait_streaming(0, Limit(60));
    life.told(0, "on_start primary", |cluster| cluster.nodes[0].kill_postmaster());
    life.cluster.wait_streaming(0, Limit(60));
    // Agents that find their servers running.
    for (node, role) in ["primary", "replica"].iter().enumerate() {
        life.cluster.nodes[node].kill_agent();
        life.told(node, &format!("on_start {role}"), |cluster| cluster.start_node(node));
    }
    life.cluster.wait_streaming(0, Limit(60));
    life.told(1, "on_role_change primary", |cluster| cluster.nodes[0].kill_hard());
    life.cluster.nodes[1].wait_primary(Limit(60));
    life.told(0, "on_start replica", |cluster| cluster.start_node(0));
    life.cluster.wait_streaming(1, Limit(60));
    for (file, text) in life.files.iter().zip(before) {
        fs::write(file, text).unwrap();
    }
}

fn life_of_a_cluster(kind: Kind) -> Calls {
    let mut life = Life::of(Cluster::mixed(&[kind, kind]));
    life.told(0, "on_start primary", |cluster| cluster.start_node(0));
    life.cluster.nodes[0].wait_primary(Limit(60));
    life.told(1, "on_start replica", |cluster| cluster.start_node(1));
    life.cluster.wait_streaming(0, Limit(60));
    life.told(0, "on_reload primary", |cluster| cluster.nodes[0].signal(Signal::HUP));
    life.told(1, "on_reload replica", |cluster| cluster.nodes[1].signal(Signal::HUP));
    life.told(1, "on_restart replica", |cluster| _ = cluster.nodes[1].post("/restart", &json!({})));
    life.told(0, "on_restart primary", |cluster| _ = cluster.nodes[0].post("/restart", &json!({})));
    life.cluster.wait_streaming(0, Limit(60));
    life.told(0, "on_reload primary", |cluster| {
        cluster.nodes[0].patch_config(&json!({"synchronous_mode": true}));
    });
    life.cluster.nodes[0].wait_sql("SHOW synchronous_standby_names", "n1", Limit(30));
    life.told(0, "on_reload primary", |cluster| {
        cluster.nodes[0].patch_config(&json!({"synchronous_mode": false}));
    });
    life.cluster.nodes[0].wait_sql("SHOW synchronous_standby_names", "", Limit(30));
    life.told(0, "on_role_change replica", |cluster| switchover(cluster, 0, 1));
    if kind == Kind::Ours {
        assert!(life.calls(0).contains(&"on_stop primary batman".to_owned()), "{:?}", life.calls(0));
    }
    life.cluster.wait_streaming(1, Limit(60));
    if kind == Kind::Ours {
        crashes(&mut life);
    }
    life.told(0, "on_stop replica", |cluster| _ = cluster.nodes[0].terminate(Limit(60)));
    life.told(1, "on_stop primary", |cluster| _ = cluster.nodes[1].terminate(Limit(60)));
    life.end()
}

#[test]
fn callbacks_of_a_cluster_are_those_of_the_reference() {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    assert_eq!(life_of_a_cluster(Kind::Ours), life_of_a_cluster(Kind::Reference));
}

/// What operators do now and then. 4.1.5 calls the same.
#[test]
fn callbacks_of_a_scheduled_restart_a_new_copy_and_a_restart_in_pause() {
    let mut life = Life::of(Cluster::of(2));
    life.told(0, "on_start primary", |cluster| cluster.start_node(0));
    life.cluster.nodes[0].wait_primary(Limit(60));
    life.told(1, "on_start replica", |cluster| cluster.start_node(1));
    life.cluster.wait_streaming(0, Limit(60));
    life.told(1, "on_restart replica", |cluster| {
        let soon =
            "SELECT to_char((now() + interval '3 s') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS') || '+00:00'";
        let answer = cluster.nodes[1].post("/restart", &json!({"schedule": cluster.nodes[0].sql(soon)}));
        assert_eq!(answer.status, 202, "{}", answer.body);
    });
    life.cluster.wait_streaming(0, Limit(60));
    life.told(1, "on_start replica", |cluster| {
        let answer = cluster.nodes[1].post("/reinitialize", &json!({"force": true}));
        assert_eq!(answer.status, 200, "{}", answer.body);
    });
    life.cluster.wait_streaming(0, Limit(60));
    life.cluster.nodes[0].patch_config(&json!({"pause": true}));
    life.cluster.nodes[0].wait_state("pause", Limit(20), |state| state["pause"] == true);
    life.told(0, "on_restart primary", |cluster| _ = cluster.nodes[0].post("/restart", &json!({})));
    life.cluster.wait_streaming(0, Limit(60));
    let expected: [&[&str]; 2] = [
        &["on_start primary batman", "on_restart primary batman"],
        &["on_start replica batman", "on_restart replica batman", "on_stop replica batman", "on_start replica batman"],
    ];
    assert_eq!(life.end().main, expected);
}

/// The order of the calls of a cluster that follows another one, is promoted, and follows again.
#[test]
fn callbacks_of_a_standby_cluster() {
    let main = Cluster::of(1).start();
    let section = json!({"host": "127.0.0.1", "port": main.nodes[0].pg_port});
    let mut life = Life::of(Cluster::of(1).dcs(json!({"standby_cluster": section})));
    life.told(0, "on_role_change standby_leader", |cluster| cluster.start_node(0));
    life.cluster.wait_standby_leader(0, Limit(60));
    life.told(0, "on_restart standby_leader", |cluster| _ = cluster.nodes[0].post("/restart", &json!({})));
    life.cluster.wait_standby_leader(0, Limit(60));
    life.told(0, "on_role_change primary", |cluster| cluster.nodes[0].patch_config(&json!({"standby_cluster": null})));
    life.cluster.nodes[0].wait_primary(Limit(60));
    life.told(0, "on_role_change standby_leader", |cluster| {
        cluster.nodes[0].patch_config(&json!({"standby_cluster": section}));
    });
    life.told(0, "on_stop standby_leader", |cluster| _ = cluster.nodes[0].terminate(Limit(60)));
    let calls = life.end().main.remove(0).join(", ").replace(" batman", "");
    assert_eq!(
        calls,
        "on_start replica, on_role_change standby_leader, on_restart standby_leader, on_role_change primary, on_stop primary, \
         on_role_change standby_leader, on_stop standby_leader"
    );
}
