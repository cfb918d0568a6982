//! The session of this member: one, which its member key and its leader key hang on, as in the reference.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use patroni_core::time::Moment;
use patroni_core::units::in_words;
use patroni_http::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::answers::INVALID_TTL;
use super::requests::{Agent, Request};
use crate::attempts::Failure;
use crate::boot_time::boot_time;

/// A session that was alive at `renewed`, and lasts a `ttl` longer than that at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) id: String,
    ttl: Duration,
    /// Before the request was sent that was answered.
    pub(super) renewed: Moment,
}

/// The present session, if there is one.
pub(super) struct Sessions {
    /// As Consul shows it to people.
    name: String,
    current: Mutex<Option<Session>>,
}

/// The answer to a request for a new session.
#[derive(Deserialize)]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

impl Sessions {
    pub(super) fn new(name: String) -> Self {
        Sessions { name, current: Mutex::new(None) }
    }

    pub(super) fn is_current(&self, id: Option<&String>) -> bool {
        self.lock().as_ref().is_some_and(|session| Some(&session.id) == id)
    }

    /// The store said that there is no such session.
    pub(super) fn forget(&self, id: &str) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|session| session.id == id) {
            tracing::error!("Our session disappeared from Consul");
            *current = None;
        }
    }

    /// A session that was renewed no longer than `max_age` ago; a new one where there is none, where it has ended, or where
    /// `ttl` is another.
    pub(super) async fn alive(
        &self,
        agent: &Agent,
        ttl: Duration,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Session, Failure> {
        let known = self.lock().clone().filter(|session| session.ttl == ttl);
        if let Some(session) = known {
            if boot_time().since(session.renewed) < max_age {
                return Ok(session);
            }
            match self.renew(agent, session, deadline).await? {
                Some(renewed) => return Ok(renewed),
                None => tracing::warn!("the session in Consul has ended; there will be another one"),
            }
        }
        let created = self.create(agent, ttl, deadline).await?;
        *self.lock() = Some(created.clone());
        Ok(created)
    }

    /// `None`: there is no such session any more.
    async fn renew(&self, agent: &Agent, session: Session, deadline: Instant) -> Result<Option<Session>, Failure> {
        // Whichever attempt was carried out, it began after this moment.
        let asked = boot_time();
        let request = Request::new(Method::PUT, format!("/v1/session/renew/{}", session.id));
        let (response, _) = agent.request(&request, deadline).await?;
        let mut current = self.lock();
        if response.status != 200 {
            *current = current.take().filter(|current| current.id != session.id);
            return Ok(None);
        }
        let renewed = Session { renewed: session.renewed.max(asked), ..session };
        if current.as_ref().is_some_and(|current| current.id == renewed.id) {
            *current = Some(renewed.clone());
        }
        Ok(Some(renewed))
    }

    /// A session whose answer was lost holds no key, and ends by itself.
    async fn create(&self, agent: &Agent, ttl: Duration, deadline: Instant) -> Result<Session, Failure> {
        // Consul ends a session when twice the time has passed that it was given, so it is given half.
        match self.create_for(agent, ttl, ttl / 2, deadline).await {
            Err(Failure::NotDone(text)) if text.contains(INVALID_TTL) => {
                let shortest = shortest(agent, deadline).await?;
                tracing::warn!("Changing Session TTL from {} to {}", in_words(ttl / 2), in_words(shortest));
                self.create_for(agent, ttl, shortest, deadline).await
            }
            other => other,
        }
    }

    async fn create_for(
        &self,
        agent: &Agent,
        ttl: Duration,
        given: Duration,
        deadline: Instant,
    ) -> Result<Session, Failure> {
        let asked = boot_time();
        let description = json!({
            "name": self.name, "checks": agent.options().checks, "lockdelay": "0.001s", "behavior": "delete",
            "ttl": format!("{}s", given.as_secs_f64()),
        });
        let request = Request::new(Method::PUT, "/v1/session/create".to_owned()).body(description.to_string());
        let (response, _) = agent.request(&request, deadline).await?;
        let created: Created = serde_json::from_str(&response.body)
            .map_err(|_| Failure::NotDone(format!("Consul made no session: {}", response.body.trim())))?;
        Ok(Session { id: created.id, ttl, renewed: asked })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Session>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `session_ttl_min` of the agent, which is that of the servers where they are set up alike.
async fn shortest(agent: &Agent, deadline: Instant) -> Result<Duration, Failure> {
    const USUAL: Duration = Duration::from_secs(10);
    let request = Request::new(Method::GET, "/v1/agent/self".to_owned());
    let (response, _) = agent.request(&request, deadline).await?;
    let settings: serde_json::Value = serde_json::from_str(&response.body).unwrap_or_default();
    let found = [&settings["DebugConfig"]["SessionTTLMin"], &settings["Config"]["SessionTTLMin"]];
    Ok(found.into_iter().find_map(duration).filter(|shortest| !shortest.is_zero()).unwrap_or(USUAL))
}

/// Nanoseconds, or a text such as `10s`.
fn duration(value: &serde_json::Value) -> Option<Duration> {
    let of_text = || value.as_str()?.strip_suffix('s')?.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    value.as_u64().map(Duration::from_nanos).or_else(of_text)
}
