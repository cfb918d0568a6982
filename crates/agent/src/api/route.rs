//! Which request goes where, and what it costs: reading is open to all and asks PostgreSQL at most once, changes are
//! checked first.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use hyper::{Method, Request};
use patroni_core::JsonMap;
use patroni_core::cluster::Member;
use patroni_core::health::{Query, Status, checks};
use patroni_core::lsn::Lsn;
use patroni_core::server::Postmaster;
use patroni_core::view::View;
use serde_json::{Value, json};

use super::access::Client;
use super::connections::Place;
use super::endpoints::{self, Body, Operation, Purpose};
use super::exposition::Form;
use super::options::Compatibility;
use super::probe::{PATIENCE, PATIENCE_OF_LEASE};
use super::reply::Reply;
use super::server::Live;
use super::{ApiState, BODY_LIMIT, MAX_BODY_BYTES, Signal};
use super::{cluster, config, metrics, openapi, patroni2, restart, status, switchover};

/// Answers a request.
pub(crate) async fn respond(
    state: &ApiState,
    live: &Live,
    client: Client,
    request: Request<Incoming>,
    place: &Place,
) -> Reply {
    let path = format!("/{}", request.uri().path().trim_start_matches('/'));
    let name = path[1..].split('/').next().unwrap_or_default();
    let method = request.method().clone();
    let old = live.options.compatibility == Compatibility::Two;
    let Some(purpose) = endpoints::purpose(&method, name) else {
        return Reply::error_saying(501, &format!("Unsupported method ('{method}')"));
    };
    let Purpose::Change(operation) = purpose else {
        place.serve();
        let mut query = Query::parse(request.uri().query().unwrap_or_default());
        if old {
            patroni2::query(&mut query);
        }
        let form = Form::wanted(request.headers());
        let reading = Reading { state, view: state.view.borrow().clone(), query, form, old };
        return reading.answer(purpose, &method, &path).await;
    };
    // Boxed, or every check would be as large as a change.
    let body = Box::pin(permitted_body(state, live, client, request, operation)).await;
    place.serve();
    match body {
        Ok(body) => {
            let view = state.view.borrow().clone();
            Box::pin(change(state, &view, operation, body, old)).await
        }
        Err(refusal) => refusal,
    }
}

/// The body of a request that changes something, once it is known that who asks may ask for it.
async fn permitted_body(
    state: &ApiState,
    live: &Live,
    client: Client,
    request: Request<Incoming>,
    operation: Operation,
) -> Result<JsonMap, Reply> {
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes().to_vec());
    let view = state.view.borrow().clone();
    let members = view.cluster.as_deref();
    let count_members = operation != Operation::Failsafe;
    live.access.check(client, authorization.as_deref(), members, count_members).await?;
    if operation == Operation::Failsafe && !view.settings.failsafe_mode {
        return Err(Reply::error(502));
    }
    match operation.body() {
        Body::None => Ok(JsonMap::new()),
        Body::Optional => json_body(request, false).await,
        Body::Required => json_body(request, true).await,
    }
}

/// A request that changes nothing. Anybody may make it.
struct Reading<'a> {
    state: &'a ApiState,
    view: Arc<View>,
    query: Query,
    /// The form that metrics are asked for in.
    form: Form,
    /// The answer has the form of Patroni 2.
    old: bool,
}

impl Reading<'_> {
    async fn answer(&self, purpose: Purpose, method: &Method, path: &str) -> Reply {
        match purpose {
            Purpose::Liveness => Reply::bare(if self.old || self.is_alive() { 200 } else { 503 }),
            Purpose::Readiness => Reply::bare(if self.is_ready().await { 200 } else { 503 }),
            Purpose::Status => {
                let server = self.ask(PATIENCE).await;
                self.document(&self.status(&server), 200)
            }
            Purpose::Topology => self.topology().await,
            Purpose::History => self.history().await,
            Purpose::Config => config::get(self.state, self.known().cluster()).await,
            Purpose::Metrics => self.metrics().await,
            Purpose::FailsafeMembers => failsafe_members(&self.view),
            Purpose::KnownMembers => known_members(&self.view),
            Purpose::Upstream => self.upstream().await,
            Purpose::Description => {
                Reply { content_type: Some("application/json"), ..Reply::text(200, openapi::text()) }
            }
            Purpose::Check | Purpose::Change(_) => self.check(method, path).await,
        }
    }

    async fn check(&self, method: &Method, path: &str) -> Reply {
        // Whoever gets a document gets a whole one.
        let brief = *method != Method::GET && checks::is_of_lease(path);
        let server = self.ask(if brief { PATIENCE_OF_LEASE } else { PATIENCE }).await;
        let status = self.status(&server);
        let code = if checks::passes(path, &self.query, &status) { 200 } else { 503 };
        if *method == Method::GET { self.document(&status, code) } else { Reply::bare(code) }
    }

    async fn ask(&self, patience: Duration) -> Arc<Postmaster> {
        let server = self.state.probe.ask(patience).await;
        if let Postmaster::Unreachable(reason) = &*server {
            tracing::debug!(target: "patroni::api", "get_postgresql_status: {reason}");
        }
        server
    }

    fn status<'b>(&'b self, server: &'b Postmaster) -> Status<'b> {
        Status::new(&self.view, self.state.working.borrow().is_some(), server, self.state.now())
    }

    /// Where the server does not matter.
    fn known(&self) -> Status<'_> {
        Status::of_view(&self.view, self.state.now())
    }

    fn document(&self, status: &Status<'_>, code: u16) -> Reply {
        let mut document = status::document(status, self.state.log_queue());
        if self.old {
            patroni2::status(&mut document);
        }
        Reply::json(code, &Value::Object(document))
    }

    fn is_alive(&self) -> bool {
        checks::is_alive(&self.view, self.state.now())
    }

    async fn is_ready(&self) -> bool {
        if self.view.is_leader(self.state.now().boot) {
            return true;
        }
        let server = self.ask(PATIENCE).await;
        let status = self.status(&server);
        if self.old {
            return status.is_running();
        }
        match checks::readiness(&self.query, &status) {
            None => true,
            Some(reason) => {
                tracing::debug!(target: "patroni::api", "Readiness check failure: {reason}");
                false
            }
        }
    }

    async fn topology(&self) -> Reply {
        match self.state.load().await {
            Ok(snapshot) => {
                let mut document = cluster::topology(&snapshot, &self.view.settings.scope);
                if self.old {
                    patroni2::topology(&mut document);
                }
                Reply::json(200, &Value::Object(document))
            }
            Err(reply) => reply,
        }
    }

    async fn history(&self) -> Reply {
        let mut document = match self.known().cluster() {
            Some(snapshot) => cluster::history(snapshot),
            None => match self.state.load().await {
                Ok(snapshot) => cluster::history(&snapshot),
                Err(reply) => return reply,
            },
        };
        if self.old {
            patroni2::history(&mut document);
        }
        Reply::json(200, &document)
    }

    /// Not in Patroni.
    async fn upstream(&self) -> Reply {
        let error = self.state.probe.refusal().await;
        Reply::json(200, &error.map_or_else(|| json!({}), |error| json!({"error": error})))
    }

    async fn metrics(&self) -> Reply {
        let server = self.ask(PATIENCE).await;
        let page = metrics::page(&self.status(&server), &self.state.metrics, self.form);
        Reply { content_type: Some(self.form.content_type()), ..Reply::text(200, page) }
    }
}

