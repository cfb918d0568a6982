//! A real Prometheus scrapes a real cluster, with the rules of `extras/monitoring`; and every question of the dashboard has an answer.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use patroni_tests::{Cluster, Limit, Value, free_port, json, request, servers, wait_for};

const RULES: &str = include_str!("../../extras/monitoring/rules.yml");
const DASHBOARD: &str = include_str!("../../extras/monitoring/dashboard.json");

/// Questions that have no answer in a cluster at rest.
const WITHOUT_ANSWER: [&str; 2] =
    ["patroni_xlog_paused{scope=\"batman\"} == 1", "increase(patroni_rs_failovers_total{scope=\"batman\"}[1m]) > 0"];

struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    /// Where it is, if it is there.
    fn program() -> Option<PathBuf> {
        let program = servers().join("prometheus/usr/bin/prometheus");
        let here = program.is_file();
        if !here {
            eprintln!("SKIPPED: there is no Prometheus ({}); ./test gets it", program.display());
        }
        here.then_some(program)
    }

    fn start(program: &Path, cluster: &Cluster) -> Prometheus {
        let sandbox = &cluster.sandbox;
        let targets: Vec<String> = cluster.nodes.iter().map(|node| format!("127.0.0.1:{}", node.rest_port)).collect();
        let configuration = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "patroni", "static_configs": [{"targets": targets}]}],
        });
        sandbox.file("rules.yml", RULES);
        let file = sandbox.file("prometheus.yml", &configuration.to_string());
        let port = free_port();
        let child = sandbox
            .command(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", sandbox.directory("prometheus").display()))
            .args([format!("--web.listen-address=127.0.0.1:{port}"), "--log.level=error".to_owned()])
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Prometheus { child, port }
    }

    fn ask(&self, path: &str) -> Result<Value, String> {
        let answer =
            request(self.port, "GET", path, None, Duration::from_secs(5)).map_err(|error| error.to_string())?;
        if answer.status == 200 { answer.body.parse().map_err(|_| answer.body) } else { Err(answer.body) }
    }

    /// What a question finds, sample by sample.
    fn query(&self, question: &str) -> Result<Vec<Value>, String> {
        let encoded: String = question.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.ask(&format!("/api/v1/query?query={encoded}"))?;
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The questions of the dashboard, as Grafana would put them.
fn questions() -> Vec<String> {
    let dashboard: Value = DASHBOARD.parse().unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut found: Vec<&Value> = targets.map(|target| &target["expr"]).collect();
    found.push(&dashboard["annotations"]["list"][0]["expr"]);
    let put =
        |question: &&Value| question.as_str().unwrap().replace("$scope", "batman").replace("$__rate_interval", "10s");
    found.iter().map(put).collect()
}

#[test]
fn prometheus_scrapes_a_cluster_and_its_alerts_follow() {
    let Some(program) = Prometheus::program() else { return };
    let mut cluster = Cluster::of(2).start();
    cluster.wait_streaming(0, Limit(60));
    let prometheus = Prometheus::start(&program, &cluster);
    let questions = questions();
    wait_for("every question of the dashboard has an answer", Limit(60), || {
        let failing = |question: &&String| match prometheus.query(question) {
            Ok(found) => found.is_empty() && !WITHOUT_ANSWER.contains(&question.as_str()),
            Err(_) => true,
        };
        let failing: Vec<&String> = questions.iter().filter(failing).collect();
        if failing.is_empty() { Ok(()) } else { Err(format!("{failing:?}")) }
    });
    wait_for("rules are evaluated without errors", Limit(60), || {
        let rules = prometheus.ask("/api/v1/rules")?;
        let rules = rules["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        let well = !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok");
        if well { Ok(()) } else { Err(format!("{rules:?}")) }
    });
    // OpenMetrics was negotiated: only there a histogram's bound of one second is 1.0 in a Prometheus of version 2.
    let bounds = prometheus.query("patroni_rs_tick_duration_seconds_bucket{le=\"1.0\"}").unwrap();
    assert_eq!(bounds.len(), 2, "{bounds:?}");

    cluster.nodes[0].kill_postmaster();
    cluster.nodes[0].kill_hard();
    cluster.nodes[1].wait_primary(Limit(90));
    wait_for("the failover is reported, and nothing about two primaries", Limit(60), || {
        let alerts = prometheus.query("ALERTS{alertstate=\"firing\"}")?;
        let names: Vec<&str> = alerts.iter().filter_map(|alert| alert["metric"]["alertname"].as_str()).collect();
        assert!(!names.contains(&"PatroniTwoPrimaries"), "{names:?}");
        if names.contains(&"PatroniFailover") { Ok(()) } else { Err(format!("{names:?}")) }
    });
    wait_for("the agent that died is reported", Limit(60), || {
        let down = prometheus.query("ALERTS{alertname=\"PatroniAgentDown\"}")?;
        if down.len() == 1 { Ok(()) } else { Err(format!("{down:?}")) }
    });
}
