//! Synchronous replication on real clusters: how fast it follows events, and what it holds back.

use std::time::{Duration, Instant};

use patroni_tests::{Cluster, Limit, Node, Value, Writer, json, wait_for};

/// A loop so long that nothing here can wait for it.
const LOOP_WAIT: u64 = 10;

/// Between an event and its effect, on a busy machine; without load it takes less than a second.
const REACTION: Limit = Limit(5);

fn sync_key(cluster: &Cluster) -> Value {
    cluster.key("sync").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null)
}

/// Waits until `/sync` says so: the voters, separated by commas, and the quorum.
#[track_caller]
fn wait_sync(cluster: &Cluster, leader: usize, voters: &str, quorum: u64, limit: Limit) {
    let voters = if voters.is_empty() { Value::Null } else { json!(voters) };
    let expected = json!({"leader": cluster.nodes[leader].name, "quorum": quorum, "sync_standby": voters});
    wait_for(&format!("/sync is {expected}"), limit, || match sync_key(cluster) {
        found if found == expected => Ok(()),
        other => Err(other),
    });
}

#[track_caller]
fn wait_names(node: &Node, expected: &str, limit: Limit) {
    node.wait_sql("SHOW synchronous_standby_names", expected, limit);
}

#[test]
fn standbys_that_come_and_go_are_noticed_at_once() {
    let mut cluster = Cluster::of(3).dcs(json!({"loop_wait": LOOP_WAIT, "ttl": 30})).start();
    let patch = |change: Value| cluster.nodes[0].patch_config(&change);
    let enabled = Instant::now();
    patch(json!({"synchronous_mode": true, "synchronous_node_count": 2}));
    wait_sync(&cluster, 0, "n1,n2", 0, REACTION);
    let enabled = enabled.elapsed();
    wait_names(&cluster.nodes[0], "2 (n1,n2)", REACTION);
    cluster.nodes[1].wait_status_of("/sync", 200, REACTION);
    cluster.nodes[2].wait_status_of("/async", 503, REACTION);

    cluster.nodes[0].sql("CREATE ROLE app; ALTER ROLE app IN DATABASE postgres SET synchronous_commit = local");
    patch(json!({"synchronous_mode": "quorum", "synchronous_node_count": 1}));
    wait_sync(&cluster, 0, "n1,n2", 1, REACTION);
    wait_names(&cluster.nodes[0], "ANY 1 (n1,n2)", REACTION);
    cluster.nodes[1].wait_status_of("/quorum", 200, REACTION);
    cluster.nodes[0].wait_log("synchronous_commit is local for role app in database postgres", REACTION);
    let metrics = cluster.nodes[0].request("GET", "/metrics", None).unwrap().body;
    let metric = metrics.lines().find(|line| line.starts_with("patroni_rs_synchronous_commit_turned_down{"));
    assert!(metric.is_some_and(|line| line.ends_with(" 1")), "{metric:?}");

    cluster.nodes[0].sql("ALTER ROLE ALL SET synchronous_commit = off; ALTER ROLE app SET synchronous_commit = off");
    let doctor = cluster.ctl(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout);
    for (place, statement) in [
        ("local for role app in database postgres", "ALTER ROLE app IN DATABASE postgres RESET synchronous_commit"),
        ("off for role app", "ALTER ROLE app RESET synchronous_commit"),
        ("off for all roles", "ALTER ROLE ALL RESET synchronous_commit"),
    ] {
        let whole = format!("synchronous_commit is {place}: those");
        assert!(found.contains(&whole) && found.contains(&format!("remedy: {statement} (")), "{place}: {found}");
        cluster.nodes[0].sql(statement);
    }
    let found = String::from_utf8_lossy(&cluster.ctl(&["doctor"]).stdout).into_owned();
    assert!(!found.contains("synchronous_commit"), "{found}");

    // Lost without a word: only the connection tells.
    cluster.nodes[2].kill_hard();
    let lost = Instant::now();
    wait_sync(&cluster, 0, "n1", 0, REACTION);
    let lost = lost.elapsed();
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS id");
    cluster.start_node(2);
    let streams = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'n2' AND state = 'streaming'";
    cluster.nodes[0].wait_sql(streams, "1", Limit(60));
    let added = Instant::now();
    wait_sync(&cluster, 0, "n1,n2", 1, REACTION);
    eprintln!("enabled after {enabled:?}, a standby lost after {lost:?}, one added after {:?}", added.elapsed());

    cluster.nodes[0].patch_config(&json!({"synchronous_mode": null}));
    wait_for("/sync is gone", REACTION, || cluster.key("sync").map_or(Ok(()), Err));
    wait_names(&cluster.nodes[0], "", REACTION);
}

#[test]
fn a_standby_that_is_stopped_is_replaced_first() {
    let mut cluster = Cluster::of(3).dcs(json!({"loop_wait": LOOP_WAIT, "ttl": 30, "synchronous_mode": true})).start();
    let voter = wait_for("one synchronous standby", Limit(10), || match sync_key(&cluster)["sync_standby"].as_str() {
        Some("n1") => Ok(1),
        Some("n2") => Ok(2),
        other => Err(format!("{other:?}")),
    });
    let other = 3 - voter;
    let writer = Writer::start(&cluster, 0);
    cluster.nodes[voter].terminate(Limit(30));
    wait_sync(&cluster, 0, &format!("n{other}"), 0, REACTION);
    let written = writer.stop();
    assert!(written.longest_gap < Duration::from_secs(3), "commits waited for {:?}", written.longest_gap);
    written.assert_all_on(&cluster.nodes[0]);
}

