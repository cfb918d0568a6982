//! The embedded store: members in this process, on free ports and in temporary directories.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::facts::Outcome;
use patroni_dcs::raft::admin::{Administration, Phase};
use patroni_dcs::raft::state::{Change, Transaction};
use patroni_dcs::raft::{Raft, RaftClient, RaftNode, RaftOptions};
use patroni_dcs::{Dcs, Expected, Key, LeaderUpdate, Timing};
use patroni_ports::free_port;
use tempfile::TempDir;

use crate::{TIMING, World, eventually, leader_of, load, member, path};

/// Leases that outlast the trouble.
pub(crate) const LONG: Timing = Timing { ttl: Duration::from_secs(60), ..TIMING };
const PATIENCE: Duration = Duration::from_secs(10);

/// A store of several members.
pub(crate) struct Members {
    options: Vec<RaftOptions>,
    nodes: Vec<Option<Arc<RaftNode>>>,
    _directory: TempDir,
}

impl Members {
    pub(crate) async fn start(count: usize) -> Self {
        let mut members = Members::configured(count);
        for index in 0..count {
            members.run(index);
        }
        members.all_vote().await;
        members
    }

    pub(crate) fn configured(count: usize) -> Self {
        let directory = tempfile::tempdir().expect("no temporary directory");
        let addresses: Vec<String> = (0..count).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let options = |address: &String| RaftOptions {
            self_addr: Some(address.clone()),
            partner_addrs: addresses.iter().filter(|other| *other != address).cloned().collect(),
            data_dir: directory.path().join(address),
            password: Some("a long random text".to_owned()),
            ..RaftOptions::default()
        };
        let options: Vec<RaftOptions> = addresses.iter().map(options).collect();
        Members { nodes: options.iter().map(|_| None).collect(), options, _directory: directory }
    }

    /// Changes the options of all, before they run.
    pub(crate) fn change(&mut self, change: impl Fn(&mut RaftOptions)) {
        self.options.iter_mut().for_each(change);
    }

    pub(crate) fn run(&mut self, index: usize) {
        self.nodes[index] = Some(RaftNode::start(self.options[index].clone()).expect("a node starts"));
    }

    /// Stops a member at once.
    pub(crate) fn kill(&mut self, index: usize) {
        let node = self.nodes[index].take().expect("is not running");
        assert_eq!(Arc::strong_count(&node), 1, "handles keep the node alive");
    }

    pub(crate) fn address(&self, index: usize) -> String {
        self.options[index].self_addr.clone().expect("a member")
    }

    pub(crate) fn directory(&self, index: usize) -> PathBuf {
        self.options[index].data_dir.clone()
    }

    fn files(&self, index: usize, ending: &str) -> PathBuf {
        self.options[index].data_dir.join(format!("{}.{ending}", self.address(index)))
    }

    /// A client of all members, from outside.
    pub(crate) fn client(&self) -> Arc<RaftClient> {
        let everybody = self.options.iter().filter_map(|options| options.self_addr.clone()).collect();
        let options = RaftOptions { self_addr: None, partner_addrs: everybody, ..self.options[0].clone() };
        RaftClient::new(&options, None).expect("a client")
    }

    pub(crate) fn handle(&self, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        Raft::open(self.client(), &path(), name.into(), timing)
    }

    pub(crate) async fn votes(&self) -> usize {
        let client = self.client();
        let mut votes = 0;
        for index in (0..self.nodes.len()).filter(|index| self.nodes[*index].is_some()) {
            let Ok(status) = client.status_of(&self.address(index)).await else { continue };
            let all = status.members.len() == self.nodes.len() && status.members.iter().all(|member| member.voter);
            votes += usize::from(status.phase == Phase::Member && status.leader.is_some() && all);
        }
        votes
    }

    pub(crate) async fn all_vote(&self) {
        eventually("all members vote", || async { self.votes().await == self.nodes.len() }).await;
    }

    pub(crate) async fn leader(&self) -> usize {
        let client = self.client();
        let led = || async { client.status().await.is_ok_and(|status| status.leader == Some(status.member)) };
        eventually("there is a leader", led).await;
        let address = client.status().await.expect("a status").address;
        (0..self.nodes.len()).find(|index| self.address(*index) == address).expect("one of ours")
    }
}

