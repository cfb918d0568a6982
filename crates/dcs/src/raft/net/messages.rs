//! What goes over a connection, after the proofs.

use std::io;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{SnapshotMeta, Vote};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::channel::Channel;
use crate::raft::protocol::{Answer, ClusterId, MemberId, Request};
use crate::raft::state::Time;
use crate::raft::types::{Node, TypeConfig};

/// The first frame of whoever connected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) peer: Peer,
}

/// Who connected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Peer {
    /// Somebody who uses the store.
    Client,
    /// A member of a cluster, which takes the other side for the member `to`.
    Member { cluster: ClusterId, from: MemberId, from_address: String, to: MemberId },
}

/// The answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Welcome {
    Welcome,
    Refused(Refusal),
}

/// Why there is nothing to talk about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    /// The leader says that it is no member any more.
    #[error("it is not a member of the store any more")]
    Removed,
    #[error("the node belongs to another cluster of the embedded store")]
    OtherCluster,
    #[error("another member answers at the address")]
    OtherMember,
    #[error("the node cannot use its files")]
    Broken,
}

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    /// `forwarded`: by a member that does not lead. `budget_ms`: after that the answer does not matter any more.
    Client {
        request: Request,
        budget_ms: u64,
        forwarded: bool,
    },
    /// With the time of the leader.
    Append {
        time: Time,
        request: AppendEntriesRequest<TypeConfig>,
    },
    Vote(VoteRequest<u64>),
    /// The leader is about to end: the next vote goes to this candidate.
    MakeWay(Vote<u64>),
    Snapshot {
        time: Time,
        vote: Vote<u64>,
        meta: SnapshotMeta<u64, Node>,
        state: Vec<u8>,
    },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Return {
    Client(Answer),
    Append(Result<AppendEntriesResponse<u64>, String>),
    Vote(Result<VoteResponse<u64>, String>),
    MakeWay(Result<(), String>),
    Snapshot(Result<SnapshotResponse<u64>, String>),
}

impl Channel {
    /// Sends a message.
    pub(crate) async fn say(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.send(rmp_serde::to_vec_named(message).map_err(io::Error::other)?).await
    }

    /// Receives a message of at most so many bytes.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self, most: usize) -> io::Result<T> {
        let bytes = self.receive(most).await?;
        rmp_serde::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
