//! One node of a cluster: an agent with its configuration, log, ports and the PostgreSQL server it looks after.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use postgres::{NoTls, SimpleQueryMessage};
use rustix::process::Signal;
use serde_json::Value;

use crate::programs::Kind;
use crate::rest::{Answer, request};
use crate::sandbox::{Sandbox, process_exists, signal};
use crate::wait::{Limit, wait_for};

/// A node. Its methods act on the processes from outside, as an operator or an accident would.
#[derive(Debug)]
pub struct Node {
    /// Name of the member.
    pub name: String,
    /// Whose agent it runs.
    pub kind: Kind,
    /// Its configuration; [`Node::write_config`] makes the file follow.
    pub config: Value,
    /// PostgreSQL's port.
    pub pg_port: u16,
    /// Port of the REST API.
    pub rest_port: u16,
    /// PostgreSQL's data directory.
    pub data: PathBuf,
    pub(crate) config_file: PathBuf,
    pub(crate) log_file: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) pg_bin: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) child: Option<Child>,
}

impl Node {
    /// Writes the configuration file from [`Node::config`].
    pub fn write_config(&self, sandbox: &Sandbox) {
        // Every JSON document is a YAML document.
        sandbox.file(&self.config_file, &serde_json::to_string_pretty(&self.config).unwrap());
    }

    /// Changes its configuration (merged; null removes); the file follows with the next start.
    pub fn change_config(&mut self, change: &Value) {
        merge(&mut self.config, change);
    }

    /// Sets a variable in the environment of the agent, from its next start on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the agent and does not wait for anything.
    pub fn start(&mut self, sandbox: &Sandbox) {
        self.write_config(sandbox);
        let log = File::options().create(true).append(true).open(&self.log_file).unwrap();
        let child = sandbox
            .command(&self.agent)
            .arg(&self.config_file)
            .envs(self.environment.iter().cloned())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// PID of the agent.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the agent was started").id()
    }

    /// Sends a signal to the agent alone.
    pub fn signal(&self, sent: Signal) {
        signal(self.pid(), sent);
    }

    /// Kills the agent alone; PostgreSQL lives on.
    pub fn kill_agent(&mut self) {
        if let Some(mut child) = self.child.take() {
            _ = child.kill();
            _ = child.wait();
        }
    }

    /// Kills agent and PostgreSQL, like a power cut.
    pub fn kill_hard(&mut self) {
        let postmaster = self.postmaster();
        self.kill_agent();
        if let Some(pid) = postmaster {
            kill_server(pid);
        }
    }

    /// Kills the postmaster with all its processes; the agent lives on.
    pub fn kill_postmaster(&self) {
        kill_server(self.postmaster().expect("PostgreSQL runs"));
    }

    /// Stops agent, guard and PostgreSQL where they are, like a virtual machine that stands still.
    pub fn freeze(&self) -> Frozen {
        let own: Vec<u32> = self.child.iter().map(Child::id).chain(self.postmaster()).collect();
        let descendants: Vec<u32> = own.iter().flat_map(|pid| children(*pid)).collect();
        let pids = [own, descendants].concat();
        pids.iter().for_each(|pid| signal(*pid, Signal::STOP));
        Frozen { pids }
    }

