//! The REST API.
//!
//! A handler owns three things: the latest published view, a status probe, and a bounded sender of requests. It never
//! touches PostgreSQL or the loop's state. Switchover and configuration are compare-and-swap writes to the store.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::Cluster;
use patroni_core::request::{Answer, Request};
use patroni_core::time::{Moment, Now};
use patroni_core::units::in_words;
use patroni_core::view::View;
use patroni_dcs::Dcs;
use patroni_http::HttpClient;
use patroni_tick::agreement::Agreement;
use tokio::sync::{mpsc, oneshot, watch};

use crate::log::QueueState;
use crate::metrics::Metrics;

mod access;
mod cluster;
mod config;
mod connections;
mod endpoints;
mod exposition;
#[cfg(test)]
mod health_tests;
mod metrics;
mod openapi;
mod options;
mod patroni2;
mod probe;
mod reply;
mod restart;
mod route;
#[cfg(test)]
mod sample;
mod schedule;
mod server;
mod status;
mod switchover;
#[cfg(test)]
mod tests;
mod write_limit;

pub use options::{ApiOptions, Compatibility, ServerTokens};
pub use probe::{PATIENCE, QUERY_LIMIT, StatusProbe};
pub use server::{Api, ApiError, serve};

/// The largest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });

/// How long the store may take to be read for an answer.
const LOAD_LIMIT: Duration = Duration::from_secs(10);

/// A request to the loop, and where its answer goes. Without a reader the answer is dropped: the request stands.
#[derive(Debug)]
pub struct Envelope {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Something the loop should know, without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The store was changed for it: look now.
    Wake,
    /// POST `/reload`: as SIGHUP.
    Reload,
}

/// What the API is made of.
#[derive(Clone)]
pub struct ApiParts {
    /// The latest published view.
    pub view: watch::Receiver<Arc<View>>,
    /// Asks PostgreSQL.
    pub probe: Arc<dyn StatusProbe>,
    /// Since when a job has been working on PostgreSQL.
    pub working: watch::Receiver<Option<Moment>>,
    /// To the loop, with an answer.
    pub requests: mpsc::Sender<Envelope>,
    /// To the loop, without one.
    pub signals: mpsc::Sender<Signal>,
    /// What this node agrees to in failsafe mode.
    pub agreement: Arc<Agreement>,
    /// The store.
    pub dcs: Arc<dyn Dcs>,
    /// The client with which peers are asked.
    pub http: watch::Receiver<HttpClient>,
    /// What time it is.
    pub clock: Arc<dyn Fn() -> Now + Send + Sync>,
    /// How the log's queue is.
    pub log: Arc<dyn Fn() -> QueueState + Send + Sync>,
    /// What the loop measured.
    pub metrics: Arc<Metrics>,
}

/// What handlers own.
struct ApiState {
    view: watch::Receiver<Arc<View>>,
    probe: probe::SharedProbe,
    working: watch::Receiver<Option<Moment>>,
    requests: mpsc::Sender<Envelope>,
    signals: mpsc::Sender<Signal>,
    agreement: Arc<Agreement>,
    dcs: Arc<dyn Dcs>,
    http: watch::Receiver<HttpClient>,
    clock: Arc<dyn Fn() -> Now + Send + Sync>,
    log: Arc<dyn Fn() -> QueueState + Send + Sync>,
    metrics: Arc<Metrics>,
}

impl ApiState {
    fn new(parts: ApiParts) -> Self {
        ApiState {
            view: parts.view,
            probe: probe::SharedProbe::new(parts.probe),
            working: parts.working,
            requests: parts.requests,
            signals: parts.signals,
            agreement: parts.agreement,
            dcs: parts.dcs,
            http: parts.http,
            clock: parts.clock,
            log: parts.log,
            metrics: parts.metrics,
        }
    }

    fn now(&self) -> Now {
        (self.clock)()
    }

    fn log_queue(&self) -> QueueState {
        (self.log)()
    }

    /// Tells the loop; false if it has too much to do to be told. A wake that is lost is one of many.
    fn signal(&self, signal: Signal) -> bool {
        self.signals.try_send(signal).is_ok()
    }

    /// Reads the store now.
    async fn load(&self) -> Result<Cluster, reply::Reply> {
        let reason = match tokio::time::timeout(LOAD_LIMIT, self.dcs.load()).await {
            Ok(Ok(cluster)) => return Ok(cluster),
            Ok(Err(why)) => why.to_string(),
            Err(_) => format!("no answer within {}", in_words(LOAD_LIMIT)),
        };
        tracing::warn!(target: "patroni::api", "The store could not be read for a request: {reason}");
        Err(reply::Reply::error_saying(503, &format!("DCS is not accessible: {reason}")))
    }

    /// Hands a request to the loop and waits for its answer. The flag: it was one to schedule something.
    async fn request(&self, request: Request, limit: Duration) -> Result<(bool, Answer), reply::Reply> {
        let scheduling = matches!(request, Request::ScheduleRestart(_));
        let (reply, answer) = oneshot::channel();
        if self.requests.try_send(Envelope { request, reply }).is_err() {
            return Err(reply::Reply::text(503, "too many requests are waiting already"));
        }
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok((scheduling, answer)),
            Ok(Err(_)) => Err(reply::Reply::text(503, "Patroni is shutting down")),
            Err(_) => Err(reply::Reply::text(503, format!("no result within {}; it may still come", in_words(limit)))),
        }
    }
}
