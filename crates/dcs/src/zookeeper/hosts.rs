//! Which servers there are, and whose turn it is; Exhibitor is asked for them, where it is configured.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use patroni_http::{Call, ClientOptions, Method};
use serde::Deserialize;
use tokio::time::Instant;

use super::options::{Exhibitor, Hosts};
use crate::http::Http;
use crate::section::url;

/// Where connections go.
pub(super) struct Source {
    http: Http,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    hosts: Hosts,
    servers: Vec<(String, u16)>,
    current: usize,
    /// Whom to ask before the configured ones: what Exhibitor said last.
    exhibitors: Vec<String>,
    asked: Option<Instant>,
    /// Why it did not answer then.
    why: Option<String>,
    /// None of the servers took a connection since Exhibitor was asked.
    all_failed: bool,
}

/// What Exhibitor answers.
#[derive(Deserialize)]
struct Listed {
    servers: Vec<String>,
    port: u16,
}

/// Exhibitor is not asked more often.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(5);
/// How long one of several may take, as with the reference.
const LONGEST_ANSWER: Duration = Duration::from_millis(3100);

impl Source {
    pub(super) fn new(hosts: Hosts) -> Self {
        let source = Source { http: Http::new(ClientOptions::default()), inner: Mutex::new(Inner::default()) };
        source.replace(hosts);
        source
    }

    /// Other hosts.
    pub(super) fn replace(&self, hosts: Hosts) {
        let mut inner = self.lock();
        if inner.hosts == hosts {
            return;
        }
        let servers = match &hosts {
            Hosts::Named(servers) => servers.clone(),
            Hosts::Exhibitor(_) => Vec::new(),
        };
        *inner = Inner { hosts, ..Inner::default() };
        inner.turn_to(servers);
    }

    /// How many there are to try.
    pub(super) fn count(&self) -> usize {
        self.lock().servers.len().max(1)
    }

    /// The next one's turn.
    pub(super) fn advance(&self) {
        let mut inner = self.lock();
        inner.current = (inner.current + 1) % inner.servers.len().max(1);
        inner.all_failed |= inner.current == 0;
    }

    /// The one whose turn it is.
    ///
    /// # Errors
    /// None is known.
    pub(super) async fn current(&self, limit: Duration) -> Result<(String, u16), String> {
        let due = self.lock().due();
        if let Some((exhibitor, hosts)) = due {
            let asked = self.ask(&exhibitor, hosts, limit).await;
            self.lock().why = asked.err();
        }
        let inner = self.lock();
        let nobody = || inner.why.clone().unwrap_or_else(|| "no server of ZooKeeper is known".to_owned());
        inner.servers.get(inner.current).cloned().ok_or_else(nobody)
    }

    /// Asks one Exhibitor after the other. Where none answers, what is known stays.
    async fn ask(&self, exhibitor: &Exhibitor, hosts: Vec<String>, limit: Duration) -> Result<(), String> {
        let share = (limit / u32::try_from(hosts.len().max(1)).unwrap_or(u32::MAX)).min(LONGEST_ANSWER);
        let mut last = String::new();
        for host in hosts {
            let address = format!("{}/exhibitor/v1/cluster/list", url("http", (host, exhibitor.port)));
            let call = Call { method: Method::GET, url: &address, headers: &[], body: None };
            let answer = self.http.send(call, share).await.map_err(|(_, text)| text);
            let listed = answer.and_then(|response| {
                serde_json::from_str::<Listed>(&response.body).map_err(|error| format!("{address}: {error}"))
            });
            match listed {
                Ok(listed) if !listed.servers.is_empty() => {
                    self.take(listed);
                    return Ok(());
                }
                Ok(_) => last = format!("{address} names no server"),
                Err(text) => last = text,
            }
            tracing::debug!("Request to Exhibitor failed: {last}");
        }
        Err(format!("Exhibitor does not answer: {last}"))
    }

    fn take(&self, mut listed: Listed) {
        listed.servers.sort();
        let servers: Vec<(String, u16)> = listed.servers.iter().map(|host| (host.clone(), listed.port)).collect();
        let mut inner = self.lock();
        inner.exhibitors = listed.servers;
        if inner.servers != servers {
            let text = |servers: &[(String, u16)]| {
                servers.iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(",")
            };
            let (old, new) = (text(&inner.servers), text(&servers));
            tracing::info!("ZooKeeper connection string has changed: {old} => {new}");
            inner.turn_to(servers);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Other servers. Which one is the first is left to chance, so that not all members turn to the same.
    fn turn_to(&mut self, servers: Vec<(String, u16)>) {
        let random = usize::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or(0);
        self.current = random % servers.len().max(1);
        self.servers = servers;
    }

    /// Whom to ask for servers, if that is due: after the interval, or where no server takes connections.
    fn due(&mut self) -> Option<(Exhibitor, Vec<String>)> {
        let Hosts::Exhibitor(exhibitor) = &self.hosts else { return None };
        let is_lost = self.servers.is_empty() || self.all_failed;
        let interval = if is_lost { SHORTEST_INTERVAL.min(exhibitor.interval) } else { exhibitor.interval };
        if self.asked.is_some_and(|asked| asked.elapsed() < interval) {
            return None;
        }
        (self.asked, self.all_failed) = (Some(Instant::now()), false);
        let mut hosts: Vec<String> = self.exhibitors.clone();
        hosts.extend(exhibitor.hosts.iter().filter(|host| !self.exhibitors.contains(host)).cloned());
        Some((exhibitor.clone(), hosts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Hosts {
        Hosts::Named(names.iter().map(|name| ((*name).to_owned(), 2181)).collect())
    }

    #[tokio::test]
    async fn each_server_has_its_turn() {
        let source = Source::new(named(&["a", "b", "c"]));
        let mut seen = Vec::new();
        for _ in 0..source.count() {
            seen.push(source.current(Duration::from_secs(1)).await.expect("a server").0);
            source.advance();
        }
        seen.sort();
        assert_eq!(seen.concat(), "abc");
        source.replace(named(&["d"]));
        assert_eq!(source.current(Duration::from_secs(1)).await, Ok(("d".to_owned(), 2181)));
    }

    #[tokio::test(start_paused = true)]
    async fn exhibitor_is_asked_when_that_is_due() {
        let exhibitor =
            Exhibitor { hosts: vec!["x".into(), "y".into()], port: 8181, interval: Duration::from_secs(300) };
        let source = Source::new(Hosts::Exhibitor(exhibitor));
        let asked = || source.lock().due().map(|(_, hosts)| hosts.concat());
        assert_eq!(asked().as_deref(), Some("xy"));
        assert_eq!(asked(), None, "not again and again");
        tokio::time::advance(SHORTEST_INTERVAL).await;
        assert_eq!(asked().as_deref(), Some("xy"), "no server is known");
        source.take(Listed { servers: vec!["z".into(), "y".into()], port: 7 });
        assert_eq!(source.lock().servers, [("y".to_owned(), 7), ("z".to_owned(), 7)]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(asked(), None, "servers are known");
        source.advance();
        source.advance();
        assert_eq!(asked().as_deref(), Some("yzx"), "none of them takes connections");
        assert_eq!(asked(), None);
        tokio::time::advance(Duration::from_secs(300)).await;
        assert_eq!(asked().as_deref(), Some("yzx"));
    }
}
