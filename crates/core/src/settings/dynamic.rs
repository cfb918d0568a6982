//! The dynamic configuration, read as values: the only place that knows what its settings mean.

use std::time::Duration;

use serde_json::Value;

use super::disk::disk;
use super::reader::{BOOLEAN, Reader, Unusable};
use super::timing::{Adjustment, Timing, seconds};
use super::{DiskSettings, SlotSettings, StandbyCluster, Synchronous, SynchronousMode};
use crate::JsonMap;
use crate::cluster::Cluster;
use crate::python::PythonText;
use crate::slots;
use crate::units::parse_bool;

/// What the key `/config` says about the cluster as a whole. The default is what an empty one says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dynamic {
    /// `ttl`: how long a lease lasts.
    pub ttl: Duration,
    /// `loop_wait`: the longest pause between two ticks.
    pub loop_wait: Duration,
    /// `retry_timeout`: how long an operation on the store or on PostgreSQL may be retried.
    pub retry_timeout: Duration,
    /// `maximum_lag_on_failover`, in bytes.
    pub maximum_lag_on_failover: u64,
    /// `check_timeline`: candidates on an old timeline are refused.
    pub check_timeline: bool,
    /// `primary_start_timeout`: how long a crashed primary may take to come back before others may take over.
    pub primary_start_timeout: Duration,
    /// `primary_hang_timeout`: how long the server of the leader may hang before others may take over; half of `ttl` by default,
    /// zero for ever (not in Patroni).
    pub primary_hang_timeout: Duration,
    /// `primary_stop_timeout`: limit of a stop in synchronous mode; zero for none.
    pub primary_stop_timeout: Duration,
    /// `pause`: nothing is done to PostgreSQL.
    pub paused: bool,
    /// `failsafe_mode`.
    pub failsafe_mode: bool,
    /// `synchronous_mode` and what belongs to it; off in a standby cluster.
    pub synchronous: Synchronous,
    /// `standby_cluster`, if it names a host, a port or a restore_command.
    pub standby_cluster: Option<StandbyCluster>,
    /// `slots`, `ignore_slots`, `member_slots_ttl`, `postgresql.use_slots`.
    pub slots: SlotSettings,
    /// `max_timelines_history`; zero for no limit.
    pub max_timelines_history: usize,
    /// `disk_free_warning`, `full_wal_switchover`.
    pub disk: DiskSettings,
}

/// A configuration that was read, with what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The values in force.
    pub dynamic: Dynamic,
    /// The time-outs as they are in force.
    pub timing: Timing,
    /// The values that cannot be used: the defaults are in force instead.
    pub unusable: Vec<Unusable>,
    /// The time-outs that had to be changed.
    pub adjusted: Vec<Adjustment>,
}

impl Default for Dynamic {
    fn default() -> Self {
        Dynamic::of(&JsonMap::new())
    }
}

impl Dynamic {
    /// The values in force under this configuration. One that cannot be used counts as not given, and hides no other.
    pub fn of(config: &JsonMap) -> Self {
        Dynamic::read(config).dynamic
    }

    /// The same of the configuration that the store holds, if it holds one.
    pub fn of_cluster(cluster: &Cluster) -> Self {
        cluster.settings().map(Dynamic::of).unwrap_or_default()
    }

    /// How long the server of the leader may hang; `None` for ever: nobody looks whether it does.
    pub fn hang_limit(&self) -> Option<Duration> {
        Some(self.primary_hang_timeout).filter(|limit| !limit.is_zero())
    }

