//! Which request goes where.
//!
//! As in Patroni the first part of the path and the method choose the handler; a GET that none is for is a health
//! check, another method that none is for is not implemented.

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use hyper::{Method, Request};
use patroni_core::JsonMap;
use patroni_core::server::{Role, State};
use patroni_core::view::View;
use serde_json::Value;

use super::access::Client;
use super::options::Compatibility;
use super::query::Query;
use super::reply::Reply;
use super::server::Live;
use super::status::{Status, asks_server};
use super::switchover::Action;
use super::{ApiState, BODY_LIMIT, MAX_BODY_BYTES, Signal};
use super::{cluster, config, health, metrics, restart, switchover};

/// Answers a request.
pub(crate) async fn respond(state: &ApiState, live: &Live, client: Client, request: Request<Incoming>) -> Reply {
    let path = format!("/{}", request.uri().path().trim_start_matches('/'));
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let name = path[1..].split('/').next().unwrap_or_default().to_owned();
    let method = request.method().clone();
    if method == Method::GET || method == Method::HEAD || method == Method::OPTIONS {
        return read(state, live, &method, &path, &name, &query).await;
    }
    let Some(operation) = Operation::of(&method, &name) else {
        return Reply::error_saying(501, &format!("Unsupported method ('{method}')"));
    };
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes().to_vec());
    let view = state.view.borrow().clone();
    let members = view.cluster.as_deref();
    let count_members = operation != Operation::Failsafe;
    if let Err(refusal) = live.access.check(client, authorization.as_deref(), members, count_members).await {
        return refusal;
    }
    if operation == Operation::Failsafe && !view.settings.failsafe_mode {
        return Reply::error(502);
    }
    match operation.body() {
        None => write(state, &view, operation, JsonMap::new()).await,
        Some(required) => match json_body(request, required).await {
            Ok(body) => write(state, &view, operation, body).await,
            Err(refusal) => refusal,
        },
    }
}

/// Requests that change nothing. Anybody may make them.
async fn read(state: &ApiState, live: &Live, method: &Method, path: &str, name: &str, query: &Query) -> Reply {
    let view = state.view.borrow().clone();
    let old = live.options.compatibility == Compatibility::Two;
    match name {
        "liveness" => {
            return Reply::bare(if old || health::is_alive(&view, state.now()) { 200 } else { 503 });
        }
        "readiness" => return Reply::bare(if is_ready(state, &view, query, old).await { 200 } else { 503 }),
        _ => {}
    }
    if method == Method::GET {
        match name {
            "patroni" => return document(state, &view, 200, old).await,
            "cluster" => return topology(state, &view, old).await,
            "history" => return history(state, &view).await,
            "config" => return config::get(state, status(state, &view, None).cluster()).await,
            "metrics" => return metrics_page(state, &view).await,
            "failsafe" => return failsafe(&view),
            _ => {}
        }
    }
    let running = ask(state, &view).await;
    let status = status(state, &view, running.as_deref());
    let code = if health::passes(path, query, &status) { 200 } else { 503 };
    if method == Method::GET { reply_with(state, &status, code, old) } else { Reply::bare(code) }
}

async fn ask(state: &ApiState, view: &View) -> Option<std::sync::Arc<patroni_core::server::Running>> {
    if !asks_server(view) {
        return None;
    }
    match state.probe.ask().await {
        Ok(running) => Some(running),
        Err(reason) => {
            if view.state == State::Running {
                tracing::debug!(target: "patroni::api", "get_postgresql_status: {reason}");
            }
            None
        }
    }
}

fn status<'a>(state: &ApiState, view: &'a View, running: Option<&'a patroni_core::server::Running>) -> Status<'a> {
    Status::new(view, running, state.now())
}

async fn document(state: &ApiState, view: &View, code: u16, old: bool) -> Reply {
    let running = ask(state, view).await;
    reply_with(state, &status(state, view, running.as_deref()), code, old)
}

fn reply_with(state: &ApiState, status: &Status<'_>, code: u16, old: bool) -> Reply {
    let mut document = status.document(state.log_queue());
    if old && let Value::Object(map) = &mut document {
        as_of_patroni_2(map);
    }
    Reply::json(code, &document)
}

/// The names and fields that Patroni 2 had.
fn as_of_patroni_2(document: &mut JsonMap) {
    if document.get("role").and_then(Value::as_str) == Some("primary") {
        document.insert("role".to_owned(), "master".into());
    }
    let unlocked = document.contains_key("cluster_unlocked");
    document.insert("cluster_unlocked".to_owned(), unlocked.into());
}

async fn is_ready(state: &ApiState, view: &View, query: &Query, old: bool) -> bool {
    let running = if view.is_leader(state.now().boot) { None } else { ask(state, view).await };
    let status = status(state, view, running.as_deref());
    if old {
        return view.is_leader(status.now.boot) || view.state == State::Running;
    }
    match health::readiness(query, &status) {
        None => true,
        Some(reason) => {
            tracing::debug!(target: "patroni::api", "Readiness check failure: {reason}");
            false
        }
    }
}

async fn topology(state: &ApiState, view: &View, old: bool) -> Reply {
    match state.load().await {
        Ok(snapshot) => {
            let mut document = cluster::topology(&snapshot, &view.settings.scope);
            if old {
                cluster::as_of_patroni_2(&mut document);
            }
            Reply::json(200, &document)
        }
        Err(reply) => reply,
    }
}

