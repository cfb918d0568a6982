//! The store on ZooKeeper: its nodes, which of them belong to this member's session, and its watches; by a client of its own for
//! the few requests that are needed. Exhibitor is a list of ZooKeeper's servers.

mod client;
mod connection;
mod hosts;
mod nodes;
mod options;
mod proto;
mod session;
mod store;

use std::sync::Arc;

use patroni_core::name::MemberName;

pub use self::options::ZooKeeperOptions;
use crate::semantics::Semantics;
use crate::wire::ClusterPath;
use crate::{Dcs, Timing};

/// Makes a handle for a member; needs a tokio runtime as soon as it is used. ZooKeeper need not be up, and there is no session,
/// until an operation is asked for.
pub fn connect(options: ZooKeeperOptions, path: &ClusterPath, name: MemberName, timing: Timing) -> Arc<dyn Dcs> {
    Semantics::open(store::ZooKeeper::new(options, &path.prefix(), timing), name, timing)
}
