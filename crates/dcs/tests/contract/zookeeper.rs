//! Real servers of ZooKeeper. Where their program is not there (`./test` gets it), tests on it pass without a word; the summary of
//! `./test` says so.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_dcs::zookeeper::ZooKeeperOptions;
use patroni_dcs::{Dcs, Timing};
use patroni_ports::free_port;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::zookeeper_raw::Raw;
use crate::{World, eventually, path, servers};

/// Half a second is a tick, and sessions are as short or as long as they are asked for.
pub(crate) const USUAL: &str = "tickTime=500\nminSessionTimeout=1000\nmaxSessionTimeout=600000\n";

pub(crate) struct ZooKeeper {
    children: Vec<Option<Child>>,
    pub(crate) ports: Vec<u16>,
    directory: TempDir,
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // SIGKILL ends stopped processes too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn program() -> Option<PathBuf> {
    let java = std::env::split_paths(&std::env::var_os("PATH")?).any(|directory| directory.join("java").exists());
    Some(servers().join("zookeeper/server")).filter(|program| java && program.exists())
}

impl ZooKeeper {
    /// `None`: it is not there.
    pub(crate) async fn start(count: usize) -> Option<Self> {
        Self::start_with(count, USUAL).await
    }

    pub(crate) async fn start_with(count: usize, settings: &str) -> Option<Self> {
        program()?;
        let directory = tempfile::tempdir().expect("no temporary directory");
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let mut members = String::new();
        for id in (0..count).filter(|_| count > 1) {
            writeln!(members, "server.{id}=127.0.0.1:{}:{}", free_port(), free_port()).unwrap();
        }
        for (id, port) in ports.iter().enumerate() {
            let data = directory.path().join(format!("data{id}"));
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join("myid"), id.to_string()).unwrap();
            let file = format!(
                "{settings}dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\ninitLimit=10\nsyncLimit=4\n{members}",
                data.display()
            );
            std::fs::write(directory.path().join(format!("{id}.cfg")), file).unwrap();
        }
        let mut zookeeper = ZooKeeper { children: ports.iter().map(|_| None).collect(), ports, directory };
        for id in 0..count {
            zookeeper.restart(id);
        }
        zookeeper.ready().await;
        Some(zookeeper)
    }

    pub(crate) fn restart(&mut self, id: usize) {
        let child = Command::new(program().expect("it was there"))
            .arg(self.directory.path().join(format!("{id}.cfg")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ZooKeeper does not start");
        self.children[id] = Some(child);
    }

    /// Waits until all servers serve.
    pub(crate) async fn ready(&self) {
        for port in &self.ports {
            eventually("ZooKeeper serves", || async { Raw::connect(*port).await.is_ok() }).await;
        }
    }

    pub(crate) fn kill(&mut self, id: usize) {
        let mut child = self.children[id].take().expect("it runs");
        child.kill().expect("cannot kill");
        child.wait().expect("cannot wait");
    }

    /// Removes what a server that does not run has kept.
    pub(crate) fn wipe(&self, id: usize) {
        let data = self.directory.path().join(format!("data{id}"));
        std::fs::remove_dir_all(data.join("version-2")).expect("cannot remove");
    }

    pub(crate) fn signal(&self, id: usize, signal: Signal) {
        kill_process(Pid::from_child(self.children[id].as_ref().expect("it runs")), signal).expect("cannot signal");
    }

    /// A section `zookeeper` with these settings beside the hosts.
    pub(crate) fn section(&self, further: Value) -> JsonMap {
        let hosts: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        section(&hosts, further)
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw::connect(self.ports[0]).await.expect("ZooKeeper does not answer")
    }
}

pub(crate) fn section(hosts: &[String], further: Value) -> JsonMap {
    let Value::Object(mut section) = further else { panic!("not an object") };
    section.insert("hosts".to_owned(), json!(hosts));
    section
}

pub(crate) fn handle(section: &JsonMap, name: &str, timing: Timing) -> Arc<dyn Dcs> {
    let options = ZooKeeperOptions::from_json(section).expect("valid");
    patroni_dcs::zookeeper::connect(options, &path(), name.into(), timing)
}

/// The path of a key.
pub(crate) fn node(name: &str) -> String {
    format!("{}{name}", path().prefix())
}

impl World for ZooKeeper {
    fn member(&self, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        handle(&self.section(json!({})), name, timing)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn set_raw(&self, name: &str, value: Option<&[u8]>) {
        // Here it would be a member `y` with a node below it, and a member is what it is for the reference, too.
        if name.starts_with("members/y/") {
            return;
        }
        let mut raw = self.raw().await;
        match value {
            Some(value) => raw.set(&node(name), value).await,
            None => raw.delete(&node(name)).await,
        }
    }

    async fn get_raw(&self, name: &str) -> Option<Vec<u8>> {
        self.raw().await.get(&node(name)).await
    }

    fn attaches_keys(&self) -> bool {
        false
    }

    fn lag(&self) -> Duration {
        crate::TIMING.ttl / 3
    }

    fn reference(&self) -> (&'static str, &'static str, Value) {
        ("zookeeper", "ZooKeeper", Value::Object(self.section(json!({}))))
    }
}
