use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::python::PythonText;

fn map(value: Value) -> JsonMap {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// What Patroni 4.1.5 makes of these values, recorded. `foo_bar` is a parameter that the server says it has.
#[test]
fn values_are_checked_by_the_version_that_gets_them() {
    let available = BTreeSet::from(["foo_bar".to_owned()]);
    let rows = [
        (130000, "work_mem", json!("4MB"), Some("4MB"), None),
        (
            130000,
            "work_mem",
            json!("1kB"),
            Some("64"),
            Some("Value=1kB of parameter=work_mem is too low, increasing to 64kB"),
        ),
        (
            130000,
            "work_mem",
            json!(1_000_000_000_000i64),
            Some("2147483647"),
            Some("Value=1000000000000 of parameter=work_mem is too big, decreasing to 2147483647kB"),
        ),
        (
            150000,
            "max_connections",
            json!(1000000),
            Some("262143"),
            Some("Value=1000000 of parameter=max_connections is too big, decreasing to 262143"),
        ),
        (150000, "archive_mode", json!("always"), Some("always"), None),
        (150000, "archive_mode", json!(true), Some("True"), None),
        (
            150000,
            "archive_mode",
            json!("maybe"),
            None,
            Some("Removing enum parameter=archive_mode from the config due to the invalid value=maybe"),
        ),
        (150000, "client_min_messages", json!("DEBUG5"), Some("DEBUG5"), None),
        (
            150000,
            "client_min_messages",
            json!("loud"),
            None,
            Some("Removing enum parameter=client_min_messages from the config due to the invalid value=loud"),
        ),
        (
            150000,
            "fsync",
            json!("perhaps"),
            None,
            Some("Removing bool parameter=fsync from the config due to the invalid value=perhaps"),
        ),
        (150000, "seq_page_cost", json!("1.5"), Some("1.5"), None),
        (
            150000,
            "seq_page_cost",
            json!(-1),
            Some("0"),
            Some("Value=-1 of parameter=seq_page_cost is too low, increasing to 0"),
        ),
        (
            150000,
            "vacuum_cost_delay",
            json!("0.5s"),
            Some("100"),
            Some("Value=0.5s of parameter=vacuum_cost_delay is too big, decreasing to 100ms"),
        ),
        (150000, "vacuum_cost_delay", json!("1us"), Some("1us"), None),
        (
            150000,
            "log_connections",
            json!("receipt"),
            None,
            Some("Removing bool parameter=log_connections from the config due to the invalid value=receipt"),
        ),
        (180000, "log_connections", json!("receipt"), Some("receipt"), None),
        (
            150000,
            "io_method",
            json!("worker"),
            None,
            Some("Removing unexpected parameter=io_method value=worker from the config"),
        ),
        (180000, "io_method", json!("worker"), Some("worker"), None),
        (
            180000,
            "io_combine_limit",
            json!("4MB"),
            Some("128"),
            Some("Value=4MB of parameter=io_combine_limit is too big, decreasing to 1288kB"),
        ),
        (
            170000,
            "io_combine_limit",
            json!("4MB"),
            Some("32"),
            Some("Value=4MB of parameter=io_combine_limit is too big, decreasing to 328kB"),
        ),
        (150000, "pg_stat_statements.max", json!("x"), Some("x"), None),
        (150000, "nonsense", json!(1), None, Some("Removing unexpected parameter=nonsense value=1 from the config")),
        (150000, "foo_bar", json!(1), Some("1"), None),
        (150000, "restore_command", json!("x"), None, None),
        (150000, "standby_mode", json!("on"), None, None),
        (
            150018,
            "output_plugin_libraries",
            json!("x"),
            None,
            Some("Removing unexpected parameter=output_plugin_libraries value=x from the config"),
        ),
        (150019, "output_plugin_libraries", json!("x"), Some("x"), None),
        (140000, "DateStyle", json!("iso"), Some("iso"), None),
        (150000, "shared_buffers", json!("16MB"), Some("16MB"), None),
        (150000, "shared_buffers", json!("1TB"), Some("1TB"), None),
        (
            150000,
            "wal_keep_segments",
            json!(8),
            None,
            Some("Removing unexpected parameter=wal_keep_segments value=8 from the config"),
        ),
        (
            150000,
            "checkpoint_segments",
            json!(8),
            None,
            Some("Removing unexpected parameter=checkpoint_segments value=8 from the config"),
        ),
        (
            150000,
            "recursive_worktable_factor",
            json!("0.0001"),
            Some("0.001"),
            Some("Value=0.0001 of parameter=recursive_worktable_factor is too low, increasing to 0.001"),
        ),
        (
            150000,
            "max_wal_size",
            json!("1"),
            Some("2"),
            Some("Value=1 of parameter=max_wal_size is too low, increasing to 2MB"),
        ),
        (150000, "checkpoint_timeout", json!("1h"), Some("1h"), None),
        (150000, "work_mem", json!("4 MB"), Some("4 MB"), None),
        (
            150000,
            "work_mem",
            json!("many"),
            None,
            Some("Removing integer parameter=work_mem from the config due to the invalid value=many"),
        ),
        (150000, "autovacuum_vacuum_cost_delay", json!("-1"), Some("-1"), None),
        (
            150000,
            "temp_file_limit",
            json!("-2"),
            Some("-1"),
            Some("Value=-2 of parameter=temp_file_limit is too low, increasing to -1kB"),
        ),
    ];
    for (version, name, value, expected, warning) in rows {
        let checked = check_server_parameter(version, name, &value, &available);
        let text = checked.value.map(|v| v.python_text().into_owned());
        assert_eq!((text.as_deref(), checked.warning.as_deref()), (expected, warning), "{version} {name} {value}");
    }
}

/// As above, for the settings of recovery.
#[test]
fn recovery_values_are_checked_too() {
    let rows = [
        (150000, "recovery_min_apply_delay", json!("5min"), Some("5min"), None),
        (
            150000,
            "recovery_min_apply_delay",
            json!("-1"),
            Some("0"),
            Some("Value=-1 of parameter=recovery_min_apply_delay is too low, increasing to 0ms"),
        ),
        (150000, "recovery_target", json!("immediate"), Some("immediate"), None),
        (150000, "recovery_target", json!(""), Some(""), None),
        (
            150000,
            "recovery_target",
            json!("now"),
            None,
            Some("Removing enum parameter=recovery_target from the config due to the invalid value=now"),
        ),
        (150000, "promote_trigger_file", json!("x"), Some("x"), None),
        (
            160000,
            "promote_trigger_file",
            json!("x"),
            None,
            Some("Removing unexpected parameter=promote_trigger_file value=x from the config"),
        ),
        (150000, "restore_command", json!("cp"), Some("cp"), None),
        (
            150000,
            "work_mem",
            json!("1MB"),
            None,
            Some("Removing unexpected parameter=work_mem value=1MB from the config"),
        ),
    ];
    for (version, name, value, expected, warning) in rows {
        let checked = check_recovery_parameter(version, name, &value, &BTreeSet::new());
        let text = checked.value.map(|v| v.python_text().into_owned());
        assert_eq!((text.as_deref(), checked.warning.as_deref()), (expected, warning), "{version} {name} {value}");
    }
}

/// As above, for values of the store.
#[test]
fn global_parameters_have_least_values() {
    let rows = [
        (
            "max_connections",
            json!(24),
            Err("postgresql parameter max_connections=24 failed validation, defaulting to 100"),
        ),
        ("max_connections", json!(25), Ok(json!(25))),
        ("max_connections", json!("100"), Ok(json!(100))),
        (
            "max_connections",
            json!("x"),
            Err("postgresql parameter max_connections=x failed validation, defaulting to 100"),
        ),
        ("wal_level", json!("logical"), Ok(json!("logical"))),
        (
            "wal_level",
            json!("minimal"),
            Err("postgresql parameter wal_level=minimal failed validation, defaulting to hot_standby"),
        ),
        ("wal_level", json!("REPLICA"), Ok(json!("REPLICA"))),
        ("hot_standby", json!("off"), Err("postgresql parameter hot_standby=off failed validation, defaulting to on")),
        ("hot_standby", json!(true), Ok(json!(true))),
        (
            "wal_keep_size",
            json!("8MB"),
            Err("postgresql parameter wal_keep_size=8MB failed validation, defaulting to 128MB"),
        ),
        ("wal_keep_size", json!("1GB"), Ok(json!("1GB"))),
        ("wal_keep_size", json!(64), Ok(json!(64))),
        ("port", json!(5), Err("postgresql parameter port=5 failed validation, defaulting to None")),
        (
            "wal_log_hints",
            json!("maybe"),
            Err("postgresql parameter wal_log_hints=maybe failed validation, defaulting to on"),
        ),
        ("track_commit_timestamp", json!("on"), Ok(json!("on"))),
        (
            "max_replication_slots",
            json!(3),
            Err("postgresql parameter max_replication_slots=3 failed validation, defaulting to 10"),
        ),
        ("work_mem", json!("x"), Ok(json!("x"))),
        (
            "max_wal_senders",
            json!(null),
            Err("postgresql parameter max_wal_senders=None failed validation, defaulting to 10"),
        ),
    ];
    for (name, value, expected) in rows {
        let checked = check_global_parameter(name, &value);
        assert_eq!(checked, expected.map_err(str::to_owned), "{name} {value}");
    }
}

#[test]
fn the_command_line_has_the_global_parameters_in_their_order() {
    let parameters = Parameters::from(&map(json!({
        "max_connections": 100, "port": "5433", "wal_keep_size": "128MB", "work_mem": 1, "listen_addresses": "*"
    })));
    assert_eq!(command_line(&parameters), ["--listen_addresses=*", "--port=5433", "--max_connections=100"]);
}

#[test]
fn a_standby_starts_with_no_less_than_its_primary_had() {
    let wanted = Parameters::from(&map(json!({
        "max_connections": 100, "max_worker_processes": "8", "max_prepared_transactions": 5, "max_locks_per_transaction": 64
    })));
    let control = ControlSettings {
        max_connections: Some(200),
        max_worker_processes: Some(8),
        max_prepared_transactions: Some(0),
        max_locks_per_transaction: None,
        max_wal_senders: Some(10),
    };
    let raised = raise_to_control_data(&wanted, &control);
    assert_eq!(raised.effective.text("max_connections").as_deref(), Some("200"));
    assert_eq!(raised.effective.text("max_worker_processes").as_deref(), Some("8"));
    assert_eq!(raised.effective.text("max_prepared_transactions").as_deref(), Some("5"));
    assert!(!raised.effective.contains("max_wal_senders"));
    let reason = json!({"max_connections": {"old_value": "200", "new_value": "100"}});
    assert_eq!(Value::Object(raised.pending_restart), reason);
    let notes: Vec<_> = raised.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "max_connections value in pg_controldata: 200, in the global configuration: 100. pg_controldata value will be \
             used. Setting 'Pending restart' flag",
            "max_locks_per_xact setting is missing from pg_controldata output",
        ]
    );
}

