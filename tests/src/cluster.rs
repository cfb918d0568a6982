//! A cluster of nodes over one etcd, or over the store that they keep themselves, built with few words.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::embedded::{Controller, Members};
use crate::etcd::Etcd;
use crate::node::{Node, merge};
use crate::programs::{Kind, Programs};
use patroni_ports::free_port;

use crate::sandbox::Sandbox;
use crate::server::{Server, Store};
use crate::wait::{Limit, wait_for};

/// What a cluster shall be; [`Builder::start`] makes it so.
#[derive(Debug)]
pub struct Builder {
    kinds: Vec<Kind>,
    dcs: Value,
    all: Value,
    single: Vec<(usize, Value)>,
    embedded: bool,
    store: Option<Store>,
}

impl Builder {
    /// The store is this one.
    #[must_use]
    pub fn on(mut self, store: Store) -> Self {
        self.embedded = false;
        self.store = Some(store);
        self
    }

    /// The agents keep their store themselves. (`PATRONI_TEST_STORE` chooses the store of tests that do not look into etcd.)
    #[must_use]
    pub fn embedded(mut self) -> Self {
        self.embedded = true;
        self.store = None;
        self
    }

    /// The store is an etcd in any case: more nodes are stopped than a store of theirs can do without.
    #[must_use]
    pub fn in_etcd(mut self) -> Self {
        self.embedded = false;
        self.store = None;
        self
    }

    /// Changes `bootstrap.dcs` (merged; null removes).
    #[must_use]
    pub fn dcs(mut self, change: Value) -> Self {
        merge(&mut self.dcs, &change);
        self
    }

    /// Changes the configuration of all nodes (merged; null removes).
    #[must_use]
    pub fn config(mut self, change: Value) -> Self {
        merge(&mut self.all, &change);
        self
    }

    /// Changes the configuration of one node (merged; null removes).
    #[must_use]
    pub fn node(mut self, index: usize, change: Value) -> Self {
        self.single.push((index, change));
        self
    }

    /// Makes etcd and the configurations, and starts no agent.
    pub fn prepare(mut self) -> Cluster {
        if self.embedded && self.dcs["retry_timeout"] == 3 {
            // The embedded store may need five seconds for another leader.
            self.dcs["retry_timeout"] = json!(8);
        }
        let sandbox = Sandbox::new();
        let server = self.store.map(|store| Server::start(store, &sandbox));
        let is_etcd = !self.embedded && server.is_none();
        let etcd = if is_etcd { Etcd::new(&sandbox) } else { Etcd::absent(&sandbox) };
        let members = self.embedded.then(|| Members::of(self.kinds.len()));
        let programs = Programs::find();
        let mut nodes = Vec::new();
        for (index, kind) in self.kinds.iter().enumerate() {
            let mut node = new_node(index, *kind, &sandbox, &etcd, &programs);
            node.config["bootstrap"]["dcs"] = self.dcs.clone();
            if let Some(members) = &members {
                merge(&mut node.config, &members.beginning(index));
            }
            if let Some(server) = &server {
                merge(&mut node.config, &server.configuration());
                node.environment.extend(server.environment());
            }
            merge(&mut node.config, &self.all);
            for (_, change) in self.single.iter().filter(|(of, _)| *of == index) {
                merge(&mut node.config, change);
            }
            node.write_config(&sandbox);
            nodes.push(node);
        }
        Cluster { nodes, witness: None, etcd, server, members, programs, sandbox }
    }

    /// [`Builder::prepare`] and [`Cluster::start_all`].
    #[track_caller]
    pub fn start(self) -> Cluster {
        let mut cluster = self.prepare();
        cluster.start_all();
        cluster
    }
}

/// A cluster. Fields are dropped in their order: agents, then etcd, then all that is left in the sandbox.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, named `n0`, `n1`, ...
    pub nodes: Vec<Node>,
    /// The third vote beside two agents that keep the store themselves.
    pub witness: Option<Controller>,
    /// The store.
    pub etcd: Etcd,
    /// The store, if it is another one.
    pub server: Option<Server>,
    /// Where the agents keep the store, if they do.
    pub members: Option<Members>,
    /// Paths of programs.
    pub programs: Programs,
    /// Directory and owner of everything.
    pub sandbox: Sandbox,
}

