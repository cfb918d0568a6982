//! Real etcd servers on free ports and in temporary directories.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use patroni_dcs::etcd::EtcdOptions;
use patroni_dcs::etcd3::Etcd3;
use patroni_dcs::{Dcs, Timing};
use patroni_http::{ClientOptions, HttpClient, Method};
use patroni_ports::free_port;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::{World, eventually, path};

pub(crate) struct Etcd {
    servers: Vec<Server>,
    directory: TempDir,
}

struct Server {
    arguments: Vec<String>,
    url: String,
    child: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGKILL ends stopped processes too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Server {
    fn start(&mut self) {
        let child = Command::new("/usr/bin/etcd")
            .args(&self.arguments)
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd does not start; install it (Debian: etcd-server)");
        self.child = Some(child);
    }
}

impl Etcd {
    pub(crate) async fn start(count: usize) -> Self {
        let etcd = Etcd::launch(count, "http", &[]);
        etcd.ready().await;
        etcd
    }

    /// Starts without waiting; with another scheme or further arguments the test knows how to reach it.
    pub(crate) fn launch(count: usize, scheme: &str, further: &[String]) -> Self {
        let directory = tempfile::tempdir().expect("no temporary directory");
        let ports: Vec<u16> = (0..count * 2).map(|_| free_port()).collect();
        let peer = |i: usize| format!("http://127.0.0.1:{}", ports[count + i]);
        let all: Vec<String> = (0..count).map(|i| format!("n{i}={}", peer(i))).collect();
        let servers = (0..count).map(|i| {
            let url = format!("{scheme}://127.0.0.1:{}", ports[i]);
            let data = directory.path().join(format!("n{i}")).display().to_string();
            let mut arguments = arguments(&format!("n{i}"), &data, &url, &peer(i), &all);
            arguments.extend_from_slice(further);
            Server { arguments, url, child: None }
        });
        let mut etcd = Etcd { servers: servers.collect(), directory };
        for server in &mut etcd.servers {
            server.start();
        }
        etcd
    }

    /// The first server's place is taken by a new one, with another address.
    pub(crate) async fn replace_first(&mut self) {
        let ctl = self.ctl();
        let members = ctl.json(&["member", "list"]).await;
        let members = members["members"].as_array().expect("no members").clone();
        let old = self.servers.remove(0);
        let old_id = members.iter().find(|member| member["clientURLs"][0] == old.url.as_str());
        let old_id = format!("{:x}", old_id.expect("it is no member")["ID"].as_u64().expect("no id"));
        let ports = [free_port(), free_port()];
        let peer = format!("http://127.0.0.1:{}", ports[1]);
        let (url, name) = (format!("http://127.0.0.1:{}", ports[0]), format!("n{}", ports[0]));
        let peer_urls = format!("--peer-urls={peer}");
        // It takes no new member until those that there are have been connected for some seconds.
        eventually("a member is added", || async { ctl.run(&["member", "add", &name, &peer_urls]).await.is_ok() })
            .await;
        let text = |value: &Value| value.as_str().expect("no text").to_owned();
        let others = members.iter().map(|member| format!("{}={}", text(&member["name"]), text(&member["peerURLs"][0])));
        let all: Vec<String> = others.chain([format!("{name}={peer}")]).collect();
        let data = self.directory.path().join(&name).display().to_string();
        let mut server = Server { arguments: arguments(&name, &data, &url, &peer, &all), url, child: None };
        server.arguments.push("--initial-cluster-state=existing".to_owned());
        server.start();
        self.servers.push(server);
        self.ready().await;
        let ctl = self.ctl();
        eventually("a member is removed", || async { ctl.run(&["member", "remove", &old_id]).await.is_ok() }).await;
    }

    /// Waits until each server answers linearizable reads.
    pub(crate) async fn ready(&self) {
        for server in &self.servers {
            eventually("etcd answers", || async {
                gateway(&server.url, "kv/range", &json!({"key": STANDARD.encode("x")})).await.is_some()
            })
            .await;
        }
    }

    pub(crate) fn kill(&mut self, index: usize) {
        let mut child = self.servers[index].child.take().expect("is not running");
        child.kill().expect("cannot kill");
        child.wait().expect("cannot wait");
    }

    /// Its data are lost; it does not run.
    pub(crate) fn wipe(&self, index: usize) {
        std::fs::remove_dir_all(self.directory.path().join(format!("n{index}"))).expect("cannot remove its data");
    }

    /// Copies its data; it does not run.
    pub(crate) fn copy(&self, index: usize, to: &std::path::Path) {
        copy(&self.directory.path().join(format!("n{index}")), to);
    }

    /// The reverse of [`Etcd::copy`].
    pub(crate) fn put_back(&self, index: usize, from: &std::path::Path) {
        copy(from, &self.directory.path().join(format!("n{index}")));
    }

    pub(crate) fn restart(&mut self, index: usize) {
        self.servers[index].start();
    }

