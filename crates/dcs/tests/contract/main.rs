//! What every backend has to do, run on the store in memory, on the embedded store, and on real servers of each other one; and what only some can go through:
//! restarts, hanging endpoints, garbage, and living together with the reference.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and starts what it wants"
)]

mod certificates;
mod consul;
mod consul_faults;
mod etcd;
mod etcd_auth;
mod etcd_members;
mod etcd_v2;
mod etcd_v2_auth;
mod etcd_v2_faults;
mod faults;
mod histories;
mod kubernetes;
mod kubernetes_faults;
mod kubernetes_objects;
mod raft;
mod raft_disk;
mod raft_tls;
mod reference;
mod rules;
mod zookeeper;
mod zookeeper_access;
mod zookeeper_faults;
mod zookeeper_raw;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::{Cluster, MemberData};
use patroni_core::name::MemberName;
use patroni_core::time::Moment;
use patroni_dcs::wire::ClusterPath;
use patroni_dcs::{Dcs, Timing, memory};

/// A store under test.
trait World: Sync {
    /// A handle for a member of the one cluster.
    fn member(&self, name: &str, timing: Timing) -> Arc<dyn Dcs>;
    /// Lets time pass.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;
    /// Writes or deletes a key from outside.
    fn set_raw(&self, name: &str, value: Option<&[u8]>) -> impl Future<Output = ()> + Send;
    /// Reads a key from outside.
    fn get_raw(&self, name: &str) -> impl Future<Output = Option<Vec<u8>>> + Send;
    /// Whether the keys of a member hang on one lease or session, which is kept alive without writing them.
    fn has_leases(&self) -> bool {
        true
    }
    /// Whether a key of a member's earlier lease can be attached to its present one, and stays the same key.
    fn attaches_keys(&self) -> bool {
        true
    }
    /// Whether the store itself removes what hung on a lease that is over. Where it does not, members stay, and whoever had the leader key can
    /// go on with it until somebody else takes it.
    fn keys_expire(&self) -> bool {
        true
    }
    /// How much sooner than a `ttl` after the request a lease may end for whoever holds it.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
    /// Module, class and settings with which Patroni itself uses the store.
    fn reference(&self) -> (&'static str, &'static str, serde_json::Value) {
        panic!("Patroni does not know this store")
    }
}

/// Leases as short as etcd makes them reliably.
const TIMING: Timing =
    Timing { ttl: Duration::from_secs(3), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(6) };

struct InMemory {
    store: memory::Store,
    now: Arc<std::sync::Mutex<Duration>>,
}

impl InMemory {
    fn new() -> Self {
        let now = Arc::new(std::sync::Mutex::new(Duration::from_secs(100)));
        let clock = now.clone();
        InMemory { store: memory::Store::new(Arc::new(move || Moment(*clock.lock().unwrap()))), now }
    }
}

impl World for InMemory {
    fn member(&self, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        Arc::new(self.store.handle(name.into(), timing))
    }

    async fn pass(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
        self.store.expire();
    }

    async fn set_raw(&self, name: &str, value: Option<&[u8]>) {
        self.store.set_raw(name, value);
    }

    async fn get_raw(&self, name: &str) -> Option<Vec<u8>> {
        self.store.get_raw(name).map(|raw| raw.value)
    }
}

fn path() -> ClusterPath {
    ClusterPath { namespace: "service".into(), scope: "contract".into() }
}

async fn load(dcs: &Arc<dyn Dcs>) -> Cluster {
    dcs.load().await.unwrap_or_else(|why| panic!("load: {why}"))
}

fn member(state: &str) -> MemberData {
    MemberData { state: Some(state.into()), role: Some("replica".into()), ..MemberData::default() }
}

fn leader_of(cluster: &Cluster) -> Option<&str> {
    cluster.leader_name().map(MemberName::as_str)
}

/// Waits for a state; panics after 30 seconds.
async fn eventually<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Where `./test` puts servers that are not installed.
fn servers() -> std::path::PathBuf {
    let usual = || concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/servers").into();
    std::env::var_os("PATRONI_TEST_SERVERS").unwrap_or_else(usual).into()
}
