//! Disks that fill up under a running cluster: what is said of them.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, SmallDisk, Value, json, wait_for};

/// Adds a row of a megabyte; true where it was acknowledged.
fn add(cluster: &Cluster, node: usize) -> bool {
    let sql = "INSERT INTO filled SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 32000)";
    cluster.nodes[node].query(sql).is_ok()
}

fn create(cluster: &Cluster, node: usize) {
    cluster.nodes[node].sql("CREATE TABLE filled (t text)");
    cluster.nodes[node].sql("ALTER TABLE filled ALTER t SET STORAGE EXTERNAL");
}

#[test]
fn a_full_data_directory_is_shown_before_it_is_full_and_when_it_is() {
    let mut cluster = Cluster::of(1).dcs(json!({"disk_free_warning": "60MB"})).prepare();
    let Some(disk) = SmallDisk::new(&cluster.sandbox, "data", "200m") else { return };
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
