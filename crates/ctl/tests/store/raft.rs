//! The agents' own store: a single member, in this process.

use std::sync::Arc;
use std::time::Duration;

use patroni_dcs::raft::state::{Change, Transaction};
use patroni_dcs::raft::{RaftClient, RaftNode, RaftOptions};
use patroni_ports::free_port;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{Store, path};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Raft {
    address: String,
    client: Arc<RaftClient>,
    runtime: Runtime,
    _node: Arc<RaftNode>,
    _directory: TempDir,
}

impl Raft {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let member = RaftOptions {
            self_addr: Some(address.clone()),
            data_dir: directory.path().join("raft"),
            ..RaftOptions::default()
        };
        let outside = RaftOptions { self_addr: None, partner_addrs: vec![address.clone()], ..member.clone() };
        let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
        let _inside = runtime.enter();
        let node = RaftNode::start(member).expect("a member starts");
        let client = RaftClient::new(&outside, None).expect("a client");
        Raft { address, client, _node: node, _directory: directory, runtime }
    }
}

impl Store for Raft {
    fn url(&self) -> String {
        format!("raft://{}", self.address)
    }

    fn put(&self, key: &str, value: &str) {
        let put = Change::Put { key: path(key), value: value.as_bytes().to_vec(), lease: None };
        let transaction = Transaction { then: vec![put], ..Transaction::default() };
        self.runtime.block_on(self.client.change(transaction, PATIENCE)).expect(key);
    }

    fn get(&self, key: &str) -> String {
        let key = path(key);
        let found = self.runtime.block_on(self.client.read(&key, PATIENCE)).expect("it answers").remove(&key);
        String::from_utf8(found.expect("it is there").value).expect("text")
    }
}