/// Not in Patroni: where patronictl finds the members while the store does not answer.
fn known_members(view: &View) -> Reply {
    let members = view.cluster.iter().flat_map(|cluster| cluster.members.values());
    let entry = |member: &Member| {
        let addresses = json!({"api_url": member.data.api_url, "conn_url": member.data.conn_url});
        (member.name.to_string(), addresses)
    };
    Reply::json(200, &Value::Object(members.map(entry).collect()))
}

fn failsafe_members(view: &View) -> Reply {
    let members = view.cluster.as_ref().and_then(|cluster| cluster.failsafe.as_ref());
    match members.filter(|_| view.settings.failsafe_mode) {
        None => Reply::error(502),
        Some(members) => {
            let entries = members.iter().map(|(name, url)| (name.to_string(), Value::from(url.as_str())));
            Reply::json(200, &Value::Object(entries.collect()))
        }
    }
}

async fn change(state: &ApiState, view: &View, operation: Operation, mut body: JsonMap, old: bool) -> Reply {
    match operation {
        Operation::PatchConfig => config::patch(state, &body).await,
        Operation::PutConfig => config::put(state, body).await,
        Operation::Restart => {
            if old {
                patroni2::restart(&mut body);
            }
            restart::post(state, &body).await
        }
        Operation::DeleteRestart => restart::delete(state).await,
        Operation::Reinitialize => restart::reinitialize(state, &body).await,
        Operation::Move(action) => {
            let action = if old { patroni2::order(action, &mut body, view.cluster.as_deref()) } else { action };
            switchover::post(state, action, &body).await
        }
        Operation::DeleteSwitchover => switchover::delete(state).await,
        Operation::Failsafe => accept_failsafe(state, view, &body).await,
        Operation::Reload if state.signal(Signal::Reload) => Reply::text(202, "reload scheduled"),
        Operation::Reload => Reply::text(503, "busy: the reload could not be scheduled"),
        // It is for tests on Windows: Patroni says so everywhere and does it only there.
        Operation::Sigterm => Reply::text(202, "shutdown scheduled"),
        // Nothing to tell a coordinator without a distributed database.
        Operation::Mpp => Reply::text(200, "OK"),
    }
}

/// POST `/failsafe`: the leader, which cannot reach the store, asks whether it may go on.
async fn accept_failsafe(state: &ApiState, view: &View, body: &JsonMap) -> Reply {
    let Some(leader) = body.get("name").and_then(Value::as_str) else {
        return Reply::text(400, "the name of the leader is missing");
    };
    // A tick that takes long is no reason to keep a primary waiting.
    let just_seen = if view.ticks == 0 { Some(state.probe.ask(PATIENCE).await) } else { None };
    let (server, now) = (just_seen.as_deref().unwrap_or(&view.server.postmaster), state.now());
    let leads = Status::new(view, state.working.borrow().is_some(), server, now).leads();
    let slots = body.get("slots").and_then(Value::as_object).into_iter().flatten();
    let slots = slots.filter_map(|(name, lsn)| Some((name.clone(), Lsn(lsn.as_u64()?)))).collect();
    if leads || !state.agreement.give(leader.into(), slots, now.boot) {
        return Reply::text(500, "Running as a leader");
    }
    let accepted = Reply::text(200, "Accepted");
    match server {
        Postmaster::Running(running) => {
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
    // A client that announces too much is told so before it sends it.
    if request.body().size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(Reply::error(413));
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
