//! The primitives on Consul's key-value store and its sessions.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::JsonMap;
use patroni_core::cluster::{MemberData, Version};
use patroni_http::{Method, Response};
use serde_json::json;
use tokio::time::Instant;

use super::answers::Entry;
use super::options::{Consistency, ConsulOptions};
use super::requests::{Agent, Request, encoded};
use super::service::Service;
use super::session::{Session, Sessions};
use crate::attempts::Failure;
use crate::http::escaped;
use crate::primitives::{Claimed, News, Primitives, Prolonged, Swap, When};
use crate::wire::{self, RawKey};
use crate::{OpenError, Timing};

/// Consul, through its agent.
pub(crate) struct Consul {
    agent: Agent,
    prefix: String,
    sessions: Sessions,
    service: Service,
    timing: Mutex<Timing>,
}

/// What the keys were at this index of Consul's.
#[derive(Default)]
pub(crate) struct Cursor {
    index: u64,
    keys: BTreeMap<String, Entry>,
}

/// The header that tells at which index Consul was.
const INDEX: &str = "x-consul-index";
/// How long a service may take to be registered: the loop waits for it.
const REGISTRATION: Duration = Duration::from_secs(2);
/// How long Consul is asked to wait for a change.
const WATCH: Duration = Duration::from_secs(60);
/// Consul adds a sixteenth at most, and the answer has its way.
const WATCH_LIMIT: Duration = Duration::from_secs(70);

impl Consul {
    /// `prefix`: how the keys of the cluster begin, with a slash at both ends.
    pub(crate) fn new(options: ConsulOptions, prefix: &str, scope: &str, member: &str, timing: Timing) -> Self {
        Consul {
            agent: Agent::new(options),
            prefix: prefix.trim_start_matches('/').to_owned(),
            sessions: Sessions::new(format!("{scope}-{member}")),
            service: Service::new(scope.to_owned(), member.to_owned()),
            timing: Mutex::new(timing),
        }
    }

    fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn session(&self, max_age: Duration, deadline: Instant) -> Result<Session, Failure> {
        self.sessions.alive(&self.agent, self.timing().ttl, max_age, deadline).await.map_err(Failure::before_write)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn request(&self, method: Method, name: &str) -> Request {
        Request::new(method, format!("/v1/kv/{}", escaped(&self.key(name), "/")))
    }

    async fn entries(
        &self,
        name: &str,
        consistency: Consistency,
        recurse: bool,
        deadline: Instant,
    ) -> Result<Vec<Entry>, Failure> {
        let mut request = with_consistency(self.request(Method::GET, name), consistency);
        if recurse {
            request = request.query("recurse", "1");
        }
        let (response, _) = self.agent.request(&request, deadline).await?;
        parsed(&response).map_err(Failure::NotDone)
    }

    /// Whether a condition held, as Consul tells it for one key.
    async fn changed(&self, request: &Request, deadline: Instant) -> Result<Swap, Failure> {
        let (response, repeated) = self.agent.request(request, deadline).await?;
        match response.body.trim() {
            "true" => Ok(Swap::Done(Version(0))),
            "false" => Ok(Swap::Otherwise { repeated }),
            other => Err(Failure::Unknown(format!("Consul answered something else: {other}"))),
        }
    }

    /// Attaches a key to this session, whichever session of this member has it now. It stays the same key.
    async fn attach(
        &self,
        name: &str,
        value: &str,
        present: &RawKey,
        session: &Session,
        deadline: Instant,
    ) -> Result<Swap, Failure> {
        let key = self.key(name);
        let value = encoded(value);
        let same = json!({"Verb": "check-index", "Key": key, "Index": present.modified});
        let lock = json!({"Verb": "lock", "Key": key, "Value": value, "Session": session.id});
        let mut operations = vec![same];
        if let Some(old) = &present.session {
            operations.push(json!({"Verb": "unlock", "Key": key, "Value": value, "Session": old}));
        }
        operations.push(lock);
        self.forgetting(session, self.agent.transact(&operations, deadline).await)
    }

    fn forgetting<T>(&self, session: &Session, result: Result<T, Failure>) -> Result<T, Failure> {
        if matches!(result, Err(Failure::LeaseNotFound)) {
            self.sessions.forget(&session.id);
        }
        result
    }

    async fn lock(&self, name: &str, value: &str, session: &Session, deadline: Instant) -> Result<Swap, Failure> {
        let request = self.request(Method::PUT, name).query("acquire", session.id.as_str()).body(value);
        self.forgetting(session, self.changed(&request, deadline).await)
    }
}

fn with_consistency(request: Request, consistency: Consistency) -> Request {
    match consistency {
        Consistency::Default => request,
        Consistency::Consistent => request.query("consistent", "1"),
        Consistency::Stale => request.query("stale", "1"),
    }
}

/// Keys; an answer of 404 is none, if it is Consul's: that of something else that listens there would end a healthy leader.
fn parsed(response: &Response) -> Result<Vec<Entry>, String> {
    match response.status {
        404 if response.headers.contains_key(INDEX) => Ok(Vec::new()),
        404 => Err(format!("this is not Consul's key-value store: {}", response.body.trim())),
        _ => serde_json::from_str(&response.body).map_err(|error| format!("Consul answered something else: {error}")),
    }
}

#[async_trait]
impl Primitives for Consul {
    type Cursor = Cursor;

