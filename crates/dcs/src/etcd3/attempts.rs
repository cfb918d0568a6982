//! One wrapper for all requests: tries endpoints in turn inside the time budget.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use etcd_client::{Client, Error};
use patroni_core::facts::Outcome;
use patroni_core::units::in_words;
use tokio::time::{Instant, timeout, timeout_at};

use super::endpoints::Endpoints;
use super::failure::{self, Fate};

/// How a request ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No attempt was carried out.
    NotDone(String),
    /// Some attempt may have been carried out.
    Unknown(String),
    /// The lease it names does not exist (any more).
    LeaseNotFound,
}

impl Failure {
    /// For a step before the write: the write itself was surely not done.
    pub(super) fn before_write(self) -> Failure {
        match self {
            Failure::NotDone(text) | Failure::Unknown(text) => Failure::NotDone(text),
            Failure::LeaseNotFound => Failure::LeaseNotFound,
        }
    }

    pub(super) fn outcome<T>(self) -> Outcome<T> {
        match self {
            Failure::NotDone(text) => Outcome::Failed(text),
            Failure::Unknown(text) => Outcome::Unknown(text),
            Failure::LeaseNotFound => Outcome::Failed("the lease disappeared from etcd, again and again".into()),
        }
    }
}

/// One attempt.
pub(super) struct Attempt {
    pub(super) client: Client,
    /// An earlier attempt of the same request may have been carried out.
    pub(super) repeated: bool,
}

/// The shortest time that an endpoint gets, whatever the budget.
const SHORTEST: Duration = Duration::from_secs(1);

impl Endpoints {
    /// Sends a request, again and again until there is an answer or the deadline. An endpoint that hangs is left
    /// early: the first round through the endpoints may take half of the budget.
    pub(super) async fn request<T, F, Fut>(&self, deadline: Instant, send: F) -> Result<T, Failure>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut uncertain = false;
        let mut last = String::from("there was no time left to ask");
        let mut tries = 0_usize;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let count = self.count();
            if left.is_zero() || (tries > 0 && left < Duration::from_millis(10)) {
                break;
            }
            let rounds = if tries < count { 2 } else { 1 };
            let share = left / u32::try_from(rounds * count - tries % count).unwrap_or(u32::MAX);
            let patience = share.max(SHORTEST).min(left);
            tries += 1;
            match self.attempt(patience, uncertain, &send).await {
                Ok(answer) => return Ok(answer),
                Err((Fate::LeaseNotFound, _)) => return Err(Failure::LeaseNotFound),
                Err((Fate::Refused, text)) => {
                    last = text;
                    break;
                }
                Err((fate, text)) => {
                    uncertain |= fate == Fate::Unknown;
                    tracing::debug!("request to etcd failed: {text}");
                    last = text;
                }
            }
            if tries.is_multiple_of(count) {
                let pause = jittered(Duration::from_millis(50 << (tries / count).min(4)));
                tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
            }
        }
        let text = format!("Etcd is not responding properly: {last}");
        Err(if uncertain { Failure::Unknown(text) } else { Failure::NotDone(text) })
    }

    async fn attempt<T, F, Fut>(&self, patience: Duration, repeated: bool, send: &F) -> Result<T, (Fate, String)>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let until = Instant::now() + patience;
        let generation = self.generation();
        let connection = match timeout_at(until, self.connection(patience)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(none)) => {
                self.failed(generation);
                return Err((if none.hopeless { Fate::Refused } else { Fate::NotSent }, none.text));
            }
            Err(_) => {
                self.failed(generation);
                return Err((Fate::NotSent, format!("no connection within {}", in_words(patience))));
            }
        };
        let (url, generation) = (connection.url, connection.generation);
        let left = until.saturating_duration_since(Instant::now());
        let (fate, text) = match timeout(left, send(Attempt { client: connection.client, repeated })).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => (failure::fate(&error), failure::text(&error)),
            Err(_) => (Fate::Unknown, format!("no answer within {}", in_words(patience))),
        };
        if matches!(fate, Fate::NotSent | Fate::Unknown) {
            self.failed(generation);
        }
        Err((fate, format!("{url}: {text}")))
    }
}

/// A random time from half of the given one to all of it.
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 1000;
    pause / 2 + pause.mul_f64(random as f64 / 2000.0)
}