impl Cluster {
    /// Starts all, node 0 first as leader, and waits until all others stream.
    #[track_caller]
    pub fn start_all(&mut self) {
        self.start_node(0);
        self.nodes[0].wait_primary(Limit(60));
        for index in 1..self.nodes.len() {
            self.start_node(index);
        }
        self.wait_streaming(0, Limit(90));
        if self.members.is_some() {
            // Node 0 has founded the store alone, so that it leads. From now on each finds the others without it.
            if self.nodes.len() == 2 {
                let configuration = self.add_witness();
                self.witness = Some(Controller::start(self, "witness", &[configuration]));
            }
            self.let_all_know_all_members();
            self.wait_voters(self.members.as_ref().unwrap().0.len(), Limit(60));
        }
    }

    /// Of PostgreSQL's programs, `program` is this script for that node, from its next start on.
    pub fn replace_program(&mut self, node: usize, program: &str, script: &str) {
        let bin = self.sandbox.directory("bin");
        for entry in std::fs::read_dir(&self.programs.pg_bin).unwrap().flatten() {
            std::os::unix::fs::symlink(entry.path(), bin.join(entry.file_name())).unwrap();
        }
        std::fs::remove_file(bin.join(program)).unwrap();
        self.sandbox.file(bin.join(program), script);
        self.nodes[node].config["postgresql"]["bin_dir"] = json!(bin);
    }

    /// A cluster of this many nodes of ours.
    pub fn of(count: usize) -> Builder {
        Self::mixed(&vec![Kind::Ours; count])
    }

    /// A cluster of these kinds of nodes.
    pub fn mixed(kinds: &[Kind]) -> Builder {
        let dcs = json!({
            "ttl": 20, "loop_wait": 1, "retry_timeout": 3,
            // How much room the machine of the tests has is nothing that they are about.
            "disk_free_warning": 0,
            "postgresql": {
                "use_pg_rewind": true,
                "parameters": {
                    "max_connections": 50, "shared_buffers": "8MB", "fsync": "off", "max_wal_size": "128MB",
                    "wal_keep_size": "64MB", "logging_collector": "off",
                    // In the data directory: what killed servers leave behind goes with it.
                    "dynamic_shared_memory_type": "mmap",
                },
            },
        });
        let chosen = std::env::var("PATRONI_TEST_STORE").unwrap_or_default();
        let store = (!["", "etcd3", "raft"].contains(&chosen.as_str())).then(|| Store::named(&chosen));
        let embedded = chosen == "raft";
        Builder { kinds: kinds.to_vec(), dcs, all: json!({}), single: Vec::new(), embedded, store }
    }

    /// Starts the agent of a node.
    pub fn start_node(&mut self, index: usize) {
        self.nodes[index].start(&self.sandbox);
    }

    /// Waits until `leader` is primary and every other node with a running agent streams.
    #[track_caller]
    pub fn wait_streaming(&mut self, leader: usize, limit: Limit) {
        self.nodes[leader].wait_primary(limit);
        for index in (0..self.nodes.len()).filter(|index| *index != leader) {
            if self.nodes[index].agent_runs() {
                self.nodes[index].wait_streaming(limit);
            }
        }
    }

    /// Waits until a node leads its standby cluster.
    #[track_caller]
    pub fn wait_standby_leader(&self, index: usize, limit: Limit) {
        self.nodes[index].wait_state("leads the standby cluster", limit, |state| {
            state["role"] == "standby_leader" && state["state"] == "running"
        });
        self.nodes[index].wait_status_of("/standby-leader", 200, limit);
    }

    /// Waits until one of these is primary and holds the leader key; its index.
    #[track_caller]
    pub fn wait_leader_among(&self, candidates: &[usize], limit: Limit) -> usize {
        wait_for(&format!("one of {candidates:?} leads"), limit, || {
            let leader = self.leader(candidates);
            let found = candidates.iter().find(|index| leader.as_deref() == Some(self.nodes[**index].name.as_str()));
            match found {
                Some(index) if self.nodes[*index].is_writable_primary() => Ok(*index),
                _ => Err(leader),
            }
        })
    }

