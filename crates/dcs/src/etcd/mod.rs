//! etcd: what both versions of its API have in common, and the store on version 2.

mod addresses;
mod answers;
mod options;
mod places;
pub(crate) mod srv;
mod store;

use std::sync::Arc;

use patroni_core::name::MemberName;

pub(crate) use self::addresses::Addresses;
pub use self::options::EtcdOptions;
use crate::semantics::Semantics;
use crate::wire::ClusterPath;
use crate::{Dcs, Timing};

/// Makes a handle for a member, on version 2 of the API; needs a tokio runtime as soon as it is used. Nothing is sent, and etcd
/// need not be up, until an operation is asked for.
pub fn connect(options: EtcdOptions, path: &ClusterPath, name: MemberName, timing: Timing) -> Arc<dyn Dcs> {
    Semantics::open(store::Etcd::new(options, path.prefix(), timing), name, timing)
}
