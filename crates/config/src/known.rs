//! Which settings exist; a warning for those that do not, with the nearest one that does.

use patroni_core::JsonMap;
use serde_json::Value;

use crate::local::Local;
use crate::origin::Origin;
use crate::precedence::{Layers, layers_of};
use crate::stores::STORES;
use crate::warning::Warning;

/// A section and the names that may stand in it. Sections that are not listed may hold anything: tags, parameters,
/// headers, options of tools, sections of replica and bootstrap methods.
const SECTIONS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "name",
            "scope",
            "namespace",
            "thread_pool_size",
            "thread_stack_size",
            "log",
            "ctl",
            "restapi",
            "bootstrap",
            "citus",
            "postgresql",
            "watchdog",
            "tags",
        ],
    ),
    (
        "log",
        &[
            "type",
            "level",
            "traceback_level",
            "format",
            "dateformat",
            "static_fields",
            "max_queue_size",
            "dir",
            "mode",
            "file_num",
            "file_size",
            "loggers",
            "deduplicate_heartbeat_logs",
        ],
    ),
    ("ctl", &["insecure", "cacert", "certfile", "keyfile", "keyfile_password", "authentication"]),
    (
        "restapi",
        &[
            "listen",
            "connect_address",
            "thread_pool_size",
            "authentication",
            "certfile",
            "keyfile",
            "keyfile_password",
            "cafile",
            "ciphers",
            "verify_client",
            "allowlist",
            "allowlist_include_members",
            "http_extra_headers",
            "https_extra_headers",
            "request_queue_size",
            "server_tokens",
            // Not a setting of Patroni.
            "compatibility",
        ],
    ),
    ("bootstrap.dcs", DYNAMIC),
    ("bootstrap.dcs.standby_cluster", STANDBY_CLUSTER),
    ("watchdog", &["mode", "device", "safety_margin", "driver"]),
    ("postgresql.authentication", &["superuser", "replication", "rewind"]),
    ("postgresql.authentication.superuser", crate::environment::AUTHENTICATION),
    ("postgresql.authentication.replication", crate::environment::AUTHENTICATION),
    ("postgresql.authentication.rewind", crate::environment::AUTHENTICATION),
    ("postgresql.callbacks", &["on_reload", "on_restart", "on_role_change", "on_start", "on_stop"]),
    (
        "postgresql.bin_name",
        &["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind"],
    ),
];

const DYNAMIC: &[&str] = &[
    "ttl",
    "loop_wait",
    "retry_timeout",
    "maximum_lag_on_failover",
    "maximum_lag_on_syncnode",
    "max_timelines_history",
    "check_timeline",
    "primary_start_timeout",
    "primary_hang_timeout",
    "master_start_timeout",
    "primary_stop_timeout",
    "master_stop_timeout",
    "synchronous_mode",
    "synchronous_mode_strict",
    "synchronous_mode_hold",
    "disk_free_warning",
    "full_wal_switchover",
    "synchronous_node_count",
    "failsafe_mode",
    "pause",
    "postgresql",
    "standby_cluster",
    "member_slots_ttl",
    "slots",
    "permanent_slots",
    "permanent_replication_slots",
    "ignore_slots",
];

const STANDBY_CLUSTER: &[&str] = &[
    "host",
    "port",
    "primary_slot_name",
    "create_replica_methods",
    "restore_command",
    "archive_cleanup_command",
    "recovery_min_apply_delay",
];

/// Settings that Patroni once had, and what took their place: nobody reads them any more.
const REPLACED: &[(&str, &str)] = &[
    ("bootstrap.users", "create users in a script, bootstrap.post_bootstrap"),
    ("postgresql.admin", "create users in a script, bootstrap.post_bootstrap"),
    ("postgresql.initdb", "use bootstrap.initdb"),
    ("postgresql.restore", "use postgresql.create_replica_methods, with a section for the method"),
    ("postgresql.maximum_lag_on_failover", "use bootstrap.dcs.maximum_lag_on_failover, or patronictl edit-config"),
    ("postgresql.callback", "use postgresql.callbacks"),
    ("restapi.auth", "use restapi.authentication with username and password"),
    ("etcd.ttl", "use bootstrap.dcs.ttl, or patronictl edit-config"),
    ("etcd.scope", "use scope, at the top"),
    ("zookeeper.scope", "use scope, at the top"),
    ("zookeeper.session_timeout", "use bootstrap.dcs.ttl, or patronictl edit-config"),
    ("zookeeper.reconnect_timeout", "use bootstrap.dcs.loop_wait, or patronictl edit-config"),
];

