//! The REST API on real nodes: the rows of `rest.rows`, in the form of Patroni 4, in that of Patroni 2, and the same rows
//! against Patroni 4.1.5, which differs only where a row says so.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use patroni_tests::{
    Answer, Builder, Cluster, Kind, Limit, Node, Programs, Signal, Value, json, request, signal, wait_for,
};

const ROWS: &str = include_str!("rest.rows");

/// Statements of the chapter that no request shows: who uses an endpoint (43, 51, 55, 58) is shown by the tests of
/// patronictl, that a change is taken up (32) by the states `behind` and `restart pending` coming about.
const SHOWN_ELSEWHERE: [u32; 5] = [32, 43, 51, 55, 58];

/// Whose answers are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Four,
    Two,
    Reference,
}

/// A line of the table.
struct Row {
    line: usize,
    nodes: Vec<usize>,
    methods: Vec<String>,
    paths: Vec<String>,
    body: Option<String>,
    four: String,
    two: Option<String>,
    reference: Option<String>,
    statements: Vec<u32>,
}

enum Line {
    State(String),
    Row(Row),
}

impl Row {
    fn parse(line: usize, text: &str) -> Row {
        let (text, statements) = text.split_once(" ;; ").unwrap_or((text, ""));
        let (text, reference) = optional(text, " =ref=> ");
        let (text, two) = optional(text, " =2=> ");
        let (asked, four) = text.split_once(" => ").unwrap_or_else(|| panic!("line {line}: no =>"));
        let (asked, body) = optional(asked, " <- ");
        let mut words = asked.split_whitespace();
        let mut word = || words.next().unwrap_or_else(|| panic!("line {line}: too short"));
        let nodes = word().split('+').map(|name| name[1..].parse().unwrap()).collect();
        let methods = word().split(',').map(str::to_owned).collect();
        let statements = statements.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let paths = words.map(str::to_owned).collect();
        Row { line, nodes, methods, paths, body, four: four.trim().to_owned(), two, reference, statements }
    }

    fn expected(&self, form: Form) -> &str {
        match form {
            Form::Four => &self.four,
            Form::Two => self.two.as_deref().unwrap_or(&self.four),
            Form::Reference => self.reference.as_deref().unwrap_or(&self.four),
        }
    }

    /// Asks all that the row asks; what is wrong.
    fn run(&self, form: Form, nodes: &[Node]) -> Vec<String> {
        let mut wrong = Vec::new();
        let (status, pattern) = expectation(self.expected(form));
        let methods = self.methods.iter().map(String::as_str);
        for (node, path) in self.nodes.iter().flat_map(|node| self.paths.iter().map(|path| (&nodes[*node], path))) {
            for method in methods.clone() {
                let fits = |found: &Answer| {
                    found.status == status && pattern.as_ref().is_none_or(|pattern| matches(pattern, &body(found)))
                };
                if let Err(found) = self.ask_for(form, node, method, path, fits) {
                    wrong.push(self.complaint(form, node, method, path, &found));
                }
            }
            if method_is_get(&self.methods) && is_check(path) {
                for method in ["HEAD", "OPTIONS"] {
                    let fits = |found: &Answer| (found.status, found.body.as_str()) == (status, "");
                    if let Err(found) = self.ask_for(form, node, method, path, fits) {
                        wrong.push(self.complaint(form, node, method, path, &found));
                    }
                }
            }
        }
        wrong
    }

