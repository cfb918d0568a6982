//! The command lines of custom bootstrap methods and of replica methods: what scripts made for Patroni are told.

use std::path::Path;

use patroni_core::JsonMap;
use patroni_core::python::PythonText;
use patroni_core::tags::truthy;
use serde_json::Value;

use crate::Result;
use crate::programs::split;

/// Keys of a custom bootstrap method that are no arguments of its command.
const BOOTSTRAP_KEYS: [&str; 6] =
    ["command", "no_params", "keep_existing_recovery_conf", "recovery_conf", "scope", "datadir"];

/// The method of `bootstrap.method`: scope and data directory, unless it wants nothing (`no_params`), then what its section
/// says.
///
/// # Errors
/// The quotes in the command do not match.
pub(crate) fn bootstrap_words(command: &str, section: &JsonMap, scope: &str, data_dir: &Path) -> Result<Vec<String>> {
    let mut words = split(command)?;
    if !section.get("no_params").is_some_and(truthy) {
        let standard = [("scope", scope.to_owned()), ("datadir", data_dir.display().to_string())];
        words.extend(standard.map(|(key, value)| format!("--{key}={value}")));
    }
    let own = section.iter().filter(|(key, _)| !BOOTSTRAP_KEYS.contains(&key.as_str()));
    words.extend(own.filter_map(|(key, value)| argument(key, value)));
    Ok(words)
}

/// A method of `create_replica_methods`: everything in its section, then what every method is told, unless it wants nothing.
/// Without a `command` the name of the method is the command.
///
/// # Errors
/// The quotes in the command do not match.
pub(crate) fn replica_words(
    method: &str,
    section: &JsonMap,
    scope: &str,
    data_dir: &Path,
    connection: &str,
) -> Result<Vec<String>> {
    let mut words = split(section.get("command").and_then(Value::as_str).unwrap_or(method))?;
    let mut section = section.clone();
    section.shift_remove("command");
    if section.get("no_params").is_some_and(truthy) {
        section.retain(|key, _| !["no_params", "no_leader", "keep_data"].contains(&key.as_str()));
    } else {
        let data_dir = data_dir.display().to_string();
        let standard = [("scope", scope), ("role", "replica"), ("datadir", &data_dir), ("connstring", connection)];
        section.extend(standard.map(|(key, value)| (key.to_owned(), Value::from(value))));
    }
    words.extend(section.iter().filter_map(|(key, value)| argument(key, value)));
    Ok(words)
}

/// What is null is not given.
fn argument(key: &str, value: &Value) -> Option<String> {
    (!value.is_null()).then(|| format!("--{key}={}", value.python_text()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What Patroni 4.1.5 calls for these sections, one word a line; but what is null is left out, where it says `--name=None`.
    fn check(words: Result<Vec<String>>, expected: &[&str]) {
        assert_eq!(words.expect("words"), expected);
    }

    #[test]
    fn replica_methods_are_told_what_patroni_tells_them() {
        let words = |method: &str, section: Value| {
            let section = section.as_object().expect("a section");
            replica_words(method, section, "batman", Path::new("/data"), "host=h port=1")
        };
        let standard = ["--scope=batman", "--role=replica", "--datadir=/data", "--connstring=host=h port=1"];
        check(
            words(
                "barman",
                json!({
                    "command": "patroni_barman --api-url http://b:7480 recover", "barman_server": "my",
                    "ssh_command": "ssh postgres@n1", "backup_id": "latest", "no_leader": true,
                }),
            ),
            &[
                &["patroni_barman", "--api-url", "http://b:7480", "recover", "--barman_server=my"],
                &["--ssh_command=ssh postgres@n1", "--backup_id=latest", "--no_leader=True"][..],
                &standard,
            ]
            .concat(),
        );
        check(
            words(
                "wal_g",
                json!({
                    "command": "/usr/bin/wal-g-restore \"with blank\"", "threshold_megabytes": 10240,
                    "threshold_backup_size_percentage": 30.5, "no_leader": 1, "keep_data": true,
                }),
            ),
            &[
                &["/usr/bin/wal-g-restore", "with blank", "--threshold_megabytes=10240"],
                &["--threshold_backup_size_percentage=30.5", "--no_leader=1", "--keep_data=True"][..],
                &standard,
            ]
            .concat(),
        );
        check(
            words(
                "pgbackrest",
                json!({
                    "command": "/usr/bin/pgbackrest --stanza=main --delta restore", "keep_data": true,
                    "no_params": true, "no_leader": true, "process-max": 4,
                }),
            ),
            &["/usr/bin/pgbackrest", "--stanza=main", "--delta", "restore", "--process-max=4"],
        );
        check(words("bare", json!({})), &[&["bare"][..], &standard].concat());
        check(
            words("off", json!({"command": "x", "no_params": false, "envdir": null})),
            &[&["x", "--no_params=False"][..], &standard].concat(),
        );
    }

    #[test]
    fn bootstrap_methods_are_told_what_patroni_tells_them() {
        let words = |section: Value| {
            let section = section.as_object().expect("a section");
            let command = section["command"].as_str().expect("a command");
            bootstrap_words(command, section, "batman", Path::new("/data"))
        };
        check(
            words(json!({
                "command": "patroni_barman recover", "scope": "x", "datadir": "y", "barman_server": "my",
                "keep_existing_recovery_conf": true,
            })),
            &["patroni_barman", "recover", "--scope=batman", "--datadir=/data", "--barman_server=my"],
        );
        check(
            words(json!({
                "command": "/usr/bin/pgbackrest restore", "no_params": "yes", "recovery_conf": {"a": 1}, "delta": true,
                "target": "2020-01-01 00:00:00",
            })),
            &["/usr/bin/pgbackrest", "restore", "--delta=True", "--target=2020-01-01 00:00:00"],
        );
        check(
            words(json!({"command": "wal-g-restore 'a b'", "no_params": false, "backup": null})),
            &["wal-g-restore", "a b", "--scope=batman", "--datadir=/data"],
        );
        assert!(words(json!({"command": "wal-g-restore 'a b"})).is_err());
    }
}