/// Settings that count only in the store, beside those of the whole cluster at the top of a file.
const IN_THE_STORE: &str =
    "it counts in the store only: use bootstrap.dcs.postgresql.use_slots, or patronictl edit-config";

/// The other way round.
const IN_A_FILE: &str = "it counts in the configuration file of a node only";

/// Names of `postgresql`, in files and in the store; others are warned about only if they do not look like the section of a replica method.
const POSTGRESQL: &[&str] = &[
    "listen",
    "connect_address",
    "proxy_address",
    "data_dir",
    "config_dir",
    "config_base_name",
    "bin_dir",
    "bin_name",
    "pgpass",
    "custom_conf",
    "database",
    "krbsrvname",
    "parameters",
    "pg_hba",
    "pg_ident",
    "authentication",
    "recovery_conf",
    "basebackup",
    "create_replica_method",
    "create_replica_methods",
    "callbacks",
    "use_unix_socket",
    "use_unix_socket_repl",
    "use_slots",
    "use_pg_rewind",
    "remove_data_directory_on_missing_wal",
    "remove_data_directory_on_rewind_failure",
    "remove_data_directory_on_diverged_timelines",
    "pg_ctl_timeout",
    "before_stop",
    "pre_promote",
    "name",
    "pg_rewind",
    "replication",
    "superuser",
];

/// Names of `bootstrap`; others as in [`POSTGRESQL`].
const BOOTSTRAP: &[&str] = &["dcs", "method", "initdb", "post_bootstrap", "post_init", "users", "pg_hba"];

/// Finds settings that nobody reads.
pub(crate) fn unknown(local: &Local) -> Vec<Warning> {
    let mut found: Vec<Warning> = replaced(local).chain(out_of_place(local)).collect();
    for (path, known) in SECTIONS {
        look(local, path, known, |_, _| false, &mut found);
    }
    for store in STORES.iter().filter(|store| !store.settings.is_empty()) {
        look(local, store.name, store.settings, |_, _| false, &mut found);
    }
    let is_method = |_: &str, value: &Value| value.is_object();
    look(local, "postgresql", POSTGRESQL, is_method, &mut found);
    look(local, STORED_POSTGRESQL, POSTGRESQL, is_method, &mut found);
    look(local, "bootstrap", BOOTSTRAP, is_method, &mut found);
    found
}

/// What nobody reads of the configuration in the store, one line each.
pub fn unread(config: &JsonMap) -> Vec<String> {
    let dcs = JsonMap::from_iter([("dcs".to_owned(), Value::Object(config.clone()))]);
    let tree = JsonMap::from_iter([("bootstrap".to_owned(), Value::Object(dcs))]);
    let line = |warning: Warning| {
        let text = warning.to_string().replace("bootstrap.dcs.", "");
        text.strip_prefix(&format!("{}: ", Origin::Default)).map_or_else(|| text.clone(), str::to_owned)
    };
    unknown(&Local { tree, ..Local::default() }).into_iter().map(line).collect()
}

/// What becomes the section `postgresql` in the store.
const STORED_POSTGRESQL: &str = "bootstrap.dcs.postgresql";

fn replaced(local: &Local) -> impl Iterator<Item = Warning> {
    let old = REPLACED.iter().copied().chain([("postgresql.use_slots", IN_THE_STORE)]);
    old.filter_map(|(path, instead)| no_effect(local, path.to_owned(), instead))
}

