//! Requests to the API server, or to several that share one address.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use patroni_http::{Body, Call, HttpClient, HttpError, Method, Response, Streamed, Way};
use serde_json::Value;
use tokio::time::Instant;

use super::access::{Access, Bearer};
use super::objects::{Object, Status};
use super::servers::Servers;
use crate::attempts::{Failure, Fate, persist};
use crate::http::{fate, form};

/// How log and errors call the store.
pub(super) const NAME: &str = "Kubernetes API";

/// A request, whoever it goes to.
pub(super) struct Request {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    /// Rights that are missing may come back in a moment, as while a control plane is upgraded.
    outlives_forbidden: bool,
}

impl Request {
    pub(super) fn new(method: Method, path: String) -> Self {
        Request { method, path, query: Vec::new(), body: None, outlives_forbidden: false }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn body(self, body: Value) -> Self {
        Request { body: Some(body), ..self }
    }

    pub(super) fn outliving_forbidden(self) -> Self {
        Request { outlives_forbidden: true, ..self }
    }
}

/// What the API server says.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// It was done.
    Done(String),
    /// There is no such object.
    Absent,
    /// This process has no right to that.
    Forbidden(String),
    /// There is one already, or of another version. Where an earlier attempt may have been carried out, that may be the reason.
    Conflict { repeated: bool },
}

impl Answer {
    /// The object that was read or changed.
    pub(super) fn object(text: &str) -> Result<Object, String> {
        serde_json::from_str(text).map_err(|error| format!("the {NAME} answered something else: {error}"))
    }
}

pub(super) struct Api {
    access: Mutex<(Access, HttpClient)>,
    retriable: Mutex<BTreeSet<u16>>,
    bearer: Bearer,
    pub(super) servers: Servers,
    keepalive: Mutex<Duration>,
}

/// The longest pause that a server can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Api {
    pub(super) fn new(access: Access, retriable: BTreeSet<u16>, servers: Servers) -> Self {
        let client = HttpClient::lazy(access.client_options());
        Api {
            access: Mutex::new((access, client)),
            retriable: Mutex::new(retriable),
            bearer: Bearer::default(),
            servers,
            keepalive: Mutex::new(Duration::from_secs(30)),
        }
    }

    /// How long a watch may be without a sign of life of its connection.
    pub(super) fn set_keepalive(&self, time: Duration) {
        *self.keepalive.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }

    /// Takes other credentials and certificates; the address stays. False: they are for another one.
    pub(super) fn reconfigure(&self, access: Access, retriable: BTreeSet<u16>) -> bool {
        *self.retriable.lock().unwrap_or_else(PoisonError::into_inner) = retriable;
        self.bearer.forget();
        let mut known = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        let same_place = known.0.server == access.server;
        let access = Access { server: known.0.server.clone(), ..access };
        *known = (access.clone(), HttpClient::lazy(access.client_options()));
        same_place
    }

    fn access(&self) -> (Access, HttpClient) {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a request, again and again until there is an answer or the deadline.
    pub(super) async fn ask(&self, request: &Request, deadline: Instant) -> Result<Answer, Failure> {
        let attempt = |patience, repeated| async move {
            match self.attempt(request, patience).await {
                Ok(Answer::Conflict { .. }) => Ok(Answer::Conflict { repeated }),
                other => other,
            }
        };
        persist(NAME, deadline, || self.servers.count(), attempt).await
    }

    async fn attempt(&self, request: &Request, patience: Duration) -> Result<Answer, (Fate, String)> {
        let until = Instant::now() + patience;
        let place = self.servers.place();
        let answer = self.send(request, place.as_deref(), patience, until).await;
        let response = answer.inspect_err(|_| self.servers.failed(place.as_deref()))?;
        let pause = retry_after(&response);
        let sorted = self.sorted(request, response);
        if let (Err((Fate::NotSent | Fate::Unknown, _)), Some(pause)) = (&sorted, pause) {
            // Half of the patience at most: what was asked for matters more than the wish of the server.
            tokio::time::sleep(pause.min(LONGEST_PAUSE).min(patience / 2)).await;
        }
        sorted
    }

    async fn send(
        &self,
        request: &Request,
        place: Option<&str>,
        patience: Duration,
        until: Instant,
    ) -> Result<Response, (Fate, String)> {
        let streamed = self.open(request, place, patience, None).await?;
        let left = until.saturating_duration_since(Instant::now());
        streamed.whole(left).await.map_err(|error| (fate(&error), error.to_string()))
    }

    /// Sends a request once; the answer is still on its way.
    async fn open(
        &self,
        request: &Request,
        place: Option<&str>,
        patience: Duration,
        keepalive: Option<Duration>,
    ) -> Result<Streamed, (Fate, String)> {
        let (access, client) = self.access();
        let query: Vec<(&str, &str)> = request.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let separator = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{}{separator}{}", access.server, request.path, form(&query));
        let content_type = match request.method {
            Method::PATCH => "application/strategic-merge-patch+json",
            _ => "application/json",
        };
        let body = request.body.as_ref().map(|body| Body { text: body.to_string(), content_type });
        let headers = self.bearer.headers(&access.credentials).await;
        let call = Call { method: request.method.clone(), url: &url, headers: &headers, body };
        let at = place.and_then(host_and_port);
        let opened = client.open(call, Way { at, keepalive }, patience).await;
        opened.map_err(|error| {
            if matches!(error, HttpError::Handshake(..) | HttpError::Untrusted(..)) {
                // Its files may have changed.
                let fresh = HttpClient::lazy(access.client_options());
                self.access.lock().unwrap_or_else(PoisonError::into_inner).1 = fresh;
            }
            (fate(&error), error.to_string())
        })
    }

    /// Begins a watch; the answer goes on until the server ends it. 410 is in its first line, too, or the status.
    pub(super) async fn watch(&self, request: &Request, patience: Duration) -> Result<Streamed, String> {
        let keepalive = *self.keepalive.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.servers.place();
        let opened = self.open(request, place.as_deref(), patience, Some(keepalive)).await;
        let streamed = opened.map_err(|(_, text)| {
            self.servers.failed(place.as_deref());
            text
        })?;
        match streamed.status {
            200 => Ok(streamed),
            status => {
                let response = streamed.whole(patience).await.map_err(|error| error.to_string())?;
                if status == 401 {
                    self.bearer.forget();
                }
                Err(text(&response))
            }
        }
    }

    /// An answer that is meant, or why there is none.
    fn sorted(&self, request: &Request, response: Response) -> Result<Answer, (Fate, String)> {
        let why = text(&response);
        let speaks = Status::parse(&response.body).is_some();
        let is_retriable = response.headers.contains_key("retry-after")
            || self.retriable.lock().unwrap_or_else(PoisonError::into_inner).contains(&response.status);
        match response.status {
            200..=205 => Ok(Answer::Done(response.body)),
            // Of the server itself: what else listens there says it of everything.
            404 if speaks => Ok(Answer::Absent),
            409 if speaks => Ok(Answer::Conflict { repeated: false }),
            401 => {
                self.bearer.forget();
                Err((Fate::NotSent, why))
            }
            403 if request.outlives_forbidden || is_retriable => Err((Fate::NotSent, why)),
            403 => Ok(Answer::Forbidden(why)),
            429 => Err((Fate::NotSent, why)),
            404 | 500.. => Err((Fate::Unknown, why)),
            _ if is_retriable => Err((Fate::Unknown, why)),
            _ => Err((Fate::Refused, why)),
        }
    }
}

