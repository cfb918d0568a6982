//! Answers to whoever connects. Nothing here grows without a limit: connections, bytes before the proofs, time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::units::in_words;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::refusals::Refusals;
use super::{Condition, Node, lock};
use crate::raft::net::{
    Call, Channel, Greeted, Hello, Incoming, LARGE_FRAME, Peer, Refusal, Return, SMALL_FRAME, Welcome,
};
use crate::raft::protocol::{Answer, Request};
use crate::raft::state::Time;
use crate::raft::storage::Identity;
use crate::raft::types::Reign;

/// Connections that have not said yet who they are. One more ends the oldest: members need a moment, garbage waits.
const UNKNOWN: usize = 64;
/// Connections in all.
const KNOWN: usize = 512;
/// A leader that was silent for longer, and leads still, is told: three of its messages were late or lost.
const SILENT: Duration = Duration::from_secs(1);
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(60);

impl Node {
    /// Answers to all who connect, until the future is dropped.
    pub(crate) async fn serve(self: Arc<Self>, mut incoming: impl Incoming) {
        let mut tasks = JoinSet::new();
        let mut unknown: VecDeque<AbortHandle> = VecDeque::new();
        let mut refusals = Refusals::default();
        let places = Arc::new(Semaphore::new(KNOWN));
        loop {
            tokio::select! {
                connection = incoming.next() => match connection {
                    Ok(connection) => {
                        unknown.retain(|task| !task.is_finished());
                        if unknown.len() >= UNKNOWN && let Some(oldest) = unknown.pop_front() {
                            oldest.abort();
                        }
                        let (node, from) = (Arc::clone(&self), connection.from());
                        unknown.push_back(tasks.spawn(async move { (from, node.greet(connection).await) }));
                    }
                    Err(error) => {
                        tracing::warn!("embedded store: cannot accept connections: {error}");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                },
                Some(greeted) = tasks.join_next() => match greeted {
                    Ok((_, Ok(channel))) => {
                        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                        let node = Arc::clone(&self);
                        tokio::spawn(async move {
                            let _place = place;
                            if let Err(error) = node.talk(channel).await {
                                tracing::debug!("embedded store: a connection ended: {error}");
                            }
                        });
                    }
                    Ok((Some(from), Err(error))) if is_refusal(&error) => {
                        for line in refusals.lines(from, &error.to_string(), Instant::now()) {
                            tracing::warn!("{line}");
                        }
                    }
                    Ok((_, Err(_))) | Err(_) => {}
                },
            }
        }
    }

    /// Finds out who connected.
    async fn greet(&self, connection: Box<dyn Greeted>) -> io::Result<Channel> {
        let stream = connection.greet().await?;
        let mut channel = Channel::accepted(stream, &self.secret).await?;
        let hello = timeout(Duration::from_secs(5), channel.hear::<Hello>(SMALL_FRAME)).await;
        let hello = hello.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let welcome = self.admit(&hello.peer).await;
        channel.say(&welcome).await?;
        match welcome {
            Welcome::Welcome => Ok(channel),
            Welcome::Refused(refusal) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, refusal)),
        }
    }

    async fn admit(&self, peer: &Peer) -> Welcome {
        let Peer::Member { cluster, from, from_address, to } = peer else { return Welcome::Welcome };
        let condition = lock(&self.condition).clone();
        let running = match condition {
            Condition::Running(running) => running,
            Condition::Removed(_) => return Welcome::Refused(Refusal::OtherMember),
            Condition::Broken(_) => return Welcome::Refused(Refusal::Broken),
        };
        let identity = running.log.identity();
        if identity.cluster.is_some_and(|own| own != *cluster) {
            return Welcome::Refused(Refusal::OtherCluster);
        }
        if *to != identity.member {
            if identity.cluster.is_none() {
                let mut expected = lock(&self.expected_by);
                if expected.len() < 16 {
                    expected.insert(from_address.clone());
                }
            }
            return Welcome::Refused(Refusal::OtherMember);
        }
        if identity.cluster.is_none() {
            let _changing = self.changing.lock().await;
            let identity = running.log.identity();
            if identity.cluster.is_some_and(|own| own != *cluster) {
                return Welcome::Refused(Refusal::OtherCluster);
            }
            let adopted = Identity { cluster: Some(*cluster), ..identity };
            if let Err(error) = running.log.set_identity(adopted).await {
                tracing::error!("embedded store: {error}");
                return Welcome::Refused(Refusal::Broken);
            }
        }
        let known = running.raft.server_metrics().borrow().membership_config.membership().get_node(&from.0).is_some();
        if running.reign().is_some() && !known {
            return Welcome::Refused(Refusal::Removed);
        }
        Welcome::Welcome
    }

    async fn talk(self: Arc<Self>, mut channel: Channel) -> io::Result<()> {
        loop {
            let call = timeout(IDLE, channel.hear::<Call>(LARGE_FRAME)).await;
            let call = call.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if let Call::Client { request: Request::Watch { prefix }, .. } = call {
                return self.tell_changes(channel, &prefix).await;
            }
            channel.say(&self.reply(call).await).await?;
        }
    }

    async fn reply(&self, call: Call) -> Return {
        match call {
            Call::Client { request, budget_ms, forwarded } => {
                let budget = Duration::from_millis(budget_ms).min(Duration::from_secs(60));
                Return::Client(self.answer(request, budget, forwarded).await)
            }
            Call::Append { time, request } => Return::Append(match self.running() {
                Err(why) => Err(why),
                Ok(running) => {
                    let reign = (*request.vote.leader_id()).into();
                    let response = running.raft.append_entries(request).await;
                    if response
                        .as_ref()
                        .is_ok_and(|response| !matches!(response, openraft::raft::AppendEntriesResponse::HigherVote(_)))
                    {
                        self.hear(reign, time);
                    }
                    response.map_err(|error| error.to_string())
                }
            }),
            Call::Vote(request) => Return::Vote(match self.running() {
                Err(why) => Err(why),
                Ok(running) => running.raft.vote(request).await.map_err(|error| error.to_string()),
            }),
            Call::MakeWay(vote) => Return::MakeWay(self.give_way(vote).await),
            Call::Snapshot { time, vote, meta, state } => Return::Snapshot(match self.running() {
                Err(why) => Err(why),
                Ok(running) => {
                    let snapshot = openraft::Snapshot { meta, snapshot: Box::new(state) };
                    let response = running.raft.install_full_snapshot(vote, snapshot).await;
                    if response.as_ref().is_ok_and(|response| response.vote == vote) {
                        self.hear((*vote.leader_id()).into(), time);
                    }
                    response.map_err(|error| error.to_string())
                }
            }),
        }
    }

    /// The leader was heard of.
    fn hear(&self, reign: Reign, time: Time) {
        if let Some(silence) = self.clock.hear(reign, time).filter(|silence| *silence >= SILENT) {
            tracing::warn!(
                "embedded store: its leader was not heard of for {}: the network, or a machine, is busy",
                in_words(silence)
            );
        }
    }

    /// Tells a client of changes until it goes away.
    async fn tell_changes(&self, mut channel: Channel, prefix: &str) -> io::Result<()> {
        let mut events = self.events();
        channel.say(&Return::Client(Answer::Events(Some(Vec::new())))).await?;
        loop {
            let told = match timeout(IDLE / 2, events.recv()).await {
                Ok(Ok(events)) => Some(events.iter().filter(|event| event.key.starts_with(prefix)).cloned().collect()),
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => None,
                Ok(Err(broadcast::error::RecvError::Closed)) => return Ok(()),
                // An empty one tells both sides that the other is there.
                Err(_) => Some(Vec::new()),
            };
            channel.say(&Return::Client(Answer::Events(told))).await?;
        }
    }
}

/// It does not know the secret, has no certificate, or speaks something else; it did not merely go away.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidData)
}
