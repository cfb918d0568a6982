//! A real Consul: one server that keeps its data in memory. Where its program is not there (`./test` gets it), tests on it
//! pass without a word; the summary of `./test` says so.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use patroni_dcs::consul::ConsulOptions;
use patroni_dcs::{Dcs, Timing};
use patroni_http::{ClientOptions, HttpClient, Method};
use patroni_ports::free_port;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{World, eventually, path, servers};

pub(crate) struct Consul {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Drop for Consul {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    Some(servers().join("consul/usr/bin/consul")).filter(|program| program.exists())
}

impl Consul {
    /// `None`: it is not there.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(json!({})).await
    }

    pub(crate) async fn start_with(further: Value) -> Option<Self> {
        let program = program()?;
        let directory = tempfile::tempdir().expect("no temporary directory");
        let ports = [(); 4].map(|()| free_port());
        let mut configuration = json!({
            "session_ttl_min": "1s", "log_level": "err", "disable_update_check": true,
            "ports": {"http": ports[0], "server": ports[1], "serf_lan": ports[2], "serf_wan": ports[3], "dns": -1, "grpc": -1},
        });
        let Value::Object(further) = further else { panic!("not an object") };
        configuration.as_object_mut().unwrap().extend(further);
        let file = directory.path().join("consul.json");
        std::fs::write(&file, configuration.to_string()).unwrap();
        let child = Command::new(program)
            .args(["agent", "-dev", "-bind", "127.0.0.1", "-config-file"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("consul does not start");
        let consul = Consul { child, port: ports[0], _directory: directory };
        eventually("consul has a leader", || async {
            let asked = client().request(Method::GET, &consul.url("/v1/status/leader"), None, SECOND).await;
            asked.is_ok_and(|answer| answer.body.len() > 2)
        })
        .await;
        Some(consul)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("cannot signal");
    }

    pub(crate) fn handle(&self, options: ConsulOptions, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        let options = ConsulOptions { address: self.url(""), ..options };
        patroni_dcs::consul::connect(options, &path(), name.into(), timing)
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let answer = client().request(method, &self.url(path), body.map(|body| body.to_string()), SECOND * 5).await;
        serde_json::from_str(&answer.expect("consul does not answer").body).unwrap_or(Value::Null)
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn client() -> HttpClient {
    HttpClient::new(ClientOptions::default()).unwrap()
}

fn key(name: &str) -> String {
    format!("{}{name}", path().prefix().trim_start_matches('/'))
}

impl World for Consul {
    fn member(&self, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        self.handle(ConsulOptions::default(), name, timing)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn set_raw(&self, name: &str, value: Option<&[u8]>) {
        let operation = match value {
            Some(value) => json!({"Verb": "set", "Key": key(name), "Value": STANDARD.encode(value)}),
            None => json!({"Verb": "delete", "Key": key(name)}),
        };
        let answer = self.ask(Method::PUT, "/v1/txn", Some(json!([{"KV": operation}]))).await;
        assert!(answer["Errors"].is_null(), "{answer}");
    }

    async fn get_raw(&self, name: &str) -> Option<Vec<u8>> {
        let answer = self.ask(Method::GET, &format!("/v1/kv/{}?consistent", key(name)), None).await;
        let value = answer.get(0)?.get("Value")?;
        Some(value.as_str().map(|text| STANDARD.decode(text).unwrap()).unwrap_or_default())
    }

    fn reference(&self) -> (&'static str, &'static str, Value) {
        ("consul", "Consul", json!({"host": format!("127.0.0.1:{}", self.port)}))
    }
}
