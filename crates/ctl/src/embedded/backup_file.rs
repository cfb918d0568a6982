//! The file of a backup: JSON for people and programs, with a version and a checksum over all of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use patroni_core::JsonMap;
use patroni_core::json::compact;
use patroni_dcs::raft::admin::{BACKUP_FORMAT, Backup, BackupKey};
use patroni_dcs::raft::state::Revision;
use ring::digest;
use serde_json::{Value, json};

const CHECKSUM: &str = "checksum";

/// The text of the file.
pub(crate) fn text(backup: &Backup, taken_at: &str) -> String {
    let keys: Vec<Value> = backup.keys.iter().map(key_to_json).collect();
    let document = json!({
        "format": backup.format, "store": backup.cluster, "revision": backup.revision.0, "taken_at": taken_at, "keys": keys,
    });
    let Value::Object(mut document) = document else { return String::new() };
    let checksum = checksum(&document);
    document.insert(CHECKSUM.to_owned(), checksum.into());
    serde_json::to_string_pretty(&Value::Object(document)).unwrap_or_default() + "\n"
}

/// A backup that was read, and when it was taken.
pub(crate) struct Taken {
    /// The backup.
    pub(crate) backup: Backup,
    /// When.
    pub(crate) at: String,
}

/// Reads the file. What is not exactly what was written is refused.
pub(crate) fn read(text: &str) -> Result<Taken, String> {
    let mut document: JsonMap = serde_json::from_str(text)
        .map_err(|error| format!("it is no backup of a store, or only a part of one: {error}"))?;
    let format =
        document.get("format").and_then(Value::as_u64).ok_or("it is no backup of a store: it names no format")?;
    if format != u64::from(BACKUP_FORMAT) {
        return Err(format!(
            "it has format {format}, this program knows format {BACKUP_FORMAT}: use the program that wrote it"
        ));
    }
    let told = document.shift_remove(CHECKSUM);
    if told != Some(Value::from(checksum(&document))) {
        return Err("it was changed since it was written: its checksum is another one".to_owned());
    }
    let keys = document.get("keys").and_then(Value::as_array);
    let keys = keys.and_then(|keys| keys.iter().map(key_from_json).collect::<Option<Vec<_>>>());
    let revision = document.get("revision").and_then(Value::as_u64);
    let (Some(keys), Some(revision)) = (keys, revision) else { return Err("it lacks keys, or a revision".to_owned()) };
    let owned = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
    let backup = Backup { format: BACKUP_FORMAT, cluster: owned("store"), revision: Revision(revision), keys };
    Ok(Taken { backup, at: owned("taken_at").unwrap_or_default() })
}