/// The pause that the server asks for.
fn retry_after(response: &Response) -> Option<Duration> {
    response.headers.get("retry-after")?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn text(response: &Response) -> String {
    match Status::parse(&response.body) {
        Some(status) => format!("status {} ({}): {}", response.status, status.reason, status.message),
        None => format!("status {}: {}", response.status, response.body.trim().chars().take(200).collect::<String>()),
    }
}

fn host_and_port(place: &str) -> Option<(&str, u16)> {
    let (host, port) = place.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(request: &Request, status: u16, body: &str, retry_after: bool) -> Result<Answer, Fate> {
        let api = Api::new(Access::at("http://a"), BTreeSet::from([418]), Servers::new(false));
        let mut headers = patroni_http::HeaderMap::new();
        if retry_after {
            headers.insert("retry-after", patroni_http::HeaderValue::from_static("1"));
        }
        api.sorted(request, Response { status, headers, body: body.to_owned() }).map_err(|(fate, _)| fate)
    }

    #[test]
    fn only_what_surely_did_not_happen_is_called_so() {
        let plain = Request::new(Method::GET, String::new());
        let patient = Request::new(Method::PATCH, String::new()).outliving_forbidden();
        let status = r#"{"kind":"Status","reason":"r","message":"m"}"#;
        assert_eq!(sorted(&plain, 201, "x", false), Ok(Answer::Done("x".into())));
        assert_eq!(sorted(&plain, 404, status, false), Ok(Answer::Absent));
        assert_eq!(sorted(&plain, 409, status, false), Ok(Answer::Conflict { repeated: false }));
        assert!(matches!(sorted(&plain, 403, status, false), Ok(Answer::Forbidden(_))));
        for (request, code, body, retry_after, fate) in [
            (&plain, 404, "no such page", false, Fate::Unknown),
            (&plain, 409, "", false, Fate::Refused),
            (&plain, 401, status, false, Fate::NotSent),
            (&plain, 403, status, true, Fate::NotSent),
            (&patient, 403, status, false, Fate::NotSent),
            (&plain, 429, status, true, Fate::NotSent),
            (&plain, 418, status, false, Fate::Unknown),
            (&plain, 422, status, false, Fate::Refused),
            (&plain, 500, "", false, Fate::Unknown),
            (&plain, 504, status, false, Fate::Unknown),
        ] {
            assert_eq!(sorted(request, code, body, retry_after), Err(fate), "{code} {body}");
        }
    }

    #[test]
    fn places_have_a_host_and_a_port() {
        assert_eq!(host_and_port("10.0.0.1:6443"), Some(("10.0.0.1", 6443)));
        assert_eq!(host_and_port("[fd00::1]:6443"), Some(("fd00::1", 6443)));
        assert_eq!(host_and_port("a"), None);
    }
}