    /// Asks the agent to end (SIGTERM) and waits for it.
    ///
    /// # Panics
    /// If it takes longer than the limit.
    pub fn terminate(&mut self, limit: Limit) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit(limit)
    }

    /// Waits until the agent has ended by itself.
    pub fn wait_exit(&mut self, limit: Limit) -> ExitStatus {
        let child = self.child.as_mut().expect("the agent was started");
        let what = format!("{} ends", self.name);
        let status = wait_for(&what, limit, || child.try_wait().unwrap().ok_or("still running"));
        self.child = None;
        status
    }

    /// Whether the agent runs.
    pub fn agent_runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// PID of the postmaster, if it runs.
    pub fn postmaster(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        process_exists(pid).then_some(pid)
    }

    /// PID of a process of PostgreSQL by a word of its title, such as `startup` or `checkpointer`.
    pub fn server_process(&self, title: &str) -> Option<u32> {
        let titled = |pid: &u32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split([' ', '\0']).any(|word| word == title)
        };
        children(self.postmaster()?).into_iter().find(titled)
    }

    /// Sends a request to the REST API.
    ///
    /// # Errors
    /// If there is no complete answer in 10 s.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let body = body.map(Value::to_string);
        request(self.rest_port, method, path, body.as_deref(), Duration::from_secs(10))
    }

    /// Status of GET `path`; 0 if there is no answer.
    pub fn status_of(&self, path: &str) -> u16 {
        self.request("GET", path, None).map_or(0, |answer| answer.status)
    }

    /// The document of GET /patroni; null if there is no answer.
    pub fn status(&self) -> Value {
        self.request("GET", "/patroni", None).map(|answer| answer.json()).unwrap_or_default()
    }

    /// POST with a JSON body, answered in time.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        // Switchovers and restarts answer when they are done.
        request(self.rest_port, "POST", path, Some(&body.to_string()), Duration::from_secs(60)).unwrap()
    }

    /// PATCH of the dynamic configuration.
    #[track_caller]
    pub fn patch_config(&self, change: &Value) {
        let answer = self.request("PATCH", "/config", Some(change)).unwrap();
        assert_eq!(answer.status, 200, "PATCH /config {change}: {}", answer.body);
    }

    /// A connection as superuser.
    ///
    /// # Errors
    /// As the server says.
    pub fn connect(&self) -> Result<postgres::Client, postgres::Error> {
        let superuser = &self.config["postgresql"]["authentication"]["superuser"];
        postgres::Config::new()
            .host("127.0.0.1")
            .port(self.pg_port)
            .user(superuser["username"].as_str().unwrap())
            .password(superuser["password"].as_str().unwrap())
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(3))
            .options("-c synchronous_commit=local -c statement_timeout=30000")
            .connect(NoTls)
    }

    /// Runs SQL; first column of its first row as text.
    ///
    /// # Errors
    /// As the server says.
    pub fn query(&self, sql: &str) -> Result<Option<String>, postgres::Error> {
        let messages = self.connect()?.simple_query(sql)?;
        Ok(messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// Runs SQL which must work.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.query(sql).unwrap_or_else(|error| panic!("{} on {}: {error:?}", sql, self.name)).unwrap_or_default()
    }

    /// Waits until SQL gives this text.
    #[track_caller]
    pub fn wait_sql(&self, sql: &str, expected: &str, limit: Limit) {
        wait_for(&format!("{sql} gives {expected} on {}", self.name), limit, || match self.query(sql) {
            Ok(Some(value)) if value == expected => Ok(()),
            Ok(value) => Err(format!("{value:?}")),
            Err(error) => Err(format!("{error:?}")),
        });
    }

    /// Waits until GET `path` has this status.
    #[track_caller]
    pub fn wait_status_of(&self, path: &str, expected: u16, limit: Limit) {
        wait_for(&format!("GET {path} of {} is {expected}", self.name), limit, || {
            let status = self.status_of(path);
            if status == expected { Ok(()) } else { Err(status) }
        });
    }

    /// Waits until a test on the document of GET /patroni holds; gives the document.
    #[track_caller]
    pub fn wait_state(&self, what: &str, limit: Limit, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{}: {what}", self.name), limit, || {
            let status = self.status();
            if holds(&status) { Ok(status) } else { Err(status.to_string()) }
        })
    }

    /// Whether it leads and takes writes. (The reference's /primary is 200 as soon as it has the lease, before the end of recovery.)
    pub fn is_writable_primary(&self) -> bool {
        let in_recovery = || self.query("SELECT pg_is_in_recovery()").ok().flatten();
        self.status_of("/primary") == 200 && in_recovery().as_deref() == Some("f")
    }

    /// Waits until it leads and takes writes.
    #[track_caller]
    pub fn wait_primary(&self, limit: Limit) {
        wait_for(&format!("{} is a primary that takes writes", self.name), limit, || {
            if self.is_writable_primary() { Ok(()) } else { Err(self.status().to_string()) }
        });
    }

    /// Waits until it is a replica that streams.
    #[track_caller]
    pub fn wait_streaming(&self, limit: Limit) {
        self.wait_state("streams", limit, |state| {
            state["state"] == "running" && state["role"] == "replica" && state["replication_state"] == "streaming"
        });
    }

    /// PostgreSQL's timeline.
    pub fn timeline(&self) -> u64 {
        self.status()["timeline"].as_u64().unwrap_or_default()
    }

    /// All that the agent has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log_file).unwrap_or_default()).into_owned()
    }

    /// Waits until the agent has logged a line with this text.
    #[track_caller]
    pub fn wait_log(&self, text: &str, limit: Limit) {
        wait_for(&format!("{} logs: {text}", self.name), limit, || {
            if self.log().contains(text) { Ok(()) } else { Err("") }
        });
    }

    /// Runs one of PostgreSQL's programs as its user; standard output.
    #[track_caller]
    pub fn pg_program(&self, sandbox: &Sandbox, program: &str, arguments: &[&str]) -> String {
        let output = sandbox.command(&self.pg_bin.join(program)).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Directory of the configuration file, the log and the data.
    pub fn directory(&self) -> &Path {
        self.data.parent().expect("the data directory lies in the node's")
    }
}

/// The processes of a node that stands still.
#[must_use]
#[derive(Debug)]
pub struct Frozen {
    pids: Vec<u32>,
}

impl Frozen {
    /// They go on.
    pub fn thaw(self) {
        self.pids.iter().for_each(|pid| signal(*pid, Signal::CONT));
    }
}

fn children(pid: u32) -> Vec<u32> {
    // A child belongs to the thread that started it.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Kills a postmaster and its children, which would otherwise linger for a moment and hold the shared memory.
fn kill_server(postmaster: u32) {
    let children = children(postmaster);
    signal(postmaster, Signal::KILL);
    for pid in &children {
        signal(*pid, Signal::KILL);
    }
    wait_for("PostgreSQL is dead", Limit(10), || {
        let alive = std::iter::once(&postmaster).chain(&children).find(|pid| process_exists(**pid));
        alive.map_or(Ok(()), Err)
    });
}

/// JSON merge patch (RFC 7396), as PATCH /config does it.
pub(crate) fn merge(target: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    for (key, value) in change {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_agent();
    }
}
