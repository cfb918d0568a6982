//! The primitives on version 2 of etcd's API. Keys with a `ttl` take the place of leases: each is kept alive by itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::JsonMap;
use patroni_core::cluster::Version;
use patroni_http::{Method, Response};
use tokio::time::Instant;

use super::EtcdOptions;
use super::answers::{Answer, COMPARE_FAILED, EVENT_INDEX_CLEARED, KEY_NOT_FOUND, NODE_EXISTS, Node, Refusal};
use super::places::{Places, Request};
use crate::attempts::Failure;
use crate::boot_time::boot_time;
use crate::http::{escaped, form};
use crate::primitives::{Claimed, News, Primitives, Prolonged, Swap, When};
use crate::wire::RawKey;
use crate::{OpenError, Timing};

/// etcd by version 2 of its API.
pub(crate) struct Etcd {
    places: Places,
    prefix: String,
    timing: Mutex<Timing>,
}

/// The index to wait for; `None`: the watch has not begun.
#[derive(Default)]
pub(crate) struct Cursor(Option<u64>);

/// How long a watch waits for an event before it asks again.
const WATCH: Duration = Duration::from_secs(60);
/// How long other requests of the watching task may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Etcd {
    /// `prefix`: how the keys of the cluster begin, with a slash at both ends.
    pub(crate) fn new(options: EtcdOptions, prefix: String, timing: Timing) -> Self {
        Etcd { places: Places::new(options), prefix, timing: Mutex::new(timing) }
    }

    fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ttl(&self) -> String {
        self.timing().ttl.as_millis().div_ceil(1000).max(1).to_string()
    }

    fn path(&self, name: &str, query: &[(&str, &str)]) -> String {
        let path = format!("/v2/keys{}", escaped(&format!("{}{name}", self.prefix), "/"));
        if query.is_empty() { path } else { format!("{path}?{}", form(query)) }
    }

    async fn put_fields(
        &self,
        name: &str,
        fields: &[(&str, &str)],
        deadline: Instant,
    ) -> Result<(Result<Node, Refusal>, bool), Failure> {
        let request = Request { method: Method::PUT, path: self.path(name, &[]), form: Some(form(fields)) };
        self.change(&request, deadline).await
    }

    async fn change(&self, request: &Request, deadline: Instant) -> Result<(Result<Node, Refusal>, bool), Failure> {
        let (answer, repeated) = self.places.request(request, deadline).await?;
        Ok(match answer {
            Ok(response) => (Ok(parsed(&response).map_err(Failure::Unknown)?.node), repeated),
            Err(refusal) => (Err(refusal), repeated),
        })
    }

    async fn list(&self, name: &str, deadline: Instant) -> Result<Option<Node>, Failure> {
        // A quorum is asked, so that a server that was left behind does not tell of the past.
        let path = self.path(name, &[("recursive", "true"), ("quorum", "true")]);
        let request = Request { method: Method::GET, path, form: None };
        match self.places.request(&request, deadline).await?.0 {
            Ok(response) => Ok(Some(parsed(&response).map_err(Failure::NotDone)?.node)),
            Err(refusal) if refusal.error_code == KEY_NOT_FOUND => Ok(None),
            Err(refusal) => Err(Failure::NotDone(refusal.text())),
        }
    }

    /// One event after `index`, or none within a minute.
    async fn event(&self, index: u64) -> Result<Watched, String> {
        let index = index.to_string();
        let path = self.path("", &[("wait", "true"), ("recursive", "true"), ("waitIndex", &index)]);
        let request = Request { method: Method::GET, path, form: None };
        Ok(match self.places.wait(&request, WATCH).await? {
            None => Watched::Nothing,
            Some(Ok(response)) if response.body.trim().is_empty() => Watched::Nothing,
            Some(Ok(response)) => Watched::Event(parsed(&response)?),
            Some(Err(refusal)) if refusal.error_code == EVENT_INDEX_CLEARED => Watched::TooLate,
            Some(Err(refusal)) => return Err(refusal.text()),
        })
    }
}

enum Watched {
    Event(Answer),
    Nothing,
    /// etcd keeps the last thousand events only.
    TooLate,
}

fn parsed(response: &Response) -> Result<Answer, String> {
    serde_json::from_str(&response.body).map_err(|error| format!("etcd answered something else: {error}"))
}

/// What a conditional change became. That the condition did not hold is an answer, everything else is not.
fn swap((answer, repeated): (Result<Node, Refusal>, bool)) -> Result<Swap, Failure> {
    match answer {
        Ok(node) => Ok(Swap::Done(Version(node.index()))),
        Err(refusal) if matches!(refusal.error_code, KEY_NOT_FOUND | COMPARE_FAILED | NODE_EXISTS) => {
            Ok(Swap::Otherwise { repeated })
        }
        Err(refusal) if repeated => Err(Failure::Unknown(refusal.text())),
        Err(refusal) => Err(Failure::NotDone(refusal.text())),
    }
}

#[async_trait]
impl Primitives for Etcd {
    type Cursor = Cursor;

    const NAME: &'static str = "Etcd";