fn row(name: &str, setting: &str, unit: Option<&str>, vartype: &str, context: &str) -> Setting {
    Setting {
        name: name.into(),
        setting: Some(setting.into()),
        unit: unit.map(str::to_owned),
        vartype: vartype.into(),
        context: context.into(),
        sourcefile: None,
    }
}

fn server() -> Vec<Setting> {
    vec![
        row("max_connections", "100", None, "integer", "postmaster"),
        row("work_mem", "4096", Some("kB"), "integer", "user"),
        row("wal_buffers", "512", Some("8kB"), "integer", "postmaster"),
        row("shared_buffers", "16384", Some("8kB"), "integer", "postmaster"),
        row("wal_segment_size", "16777216", Some("B"), "integer", "internal"),
        row("wal_block_size", "8192", None, "integer", "internal"),
        row("DateStyle", "ISO, MDY", None, "string", "user"),
        row("fsync", "on", None, "bool", "sighup"),
        row("listen_addresses", "127.0.0.1", None, "string", "postmaster"),
        row("hot_standby", "on", None, "bool", "postmaster"),
        row("random_page_cost", "4", None, "real", "user"),
    ]
}

#[test]
fn a_change_asks_for_a_reload_or_a_restart_or_nothing() {
    let difference = |old: &str, new: &str| json!({"old_value": old, "new_value": new});
    // before, after: write the files?, pending restart
    let rows = [
        (json!({"work_mem": "4MB"}), json!({"work_mem": "4096kB"}), false, json!({})),
        (json!({"work_mem": "4MB"}), json!({"work_mem": "5MB"}), true, json!({})),
        (json!({"work_mem": "4MB"}), json!({}), true, json!({})),
        (json!({"fsync": true}), json!({"fsync": "yes"}), false, json!({})),
        (json!({"fsync": true}), json!({"fsync": "off"}), true, json!({})),
        (json!({"datestyle": "ISO, MDY"}), json!({"DateStyle": "German"}), true, json!({})),
        (json!({"random_page_cost": 4}), json!({"random_page_cost": "4.0"}), false, json!({})),
        (json!({}), json!({"max_connections": 101}), true, json!({"max_connections": difference("100", "101")})),
        (json!({"max_connections": 100}), json!({"max_connections": "100"}), false, json!({})),
        (json!({"max_connections": 101}), json!({"max_connections": "100"}), true, json!({})),
        (
            json!({"shared_buffers": "128MB"}),
            json!({"shared_buffers": "256MB"}),
            true,
            json!({"shared_buffers": difference("128MB", "256MB")}),
        ),
        (json!({}), json!({"wal_buffers": -1}), false, json!({})),
        (json!({}), json!({"wal_buffers": "4MB"}), false, json!({})),
        (json!({}), json!({"wal_buffers": "8MB"}), true, json!({"wal_buffers": difference("4MB", "8MB")})),
        (json!({"wal_buffers": "4MB"}), json!({}), false, json!({})),
        (json!({}), json!({"hot_standby": "off"}), false, json!({})),
        (json!({}), json!({"restore_command": "x"}), false, json!({})),
        (json!({}), json!({"my.thing": 1}), true, json!({})),
        (json!({"my.thing": "1"}), json!({"my.thing": 1}), false, json!({})),
        (json!({"my.thing": "1"}), json!({}), true, json!({})),
        (json!({}), json!({"nonsense": 1}), false, json!({})),
        (json!({}), json!({"wal_block_size": 1}), false, json!({})),
    ];
    for (before, after, write, pending) in rows {
        let found = changes(&Parameters::from(&map(before.clone())), &Parameters::from(&map(after.clone())), &server());
        assert_eq!((found.write, Value::Object(found.pending_restart)), (write, pending), "{before} -> {after}");
    }
}

