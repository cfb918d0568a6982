//! Settings that change while the cluster runs.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Kind, Limit, Node, Programs, Signal, Value, free_port, json, wait_for};

fn patch(parameters: &Value) -> Value {
    json!({"postgresql": {"parameters": parameters}})
}

#[test]
fn a_reload_where_it_suffices_and_pending_restart_where_not() {
    let cluster = Cluster::of(2).start();
    cluster.nodes[0].patch_config(&patch(&json!({"work_mem": "5MB"})));
    for node in &cluster.nodes {
        node.wait_sql("SHOW work_mem", "5MB", Limit(20));
        assert_eq!(node.status()["pending_restart"], Value::Null);
    }
    let text = cluster.ctl_ok(&["edit-config", "batman", "-p", "shared_buffers=16MB", "--force"]);
    assert!(text.contains("+    shared_buffers: 16MB") && text.contains("Configuration changed"), "{text}");
    for node in &cluster.nodes {
        let state = node.wait_state("a restart is pending", Limit(20), |state| state["pending_restart"] == true);
        let reason = &state["pending_restart_reason"]["shared_buffers"];
        assert_eq!((&reason["old_value"], &reason["new_value"]), (&json!("8MB"), &json!("16MB")), "{state}");
        assert_eq!(node.sql("SHOW shared_buffers"), "8MB");
    }
    let text = cluster.ctl_ok(&["restart", "batman", "--pending", "--force"]);
    assert!(text.contains("Success: restart on member n0") && text.contains("Success: restart on member n1"), "{text}");
    for node in &cluster.nodes {
        node.wait_sql("SHOW shared_buffers", "16MB", Limit(20));
        node.wait_state("no restart is pending", Limit(20), |state| state["pending_restart"] == Value::Null);
    }
}

