use std::sync::Arc;

use patroni_core::job::UpstreamMember;
use patroni_core::settings::StandbyCluster;
use serde_json::json;

use super::*;
use crate::conf::FileOptions;
use crate::options::sample;

fn conf(version: u32, change: impl FnOnce(&mut FileOptions)) -> Conf {
    let mut files = FileOptions { use_slots: true, ..FileOptions::default() };
    change(&mut files);
    Conf::new(Arc::new(sample()), Arc::new(files), version)
}

fn member(conn_url: &str) -> Upstream {
    let slot = Some("n2".to_owned());
    Upstream::Member(UpstreamMember { name: "n1".into(), conn_url: conn_url.into(), slot })
}

fn object(value: Value) -> patroni_core::JsonMap {
    value.as_object().cloned().unwrap_or_default()
}

fn standby_cluster(host: &str) -> StandbyCluster {
    StandbyCluster {
        host: Some(host.into()),
        port: Some("5433".into()),
        primary_slot_name: Some("the-slot".into()),
        restore_command: Some("remote %f".into()),
        archive_cleanup_command: None,
        recovery_min_apply_delay: Some("5min".into()),
        create_replica_methods: Vec::new(),
    }
}

fn dsn(conf: &Conf, upstream: &Upstream) -> Option<String> {
    conf.recovery_parameters(upstream).primary_conninfo.map(|conninfo| conninfo.dsn(conf.version()))
}

#[test]
fn the_connection_to_the_upstream_is_written_as_patroni_writes_it() {
    let common = "sslmode=prefer sslcert=/c\\ rt application_name=n2 gssencmode=prefer channel_binding=prefer";
    let plain = conf(150_000, |_| {});
    let expected = format!("dbname=postgres user=rep password=pass host=10.0.0.1 port=5433 {common}");
    assert_eq!(dsn(&plain, &member("postgres://10.0.0.1:5433/postgres")), Some(expected));
    // Nothing but the address is taken from the store.
    let url = "postgres://evil:x@10.0.0.1/db?sslmode=disable&passfile=/x";
    let expected = format!("dbname=db user=rep password=pass host=10.0.0.1 port=5432 {common}");
    assert_eq!(dsn(&plain, &member(url)), Some(expected));
    let new = conf(170_000, |files| files.krbsrvname = Some("krb".into()));
    let text = dsn(&new, &member("postgres://h:1/p")).expect("a connection");
    assert!(text.contains("application_name=n2 krbsrvname=krb gssencmode=prefer"), "{text}");
    assert!(text.ends_with("channel_binding=prefer sslnegotiation=postgres"), "{text}");
    for nobody in [Upstream::None, Upstream::Remote, member("nonsense")] {
        assert_eq!(dsn(&plain, &nobody), None, "{nobody:?}");
    }
    let own = Upstream::Member(UpstreamMember { name: "n2".into(), conn_url: "postgres://h:1/p".into(), slot: None });
    assert_eq!(dsn(&plain, &own), None);
}

#[test]
fn a_remote_primary_has_its_own_slot_archive_and_delay() {
    let several = conf(150_000, |files| files.standby_cluster = Some(standby_cluster("a,b")));
    let recovery = several.recovery_parameters(&Upstream::Remote);
    let text = recovery.primary_conninfo.as_ref().expect("a connection").dsn(150_000);
    assert!(text.contains("host=a,b port=5433") && text.contains("target_session_attrs=read-write"), "{text}");
    assert_eq!(recovery.text("primary_slot_name"), "the_slot");
    assert_eq!(recovery.text("restore_command"), "remote %f");
    assert_eq!(recovery.text("recovery_min_apply_delay"), "5min");
    let one = conf(150_000, |files| files.standby_cluster = Some(standby_cluster("a")));
    assert!(!dsn(&one, &Upstream::Remote).expect("a connection").contains("target_session_attrs"));
    let replica = several.recovery_parameters(&member("postgres://h:1/p"));
    assert_eq!(replica.text("primary_slot_name"), "n2");
    assert_eq!(
        (replica.text("restore_command"), replica.text("recovery_min_apply_delay")),
        ("remote %f".into(), "".into())
    );
}

#[test]
fn configured_recovery_settings_are_taken_unless_patroni_decides_them() {
    let conf = conf(150_000, |files| {
        files.recovery_conf = object(json!({
            "restore_command": "cp", "primary_conninfo": "x", "primary_slot_name": "y", "recovery_target_time": "z",
            "standby_mode": "off", "trigger_file": "/t", "recovery_target_timeline": "3",
        }));
    });
    let recovery = conf.recovery_parameters(&Upstream::None);
    for (name, value) in [
        ("restore_command", "cp"),
        ("primary_slot_name", ""),
        ("recovery_target_time", ""),
        ("recovery_target_timeline", "latest"),
        ("promote_trigger_file", "/t"),
    ] {
        assert_eq!(recovery.text(name), value, "{name}");
    }
    assert!(!recovery.others.contains("standby_mode"));
}