    pub(crate) fn signal(&self, index: usize, signal: Signal) {
        let child = self.servers[index].child.as_ref().expect("is not running");
        kill_process(Pid::from_child(child), signal).expect("cannot signal");
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.url.clone()).collect()
    }

    pub(crate) fn handle(&self, endpoints: Vec<String>, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        let options = EtcdOptions { endpoints, ..EtcdOptions::default() };
        Etcd3::connect(options, &path(), name.into(), timing)
    }

    /// What the first server that answers says to a question by JSON.
    async fn ask(&self, path: &str, question: Value) -> Value {
        for url in self.urls() {
            if let Some(answer) = gateway(&url, path, &question).await {
                return answer;
            }
        }
        panic!("no server of etcd answers");
    }

    /// Administration, without a name.
    pub(crate) fn ctl(&self) -> Ctl {
        Ctl { endpoints: self.urls().join(","), user: None }
    }

    /// Administration by `NAME:PASSWORD`.
    pub(crate) fn ctl_as(&self, user: &'static str) -> Ctl {
        Ctl { user: Some(user), ..self.ctl() }
    }

    /// Leases that exist.
    pub(crate) async fn leases(&self) -> usize {
        // A line that says how many, and one for each.
        self.ctl().ok(&["lease", "list"]).await.lines().skip(1).count()
    }
}

/// etcd's gateway for those who do not speak gRPC: much quicker than a program of its own.
async fn gateway(url: &str, path: &str, question: &Value) -> Option<Value> {
    let client = HttpClient::new(ClientOptions::default()).expect("no client");
    let url = format!("{url}/v3/{path}");
    let answer = client.request(Method::POST, &url, Some(question.to_string()), Duration::from_secs(1)).await.ok()?;
    (answer.status == 200).then(|| answer.body.parse().expect("no JSON"))
}

/// `etcdctl`, which stands for whoever looks after etcd.
pub(crate) struct Ctl {
    endpoints: String,
    user: Option<&'static str>,
}

impl Ctl {
    /// What it prints, or why it failed.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        self.run_with(arguments, b"").await
    }

    async fn run_with(&self, arguments: &[&str], input: &[u8]) -> Result<String, String> {
        let mut command = tokio::process::Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.endpoints));
        command.args(self.user.map(|user| format!("--user={user}"))).args(arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("etcdctl is missing; install it (Debian: etcd-client)");
        let mut stdin = child.stdin.take().expect("it has no input");
        // It may end without reading it.
        _ = stdin.write_all(input).await;
        drop(stdin);
        let output = child.wait_with_output().await.expect("cannot wait");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The same, where it has to succeed.
    pub(crate) async fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).await.unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        self.ok(&[arguments, &["--write-out=json"]].concat()).await.parse().expect("no JSON")
    }

    pub(crate) async fn put(&self, key: &str, value: &[u8]) -> Result<(), String> {
        self.run_with(&["put", key], value).await.map(drop)
    }

    /// The revision of the store.
    pub(crate) async fn revision(&self) -> i64 {
        self.json(&["get", "x"]).await["header"]["revision"].as_i64().expect("no revision")
    }

    pub(crate) async fn change_password(&self, user: &str, password: &str) {
        let arguments = ["user", "passwd", user, "--interactive=false"];
        self.run_with(&arguments, format!("{password}\n").as_bytes()).await.expect("cannot change the password");
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").args(["-a".as_ref(), from.as_os_str(), to.as_os_str()]).status();
    assert!(copied.expect("cannot copy").success());
}

fn arguments(name: &str, data: &str, url: &str, peer: &str, all: &[String]) -> Vec<String> {
    let pairs = [
        ("name", name),
        ("data-dir", data),
        ("listen-client-urls", url),
        ("advertise-client-urls", url),
        ("listen-peer-urls", peer),
        ("initial-advertise-peer-urls", peer),
        ("initial-cluster", &all.join(",")),
        // No other cluster has the peers' ports at the same time.
        ("initial-cluster-token", &all[0]),
    ];
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

impl World for Etcd {
    fn member(&self, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        self.handle(self.urls(), name, timing)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn set_raw(&self, name: &str, value: Option<&[u8]>) {
        let key = STANDARD.encode(format!("{}{name}", path().prefix()));
        match value {
            Some(value) => self.ask("kv/put", json!({"key": key, "value": STANDARD.encode(value)})).await,
            None => self.ask("kv/deleterange", json!({"key": key})).await,
        };
    }

    async fn get_raw(&self, name: &str) -> Option<Vec<u8>> {
        let key = STANDARD.encode(format!("{}{name}", path().prefix()));
        let answer = self.ask("kv/range", json!({"key": key})).await;
        let found = answer["kvs"].get(0)?;
        // An empty value is left out.
        Some(STANDARD.decode(found["value"].as_str().unwrap_or_default()).expect("no base64"))
    }

    fn reference(&self) -> (&'static str, &'static str, serde_json::Value) {
        let host = self.urls()[0].trim_start_matches("http://").to_owned();
        ("etcd3", "Etcd3", serde_json::json!({"hosts": [host]}))
    }
}
