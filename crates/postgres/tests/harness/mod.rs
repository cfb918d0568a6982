//! A directory with a PostgreSQL server of its own, of the version whose programs are in `PG_BIN_DIR`, else the newest of Debian's.
//! PostgreSQL refuses to run as root: a test that finds itself root runs itself again as user `postgres`.

// Each test file uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use patroni_core::job::{Upstream, UpstreamMember};
use patroni_core::server::{Postmaster, Role, Running, Server};
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::conf::{Conf, FileOptions};
use patroni_postgres::control::{Control, StartOptions, Started};
use patroni_postgres::monitor::Monitor;
use patroni_postgres::options::{BootstrapOptions, Credentials, ServerOptions};
use patroni_postgres::postmaster;
use patroni_postgres::processes::kill_all;
use patroni_postgres::sql::{Connection, DEFAULT_OPTIONS};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Where PostgreSQL's programs are.
pub fn bin_dir() -> &'static str {
    static FOUND: LazyLock<String> = LazyLock::new(|| {
        std::env::var("PG_BIN_DIR").unwrap_or_else(|_| {
            let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
            format!("/usr/lib/postgresql/{}/bin", newest.expect("PostgreSQL, or PG_BIN_DIR"))
        })
    });
    &FOUND
}

/// The major version of these programs.
pub fn major_version() -> u32 {
    static FOUND: LazyLock<u32> = LazyLock::new(|| {
        let output = Command::new(format!("{}/postgres", bin_dir())).arg("--version").output().expect("postgres");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version =
            text.rsplit_once(") ").and_then(|(_, version)| version.split(['.', ' ', '\n']).next()?.parse().ok());
        version.unwrap_or_else(|| panic!("a version in {text:?}"))
    });
    *FOUND
}

/// Runs the body of the test `name`, as user `postgres`, within two minutes.
pub fn as_postgres(name: &str, body: impl Future<Output = ()>) {
    if rustix::process::geteuid().is_root() {
        let this = std::env::current_exe().expect("own path");
        let status = Command::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(this)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .current_dir("/")
            .env("HOME", "/tmp")
            .env_remove("TMPDIR")
            .status()
            .expect("runuser");
        assert!(status.success(), "{name} failed as user postgres");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), body).await }).expect("within two minutes");
}

/// A server that is ended and removed with this value.
pub struct Node {
    pub dir: TempDir,
    pub options: watch::Sender<Arc<ServerOptions>>,
    pub control: Control,
    pub monitor: Monitor,
}

impl Node {
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    /// A node with changes to its options.
    pub fn with(name: &str, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let dir = tempfile::Builder::new().prefix("patroni-pg-").tempdir_in("/tmp").expect("directory");
        let mut options = options(name, dir.path());
        change(&mut options);
        let options = Arc::new(options);
        let (sender, receiver) = watch::channel(options.clone());
        let monitor = Monitor::new(receiver.clone());
        let conf = Conf::new(options, Arc::new(files(dir.path())), major_version() * 10_000);
        let control = Control::new(receiver, monitor.clone(), conf);
        Node { dir, options: sender, control, monitor }
    }

    /// A second agent for the same server, as after a restart of the agent.
    pub fn second_monitor(&self) -> Monitor {
        Monitor::new(self.options.subscribe())
    }

    pub fn data_dir(&self) -> PathBuf {
        self.options.borrow().data_dir.clone()
    }

    pub async fn bootstrap(&mut self) {
        self.control.bootstrap(&Cancel::new(), &Progress::ignored()).await.expect("bootstrap");
    }

    pub async fn start(&mut self, role: Role, follow: Option<Upstream>) -> patroni_postgres::Result<Started> {
        let start = StartOptions { role, follow, timeout: Some(Duration::from_secs(30)), callback: None };
        self.control.start(start, &Cancel::new(), &Progress::ignored()).await
    }

    pub async fn inspect(&self) -> Server {
        self.monitor.inspect(Instant::now() + Duration::from_secs(5)).await
    }

    pub async fn running(&self) -> Running {
        match self.inspect().await.postmaster {
            Postmaster::Running(running) => running,
            other => panic!("not running but {other:?}"),
        }
    }

