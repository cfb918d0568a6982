//! Real etcd servers on free ports and in temporary directories.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use patroni_dcs::etcd3::{Etcd3, Etcd3Options};
use patroni_dcs::{Dcs, Timing};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{World, eventually, path};

pub(crate) struct Etcd {
    servers: Vec<Server>,
    _directory: TempDir,
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
        let ports = free_ports(count * 2);
        let token = directory.path().display().to_string();
        let peer = |i: usize| format!("http://127.0.0.1:{}", ports[count + i]);
        let all: Vec<String> = (0..count).map(|i| format!("n{i}={}", peer(i))).collect();
        let servers = (0..count).map(|i| {
            let url = format!("{scheme}://127.0.0.1:{}", ports[i]);
            let data = directory.path().join(format!("n{i}"));
            let arguments = [
                ("name", format!("n{i}")),
                ("data-dir", data.display().to_string()),
                ("listen-client-urls", url.clone()),
                ("advertise-client-urls", url.clone()),
                ("listen-peer-urls", peer(i)),
                ("initial-advertise-peer-urls", peer(i)),
                ("initial-cluster", all.join(",")),
                ("initial-cluster-token", token.clone()),
            ];
            let arguments = arguments
                .iter()
                .flat_map(|(name, value)| [format!("--{name}"), value.clone()])
                .chain(further.iter().cloned())
                .collect();
            Server { arguments, url, child: None }
        });
        let mut etcd = Etcd { servers: servers.collect(), _directory: directory };
        for server in &mut etcd.servers {
            server.start();
        }
        etcd
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
        let options = Etcd3Options { endpoints, ..Etcd3Options::default() };
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
}

/// Below the range from which the kernel takes ports for outgoing connections: one of those could otherwise take a
/// port between this look and the start of the server.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    use std::hash::BuildHasher;
    let mut listeners = Vec::new();
    let start = std::hash::RandomState::new().hash_one(0) % 20_000;
    for port in (0..20_000).map(|i| 10_000 + (start + i) % 20_000) {
        let port = u16::try_from(port).expect("a port");
        listeners.extend(TcpListener::bind(("127.0.0.1", port)).ok());
        if listeners.len() == count {
            break;
        }
    }
    listeners.iter().map(|listener| listener.local_addr().expect("no address").port()).collect()
}