    /// Value of a key of this cluster, such as `leader`. Of the embedded store a backup tells it: a majority must run.
    pub fn key(&self, name: &str) -> Option<String> {
        if self.etcd.is_present() {
            return self.etcd.get(name);
        }
        if self.server.is_some() {
            let output = self.ctl(&["store", "get", name]);
            return output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        let file = self.sandbox.path().join("keys.json");
        self.ctl_ok(&["store", "backup", file.to_str().unwrap(), "--force"]);
        let backup: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let wanted = format!("/service/batman/{name}");
        let found = backup["keys"].as_array().unwrap().iter().find(|key| key["key"] == wanted.as_str());
        found.map(|key| key["value"].as_str().unwrap().to_owned())
    }

    /// Who holds the leader key; with another store than etcd as one of these nodes tells it.
    pub fn leader(&self, asked: &[usize]) -> Option<String> {
        if self.etcd.is_present() {
            return self.etcd.get("leader");
        }
        asked.iter().find_map(|index| {
            let cluster = self.nodes[*index].request("GET", "/cluster", None).ok()?.json();
            let leads = |member: &&Value| member["role"] == "leader";
            cluster["members"].as_array()?.iter().find(leads)?["name"].as_str().map(str::to_owned)
        })
    }

    /// Runs our patronictl with a configuration file of node 0.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_of(Kind::Ours, arguments)
    }

    /// Runs a patronictl with the configuration file of node 0.
    pub fn ctl_of(&self, kind: Kind, arguments: &[&str]) -> Output {
        let mut command = self.sandbox.command(&self.programs.ctl(kind));
        command.envs(self.server.iter().flat_map(Server::environment));
        command.arg("-c").arg(&self.nodes[0].config_file).args(arguments).output().unwrap()
    }

    /// Runs our patronictl, which must succeed; standard output.
    #[track_caller]
    pub fn ctl_ok(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "patronictl {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Rows of `patronictl list -f json`.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let text = self.ctl_ok(&["list", "-f", "json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = node.log();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("---- {} ({:?}), end of its log ----", node.name, node.kind);
                eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            }
        }
    }
}

fn new_node(index: usize, kind: Kind, sandbox: &Sandbox, etcd: &Etcd, programs: &Programs) -> Node {
    let name = format!("n{index}");
    let directory = sandbox.directory(&name);
    let (pg_port, rest_port) = (free_port(), free_port());
    let data = directory.join("data");
    let config = json!({
        "scope": "batman", "name": name,
        "log": {"level": "INFO"},
        "restapi": {"listen": format!("127.0.0.1:{rest_port}"), "connect_address": format!("127.0.0.1:{rest_port}")},
        "etcd3": {"hosts": [format!("127.0.0.1:{}", etcd.port)]},
        "bootstrap": {"initdb": [{"encoding": "UTF8"}, "data-checksums", "no-sync"]},
        "postgresql": {
            "listen": format!("127.0.0.1:{pg_port}"), "connect_address": format!("127.0.0.1:{pg_port}"),
            "data_dir": data, "bin_dir": programs.pg_bin, "pgpass": directory.join("pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", "password": "super-secret"},
                "replication": {"username": "replicator", "password": "rep-secret"},
                "rewind": {"username": "rewinder", "password": "rewind-secret"},
            },
            "pg_hba": ["local all all trust", "host replication replicator 127.0.0.1/32 md5", "host all all 127.0.0.1/32 md5"],
            "basebackup": [{"checkpoint": "fast"}, "no-sync"],
            "parameters": {"unix_socket_directories": directory},
        },
    });
    Node {
        config_file: directory.join("patroni.yml"),
        log_file: directory.join("log"),
        agent: programs.agent(kind),
        pg_bin: programs.pg_bin.clone(),
        environment: vec![("PATH".to_owned(), path_with(&programs.pg_bin))],
        child: None,
        name,
        kind,
        config,
        pg_port,
        rest_port,
        data,
    }
}

fn path_with(directory: &Path) -> String {
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default())
}