    pub async fn sql(&self, sql: &str) -> Vec<Option<String>> {
        let conninfo = self.options.borrow().local_superuser();
        let connection = Connection::open(&conninfo, "test", DEFAULT_OPTIONS).await.expect("connection");
        let rows = connection.query(sql).await.expect(sql);
        rows.iter().map(|row| row.get(0).map(str::to_owned)).collect()
    }

    /// This server as an upstream.
    pub fn upstream(&self) -> Upstream {
        Upstream::Member(UpstreamMember {
            name: self.options.borrow().name.clone(),
            conn_url: self.conn_url(),
            slot: None,
        })
    }

    pub fn conn_url(&self) -> String {
        format!("postgres://127.0.0.1:{}/postgres", self.options.borrow().port)
    }

    pub fn postmaster_pid(&self) -> i32 {
        self.postmaster().expect("a postmaster").pid()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(postmaster) = self.postmaster() {
            kill_all(postmaster.pid(), Duration::from_secs(10)).expect("kill");
            for _ in 0..500 {
                if !postmaster.is_alive() {
                    break;
                }
                let _ = rustix::thread::nanosleep(&rustix::thread::Timespec { tv_sec: 0, tv_nsec: 10_000_000 });
            }
        }
    }
}

impl Node {
    /// The one that was seen last, or else that of the pid file.
    fn postmaster(&self) -> Option<Arc<postmaster::Postmaster>> {
        let seen = self.monitor.cached().filter(|postmaster| postmaster.is_alive());
        seen.or_else(|| {
            let pid = postmaster::Postmaster::number(&self.data_dir()).ok()??;
            Some(Arc::new(postmaster::Postmaster::open(pid).ok()??))
        })
    }
}

pub fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("kill");
}

/// Waits until `check` holds, for at most ten seconds.
pub async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check().await {
        assert!(Instant::now() < deadline, "{what} did not come within 10 s");
        sleep(Duration::from_millis(10)).await;
    }
}

fn options(name: &str, dir: &Path) -> ServerOptions {
    let user = |name: &str| Credentials {
        username: Some(name.into()),
        password: Some(format!("{name}'s \\ password")),
        tls: BTreeMap::new(),
    };
    ServerOptions {
        log_directories: Vec::new(),
        scope: "test".into(),
        name: name.into(),
        data_dir: dir.join("data"),
        bin_dir: Some(bin_dir().into()),
        bin_name: BTreeMap::new(),
        pgpass: dir.join("pgpass"),
        database: "postgres".into(),
        listen_addresses: "127.0.0.1".into(),
        port: patroni_ports::free_port(),
        use_unix_socket: true,
        use_unix_socket_repl: true,
        unix_socket_directories: Some(dir.display().to_string()),
        superuser: user("postgres"),
        replication: user("replicator"),
        rewind: user("rewinder"),
        pg_ctl_timeout: Duration::from_secs(60),
        callbacks: BTreeMap::new(),
        before_stop: None,
        pre_promote: None,
        create_replica_methods: Vec::new(),
        replica_methods: BTreeMap::from([("basebackup".into(), json!({"checkpoint": "fast", "no-sync": null}))]),
        bootstrap: BootstrapOptions {
            initdb: json!([{"encoding": "UTF8"}, "data-checksums", "no-sync", {"auth": "scram-sha-256"}]),
            pg_hba: vec![
                "host replication replicator 127.0.0.1/32 scram-sha-256".into(),
                "host all all 127.0.0.1/32 scram-sha-256".into(),
            ],
            ..BootstrapOptions::default()
        },
        others: Vec::new(),
    }
}

fn files(dir: &Path) -> FileOptions {
    let parameters = json!({
        "unix_socket_directories": dir.display().to_string(), "max_connections": 30, "max_wal_senders": 5,
        "wal_log_hints": "on", "wal_level": "replica", "hot_standby": "on", "shared_buffers": "16MB",
        "max_prepared_transactions": 0, "max_locks_per_transaction": 64, "max_worker_processes": 8, "fsync": "off",
        "max_replication_slots": 5, "track_commit_timestamp": "off", "dynamic_shared_memory_type": "mmap",
    });
    let serde_json::Value::Object(parameters) = parameters else { panic!("an object") };
    FileOptions { parameters, use_slots: false, ..FileOptions::default() }
}
