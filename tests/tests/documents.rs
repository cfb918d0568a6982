//! What a cluster writes to the store and answers over REST, beside Patroni 4.1.5 in the same situation.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Kind, Limit, Programs, Value, json, wait_for};

/// Values that differ from cluster to cluster.
const OF_THEIR_OWN: [&str; 24] = [
    "conn_url",
    "api_url",
    "host",
    "port",
    "xlog_location",
    "location",
    "received_location",
    "replayed_location",
    "receive_lsn",
    "replay_lsn",
    "lsn",
    "optime",
    "last_lsn",
    "postmaster_start_time",
    "replayed_timestamp",
    "database_system_identifier",
    "timestamp",
    "dcs_last_seen",
    "client_addr",
    "slots",
    "retain_slots",
    "name_of_session",
    "receive_lag",
    "replay_lag",
];

/// The same document without what is the cluster's own. Text that is no JSON becomes its kind.
fn shape(text: &str) -> Value {
    fn clean(value: &mut Value) {
        match value {
            Value::Object(map) => {
                // Ours alone (COMPAT.md), and never at rest.
                map.remove("disk");
                for (key, value) in map.iter_mut() {
                    if OF_THEIR_OWN.contains(&key.as_str()) {
                        *value = json!(match value {
                            Value::Number(_) => "a number",
                            Value::String(_) => "a text",
                            Value::Object(_) => "a map",
                            _ => "another value",
                        });
                    } else {
                        clean(value);
                    }
                }
            }
            // A line of the history: timeline, position, reason, time, leader.
            Value::Array(line) if line.len() == 5 && line[2] == "no recovery target specified" => {
                (line[1], line[3]) = (json!(line[1].is_number()), json!(line[3].is_string()));
            }
            Value::Array(list) => list.iter_mut().for_each(clean),
            _ => {}
        }
    }
    let mut value = serde_json_of(text);
    clean(&mut value);
    value
}

fn serde_json_of(text: &str) -> Value {
    text.parse().unwrap_or_else(|_| json!(text))
}

/// Keys and documents at one moment, by name.
fn documents(cluster: &Cluster) -> Value {
    let mut all = json!({});
    for key in ["members/n0", "members/n1", "leader", "config", "status", "history", "sync", "failover"] {
        // 4.1.5 leaves an empty request behind, and ours deletes the key (COMPAT.md).
        let text = cluster.key(key).filter(|text| text != "{}");
        all[format!("key {key}")] = text.map_or(Value::Null, |text| shape(&text));
    }
    for (index, node) in cluster.nodes.iter().enumerate() {
        for path in ["/patroni", "/cluster", "/config", "/history"] {
            let answer = node.request("GET", path, None).unwrap();
            all[format!("{index} GET {path}")] = json!([answer.status, shape(&answer.body)]);
        }
    }
    all
}

/// Waits until the documents are those of a cluster at rest: twice the same.
fn at_rest(cluster: &Cluster) -> Value {
    let mut before = Value::Null;
    let mut same = 0;
    wait_for("documents at rest", Limit(60), || {
        std::thread::sleep(std::time::Duration::from_millis(1200));
        let now = documents(cluster);
        same = if now == before { same + 1 } else { 0 };
        before = now.clone();
        if same >= 2 { Ok(now) } else { Err(same) }
    })
}

fn life(kind: Kind) -> Vec<(&'static str, Value)> {
    let mut cluster = Cluster::mixed(&[kind, kind]).start();
    let mut seen = vec![("a new cluster", at_rest(&cluster))];
    let restart = json!({"schedule": "2099-01-01T00:00+00:00", "restart_pending": true});
    assert_eq!(cluster.nodes[1].post("/restart", &restart).status, 202);
    cluster.nodes[0].patch_config(&json!({"postgresql": {"parameters": {"max_connections": 60}}}));
    cluster.nodes[1].wait_state("a restart is pending", Limit(30), |state| state["pending_restart"] == true);
    let switchover = json!({"leader": "n0", "candidate": "n1", "scheduled_at": "2099-01-01T00:00+00:00"});
    assert_eq!(cluster.nodes[0].post("/switchover", &switchover).status, 202);
    seen.push(("what waits", at_rest(&cluster)));
    assert_eq!(cluster.nodes[0].request("DELETE", "/switchover", None).unwrap().status, 200);
    assert_eq!(cluster.nodes[1].request("DELETE", "/restart", None).unwrap().status, 200);
    cluster.nodes[0].patch_config(&json!({"postgresql": {"parameters": {"max_connections": 50}}}));
    cluster.nodes[0].patch_config(&json!({"synchronous_mode": true}));
    cluster.nodes[0].wait_sql("SHOW synchronous_standby_names", "n1", Limit(30));
    seen.push(("a synchronous standby", at_rest(&cluster)));
    cluster.nodes[0].patch_config(&json!({"synchronous_mode": false, "pause": true}));
    cluster.nodes[0].wait_sql("SHOW synchronous_standby_names", "", Limit(30));
    seen.push(("pause", at_rest(&cluster)));
    cluster.nodes[0].patch_config(&json!({"pause": null}));
    let answer = cluster.nodes[0].post("/switchover", &json!({"leader": "n0", "candidate": "n1"}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.wait_streaming(1, Limit(60));
    seen.push(("after a switchover", at_rest(&cluster)));
    seen
}

/// The first difference of two documents, with its place.
fn difference(place: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let absent = json!("(absent)");
                let place = format!("{place}.{key}");
                difference(&place, a.get(key).unwrap_or(&absent), b.get(key).unwrap_or(&absent), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                difference(&format!("{place}[{index}]"), a, b, found);
            }
        }
        _ if ours == theirs => {}
        _ => found.push(format!("{place}: {ours}, the reference {theirs}")),
    }
}

#[test]
fn keys_and_documents_are_those_of_the_reference() {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    let (ours, theirs) = (life(Kind::Ours), life(Kind::Reference));
    let mut found = Vec::new();
    for ((step, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        difference(step, ours, theirs, &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
