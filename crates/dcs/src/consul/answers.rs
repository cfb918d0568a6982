//! What Consul's API answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use patroni_http::Response;
use serde::Deserialize;

use crate::attempts::Fate;
use crate::wire::RawKey;

/// A key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    pub(super) key: String,
    value: Option<String>,
    create_index: u64,
    pub(super) modify_index: u64,
    #[serde(default)]
    session: Option<String>,
}

impl Entry {
    /// The key as all stores show it.
    pub(super) fn raw(&self) -> RawKey {
        RawKey {
            // Only Consul writes them, so they can be decoded.
            value: self.value.as_deref().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default(),
            modified: self.modify_index,
            created: self.create_index,
            session: self.session.clone(),
        }
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Transaction {
    results: Option<Vec<Done>>,
    errors: Option<Vec<Refused>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Done {
    #[serde(rename = "KV")]
    kv: Option<Entry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refused {
    what: String,
}

impl Transaction {
    /// The version that the last changed key has now.
    pub(super) fn version(&self) -> Option<u64> {
        let done = self.results.as_deref().unwrap_or_default();
        done.iter().filter_map(|done| done.kv.as_ref()).map(|entry| entry.modify_index).next_back()
    }

    /// Why it was not carried out.
    pub(super) fn refusal(&self) -> String {
        let errors = self.errors.as_deref().unwrap_or_default();
        errors.iter().map(|error| error.what.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Whether this refusal of a transaction says that a key is not as it was expected to be. The texts are those of Consul's
/// `agent/consul/state/txn.go`; all others (permissions, say) are failures.
pub(super) fn is_condition(refusal: &str) -> bool {
    let texts = [
        "index is stale",
        "failed index check",
        "lock is already held",
        "isn't held, or is held by another session",
        "doesn't exist",
    ];
    texts.iter().any(|text| refusal.contains(text))
}

/// An answer that is meant, or why there is none. 404 is an answer, and 409, with which transactions are refused.
pub(super) fn sorted(response: Response) -> Result<Response, (Fate, String)> {
    let text = || format!("status {}: {}", response.status, response.body.trim());
    match response.status {
        200..300 | 404 | 409 => Ok(response),
        500 if names_no_session(&response.body) => Err((Fate::LeaseNotFound, text())),
        500 if response.body.starts_with(INVALID_TTL) => Err((Fate::Refused, text())),
        // Too many requests at a time.
        429 => Err((Fate::NotSent, text())),
        500.. => Err((Fate::Unknown, text())),
        _ => Err((Fate::Refused, text())),
    }
}

/// What Consul says where a session is to last shorter or longer than it allows.
pub(super) const INVALID_TTL: &str = "Invalid Session TTL";

/// What Consul says of a session that does not exist.
pub(super) fn names_no_session(text: &str) -> bool {
    text.contains("invalid session") || text.contains("Invalid session")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_did_not_happen_is_called_so() {
        let fate = |status, body: &str| {
            let response = Response { status, headers: patroni_http::HeaderMap::new(), body: body.to_owned() };
            sorted(response).err().map(|(fate, _)| fate)
        };
        assert_eq!((fate(200, "true"), fate(404, ""), fate(409, "")), (None, None, None));
        assert_eq!(fate(500, "invalid session \"x\""), Some(Fate::LeaseNotFound));
        assert_eq!(fate(500, "Invalid Session TTL '5000000000', must be between"), Some(Fate::Refused));
        assert_eq!(fate(500, "No cluster leader"), Some(Fate::Unknown));
        assert_eq!(fate(500, "rpc error making call: EOF"), Some(Fate::Unknown));
        assert_eq!(fate(403, "Permission denied"), Some(Fate::Refused));
        assert_eq!(fate(429, "Your IP is issuing too many concurrent connections"), Some(Fate::NotSent));
    }

    #[test]
    fn permissions_are_no_condition() {
        assert!(is_condition("failed to set key \"k\", index is stale"));
        assert!(is_condition("failed to lock key \"k\", lock is already held"));
        assert!(is_condition("failed index check for key \"k\", current modify index 5 != 4"));
        // It is nobody's, and can be taken in a moment.
        assert!(!is_condition("failed to lock key \"k\" due to lock delay"));
        assert!(!is_condition("Permission denied"));
        assert!(!is_condition("invalid session \"x\""));
    }

    #[test]
    fn keys_are_decoded() {
        let text = r#"{"LockIndex":1,"Key":"service/a/leader","Flags":0,"Value":"bjA=","Session":"s","CreateIndex":5,"ModifyIndex":9}"#;
        let raw = serde_json::from_str::<Entry>(text).unwrap().raw();
        assert_eq!((raw.value.as_slice(), raw.created, raw.modified), (b"n0".as_slice(), 5, 9));
        let empty = r#"{"Key":"k","Value":null,"CreateIndex":5,"ModifyIndex":9}"#;
        assert_eq!(serde_json::from_str::<Entry>(empty).unwrap().raw().value, b"");
    }
}