async fn history(state: &ApiState, view: &View) -> Reply {
    if let Some(snapshot) = status(state, view, None).cluster() {
        return Reply::json(200, &cluster::history(snapshot));
    }
    match state.load().await {
        Ok(snapshot) => Reply::json(200, &cluster::history(&snapshot)),
        Err(reply) => reply,
    }
}

async fn metrics_page(state: &ApiState, view: &View) -> Reply {
    let running = ask(state, view).await;
    let page = metrics::page(&status(state, view, running.as_deref()));
    Reply { content_type: Some("text/plain"), ..Reply::text(200, page) }
}

fn failsafe(view: &View) -> Reply {
    let members = view.cluster.as_ref().and_then(|cluster| cluster.failsafe.as_ref());
    match members.filter(|_| view.settings.failsafe_mode) {
        None => Reply::error(502),
        Some(members) => {
            let entries = members.iter().map(|(name, url)| (name.to_string(), Value::from(url.as_str())));
            Reply::json(200, &Value::Object(entries.collect()))
        }
    }
}

/// Requests that change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    PatchConfig,
    PutConfig,
    Reload,
    Restart,
    DeleteRestart,
    Reinitialize,
    Move(Action),
    DeleteSwitchover,
    Failsafe,
    Sigterm,
    Mpp,
}

impl Operation {
    fn of(method: &Method, name: &str) -> Option<Self> {
        Some(match (method.as_str(), name) {
            ("PATCH", "config") => Operation::PatchConfig,
            ("PUT", "config") => Operation::PutConfig,
            ("POST", "reload") => Operation::Reload,
            ("POST", "restart") => Operation::Restart,
            ("DELETE", "restart") => Operation::DeleteRestart,
            ("POST", "reinitialize") => Operation::Reinitialize,
            ("POST", "switchover") => Operation::Move(Action::Switchover),
            ("POST", "failover") => Operation::Move(Action::Failover),
            ("DELETE", "switchover") => Operation::DeleteSwitchover,
            ("POST", "failsafe") => Operation::Failsafe,
            ("POST", "sigterm") => Operation::Sigterm,
            ("POST", "citus" | "mpp") => Operation::Mpp,
            _ => return None,
        })
    }

    /// Whether it has a body, and whether it has to have one.
    fn body(self) -> Option<bool> {
        match self {
            Operation::PatchConfig
            | Operation::PutConfig
            | Operation::Move(_)
            | Operation::Failsafe
            | Operation::Mpp => Some(true),
            Operation::Restart | Operation::Reinitialize => Some(false),
            Operation::Reload | Operation::DeleteRestart | Operation::DeleteSwitchover | Operation::Sigterm => None,
        }
    }
}

async fn write(state: &ApiState, view: &View, operation: Operation, body: JsonMap) -> Reply {
    match operation {
        Operation::PatchConfig => config::patch(state, &body).await,
        Operation::PutConfig => config::put(state, body).await,
        Operation::Restart => restart::post(state, &body).await,
        Operation::DeleteRestart => restart::delete(state).await,
        Operation::Reinitialize => restart::reinitialize(state, &body).await,
        Operation::Move(action) => switchover::post(state, action, &body).await,
        Operation::DeleteSwitchover => switchover::delete(state).await,
        Operation::Failsafe => accept_failsafe(state, view, body),
        Operation::Reload if state.signal(Signal::Reload) => Reply::text(202, "reload scheduled"),
        Operation::Reload => Reply::text(503, "busy: the reload could not be scheduled"),
        // It is for tests on Windows: Patroni says so everywhere and does it only there.
        Operation::Sigterm => Reply::text(202, "shutdown scheduled"),
        // Nothing to tell a coordinator without a distributed database.
        Operation::Mpp => Reply::text(200, "OK"),
    }
}

/// POST `/failsafe`: the leader, which cannot reach the store, asks whether it may go on.
fn accept_failsafe(state: &ApiState, view: &View, body: JsonMap) -> Reply {
    if view.state == State::Running && view.role == Role::Primary {
        return Reply::text(500, "Running as a leader");
    }
    if !state.signal(Signal::Failsafe(body)) {
        return Reply::text(500, "busy: the message could not be passed on");
    }
    let accepted = Reply::text(200, "Accepted");
    match &view.server.postmaster {
        patroni_core::server::Postmaster::Running(running) => {
            accepted.with_header(HeaderName::from_static("lsn"), &running.wal.position().0.to_string())
        }
        _ => accepted,
    }
}

/// The JSON object in the body. `required`: there has to be one, and not an empty one.
async fn json_body(request: Request<Incoming>, required: bool) -> Result<JsonMap, Reply> {
    let headers = request.headers();
    if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
        return if required { Err(Reply::error(411)) } else { Ok(JsonMap::new()) };
    }
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let bytes = match tokio::time::timeout(BODY_LIMIT, body).await {
        Err(_) => return Err(Reply::error(408)),
        Ok(Err(e)) if e.is::<LengthLimitError>() => return Err(Reply::error(413)),
        Ok(Err(_)) => return Err(Reply::error(400)),
        Ok(Ok(body)) => body.to_bytes(),
    };
    if bytes.is_empty() && !required {
        return Ok(JsonMap::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) if !map.is_empty() || !required => Ok(map),
        Ok(_) => Err(Reply::error(400)),
        Err(e) => {
            tracing::error!(target: "patroni::api", "Bad request: {e}");
            Err(Reply::error(400))
        }
    }
}
