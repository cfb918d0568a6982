//! The thread that a node runs on: elections and renewals do not wait for the agent's work, nor for PostgreSQL's.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::units::in_words;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

use super::{LocalCall, Node};
use crate::raft::net::{Bound, Tcp, TransportError};
use crate::raft::options::RaftOptions;
use crate::raft::protocol::Answer;
use crate::raft::state::Event;
use crate::raft::storage::Files;
use crate::raft::storage::records::FileError;

/// Questions from inside the process that may wait.
const QUEUE: usize = 256;
/// The thread is watched this often, and it is told when it was held up for longer than [`LATE`].
const WATCHING: Duration = Duration::from_millis(250);
const LATE: Duration = Duration::from_millis(500);
/// The priority of the thread, where the system allows it.
const NICE: i32 = -10;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It has no address of its own.
    #[error("raft.self_addr is missing: without it this node is no member of the embedded store")]
    NoAddress,
    /// It cannot be reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Its files cannot be used.
    #[error("the embedded store cannot use its files: {0}; see raft.data_dir")]
    Files(String),
    /// The system refuses a thread.
    #[error("the embedded store cannot start its thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl From<FileError> for StartError {
    fn from(error: FileError) -> Self {
        StartError::Files(error.to_string())
    }
}

/// A node of the store in this process. It ends when this is dropped.
pub struct RaftNode {
    address: String,
    requests: mpsc::Sender<LocalCall>,
    events: broadcast::Sender<Arc<Vec<Event>>>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode").field("address", &self.address).finish_non_exhaustive()
    }
}

impl RaftNode {
    /// Starts a node. It listens when this returns; whether it has a leader, or a store at all, shows later.
    ///
    /// # Errors
    /// Its address or its files cannot be used.
    pub fn start(options: RaftOptions) -> Result<Arc<Self>, StartError> {
        let address = options.self_addr.clone().ok_or(StartError::NoAddress)?;
        let files = Arc::new(Files::claim(&options.data_dir, &address)?);
        let transport = Arc::new(Tcp::new(&options)?);
        let node = Node::new(options.clone(), address.clone(), transport);
        let events = node.events.clone();
        let bind = options.bind_addr.clone().unwrap_or_else(|| address.clone());
        let bound = Bound::new(&options, &bind)?;
        // After all that can fail: it must not be dropped where the agent calls this, on a runtime of its own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
        let (requests, incoming) = mpsc::channel(QUEUE);
        let stop = watch::Sender::new(false);
        let mut stopping = stop.subscribe();
        let thread = std::thread::Builder::new().name("raft".to_owned()).spawn(move || {
            raise_priority();
            runtime.block_on(async {
                let listening = match bound.listen() {
                    Ok(listening) => listening,
                    Err(error) => return tracing::error!("embedded store: its socket cannot be used: {error}"),
                };
                let serving = tokio::spawn(Arc::clone(&node).serve(listening));
                tokio::select! {
                    () = Arc::clone(&node).run(files) => {}
                    () = answer_inside(node, incoming) => {}
                    () = watch_thread() => {}
                    _ = stopping.wait_for(|stop| *stop) => {}
                }
                serving.abort();
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
        Ok(Arc::new(RaftNode { address, requests, events, stop, thread: Some(thread) }))
    }

    /// The address under which the other members know this one.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn requests(&self) -> &mpsc::Sender<LocalCall> {
        &self.requests
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Arc<Vec<Event>>> {
        self.events.subscribe()
    }
}

impl Drop for RaftNode {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It ends within moments; a panic in it was told already.
            let _ = thread.join();
        }
    }
}

/// Answers questions from inside the process.
pub(crate) async fn answer_inside(node: Arc<Node>, mut incoming: mpsc::Receiver<LocalCall>) {
    while let Some(LocalCall { request, budget, answer }) = incoming.recv().await {
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let text = node.answer(request, budget, false).await;
            // Nobody may be waiting any more.
            let _: Result<(), Answer> = answer.send(text);
        });
    }
    std::future::pending().await
}

/// Tells when the thread is held up.
async fn watch_thread() {
    loop {
        let began = Instant::now();
        tokio::time::sleep(WATCHING).await;
        let late = began.elapsed().saturating_sub(WATCHING);
        if late >= LATE {
            tracing::warn!(
                "embedded store: its thread was held up for {}: the machine is busy, elections may follow",
                in_words(late)
            );
        }
    }
}

fn raise_priority() {
    // On Linux this concerns the calling thread alone.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("embedded store: its thread keeps the usual priority: {error}");
    }
}
