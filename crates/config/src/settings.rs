//! From the trees to [`Settings`], what decisions depend on.

use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::cluster::Version;
use patroni_core::name::MemberName;
use patroni_core::python::PythonText;
use patroni_core::settings::{RewindSettings, Settings, SlotSettings, StandbyCluster, Synchronous, SynchronousMode};
use patroni_core::tags::{Tags, truthy};
use patroni_core::units::{parse_bool, parse_int};
use serde_json::Value;

use crate::config::Config;
use crate::timeouts::whole_seconds;

/// The settings: time-outs from the merged tree, flags straight from the store.
pub(crate) fn settings(effective: &JsonMap, dynamic: &JsonMap, version: Option<Version>, config: &Config) -> Settings {
    let flags = Flags(dynamic);
    let standby_cluster = flags.standby_cluster();
    // A standby cluster has methods of its own.
    let methods = standby_cluster
        .as_ref()
        .map_or(&config.postgresql.create_replica_methods, |section| &section.create_replica_methods)
        .clone();
    Settings {
        scope: config.scope.clone(),
        name: config.name.clone(),
        config_version: version,
        ttl: seconds_of(effective, "ttl", 30),
        loop_wait: seconds_of(effective, "loop_wait", 10),
        retry_timeout: seconds_of(effective, "retry_timeout", 10),
        maximum_lag_on_failover: at_least_zero(flags.int("maximum_lag_on_failover", None, 1_048_576)),
        check_timeline: flags.is_on("check_timeline"),
        primary_start_timeout: flags.seconds("primary_start_timeout", "master_start_timeout", 300),
        primary_stop_timeout: flags.seconds("primary_stop_timeout", "master_stop_timeout", 0),
        paused: flags.is_on("pause"),
        failsafe_mode: flags.is_on("failsafe_mode"),
        synchronous: flags.synchronous(standby_cluster.is_some()),
        standby_cluster,
        slots: flags.slots(),
        max_timelines_history: usize::try_from(flags.int("max_timelines_history", None, 0)).unwrap_or(0),
        tags: Tags(config.tags.clone()),
        can_bootstrap: config.bootstrap.is_some(),
        can_clone_without_leader: methods.iter().any(|method| config.postgresql.works_without_leader(method)),
        rewind: RewindSettings {
            use_pg_rewind: config.postgresql.use_pg_rewind,
            remove_data_directory_on_missing_wal: config.postgresql.remove_data_directory_on_missing_wal,
            remove_data_directory_on_rewind_failure: config.postgresql.remove_data_directory_on_rewind_failure,
            remove_data_directory_on_diverged_timelines: config.postgresql.remove_data_directory_on_diverged_timelines,
        },
    }
}

/// Settings before anything was read; replaced before anyone sees them.
pub(crate) fn initial() -> Settings {
    Settings {
        scope: String::new(),
        name: MemberName::new(""),
        config_version: None,
        ttl: Duration::from_secs(30),
        loop_wait: Duration::from_secs(10),
        retry_timeout: Duration::from_secs(10),
        maximum_lag_on_failover: 1_048_576,
        check_timeline: false,
        primary_start_timeout: Duration::from_secs(300),
        primary_stop_timeout: Duration::ZERO,
        paused: false,
        failsafe_mode: false,
        synchronous: Synchronous::default(),
        standby_cluster: None,
        slots: SlotSettings::default(),
        max_timelines_history: 0,
        tags: Tags::default(),
        can_bootstrap: false,
        can_clone_without_leader: false,
        rewind: RewindSettings::default(),
    }
}

fn seconds_of(tree: &JsonMap, name: &str, default: u64) -> Duration {
    Duration::from_secs(tree.get(name).and_then(whole_seconds).map_or(default, at_least_zero))
}

fn at_least_zero(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The dynamic configuration, read flag by flag. A value that makes no sense counts as not given.
struct Flags<'a>(&'a JsonMap);

impl Flags<'_> {
    fn is_on(&self, name: &str) -> bool {
        self.0.get(name).and_then(parse_bool).unwrap_or(false)
    }

    fn int(&self, name: &str, unit: Option<&str>, default: i64) -> i64 {
        self.0.get(name).and_then(|value| parse_int(value, unit)).unwrap_or(default)
    }

    /// A time-out that had another name once.
    fn seconds(&self, name: &str, old_name: &str, default: i64) -> Duration {
        let name = if self.0.contains_key(name) { name } else { old_name };
        Duration::from_secs(at_least_zero(self.int(name, None, default)))
    }

    fn synchronous(&self, is_standby_cluster: bool) -> Synchronous {
        let mode = self.0.get("synchronous_mode");
        let strict = self.is_on("synchronous_mode_strict");
        let count = self.int("synchronous_node_count", None, 1).max(i64::from(strict));
        let mode = match mode {
            _ if is_standby_cluster => SynchronousMode::Off,
            Some(mode) if mode.python_text().eq_ignore_ascii_case("quorum") => SynchronousMode::Quorum,
            Some(mode) if parse_bool(mode) == Some(true) => SynchronousMode::On,
            Some(_) | None => SynchronousMode::Off,
        };
        let hold = self.0.get("synchronous_mode_hold").and_then(parse_bool).unwrap_or(strict);
        Synchronous {
            mode,
            strict,
            node_count: u32::try_from(count.max(0)).unwrap_or(u32::MAX),
            maximum_lag: u64::try_from(self.int("maximum_lag_on_syncnode", None, -1)).ok().filter(|lag| *lag > 0),
            hold: hold && mode != SynchronousMode::Off,
        }
    }

    fn standby_cluster(&self) -> Option<StandbyCluster> {
        let section = self.0.get("standby_cluster")?.as_object()?;
        let is_set = ["host", "port", "restore_command"].iter().any(|name| section.get(*name).is_some_and(truthy));
        let text = |name: &str| section.get(name).filter(|v| truthy(v)).map(|v| v.python_text().into_owned());
        is_set.then(|| StandbyCluster {
            host: text("host"),
            port: text("port"),
            primary_slot_name: text("primary_slot_name"),
            restore_command: text("restore_command"),
            archive_cleanup_command: text("archive_cleanup_command"),
            recovery_min_apply_delay: text("recovery_min_apply_delay"),
            create_replica_methods: texts(section.get("create_replica_methods")),
        })
    }

    fn slots(&self) -> SlotSettings {
        let names = ["permanent_replication_slots", "permanent_slots", "slots"];
        let permanent = names.iter().filter_map(|name| self.0.get(*name)).find(|value| truthy(value));
        let ignore = self.0.get("ignore_slots").and_then(Value::as_array);
        SlotSettings {
            use_slots: match self.0.get("postgresql").and_then(|p| p.get("use_slots")) {
                None => true,
                Some(value) => parse_bool(value).unwrap_or(false),
            },
            permanent: permanent.and_then(Value::as_object).cloned().unwrap_or_default(),
            ignore: ignore.into_iter().flatten().filter_map(|item| item.as_object().cloned()).collect(),
            member_slots_ttl: Duration::from_secs(at_least_zero(self.int("member_slots_ttl", Some("s"), 1800))),
        }
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(items)) => items.iter().map(|item| item.python_text().into_owned()).collect(),
        Some(Value::String(text)) => text.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect(),
        _ => Vec::new(),
    }
}
