//! Disks that fill up under a running cluster: what is said of them, and who leads.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, SmallDisk, Value, json, wait_for};

/// Puts the WAL of a node on a disk of its own.
fn with_small_wal(cluster: &mut Cluster, node: usize, size: &str) -> Option<SmallDisk> {
    let disk = SmallDisk::new(&cluster.sandbox, &format!("wal{node}"), size)?;
    let waldir = json!(disk.path().join("wal"));
    let config = json!({
        "bootstrap": {"initdb": [{"encoding": "UTF8"}, "data-checksums", "no-sync", {"waldir": waldir}]},
        "postgresql": {"basebackup": [{"checkpoint": "fast"}, "no-sync", {"waldir": waldir}]},
    });
    cluster.nodes[node].change_config(&config);
    Some(disk)
}

/// Checkpoints make no room.
fn keeps_all_wal() -> Value {
    json!({"postgresql": {"parameters": {"max_wal_size": "2GB", "min_wal_size": "32MB", "wal_keep_size": "2GB"}}})
}

/// Adds a row of a megabyte; true where it was acknowledged.
fn add(cluster: &Cluster, node: usize) -> bool {
    let sql = "INSERT INTO filled SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 32000)";
    cluster.nodes[node].query(sql).is_ok()
}

fn create(cluster: &Cluster, node: usize) {
    cluster.nodes[node].sql("CREATE TABLE filled (t text)");
    cluster.nodes[node].sql("ALTER TABLE filled ALTER t SET STORAGE EXTERNAL");
}

fn wal_disk(status: &Value) -> &Value {
    &status["disk"]["wal"]["state"]
}

#[test]
fn a_leader_without_room_for_wal_hands_over_to_a_standby_that_has_room() {
    let mut cluster = Cluster::of(2).dcs(keeps_all_wal()).prepare();
    let Some(_disk) = with_small_wal(&mut cluster, 0, "120m") else { return };
    cluster.start_all();
    create(&cluster, 0);
    cluster.nodes[0].wait_state("there is room", Limit(20), |status| *wal_disk(status) == "ok");
    let mut acknowledged = 0;
    wait_for("the standby leads", Limit(120), || {
        acknowledged += usize::from(add(&cluster, 0));
        if cluster.nodes[1].is_writable_primary() { Ok(()) } else { Err(acknowledged) }
    });
    assert!(acknowledged > 20, "{acknowledged} rows fitted");
    let rows: usize = cluster.nodes[1].sql("SELECT count(*) FROM filled").parse().unwrap();
    assert!(rows >= acknowledged, "{rows} rows of {acknowledged} that were acknowledged");
    let log = cluster.nodes[0].log();
    assert!(log.contains("the WAL directory is full ("), "it was logged");
    // In order, where PostgreSQL had room for its recovery.
    let ways = ["there is no room for WAL here, and a standby has room", "removed leader key after trying and failing"];
    assert!(ways.iter().any(|way| log.contains(way)), "{log}");
    cluster.nodes[0].kill_hard();
}

#[test]
fn a_leader_without_room_for_wal_stays_where_nobody_has_room() {
    let mut cluster = Cluster::of(2).dcs(keeps_all_wal()).prepare();
    let (Some(disk), Some(_standbys)) =
        (with_small_wal(&mut cluster, 0, "80m"), with_small_wal(&mut cluster, 1, "70m"))
    else {
        return;
    };
    cluster.start_all();
    create(&cluster, 0);
    let mut acknowledged = 0;
    wait_for("nobody has room", Limit(120), || {
        acknowledged += usize::from(add(&cluster, 0));
        let text = "there is no room for WAL here, and no standby that could take over is known to have room";
        if cluster.nodes[0].log().contains(text) { Ok(()) } else { Err(acknowledged) }
    });
    disk.grow("500m");
    cluster.nodes[0].wait_primary(Limit(60));
    let rows: usize = cluster.nodes[0].sql("SELECT count(*) FROM filled").parse().unwrap();
    assert!(rows >= acknowledged, "{rows} rows of {acknowledged} that were acknowledged");
    assert_eq!(cluster.leader(&[0, 1]).as_deref(), Some("n0"));
    assert_eq!(cluster.nodes[0].status()["timeline"], 1, "nobody was promoted");
    cluster.nodes.iter_mut().for_each(|node| node.kill_hard());
}

#[test]
fn a_full_data_directory_is_shown_before_it_is_full_and_when_it_is() {
    let mut cluster = Cluster::of(1).dcs(json!({"disk_free_warning": "40MB"})).prepare();
    let Some(disk) = SmallDisk::new(&cluster.sandbox, "data", "120m") else { return };
    let waldir = cluster.sandbox.directory("wal").join("wal");
    cluster.nodes[0].data = disk.path().join("data");
    let config = json!({
        "bootstrap": {"initdb": [{"encoding": "UTF8"}, "data-checksums", "no-sync", {"waldir": waldir}]},
        "postgresql": {"data_dir": cluster.nodes[0].data},
    });
    cluster.nodes[0].change_config(&config);
    cluster.start_all();
    create(&cluster, 0);
    let state = |status: &Value| status["disk"]["data"]["state"].clone();
    cluster.nodes[0].wait_state("there is room", Limit(20), |status| state(status) == "ok");
    let healthy = cluster.ctl_ok(&["list"]);
    assert!(!healthy.contains("directory"), "{healthy}");
    for (wanted, words) in [("low", "the data directory is nearly full ("), ("full", "the data directory is full (")] {
        cluster.nodes[0].wait_state(wanted, Limit(120), |status| {
            if state(status) != wanted {
                add(&cluster, 0);
            }
            state(status) == wanted
        });
        cluster.nodes[0].wait_log(words, Limit(20));
        wait_for("list says so", Limit(30), || {
            let text = cluster.ctl_ok(&["list"]);
            let place = format!("n0: {words}");
            if text.starts_with(healthy.split_once('\n').unwrap().0) && text.contains(&place) {
                Ok(())
            } else {
                Err(text)
            }
        });
        let doctor = cluster.ctl(&["doctor", "batman"]);
        let text = String::from_utf8_lossy(&doctor.stdout);
        assert!(doctor.status.code() == Some(1) && text.contains(&format!("* n0: {words}")), "{text}");
        let metrics = cluster.nodes[0].request("GET", "/metrics", None).unwrap().body;
        let level = if wanted == "low" { 1 } else { 2 };
        let line = format!("patroni_rs_disk_state{{scope=\"batman\",name=\"n0\",place=\"data\"}} {level}");
        assert!(metrics.contains(&line), "{metrics}");
    }
    disk.grow("600m");
    cluster.nodes[0].wait_state("there is room again", Limit(30), |status| state(status) == "ok");
    cluster.nodes[0].wait_log("the data directory has room again (", Limit(20));
}
