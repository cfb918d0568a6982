//! Where etcd is, for version 2 of its API: the address in use, those of its members, and requests to them in turn.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use patroni_core::units::in_words;
use patroni_http::{Body, Call, ClientOptions, Method, Response, TlsFiles};
use tokio::sync::watch;
use tokio::time::Instant;

use super::answers::Refusal;
use super::options::EtcdOptions;
use super::{Addresses, srv};
use crate::attempts::{Failure, Fate, persist};
use crate::http::Http;

/// A request, whatever server it goes to.
pub(super) struct Request {
    pub(super) method: Method,
    /// With the query.
    pub(super) path: String,
    /// The form, escaped.
    pub(super) form: Option<String>,
}

pub(super) struct Places {
    http: Http,
    inner: Mutex<Inner>,
    /// Grows whenever a server is given up.
    generation: watch::Sender<u64>,
}

struct Inner {
    options: EtcdOptions,
    addresses: Addresses,
    /// When the members were asked for.
    learned: Option<Instant>,
}

/// How the credentials and certificates of a section become those of requests.
fn client_options(options: &EtcdOptions) -> ClientOptions {
    let identity = options.cert.clone().map(|certfile| TlsFiles {
        certfile,
        keyfile: options.key.clone(),
        keyfile_password: None,
    });
    ClientOptions {
        auth: options.credentials.as_ref().map(|(name, password)| format!("{name}:{password}")),
        cacert: options.cacert.clone(),
        identity,
        ..ClientOptions::default()
    }
}

impl Places {
    pub(super) fn new(options: EtcdOptions) -> Self {
        let inner = Inner { addresses: Addresses::new(&options), learned: None, options: options.clone() };
        Places {
            http: Http::new(client_options(&options)),
            inner: Mutex::new(inner),
            generation: watch::Sender::new(0),
        }
    }

    /// Takes other credentials and certificates. False: the settings name other addresses.
    pub(super) fn reconfigure(&self, options: EtcdOptions) -> bool {
        let mut inner = self.lock();
        let same_place = options.place() == inner.options.place();
        inner.options = options.at_the_place_of(&inner.options);
        self.http.reconfigure(client_options(&inner.options));
        same_place
    }

    /// Sends a request, again and again until there is an answer or the deadline. `Ok(Err)`: etcd refuses it, and means it.
    pub(super) async fn request(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<(Result<Response, Refusal>, bool), Failure> {
        let attempt = |patience, repeated| async move {
            let (answer, _) = self.attempt(request, patience).await?;
            Ok((answer, repeated))
        };
        let answered = persist("Etcd", deadline, || self.lock().addresses.count(), attempt).await?;
        Ok(answered)
    }

    /// One attempt, at the server in use; its generation.
    pub(super) async fn attempt(
        &self,
        request: &Request,
        patience: Duration,
    ) -> Result<(Result<Response, Refusal>, u64), (Fate, String)> {
        let until = Instant::now() + patience;
        let not_sent = |text| (Fate::NotSent, text);
        match tokio::time::timeout_at(until, self.resolve()).await {
            Ok(resolved) => resolved.map_err(not_sent)?,
            Err(_) => return Err(not_sent(format!("the SRV records are not known within {}", in_words(patience)))),
        }
        let generation = *self.generation.borrow();
        let url = self.lock().addresses.current().map(str::to_owned);
        let url = url.ok_or_else(|| not_sent("no server of etcd is known".to_owned()))?;
        let left = until.saturating_duration_since(Instant::now());
        let answer = self.send(&url, request, left).await.and_then(|response| sorted(&url, response));
        if let Err((Fate::NotSent | Fate::Unknown, _)) = &answer {
            self.failed(generation);
        }
        answer.map(|answer| (answer, generation))
    }

    /// Waits for an answer that comes when something happens; `None`: nothing did. Silence says nothing about the server.
    pub(super) async fn wait(
        &self,
        request: &Request,
        limit: Duration,
    ) -> Result<Option<Result<Response, Refusal>>, String> {
        match tokio::time::timeout(limit, self.attempt(request, limit * 2)).await {
            Ok(Ok((answer, _))) => Ok(Some(answer)),
            Ok(Err((_, text))) => Err(text),
            Err(_) => Ok(None),
        }
    }

    async fn send(&self, url: &str, request: &Request, limit: Duration) -> Result<Response, (Fate, String)> {
        let whole = format!("{url}{}", request.path);
        let body = request.form.clone().map(|text| Body { text, content_type: "application/x-www-form-urlencoded" });
        let call = Call { method: request.method.clone(), url: &whole, headers: &[], body };
        self.http.send(call, limit).await.map_err(|(fate, text)| (fate, format!("{url}: {text}")))
    }

    /// Asks for the members of etcd, unless that was done within `interval`, or the configured addresses are proxies.
    pub(super) async fn learn(&self, interval: Duration, limit: Duration) {
        let due = {
            let mut inner = self.lock();
            let due = !inner.options.use_proxies && inner.learned.is_none_or(|last| last.elapsed() >= interval);
            if due {
                inner.learned = Some(Instant::now());
            }
            due.then(|| inner.addresses.current().map(str::to_owned)).flatten()
        };
        let Some(url) = due else { return };
        let request = Request { method: Method::GET, path: "/v2/machines".to_owned(), form: None };
        match self.send(&url, &request, limit).await {
            Ok(response) if response.status == 200 => {
                let machines = response.body.split(',').map(|url| url.trim().to_owned());
                self.lock().addresses.announce(machines.filter(|url| !url.is_empty()));
            }
            Ok(response) => tracing::debug!("{url}: the members of etcd are not known: status {}", response.status),
            Err((_, text)) => tracing::debug!("the members of etcd are not known: {text}"),
        }
    }

    /// Gives up the server that was in use in this generation.
    pub(super) fn failed(&self, generation: u64) {
        let mut inner = self.lock();
        if *self.generation.borrow() == generation {
            inner.addresses.advance();
            self.generation.send_modify(|generation| *generation += 1);
        }
    }

    pub(super) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    async fn resolve(&self) -> Result<(), String> {
        let Some(records) = self.lock().addresses.unresolved() else { return Ok(()) };
        let found = srv::system_endpoints(&records.domain, records.suffix.as_deref()).await;
        self.lock().addresses.resolved(found)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer, a refusal that etcd means, or an attempt that failed.
fn sorted(url: &str, response: Response) -> Result<Result<Response, Refusal>, (Fate, String)> {
    if response.status < 300 {
        return Ok(Ok(response));
    }
    match serde_json::from_str::<Refusal>(&response.body) {
        Ok(refusal) if refusal.fate() == Fate::Refused => Ok(Err(refusal)),
        Ok(refusal) => Err((refusal.fate(), format!("{url}: {}", refusal.text()))),
        // A proxy's words, or those of something else that listens there.
        Err(_) => {
            let fate = if response.status >= 500 { Fate::Unknown } else { Fate::Refused };
            Err((fate, format!("{url}: status {}: {}", response.status, response.body.trim())))
        }
    }
}