#[test]
fn strictly_nothing_is_acknowledged_without_a_standby() {
    let mut cluster = Cluster::of(2)
        .dcs(json!({"loop_wait": LOOP_WAIT, "ttl": 30, "synchronous_mode": true, "synchronous_mode_strict": true}))
        .prepare();
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    wait_names(&cluster.nodes[0], "*", Limit(10));
    let mut client = cluster.nodes[0].connect().unwrap();
    client.batch_execute("SET synchronous_commit = on; SET statement_timeout = 0").unwrap();
    let commit = std::thread::spawn(move || client.batch_execute("CREATE TABLE t AS SELECT 1 AS id"));
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'CREATE TABLE%'";
    cluster.nodes[0].wait_sql(waiting, "1", Limit(10));
    assert!(!commit.is_finished());
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(90));
    commit.join().unwrap().unwrap();
    wait_sync(&cluster, 0, "n1", 0, REACTION);
    wait_names(&cluster.nodes[0], "n1", REACTION);
    cluster.nodes[1].wait_sql("SELECT count(*) FROM t", "1", Limit(10));
}

#[test]
fn an_agent_that_comes_back_leaves_the_standbys_alone() {
    let mut cluster = Cluster::of(2).dcs(json!({"loop_wait": LOOP_WAIT, "ttl": 30, "synchronous_mode": true})).start();
    wait_sync(&cluster, 0, "n1", 0, Limit(10));
    wait_names(&cluster.nodes[0], "n1", REACTION);
    let log = cluster.nodes[0].log().len();
    cluster.nodes[0].kill_agent();
    cluster.start_node(0);
    let again = "no action. I am (n0), the leader with the lock";
    wait_for("it has looked at the server", Limit(20), || {
        let text = cluster.nodes[0].log()[log..].to_owned();
        if text.contains(again) { Ok(()) } else { Err(text) }
    });
    wait_sync(&cluster, 0, "n1", 0, REACTION);
    wait_names(&cluster.nodes[0], "n1", REACTION);
    let text = cluster.nodes[0].log()[log..].to_owned();
    assert!(!text.contains("parameter \"synchronous_standby_names\""), "it was changed in between:\n{text}");
}

#[test]
fn a_former_primary_shows_nothing_before_a_standby_has_it() {
    let mut cluster =
        Cluster::of(2).dcs(json!({"loop_wait": 2, "synchronous_mode": true, "synchronous_mode_strict": true})).start();
    wait_sync(&cluster, 0, "n1", 0, Limit(10));
    wait_names(&cluster.nodes[0], "n1", REACTION);
    assert_eq!(cluster.nodes[0].sql("SHOW restart_after_crash"), "off");
    cluster.nodes[0].sql("CREATE TABLE t (id int)");
    cluster.nodes[1].wait_sql("SELECT count(*) FROM t", "0", Limit(10));
    let unconfirmed = |cluster: &Cluster, id: u32| {
        let mut client = cluster.nodes[0].connect().unwrap();
        let sql = format!("SET synchronous_commit = on; SET statement_timeout = 0; INSERT INTO t VALUES ({id})");
        let commit = std::thread::spawn(move || client.batch_execute(&sql).is_ok());
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%INSERT INTO t%'";
        cluster.nodes[0].wait_sql(waiting, "1", Limit(10));
        assert_eq!(cluster.nodes[0].sql("SELECT count(*) FROM t"), (id - 1).to_string());
        cluster.nodes[0].kill_postmaster();
        assert!(!commit.join().unwrap(), "the commit was acknowledged");
    };
    let held = |cluster: &Cluster| {
        cluster.nodes[0].wait_state("clients are held back", Limit(60), |status| status["holding_clients"] == true);
        for check in ["/primary", "/replica", "/read-only", "/leader"] {
            assert_eq!(cluster.nodes[0].status_of(check), 503, "{check}");
        }
        let written = cluster.nodes[0].query("INSERT INTO t VALUES (0)");
        assert!(written.is_err(), "it takes writes");
        // What it waited for as a primary is not kept for the next time that it is one.
        assert_eq!(cluster.nodes[0].sql("SHOW synchronous_standby_names"), "");
    };

    cluster.nodes[1].kill_hard();
    unconfirmed(&cluster, 1);
    held(&cluster);
    cluster.start_node(1);
    cluster.nodes[0].wait_primary(Limit(60));
    assert_eq!(cluster.nodes[0].sql("SELECT count(*) FROM t"), "1");
    cluster.nodes[1].wait_sql("SELECT count(*) FROM t", "1", Limit(30));
    wait_sync(&cluster, 0, "n1", 0, Limit(30));

    // An operator who wants it back in spite of all can have it.
    cluster.nodes[1].kill_hard();
    unconfirmed(&cluster, 2);
    held(&cluster);
    cluster.nodes[0].patch_config(&json!({"synchronous_mode_hold": false}));
    cluster.nodes[0].wait_primary(Limit(30));
    assert_eq!(cluster.nodes[0].sql("SELECT count(*) FROM t"), "2");
}