    /// Reads a configuration, and tells what is wrong with it. Settings that nobody knows are none of its business.
    pub fn read(config: &JsonMap) -> Reading {
        let mut reader = Reader::of(config, "");
        let mut adjusted = Vec::new();
        let timing = Timing::read(&mut reader, &mut adjusted);
        let standby_cluster = standby_cluster(&mut reader);
        let dynamic = Dynamic {
            ttl: seconds(timing.ttl),
            loop_wait: seconds(timing.loop_wait),
            retry_timeout: seconds(timing.retry_timeout),
            maximum_lag_on_failover: at_least_zero(bytes(&mut reader, "maximum_lag_on_failover").unwrap_or(1_048_576)),
            check_timeline: is_on(&mut reader, "check_timeline"),
            primary_start_timeout: timeout(&mut reader, ["primary_start_timeout", "master_start_timeout"], 300),
            primary_hang_timeout: seconds(
                reader.int("primary_hang_timeout", None, "a whole number of seconds").unwrap_or(timing.ttl / 2),
            ),
            primary_stop_timeout: timeout(&mut reader, ["primary_stop_timeout", "master_stop_timeout"], 0),
            paused: is_on(&mut reader, "pause"),
            failsafe_mode: is_on(&mut reader, "failsafe_mode"),
            synchronous: synchronous(&mut reader, standby_cluster.is_some()),
            standby_cluster,
            slots: slot_settings(&mut reader),
            max_timelines_history: usize::try_from(number(&mut reader, "max_timelines_history").unwrap_or(0))
                .unwrap_or(0),
            disk: disk(&mut reader),
        };
        Reading { dynamic, timing, unusable: reader.into_unusable(), adjusted }
    }
}

