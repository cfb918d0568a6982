//! Requests to the agent of Consul.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use patroni_core::cluster::Version;
use patroni_http::{Body, Call, Method, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answers::{Transaction, is_condition, names_no_session, sorted};
use super::options::ConsulOptions;
use crate::attempts::{Failure, Fate, persist};
use crate::http::{Http, form};
use crate::primitives::Swap;

/// A request, whatever the token and the datacenter.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<String>,
}

impl Request {
    pub(super) fn new(method: Method, path: String) -> Self {
        Request { method, path, query: Vec::new(), body: None }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn body(self, body: impl Into<String>) -> Self {
        Request { body: Some(body.into()), ..self }
    }
}

pub(super) struct Agent {
    http: Http,
    options: Mutex<ConsulOptions>,
}

impl Agent {
    pub(super) fn new(options: ConsulOptions) -> Self {
        Agent { http: Http::new(options.client_options()), options: Mutex::new(options) }
    }

    pub(super) fn options(&self) -> ConsulOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes other settings; the address stays. False: they name another one.
    pub(super) fn reconfigure(&self, options: ConsulOptions) -> bool {
        let mut inner = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        let same_place = options.address == inner.address;
        *inner = ConsulOptions { address: inner.address.clone(), ..options };
        self.http.reconfigure(inner.client_options());
        same_place
    }

    /// Sends a request, again and again until there is an answer or the deadline. True: an earlier attempt may have been
    /// carried out.
    pub(super) async fn request(&self, request: &Request, deadline: Instant) -> Result<(Response, bool), Failure> {
        let attempt = |patience, repeated| async move { Ok((self.attempt(request, patience).await?, repeated)) };
        persist("Consul", deadline, || 1, attempt).await
    }

    pub(super) async fn attempt(&self, request: &Request, patience: Duration) -> Result<Response, (Fate, String)> {
        let options = self.options();
        let query = request.query.iter().map(|(name, value)| (*name, value.as_str()));
        let query: Vec<(&str, &str)> = query.chain(options.dc.as_deref().map(|dc| ("dc", dc))).collect();
        let url = format!("{}{}?{}", options.address, request.path, form(&query));
        let body = request.body.clone().map(|text| Body { text, content_type: "application/json" });
        let call = Call { method: request.method.clone(), url: &url, headers: &options.headers(), body };
        let answer = self.http.send(call, patience).await.and_then(sorted);
        answer.map_err(|(fate, text)| (fate, format!("{}: {text}", options.address)))
    }

    /// Carries out operations on keys, all or none.
    pub(super) async fn transact(&self, operations: &[Value], deadline: Instant) -> Result<Swap, Failure> {
        let operations: Vec<Value> = operations.iter().map(|operation| json!({"KV": operation})).collect();
        let request = Request::new(Method::PUT, "/v1/txn".to_owned()).body(Value::Array(operations).to_string());
        let (response, repeated) = self.request(&request, deadline).await?;
        let unclear = |text: String| if repeated { Failure::Unknown(text) } else { Failure::NotDone(text) };
        let parsed: Transaction = match serde_json::from_str(&response.body) {
            Ok(parsed) => parsed,
            Err(_) if response.status == 409 => return Err(unclear(response.body)),
            Err(error) => return Err(Failure::Unknown(format!("Consul answered something else: {error}"))),
        };
        if response.status == 200 {
            return Ok(Swap::Done(Version(parsed.version().unwrap_or(0))));
        }
        let refusal = parsed.refusal();
        if names_no_session(&refusal) {
            return Err(Failure::LeaseNotFound);
        }
        if is_condition(&refusal) { Ok(Swap::Otherwise { repeated }) } else { Err(unclear(refusal)) }
    }
}

/// Content as transactions want it.
pub(super) fn encoded(value: &str) -> String {
    STANDARD.encode(value)
}
