//! Planned changes of the leader: by REST and patronictl, at once and scheduled, and what they must not lose.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use patroni_tests::{Cluster, Limit, Value, Writer, json, wait_for};

#[test]
fn rest_and_patronictl_switch_over() {
    let mut cluster = Cluster::of(3).start();
    let answer = cluster.nodes[2].post("/switchover", &json!({"leader": "n0", "candidate": "n1"}));
    assert_eq!((answer.status, answer.body.as_str()), (200, "Successfully switched over to \"n1\""));
    cluster.wait_streaming(1, Limit(30));

    let text = cluster.ctl_ok(&["switchover", "batman", "--leader", "n1", "--candidate", "n2", "--force"]);
    assert!(text.contains("Successfully switched over to \"n2\""), "{text}");
    cluster.wait_streaming(2, Limit(30));

    let text = cluster.ctl_ok(&["switchover", "batman", "--force"]);
    assert!(text.contains("Successfully switched over to"), "{text}");
    let leader = cluster.wait_leader_among(&[0, 1], Limit(30));
    cluster.wait_streaming(leader, Limit(30));
    wait_for("the request is gone from the store", Limit(10), || match cluster.key("failover").as_deref() {
        None | Some("{}") => Ok(()),
        Some(request) => Err(request.to_owned()),
    });
    assert_eq!(cluster.nodes[leader].timeline(), 4);
}

#[test]
fn impossible_requests_are_refused() {
    let cluster = Cluster::of(2).node(1, json!({"tags": {"nofailover": true}})).start();
    let node = &cluster.nodes[0];
    for (path, body, status, text) in [
        ("/switchover", json!({"leader": "n1"}), 412, "leader name does not match"),
        ("/switchover", json!({"foo": "bar"}), 400, "Switchover could be performed only from a specific leader"),
        ("/switchover", json!({"leader": "n0", "candidate": "nobody"}), 412, "candidate does not exists"),
        ("/switchover", json!({"leader": "n0", "candidate": "n0"}), 400, "Switchover target and source are the same"),
        (
            "/switchover",
            json!({"leader": "n0", "candidate": "n1"}),
            412,
            "switchover is not possible: no good candidates have been found",
        ),
        ("/failover", json!({"foo": "bar"}), 400, "Failover could be performed only to a specific candidate"),
        ("/failover", json!({"candidate": "n1"}), 412, "failover is not possible: no good candidates have been found"),
        (
            "/switchover",
            json!({"leader": "n0", "scheduled_at": "2001-01-01T00:00:00+00:00"}),
            422,
            "Cannot schedule switchover in the past",
        ),
        (
            "/switchover",
            json!({"leader": "n0", "scheduled_at": "soon"}),
            422,
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
        ),
    ] {
        let answer = node.post(path, &body);
        assert_eq!((answer.status, answer.body.as_str()), (status, text), "POST {path} {body}");
    }
    assert_eq!(cluster.key("leader").as_deref(), Some("n0"));
}

#[test]
fn a_scheduled_switchover_happens_at_its_time_and_can_be_cancelled() {
    let cluster = Cluster::of(2).start();
    let at = |seconds: &str| {
        let output =
            std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S+00:00", "-d", seconds]).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
    };
    let answer = cluster.nodes[0].post("/switchover", &json!({"leader": "n0", "scheduled_at": at("1 hour")}));
    assert_eq!((answer.status, answer.body.as_str()), (202, "Switchover scheduled"));
    let shown = cluster.nodes[0].request("GET", "/cluster", None).unwrap().json();
    assert_eq!(shown["scheduled_switchover"]["from"], "n0", "{shown}");
    let answer = cluster.nodes[0].request("DELETE", "/switchover", None).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "scheduled switchover deleted"));

    let start = Instant::now();
    let due = at("4 seconds");
    cluster.ctl_ok(&["switchover", "batman", "--leader", "n0", "--candidate", "n1", "--scheduled", &due, "--force"]);
    assert_eq!(cluster.nodes[0].status_of("/primary"), 200);
    cluster.nodes[1].wait_primary(Limit(30));
    assert!(start.elapsed() > Duration::from_secs(2), "too early: {:?}", start.elapsed());
    cluster.nodes[0].wait_streaming(Limit(30));
}