    /// Asks, and of the reference asks again: it reads from a cache which its watch of etcd fills, so that a node may
    /// not see yet what was written through another one. What only reads can be asked twice.
    fn ask_for(
        &self,
        form: Form,
        node: &Node,
        method: &str,
        path: &str,
        fits: impl Fn(&Answer) -> bool,
    ) -> Result<(), Answer> {
        let reads = ["GET", "HEAD", "OPTIONS"].contains(&method);
        let end = Instant::now() + Duration::from_secs(if form == Form::Reference && reads { 10 } else { 0 });
        loop {
            let found = self.ask(node, method, path);
            if fits(&found) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(found);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask(&self, node: &Node, method: &str, path: &str) -> Answer {
        let limit = Duration::from_secs(60);
        request(node.rest_port, method, path, self.body.as_deref(), limit)
            .unwrap_or_else(|error| panic!("line {}: {method} {path}: {error}", self.line))
    }

    fn complaint(&self, form: Form, node: &Node, method: &str, path: &str, found: &Answer) -> String {
        let (line, expected) = (self.line, self.expected(form));
        format!(
            "line {line}, {form:?}: {} {method} {path} {}\n  expected {expected}\n  found    {} {}\n  it is    {}",
            node.name,
            self.body.as_deref().unwrap_or_default(),
            found.status,
            found.body,
            node.status()
        )
    }
}

fn method_is_get(methods: &[String]) -> bool {
    methods.iter().any(|method| method == "GET")
}

/// Whether HEAD and OPTIONS give the status of GET, by the table of the API as well as in Patroni.
fn is_check(path: &str) -> bool {
    let name = path[1..].split(['/', '?']).next().unwrap();
    !["patroni", "cluster", "history", "config", "metrics", "failsafe", "liveness", "readiness", "openapi.json"]
        .contains(&name)
}

fn optional<'a>(text: &'a str, mark: &str) -> (&'a str, Option<String>) {
    match text.split_once(mark) {
        Some((before, after)) => (before, Some(after.trim().to_owned())),
        None => (text, None),
    }
}

fn expectation(text: &str) -> (u16, Option<Value>) {
    let (status, pattern) = text.split_once(' ').map_or((text, None), |(status, pattern)| (status, Some(pattern)));
    let pattern = pattern.map(|text| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}")));
    (status.parse().unwrap(), pattern)
}

/// The body as JSON, or as a text where it is none.
fn body(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|_| Value::String(answer.body.clone()))
}

fn matches(pattern: &Value, found: &Value) -> bool {
    match (pattern, found) {
        (Value::Object(pattern), Value::Object(found)) => pattern.iter().all(|(key, pattern)| match found.get(key) {
            Some(found) => matches(pattern, found),
            None => pattern == "<absent>",
        }),
        (Value::Array(pattern), Value::Array(found)) => {
            pattern.len() == found.len() && pattern.iter().zip(found).all(|(pattern, found)| matches(pattern, found))
        }
        (Value::String(kind), found) if kind.starts_with('<') => match kind.as_str() {
            "<int>" => found.is_i64() || found.is_u64(),
            "<text>" => found.as_str().is_some_and(|text| !text.is_empty()),
            "<bool>" => found.is_boolean(),
            "<any>" => true,
            "<time>" => found.as_str().is_some_and(|text| has_form(text, "0000-00-00 00:00:00.000000+00:00")),
            "<old time>" => {
                let parts = found.as_str().and_then(|text| text.rsplit_once(' '));
                parts.is_some_and(|(time, zone)| {
                    has_form(time, "0000-00-00 00:00:00.000") && zone.chars().all(|c| c.is_ascii_uppercase())
                })
            }
            "<absent>" => false,
            other => panic!("unknown kind {other}"),
        },
        (pattern, found) => pattern == found,
    }
}

/// A digit for each zero, everything else as it stands.
fn has_form(text: &str, form: &str) -> bool {
    text.len() == form.len()
        && text.chars().zip(form.chars()).all(|(c, f)| if f == '0' { c.is_ascii_digit() } else { c == f })
}

fn table() -> Vec<Line> {
    let lines = ROWS.lines().enumerate().map(|(index, text)| (index + 1, text.trim()));
    lines
        .filter(|(_, text)| !text.is_empty() && !text.starts_with('#'))
        .map(|(line, text)| match text.strip_prefix("== ") {
            Some(state) => Line::State(state.to_owned()),
            None => Line::Row(Row::parse(line, text)),
        })
        .collect()
}

