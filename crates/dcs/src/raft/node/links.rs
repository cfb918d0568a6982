//! How `openraft` reaches the other members.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, OptionalSend, Snapshot, Vote};
use tokio::time::Instant;

use super::{Node, lock};
use crate::raft::net::{Call, CallError, Refusal, Return};
use crate::raft::state::Time;
use crate::raft::types::{self, TypeConfig};

/// How long a whole snapshot may take: it is sent as one message.
const SNAPSHOT: Duration = Duration::from_secs(30);
/// The pause after a member could not be reached.
const PAUSE: Duration = Duration::from_millis(300);

/// The links of one node. `openraft` outlives the node by moments when it ends.
pub(super) struct Links(pub(super) Weak<Node>);

/// The link to one member.
pub(super) struct Link {
    node: Weak<Node>,
    target: u64,
    address: String,
}

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &types::Node) -> Link {
        Link { node: self.0.clone(), target, address: node.addr.clone() }
    }
}

type Failure<E> = RPCError<u64, types::Node, E>;

impl Link {
    async fn call<E: std::error::Error>(&self, call: Call, patience: Duration) -> Result<Return, Failure<E>> {
        let gone = |text: String| RPCError::Unreachable(Unreachable::new(&std::io::Error::other(text)));
        let Some(node) = self.node.upgrade() else { return Err(gone("this node has ended".to_owned())) };
        let running = node.running().map_err(gone)?;
        let identity = running.log.identity();
        let Some(cluster) = identity.cluster else { return Err(gone("this node has no cluster".to_owned())) };
        let peer = node.as_member(cluster, identity.member, self.target);
        match node.pool.call(&self.address, peer, &call, patience).await {
            Ok(answer) => {
                lock(&node.answered).insert(self.target, Instant::now());
                Ok(answer)
            }
            Err(CallError::Refused(Refusal::Removed)) => {
                node.told_removed.notify_one();
                Err(gone(Refusal::Removed.to_string()))
            }
            Err(error) => {
                tracing::debug!("embedded store: {error}");
                Err(gone(error.to_string()))
            }
        }
    }

    fn time(&self, vote: &Vote<u64>) -> Time {
        let time = || {
            let node: Arc<Node> = self.node.upgrade()?;
            let applied = node.running().ok()?.machine.times().0;
            node.clock.lead((*vote.leader_id()).into(), applied)
        };
        time().unwrap_or_default()
    }

    fn remote<E>(&self, text: String) -> Failure<RaftError<u64, E>>
    where
        E: std::error::Error,
    {
        tracing::debug!("embedded store: {}: {text}", self.address);
        RPCError::RemoteError(RemoteError::new(self.target, RaftError::Fatal(Fatal::Stopped)))
    }
}

fn unexpected<E: std::error::Error>() -> Failure<E> {
    RPCError::Network(NetworkError::from(AnyError::error("an answer to another question")))
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<RaftError<u64>>> {
        let call = Call::Append { time: self.time(&request.vote), request };
        // An entry has to be flushed over there before there is an answer, and the limit of a heartbeat is short.
        let patience = option.hard_ttl().max(super::ELECTION.0);
        match self.call(call, patience).await? {
            Return::Append(result) => result.map_err(|text| self.remote(text)),
            Return::Client(_) | Return::Vote(_) | Return::MakeWay(_) | Return::Snapshot(_) => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<RaftError<u64>>> {
        match self.call(Call::Vote(request), option.hard_ttl()).await? {
            Return::Vote(result) => result.map_err(|text| self.remote(text)),
            Return::Client(_) | Return::Append(_) | Return::MakeWay(_) | Return::Snapshot(_) => Err(unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let call = Call::Snapshot { time: self.time(&vote), vote, meta: snapshot.meta, state: *snapshot.snapshot };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = self.call::<std::io::Error>(call, SNAPSHOT) => match answer {
                Ok(Return::Snapshot(Ok(response))) => Ok(response),
                Ok(Return::Snapshot(Err(text))) => Err(unreachable(text)),
                Ok(Return::Client(_) | Return::Append(_) | Return::Vote(_) | Return::MakeWay(_)) => Err(unreachable("an answer to another question".to_owned())),
                Err(error) => Err(unreachable(error.to_string())),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}

fn unreachable(text: String) -> StreamingError<TypeConfig, Fatal<u64>> {
    StreamingError::Unreachable(Unreachable::new(&std::io::Error::other(text)))
}
