//! The types with which this store uses `openraft`.

use openraft::LeaderId;
use serde::{Deserialize, Serialize};

use super::state::{Reply, RequestId, Time, Transaction};

openraft::declare_raft_types!(
    /// The store.
    pub(crate) TypeConfig:
        D = Command,
        R = Applied,
        NodeId = u64,
        Node = openraft::BasicNode,
        SnapshotData = Vec<u8>,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type Node = openraft::BasicNode;

/// The time during which one member leads. Later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Reign {
    pub(crate) term: u64,
    pub(crate) member: u64,
}

impl From<LeaderId<u64>> for Reign {
    fn from(leader: LeaderId<u64>) -> Self {
        Reign { term: leader.term, member: leader.node_id }
    }
}

/// What an entry of the log asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Command {
    /// The time of the consensus, by the clock of the leader in this reign.
    pub(crate) time: Time,
    pub(crate) reign: Reign,
    pub(crate) action: Action,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Action {
    /// Only that time has passed.
    Tick,
    Transact {
        id: RequestId,
        transaction: Transaction,
    },
}

/// What came of an entry; `None`: there is nothing to tell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Applied(pub(crate) Option<Reply>);