fn checksum(document: &JsonMap) -> String {
    let sum = digest::digest(&digest::SHA256, compact(&Value::Object(document.clone())).as_bytes());
    let digits: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn key_to_json(key: &BackupKey) -> Value {
    let (name, value) = match std::str::from_utf8(&key.value) {
        Ok(text) => ("value", text.to_owned()),
        Err(_) => ("base64", STANDARD.encode(&key.value)),
    };
    let mut object = JsonMap::from_iter([("key".to_owned(), key.key.as_str().into()), (name.to_owned(), value.into())]);
    if key.leased {
        object.insert("leased".to_owned(), true.into());
    }
    Value::Object(object)
}

fn key_from_json(key: &Value) -> Option<BackupKey> {
    let value = match key.get("base64") {
        Some(encoded) => STANDARD.decode(encoded.as_str()?).ok()?,
        None => key.get("value")?.as_str()?.as_bytes().to_vec(),
    };
    let leased = key.get("leased").and_then(Value::as_bool).unwrap_or(false);
    Some(BackupKey { key: key.get("key")?.as_str()?.to_owned(), value, leased })
}

/// What is to be put back. A request to switch over is of its time and is left out. The clusters come back paused:
/// what a backup says of positions and synchronous standbys is old, and nobody is to be promoted by it unasked.
pub(crate) fn to_restore(backup: &Backup) -> Backup {
    let is = |key: &BackupKey, name: &str| {
        key.key.strip_suffix(name).is_some_and(|rest| rest.ends_with('/') && !rest.ends_with("/members/"))
    };
    let mut keys: Vec<BackupKey> =
        backup.keys.iter().filter(|key| !key.leased && !is(key, "failover")).cloned().collect();
    for key in keys.iter_mut().filter(|key| is(key, "config")) {
        if let Ok(Value::Object(mut settings)) = serde_json::from_slice(&key.value) {
            settings.insert("pause".to_owned(), true.into());
            key.value = compact(&Value::Object(settings)).into_bytes();
        }
    }
    Backup { keys, ..backup.clone() }
}

/// The clusters in it that live: somebody holds a key of theirs with a lease. Each as `/NAMESPACE/SCOPE`, once.
pub(crate) fn living(backup: &Backup) -> Vec<String> {
    let leased = backup.keys.iter().filter(|key| key.leased);
    let mut clusters: Vec<String> = leased
        .map(|key| {
            let above = key.key.rsplit_once('/').map_or("", |(above, _)| above);
            above.strip_suffix("/members").unwrap_or(above).to_owned()
        })
        .collect();
    clusters.sort();
    clusters.dedup();
    clusters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        let key = |key: &str, value: &[u8], leased| BackupKey { key: key.to_owned(), value: value.to_vec(), leased };
        Backup {
            format: BACKUP_FORMAT,
            cluster: Some("0000000000000abc".to_owned()),
            revision: Revision(7),
            keys: vec![
                key("/service/batman/config", br#"{"ttl":30,"postgresql":{"parameters":{"x":1.50}}}"#, false),
                key("/service/batman/failover", b"{}", false),
                key("/service/batman/leader", b"a", true),
                key("/service/batman/members/a", b"{}", true),
                key("/service/batman/members/config", b"{}", false),
                key("/service/robin/members/b", b"{}", true),
                key("/service/robin/strange", b"\xff\x00", false),
            ],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let text = text(&backup(), "2026-11-26T10:00:00Z");
        let taken = read(&text).expect("it can be read");
        assert_eq!((taken.backup, taken.at.as_str()), (backup(), "2026-11-26T10:00:00Z"));
        assert!(text.contains(r#""base64": "/wA=""#) && text.contains(r#""checksum": "sha256:"#), "{text}");
    }

    #[test]
    fn what_was_changed_is_refused() {
        let whole = text(&backup(), "2026-11-26T10:00:00Z");
        for (from, to, part) in [
            ("\"revision\": 7", "\"revision\": 8", "its checksum is another one"),
            ("\\\"ttl\\\":30", "\\\"ttl\\\":31", "its checksum is another one"),
            ("\"leased\": true", "\"leased\": false", "its checksum is another one"),
            ("2026", "2025", "its checksum is another one"),
            ("\"format\": 1", "\"format\": 2", "it has format 2"),
            ("\"format\"", "\"form\"", "it names no format"),
            ("\"checksum\"", "\"sum\"", "its checksum is another one"),
        ] {
            assert!(whole.contains(from), "{from}");
            let error = read(&whole.replacen(from, to, 1)).err().unwrap_or_default();
            assert!(error.contains(part), "{from}: {error}");
        }
        for length in 0..whole.len() - 2 {
            assert!(read(&whole[..length]).is_err(), "torn after {length} bytes");
        }
    }

    #[test]
    fn what_is_put_back() {
        let restored = to_restore(&backup());
        let keys: Vec<(&str, String)> = restored
            .keys
            .iter()
            .map(|key| (key.key.as_str(), String::from_utf8_lossy(&key.value).into_owned()))
            .collect();
        assert_eq!(keys[0].1, r#"{"ttl":30,"postgresql":{"parameters":{"x":1.5}},"pause":true}"#);
        let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["/service/batman/config", "/service/batman/members/config", "/service/robin/strange"]);
        assert_eq!(keys[1].1, "{}");
        assert_eq!(living(&backup()), ["/service/batman", "/service/robin"]);
        assert!(living(&restored).is_empty());
    }
}
