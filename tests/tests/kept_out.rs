//! A node whose WAL is not that of the primary on the same timeline. PostgreSQL would mix the two.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, wait_for};

/// Promoted from the same position, nodes 1 and 2 each have a timeline 2; node 0 followed the first.
#[test]
fn a_node_of_another_timeline_with_the_same_number_neither_follows_nor_leads() {
    let mut cluster = Cluster::of(3).start();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference streams on, and mixes two histories");
        return;
    }
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 'common' AS row");
    cluster.wait_streaming(0, Limit(60));
    cluster.nodes[2].wait_sql("SELECT count(*) FROM t", "1", Limit(10));
    cluster.nodes[2].terminate(Limit(60));
    cluster.ctl_ok(&["switchover", "batman", "--leader", "n0", "--candidate", "n1", "--force"]);
    cluster.nodes[1].wait_primary(Limit(60));
    cluster.nodes[1].sql("INSERT INTO t VALUES ('first')");
    cluster.nodes[0].wait_sql("SELECT count(*) FROM t", "2", Limit(60));
    cluster.nodes[0].terminate(Limit(60));
    cluster.nodes[1].kill_hard();
    cluster.start_node(2);
    cluster.nodes[2].wait_primary(Limit(90));
    cluster.nodes[2].sql("INSERT INTO t VALUES ('second')");
    assert_eq!(cluster.nodes[2].timeline(), 2);

    cluster.start_node(0);
    cluster.nodes[0].wait_log("patronictl reinit batman n0", Limit(60));
    assert_kept_out(&cluster);
    // Also by an agent that knows nothing, while nobody leads.
    cluster.nodes[0].kill_agent();
    cluster.nodes[2].kill_hard();
    wait_for("the lease to end", Limit(60), || cluster.leader(&[1]).map_or(Ok(()), Err));
    cluster.start_node(0);
    cluster.nodes[0].wait_log("does not lead", Limit(60));
    assert_kept_out(&cluster);

    cluster.start_node(2);
    cluster.nodes[2].wait_primary(Limit(90));
    cluster.nodes[0].wait_log("this node cannot follow n2", Limit(60));
    cluster.ctl_ok(&["reinit", "batman", "n0", "--force"]);
    cluster.nodes[0].wait_streaming(Limit(90));
    cluster.nodes[0].wait_sql("SELECT string_agg(row, ' ' ORDER BY row) FROM t", "common second", Limit(10));
    let tags = cluster.nodes[0].status()["tags"].clone();
    assert_ne!(tags["nofailover"], true, "{tags}");
}

fn assert_kept_out(cluster: &Cluster) {
    let node = &cluster.nodes[0];
    let status = node.wait_state("diverged", Limit(30), |status| status["replication_state"] == "diverged");
    assert_eq!(status["tags"]["nofailover"], true, "{status}");
    assert_eq!(node.status_of("/replica"), 503);
    node.wait_sql("SHOW primary_conninfo", "", Limit(30));
    let rows = "SELECT string_agg(row, ' ' ORDER BY row) FROM t";
    assert_eq!(node.sql(rows), "common first", "what only this node has is still there");
    assert_eq!(node.sql("SELECT pg_is_in_recovery()"), "t");
    let listed = || cluster.list().into_iter().find(|row| row["Member"] == "n0").map(|row| row["State"].clone());
    wait_for("n0 to be listed as diverged", Limit(30), || match listed() {
        Some(state) if state == "diverged" => Ok(()),
        other => Err(other),
    });
}
