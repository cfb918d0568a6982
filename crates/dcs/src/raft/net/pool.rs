//! Connections to other nodes, kept for the next question. Each carries one question at a time; one whose answer was not
//! waited for is closed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use patroni_core::units::in_words;
use tokio::time::{Instant, timeout_at};

use super::channel::{Channel, LARGE_FRAME, SMALL_FRAME, Secret};
use super::messages::{Call, Hello, Peer, Refusal, Return, Welcome};
use super::transport::Transport;

/// Connections to one address that wait for the next question.
const IDLE: usize = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing was asked.
    #[error("{0}")]
    NotSent(String),
    /// It may have been heard.
    #[error("{0}")]
    NoAnswer(String),
    /// The other side does not want to talk.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// The connections of one node.
pub(crate) struct Pool {
    transport: Arc<dyn Transport>,
    secret: Secret,
    idle: Mutex<BTreeMap<(String, u64), Vec<Channel>>>,
}

impl Pool {
    /// No connections yet.
    pub(crate) fn new(transport: Arc<dyn Transport>, secret: Secret) -> Self {
        Pool { transport, secret, idle: Mutex::default() }
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self, address: &str, peer: Peer) -> Result<Channel, CallError> {
        let not_sent = |error: io::Error| CallError::NotSent(format!("{address}: {error}"));
        let stream = self.transport.connect(address).await.map_err(not_sent)?;
        let mut channel = Channel::connected(stream, &self.secret).await.map_err(not_sent)?;
        channel.say(&Hello { peer }).await.map_err(not_sent)?;
        match channel.hear(SMALL_FRAME).await.map_err(not_sent)? {
            Welcome::Welcome => Ok(channel),
            Welcome::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Asks a question, and waits so long for the answer.
    pub(crate) async fn call(
        &self,
        address: &str,
        peer: Peer,
        call: &Call,
        patience: Duration,
    ) -> Result<Return, CallError> {
        let until = Instant::now() + patience;
        let late = |what: &str| format!("{address}: no {what} within {}", in_words(patience));
        let key = (address.to_owned(), kind(&peer));
        let waiting = self.idle().get_mut(&key).and_then(Vec::pop);
        let mut channel = match waiting {
            Some(channel) => channel,
            None => match timeout_at(until, self.connect(address, peer)).await {
                Ok(connected) => connected?,
                Err(_) => return Err(CallError::NotSent(late("connection"))),
            },
        };
        let talk = async {
            channel.say(call).await?;
            channel.hear(LARGE_FRAME).await
        };
        match timeout_at(until, talk).await {
            Ok(Ok(answer)) => {
                let mut idle = self.idle();
                let kept = idle.entry(key).or_default();
                if kept.len() < IDLE {
                    kept.push(channel);
                }
                Ok(answer)
            }
            Ok(Err(error)) => {
                // Others to the same address were most likely lost with it.
                self.idle().remove(&key);
                Err(CallError::NoAnswer(format!("{address}: {error}")))
            }
            Err(_) => Err(CallError::NoAnswer(late("answer"))),
        }
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<(String, u64), Vec<Channel>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections are kept apart by whom they are meant for.
fn kind(peer: &Peer) -> u64 {
    match peer {
        Peer::Client => 0,
        Peer::Member { to, .. } => to.0,
    }
}
