//! The only place that knows the names of the keys and the JSON in them, byte-compatible with Patroni 4.1.
//!
//! Reading is as tolerant as the reference (its `from_node` functions), and more: no content of any key makes a load
//! fail. Writing gives the bytes the reference would write.

mod read;
mod write;

pub use read::{RawKey, cluster, member_data};
pub use write::{config, failover, failsafe, history, member, status, status_with_lsn, sync};

use crate::Key;

/// Where the keys of a cluster live: `/{namespace}/{scope}/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterPath {
    /// `namespace`; `service` by default. Slashes around it do not matter.
    pub namespace: String,
    /// `scope`: the name of the cluster.
    pub scope: String,
}

impl ClusterPath {
    /// The beginning of all keys of the cluster, with a slash at its end.
    pub fn prefix(&self) -> String {
        let mut prefix = String::from("/");
        for part in self.namespace.split('/').chain(self.scope.split('/')).filter(|part| !part.is_empty()) {
            prefix.push_str(part);
            prefix.push('/');
        }
        prefix
    }
}

/// `leader`: the name of the member that holds the lease.
pub const LEADER: &str = "leader";
/// `status`: last position of the leader and its slots.
pub const STATUS: &str = "status";
/// `failsafe`: names and REST addresses of the members.
pub const FAILSAFE: &str = "failsafe";
/// Members' keys begin with this.
pub const MEMBERS: &str = "members/";
/// What came before `status`; read only where that is absent.
pub const LEGACY_STATUS: &str = "optime/leader";

/// The name of a key, below the prefix of the cluster.
pub fn key_name(key: Key) -> &'static str {
    match key {
        Key::Config => "config",
        Key::Failover => "failover",
        Key::History => "history",
        Key::Initialize => "initialize",
        Key::Status => STATUS,
        Key::Sync => "sync",
    }
}

/// What a member's key says, without the positions that change all the time while clients write. A wake for each of
/// them would make the members wake each other without end.
pub fn lasting_content(member_key: &[u8]) -> Vec<u8> {
    let Ok(serde_json::Value::Object(mut map)) = serde_json::from_slice(member_key) else {
        return member_key.to_vec();
    };
    for position in ["xlog_location", "receive_lsn", "replay_lsn"] {
        map.shift_remove(position);
    }
    patroni_core::json::compact(&serde_json::Value::Object(map)).into_bytes()
}

#[cfg(test)]
mod tests;
