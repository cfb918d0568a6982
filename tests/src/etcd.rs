//! A one-member etcd in a sandbox, and its keys as operators see them through etcdctl.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use patroni_ports::free_port;

use crate::sandbox::{Sandbox, signal};
use crate::wait::{Limit, wait_for};

/// A running etcd; its data survive [`Etcd::stop`] and [`Etcd::start`].
#[derive(Debug)]
pub struct Etcd {
    /// Port for clients on 127.0.0.1.
    pub port: u16,
    peer_port: u16,
    directory: PathBuf,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one and waits until it serves.
    pub fn new(sandbox: &Sandbox) -> Self {
        Self::named(sandbox, "etcd")
    }

    /// The same, beside others: its directory has this name.
    pub fn named(sandbox: &Sandbox, name: &str) -> Self {
        let directory = sandbox.directory(name);
        let mut etcd = Etcd { port: free_port(), peer_port: free_port(), directory, child: None };
        etcd.start(sandbox);
        etcd
    }

    /// None, for agents that need none.
    pub fn absent(sandbox: &Sandbox) -> Self {
        Etcd { port: 0, peer_port: 0, directory: sandbox.directory("etcd"), child: None }
    }

    /// Whether there is one, running or not.
    pub fn is_present(&self) -> bool {
        self.port != 0
    }

    /// Starts it (again).
    pub fn start(&mut self, sandbox: &Sandbox) {
        let client = format!("http://127.0.0.1:{}", self.port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = File::options().create(true).append(true).open(self.directory.join("log")).unwrap();
        let child = sandbox
            .command(Path::new("etcd"))
            .args(["--name=etcd", "--unsafe-no-fsync", "--log-level=error"])
            .arg(format!("--data-dir={}", self.directory.join("data").display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=etcd={peer}"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd must be installed: apt-get install etcd-server");
        self.child = Some(child);
        wait_for("etcd serves", Limit(20), || self.ctl(&["endpoint", "health"]));
    }

    /// Stops it hard.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            _ = child.kill();
            _ = child.wait();
        }
    }

    /// Freezes (`Signal::STOP`) or thaws (`Signal::CONT`) it.
    pub fn signal(&self, sent: Signal) {
        signal(self.child.as_ref().expect("etcd runs").id(), sent);
    }

    /// Runs etcdctl; its standard output.
    ///
    /// # Errors
    /// With its standard error if it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=http://127.0.0.1:{}", self.port))
            .args(["--dial-timeout=1s", "--command-timeout=3s"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("etcdctl must be installed: apt-get install etcd-client");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Value of a key of the cluster `batman`, such as `leader`.
    pub fn get(&self, key: &str) -> Option<String> {
        let value = self.ctl(&["get", "--print-value-only", &path(key)]).ok()?;
        (!value.is_empty()).then_some(value)
    }

    /// Writes a key of the cluster `batman`.
    pub fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", "--", &path(key), value]).unwrap();
    }

    /// Deletes a key of the cluster `batman`.
    pub fn delete(&self, key: &str) {
        self.ctl(&["del", &path(key)]).unwrap();
    }

    /// Waits until a key holds exactly this.
    #[track_caller]
    pub fn wait_value(&self, key: &str, expected: Option<&str>, limit: Limit) {
        wait_for(&format!("{key} is {expected:?}"), limit, || {
            let value = self.get(key);
            if value.as_deref() == expected { Ok(()) } else { Err(value) }
        });
    }
}

fn path(key: &str) -> String {
    format!("/service/batman/{key}")
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}