impl World for Members {
    /// Some are inside a member, some outside.
    fn member(&self, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        let inside = self.nodes[0].clone().filter(|_| name == "a");
        match inside {
            Some(node) => Raft::open(
                RaftClient::new(&self.options[0], Some(node)).expect("a client"),
                &path(),
                name.into(),
                timing,
            ),
            None => self.handle(name, timing),
        }
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn set_raw(&self, name: &str, value: Option<&[u8]>) {
        let key = format!("{}{name}", path().prefix());
        let change = match value {
            Some(value) => Change::Put { key, value: value.to_vec(), lease: None },
            None => Change::Delete(key),
        };
        let transaction = Transaction { then: vec![change], ..Transaction::default() };
        self.client().change(transaction, PATIENCE).await.expect("cannot change");
    }

    async fn get_raw(&self, name: &str) -> Option<Vec<u8>> {
        let key = format!("{}{name}", path().prefix());
        self.client().read(&key, PATIENCE).await.expect("cannot read").remove(&key).map(|content| content.value)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_outlives_each_member_and_a_restart_of_all() {
    let mut members = Members::start(3).await;
    let (a, b) = (members.handle("a", LONG), members.handle("b", LONG));
    assert!(a.acquire().await.is_done());
    let version = a.write(Key::Config, "{\"ttl\":30}", Expected::Absent).await.done().expect("it is absent");

    let leader = members.leader().await;
    members.kill(leader);
    eventually("another member leads", || async { a.renew(&LeaderUpdate::default()).await.is_done() }).await;
    assert_eq!(load(&b).await.config.map(|config| config.version), Some(version));
    members.run(leader);
    members.all_vote().await;

    for index in 0..3 {
        members.kill(index);
    }
    assert!(a.load().await.is_err());
    for index in 0..3 {
        members.run(index);
    }
    members.all_vote().await;
    assert_eq!(leader_of(&load(&b).await), Some("a"), "leases outlast a restart of all");
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    assert_eq!(b.acquire().await, Outcome::Refused);
    assert_eq!(load(&b).await.config.map(|config| config.version), Some(version));
}

/// The others would not vote for anybody before they have not heard of it for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ends_makes_another_member_lead_first() {
    for count in [3, 5] {
        let members = Members::start(count).await;
        let (client, a) = (members.client(), members.handle("a", LONG));
        assert!(a.acquire().await.is_done());
        let leader = members.leader().await;
        let follower = (leader + 1) % count;
        members.nodes[follower].as_ref().expect("it runs").hand_over().await;
        assert_eq!(members.leader().await, leader, "only the leader has something to hand over");

        members.nodes[leader].as_ref().expect("it runs").hand_over().await;
        let status = client.status_of(&members.address(leader)).await.expect("a status");
        assert!(status.leader.is_some_and(|next| next != status.member), "{:?} leads", status.leader);
        assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_done_and_that_is_told() {
    let mut members = Members::start(3).await;
    let a = members.handle("a", LONG);
    assert!(a.touch_member(&member("running")).await.is_done());
    members.kill(0);
    members.kill(1);
    let asked = std::time::Instant::now();
    assert!(a.load().await.is_err());
    let written = a.write(Key::Sync, "{}", Expected::Absent).await;
    assert!(matches!(written, Outcome::Failed(_) | Outcome::Unknown(_)), "{written:?}");
    assert!(asked.elapsed() < LONG.retry_timeout * 3, "took {:?}", asked.elapsed());
    members.run(0);
    eventually("the majority is back", || async { a.load().await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_disk_comes_back_as_another_one() {
    let mut members = Members::start(3).await;
    let a = members.handle("a", LONG);
    assert!(a.write(Key::Config, "{}", Expected::Absent).await.is_done());
    let before = members.client().status().await.expect("a status");
    let lost = members.leader().await;
    members.kill(lost);
    std::fs::remove_dir_all(&members.options[lost].data_dir).expect("cannot remove");
    members.run(lost);
    members.all_vote().await;
    let after = members.client().status().await.expect("a status");
    let id = |status: &patroni_dcs::raft::admin::StoreStatus| {
        status.members.iter().find(|member| member.address == members.address(lost)).map(|member| member.id)
    };
    assert_eq!(before.cluster, after.cluster, "there is one store");
    assert_ne!(id(&before), id(&after), "it must not vote again on what it voted on before");
    assert!(load(&a).await.config.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_kept_aside_and_fetched_from_the_others() {
    let mut members = Members::start(3).await;
    let a = members.handle("a", LONG);
    assert!(a.write(Key::Config, "{}", Expected::Absent).await.is_done());
    members.kill(2);
    let log = members.files(2, "log");
    let mut bytes = std::fs::read(&log).expect("cannot read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&log, &bytes).expect("cannot write");
    members.run(2);
    members.all_vote().await;
    assert_eq!(std::fs::read(members.files(2, "log.damaged.1")).expect("it is kept"), bytes);
    members.kill(0);
    eventually("it counts", || async { a.load().await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_removed_and_added() {
    let mut members = Members::start(3).await;
    let client = members.client();
    let gone = (members.leader().await + 1) % 3;
    let address = members.address(gone);
    let other = members.address((gone + 1) % 3);
    members.kill(gone);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let refused = client.remove(&other).await.map_err(|error| error.to_string());
    assert!(
        refused.as_ref().is_err_and(|why| why.contains("no majority") || why.contains("leads the store")),
        "{refused:?}"
    );
    client.remove(&address).await.expect("the others are a majority");
    let status = client.status().await.expect("a status");
    assert_eq!(status.members.len(), 2);

    // It was not there to hear of it.
    members.run(gone);
    eventually("it knows that it was removed", || async {
        client.status_of(&address).await.is_ok_and(|status| status.phase == Phase::Removed)
    })
    .await;
    let refused = client.add(&address).await.map_err(|error| error.to_string());
    assert!(refused.as_ref().is_err_and(|why| why.contains("was removed")), "{refused:?}");
    members.kill(gone);
    std::fs::remove_dir_all(&members.options[gone].data_dir).expect("cannot remove");
    members.run(gone);
    members.all_vote().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_founds_a_second_store() {
    let mut members = Members::configured(3);
    members.run(0);
    members.run(1);
    let client = members.client();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for index in 0..2 {
        let status = client.status_of(&members.address(index)).await.expect("a status");
        assert_eq!((status.cluster, status.leader), (None, None), "one is missing that may have a store");
    }
    members.run(2);
    members.all_vote().await;

    // A node that was a member and lost its files and its configuration is found by the others.
    members.kill(2);
    std::fs::remove_dir_all(&members.options[2].data_dir).expect("cannot remove");
    members.options[2].partner_addrs.clear();
    members.run(2);
    members.all_vote().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_no_way_in() {
    let members = Members::start(1).await;
    let a = members.handle("a", LONG);
    assert!(a.write(Key::Config, "{}", Expected::Absent).await.is_done());
    for password in [Some("another".to_owned()), None] {
        let options = RaftOptions {
            self_addr: None,
            partner_addrs: vec![members.address(0)],
            password,
            ..RaftOptions::default()
        };
        let client = RaftClient::new(&options, None).expect("a client");
        let error = client.read("", Duration::from_secs(2)).await.expect_err("no way in").to_string();
        assert!(error.contains("raft.password"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_are_backed_up_and_restored() {
    let members = Members::start(1).await;
    let (client, a) = (members.client(), members.handle("a", LONG));
    assert!(a.acquire().await.is_done());
    assert!(a.write(Key::Config, "{\"ttl\":20}", Expected::Absent).await.is_done());
    let backup = client.backup().await.expect("a backup");
    assert_eq!(backup.keys.iter().filter(|key| key.leased).count(), 1, "the leader key");
    assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
    assert!(a.write(Key::Sync, "{}", Expected::Absent).await.is_done());
    client.restore(&backup).await.expect("it is put back");
    assert_eq!(members.get_raw("config").await.as_deref(), Some(b"{\"ttl\":20}".as_slice()));
    assert_eq!(members.get_raw("sync").await, None);
    assert_eq!(leader_of(&load(&a).await), Some("a"), "who leads goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_the_port_does_no_harm() {
    use tokio::io::AsyncWriteExt;
    let members = Members::start(1).await;
    let a = members.handle("a", LONG);
    let address = members.address(0);
    let flood = tokio::spawn(async move {
        let mut open = Vec::new();
        for i in 0..600 {
            let Ok(mut stream) = tokio::net::TcpStream::connect(&address).await else { continue };
            let _ = stream.write_all(if i % 2 == 0 { b"PTRNRAFT" } else { b"GET / HTTP/1.1" }).await;
            open.push(stream);
        }
        open.len()
    });
    for _ in 0..20 {
        assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
        assert!(members.handle("b", LONG).load().await.is_ok(), "a new connection gets through");
    }
    assert!(flood.await.expect("no panic") > 100);
}