#[test]
fn changes_are_told_in_patronis_words() {
    let before = Parameters::from(&map(json!({"work_mem": "8MB"})));
    let after = Parameters::from(&map(
        json!({"max_connections": 101, "nonsense": 1, "listen_addresses": "*", "work_mem": "4MB"}),
    ));
    let found = changes(&before, &after, &server());
    assert_eq!(found.unknown, ["nonsense"]);
    assert!(found.address_changed);
    let notes: Vec<_> = found.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "Changed listen_addresses from '127.0.0.1' to '*' (restart might be required)",
            "Changed max_connections from '100' to '101' (restart might be required)",
            "Removing invalid parameter `nonsense` from postgresql.parameters",
            "Changed work_mem from '8MB' to '4MB'",
        ]
    );
}

#[test]
fn restarts_that_others_brought_about_are_told() {
    let rows = [
        row("max_connections", "100", None, "integer", "postmaster"),
        row("hot_standby", "on", None, "bool", "postmaster"),
    ];
    let expected = map(json!({"max_connections": {"old_value": "100", "new_value": "101"}}));
    let (found, note) = pending_restart(&rows, &expected, |_| Some("101"));
    assert_eq!((found, note), (expected.clone(), None));
    let (found, note) = pending_restart(&rows, &expected, |_| None);
    assert_eq!(Value::Object(found), json!({"max_connections": {"old_value": "100", "new_value": "?"}}));
    assert!(note.is_some_and(|note| note.to_string().contains("(max_connections) seem to be changed bypassing")));
}
