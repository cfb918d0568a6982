//! The store on Consul: its keys, sessions and blocking queries, through the agent that runs beside this node.

mod answers;
mod options;
mod requests;
mod service;
mod session;
mod store;

use std::sync::Arc;

use patroni_core::name::MemberName;

pub use self::options::{Consistency, ConsulOptions, ServiceOptions};
use crate::semantics::Semantics;
use crate::wire::ClusterPath;
use crate::{Dcs, Timing};

/// Makes a handle for a member; needs a tokio runtime as soon as it is used. Nothing is sent, and Consul need not be up, until an
/// operation is asked for; a session is made only by operations that need one.
pub fn connect(options: ConsulOptions, path: &ClusterPath, name: MemberName, timing: Timing) -> Arc<dyn Dcs> {
    let store = store::Consul::new(options, &path.prefix(), &path.scope, name.as_str(), timing);
    Semantics::open(store, name, timing)
}
