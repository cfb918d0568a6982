//! Restart, reinitialize, reload and the callbacks that go with them.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, Signal, json, signal, wait_for};

#[test]
fn restart_by_rest_and_its_conditions() {
    let cluster = Cluster::of(2).start();
    let node = &cluster.nodes[1];
    for condition in
        [json!({"role": "primary"}), json!({"restart_pending": true}), json!({"postgres_version": "9.0.0"})]
    {
        let before = node.postmaster();
        let answer = node.post("/restart", &condition);
        assert_eq!(answer.status, 503, "{condition}: {}", answer.body);
        assert_eq!(node.postmaster(), before, "{condition} does not hold: no restart");
    }
    let before = node.postmaster();
    let answer = node.post("/restart", &json!({"role": "replica"}));
    assert_eq!((answer.status, answer.body.as_str()), (200, "restarted successfully"));
    assert_ne!(node.postmaster(), before);
    node.wait_streaming(Limit(30));

    let before = cluster.nodes[0].postmaster();
    let text = cluster.ctl_ok(&["restart", "batman", "n0", "--force"]);
    assert!(text.contains("Success: restart on member n0"), "{text}");
    assert_ne!(cluster.nodes[0].postmaster(), before);
    cluster.nodes[0].wait_primary(Limit(20));
    assert_eq!(cluster.nodes[0].timeline(), 1, "a restarted leader remains the leader");
    let answer = node.post("/restart", &json!({"schedule": "2001-01-01T00:00:00+00:00"}));
    assert_eq!(answer.status, 422, "{}", answer.body);
}

/// `pg_ctl` looks ten times a second whether the server is gone, and gets through before it is started again. On a busy machine it may be late.
#[test]
fn an_operators_pg_ctl_stop_ends_well_and_the_server_comes_back() {
    let cluster = Cluster::of(1).start();
    let node = &cluster.nodes[0];
    let ends_well = (0..3).any(|_| {
        let before = node.postmaster();
        let mut stop = cluster.sandbox.command(&cluster.programs.pg_bin.join("pg_ctl"));
        let stop = stop.args(["-w", "stop", "-D"]).arg(&node.data).output().unwrap();
        node.wait_primary(Limit(30));
        assert_ne!(node.postmaster(), before);
        stop.status.success()
    });
    assert!(ends_well, "pg_ctl -w stop");
    node.wait_log("PostgreSQL was shut down, and not by this agent, which starts it again", Limit(1));
}

#[test]
fn reinitialize_makes_a_new_copy() {
    let cluster = Cluster::of(2).start();
    let marker = cluster.nodes[1].data.join("marker");
    std::fs::write(&marker, "").unwrap();
    cluster.sandbox.give(&marker);
    let answer = cluster.nodes[0].post("/reinitialize", &json!({"force": true}));
    assert_eq!((answer.status, answer.body.as_str()), (503, "I am the leader, can not reinitialize"));
    let text = cluster.ctl_ok(&["reinit", "batman", "n1", "--force", "--wait"]);
    assert!(text.contains("Success: reinitialize for member n1"), "{text}");
    wait_for("the old copy is gone", Limit(30), || if marker.exists() { Err("still there") } else { Ok(()) });
    cluster.nodes[1].wait_streaming(Limit(60));
}

#[test]
fn callbacks_are_called_with_action_role_and_scope() {
    let mut cluster = Cluster::of(2).prepare();
    for node in &mut cluster.nodes {
        let log = node.directory().join("callbacks.log");
        // Slow enough to be still at work when its agent ends.
        let script = format!("#!/bin/sh\ncase $2 in on_stop) sleep 0.5;; esac\necho \"$@\" >> {}\n", log.display());
        let path = cluster.sandbox.file(node.directory().join("callback"), &script);
        let call = json!(format!("{} 'one word'", path.display()));
        node.config["postgresql"]["callbacks"] = json!({
            "on_start": call, "on_stop": call, "on_restart": call, "on_reload": call, "on_role_change": call,
        });
    }
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    let logs: Vec<_> = cluster.nodes.iter().map(|node| node.directory().join("callbacks.log")).collect();
    let called = |index: usize, line: &str| {
        let file = &logs[index];
        wait_for(&format!("node {index} has called back: {line}"), Limit(20), || {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            if text.lines().any(|l| l == line) { Ok(()) } else { Err(text) }
        });
    };
    called(0, "one word on_start primary batman");
    called(1, "one word on_start replica batman");
    // Agents that find their server running write its files anew.
    for (index, role) in ["primary", "replica"].iter().enumerate() {
        std::fs::remove_file(&logs[index]).unwrap();
        cluster.nodes[index].kill_agent();
        cluster.start_node(index);
        called(index, &format!("one word on_reload {role} batman"));
    }
    cluster.nodes[0].wait_primary(Limit(30));
    cluster.nodes[1].wait_streaming(Limit(30));
    cluster.nodes[1].post("/restart", &json!({}));
    called(1, "one word on_restart replica batman");
    cluster.nodes[0].post("/reload", &json!({}));
    cluster.nodes[0].post("/switchover", &json!({"leader": "n0", "candidate": "n1"}));
    called(1, "one word on_role_change primary batman");
    called(0, "one word on_role_change replica batman");
    cluster.nodes[1].terminate(Limit(30));
    called(1, "one word on_stop primary batman");
}

