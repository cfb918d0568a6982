//! The store on Kubernetes: annotations of Endpoints or ConfigMaps, and of the Pods of members.
//!
//! The API server knows no leases that end by themselves. Who holds the leader key renews it, and who sees nothing of it change for as
//! long as it says it lasts knows that it is over. Every change names the version of the object that it is about, so that nothing
//! is changed by what somebody believes.

mod access;
mod bodies;
mod keys;
mod kubeconfig;
mod leader;
mod objects;
mod options;
mod requests;
mod servers;
mod store;
mod view;
mod watcher;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use patroni_core::JsonMap;
use patroni_core::cluster::{MemberData, Version};
use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::time::Moment;
use tokio::sync::watch;

pub use self::access::{Access, Credentials};
pub use self::options::{KubernetesOptions, Port, RoleLabels};
use self::store::Store;
use crate::attempts::Failure;
use crate::noticed::Changes;
use crate::wire::{ClusterPath, RawKey};
use crate::{Dcs, Expected, Key, LeaderUpdate, OpenError, Timing, Unread};

/// Makes a handle for a member, which has the name of its Pod; needs a tokio runtime as soon as it is used. Nothing is sent until an
/// operation is asked for.
pub fn connect(options: KubernetesOptions, path: &ClusterPath, name: MemberName, timing: Timing) -> Arc<dyn Dcs> {
    let store = Arc::new(Store::new(options, &path.scope, name, timing));
    Arc::new(Kubernetes { store, changes: Changes::new() })
}

struct Kubernetes {
    store: Arc<Store>,
    changes: Changes,
}

#[async_trait]
impl Dcs for Kubernetes {
    fn configure(&self, timing: Timing) {
        self.store.configure(timing);
    }

    fn reload(&self, configuration: &JsonMap) -> Result<(), OpenError> {
        self.store.reload(crate::open::kubernetes_options(configuration)?);
        Ok(())
    }

    async fn read(&self) -> Result<BTreeMap<String, RawKey>, Unread> {
        self.store.read().await.map_err(Failure::unread)
    }

    async fn acquire(&self) -> Outcome<Moment> {
        self.store.acquire().await.unwrap_or_else(Failure::outcome)
    }

    async fn renew(&self, update: &LeaderUpdate) -> Outcome<Moment> {
        self.store.renew(update).await.unwrap_or_else(Failure::outcome)
    }

    async fn release(&self, last_lsn: Option<Lsn>) -> Outcome<()> {
        self.store.release(last_lsn).await.unwrap_or_else(Failure::outcome)
    }

    async fn touch_member(&self, data: &MemberData) -> Outcome<()> {
        self.store.touch_member(data).await.map_or_else(Failure::outcome, Outcome::Done)
    }

    async fn write(&self, key: Key, value: &str, expected: Expected) -> Outcome<Version> {
        self.store.write(key, Some(value), expected).await.unwrap_or_else(Failure::outcome)
    }

    async fn delete(&self, key: Key, expected: Expected) -> Outcome<()> {
        self.store.write(key, None, expected).await.unwrap_or_else(Failure::outcome).map(drop)
    }

    async fn delete_cluster(&self) -> Outcome<()> {
        self.store.delete_cluster().await.map_or_else(Failure::outcome, Outcome::Done)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe(|changes| watcher::watch_changes(self.store.clone(), changes))
    }
}
