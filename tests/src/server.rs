//! Servers of other stores than etcd 3, in a sandbox. What is not installed is looked for where `./test` puts it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use serde_json::{Value, json};

use patroni_ports::free_port;

use crate::sandbox::Sandbox;
use crate::wait::{Limit, wait_for};

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// etcd by version 2 of its API.
    Etcd,
    /// Consul.
    Consul,
}

impl Store {
    /// The server's program, if it is there.
    pub fn program(self) -> Option<PathBuf> {
        let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers");
        let servers = std::env::var_os("PATRONI_TEST_SERVERS").map_or_else(usual, PathBuf::from);
        match self {
            Store::Etcd => Some(PathBuf::from("etcd")),
            Store::Consul => Some(servers.join("consul/usr/bin/consul")).filter(|program| program.is_file()),
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    store: Store,
    port: u16,
    child: Child,
}

impl Server {
    /// Starts one and waits until it serves.
    pub(crate) fn start(store: Store, sandbox: &Sandbox) -> Self {
        let directory = sandbox.directory("store");
        let log = File::create(directory.join("log")).unwrap();
        let program = store.program().expect("the server is not there; ./test gets it");
        let port = free_port();
        let mut command = sandbox.command(&program);
        match store {
            Store::Etcd => {
                let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
                command
                    .args(["--name=etcd", "--unsafe-no-fsync", "--log-level=error", "--enable-v2"])
                    .arg(format!("--data-dir={}", directory.join("data").display()))
                    .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
                    .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
                    .arg(format!("--initial-cluster=etcd={peer}"));
            }
            Store::Consul => {
                let configuration = json!({
                    "server": true, "bootstrap": true, "bind_addr": "127.0.0.1", "session_ttl_min": "5s",
                    "disable_update_check": true, "log_level": "err", "data_dir": directory.join("data"),
                    "ports": {"http": port, "server": free_port(), "serf_lan": free_port(), "serf_wan": -1,
                              "dns": -1, "grpc": -1},
                });
                let file = sandbox.file(directory.join("consul.json"), &configuration.to_string());
                command.args(["agent", "-config-file"]).arg(file);
            }
        }
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = Server { store, port, child };
        wait_for("the store serves", Limit(30), || {
            let path = match store {
                Store::Etcd => "/health",
                Store::Consul => "/v1/status/leader",
            };
            let answer = crate::rest::request(port, "GET", path, None, Duration::from_secs(2))
                .map_err(|error| error.to_string())?;
            if answer.status == 200 && answer.body.len() > 2 { Ok(()) } else { Err(answer.body) }
        });
        server
    }

    /// What the configuration of a node says of it, with nothing about etcd 3.
    pub(crate) fn configuration(&self) -> Value {
        let address = format!("127.0.0.1:{}", self.port);
        let (name, section) = match self.store {
            Store::Etcd => ("etcd", json!({"hosts": [address]})),
            Store::Consul => ("consul", json!({"host": address})),
        };
        let mut configuration = json!({"etcd3": null});
        configuration[name] = section;
        configuration
    }

    /// The address for `patronictl -d`.
    pub fn address(&self) -> String {
        let name = match self.store {
            Store::Etcd => "etcd",
            Store::Consul => "consul",
        };
        format!("{name}://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
