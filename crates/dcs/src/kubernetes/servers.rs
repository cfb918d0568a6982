//! The API servers behind the one address that a Pod is given (`bypass_api_service`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// Which server is asked.
pub(super) struct Servers(Mutex<State>);

struct State {
    bypass: bool,
    /// `host:port`; empty: the one address alone is known.
    places: Vec<String>,
    /// Which of them is asked. One more than there are: the one address.
    current: usize,
    asked: Option<Instant>,
}

/// How often they are looked up.
const AGE: Duration = Duration::from_secs(60);

/// What names them.
pub(super) const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

impl Servers {
    pub(super) fn new(bypass: bool) -> Self {
        Servers(Mutex::new(State { bypass, places: Vec::new(), current: 0, asked: None }))
    }

    /// How many attempts ask each once.
    pub(super) fn count(&self) -> usize {
        match self.state().places.len() {
            0 => 1,
            servers => servers + 1,
        }
    }

    /// Where the next attempt goes; `None`: to the one address.
    pub(super) fn place(&self) -> Option<String> {
        let state = self.state();
        state.places.get(state.current).cloned()
    }

    /// There was no answer from there: the next one is asked, and then the one address.
    pub(super) fn failed(&self, place: Option<&str>) {
        let mut state = self.state();
        if state.places.is_empty() || state.places.get(state.current).map(String::as_str) != place {
            return;
        }
        state.current = (state.current + 1) % (state.places.len() + 1);
        match state.places.get(state.current) {
            Some(next) => tracing::info!("Selected new K8s API server endpoint https://{next}"),
            None => tracing::info!("Selected the K8s API service again"),
        }
        state.asked = None;
    }

    /// Whether it is time to look them up. Whoever is told so does it.
    pub(super) fn are_due(&self) -> bool {
        let mut state = self.state();
        let due = state.bypass && state.asked.is_none_or(|asked| asked.elapsed() >= AGE);
        if due {
            state.asked = Some(Instant::now());
        }
        due
    }

    /// These Endpoints name them.
    pub(super) fn found(&self, endpoints: &str) {
        let mut places = places(&serde_json::from_str(endpoints).unwrap_or_default());
        places.sort();
        let mut state = self.state();
        if places.is_empty() || places == state.places {
            return;
        }
        let present = state.places.get(state.current);
        let present = present.and_then(|present| places.iter().position(|place| place == present));
        // Members of one cluster do not all ask the same server.
        state.current = present.unwrap_or(std::process::id() as usize % places.len());
        state.places = places;
    }

    /// This process has no right to know.
    pub(super) fn are_secret(&self) {
        tracing::warn!(
            "Kubernetes RBAC doesn't allow GET access to the 'kubernetes' endpoint in the 'default' namespace. \
             Disabling 'bypass_api_service'."
        );
        let mut state = self.state();
        (state.bypass, state.places) = (false, Vec::new());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn places(endpoints: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut places = Vec::new();
    for subset in list(&endpoints["subsets"]) {
        let is_https = |port: &&Value| port["name"] == "https" && port["protocol"] == "TCP";
        let Some(port) = list(&subset["ports"]).iter().find(is_https).and_then(|port| port["port"].as_u64()) else {
            continue;
        };
        let ips: Vec<String> =
            list(&subset["addresses"]).iter().filter_map(|a| a["ip"].as_str().map(str::to_owned)).collect();
        places.extend(
            ips.iter().map(|ip| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }),
        );
    }
    places
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn servers_are_asked_in_turns() {
        let servers = Servers::new(true);
        assert!(servers.are_due() && !servers.are_due());
        assert_eq!((servers.count(), servers.place()), (1, None));
        let port = |name: &str| json!([{"name": name, "port": 6443, "protocol": "TCP"}]);
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.2"}, {"ip": "fd00::1"}], "ports": port("https")},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": port("http")},
        ]});
        servers.found(&endpoints.to_string());
        let mut seen = Vec::new();
        for _ in 0..servers.count() {
            let place = servers.place();
            servers.failed(Some("an earlier one"));
            assert_eq!(servers.place(), place, "two who saw one failure do not skip a server");
            servers.failed(place.as_deref());
            seen.push(place);
        }
        seen.sort();
        assert_eq!(seen, [None, Some("10.0.0.2:6443".to_owned()), Some("[fd00::1]:6443".to_owned())]);
        assert!(servers.are_due(), "after a failure");
        let current = servers.place();
        servers.found(&endpoints.to_string());
        servers.found("garbage");
        assert_eq!(servers.place(), current);
        servers.are_secret();
        assert!(!servers.are_due() && servers.place().is_none() && servers.count() == 1);
    }
}