/// Brings the cluster into a state.
fn enter(state: &str, cluster: &mut Cluster) {
    let nodes = &cluster.nodes;
    match state {
        "running" => {
            wait_for("all are in the store and stream", Limit(60), || settled(&nodes[0]));
        }
        "behind" => {
            wait_for("all are in the store and stream", Limit(60), || settled(&nodes[0]));
            // A replay that was paused is resumed within a loop.
            signal(nodes[1].server_process("startup").expect("a standby replays"), Signal::STOP);
            nodes[0].sql("CREATE TABLE filler AS SELECT repeat('x', 500) AS x FROM generate_series(1, 6000)");
            nodes[1].wait_sql("SELECT pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn() > 2097152", "t", Limit(20));
        }
        "restart pending" => {
            go_on(&nodes[1]);
            nodes[0].patch_config(&json!({"postgresql": {"parameters": {"max_connections": 60}}}));
            for node in nodes {
                wait_for("a restart is pending", Limit(30), || pending_restart(node, &json!(true)));
            }
            let pending = || {
                let members = nodes[0].request("GET", "/cluster", None).unwrap().json()["members"].clone();
                let all = members.as_array().unwrap().iter().all(|member| member["pending_restart"] == true);
                if all { Ok(()) } else { Err(members) }
            };
            wait_for("all members tell of it", Limit(30), pending);
        }
        "restarted" => {
            let setting =
                "SELECT setting FROM pg_file_settings WHERE name = 'max_connections' ORDER BY seqno DESC LIMIT 1";
            // Not a value that was there before: the node may still be about to write what came in between.
            for node in nodes {
                node.wait_sql(setting, "61", Limit(30));
            }
        }
        "reinitialized" => {
            for node in nodes {
                wait_for("no restart is pending", Limit(30), || pending_restart(node, &Value::Null));
            }
        }
        "synchronous" => {
            wait_for("all stream again", Limit(90), || settled(&nodes[0]));
            nodes[0].patch_config(&json!({"synchronous_mode": true}));
            wait_for("n1 is synchronous", Limit(30), || {
                let status = nodes[1].status();
                if status["sync_standby"] == true { Ok(()) } else { Err(status) }
            });
            let role = || {
                let members = nodes[0].request("GET", "/cluster", None).unwrap().json()["members"].clone();
                if members[1]["role"] == "sync_standby" { Ok(()) } else { Err(members) }
            };
            wait_for("all know", Limit(30), role);
        }
        "paused" => {
            nodes[0].patch_config(&json!({"pause": true, "synchronous_mode": null}));
            for node in nodes {
                wait_for("all are paused", Limit(30), || {
                    let status = node.status();
                    if status["pause"] == true && status["sync_standby"].is_null() { Ok(()) } else { Err(status) }
                });
            }
        }
        "stopped" => {
            let data = nodes[1].data.display().to_string();
            nodes[1].pg_program(&cluster.sandbox, "pg_ctl", &["stop", "-w", "-m", "fast", "-D", &data]);
            wait_for("the agent knows", Limit(30), || {
                let status = nodes[1].status();
                if status["state"] == "stopped" { Ok(()) } else { Err(status) }
            });
        }
        "switched over" => {
            nodes[0].patch_config(&json!({"pause": null}));
            nodes[1].wait_streaming(Limit(60));
            wait_for("all are well", Limit(60), || settled(&nodes[0]));
        }
        "failed over" => cluster.wait_streaming(1, Limit(60)),
        "history" => {
            cluster.wait_streaming(0, Limit(60));
            wait_for("the history is written", Limit(30), || {
                let history = cluster.nodes[0].request("GET", "/history", None).unwrap().json();
                if history.as_array().is_some_and(|lines| lines.len() == 2) { Ok(()) } else { Err(history) }
            });
        }
        "configuration replaced" => {
            go_on(&cluster.nodes[1]);
            cluster.wait_streaming(0, Limit(60));
        }
        "configuration known" => {
            // Nodes answer with what they last read; a change wakes them at once.
            for node in nodes {
                wait_for("the node has read it", Limit(10), || {
                    let config = node.request("GET", "/config", None).unwrap().json();
                    if config["maximum_lag_on_failover"] == 1_048_577 { Ok(()) } else { Err(config) }
                });
            }
        }
        "leader in crash recovery" => {
            cluster.wait_streaming(0, Limit(60));
            hold_in_crash_recovery(cluster, 0);
        }
        "replica in crash recovery" => {
            go_on(&cluster.nodes[0]);
            cluster.wait_streaming(0, Limit(60));
            hold_in_crash_recovery(cluster, 1);
        }
        "failsafe" => {
            cluster.wait_streaming(0, Limit(60));
            cluster.nodes[0].patch_config(&json!({"failsafe_mode": true}));
            for node in &cluster.nodes {
                wait_for("the key of failsafe mode is known", Limit(30), || {
                    let known = node.request("GET", "/failsafe", None).unwrap().json();
                    if known.as_object().is_some_and(|members| members.len() == 3) { Ok(()) } else { Err(known) }
                });
            }
        }
        "no leader" => {
            // In pause nobody takes over from an agent that is gone; PostgreSQL runs on.
            cluster.nodes[0].patch_config(&json!({"pause": true, "failsafe_mode": null}));
            for node in &cluster.nodes {
                node.wait_state("is paused", Limit(30), |state| state["pause"] == true);
            }
            cluster.nodes[0].kill_agent();
            for node in &cluster.nodes[1..] {
                node.wait_state("sees no leader", Limit(60), |state| state["cluster_unlocked"] == true);
                wait_for("the member is gone too", Limit(60), || {
                    let document = node.request("GET", "/cluster", None).unwrap().json();
                    let left = document["members"].as_array().is_some_and(|members| members.len() == 2);
                    if left { Ok(()) } else { Err(document) }
                });
            }
        }
        "creating replica" => {
            cluster.start_node(0);
            cluster.nodes[0].wait_primary(Limit(60));
            cluster.nodes[0].patch_config(&json!({"pause": null}));
            cluster.wait_streaming(0, Limit(60));
            cluster.nodes[2].kill_agent();
            cluster.nodes[2].config["postgresql"]["basebackup"] =
                json!([{"checkpoint": "fast"}, {"max-rate": "512k"}, "no-sync"]);
            cluster.start_node(2);
            cluster.wait_streaming(0, Limit(60));
            let node = &cluster.nodes[2];
            assert_eq!(node.post("/reinitialize", &json!({})).body, "reinitialize started");
            node.wait_state("is being copied", Limit(30), |state| state["state"] == "creating replica");
            wait_for("the others know", Limit(30), || {
                let members = cluster.nodes[0].request("GET", "/cluster", None).unwrap().json()["members"].clone();
                if members[2]["state"] == "creating replica" { Ok(()) } else { Err(members) }
            });
        }
        "standby cluster moved" => {
            cluster.wait_standby_leader(1, Limit(60));
            cluster.nodes[0].wait_streaming(Limit(60));
            // The new standby leader may still be on its way to the remote primary, and refuses to be restarted meanwhile.
            cluster.nodes[1].wait_state("nothing to do", Limit(30), |status| status["job"].is_null());
        }
        other => panic!("unknown state {other}"),
    }
}

