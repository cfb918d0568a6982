//! What patronictl writes to a real store, etcd and the agents' own, and what it refuses to write.
#![allow(clippy::disallowed_methods)]

mod etcd;
mod raft;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A store of its own; it is gone when this is dropped.
trait Store {
    /// How patronictl calls it.
    fn url(&self) -> String;
    fn put(&self, key: &str, value: &str);
    /// The value as it is stored.
    fn get(&self, key: &str) -> String;
}

fn path(key: &str) -> String {
    format!("/service/batman/{key}")
}

/// The operator: a store, and where temporary files are.
struct World {
    store: Box<dyn Store>,
    directory: TempDir,
}

impl World {
    fn with(store: Box<dyn Store>) -> Self {
        let world = World { store, directory: tempfile::tempdir().expect("directory") };
        world.store.put("config", CONFIG);
        world
    }

    /// Two members that do not answer, the first leads.
    fn with_members(store: Box<dyn Store>) -> Self {
        let world = World::with(store);
        world.store.put("leader", "p0");
        for name in ["p0", "p1"] {
            let data = r#"{"api_url":"http://127.0.0.1:1/patroni","conn_url":"postgres://127.0.0.1:1/postgres","state":"running"}"#;
            world.store.put(&format!("members/{name}"), data);
        }
        world
    }

    fn patronictl(&self, arguments: &[&str], editor: Option<&Path>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_patronictl"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("TMPDIR", self.directory.path()).env("DCS_URL", self.store.url());
        command.envs(editor.map(|path| ("EDITOR", path))).args(arguments).stdin(Stdio::null());
        command.output().expect("patronictl runs")
    }

    /// An editor that runs a line of shell on its file.
    fn editor(&self, line: &str) -> PathBuf {
        let path = self.directory.path().join("editor");
        std::fs::write(&path, format!("#!/bin/sh\n{line}\n")).expect("editor");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        path
    }

    /// The texts that edit-config kept.
    fn kept(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).expect("directory").filter_map(Result::ok);
        let kept = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("batman-config-"));
        kept.map(|entry| std::fs::read_to_string(entry.path()).expect("text")).collect()
    }
}

