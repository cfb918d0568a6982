//! This member as a service of Consul (`register_service`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use patroni_core::cluster::MemberData;
use patroni_http::{Method, endpoint_url};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::options::{ConsulOptions, ServiceOptions};
use super::requests::{Agent, Request};
use crate::http::escaped;

/// What is registered.
pub(super) struct Service {
    scope: String,
    member: String,
    /// What Consul was last told, if it agreed.
    told: Mutex<Option<Told>>,
}

/// Everything that a registration depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    /// `None`: it is not registered.
    registration: Option<Value>,
    token: Option<String>,
}

/// What follows from the settings and the state of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    Register(Value),
    Deregister,
    /// It is on its way to something else.
    Wait,
}

impl Service {
    pub(super) fn new(scope: String, member: String) -> Self {
        Service { scope, member, told: Mutex::new(None) }
    }

    /// Tells Consul what changed.
    pub(super) async fn update(&self, agent: &Agent, data: &MemberData, ttl: Duration, deadline: Instant) {
        let options = agent.options();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let registration = match self.wish(&options, data, ttl) {
            Wish::Wait => return,
            Wish::Register(registration) => Some(registration),
            Wish::Deregister => None,
        };
        let now = Told { registration, token: options.token };
        // A member that never was a service has nothing to take back.
        let nothing_to_do = told.as_ref() == Some(&now) || (told.is_none() && options.service.is_none());
        if nothing_to_do {
            return;
        }
        let request = match &now.registration {
            Some(registration) => {
                tracing::info!("Register service {}", registration["id"]);
                Request::new(Method::PUT, "/v1/agent/service/register".to_owned()).body(registration.to_string())
            }
            None => {
                let id = self.id();
                tracing::info!("Deregister service {id}");
                Request::new(Method::PUT, format!("/v1/agent/service/deregister/{}", escaped(&id, "")))
            }
        };
        // What is not known to be done is done again the next time.
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match agent.request(&request, deadline).await {
            Ok((response, _)) if response.status == 200 => {
                *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
            }
            Ok((response, _)) => tracing::warn!("update_service: {}", response.body.trim()),
            Err(failure) => tracing::warn!("update_service: {failure:?}"),
        }
    }

    fn id(&self) -> String {
        format!("{}/{}", self.scope, self.member)
    }

    fn wish(&self, options: &ConsulOptions, data: &MemberData, ttl: Duration) -> Wish {
        let Some(settings) = &options.service else { return Wish::Deregister };
        if data.state.as_deref() == Some("stopped") {
            return Wish::Deregister;
        }
        let (Some(role), Some(api_url), Some(conn_url)) = (&data.role, &data.api_url, &data.conn_url) else {
            return Wish::Wait;
        };
        match (role.as_str(), data.state.as_deref()) {
            ("primary" | "replica" | "standby_leader", Some("running")) => {
                Wish::Register(self.registration(settings, role, api_url, conn_url, ttl))
            }
            ("primary" | "replica" | "standby_leader", _) => Wish::Wait,
            (other, _) => {
                tracing::warn!("Could not register service: unknown role type {other}");
                Wish::Wait
            }
        }
    }

    fn registration(
        &self,
        settings: &ServiceOptions,
        role: &str,
        api_url: &str,
        conn_url: &str,
        ttl: Duration,
    ) -> Value {
        let shown = role.replace('_', "-");
        let mut tags = settings.tags.clone();
        tags.push(shown.clone());
        if role == "primary" {
            tags.push("master".to_owned());
        }
        let mut check = json!({
            "http": endpoint_url(api_url, &shown), "interval": settings.check_interval,
            "DeregisterCriticalServiceAfter": format!("{}s", (ttl * 5).as_secs_f64()),
        });
        if let Some(name) = &settings.tls_server_name {
            check["TLSServerName"] = json!(name);
        }
        let (address, port) = address(conn_url);
        json!({
            "name": name(&self.scope), "id": self.id(), "address": address, "port": port, "tags": tags,
            "enabletagoverride": true, "check": check,
        })
    }
}

/// Host and port of `postgres://host:port/database`.
fn address(conn_url: &str) -> (Option<String>, Option<u16>) {
    let rest = conn_url.split_once("://").map_or(conn_url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        Some(_) | None => (authority, None),
    };
    (Some(host.trim_start_matches('[').trim_end_matches(']').to_owned()).filter(|host| !host.is_empty()), port)
}

/// The name of the cluster as a name in DNS, as the reference makes it.
fn name(scope: &str) -> String {
    let mut name = String::new();
    for c in scope.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '-' => name.push(c),
            '.' | '_' | ' ' => name.push('-'),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    // What is left of 253 characters beside `replica.` and `.service.consul`.
    name.chars().take(230).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(role: &str, state: &str) -> MemberData {
        MemberData {
            role: Some(role.into()),
            state: Some(state.into()),
            api_url: Some("http://127.0.0.1:8008/patroni".into()),
            conn_url: Some("postgres://u:p@[::1]:5433/postgres".into()),
            ..MemberData::default()
        }
    }

    #[test]
    fn what_is_registered() {
        let service = Service::new("My_Test.db".into(), "n0".into());
        let settings = ServiceOptions { tags: vec!["x".into()], check_interval: "5s".into(), tls_server_name: None };
        let with = ConsulOptions { service: Some(settings), ..ConsulOptions::default() };
        let wish = |role, state| service.wish(&with, &member(role, state), Duration::from_secs(30));
        let expected = json!({
            "name": "my-test-db", "id": "My_Test.db/n0", "address": "::1", "port": 5433,
            "tags": ["x", "primary", "master"], "enabletagoverride": true,
            "check": {"http": "http://127.0.0.1:8008/primary", "interval": "5s",
                      "DeregisterCriticalServiceAfter": "150s"},
        });
        assert_eq!(wish("primary", "running"), Wish::Register(expected));
        let Wish::Register(standby) = wish("standby_leader", "running") else { panic!("not registered") };
        assert_eq!(standby["check"]["http"], "http://127.0.0.1:8008/standby-leader");
        assert_eq!(wish("replica", "starting"), Wish::Wait);
        assert_eq!(wish("replica", "stopped"), Wish::Deregister);
        assert_eq!(wish("demoted", "running"), Wish::Wait);
        let without = ConsulOptions::default();
        assert_eq!(service.wish(&without, &member("primary", "running"), Duration::ZERO), Wish::Deregister);
    }

    #[test]
    fn names_for_dns() {
        for (scope, expected) in [("batman", "batman"), ("A.b_c d", "a-b-c-d"), ("ä/b", "u0228u0047b")] {
            assert_eq!(name(scope), expected);
        }
    }
}
