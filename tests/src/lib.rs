//! Black-box harness: starts real clusters of `patroni` processes over a real store, or over their own, and looks at them from outside.
//!
//! It owns processes, ports, temporary directories and time limits, and takes all of them down again when a [`Cluster`]
//! is dropped, also after a panic. It knows nothing of the crates under test: only command lines, REST, SQL, store keys.
//!
//! Environment: `PATRONI_BIN`, `PATRONICTL_BIN` (the programs under test; default `target/debug`), `REFERENCE_BIN_DIR`
//! (where Patroni 4.1.5 for mixed clusters is; default `target/reference/bin`, then `/opt/ref/venv/bin`), `PG_BIN_DIR`,
//! `PATRONI_TEST_SERVERS` (where Consul, ZooKeeper, Prometheus and Kubernetes' API server are, which are not installed; default `target/servers`),
//! `PATRONI_TEST_STORE` (the store of tests that do not look into etcd:
//! `etcd3`, which is usual, `raft`, `etcd`, `consul`, `zookeeper`, `exhibitor`, `kubernetes`), `PATRONI_TEST_KEEP=1` (the files of a test that fails stay).

// A harness may block: it has no runtime, and panicking is how a test fails.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod cluster;
mod consumer;
mod embedded;
mod etcd;
mod failing_disk;
mod node;
mod programs;
mod rest;
mod sandbox;
mod server;
mod small_disk;
mod wait;
mod writer;

pub use cluster::{Builder, Cluster};
pub use consumer::Consumer;
pub use embedded::{Controller, Members, PASSWORD};
pub use etcd::Etcd;
pub use failing_disk::FailingDisk;
pub use node::{Frozen, Node};
pub use patroni_ports::free_port;
pub use programs::{Kind, Programs};
pub use rest::{Answer, request};
pub use sandbox::{Sandbox, process_exists, signal};
pub use server::{Server, Store, servers};
pub use small_disk::SmallDisk;
pub use wait::{Limit, wait_for};
pub use writer::{Writer, Written};

pub use rustix::process::Signal;
pub use serde_json::{Value, json};