fn row(name: &str, setting: &str, context: &str, file: Option<&str>) -> Setting {
    Setting {
        name: name.into(),
        setting: Some(setting.into()),
        unit: (name == "recovery_min_apply_delay").then(|| "ms".to_owned()),
        vartype: "string".into(),
        context: context.into(),
        sourcefile: file.map(str::to_owned),
    }
}

const OURS: Option<&str> = Some("/data/postgresql.conf");
const PASSWORDS: &str = "10.0.0.1:5433:*:rep:pass\n";

fn running(conninfo: &str, change: impl FnOnce(&mut RunningRecovery)) -> RunningRecovery {
    let mut running = RunningRecovery {
        settings: vec![
            row("primary_conninfo", conninfo, "sighup", OURS),
            row("primary_slot_name", "n2", "sighup", OURS),
            row("recovery_target_timeline", "latest", "postmaster", OURS),
            row("recovery_target_time", "", "postmaster", OURS),
            row("restore_command", "", "postmaster", None),
            row("recovery_min_apply_delay", "0", "sighup", None),
            row("recovery_target_action", "pause", "postmaster", None),
        ],
        receiver: None,
    };
    change(&mut running);
    running
}

fn set(running: &mut RunningRecovery, name: &str, value: &str, file: Option<&str>) {
    let row = running.settings.iter_mut().find(|row| row.name == name).expect(name);
    row.setting = Some(value.into());
    row.sourcefile = file.map(str::to_owned);
}

#[test]
fn what_differs_decides_between_reload_and_restart() {
    use UpstreamCheck::{Reload, Restart, UpToDate};
    let upstream = member("postgres://10.0.0.1:5433/postgres");
    let good =
        "user=rep passfile=/home/pgpass host=10.0.0.1 port=5433 sslmode=prefer sslcert='/c rt' application_name=n2";
    let receiver = |conninfo: &str, slot: &str| WalReceiver { conninfo: conninfo.into(), slot_name: slot.into() };
    type Change = Box<dyn Fn(&mut RunningRecovery)>;
    let rows: Vec<(&str, Change, UpstreamCheck)> = vec![
        ("nothing", Box::new(|_| {}), UpToDate),
        ("another host", Box::new(|r| set(r, "primary_conninfo", "host=other", OURS)), Reload),
        ("no connection", Box::new(|r| set(r, "primary_conninfo", "", OURS)), Reload),
        ("unreadable", Box::new(|r| set(r, "primary_conninfo", "host='", OURS)), Reload),
        ("another slot", Box::new(|r| set(r, "primary_slot_name", "x", OURS)), Reload),
        ("a delay of ours", Box::new(|r| set(r, "recovery_min_apply_delay", "5", OURS)), Reload),
        ("a delay of the user's", Box::new(|r| set(r, "recovery_min_apply_delay", "5", Some("/user"))), UpToDate),
        ("a restore_command of ours", Box::new(|r| set(r, "restore_command", "x", OURS)), Restart),
        ("a restore_command of the user's", Box::new(|r| set(r, "restore_command", "x", Some("/user"))), UpToDate),
        ("a target", Box::new(|r| set(r, "recovery_target_time", "2024-01-01", Some("/user"))), Restart),
        ("another action", Box::new(|r| set(r, "recovery_target_action", "promote", OURS)), UpToDate),
        (
            "the receiver follows",
            Box::new(move |r| r.receiver = Some(receiver(&format!("{good} dbname=replication"), "n2"))),
            UpToDate,
        ),
        ("the receiver follows another", Box::new(move |r| r.receiver = Some(receiver("host=other", "n2"))), Reload),
        ("the receiver has no slot", Box::new(move |r| r.receiver = Some(receiver(good, ""))), Reload),
    ];
    let conf = conf(150_000, |_| {});
    let wanted = conf.recovery_parameters(&upstream);
    let is_ours = |file: &str| Some(file) == OURS;
    for (what, change, expected) in rows {
        let running = running(good, change);
        assert_eq!(compare(&wanted, &running, 150_000, Some(PASSWORDS), is_ours), expected, "{what}");
    }
    for passwords in [None, Some(""), Some("10.0.0.1:5433:*:rep:other\n")] {
        assert_eq!(compare(&wanted, &running(good, |_| {}), 150_000, passwords, is_ours), Reload, "{passwords:?}");
    }
    // dbname counts since version 17.
    assert_eq!(compare(&wanted, &running(good, |_| {}), 170_000, Some(PASSWORDS), is_ours), Reload);
}