fn at_least_zero(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn is_on(reader: &mut Reader<'_>, name: &str) -> bool {
    reader.flag(name).unwrap_or(false)
}

fn number(reader: &mut Reader<'_>, name: &str) -> Option<i64> {
    reader.int(name, None, "a whole number")
}

fn bytes(reader: &mut Reader<'_>, name: &str) -> Option<i64> {
    reader.int(name, None, "a whole number of bytes, without a unit")
}

/// A time-out that had another name once: the old one counts where the new one is absent.
fn timeout(reader: &mut Reader<'_>, [name, old_name]: [&str; 2], default: i64) -> Duration {
    let name = if reader.has(name) { name } else { old_name };
    seconds(reader.int(name, None, "a whole number of seconds").unwrap_or(default))
}

fn synchronous(reader: &mut Reader<'_>, is_standby_cluster: bool) -> Synchronous {
    let mode = synchronous_mode(reader);
    let mode = if is_standby_cluster { SynchronousMode::Off } else { mode };
    let strict = is_on(reader, "synchronous_mode_strict");
    let count = number(reader, "synchronous_node_count").unwrap_or(1).max(i64::from(strict));
    let hold = reader.flag("synchronous_mode_hold").unwrap_or(strict);
    Synchronous {
        mode,
        strict,
        node_count: u32::try_from(count.max(0)).unwrap_or(u32::MAX),
        maximum_lag: bytes(reader, "maximum_lag_on_syncnode")
            .and_then(|lag| u64::try_from(lag).ok())
            .filter(|lag| *lag > 0),
        hold: hold && mode != SynchronousMode::Off,
    }
}

fn synchronous_mode(reader: &mut Reader<'_>) -> SynchronousMode {
    let name = "synchronous_mode";
    let Some(value) = reader.filled(name) else { return SynchronousMode::Off };
    match parse_bool(value) {
        _ if value.python_text().to_lowercase() == "quorum" => SynchronousMode::Quorum,
        Some(true) => SynchronousMode::On,
        Some(false) => SynchronousMode::Off,
        None => {
            reader.refuse(name, value, &format!("{BOOLEAN} or quorum"));
            SynchronousMode::Off
        }
    }
}

fn standby_cluster(reader: &mut Reader<'_>) -> Option<StandbyCluster> {
    let mut section = Reader::of(reader.mapping("standby_cluster")?, "standby_cluster.");
    let found = StandbyCluster {
        host: section.text("host"),
        port: section.text("port"),
        primary_slot_name: section.text("primary_slot_name"),
        restore_command: section.text("restore_command"),
        archive_cleanup_command: section.text("archive_cleanup_command"),
        recovery_min_apply_delay: section.text("recovery_min_apply_delay"),
        create_replica_methods: section.words("create_replica_methods"),
    };
    // With one of these, even with one that cannot be used, this is no cluster of its own: nobody may be promoted.
    let is_set = ["host", "port", "restore_command"].iter().any(|name| section.filled(name).is_some());
    reader.extend(section.into_unusable());
    is_set.then_some(found)
}

fn slot_settings(reader: &mut Reader<'_>) -> SlotSettings {
    // Whether that is a mapping is looked at by whoever reads all of it.
    let postgresql = reader.filled("postgresql").and_then(Value::as_object);
    let use_slots = postgresql.map(|section| {
        let mut section = Reader::of(section, "postgresql.");
        let is_null = section.has("use_slots") && section.value("use_slots").is_none();
        let use_slots = section.flag("use_slots").unwrap_or(!is_null);
        (use_slots, section.into_unusable())
    });
    let (use_slots, unusable) = use_slots.unwrap_or((true, Vec::new()));
    reader.extend(unusable);
    let names = ["permanent_replication_slots", "permanent_slots", "slots"];
    let permanent = names.into_iter().find(|name| reader.filled(name).is_some());
    SlotSettings {
        use_slots,
        permanent: permanent.and_then(|name| permanent_slots(reader, name)).unwrap_or_default(),
        ignore: ignored_slots(reader),
        member_slots_ttl: seconds(
            reader
                .int("member_slots_ttl", Some("s"), "a time, such as 30min (in seconds without a unit)")
                .unwrap_or(1800),
        ),
    }
}

/// As written. A slot that makes no sense is reported, and again where the slots are made.
fn permanent_slots(reader: &mut Reader<'_>, name: &str) -> Option<JsonMap> {
    let map = reader.mapping(name)?;
    let is_slot = |value: &Value| slots::is_physical(value) || slots::logical_kind(value).is_some();
    for (slot, value) in map.iter().filter(|(_, value)| !is_slot(value)) {
        reader.refuse(
            &format!("{name}.{slot}"),
            value,
            "a mapping with type: physical, or type: logical, database and plugin",
        );
    }
    Some(map.clone())
}

fn ignored_slots(reader: &mut Reader<'_>) -> Vec<JsonMap> {
    let Some(value) = reader.filled("ignore_slots") else { return Vec::new() };
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if !value.is_array() || !items.iter().all(Value::is_object) {
        reader.refuse("ignore_slots", value, "a list of mappings");
    }
    items.iter().filter_map(|item| item.as_object().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: Value) -> Reading {
        Dynamic::read(config.as_object().expect("a mapping"))
    }

    /// What Patroni 4.1.5 makes of these values.
    #[test]
    fn values() {
        let found = read(json!({
            "pause": "on", "check_timeline": 1, "failsafe_mode": "TRUE", "maximum_lag_on_failover": "0x100",
            "primary_start_timeout": 0.6, "master_stop_timeout": "7", "max_timelines_history": 3, "member_slots_ttl": "1h",
            "synchronous_mode": "Quorum", "synchronous_mode_strict": "yes", "synchronous_node_count": 0,
            "maximum_lag_on_syncnode": -1, "slots": {"a": 0, "b": {"type": "physical"}}, "ignore_slots": [{"name": "x"}],
            "postgresql": {"use_slots": "off"},
        }));
        assert_eq!(found.unusable, []);
        let d = found.dynamic;
        assert!(d.paused && d.check_timeline && d.failsafe_mode && d.synchronous.strict && d.synchronous.hold);
        assert_eq!((d.maximum_lag_on_failover, d.max_timelines_history), (256, 3));
        assert_eq!((d.primary_start_timeout.as_secs(), d.primary_stop_timeout.as_secs()), (1, 7));
        assert_eq!((d.synchronous.mode, d.synchronous.node_count), (SynchronousMode::Quorum, 1));
        assert_eq!((d.synchronous.maximum_lag, d.slots.member_slots_ttl.as_secs()), (None, 3600));
        assert_eq!((d.slots.use_slots, d.slots.permanent.len(), d.slots.ignore.len()), (false, 2, 1));
    }

    #[test]
    fn a_server_may_hang_for_half_of_ttl() {
        let limit = |config| read(config).dynamic.hang_limit().map(|limit| limit.as_secs());
        assert_eq!(limit(json!({})), Some(15));
        assert_eq!(limit(json!({"ttl": 60})), Some(30));
        assert_eq!(limit(json!({"ttl": 60, "primary_hang_timeout": 7})), Some(7));
        assert_eq!(limit(json!({"primary_hang_timeout": 0})), None);
    }

    #[test]
    fn a_standby_cluster_replicates_from_somewhere() {
        let section = json!({"host": "", "port": 5432, "create_replica_methods": "a, b"});
        let found = read(json!({"synchronous_mode": true, "standby_cluster": section})).dynamic;
        let standby = found.standby_cluster.expect("it has a port");
        assert_eq!((standby.host, standby.port.as_deref()), (None, Some("5432")));
        assert_eq!(
            (standby.create_replica_methods, found.synchronous.mode),
            (vec!["a".into(), "b".into()], SynchronousMode::Off)
        );
        assert_eq!(read(json!({"standby_cluster": {"primary_slot_name": "x"}})).dynamic.standby_cluster, None);
    }

    /// One at a time: the default, or what Patroni takes such a value for, is in force, and it is named.
    #[test]
    fn a_value_that_cannot_be_used_is_named_and_hides_no_other() {
        let mut all = JsonMap::new();
        let mut named = Vec::new();
        for (config, expected) in [
            (json!({"ttl": "abc"}), "ttl is \"abc\", but must be a whole number of seconds"),
            (json!({"loop_wait": []}), "loop_wait is \"[]\", but must be a whole number of seconds"),
            (
                json!({"maximum_lag_on_failover": "1MB"}),
                "maximum_lag_on_failover is \"1MB\", but must be a whole number of bytes, without a unit",
            ),
            (
                json!({"check_timeline": "maybe"}),
                "check_timeline is \"maybe\", but must be a boolean (on, off, true, false, yes, no)",
            ),
            (
                json!({"synchronous_mode": "quorm"}),
                "synchronous_mode is \"quorm\", but must be a boolean (on, off, true, false, yes, no) or quorum",
            ),
            (
                json!({"primary_start_timeout": "5min"}),
                "primary_start_timeout is \"5min\", but must be a whole number of seconds",
            ),
            (
                json!({"member_slots_ttl": "1 fortnight"}),
                "member_slots_ttl is \"1 fortnight\", but must be a time, such as 30min (in seconds without a unit)",
            ),
            (
                json!({"disk_free_warning": "much"}),
                "disk_free_warning is \"much\", but must be a share of the disk (5%) or a size (10GB; in megabytes without a unit)",
            ),
            (
                json!({"full_wal_switchover": "always"}),
                "full_wal_switchover is \"always\", but must be a boolean (on, off, true, false, yes, no) or crash",
            ),
            (json!({"standby_cluster": "host"}), "standby_cluster is \"host\", but must be a mapping"),
            (json!({"slots": ["a"]}), "slots is \"['a']\", but must be a mapping"),
            (json!({"ignore_slots": [1]}), "ignore_slots is \"[1]\", but must be a list of mappings"),
            (
                json!({"postgresql": {"use_slots": "x"}}),
                "postgresql.use_slots is \"x\", but must be a boolean (on, off, true, false, yes, no)",
            ),
        ] {
            let found = read(config.clone());
            assert_eq!(found.dynamic, Dynamic::default(), "{config}");
            assert_eq!(found.unusable.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected], "{config}");
            all.extend(config.as_object().cloned().expect("a mapping"));
            named.push(expected);
        }
        all.extend([("pause".to_owned(), json!(true)), ("retry_timeout".to_owned(), json!(5))]);
        let found = Dynamic::read(&all);
        assert!(found.dynamic.paused && found.dynamic.retry_timeout.as_secs() == 5);
        assert_eq!(found.unusable.len(), named.len(), "{:?}", found.unusable);
    }

    #[test]
    fn what_belongs_to_a_standby_cluster_or_to_slots_is_named_with_its_path() {
        let found = read(json!({"standby_cluster": {"host": ["a"], "create_replica_methods": [null]}}));
        // Nobody is promoted only because the address of the primary cannot be read.
        assert_eq!(found.dynamic.standby_cluster, Some(StandbyCluster::default()));
        assert_eq!(
            found.unusable.iter().map(|one| &*one.path).collect::<Vec<_>>(),
            ["standby_cluster.host", "standby_cluster.create_replica_methods"]
        );
        let found = read(json!({"slots": {"a": {"type": "logical"}, "b": null}}));
        assert_eq!(found.unusable.iter().map(|one| &*one.path).collect::<Vec<_>>(), ["slots.a"]);
        assert_eq!(found.dynamic.slots.permanent.len(), 2);
    }

    #[test]
    fn null_is_not_given() {
        let names = [
            "ttl",
            "pause",
            "synchronous_mode",
            "maximum_lag_on_failover",
            "standby_cluster",
            "slots",
            "ignore_slots",
            "postgresql",
        ];
        let config = names.map(|name| (name.to_owned(), Value::Null)).into_iter().collect();
        let found = Dynamic::read(&config);
        assert_eq!((found.dynamic, found.unusable), (Dynamic::default(), vec![]));
    }
}