/// Kills PostgreSQL, and stops the process that recovers as soon as its agent has started it again.
fn hold_in_crash_recovery(cluster: &Cluster, index: usize) {
    let node = &cluster.nodes[index];
    cluster.nodes[0].sql("CHECKPOINT");
    node.sql("CHECKPOINT");
    // What takes some time to be recovered.
    cluster.nodes[0].sql("CREATE TABLE IF NOT EXISTS recovered (x text)");
    cluster.nodes[0].sql("INSERT INTO recovered SELECT repeat('x', 500) FROM generate_series(1, 80000)");
    let position = cluster.nodes[0].sql("SELECT pg_current_wal_lsn()");
    if index != 0 {
        node.wait_sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'"), "t", Limit(30));
    }
    wait_for("PostgreSQL is held in crash recovery", Limit(90), || {
        node.kill_postmaster();
        let end = Instant::now() + Duration::from_secs(20);
        let recovers = loop {
            match node.server_process("startup") {
                Some(pid) => break pid,
                None if Instant::now() > end => return Err("PostgreSQL was not started"),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        signal(recovers, Signal::STOP);
        // Too late if it was through with it.
        if node.connect().is_err() { Ok(()) } else { Err("it takes connections") }
    });
    node.wait_state("starts", Limit(30), |state| state["state"] == "starting");
    wait_for("the others know", Limit(30), || {
        let members = cluster.nodes[2].request("GET", "/cluster", None).unwrap().json()["members"].clone();
        if members[index]["state"] == "starting" { Ok(()) } else { Err(members) }
    });
}

/// What [`hold_in_crash_recovery`] stopped goes on.
fn go_on(node: &Node) {
    signal(node.server_process("startup").expect("it is stopped"), Signal::CONT);
}

/// A cluster that follows the leader of another one.
fn standby_cluster(form: Form, remote: &Cluster) -> Cluster {
    let section = json!({"host": "127.0.0.1", "port": remote.nodes[0].pg_port});
    let mut cluster = builder(form, 2).dcs(json!({"standby_cluster": section})).prepare();
    cluster.start_node(0);
    cluster.wait_standby_leader(0, Limit(90));
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(90));
    wait_for("both are in the store", Limit(30), || {
        let members = cluster.nodes[0].request("GET", "/cluster", None).unwrap().json()["members"].clone();
        let known = members[0]["role"] == "standby_leader" && members[0]["state"] != "starting";
        if known && members[1]["lag"].is_u64() { Ok(()) } else { Err(members) }
    });
    cluster
}

fn settled(leader: &Node) -> Result<(), Value> {
    let document = leader.request("GET", "/cluster", None).map(|answer| answer.json()).unwrap_or_default();
    let members = document["members"].as_array().cloned().unwrap_or_default();
    let replicas = members
        .iter()
        .filter(|member| (member["state"] == "streaming" || member["state"] == "running") && member["lag"].is_u64());
    let primary = leader.status();
    let senders =
        primary["replication"].as_array().map_or(0, |rows| rows.iter().filter(|r| r["state"] == "streaming").count());
    if replicas.count() == 2 && senders == 2 { Ok(()) } else { Err(document) }
}

fn pending_restart(node: &Node, expected: &Value) -> Result<(), Value> {
    let status = node.status();
    if &status["pending_restart"] == expected { Ok(()) } else { Err(status) }
}

fn builder(form: Form, nodes: usize) -> Builder {
    let kind = if form == Form::Reference { Kind::Reference } else { Kind::Ours };
    let builder = Cluster::mixed(&vec![kind; nodes]);
    if form == Form::Two { builder.config(json!({"restapi": {"compatibility": 2}})) } else { builder }
}

fn run(form: Form) {
    let mut cluster = builder(form, 3)
        .node(1, json!({"tags": {"clonefrom": true, "rack": 7, "datacenter": "eu 1"}}))
        .node(2, json!({"tags": {"noloadbalance": true, "nofailover": true, "nosync": true}}))
        .prepare();
    // What a standby cluster follows.
    let mut remotes = Vec::new();
    cluster.start_node(0);
    let leads = |node: &Node| if node.status_of("/primary") == 200 { Ok(()) } else { Err("") };
    wait_for("n0 leads", Limit(60), || leads(&cluster.nodes[0]));
    cluster.start_node(1);
    cluster.start_node(2);
    let mut wrong = Vec::new();
    for line in table() {
        match line {
            Line::State(state) if state == "standby cluster" => {
                let follower = standby_cluster(form, &cluster);
                remotes.push(std::mem::replace(&mut cluster, follower));
            }
            Line::State(state) => enter(&state, &mut cluster),
            Line::Row(row) => {
                let found = row.run(form, &cluster.nodes);
                // At once: a state that does not come about would hide them.
                found.iter().for_each(|complaint| eprintln!("{complaint}"));
                wrong.extend(found);
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong, see above", wrong.len());
}

#[test]
fn answers_in_the_form_of_patroni_4() {
    run(Form::Four);
}

#[test]
fn answers_in_the_form_of_patroni_2() {
    run(Form::Two);
}

#[test]
fn answers_of_the_reference_are_the_same() {
    let programs = Programs::find();
    if programs.reference.is_none() || programs.test_the_reference() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed; ./test installs it");
        return;
    }
    run(Form::Reference);
}

#[test]
fn every_statement_of_the_chapter_is_shown() {
    let mut shown: BTreeSet<u32> = SHOWN_ELSEWHERE.into();
    for line in table() {
        if let Line::Row(row) = line {
            shown.extend(row.statements);
        }
    }
    let missing: Vec<u32> = (1..=58).filter(|statement| !shown.contains(statement)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