    const NAME: &'static str = "Consul";

    fn configure(&self, timing: Timing) {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner) = timing;
    }

    fn reload(&self, configuration: &JsonMap) -> Result<(), OpenError> {
        if !self.agent.reconfigure(crate::open::consul_options(configuration)?) {
            tracing::warn!("another address of Consul takes effect when the agent is started again");
        }
        Ok(())
    }

    async fn read(&self, deadline: Instant) -> Result<BTreeMap<String, RawKey>, Failure> {
        let entries = self.entries("", self.agent.options().consistency, true, deadline).await?;
        let short = |entry: &Entry| Some((entry.key.strip_prefix(&self.prefix)?.to_owned(), entry.raw()));
        let mut keys: BTreeMap<String, RawKey> = entries.iter().filter_map(short).collect();
        // What a token may not read is missing in a list, as if it was not there. Asked for one key Consul says so.
        if !keys.contains_key(wire::LEADER) {
            let leader = self.get(wire::LEADER, deadline).await?;
            keys.extend(leader.map(|raw| (wire::LEADER.to_owned(), raw)));
        }
        Ok(keys)
    }

    async fn get(&self, name: &str, deadline: Instant) -> Result<Option<RawKey>, Failure> {
        let entries = self.entries(name, Consistency::Consistent, false, deadline).await?;
        Ok(entries.first().map(Entry::raw))
    }

    async fn put(&self, name: &str, value: &str, when: When, deadline: Instant) -> Result<Swap, Failure> {
        let (verb, index) = match when {
            When::Always => ("set", 0),
            When::Absent => ("cas", 0),
            When::Version(version) => ("cas", version.0),
        };
        let operation = json!({"Verb": verb, "Key": self.key(name), "Value": encoded(value), "Index": index});
        self.agent.transact(&[operation], deadline).await
    }

    async fn delete(&self, name: &str, version: Version, deadline: Instant) -> Result<Swap, Failure> {
        // `delete-cas` alone is content with a key that is absent.
        let operations = [
            json!({"Verb": "check-index", "Key": self.key(name), "Index": version.0}),
            json!({"Verb": "delete-cas", "Key": self.key(name), "Index": version.0}),
        ];
        self.agent.transact(&operations, deadline).await
    }

