//! What patronictl writes to a real etcd, and what it refuses to write.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An etcd of its own on free ports; it is gone when this is dropped.
struct Etcd {
    process: Child,
    endpoint: String,
    directory: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let ports: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("port")).collect();
        let urls: Vec<String> = ports.iter().map(|p| format!("http://{}", p.local_addr().expect("address"))).collect();
        drop(ports);
        let process = Command::new("etcd")
            .args(["--name", "test", "--data-dir"])
            .arg(directory.path().join("etcd"))
            .args(["--listen-client-urls", &urls[0], "--advertise-client-urls", &urls[0]])
            .args(["--listen-peer-urls", &urls[1], "--initial-advertise-peer-urls", &urls[1]])
            .args(["--initial-cluster", &format!("test={}", urls[1])])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let etcd = Etcd { process, endpoint: urls[0].trim_start_matches("http://").to_owned(), directory };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !etcd.ctl(&["endpoint", "health"]).status.success() {
            assert!(Instant::now() < deadline, "etcd does not answer");
        }
        etcd
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint]).args(arguments);
        command.output().expect("etcdctl runs")
    }

    fn put(&self, key: &str, value: &str) {
        assert!(self.ctl(&["put", &format!("/service/batman/{key}"), value]).status.success(), "{key}");
    }

    fn get(&self, key: &str) -> String {
        let output = self.ctl(&["get", "--print-value-only", &format!("/service/batman/{key}")]);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn patronictl(&self, arguments: &[&str], editor: Option<&Path>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_patronictl"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("TMPDIR", self.directory.path()).env("PATRONI_ETCD3_HOST", &self.endpoint);
        command.envs(editor.map(|path| ("EDITOR", path))).args(arguments).stdin(Stdio::null());
        command.output().expect("patronictl runs")
    }

    /// An editor that runs a line of shell on its file.
    fn editor(&self, line: &str) -> std::path::PathBuf {
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

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn error_of(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const CONFIG: &str = r#"{"ttl":30,"postgresql":{"parameters":{"a.b":"ä"}}}"#;

#[test]
fn settings_are_written_in_the_bytes_of_the_reference() {
    let etcd = Etcd::start();
    etcd.put("config", CONFIG);
    let output = etcd.patronictl(&["edit-config", "batman", "-s", "ttl=20", "-p", "x.y=on", "--force"], None);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("\n-ttl: 30\n+    x.y: true\n+ttl: 20\n") && text.ends_with("Configuration changed\n"),
        "{text}"
    );
    assert_eq!(etcd.get("config"), "{\"ttl\":20,\"postgresql\":{\"parameters\":{\"a.b\":\"\\u00e4\",\"x.y\":true}}}");
}

#[test]
fn a_concurrent_change_wins_and_the_text_is_kept() {
    let etcd = Etcd::start();
    etcd.put("config", CONFIG);
    let line = format!(
        "ETCDCTL_API=3 etcdctl --endpoints {} put /service/batman/config '{{\"ttl\":99}}' >/dev/null; sed -i s/30/40/ $1",
        etcd.endpoint
    );
    let editor = etcd.editor(&line);
    let output = etcd.patronictl(&["edit-config", "batman", "--force"], Some(&editor));
    let error = error_of(&output);
    assert!(error.starts_with("Error: Config modification aborted due to concurrent changes\n"), "{error}");
    assert_eq!(etcd.get("config"), r#"{"ttl":99}"#);
    let kept = etcd.kept();
    assert!(kept.len() == 1 && kept[0].contains("ttl: 40"), "{kept:?}");
}

#[test]
fn nonsense_and_a_failing_editor_change_nothing_and_lose_nothing() {
    let etcd = Etcd::start();
    etcd.put("config", CONFIG);
    for (line, expected, kept) in [
        ("echo '[1' > $1", "Error: what the editor left is not YAML: ", 1),
        ("echo '- 1' > $1", "Error: what the editor left is not a configuration", 2),
        (": > $1", "Error: what the editor left is not a configuration", 3),
        ("echo x >> $1; exit 3", "Error: Editor exited with return code 3\nWhat you edited is kept in ", 4),
        ("exit 4", "Error: Editor exited with return code 4\n", 4),
    ] {
        let editor = etcd.editor(line);
        let error = error_of(&etcd.patronictl(&["edit-config", "batman", "--force"], Some(&editor)));
        assert!(error.starts_with(expected), "{line}: {error}");
        assert_eq!(etcd.kept().len(), kept, "{line}");
    }
    assert_eq!(etcd.get("config"), CONFIG);
}

#[test]
fn without_an_answering_member_requests_go_to_the_store() {
    let etcd = Etcd::start();
    etcd.put("config", CONFIG);
    etcd.put("leader", "p0");
    for name in ["p0", "p1"] {
        let data = r#"{"api_url":"http://127.0.0.1:1/patroni","conn_url":"postgres://127.0.0.1:1/postgres","state":"running"}"#;
        etcd.put(&format!("members/{name}"), data);
    }
    let at = "2036-01-01T00:00:00+00:00";
    let output = etcd.patronictl(&["switchover", "batman", "--candidate", "p1", "--scheduled", at, "--force"], None);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(" Could not switchover using Patroni api, falling back to DCS\n"), "{text}");
    assert_eq!(etcd.get("failover"), format!(r#"{{"leader":"p0","member":"p1","scheduled_at":"{at}"}}"#));
    let output = etcd.patronictl(&["flush", "batman", "switchover"], None);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(etcd.get("failover"), "{}");
}
