//! Requests through the connection in use, tried on endpoints in turn.

use std::future::Future;
use std::time::Duration;

use patroni_core::units::in_words;
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{Client, Error};
use super::endpoints::Endpoints;
use super::failure;
use crate::attempts::{Failure, Fate, persist};

/// One attempt.
pub(super) struct Attempt {
    pub(super) client: Client,
    /// An earlier attempt of the same request may have been carried out.
    pub(super) repeated: bool,
}

impl Endpoints {
    /// Sends a request, again and again until there is an answer or the deadline.
    pub(super) async fn request<T, F, Fut>(&self, deadline: Instant, send: F) -> Result<T, Failure>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let attempt = |patience, repeated| self.attempt(patience, repeated, &send);
        persist("Etcd", deadline, || self.count(), attempt).await
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
            Ok(Err(error)) => (failure::fate(&error), error.to_string()),
            Err(_) => (Fate::Unknown, format!("no answer within {}", in_words(patience))),
        };
        if matches!(fate, Fate::NotSent | Fate::Unknown) {
            self.failed(generation);
        }
        Err((fate, format!("{url}: {text}")))
    }
}
