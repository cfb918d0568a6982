//! Real etcd servers on free ports and in temporary directories.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use patroni_dcs::etcd::EtcdOptions;
use patroni_dcs::etcd3::Etcd3;
use patroni_dcs::{Dcs, Timing};
use patroni_ports::free_port;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

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
        let mut client = self.client().await;
        let members = client.member_list().await.expect("cannot list members");
        let old = self.servers.remove(0);
        let old_id = members.members().iter().find(|member| member.client_urls() == [old.url.as_str()]);
        let old_id = old_id.expect("it is no member").id();
        let ports = [free_port(), free_port()];
        let peer = format!("http://127.0.0.1:{}", ports[1]);
        let (url, name) = (format!("http://127.0.0.1:{}", ports[0]), format!("n{}", ports[0]));
        // It takes no new member until those that there are have been connected for some seconds.
        eventually("a member is added", || {
            let (mut client, peer) = (client.clone(), peer.clone());
            async move { client.member_add([peer], None).await.is_ok() }
        })
        .await;
        let others = members.members().iter().map(|member| format!("{}={}", member.name(), member.peer_urls()[0]));
        let all: Vec<String> = others.chain([format!("{name}={peer}")]).collect();
        let data = self.directory.path().join(&name).display().to_string();
        let mut server = Server { arguments: arguments(&name, &data, &url, &peer, &all), url, child: None };
        server.arguments.push("--initial-cluster-state=existing".to_owned());
        server.start();
        self.servers.push(server);
        self.ready().await;
        let client = self.client().await;
        eventually("a member is removed", || {
            let mut client = client.clone();
            async move { client.member_remove(old_id).await.is_ok() }
        })
        .await;
    }

    /// Waits until each server answers linearizable reads.
    pub(crate) async fn ready(&self) {
        for server in &self.servers {
            eventually("etcd answers", || async {
                let asking = async { Client::connect([&server.url], None).await?.get("x", None).await };
                matches!(tokio::time::timeout(Duration::from_secs(1), asking).await, Ok(Ok(_)))
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

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.urls(), None).await.expect("cannot connect")
    }

    /// Leases that exist.
    pub(crate) async fn leases(&self) -> usize {
        self.client().await.leases().await.expect("cannot list leases").leases().len()
    }
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
        let key = format!("{}{name}", path().prefix());
        let mut client = self.client().await;
        match value {
            Some(value) => drop(client.put(key, value, None).await.expect("cannot put")),
            None => drop(client.delete(key, None).await.expect("cannot delete")),
        }
    }

    async fn get_raw(&self, name: &str) -> Option<Vec<u8>> {
        let key = format!("{}{name}", path().prefix());
        let answer = self.client().await.get(key, Some(GetOptions::new())).await.expect("cannot get");
        answer.kvs().first().map(|kv| kv.value().to_vec())
    }

    fn reference(&self) -> (&'static str, &'static str, serde_json::Value) {
        let host = self.urls()[0].trim_start_matches("http://").to_owned();
        ("etcd3", "Etcd3", serde_json::json!({"hosts": [host]}))
    }
}