/// Settings of a node, in the configuration of the whole cluster.
fn out_of_place(local: &Local) -> impl Iterator<Item = Warning> {
    let of_a_node = |name: &&&str| layers_of(&format!("postgresql.{name}")) == Layers::LocalOnly;
    let paths = POSTGRESQL.iter().filter(of_a_node).map(|name| format!("{STORED_POSTGRESQL}.{name}"));
    paths.filter_map(|path| no_effect(local, path, IN_A_FILE))
}

fn no_effect(local: &Local, path: String, instead: &'static str) -> Option<Warning> {
    let (parent, name) = path.rsplit_once('.')?;
    let value = section(&local.tree, parent)?.get(name)?;
    let origin = local.origins.of(&path).clone();
    (!value.is_null()).then_some(Warning::Replaced { path, origin, instead })
}

fn look(
    local: &Local,
    path: &str,
    known: &[&'static str],
    allowed: impl Fn(&str, &Value) -> bool,
    found: &mut Vec<Warning>,
) {
    let Some(section) = section(&local.tree, path) else { return };
    let stores = STORES.iter().filter(|_| path.is_empty()).map(|store| store.name);
    let known: Vec<&'static str> = known.iter().copied().chain(stores).collect();
    for (name, value) in section.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
        let whole = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if allowed(name, value) || REPLACED.iter().any(|(old, _)| *old == whole) {
            continue;
        }
        let nearest = match path {
            // Settings of the whole cluster are a frequent guest at the top.
            "" if DYNAMIC.contains(&name.as_str()) => Some(format!("bootstrap.dcs.{name}")),
            _ => nearest(name, &known).map(|near| whole[..whole.len() - name.len()].to_owned() + near),
        };
        found.push(Warning::Unknown { origin: local.origins.of(&whole).clone(), path: whole, nearest });
    }
}

fn section<'a>(tree: &'a JsonMap, path: &str) -> Option<&'a JsonMap> {
    path.split('.').filter(|name| !name.is_empty()).try_fold(tree, |map, name| map.get(name)?.as_object())
}

/// The known name that differs least, if it differs by a typing error only.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let limit = (name.chars().count() / 3).max(1);
    let distances = known.iter().map(|known| (distance(name, known), *known));
    distances.filter(|(distance, _)| *distance <= limit).min().map(|(_, known)| known)
}

/// How many characters have to be changed, added, removed, or exchanged with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name() {
        let rows = [
            ("lisen", Some("listen")),
            ("datadir", Some("data_dir")),
            ("pg_hab", Some("pg_hba")),
            ("use_pgrewind", Some("use_pg_rewind")),
            ("frobnicate", None),
            ("x", None),
        ];
        for (name, expected) in rows {
            assert_eq!(nearest(name, POSTGRESQL), expected, "{name}");
        }
    }

    /// All that may stand in `postgresql` of a file may stand in the store, but for what belongs to a node.
    #[test]
    fn what_nobody_reads_in_the_store() {
        let config = serde_json::json!({
            "ttl": 30, "tttl": 30, "pause": null, "failsafe_mode": true, "check_timeline": true, "ignore_slots": [],
            "standby_cluster": {"host": "a", "hosts": "b"},
            "postgresql": {
                "callbacks": {"on_start": "x"}, "basebackup": [], "create_replica_methods": ["x"], "x": {"command": "y"},
                "pre_promote": "x", "before_stop": "x", "custom_conf": "x", "bin_dir": "x", "use_unix_socket": true,
                "pg_hba": [], "pg_ident": [], "recovery_conf": {}, "database": "x", "krbsrvname": "x", "use_slots": true,
                "pg_ctl_timeout": 1, "remove_data_directory_on_rewind_failure": true, "parameters": {"a": 1},
                "listen": "x", "data_dir": null, "pg_hab": [],
            },
        });
        let found = unread(config.as_object().expect("an object"));
        assert_eq!(
            found,
            [
                "the setting postgresql.listen has no effect; it counts in the configuration file of a node only",
                "unknown setting tttl (did you mean ttl?)",
                "unknown setting standby_cluster.hosts (did you mean standby_cluster.host?)",
                "unknown setting postgresql.pg_hab (did you mean postgresql.pg_hba?)",
            ]
        );
    }
}
