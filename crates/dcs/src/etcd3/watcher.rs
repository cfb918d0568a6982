//! One task per backend that watches the keys of the cluster and counts the changes that matter.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::units::in_words;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Streaming;

use super::Shared;
use super::client::Client;
use super::client::messages::{Event, WatchResponse};
use crate::attempts::jittered;
use crate::noticed::Filter;

/// How long it may take to set up a watch.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The members of etcd are asked for once per `loop_wait`, but not more often than this.
const SHORTEST_MEMBERS_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub(super) async fn watch_changes(shared: Arc<Shared>, changes: watch::Sender<u64>) {
    let mut pause = Duration::from_millis(100);
    let mut filter = Filter::new(&shared.member_key);
    loop {
        let mut generations = shared.endpoints.generations();
        let generation = *generations.borrow_and_update();
        if let Some((stream, client)) = open(&shared, generation).await {
            pause = Duration::from_millis(100);
            // No revision was asked for, so compaction does not matter; what happened in between was missed.
            filter.forget();
            changes.send_modify(|count| *count += 1);
            tokio::select! {
                () = follow(&shared, stream, &mut filter, &changes) => shared.endpoints.failed(generation),
                // Requests gave this connection up: it would only be noticed here much later.
                _ = generations.changed() => {}
                () = learn_members(&shared, client) => {}
            }
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn open(shared: &Shared, generation: u64) -> Option<(Streaming<WatchResponse>, Client)> {
    let opening = async {
        let connection = shared.endpoints.connection(PATIENCE).await.map_err(|none| none.text)?;
        if connection.generation != generation {
            return Err("the connection was given up meanwhile".to_owned());
        }
        let mut stream = connection.client.watch_prefix(&shared.prefix).await.map_err(|e| e.to_string())?;
        let first = stream.message().await.map_err(|e| e.to_string())?;
        match first {
            Some(response) if response.canceled => Err(format!("the watch was refused: {}", response.cancel_reason)),
            Some(_) => Ok((stream, connection.client)),
            None => Err("the watch was refused".to_owned()),
        }
    };
    let problem = match timeout(PATIENCE, opening).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(problem)) => problem,
        Err(_) => format!("no answer within {}", in_words(PATIENCE)),
    };
    tracing::debug!("cannot watch {}: {problem}", shared.prefix);
    shared.endpoints.failed(generation);
    None
}

/// Asks for the members of etcd, now and from time to time: they may all be replaced while the watch goes on. Ends
/// only with the watch.
async fn learn_members(shared: &Shared, client: Client) {
    loop {
        match timeout(PATIENCE, client.members()).await {
            Ok(Ok(members)) => {
                // A learner answers no requests of clients.
                let voters = members.into_iter().filter(|member| !member.is_learner);
                shared.endpoints.learn(voters.flat_map(|member| member.client_urls));
            }
            Ok(Err(error)) => tracing::debug!("the members of etcd are not known: {error}"),
            Err(_) => tracing::debug!("the members of etcd are not known: no answer within {}", in_words(PATIENCE)),
        }
        tokio::time::sleep(shared.timing().loop_wait.max(SHORTEST_MEMBERS_INTERVAL)).await;
    }
}

async fn follow(
    shared: &Shared,
    mut stream: Streaming<WatchResponse>,
    filter: &mut Filter,
    changes: &watch::Sender<u64>,
) {
    loop {
        match stream.message().await {
            Ok(Some(response)) if !response.canceled => {
                // Every event has to be looked at, because the filter remembers them.
                let matter = response.events.iter().filter(|event| matters(filter, &shared.prefix, event)).count();
                if matter > 0 {
                    changes.send_modify(|count| *count += 1);
                }
            }
            Ok(Some(response)) => {
                tracing::info!("Watch request canceled: {}", response.cancel_reason);
                return;
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!("watch failed: {error}");
                return;
            }
        }
    }
}

fn matters(filter: &mut Filter, prefix: &str, event: &Event) -> bool {
    let Some(kv) = &event.kv else { return true };
    let value = (!event.is_deletion()).then_some(kv.value.as_slice());
    filter.matters(prefix, &String::from_utf8_lossy(&kv.key), value)
}
