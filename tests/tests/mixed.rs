//! One cluster of our nodes and of Patroni 4.1.5's: either can lead the other, either patronictl shows both.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Kind, Limit, Node, Programs, json, wait_for};

/// Bootstraps, switches over in all directions, and survives kill -9 of the leader.
fn lives(kinds: [Kind; 3]) {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    let mut cluster = Cluster::mixed(&kinds).start();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 0 AS row");
    for (asked, from, to) in [(0, 0, 1), (0, 1, 2), (1, 2, 1), (2, 1, 0)] {
        let body = json!({"leader": format!("n{from}"), "candidate": format!("n{to}")});
        let answer = cluster.nodes[asked].post("/switchover", &body);
        assert_eq!(answer.status, 200, "{from} to {to}: {}", answer.body);
        cluster.wait_streaming(to, Limit(40));
        cluster.nodes[to].sql(&format!("INSERT INTO t VALUES ({to})"));
    }
    for kind in [Kind::Ours, Kind::Reference] {
        // A node of the reference tells of its state at the end of a loop, after it streams.
        wait_for("all members, streaming", Limit(10), || {
            let output = cluster.ctl_of(kind, &["list", "-f", "tsv"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let complete = ["n0", "n1", "n2"].iter().all(|name| text.contains(name));
            let good = output.status.success() && complete && text.matches("streaming").count() == 2;
            if good { Ok(()) } else { Err(format!("{kind:?}: {text}{}", String::from_utf8_lossy(&output.stderr))) }
        });
    }
    for node in &cluster.nodes {
        node.wait_sql("SELECT count(*) FROM t", "5", Limit(20));
    }

    cluster.nodes[0].kill_hard();
    let new = cluster.wait_leader_among(&[1, 2], Limit(40));
    assert_eq!(cluster.nodes[new].sql("SELECT count(*) FROM t"), "5");
    cluster.start_node(0);
    cluster.wait_streaming(new, Limit(60));
    for node in &cluster.nodes {
        node.wait_sql("SELECT count(*) FROM pg_replication_slots", "2", Limit(30));
    }
}

#[test]
fn one_of_ours_leads_two_of_the_reference() {
    lives([Kind::Ours, Kind::Reference, Kind::Reference]);
}

#[test]
fn one_of_the_reference_leads_two_of_ours() {
    lives([Kind::Reference, Kind::Ours, Kind::Ours]);
}

#[test]
fn both_kinds_of_patronictl_act_on_both_kinds_of_nodes() {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    let cluster = Cluster::mixed(&[Kind::Ours, Kind::Reference]).start();
    let act = |kind: Kind, arguments: &[&str]| {
        let output = cluster.ctl_of(kind, arguments);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{kind:?} {arguments:?}: {text}");
    };
    for kind in [Kind::Ours, Kind::Reference] {
        act(kind, &["restart", "batman", "--force"]);
        for node in &cluster.nodes {
            node.wait_status_of("/health", 200, Limit(30));
        }
        cluster.nodes[1].wait_streaming(Limit(30));
        act(kind, &["pause", "batman", "--wait"]);
        act(kind, &["resume", "batman", "--wait"]);
        act(kind, &["reload", "batman", "--force"]);
        let parameter = if kind == Kind::Ours { "work_mem=7MB" } else { "work_mem=9MB" };
        act(kind, &["edit-config", "batman", "-p", parameter, "--force"]);
        for node in &cluster.nodes {
            node.wait_sql("SHOW work_mem", parameter.rsplit('=').next().unwrap(), Limit(20));
        }
        act(kind, &["switchover", "batman", "--candidate", "n1", "--force"]);
        cluster.nodes[1].wait_primary(Limit(30));
        cluster.nodes[0].wait_streaming(Limit(30));
        act(kind, &["switchover", "batman", "--candidate", "n0", "--force"]);
        cluster.nodes[0].wait_primary(Limit(30));
        cluster.nodes[1].wait_streaming(Limit(30));
    }
}

/// Names, explanations, types and labels of the metrics that a node of 4.1.5 has, in their order; no values.
fn metrics(node: &Node) -> Vec<String> {
    let answer = node.request("GET", "/metrics", None).unwrap();
    let page = answer.body.lines().filter(|line| !line.contains("patroni_rs_"));
    page.map(|line| match line.split_once('{') {
        Some((name, rest)) if !line.starts_with('#') => {
            let labels = rest.split('}').next().unwrap().split(',').map(|label| label.split('=').next().unwrap());
            format!("{name} {}", labels.collect::<Vec<_>>().join(" "))
        }
        _ => line.to_owned(),
    })
    .collect()
}

#[test]
fn metrics_are_those_of_the_reference() {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    let cluster = Cluster::mixed(&[Kind::Ours, Kind::Reference]).start();
    let [ours, theirs] = [0, 1].map(|index| metrics(&cluster.nodes[index]));
    assert!(theirs.len() > 60, "{theirs:#?}");
    assert_eq!(ours, theirs);
}
