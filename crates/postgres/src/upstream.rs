//! What the primary answers to a connection like that of this standby's WAL receiver. PostgreSQL says it in its log only, which is not
//! everybody's to read, and often nowhere near.

use std::time::Duration;

use crate::cancel::Cancel;
use crate::monitor::Monitor;
use crate::programs::{self, Stderr};

/// How long the local server may take to say whom it follows.
const QUERY_LIMIT: Duration = Duration::from_secs(1);
/// How long the connection may take, in seconds, as the parameter says it.
const CONNECT_TIMEOUT: &str = "connect_timeout=2";
/// How long psql may take in all.
const LIMIT: Duration = Duration::from_secs(3);

/// Whom the standby follows, and what its WAL receiver does.
const UPSTREAM: &str =
    "SELECT current_setting('primary_conninfo'), (SELECT status FROM pg_catalog.pg_stat_wal_receiver)";

/// The error with which a replication connection fails, in PostgreSQL's words. `None`: it streams, follows nobody, or is let in, or it
/// could not be tried.
pub async fn refusal(monitor: &Monitor) -> Option<String> {
    let connection = monitor.connect("upstream").await.ok()?;
    let rows = connection.query_within(UPSTREAM, QUERY_LIMIT).await.ok()?;
    let row = rows.first()?;
    let conninfo = row.get(0).filter(|conninfo| is_to_be_tried(conninfo, row.get(1)))?;
    // psql, because it reads conninfo and password file as the server does.
    let mut command = monitor.programs().command("psql");
    command.args(["-X", "-A", "-t", "-w", "-c", "IDENTIFY_SYSTEM", "-d"]);
    command.arg(format!("{conninfo} replication=true {CONNECT_TIMEOUT}")).env("LC_ALL", "C");
    let tried = programs::run(command, None, Stderr::Keep, &Cancel::new(), Some(LIMIT)).await;
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(words(&output.stderr)).filter(|text| !text.is_empty()),
        Err(_) => None,
    }
}

/// Arguments can be seen by others on the machine.
fn is_to_be_tried(conninfo: &str, receiver: Option<&str>) -> bool {
    let holds_secret = conninfo.contains("password=");
    !conninfo.is_empty() && !holds_secret && receiver != Some("streaming")
}

/// Without the name of the program.
fn words(stderr: &str) -> String {
    let lines = stderr.lines().map(|line| line.strip_prefix("psql: error: ").unwrap_or(line).trim());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_psql_says_is_said() {
        let stderr = "psql: error: connection to server at \"db1\", port 5432 failed: FATAL:  no entry\n\tIs it on?\n";
        assert_eq!(words(stderr), "connection to server at \"db1\", port 5432 failed: FATAL:  no entry Is it on?");
        assert_eq!(words("\n"), "");
    }

    #[test]
    fn whom_nobody_refuses_is_not_tried() {
        for (conninfo, receiver, tried) in [
            ("host=a passfile=/p", None, true),
            ("host=a passfile=/p", Some("waiting"), true),
            ("host=a passfile=/p", Some("streaming"), false),
            ("", None, false),
            ("host=a sslpassword=x", None, false),
        ] {
            assert_eq!(is_to_be_tried(conninfo, receiver), tried, "{conninfo} {receiver:?}");
        }
    }
}