#[test]
fn no_acknowledged_write_is_lost_under_a_writing_client() {
    let mut cluster = Cluster::of(3).start();
    let writer = Writer::start(&cluster, 0);
    for (from, to) in [("n0", "n1"), ("n1", "n2"), ("n2", "n0")] {
        let answer = cluster.nodes[0].post("/switchover", &json!({"leader": from, "candidate": to}));
        assert_eq!(answer.status, 200, "{from} to {to}: {}", answer.body);
        let leader = to[1..].parse().unwrap();
        cluster.wait_streaming(leader, Limit(30));
    }
    let written = writer.stop();
    assert!(written.acknowledged.len() > 100, "{}", written.acknowledged.len());
    eprintln!("longest gap of {} writes: {:?}", written.acknowledged.len(), written.longest_gap);
    written.assert_all_on(&cluster.nodes[0]);
}

#[test]
fn a_switchover_asked_right_after_start_loses_nothing() {
    let mut cluster = Cluster::of(3).prepare();
    if cluster.programs.test_the_reference() {
        eprintln!("skipped: the reference loses a committed table here");
        return;
    }
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.start_node(2);
    // A candidate which has its first data, and not the table that comes now.
    wait_for("node 1 answers", Limit(60), || match cluster.nodes[1].status_of("/health") {
        200 => Ok(()),
        status => Err(status),
    });
    cluster.nodes[0].sql("CREATE TABLE precious AS SELECT generate_series(1, 50000) AS id");
    let answer = cluster.nodes[0].post("/switchover", &json!({"leader": "n0", "candidate": "n1"}));
    let leader = cluster.wait_leader_among(&[0, 1, 2], Limit(60));
    eprintln!("{} {}; n{leader} leads", answer.status, answer.body);
    assert!(answer.status == 200 || !answer.body.is_empty(), "refused, and it says why");
    assert_eq!(cluster.nodes[leader].sql("SELECT count(*) FROM precious"), "50000");
    cluster.wait_streaming(leader, Limit(60));
    cluster.nodes[1].wait_sql("SELECT count(*) FROM precious", "50000", Limit(20));
}

#[test]
fn failover_to_a_candidate() {
    let mut cluster = Cluster::of(3).start();
    let answer = cluster.nodes[0].post("/failover", &json!({"candidate": "n2"}));
    assert_eq!((answer.status, answer.body.as_str()), (200, "Successfully failed over to \"n2\""));
    cluster.wait_streaming(2, Limit(30));
    let text = cluster.ctl_ok(&["failover", "batman", "--candidate", "n1", "--force"]);
    assert!(text.contains("Successfully failed over to \"n1\""), "{text}");
    cluster.wait_streaming(1, Limit(30));
}

#[test]
fn a_failover_request_with_the_leader_gone_is_honoured() {
    let mut cluster = Cluster::of(3).start();
    cluster.nodes[0].kill_hard();
    wait_for("the lease ends or is taken", Limit(40), || match cluster.key("leader").as_deref() {
        Some("n0") => Err("n0 still holds it"),
        _ => Ok(()),
    });
    let leader = cluster.wait_leader_among(&[1, 2], Limit(30));
    let other = 3 - leader;
    cluster.ctl_ok(&["failover", "batman", "--candidate", &format!("n{other}"), "--force"]);
    cluster.wait_streaming(other, Limit(30));
}

/// Debian's default: a superuser by socket and without a password, no user for pg_rewind. Whether the former primary has WAL of its own
/// cannot be found out, so nothing is waited for: twice `loop_wait` would be 40 s here.
#[test]
fn without_a_user_for_rewind_the_former_primary_follows_without_waiting() {
    let mut cluster = Cluster::of(2)
        .in_etcd()
        .dcs(json!({"ttl": 60, "loop_wait": 20, "retry_timeout": 10}))
        .config(json!({"postgresql": {
            "authentication": {"superuser": {"password": null}, "rewind": null}, "use_unix_socket": true,
        }}))
        .prepare();
    cluster.start_node(0);
    cluster.nodes[0].wait_state("leads", Limit(60), |state| state["role"] == "primary" && state["state"] == "running");
    cluster.start_node(1);
    let streams = |state: &Value| state["replication_state"] == "streaming";
    cluster.nodes[1].wait_state("streams", Limit(60), streams);
    let answer = cluster.nodes[0].post("/switchover", &json!({"leader": "n0", "candidate": "n1"}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.nodes[0].wait_state("follows", Limit(30), streams);
}
