//! Servers of other stores than etcd 3, in a sandbox. What is not installed is looked for where `./test` puts it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use patroni_ports::free_port;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::sandbox::{Sandbox, signal};
use crate::wait::{Limit, wait_for};

/// Where `./test` puts servers that are not installed.
pub fn servers() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers");
    std::env::var_os("PATRONI_TEST_SERVERS").map_or_else(usual, PathBuf::from)
}

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// etcd by version 2 of its API.
    Etcd,
    /// Consul.
    Consul,
    /// ZooKeeper.
    ZooKeeper,
    /// The API server of Kubernetes, where the agents' Pods are objects of their names.
    Kubernetes,
    /// ZooKeeper, and an Exhibitor in front of it: a thread of the test that says where it is.
    Exhibitor,
}

impl Store {
    /// By the name of its section.
    ///
    /// # Panics
    /// There is none of that name.
    pub fn named(name: &str) -> Self {
        match name {
            "etcd" => Store::Etcd,
            "consul" => Store::Consul,
            "zookeeper" => Store::ZooKeeper,
            "exhibitor" => Store::Exhibitor,
            "kubernetes" => Store::Kubernetes,
            other => {
                panic!("PATRONI_TEST_STORE={other}: take etcd3, raft, etcd, consul, zookeeper, exhibitor or kubernetes")
            }
        }
    }

    /// The server's program, if it is there.
    pub fn program(self) -> Option<PathBuf> {
        let servers = servers();
        match self {
            Store::Etcd => Some(PathBuf::from("etcd")),
            Store::Consul => Some(servers.join("consul/usr/bin/consul")).filter(|program| program.is_file()),
            Store::Kubernetes => {
                let program = servers.join("kubernetes/kube-apiserver");
                Some(program).filter(|program| program.is_file() && is_installed("curl") && is_installed("openssl"))
            }
            Store::ZooKeeper | Store::Exhibitor => {
                Some(servers.join("zookeeper/server")).filter(|program| program.is_file() && is_installed("java"))
            }
        }
    }

    /// Whether its server is there. If not, that is printed: the test that asks is skipped.
    pub fn is_here(self) -> bool {
        let here = self.program().is_some();
        if !here {
            eprintln!("SKIPPED: there is no server of {self:?} (target/servers); ./test gets it");
        }
        here
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    store: Store,
    /// Where it is, or whoever says so.
    port: u16,
    child: Child,
    directory: PathBuf,
    _exhibitor: Option<Exhibitor>,
}

impl Server {
    /// Starts one and waits until it serves.
    pub fn start(store: Store, sandbox: &Sandbox) -> Self {
        let directory = sandbox.directory(&format!("store-{store:?}"));
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
            Store::Kubernetes => {
                let script = sandbox.file(directory.join("api-server"), include_str!("../api-server"));
                let ports = [port, free_port(), free_port()].map(|port| port.to_string());
                command = sandbox.command(&script);
                command.args([&directory, &program]).arg("127.0.0.1").args(ports).args(["n0", "n1", "n2"]);
            }
            Store::ZooKeeper | Store::Exhibitor => {
                let data = directory.join("data");
                // Sessions as short as those of etcd's leases.
                let settings = format!(
                    "tickTime=500\nminSessionTimeout=1000\nmaxSessionTimeout=60000\ndataDir={}\nclientPort={port}\n\
                     clientPortAddress=127.0.0.1\n4lw.commands.whitelist=ruok\n",
                    data.display()
                );
                command.arg(sandbox.file(directory.join("zoo.cfg"), &settings));
            }
        }
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut server = Server { store, port, child, directory, _exhibitor: None };
        let serves = |path| {
            let answer = crate::rest::request(port, "GET", path, None, Duration::from_secs(2))
                .map_err(|error| error.to_string())?;
            if answer.status == 200 && answer.body.len() > 2 { Ok(()) } else { Err(answer.body) }
        };
        let is_ready = |file: PathBuf| if file.is_file() { Ok(()) } else { Err("it is being started".to_owned()) };
        wait_for("the store serves", Limit(90), || match store {
            Store::Etcd => serves("/health"),
            Store::Consul => serves("/v1/status/leader"),
            Store::Kubernetes => is_ready(server.directory.join("ready")),
            Store::ZooKeeper | Store::Exhibitor => is_ok(port).map_err(|error| error.to_string()),
        });
        if store == Store::Exhibitor {
            let exhibitor = Exhibitor::start(port);
            (server.port, server._exhibitor) = (exhibitor.port, Some(exhibitor));
        }
        server
    }

    /// Freezes (`Signal::STOP`) or thaws (`Signal::CONT`) it.
    pub fn signal(&self, sent: Signal) {
        let pid = match self.store {
            Store::Kubernetes => std::fs::read_to_string(self.directory.join("pid")).unwrap().trim().parse().unwrap(),
            Store::Etcd | Store::Consul | Store::ZooKeeper | Store::Exhibitor => self.child.id(),
        };
        signal(pid, sent);
    }

    /// What the configuration of a node says of it, with nothing about etcd 3.
    pub fn configuration(&self) -> Value {
        let address = format!("127.0.0.1:{}", self.port);
        let (name, section) = match self.store {
            Store::Etcd => ("etcd", json!({"hosts": [address]})),
            Store::Consul => ("consul", json!({"host": address})),
            Store::Kubernetes => {
                let labels = json!({"application": "patroni"});
                let section =
                    json!({"labels": labels, "use_endpoints": true, "context": "agent", "pod_ip": "192.0.2.7"});
                ("kubernetes", section)
            }
            Store::ZooKeeper => ("zookeeper", json!({"hosts": [address]})),
            Store::Exhibitor => ("exhibitor", json!({"hosts": ["127.0.0.1"], "port": self.port})),
        };
        let mut configuration = json!({"etcd3": null});
        configuration[name] = section;
        configuration
    }

    /// Variables of agents and of patronictl.
    pub fn environment(&self) -> Vec<(String, String)> {
        let kubeconfig = self.directory.join("kubeconfig").display().to_string();
        let is_needed = self.store == Store::Kubernetes;
        is_needed.then(|| ("KUBECONFIG".to_owned(), kubeconfig)).into_iter().collect()
    }

    /// The address for `patronictl -d`; Kubernetes has none.
    pub fn address(&self) -> String {
        let name = match self.store {
            Store::Etcd => "etcd",
            Store::Consul => "consul",
            Store::Kubernetes => "kubernetes",
            Store::ZooKeeper => "zookeeper",
            Store::Exhibitor => "exhibitor",
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

/// ZooKeeper's way to say that it serves.
fn is_ok(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"ruok")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer == "imok" { Ok(()) } else { Err(io::Error::other(answer)) }
}

/// Says over HTTP where ZooKeeper is, until it is dropped.
#[derive(Debug)]
struct Exhibitor {
    port: u16,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exhibitor {
    fn start(zookeeper: u16) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = is_over.clone();
        let body = json!({"servers": ["127.0.0.1"], "port": zookeeper}).to_string();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                // Whoever hangs up early is no concern of the others.
                _ = stream.and_then(|stream| answer(stream, &body));
            }
        });
        Exhibitor { port, is_over, thread: Some(thread) }
    }
}

fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    let found = request[..length].starts_with(b"GET /exhibitor/v1/cluster/list ");
    let status = if found { "200 OK" } else { "404 Not Found" };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes())
}

impl Drop for Exhibitor {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes it.
        _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}
