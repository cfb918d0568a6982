//! What is printed, compared with what Patroni 4.1.5 printed for the same keys (`tests/golden`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use patroni_core::cluster::Cluster;
use patroni_dcs::wire::{self, RawKey};
use serde_json::Value;

use crate::cli::parse::{self, Named};
use crate::cli::{help, man};
use crate::commands;
use crate::difflib::unified_diff;
use crate::members::{self, Show};
use crate::output::rows::{Format, Rows};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(name: &str) -> Value {
    let text = std::fs::read_to_string(directory().join(name)).expect(name);
    serde_json::from_str(&text).expect(name)
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The cluster with these keys.
fn cluster(keys: &Value) -> Cluster {
    let raw = |value: &Value| RawKey { value: text_of(value).into_bytes(), ..RawKey::default() };
    let mut stored = BTreeMap::new();
    for (name, value) in keys.as_object().expect("keys") {
        match name.as_str() {
            "members" => {
                for (member, data) in value.as_object().expect("members") {
                    stored.insert(format!("members/{member}"), raw(data));
                }
            }
            other => {
                stored.insert(other.to_owned(), raw(value));
            }
        }
    }
    wire::cluster(&stored)
}

#[test]
fn members_are_printed_as_the_reference_prints_them() {
    let mut compared = 0;
    for entry in std::fs::read_dir(directory()).expect("golden files") {
        let name = entry.expect("entry").file_name().into_string().expect("name");
        let golden = read(&name);
        let (Some(keys), Some(printed)) = (golden.get("keys"), golden.get("printed")) else { continue };
        let cluster = cluster(keys);
        for (how, expected) in printed.as_object().expect("printed") {
            let ours = if let Some(format) = how.strip_prefix("history ") {
                let lines = cluster.history.clone().map(|history| history.lines).unwrap_or_default();
                let rows = commands::history_rows(lines.into_iter().map(|line| line.0).collect());
                rows.render(Format::parse(format).expect("format"), "\t")
            } else {
                let (format, extended) = how.strip_suffix("+extended").map_or((how.as_str(), false), |f| (f, true));
                let format = Format::parse(format).expect("format");
                members::render(&cluster, Show { scope: "batman", extended, format, citus: None })
            };
            assert_eq!(ours, text_of(expected), "{name}, {how}");
            compared += 1;
        }
    }
    assert!(compared > 150, "only {compared} outputs were compared");
}

#[test]
fn rows_of_queries_are_printed_as_the_reference_prints_them() {
    let table = Rows {
        columns: Some(["n", "a", "b", "c"].map(str::to_owned).to_vec()),
        rows: vec![
            vec![1.into(), "a\tb".into(), true.into(), Value::Null],
            vec![22.into(), "x\ny".into(), false.into(), "z".into()],
        ],
        ..Rows::default()
    };
    let error =
        Rows { rows: vec![vec!["2026-11-23 01:00:00".into(), "ERROR, SQLSTATE: 42601".into()]], ..Rows::default() };
    let empty = Rows { columns: Some(vec!["n".to_owned()]), ..Rows::default() };
    let columnless = Rows { columns: Some(Vec::new()), rows: vec![Vec::new(); 2], ..Rows::default() };
    for (how, expected) in read("query_rows.json")["printed"].as_object().expect("printed") {
        let (format, kind) = how.split_once(' ').unwrap_or((how, ""));
        let rows = match kind {
            "error" => error.clone(),
            "empty" => empty.clone(),
            "columnless" => columnless.clone(),
            _ => table.clone(),
        };
        assert_eq!(rows.render(Format::parse(format).expect("format"), "\t"), text_of(expected), "{how}");
    }
}

#[test]
fn diffs_are_those_of_the_reference() {
    let golden = read("diffs.json");
    let rows = golden.as_array().expect("rows");
    assert!(rows.len() >= 40);
    for row in rows {
        let diff = unified_diff(&text_of(&row["before"]), &text_of(&row["after"]));
        let printed: String = diff.into_iter().map(|line| line + "\n").collect();
        assert_eq!(printed, text_of(&row["diff"]), "{row}");
    }
}

/// Ours has examples at the end, and commands of its own.
#[test]
fn help_is_that_of_the_reference() {
    for (name, expected) in read("help.json").as_object().expect("help") {
        let expected = text_of(expected);
        if name.is_empty() {
            let known: Vec<_> = commands::ALL
                .iter()
                .copied()
                .filter(|command| expected.contains(&format!("  {} ", command.name)))
                .collect();
            assert_eq!(known.len(), 19);
            assert_eq!(help::overview(&known), expected);
            continue;
        }
        let command = commands::ALL.iter().find(|command| command.name == name).expect(name);
        let ours = help::command(command);
        let without_examples = ours.split("\nExamples:\n").next().unwrap_or_default();
        assert_eq!(without_examples, expected, "{name}");
    }
}

#[test]
fn each_command_has_an_example_that_it_understands_and_is_in_the_manual() {
    let manual = man::page(commands::ALL).replace("\\-", "-");
    for command in commands::ALL {
        assert!(!command.examples.is_empty(), "{}", command.name);
        for example in command.examples {
            let (before, line) = example.split_once("patronictl ").expect(example);
            let line = if before.ends_with('(') { line.trim_end_matches([')', '"']) } else { line };
            // What the shell does with it.
            let line = [" > ", " |"].iter().fold(line, |line, end| line.split(end).next().unwrap_or(line));
            let words = shlex::split(line).expect(example);
            let global = parse::parse_global(&words, commands::ALL).expect(example);
            let Ok(Named::Command(found, rest)) = parse::find_command(&global.rest, commands::ALL) else {
                panic!("{example}")
            };
            assert_eq!(found.name, command.name, "{example}");
            parse::parse_command(rest, found).expect(example);
            assert!(manual.contains(example), "{example}");
        }
        for option in command.options {
            assert!(manual.contains(&format!(".B {}", option.names.join(", "))), "{} {:?}", command.name, option.names);
        }
    }
}
