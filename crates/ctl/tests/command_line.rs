//! Command lines that need no store: exit codes and texts of 4.1.5's patronictl, recorded in `golden/usage.json`.

use std::process::{Command, Output};

fn patronictl(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patronictl"));
    command.args(arguments).env_clear().env("COLUMNS", "80").env("HOME", "/nonexistent");
    command.output().expect("patronictl runs")
}

#[test]
fn wrong_command_lines_end_as_in_the_reference() {
    let golden = include_str!("golden/usage.json");
    let rows: Vec<serde_json::Value> = serde_json::from_str(golden).expect("golden file");
    assert!(rows.len() > 25);
    for row in rows {
        let words: Vec<&str> = row["arguments"].as_array().expect("list").iter().filter_map(|w| w.as_str()).collect();
        let output = patronictl(&words);
        assert_eq!(output.status.code().map(i64::from), row["code"].as_i64(), "{words:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), row["stdout"].as_str().expect("text"), "{words:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), row["stderr"].as_str().expect("text"), "{words:?}");
    }
}

#[test]
fn without_a_command_the_help_is_shown_and_the_exit_code_is_2() {
    let output = patronictl(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("Usage: patronictl [OPTIONS] COMMAND [ARGS]..."));
}

#[test]
fn completions_are_accepted_by_bash() {
    let script = patronictl(&["completions", "bash"]);
    assert!(script.status.success());
    for (words, expected) in [
        ("list --format", "pretty tsv json yaml yml"),
        ("-c file store", "add backup get list move remove restore status --help"),
        ("store move", "--group --to --from --verify --force --help"),
        ("store", "add backup get list move remove restore status --help"),
    ] {
        let check = format!(
            "{}\nCOMP_WORDS=(patronictl {words} ''); COMP_CWORD={}; _patronictl; echo \"${{COMPREPLY[*]}}\"",
            String::from_utf8_lossy(&script.stdout),
            words.split(' ').count() + 1,
        );
        let output = Command::new("bash").args(["-c", &check]).output().expect("bash runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{words}");
    }
}

#[test]
fn commands_of_a_group_have_two_words() {
    for (words, code, part) in [
        (&["store"][..], 2, "\nCommands:\n  add "),
        (&["store", "--help"], 0, "\nCommands:\n  add "),
        (&["store", "mov"], 2, "Error: No such command 'mov'. (Did you mean one of: 'move', 'remove'?)"),
        (&["stor"], 2, "Error: No such command 'stor'. (Did you mean one of: 'doctor', 'history', 'store'?)"),
        (&["move"], 2, "Error: No such command 'move'."),
        (&["store", "move", "--help"], 0, "Usage: patronictl store move [OPTIONS] [CLUSTER_NAME]"),
        (&["--help"], 0, "\n  store            Look after the store that keeps the cluster's keys\n"),
    ] {
        let output = patronictl(words);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(part), "{words:?}: {text}");
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the directory is the test's own")]
fn a_store_that_cannot_be_found_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("patroni.yml");
    std::fs::write(&file, "kubernetes: {labels: {a: b}, context: no such one}").expect("can be written");
    let output = patronictl(&["-c", file.to_str().expect("a text"), "list", "batman"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.starts_with("Error: ") && text.contains("kubernetes.context: "), "{text}");
}
