//! Tags of members: who may lead, who comes first, who follows and copies whom.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, json, wait_for};

#[test]
fn nofailover_and_failover_priority_decide_the_heir() {
    let mut cluster = Cluster::of(4)
        .in_etcd()
        .node(1, json!({"tags": {"nofailover": "true"}}))
        .node(2, json!({"tags": {"failover_priority": "1"}}))
        .node(3, json!({"tags": {"failover_priority": 2}}))
        .start();
    cluster.nodes[0].terminate(Limit(30));
    // Both candidates have everything: the priority decides.
    cluster.nodes[3].wait_primary(Limit(30));
    cluster.wait_streaming(3, Limit(40));
    cluster.nodes[3].terminate(Limit(30));
    cluster.nodes[2].wait_primary(Limit(30));
    cluster.nodes[2].terminate(Limit(30));
    wait_for("nobody leads", Limit(40), || cluster.key("leader").map_or(Ok(()), Err));
    cluster.nodes[1].wait_log("following a different leader because I am not allowed to promote", Limit(20));
    cluster.nodes[1].wait_status_of("/replica", 200, Limit(20));
    assert_eq!(cluster.nodes[1].sql("SELECT pg_is_in_recovery()"), "t");
}

#[test]
fn replicatefrom_cascades_and_falls_back_to_the_leader() {
    let mut cluster = Cluster::of(3).node(2, json!({"tags": {"replicatefrom": "n1"}})).start();
    let upstream = "SELECT sender_port FROM pg_stat_wal_receiver";
    let (first, leader) = (cluster.nodes[1].pg_port.to_string(), cluster.nodes[0].pg_port.to_string());
    cluster.nodes[2].wait_sql(upstream, &first, Limit(20));
    let slots = |index: usize, expected: &str| {
        let sql = "SELECT string_agg(slot_name, ',' ORDER BY 1) FROM pg_replication_slots WHERE active";
        cluster.nodes[index].wait_sql(sql, expected, Limit(20));
    };
    slots(0, "n1");
    slots(1, "n2");
    cluster.nodes[1].kill_hard();
    cluster.nodes[2].wait_sql(upstream, &leader, Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    cluster.nodes[2].wait_sql(upstream, &first, Limit(40));
}

#[test]
fn clonefrom_names_the_source_of_a_copy() {
    let mut cluster = Cluster::of(3).node(1, json!({"tags": {"clonefrom": true}})).prepare();
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    let label = cluster.nodes[1].data.join("label");
    std::fs::write(&label, "from n1").unwrap();
    cluster.sandbox.give(&label);
    // Whom to copy is chosen by the keys in the store, which can be a round of the loop behind what a node says of itself.
    wait_for("the store has n1 as a standby that streams", Limit(20), || {
        let document = cluster.nodes[0].request("GET", "/cluster", None).unwrap().json();
        let member = &document["members"][1];
        if member["name"] == "n1" && member["state"] == "streaming" { Ok(()) } else { Err(document) }
    });
    cluster.start_node(2);
    cluster.nodes[2].wait_streaming(Limit(60));
    assert_eq!(std::fs::read_to_string(cluster.nodes[2].data.join("label")).unwrap(), "from n1");
    // It was copied from n1 and follows the leader.
    let leader = cluster.nodes[0].pg_port.to_string();
    cluster.nodes[2].wait_sql("SELECT sender_port FROM pg_stat_wal_receiver", &leader, Limit(20));
}

#[test]
fn a_nostream_node_lives_on_the_archive_and_never_leads() {
    let mut cluster = Cluster::of(2).node(1, json!({"tags": {"nostream": true}})).prepare();
    let archive = cluster.sandbox.directory("archive");
    let (put, get) = (format!("cp %p {}/%f", archive.display()), format!("cp {}/%f %p", archive.display()));
    for node in &mut cluster.nodes {
        node.config["bootstrap"]["dcs"]["postgresql"]["parameters"]["archive_mode"] = json!("on");
        node.config["bootstrap"]["dcs"]["postgresql"]["parameters"]["archive_command"] = json!(put);
        node.config["bootstrap"]["dcs"]["postgresql"]["parameters"]["restore_command"] = json!(get);
    }
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_state("restores from the archive", Limit(60), |state| {
        state["replication_state"] == "in archive recovery"
    });
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    cluster.nodes[0].sql("SELECT pg_switch_wal()");
    cluster.nodes[1].wait_sql("SELECT row FROM t", "1", Limit(30));
    assert_eq!(cluster.nodes[1].sql("SELECT count(*) FROM pg_stat_wal_receiver"), "0");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'n1'";
    assert_eq!(cluster.nodes[0].sql(slots), "0", "no slot for a node that does not stream");
}

#[test]
fn noloadbalance_hides_a_replica_from_balancers_only() {
    let cluster = Cluster::of(2).node(1, json!({"tags": {"noloadbalance": true}})).start();
    let codes =
        ["/replica", "/health", "/readiness", "/liveness", "/read-only"].map(|path| cluster.nodes[1].status_of(path));
    assert_eq!(codes, [503, 200, 200, 200, 503]);
}