/// Each test on each store.
macro_rules! on_both {
    ($($test:ident)*) => {
        mod on_etcd {
            $(#[test] fn $test() { super::$test(Box::new(super::etcd::Etcd::start())); })*
        }
        mod on_raft {
            $(#[test] fn $test() { super::$test(Box::new(super::raft::Raft::start())); })*
        }
    };
}

on_both! {
    settings_are_written_in_the_bytes_of_the_reference
    a_concurrent_change_wins_and_the_text_is_kept
    nonsense_and_a_failing_editor_change_nothing_and_lose_nothing
    without_an_answering_member_requests_go_to_the_store
    mistyped_members_are_told_which_ones_were_meant
    keys_are_shown_as_they_are
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn error_of(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    text(&output.stderr)
}

const CONFIG: &str = r#"{"ttl":30,"postgresql":{"parameters":{"a.b":"ä"}}}"#;

fn settings_are_written_in_the_bytes_of_the_reference(store: Box<dyn Store>) {
    let world = World::with(store);
    let output = world.patronictl(&["edit-config", "batman", "-s", "ttl=20", "-p", "x.y=on", "--force"], None);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    assert!(
        said.contains("\n-ttl: 30\n+    x.y: true\n+ttl: 20\n") && said.ends_with("Configuration changed\n"),
        "{said}"
    );
    assert_eq!(
        world.store.get("config"),
        "{\"ttl\":20,\"postgresql\":{\"parameters\":{\"a.b\":\"\\u00e4\",\"x.y\":true}}}"
    );
}

fn a_concurrent_change_wins_and_the_text_is_kept(store: Box<dyn Store>) {
    let world = World::with(store);
    let line = format!(
        "{} edit-config batman -s ttl=99 --force >/dev/null; sed -i s/30/40/ $1",
        env!("CARGO_BIN_EXE_patronictl")
    );
    let editor = world.editor(&line);
    let output = world.patronictl(&["edit-config", "batman", "--force"], Some(&editor));
    let error = error_of(&output);
    assert!(error.starts_with("Error: Config modification aborted due to concurrent changes\n"), "{error}");
    assert_eq!(world.store.get("config"), CONFIG.replace("30", "99").replace('ä', "\\u00e4"));
    let kept = world.kept();
    assert!(kept.len() == 1 && kept[0].contains("ttl: 40"), "{kept:?}");
}

fn keys_are_shown_as_they_are(store: Box<dyn Store>) {
    let world = World::with_members(store);
    let listed = world.patronictl(&["store", "list", "batman", "-f", "json"], None);
    assert!(listed.status.success(), "{listed:?}");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let keys: Vec<&str> = listed.as_array().expect("an array").iter().filter_map(|row| row["Key"].as_str()).collect();
    assert_eq!(keys, ["config", "leader", "members/p0", "members/p1"]);
    assert_eq!(listed[0]["Value"], CONFIG);
    assert!(listed[0]["Version"].as_u64().is_some_and(|version| version > 0), "{listed}");
    for name in ["leader", "/service/batman/leader"] {
        let got = world.patronictl(&["store", "get", name, "batman"], None);
        assert_eq!((got.status.code(), text(&got.stdout)), (Some(0), "p0\n".to_owned()), "{name}");
    }
    let error = error_of(&world.patronictl(&["store", "get", "sync", "batman"], None));
    assert!(
        error.contains("there is no key sync below /service/batman/; there are: config, leader, members/p0"),
        "{error}"
    );
    let error = error_of(&world.patronictl(&["store", "get", "leader", "robin"], None));
    assert!(error.contains("has no keys below /service/robin/"), "{error}");
}

fn nonsense_and_a_failing_editor_change_nothing_and_lose_nothing(store: Box<dyn Store>) {
    let world = World::with(store);
    for (line, expected, kept) in [
        ("echo '[1' > $1", "Error: what the editor left is not YAML: ", 1),
        ("echo '- 1' > $1", "Error: what the editor left is not a configuration", 2),
        (": > $1", "Error: what the editor left is not a configuration", 3),
        ("echo x >> $1; exit 3", "Error: Editor exited with return code 3\nWhat you edited is kept in ", 4),
        ("exit 4", "Error: Editor exited with return code 4\n", 4),
        ("kill -KILL $$", "Error: Editor exited with return code -9\n", 4),
        // As Ctrl-C on a terminal: it goes to both programs, and ends the editor, which does not expect it.
        (
            "echo x >> $1; kill -INT $PPID; kill -INT $$; sleep 9",
            "Error: Editor exited with return code -2\nWhat you edited is kept in ",
            5,
        ),
    ] {
        let editor = world.editor(line);
        let error = error_of(&world.patronictl(&["edit-config", "batman", "--force"], Some(&editor)));
        assert!(error.starts_with(expected), "{line}: {error}");
        assert_eq!(world.kept().len(), kept, "{line}");
    }
    // What is not there is not said to be kept.
    let editor = world.editor("rm $1");
    let error = error_of(&world.patronictl(&["edit-config", "batman", "--force"], Some(&editor)));
    assert!(error.starts_with("Error: cannot read ") && !error.contains("kept in"), "{error}");
    assert_eq!(world.store.get("config"), CONFIG);
    // An editor may have a use of its own for Ctrl-C and Ctrl-\.
    let editor = world.editor("kill -INT $PPID; kill -QUIT $PPID; sed -i s/30/40/ $1");
    let output = world.patronictl(&["edit-config", "batman", "--force"], Some(&editor));
    assert!(output.status.success(), "{output:?}");
    assert!(world.store.get("config").contains(r#""ttl":40"#), "{}", world.store.get("config"));
}

fn without_an_answering_member_requests_go_to_the_store(store: Box<dyn Store>) {
    let world = World::with_members(store);
    let at = "2036-01-01T00:00:00+00:00";
    let output = world.patronictl(&["switchover", "batman", "--candidate", "p1", "--scheduled", at, "--force"], None);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains(" Could not switchover using Patroni api, falling back to DCS\n"), "{said}");
    assert_eq!(world.store.get("failover"), format!(r#"{{"leader":"p0","member":"p1","scheduled_at":"{at}"}}"#));
    let output = world.patronictl(&["flush", "batman", "switchover"], None);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(world.store.get("failover"), "{}");
}

fn mistyped_members_are_told_which_ones_were_meant(store: Box<dyn Store>) {
    let world = World::with_members(store);
    for (arguments, code) in [
        (&["restart", "batman", "p11", "--force"][..], 1),
        (&["switchover", "batman", "--candidate", "p11", "--force"], 1),
        (&["dsn", "batman", "-m", "p11"], 1),
        // What these print is for scripts, and as with the reference.
        (&["version", "batman", "p11"], 0),
        (&["query", "batman", "-m", "p11", "-c", "SELECT 1"], 0),
    ] {
        let output = world.patronictl(arguments, None);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(text(&output.stderr).contains("Did you mean 'p1'?"), "{arguments:?}: {output:?}");
        assert!(!text(&output.stdout).contains("Did you mean"), "{arguments:?}: {output:?}");
    }
    // Nobody is meant by a name that is right, nor by one that resembles none.
    for name in ["p1", "somebody"] {
        let output = world.patronictl(&["version", "batman", name], None);
        assert!(!text(&output.stderr).contains("Did you mean"), "{output:?}");
    }
}