#[test]
fn before_stop_and_pre_promote_run_in_time() {
    let mut cluster = Cluster::of(2).prepare();
    let marker = cluster.sandbox.path().join("allowed");
    for node in &mut cluster.nodes {
        let log = node.directory().join("scripts.log");
        let before_stop = format!("#!/bin/sh\necho before_stop >> {}\n", log.display());
        let pre_promote = format!("#!/bin/sh\necho pre_promote >> {}\ntest -e {}\n", log.display(), marker.display());
        node.config["postgresql"]["before_stop"] =
            json!(cluster.sandbox.file(node.directory().join("before_stop"), &before_stop));
        node.config["postgresql"]["pre_promote"] =
            json!(cluster.sandbox.file(node.directory().join("pre_promote"), &pre_promote));
    }
    cluster.start_all();
    cluster.nodes[0].terminate(Limit(30));
    let lines = |index: usize| {
        std::fs::read_to_string(cluster.nodes[index].directory().join("scripts.log")).unwrap_or_default()
    };
    assert!(lines(0).contains("before_stop"), "{}", lines(0));
    wait_for(
        "pre_promote is tried",
        Limit(30),
        || if lines(1).contains("pre_promote") { Ok(()) } else { Err(lines(1)) },
    );
    assert_eq!(cluster.nodes[1].sql("SELECT pg_is_in_recovery()"), "t", "no promotion while pre_promote fails");
    cluster.sandbox.file("allowed", "");
    cluster.nodes[1].wait_primary(Limit(60));
}

#[test]
fn a_shutdown_that_does_not_end_says_whom_it_waits_for() {
    let cluster = Cluster::of(1).start();
    let node = &cluster.nodes[0];
    let walwriter = node.server_process("walwriter").unwrap();
    signal(walwriter, Signal::STOP);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| node.post("/restart", &json!({})));
        let words = format!("process {walwriter} (walwriter), stopped by a signal");
        node.wait_log(&words, Limit(60));
        node.wait_state("its progress", Limit(20), |status| {
            status["job"]["progress"].as_str().is_some_and(|progress| progress.contains(&words))
        });
        wait_for("the doctor sees it", Limit(20), || {
            let said = cluster.ctl(&["doctor", "batman"]);
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            if text.contains(&words) { Ok(()) } else { Err(text) }
        });
        signal(walwriter, Signal::CONT);
        let answer = answer.join().unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "restarted successfully"));
    });
    node.wait_primary(Limit(20));
}

#[test]
fn a_restart_that_fails_says_why_until_postgresql_runs_again() {
    let cluster = Cluster::of(1).start();
    let node = &cluster.nodes[0];
    let ssl = |value: &str| node.patch_config(&json!({"postgresql": {"parameters": {"ssl": value}}}));
    let reason = "FATAL:  could not load server certificate file \"server.crt\"";
    ssl("on");
    wait_for("the setting is written", Limit(20), || {
        let text = std::fs::read_to_string(node.data.join("postgresql.conf")).unwrap_or_default();
        if text.contains("ssl = 'on'") { Ok(()) } else { Err(text) }
    });
    let answer = node.post("/restart", &json!({}));
    assert!(answer.status == 503 && answer.body.starts_with("restart failed: "), "{}", answer.body);
    assert!(answer.body.contains(reason), "{}", answer.body);
    let says_why = |wanted: bool| {
        wait_for("list", Limit(60), || {
            let text = cluster.ctl_ok(&["list"]);
            if text.contains(reason) == wanted { Ok(()) } else { Err(text) }
        });
    };
    says_why(true);
    ssl("off");
    node.wait_primary(Limit(60));
    says_why(false);
    assert!(node.status()["failure"].is_null());
}