#[test]
fn max_connections_is_raised_on_standbys_first_and_lowered_on_them_last() {
    let cluster = Cluster::of(2).start();
    let restart = |index: usize| {
        let answer = cluster.nodes[index].post("/restart", &json!({}));
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    cluster.nodes[0].patch_config(&patch(&json!({"max_connections": 60})));
    cluster.nodes[1].wait_state("a restart is pending", Limit(20), |state| state["pending_restart"] == true);
    // A primary restarted first would leave standbys behind which stop at its new, larger value.
    restart(1);
    cluster.nodes[1].wait_streaming(Limit(30));
    assert_eq!(cluster.nodes[1].sql("SHOW max_connections"), "60");
    restart(0);
    assert_eq!(cluster.nodes[0].sql("SHOW max_connections"), "60");

    cluster.nodes[1].wait_streaming(Limit(30));
    cluster.nodes[0].patch_config(&patch(&json!({"max_connections": 40})));
    cluster.nodes[1].wait_state("a restart is pending", Limit(20), |state| state["pending_restart"] == true);
    // With 40 a standby of a primary with 60 cannot start: it keeps 60.
    restart(1);
    cluster.nodes[1].wait_streaming(Limit(30));
    assert_eq!(cluster.nodes[1].sql("SHOW max_connections"), "60");
    restart(0);
    cluster.nodes[1].wait_streaming(Limit(30));
    wait_for("the standby has replayed the lower value", Limit(30), || {
        restart(1);
        let value = cluster.nodes[1].query("SHOW max_connections");
        if value.as_ref().is_ok_and(|value| value.as_deref() == Some("40")) {
            Ok(())
        } else {
            Err(format!("{value:?}"))
        }
    });
}

/// The standby pauses at the record of its primary's larger value, and would stand still for ever.
#[test]
fn a_standby_left_behind_by_a_larger_max_connections_is_started_with_it() {
    let cluster = Cluster::of(2).start();
    cluster.nodes[0].patch_config(&patch(&json!({"max_connections": 60})));
    for node in &cluster.nodes {
        node.wait_state("a restart is pending", Limit(20), |state| state["pending_restart"] == true);
    }
    let answer = cluster.nodes[0].post("/restart", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS row");
    cluster.nodes[1].wait_sql("SELECT row FROM t", "1", Limit(60));
    assert_eq!(cluster.nodes[1].sql("SHOW max_connections"), "60");
}

#[test]
fn sighup_reloads_the_file_and_a_broken_one_keeps_the_old() {
    let mut cluster = Cluster::of(1).start();
    let node = &mut cluster.nodes[0];
    node.config["postgresql"]["parameters"]["work_mem"] = json!("6MB");
    node.config["tags"] = json!({"color": "blue"});
    node.config["postgresql"]["pg_hba"].as_array_mut().unwrap().push(json!("host all nobody 127.0.0.1/32 reject"));
    node.write_config(&cluster.sandbox);
    let node = &cluster.nodes[0];
    node.signal(Signal::HUP);
    node.wait_sql("SHOW work_mem", "6MB", Limit(20));
    node.wait_sql("SELECT count(*) FROM pg_hba_file_rules WHERE 'nobody' = ANY(user_name)", "1", Limit(20));
    node.wait_state("the new tag", Limit(20), |state| state["tags"]["color"] == "blue");
    wait_for("the new tag in the store", Limit(20), || {
        let member = cluster.key("members/n0").unwrap_or_default();
        if member.contains("\"color\":\"blue\"") { Ok(()) } else { Err(member) }
    });

    cluster.sandbox.file(cluster.nodes[0].directory().join("patroni.yml"), "postgresql: [unclosed\n");
    let before = cluster.nodes[0].log().len();
    cluster.nodes[0].signal(Signal::HUP);
    wait_for("the failure is logged", Limit(20), || {
        let log = cluster.nodes[0].log();
        let added = log.get(before..).unwrap_or_default();
        if added.contains("ERROR") || added.contains("WARNING") { Ok(()) } else { Err(added.to_owned()) }
    });
    assert_eq!(cluster.nodes[0].status_of("/primary"), 200);
    assert_eq!(cluster.nodes[0].sql("SHOW work_mem"), "6MB");
}

#[test]
fn the_dynamic_configuration_reaches_all_nodes_and_survives_them() {
    let mut cluster = Cluster::of(2).start();
    cluster.ctl_ok(&["edit-config", "batman", "-s", "ttl=25", "-s", "retry_timeout=4", "--force"]);
    let text = cluster.ctl_ok(&["show-config", "batman"]);
    assert!(text.contains("ttl: 25") && text.contains("retry_timeout: 4"), "{text}");
    wait_for("the other node knows", Limit(10), || match cluster.nodes[1].request("GET", "/config", None) {
        Ok(answer) if answer.json()["ttl"] == 25 => Ok(()),
        Ok(answer) => Err(answer.body),
        Err(error) => Err(error.to_string()),
    });
    // A key which was lost is written again by the leader, from the last known configuration.
    cluster.etcd.delete("config");
    wait_for("the configuration is back", Limit(30), || {
        let config = cluster.key("config").unwrap_or_default();
        if serde_json::from_str::<Value>(&config).is_ok_and(|config| config["ttl"] == 25) {
            Ok(())
        } else {
            Err(config)
        }
    });
    for node in &mut cluster.nodes {
        node.terminate(Limit(30));
    }
    let kept = std::fs::read_to_string(cluster.nodes[1].data.join("patroni.dynamic.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap()["ttl"], 25, "{kept}");
}

#[test]
fn validate_config_tells_what_is_wrong() {
    let mut cluster = Cluster::of(1).prepare();
    let validate = |cluster: &Cluster| {
        let file = cluster.nodes[0].directory().join("patroni.yml");
        let mut command = cluster.sandbox.command(&cluster.programs.patroni);
        let output = command.arg("--validate-config").arg(file).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    // The validator wants addresses which others can reach.
    for section in ["restapi", "postgresql"] {
        cluster.nodes[0].config[section]["connect_address"] = json!("192.0.2.1:7000");
    }
    cluster.nodes[0].write_config(&cluster.sandbox);
    let (valid, text) = validate(&cluster);
    assert!(valid, "{text}");
    // What a start would warn of is no error.
    let good = cluster.nodes[0].config.clone();
    cluster.nodes[0].config["bootsrap"] = json!({"dcs": {"ttl": 20}});
    cluster.nodes[0].config["postgresql"]["conect_address"] = json!("192.0.2.1:7001");
    cluster.nodes[0].write_config(&cluster.sandbox);
    let (valid, text) = validate(&cluster);
    assert!(valid, "{text}");
    for meant in [
        "unknown setting bootsrap (did you mean bootstrap?)",
        "unknown setting postgresql.conect_address (did you mean postgresql.connect_address?)",
    ] {
        assert!(text.contains(meant), "{meant}: {text}");
    }
    cluster.nodes[0].config = good;
    // The agents keep the store themselves, which must not be open to everybody.
    let etcd3 = cluster.nodes[0].config.as_object_mut().unwrap().remove("etcd3").unwrap();
    cluster.nodes[0].write_config(&cluster.sandbox);
    let (valid, text) = validate(&cluster);
    assert!(!valid && text.starts_with("raft.password: ") && text.lines().count() == 1, "{text}");
    cluster.nodes[0].config["raft"] = json!({"password": "a long random text"});
    cluster.nodes[0].write_config(&cluster.sandbox);
    let (valid, text) = validate(&cluster);
    assert!(valid, "{text}");
    cluster.nodes[0].change_config(&json!({"raft": null, "etcd3": etcd3}));
    cluster.nodes[0].config["postgresql"]["listen"] = json!("127.0.0.1");
    cluster.nodes[0].config["etcd3"]["hosts"] = json!("");
    cluster.nodes[0].config.as_object_mut().unwrap().remove("scope");
    cluster.nodes[0].write_config(&cluster.sandbox);
    let (valid, text) = validate(&cluster);
    assert!(!valid);
    for expected in ["scope", "is not defined.", "etcd3.hosts"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn a_new_password_of_the_superuser_is_taken_over() {
    let mut cluster = Cluster::of(2).start();
    cluster.nodes[0].sql("ALTER ROLE postgres PASSWORD 'another'");
    let change = json!({"postgresql": {
        "authentication": {"superuser": {"password": "another"}}, "parameters": {"work_mem": "7MB"},
    }});
    for node in &mut cluster.nodes {
        node.change_config(&change);
        node.write_config(&cluster.sandbox);
        node.signal(Signal::HUP);
    }
    for node in &cluster.nodes {
        node.wait_sql("SHOW work_mem", "7MB", Limit(30));
    }
    let answer = cluster.nodes[0].post("/switchover", &json!({"leader": "n0", "candidate": "n1"}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.wait_streaming(1, Limit(60));
    // An address is another one only after a restart.
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let node = &mut cluster.nodes[1];
    node.change_config(&json!({"postgresql": {"listen": address, "connect_address": address}}));
    node.write_config(&cluster.sandbox);
    node.signal(Signal::HUP);
    node.wait_state("a restart is pending", Limit(20), |state| state["pending_restart"] == true);
    assert_eq!(node.sql("SHOW work_mem"), "7MB");
    assert_eq!(node.post("/restart", &json!({})).status, 200);
    node.pg_port = port;
    cluster.wait_streaming(1, Limit(60));
}

/// The configuration has it first, and goes on changing before the server is told. The address comes at the same time.
#[test]
fn a_password_that_the_server_does_not_know_yet_locks_nobody_out() {
    let mut cluster = Cluster::of(1).start();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let sandbox = &cluster.sandbox;
    let node = &mut cluster.nodes[0];
    let works = |node: &Node, value: &str| {
        node.patch_config(&json!({"postgresql": {"parameters": {"work_mem": value}}}));
        node.wait_sql("SHOW work_mem", value, Limit(30));
    };
    // The test goes on connecting with what the server knows.
    let in_force = node.config.clone();
    let is_told = |node: &mut Node, change: &Value| {
        node.change_config(change);
        node.write_config(sandbox);
        node.signal(Signal::HUP);
        std::mem::replace(&mut node.config, in_force.clone())
    };
    is_told(node, &json!({"postgresql": {"authentication": {"superuser": {"password": "another"}}}}));
    works(node, "7MB");
    works(node, "8MB");
    let change = json!({"postgresql": {
        "listen": address, "connect_address": address, "authentication": {"superuser": {"password": "third"}},
    }});
    let new = is_told(node, &change);
    node.wait_state("a restart is pending", Limit(20), |state| state["pending_restart"] == true);
    works(node, "9MB");
    node.sql("ALTER ROLE postgres PASSWORD 'third'");
    node.config = new;
    works(node, "10MB");
    assert_eq!(node.post("/restart", &json!({})).status, 200);
    node.pg_port = port;
    node.wait_primary(Limit(60));
    works(node, "11MB");
}

/// A standby starts with no less than its primary had, whatever is configured.
fn a_standby_shows_what_waits_for_its_restart(kind: Kind) -> Value {
    let cluster = Cluster::mixed(&[kind, kind]).start();
    cluster.nodes[0].patch_config(&patch(&json!({"max_connections": 60})));
    for node in &cluster.nodes {
        node.wait_state("a restart is pending", Limit(30), |state| state["pending_restart"] == true);
        node.post("/restart", &json!({}));
        node.wait_sql("SHOW max_connections", "60", Limit(60));
    }
    cluster.nodes[0].patch_config(&patch(&json!({"max_connections": 55})));
    let standby = &cluster.nodes[1];
    let start = standby
        .wait_state("a restart is pending", Limit(30), |state| state["pending_restart"] == true)["postmaster_start_time"]
        .clone();
    assert_eq!(standby.post("/restart", &json!({})).status, 200);
    let state = standby.wait_state("a restart is pending again", Limit(30), |state| {
        state["pending_restart"] == true && state["postmaster_start_time"] != start && state["state"] == "running"
    });
    assert_eq!(standby.sql("SHOW max_connections"), "60");
    state["pending_restart_reason"].clone()
}

#[test]
fn a_standby_with_more_than_configured_waits_for_a_restart() {
    let reason = json!({"max_connections": {"old_value": "60", "new_value": "55"}});
    assert_eq!(a_standby_shows_what_waits_for_its_restart(Kind::Ours), reason);
    if Programs::find().reference.is_some() {
        assert_eq!(a_standby_shows_what_waits_for_its_restart(Kind::Reference), reason);
    }
}

/// What PostgreSQL was told: the lines of postgresql.conf and the command line, without what is a node's own.
fn told(node: &Node) -> Vec<String> {
    let own = ["listen_addresses", "port", "hba_file", "ident_file", "unix_socket_directories", "primary_"];
    let file = std::fs::read_to_string(node.data.join("postgresql.conf")).unwrap();
    let command = std::fs::read_to_string(node.data.join("postmaster.opts")).unwrap();
    let options = command.split("\"").filter(|word| word.starts_with("--")).map(str::to_owned);
    let lines = file.lines().filter(|line| line.contains(" = ")).map(str::to_owned);
    let mut all: Vec<String> =
        lines.chain(options).filter(|line| !own.iter().any(|name| line.contains(name))).collect();
    all.retain(|line| !line.starts_with("--config-file"));
    all.sort();
    all
}

/// Null in each kind of parameter means for us what it means for 4.1.5: not given. Where 4.1.5 writes what no server takes, it is not copied.
#[test]
fn null_is_not_given_as_with_the_reference() {
    let mut told_by = Vec::new();
    for kind in [Kind::Ours, Kind::Reference] {
        if kind == Kind::Reference && Programs::find().reference.is_none() {
            eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
            return;
        }
        let mut cluster = Cluster::mixed(&[kind]).prepare();
        let config = &mut cluster.nodes[0].config;
        config["bootstrap"]["dcs"]["postgresql"] = json!({
            "parameters": {
                "archive_mode": "on", "archive_command": null, "synchronous_standby_names": null, "log_line_prefix": null,
                "work_mem": "5MB", "wal_keep_size": null, "max_wal_senders": null, "restore_command": null, "my.stored": null,
            },
            "recovery_conf": {"recovery_end_command": null, "archive_cleanup_command": null}, "pg_ident": null,
        });
        config["postgresql"]["parameters"]["work_mem"] = json!(null);
        config["postgresql"]["parameters"]["temp_buffers"] = json!(null);
        config["postgresql"]["parameters"]["jit"] = json!(null);
        config["postgresql"]["parameters"]["my.own"] = json!(null);
        config["postgresql"]["recovery_conf"] = json!({"restore_command": null});
        cluster.start_node(0);
        let node = &cluster.nodes[0];
        node.wait_primary(Limit(60));
        let first = told(node);
        let stored = json!({"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "postgresql": {"parameters": {
            "autovacuum_naptime": null, "cpu_tuple_cost": null, "DateStyle": null, "my.later": null, "enable_sort": null,
            "log_statement": null, "wal_log_hints": null, "deadlock_timeout": "7s",
        }}});
        assert_eq!(node.request("PUT", "/config", Some(&stored)).unwrap().status, 200);
        node.wait_sql("SHOW deadlock_timeout", "7s", Limit(30));
        told_by.push((first, told(node), node.sql("SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings \
            WHERE name IN ('archive_command', 'autovacuum_naptime', 'DateStyle', 'log_line_prefix', 'work_mem', 'jit', 'wal_log_hints')")));
    }
    assert_eq!(told_by[0], told_by[1], "ours, and 4.1.5's");
    let words = format!("{told_by:?}");
    assert!(!words.contains("None") && !words.contains("null"), "{words}");
}