    fn configure(&self, timing: Timing) {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner) = timing;
    }

    fn reload(&self, configuration: &JsonMap) -> Result<(), OpenError> {
        if !self.places.reconfigure(crate::open::etcd_options(configuration)?) {
            tracing::warn!("other addresses of etcd take effect when the agent is started again");
        }
        Ok(())
    }

    async fn read(&self, deadline: Instant) -> Result<BTreeMap<String, RawKey>, Failure> {
        Ok(self.list("", deadline).await?.map(|node| node.keys(&self.prefix)).unwrap_or_default())
    }

    async fn get(&self, name: &str, deadline: Instant) -> Result<Option<RawKey>, Failure> {
        Ok(self.list(name, deadline).await?.map(|node| node.raw()))
    }

    async fn put(&self, name: &str, value: &str, when: When, deadline: Instant) -> Result<Swap, Failure> {
        let version;
        let mut fields = vec![("value", value)];
        match when {
            When::Always => {}
            When::Absent => fields.push(("prevExist", "false")),
            When::Version(expected) => {
                version = expected.0.to_string();
                fields.push(("prevIndex", &version));
            }
        }
        swap(self.put_fields(name, &fields, deadline).await?)
    }

    async fn delete(&self, name: &str, version: Version, deadline: Instant) -> Result<Swap, Failure> {
        let path = self.path(name, &[("prevIndex", &version.0.to_string())]);
        let request = Request { method: Method::DELETE, path, form: None };
        swap(self.change(&request, deadline).await?)
    }

    async fn delete_all(&self, deadline: Instant) -> Result<(), Failure> {
        let request = Request { method: Method::DELETE, path: self.path("", &[("recursive", "true")]), form: None };
        swap(self.change(&request, deadline).await?).map(|_| ())
    }

    async fn claim(&self, name: &str, value: &str, deadline: Instant) -> Result<Claimed, Failure> {
        let asked = boot_time();
        let fields = [("value", value), ("ttl", &self.ttl()), ("prevExist", "false")];
        Ok(swap(self.put_fields(name, &fields, deadline).await?)?.claimed(asked))
    }

    async fn prolong(&self, name: &str, value: &str, deadline: Instant) -> Result<Prolonged, Failure> {
        // Whichever attempt was carried out, the last one began after this moment.
        let asked = boot_time();
        let fields = [("value", value), ("ttl", &self.ttl()), ("prevValue", value)];
        Ok(match swap(self.put_fields(name, &fields, deadline).await?)? {
            Swap::Done(_) => Prolonged::Ours(asked),
            Swap::Otherwise { .. } => Prolonged::NotOurs,
        })
    }

    async fn hold(&self, name: &str, value: &str, known: Option<RawKey>, deadline: Instant) -> Result<RawKey, Failure> {
        let ttl = self.ttl();
        if known.is_some_and(|raw| raw.value == value.as_bytes() && raw.session.is_some()) {
            // Nobody who watches hears of this.
            let fields = [("ttl", ttl.as_str()), ("refresh", "true"), ("prevExist", "true")];
            match self.put_fields(name, &fields, deadline).await?.0 {
                Ok(node) => return Ok(node.raw()),
                Err(refusal) if refusal.error_code == KEY_NOT_FOUND => {}
                Err(refusal) => return Err(Failure::NotDone(refusal.text())),
            }
        }
        match self.put_fields(name, &[("value", value), ("ttl", &ttl)], deadline).await?.0 {
            Ok(node) => Ok(node.raw()),
            Err(refusal) => Err(Failure::NotDone(refusal.text())),
        }
    }

    /// A key with this member's name is its own, whichever run of it wrote it: whoever prolongs it holds it.
    fn is_ours(&self, _: &RawKey) -> bool {
        true
    }

    async fn news(&self, cursor: &mut Cursor) -> Result<News, String> {
        let mut generations = self.places.generations();
        generations.mark_unchanged();
        self.places.learn(self.timing().loop_wait.max(Duration::from_secs(1)), PATIENCE).await;
        let Some(index) = cursor.0 else {
            let path = self.path("", &[("recursive", "true"), ("quorum", "true")]);
            let request = Request { method: Method::GET, path, form: None };
            let answer = self.places.attempt(&request, PATIENCE).await.map_err(|(_, text)| text)?.0;
            let (index, keys) = beginning(answer, &self.prefix)?;
            cursor.0 = Some(index + 1);
            return Ok(News::Begun(keys));
        };
        // Requests that fail meanwhile say sooner than the silence of this one that the server is gone.
        let watched = tokio::select! {
            watched = self.event(index) => watched?,
            _ = generations.changed() => return Err("another server is asked now".to_owned()),
        };
        Ok(match watched {
            Watched::Nothing => News::Changed(Vec::new()),
            Watched::TooLate => {
                cursor.0 = None;
                News::Changed(Vec::new())
            }
            Watched::Event(answer) => {
                cursor.0 = Some(answer.node.index().max(index) + 1);
                let name = answer.node.key.strip_prefix(&self.prefix).unwrap_or(&answer.node.key).to_owned();
                let gone = matches!(answer.action.as_str(), "delete" | "expire" | "compareAndDelete");
                News::Changed(vec![(name, answer.node.content().filter(|_| !gone))])
            }
        })
    }
}

/// Where etcd is, and the keys there. That there are none yet is an answer.
fn beginning(answer: Result<Response, Refusal>, prefix: &str) -> Result<(u64, BTreeMap<String, RawKey>), String> {
    match answer {
        Ok(response) => {
            let index = response.headers.get("x-etcd-index").and_then(|index| index.to_str().ok()?.parse().ok());
            Ok((index.ok_or("etcd does not say its index")?, parsed(&response)?.node.keys(prefix)))
        }
        Err(refusal) if refusal.error_code == KEY_NOT_FOUND => {
            Ok((refusal.index.ok_or_else(|| refusal.text())?, BTreeMap::new()))
        }
        Err(refusal) => Err(refusal.text()),
    }
}
