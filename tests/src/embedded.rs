//! The store that agents keep themselves, and members of it without an agent.

use std::fs::File;
use std::path::PathBuf;
use std::process::Child;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use patroni_ports::free_port;

use crate::sandbox::{Sandbox, signal};
use crate::wait::{Limit, wait_for};

/// The password of all of them.
pub const PASSWORD: &str = "a long random text";

/// Where the members of one store are.
#[derive(Clone, Debug)]
pub struct Members(pub Vec<String>);

impl Members {
    /// So many, at free ports.
    pub fn of(count: usize) -> Self {
        Members((0..count).map(|_| format!("127.0.0.1:{}", free_port())).collect())
    }

    /// What the configuration of this member says, in the place of another store.
    pub fn change(&self, index: usize) -> Value {
        let partners: Vec<&String> = self.0.iter().filter(|address| **address != self.0[index]).collect();
        self.knowing(index, &partners)
    }

    /// The same where only the first one is known, which founds the store alone.
    pub(crate) fn beginning(&self, index: usize) -> Value {
        let partners: Vec<&String> = self.0.iter().take(usize::from(index > 0)).collect();
        self.knowing(index, &partners)
    }

    fn knowing(&self, index: usize, partners: &[&String]) -> Value {
        json!({"etcd3": null, "raft": {"self_addr": self.0[index], "partner_addrs": partners, "password": PASSWORD}})
    }

    /// How patronictl calls the store.
    pub fn url(&self) -> String {
        format!("raft://{}", self.0.join(","))
    }
}

impl Cluster {
    /// Starts all agents at once, whose store begins when all have answered, and waits until all run; who leads.
    #[track_caller]
    pub fn start_together(&mut self) -> usize {
        self.let_all_know_all_members();
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        all.iter().for_each(|index| self.start_node(*index));
        let leader = self.wait_leader_among(&all, Limit(90));
        self.wait_streaming(leader, Limit(90));
        leader
    }

    /// One more member of the store, without an agent: what the file of its controller says.
    pub fn add_witness(&mut self) -> Value {
        let members = self.members.as_mut().expect("a cluster with an embedded store");
        members.0.extend(Members::of(1).0);
        let mut raft = members.change(members.0.len() - 1)["raft"].take();
        raft["data_dir"] = json!(self.sandbox.directory("witness"));
        json!({"raft": raft})
    }

    /// Writes all addresses of the store into all configurations.
    pub(crate) fn let_all_know_all_members(&mut self) {
        let members = self.members.clone().expect("a cluster with an embedded store");
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.change_config(&members.change(index));
            node.write_config(&self.sandbox);
        }
    }

    /// The rows of `patronictl store status`, once so many members vote and answer, one of them as leader.
    #[track_caller]
    pub fn wait_voters(&self, count: usize, limit: Limit) -> Vec<Value> {
        wait_for(&format!("{count} voters"), limit, || {
            let output = self.ctl(&["store", "status", "-f", "json"]);
            let text = || String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
            let rows: Vec<Value> = serde_json::from_slice(&output.stdout).map_err(|_| text())?;
            let running =
                |role: &str| rows.iter().filter(|row| row["Role"] == role && row["State"] == "running").count();
            let good = rows.len() == count && running("Leader") == 1 && running("Voter") == count - 1;
            if good { Ok(rows) } else { Err(text()) }
        })
    }
}

/// Members of stores without PostgreSQL, in one process. It dies with the test.
#[derive(Debug)]
pub struct Controller {
    child: Child,
    log: PathBuf,
}

impl Controller {
    /// Starts it with a file for each of these configurations. Its files have names that begin with `name`.
    pub fn start(cluster: &Cluster, name: &str, configurations: &[Value]) -> Self {
        let sandbox = &cluster.sandbox;
        let file = |(index, configuration): (usize, &Value)| {
            sandbox.file(format!("{name}-{index}.yml"), &configuration.to_string())
        };
        let files: Vec<PathBuf> = configurations.iter().enumerate().map(file).collect();
        let log = sandbox.path().join(format!("{name}.log"));
        let out = File::create(&log).unwrap();
        let mut command = sandbox.command(&program(sandbox, cluster));
        let child = command.args(files).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        Controller { child, log }
    }

    /// Asks it to end and waits for it.
    #[track_caller]
    pub fn end(mut self) {
        signal(self.child.id(), Signal::TERM);
        wait_for("the controller ends", Limit(20), || self.child.try_wait().unwrap().ok_or("it runs"));
    }

    /// Resident memory in KiB but for the pages of the program, which are many in a debug build.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- controller ----\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// The agent under the name of the controller.
fn program(sandbox: &Sandbox, cluster: &Cluster) -> PathBuf {
    let link = sandbox.path().join("patroni_raft_controller");
    if !link.exists() {
        std::os::unix::fs::symlink(&cluster.programs.patroni, &link).unwrap();
    }
    link
}
