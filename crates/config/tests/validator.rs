//! Findings of the validator: the same as those of Patroni 4.1.5, recorded. Places that differ from run to run have
//! names in the rows: `@BIN@` (programs), `@DATA@` (directories), `@LIVE@` and `@PORT@` (an address in use).
//! One thing is no finding here: that no store is configured. Then it is the embedded one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests may panic, and write where nobody else does")]

use std::fs::{Permissions, create_dir_all, set_permissions, write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use patroni_config::validate::{Options, report, validate};
use patroni_config::{Environment, Source, yaml};
use serde_json::Value;

const NO_STORE: &str = "consul  is not defined.\netcd  is not defined.\netcd3  is not defined.\nexhibitor  is not defined.\n\
                        kubernetes  is not defined.\nraft  is not defined.\nzookeeper  is not defined.\n";

fn lay_out(dir: &Path) {
    create_dir_all(dir.join("bin")).unwrap();
    for name in ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready"] {
        let program = dir.join("bin").join(name);
        write(&program, "#!/bin/sh\necho 'postgres (PostgreSQL) 15.4 (Debian 15.4-1)'\n").unwrap();
        set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    let data = dir.join("data");
    for name in ["foreign", "hidden/lost+found", "nowal", "right/pg_wal", "old/pg_xlog", "garbage"] {
        create_dir_all(data.join(name)).unwrap();
    }
    let files = [
        ("file", ""),
        ("foreign/x", ""),
        ("hidden/.x", ""),
        ("nowal/PG_VERSION", "15\n"),
        ("right/PG_VERSION", "15\n"),
        ("old/PG_VERSION", "9.6\n"),
        ("garbage/PG_VERSION", "abc\n"),
    ];
    for (name, text) in files {
        write(data.join(name), text).unwrap();
    }
}

#[test]
fn findings() {
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let live = listener.local_addr().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let replace = |text: &str| {
        text.replace("@BIN@", &path("bin"))
            .replace("@DATA@", &path("data"))
            .replace("@LIVE@", &live.to_string())
            .replace("@PORT@", &live.port().to_string())
    };
    let mut wrong = Vec::new();
    for line in include_str!("data/validator.jsonl").lines() {
        let row: Vec<Value> = serde_json::from_str(line).unwrap();
        let [text, expected, _, printed] = [0, 1, 2, 3].map(|i| replace(row[i].as_str().unwrap_or_default()));
        let Value::Object(mut config) = yaml::parse(&text).unwrap().to_json() else { panic!("{text}") };
        let found = validate(&mut config, Options::default());
        let expected = expected.replace(NO_STORE, "");
        let expected_lines: Vec<&str> = expected.lines().collect();
        if found != expected_lines {
            wrong.push(format!("{text}\nfound:\n{}\nexpected:\n{expected}", found.join("\n")));
        } else if row[2] == 0 {
            assert_eq!(yaml::dump(&Value::Object(config)), printed);
        }
    }
    assert!(wrong.is_empty(), "{} rows\n{}", wrong.len(), wrong.join("\n=====\n"));
}

#[test]
fn the_whole_command() {
    let source = |text: &str| {
        let variables = [("PATRONI_CONFIGURATION".to_owned(), text.to_owned())];
        Source::new(None, variables.into_iter().collect::<Environment>())
    };
    let all = report(&source(""), Options::default(), true).unwrap_err();
    assert!(all.starts_with("name  is not defined.\nscope  is not defined.\n"), "{all}");
    let broken = report(&source("a: ["), Options::default(), false).unwrap_err();
    assert!(broken.starts_with("invalid config file PATRONI_CONFIGURATION: line "), "{broken}");
}

#[test]
fn the_embedded_store_is_asked_where_it_is_used() {
    let asked = |text: &str| {
        let Value::Object(mut config) = yaml::parse(text).unwrap().to_json() else { panic!() };
        let options = Options { embedded: Some(|_| Some("raft: asked".to_owned())), ..Options::default() };
        let found = validate(&mut config, options);
        assert!(!found.iter().any(|line| line.ends_with("raft  is not defined.")), "{found:?}");
        found.iter().any(|line| line == "raft: asked")
    };
    for (text, expected) in [
        ("name: n1", true),
        ("raft: {password: x}", true),
        ("etcd3: {host: 'a:1'}", false),
        ("raft: {self_addr: 5}", false),
    ] {
        assert_eq!(asked(text), expected, "{text}");
    }
}

#[test]
fn ports_in_use_can_be_ignored() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("restapi: {{listen: '{}', connect_address: 'a:1'}}", listener.local_addr().unwrap());
    let findings = |ignore_listen_port| {
        let Value::Object(mut config) = yaml::parse(&text).unwrap().to_json() else { panic!() };
        let found = validate(&mut config, Options { ignore_listen_port, ..Options::default() });
        found.iter().filter(|line| line.contains("already in use")).count()
    };
    assert_eq!((findings(false), findings(true)), (1, 0));
}
