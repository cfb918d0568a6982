//! An etcd on free ports.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use patroni_ports::free_port;
use tempfile::TempDir;

use crate::{Store, path};

pub(crate) struct Etcd {
    process: Child,
    endpoint: String,
    _directory: TempDir,
}

impl Etcd {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let urls = [(); 2].map(|()| format!("http://127.0.0.1:{}", free_port()));
        let process = Command::new("etcd")
            .args(["--name", "test", "--data-dir"])
            .arg(directory.path().join("etcd"))
            .args(["--listen-client-urls", &urls[0], "--advertise-client-urls", &urls[0]])
            .args(["--listen-peer-urls", &urls[1], "--initial-advertise-peer-urls", &urls[1]])
            .args(["--initial-cluster", &format!("test={}", urls[1])])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let etcd = Etcd { process, endpoint: urls[0].trim_start_matches("http://").to_owned(), _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !etcd.ctl(&["endpoint", "health"]).status.success() {
            assert!(Instant::now() < deadline, "etcd does not answer");
        }
        etcd
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint]).args(arguments);
        command.output().expect("etcdctl runs")
    }
}

impl Store for Etcd {
    fn url(&self) -> String {
        format!("etcd3://{}", self.endpoint)
    }

    fn put(&self, key: &str, value: &str) {
        assert!(self.ctl(&["put", &path(key), value]).status.success(), "{key}");
    }

    fn get(&self, key: &str) -> String {
        let output = self.ctl(&["get", "--print-value-only", &path(key)]);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
