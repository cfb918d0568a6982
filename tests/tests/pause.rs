//! Pause: nothing is done to PostgreSQL, and agents may come and go.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, json, process_exists, wait_for};

fn pause(cluster: &Cluster) {
    let text = cluster.ctl_ok(&["pause", "batman", "--wait"]);
    assert!(text.contains("Success: cluster management is paused"), "{text}");
    for node in &cluster.nodes {
        node.wait_state("knows of the pause", Limit(20), |state| state["pause"] == true);
    }
}

#[test]
fn agents_come_and_go_in_pause() {
    let mut cluster = Cluster::of(2).start();
    pause(&cluster);
    let postmasters: Vec<_> = cluster.nodes.iter().map(|node| node.postmaster().unwrap()).collect();
    for index in [0, 1] {
        cluster.nodes[index].terminate(Limit(20));
        assert!(process_exists(postmasters[index]), "PostgreSQL outlives its agent's planned end in pause");
    }
    wait_for("the lease is gone", Limit(40), || cluster.key("leader").map_or(Ok(()), Err));
    cluster.start_node(0);
    cluster.start_node(1);
    cluster.wait_streaming(0, Limit(30));
    for (node, postmaster) in cluster.nodes.iter().zip(postmasters) {
        assert_eq!(node.postmaster(), Some(postmaster), "{} was not restarted", node.name);
        assert_eq!(node.timeline(), 1);
    }
    let text = cluster.ctl_ok(&["resume", "batman", "--wait"]);
    assert!(text.contains("Success: cluster management is resumed"), "{text}");
    cluster.wait_streaming(0, Limit(20));
}

#[test]
fn a_server_killed_in_pause_stays_down_until_resume() {
    let cluster = Cluster::of(2).start();
    pause(&cluster);
    cluster.nodes[1].kill_postmaster();
    wait_for("the store says stopped", Limit(20), || {
        let member = cluster.key("members/n1").unwrap_or_default();
        if member.contains("\"state\":\"stopped\"") { Ok(()) } else { Err(member) }
    });
    cluster.nodes[0].kill_postmaster();
    wait_for("the leader's store entry says stopped", Limit(20), || {
        let member = cluster.key("members/n0").unwrap_or_default();
        if member.contains("\"state\":\"stopped\"") { Ok(()) } else { Err(member) }
    });
    assert!(cluster.nodes.iter().all(|node| node.postmaster().is_none()), "nobody starts a server in pause");
    cluster.ctl_ok(&["resume", "batman"]);
    cluster.wait_leader_among(&[0, 1], Limit(40));
}

#[test]
fn a_switchover_to_a_named_candidate_works_in_pause_and_one_without_is_refused() {
    let cluster = Cluster::of(2).start();
    pause(&cluster);
    let answer = cluster.nodes[0].post("/switchover", &json!({"leader": "n0"}));
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(answer.body, "Switchover is possible only to a specific candidate in a paused state");
    let answer = cluster.nodes[0].post("/switchover", &json!({"leader": "n0", "candidate": "n1"}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.nodes[1].wait_primary(Limit(20));
    cluster.nodes[0].wait_streaming(Limit(30));
}
