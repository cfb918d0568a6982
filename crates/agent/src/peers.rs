//! Asking the REST APIs of other members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::Method;
use patroni_core::JsonMap;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::peer::{Peer, PeerStatus};
pub use patroni_http::HttpClient;
use patroni_http::endpoint_url;
use serde_json::Value;
use tokio::task::JoinSet;

/// How long a peer may take to tell its status: one that is slower is most likely not well.
pub const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// How long another agent of the same name may take to show that it runs.
pub const LIVENESS_LIMIT: Duration = Duration::from_secs(3);

/// Asks all these members at once for their status (`GET {api_url}`), each within `limit`.
pub async fn poll(
    http: &HttpClient,
    members: &BTreeMap<MemberName, String>,
    limit: Duration,
) -> BTreeMap<MemberName, Peer> {
    let mut asked = JoinSet::new();
    for (name, url) in members.clone() {
        let http = http.clone();
        asked.spawn(async move {
            let peer = status(&http, &name, &url, limit).await;
            (name, peer)
        });
    }
    let lost = |name: &MemberName| (name.clone(), Peer::Unreachable("the question was lost".to_owned()));
    let mut answers: BTreeMap<_, _> = members.keys().map(lost).collect();
    while let Some(joined) = asked.join_next().await {
        if let Ok((name, peer)) = joined {
            answers.insert(name, peer);
        }
    }
    answers
}

async fn status(http: &HttpClient, name: &MemberName, url: &str, limit: Duration) -> Peer {
    let result = match http.request(Method::GET, url, None, limit).await {
        Ok(response) => {
            tracing::info!(target: "patroni::ha", "Got response from {name} {url}: {}", response.body);
            parse_status(&response.body)
        }
        Err(e) => Err(e.to_string()),
    };
    match result {
        Ok(status) => Peer::Status(status),
        Err(reason) => {
            tracing::warn!(target: "patroni::ha", "Request failed to {name}: GET {url} ({reason})");
            Peer::Unreachable(reason)
        }
    }
}

fn parse_status(body: &str) -> Result<PeerStatus, String> {
    let document: JsonMap = serde_json::from_str(body).map_err(|e| format!("not a JSON object: {e}"))?;
    PeerStatus::of_document(&document)
}

/// Asks these members whether this primary may go on without the store (`POST /failsafe`), all at once, each twice
/// within `limit`. Returns how far those have received its WAL that say so.
///
/// # Errors
/// Who did not agree. Whoever does not answer has not agreed.
pub async fn ask_failsafe(
    http: &HttpClient,
    members: &BTreeMap<MemberName, String>,
    message: &JsonMap,
    limit: Duration,
) -> Result<BTreeMap<MemberName, Lsn>, String> {
    let body = Value::Object(message.clone()).to_string();
    let mut asked = JoinSet::new();
    for (name, api_url) in members.clone() {
        let (http, body) = (http.clone(), body.clone());
        asked.spawn(async move {
            let url = endpoint_url(&api_url, "failsafe");
            let mut agreed = agrees(&http, &name, &url, body.clone(), limit / 2).await;
            if agreed.is_none() {
                agreed = agrees(&http, &name, &url, body, limit / 2).await;
            }
            agreed.map(|agreed| (name, agreed.position))
        });
    }
    let mut missing: BTreeSet<&MemberName> = members.keys().collect();
    let mut positions = BTreeMap::new();
    while let Some(joined) = asked.join_next().await {
        if let Ok(Some((name, position))) = joined {
            missing.remove(&name);
            positions.extend(position.map(|position| (name, position)));
        }
    }
    let names: Vec<&str> = missing.into_iter().map(MemberName::as_str).collect();
    if names.is_empty() { Ok(positions) } else { Err(format!("{} did not agree", names.join(", "))) }
}

/// A member that agreed.
struct Agreed {
    /// How far a standby has received or replayed WAL, by the header `lsn` of its answer.
    position: Option<Lsn>,
}

async fn agrees(http: &HttpClient, name: &MemberName, url: &str, body: String, limit: Duration) -> Option<Agreed> {
    match http.request(Method::POST, url, Some(body), limit).await {
        Ok(response) => {
            tracing::info!(target: "patroni::ha", "Got response from {name} {url}: {}", response.body);
            let position = response.headers.get("lsn").and_then(|lsn| lsn.to_str().ok()?.parse().ok()).map(Lsn);
            (response.status == 200 && response.body == "Accepted").then_some(Agreed { position })
        }
        Err(reason) => {
            tracing::warn!(target: "patroni::ha", "Request failed to {name}: POST {url} ({reason})");
            None
        }
    }
}

/// How far a member is with the long action that it carries out, as far as it is one that tells (`job.progress` of its status).
pub async fn progress(http: &HttpClient, api_url: &str) -> Option<String> {
    let answer = http.request(Method::GET, api_url, None, STATUS_LIMIT).await.ok()?;
    let status: Value = serde_json::from_str(&answer.body).ok()?;
    Some(status.get("job")?.get("progress")?.as_str()?.to_owned())
}

/// Does an agent run at this address? Any answer to `GET /liveness` says so.
pub async fn is_alive(http: &HttpClient, api_url: &str) -> bool {
    http.request(Method::GET, &endpoint_url(api_url, "liveness"), None, LIVENESS_LIMIT).await.is_ok()
}
