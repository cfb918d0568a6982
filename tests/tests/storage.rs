//! Storage that fails the leader: it cannot be read, it hangs. Somebody else leads soon, and the node comes back by itself.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::cell::Cell;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use patroni_tests::{Cluster, Limit, Node, Sandbox, Signal, Writer, json, signal};

const TAKEOVER: Limit = Limit(30);
const COMEBACK: Limit = Limit(60);

/// The agent runs as the user of PostgreSQL, whom the mode of a directory concerns.
#[test]
fn a_data_directory_that_cannot_be_read_costs_the_lease_and_nothing_else() {
    // Nothing is acknowledged that the other one does not have: WAL that cannot be read cannot be sent either.
    let dcs = json!({"synchronous_mode": "on", "synchronous_mode_strict": true});
    let mut cluster = Cluster::of(2).dcs(dcs).start();
    let writer = Writer::start(&cluster, 0);
    cluster.nodes[1].wait_status_of("/synchronous", 200, TAKEOVER);
    let ticks = |log: &str| log.lines().count();
    let before = ticks(&cluster.nodes[0].log());
    let data = cluster.nodes[0].data.clone();
    std::fs::set_permissions(&data, Permissions::from_mode(0o000)).unwrap();
    cluster.wait_leader_among(&[1], TAKEOVER);
    cluster.nodes[0].wait_status_of("/primary", 503, TAKEOVER);
    std::thread::sleep(Duration::from_secs(5));
    let log = cluster.nodes[0].log();
    assert!(log.contains("released leader key voluntarily as data dir not accessible"), "{log}");
    let lines = ticks(&log) - before;
    assert!(lines < 400, "{lines} lines of log: a busy loop");
    std::fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    cluster.wait_streaming(1, COMEBACK);
    writer.stop().assert_all_on(&cluster.nodes[0]);
}

#[test]
fn a_leader_whose_server_hangs_makes_way_and_comes_back() {
    for mode in ["off", "on", "quorum"] {
        let dcs = json!({
            "synchronous_mode": mode, "synchronous_mode_strict": mode == "on", "primary_hang_timeout": 10,
        });
        let mut cluster = Cluster::of(3).dcs(dcs).start();
        let writer = Writer::start(&cluster, 0);
        std::thread::sleep(Duration::from_secs(3));
        let processes = processes_of(&cluster.nodes[0]);
        assert!(processes.len() > 5, "{processes:?}");
        processes.iter().for_each(|pid| signal(*pid, Signal::STOP));
        let leader = cluster.wait_leader_among(&[1, 2], TAKEOVER);
        assert!(cluster.nodes[0].log().contains("PostgreSQL hangs"), "it does not say what happened");
        cluster.wait_streaming(leader, COMEBACK);
        let written = writer.stop();
        // Half of ttl, 20 s here, and five more.
        println!("synchronous_mode {mode}: the longest gap between two writes was {:?}", written.longest_gap);
        if mode != "off" {
            written.assert_all_on(&cluster.nodes[leader]);
        }
    }
}

/// A file system of its own, which can be frozen. Only root may have one, and not everywhere.
struct Storage {
    mounted: PathBuf,
    frozen: Cell<bool>,
}

impl Storage {
    fn mount(sandbox: &Sandbox) -> Option<Self> {
        let (image, mounted) = (sandbox.path().join("image"), sandbox.directory("storage"));
        std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        let storage = Storage { mounted, frozen: Cell::new(false) };
        let image = image.to_str().unwrap();
        let made = run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=1", image])
            && run("mount", &["-o", "loop", image, storage.path()])
            && storage.freeze()
            && storage.thaw();
        if made {
            sandbox.give(&storage.mounted);
        }
        made.then_some(storage)
    }

    fn path(&self) -> &str {
        self.mounted.to_str().unwrap()
    }

    fn freeze(&self) -> bool {
        self.frozen.set(run("fsfreeze", &["--freeze", self.path()]));
        self.frozen.get()
    }

    fn thaw(&self) -> bool {
        self.frozen.set(!run("fsfreeze", &["--unfreeze", self.path()]));
        !self.frozen.get()
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if self.frozen.get() {
            self.thaw();
        }
        // Processes of the server may still be leaving.
        _ = run("umount", &["-l", self.path()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What was frozen goes on where it stood, once it is thawed: no write of the former primary is acknowledged then.
#[test]
fn a_leader_whose_storage_is_frozen_makes_way_and_comes_back() {
    let dcs = json!({"synchronous_mode": "on", "synchronous_mode_strict": true, "primary_hang_timeout": 5});
    let mut cluster = Cluster::of(3).dcs(dcs).prepare();
    let Some(storage) = Storage::mount(&cluster.sandbox) else {
        eprintln!("skipped: no file system can be mounted and frozen here");
        return;
    };
    let data = storage.mounted.join("data");
    std::os::unix::fs::symlink(&data, &cluster.nodes[0].data).unwrap();
    std::fs::create_dir(&data).unwrap();
    cluster.sandbox.give(&data);
    cluster.start_all();
    let writer = Writer::start(&cluster, 0);
    std::thread::sleep(Duration::from_secs(3));
    let former = cluster.nodes[0].postmaster().unwrap();
    assert!(storage.freeze());
    let leader = cluster.wait_leader_among(&[1, 2], TAKEOVER);
    assert_eq!(cluster.nodes[0].status_of("/primary"), 503, "{}", cluster.nodes[0].status());
    assert!(storage.thaw());
    cluster.wait_streaming(leader, COMEBACK);
    assert_ne!(cluster.nodes[0].postmaster(), Some(former), "the server that hung is gone");
    let written = writer.stop();
    println!("the longest gap between two writes was {:?}", written.longest_gap);
    written.assert_all_on(&cluster.nodes[leader]);
}

fn processes_of(node: &Node) -> Vec<u32> {
    let postmaster = node.postmaster().expect("PostgreSQL runs");
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    std::iter::once(postmaster).chain(children).collect()
}