    async fn delete_all(&self, deadline: Instant) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, "").query("recurse", "1");
        self.changed(&request, deadline).await.map(|_| ())
    }

    async fn claim(&self, name: &str, value: &str, deadline: Instant) -> Result<Claimed, Failure> {
        let session = self.session(Duration::ZERO, deadline).await?;
        // Without the first one a key that nobody holds would be taken, too: one that was written by hand, say.
        let operations = [
            json!({"Verb": "cas", "Key": self.key(name), "Value": encoded(value), "Index": 0}),
            json!({"Verb": "lock", "Key": self.key(name), "Value": encoded(value), "Session": session.id}),
        ];
        let locked = self.forgetting(&session, self.agent.transact(&operations, deadline).await)?;
        Ok(locked.claimed(session.renewed))
    }

    async fn prolong(&self, name: &str, value: &str, deadline: Instant) -> Result<Prolonged, Failure> {
        let session = self.session(Duration::ZERO, deadline).await?;
        let present = self.get(name, deadline).await?.filter(|raw| raw.value == value.as_bytes());
        let Some(present) = present else { return Ok(Prolonged::NotOurs) };
        if present.session.as_ref() == Some(&session.id) {
            return Ok(Prolonged::Ours(session.renewed));
        }
        tracing::info!("the leader key is attached to another session of this member; attaching it to the present one");
        match self.attach(name, value, &present, &session, deadline).await? {
            Swap::Done(_) => Ok(Prolonged::Ours(session.renewed)),
            // An earlier attempt may have done it.
            Swap::Otherwise { .. } => {
                let attached = self.get(name, deadline).await?.filter(|raw| raw.value == value.as_bytes());
                Ok(match attached.is_some_and(|raw| raw.session.as_ref() == Some(&session.id)) {
                    true => Prolonged::Ours(session.renewed),
                    false => Prolonged::NotOurs,
                })
            }
        }
    }

    async fn hold(&self, name: &str, value: &str, known: Option<RawKey>, deadline: Instant) -> Result<RawKey, Failure> {
        let session = self.session(self.timing().loop_wait / 2, deadline).await?;
        let is_held = |raw: &RawKey| raw.session.as_ref() == Some(&session.id);
        if let Some(raw) = known.filter(|raw| raw.value == value.as_bytes() && is_held(raw)) {
            return Ok(raw);
        }
        let written =
            RawKey { value: value.as_bytes().to_vec(), session: Some(session.id.clone()), ..RawKey::default() };
        if let Swap::Done(_) = self.lock(name, value, &session, deadline).await? {
            return Ok(written);
        }
        // Another session of this member has it: that of an earlier run, or before `ttl` changed.
        let present = self.get(name, deadline).await.map_err(Failure::before_write)?;
        let present = present.ok_or_else(|| Failure::NotDone(format!("{name} ended as it was written")))?;
        match self.attach(name, value, &present, &session, deadline).await? {
            Swap::Done(_) | Swap::Otherwise { repeated: true } => Ok(written),
            Swap::Otherwise { repeated: false } => Err(Failure::NotDone(format!("{name} changed as it was written"))),
        }
    }

    fn is_ours(&self, raw: &RawKey) -> bool {
        self.sessions.is_current(raw.session.as_ref())
    }

    async fn news(&self, cursor: &mut Cursor) -> Result<News, String> {
        let begins = cursor.index == 0;
        let mut request = with_consistency(self.request(Method::GET, ""), self.agent.options().consistency);
        request = request.query("recurse", "1");
        if !begins {
            request = request.query("index", cursor.index.to_string()).query("wait", format!("{}s", WATCH.as_secs()));
        }
        let limit = if begins { WATCH_LIMIT - WATCH } else { WATCH_LIMIT };
        let response = self.agent.attempt(&request, limit).await.map_err(|(_, text)| text)?;
        let index = response.headers.get(INDEX).and_then(|index| index.to_str().ok()?.parse().ok());
        let index: u64 = index.ok_or("Consul does not say its index")?;
        let entries = parsed(&response)?;
        let short = |entry: Entry| Some((entry.key.strip_prefix(&self.prefix)?.to_owned(), entry));
        let keys: BTreeMap<String, Entry> = entries.into_iter().filter_map(short).collect();
        // An index that went back is that of a restored Consul.
        let is_anew = begins || index < cursor.index;
        let old = std::mem::replace(cursor, Cursor { index: index.max(1), keys });
        Ok(match is_anew {
            true => News::Begun(cursor.keys.iter().map(|(name, entry)| (name.clone(), entry.raw())).collect()),
            false => News::Changed(differences(&old.keys, &cursor.keys)),
        })
    }

    async fn member_written(&self, data: &MemberData, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + REGISTRATION);
        self.service.update(&self.agent, data, self.timing().ttl, deadline).await;
    }
}

fn differences(old: &BTreeMap<String, Entry>, new: &BTreeMap<String, Entry>) -> Vec<(String, Option<Vec<u8>>)> {
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), None));
    let is_other =
        |(name, entry): &(&String, &Entry)| old.get(*name).is_none_or(|old| old.modify_index != entry.modify_index);
    let changed = new.iter().filter(is_other).map(|(name, entry)| (name.clone(), Some(entry.raw().value)));
    gone.chain(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_consul_says_that_there_is_nothing() {
        let mut response =
            Response { status: 404, headers: patroni_http::HeaderMap::new(), body: "no such page".to_owned() };
        assert!(parsed(&response).is_err());
        response.headers.insert(INDEX, patroni_http::HeaderValue::from_static("5"));
        assert!(parsed(&response).is_ok_and(|keys| keys.is_empty()));
    }
}
