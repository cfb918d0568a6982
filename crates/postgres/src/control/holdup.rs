//! Who holds up a shutdown: processes that do not end, as the kernel shows them. PostgreSQL takes no connections any more then.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Control;
use crate::blocking;
use crate::cancel::Progress;
use crate::postmaster::Postmaster;
use crate::processes::{Stat, tree};

/// A shutdown that takes longer than this is looked into.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is said who is waited for.
const PERIOD: Duration = Duration::from_secs(10);

/// How long PostgreSQL may take to tell what its processes wait for, before it is stopped.
const ACTIVITY_LIMIT: Duration = Duration::from_millis(500);

/// What processes waited for shortly before the stop, by their numbers.
pub(super) type WaitEvents = BTreeMap<i32, String>;

impl Control {
    /// What the processes wait for now. Empty where PostgreSQL does not say so at once.
    pub(super) async fn wait_events(&self) -> WaitEvents {
        const SQL: &str = "SELECT pid, wait_event_type || ':' || wait_event FROM pg_catalog.pg_stat_get_activity(NULL) \
                           WHERE wait_event IS NOT NULL";
        let ask = async {
            let connection = self.monitor.connect("stop").await.ok()?;
            connection.query_within(SQL, ACTIVITY_LIMIT).await.ok()
        };
        let rows = tokio::time::timeout(ACTIVITY_LIMIT, ask).await.ok().flatten().unwrap_or_default();
        rows.iter().filter_map(|row| Some((row.parse(0)?, row.get(1)?.to_owned()))).collect()
    }
}

/// Says again and again who is waited for, in the log and as progress of the job. Never returns.
pub(super) async fn report(
    postmaster: &Postmaster,
    limit: Option<Duration>,
    events: &WaitEvents,
    progress: &Progress,
) -> std::convert::Infallible {
    let begun = Instant::now();
    sleep(PATIENCE).await;
    loop {
        let processes = blocking_look(postmaster.pid()).await;
        if let Some(text) = text(&processes, events, limit) {
            let seconds = begun.elapsed().as_secs();
            tracing::warn!("PostgreSQL has been stopping for {seconds} s: {text}");
            progress.remark(format!("stopping PostgreSQL: {text}"));
        }
        sleep(PERIOD).await;
    }
}

async fn blocking_look(postmaster: i32) -> Vec<Process> {
    blocking::within(blocking::LIMIT, "looking at processes", move || Ok(processes(postmaster)))
        .await
        .unwrap_or_default()
}

/// A child of the postmaster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    /// As `ps` shows it, without `postgres:` and the name of the cluster.
    title: String,
    /// The state by `/proc/PID/stat`.
    state: char,
}

/// Those that are waited for. The logger ends last, by itself.
fn processes(postmaster: i32) -> Vec<Process> {
    let children = tree(postmaster).into_iter().filter(|(pid, _)| *pid != postmaster);
    let process = |(pid, stat): (i32, Stat)| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Some(Process { pid, title: title(&command), state: stat.state })
    };
    children.filter_map(process).filter(|process| process.title != "logger").collect()
}

/// `postgres: batman: walsender replicator 10.0.0.2(5000) streaming 0/3000000`, with zeros at the end.
fn title(command: &str) -> String {
    let text = command.trim_end_matches(['\0', ' ']);
    let text = text.strip_prefix("postgres: ").unwrap_or(text);
    let text = text.split_once(": ").map_or(text, |(_cluster, title)| title);
    text.trim().to_owned()
}

/// What is said of them; `None` where nobody is left.
fn text(processes: &[Process], events: &WaitEvents, limit: Option<Duration>) -> Option<String> {
    const LAST: [&str; 3] = ["checkpointer", "background writer", "walwriter"];
    let is_last = |process: &&Process| LAST.iter().any(|name| process.title.starts_with(name));
    // These go when all others have gone: they hold it up only where they are alone.
    let (last, mut waited): (Vec<&Process>, Vec<&Process>) = processes.iter().partition(is_last);
    if waited.is_empty() {
        waited = last;
    }
    if waited.is_empty() {
        return None;
    }
    let shown: Vec<String> = waited.iter().map(|process| described(process, events.get(&process.pid))).collect();
    let mut text = format!("it waits for {}", shown.join(", "));
    if waited.iter().any(|process| process.title.starts_with("walsender")) {
        text.push_str("; wal_sender_timeout ends a walsender whose standby is gone");
    }
    if waited.iter().any(|process| process.title.starts_with("archiver")) {
        text.push_str("; nothing ends an archive_command that hangs but its own time limit");
    }
    text.push_str(&match limit {
        Some(limit) => format!("; it is aborted after primary_stop_timeout, {} s", limit.as_secs()),
        None => "; without a limit, because primary_stop_timeout is not set, or synchronous_mode is off".to_owned(),
    });
    Some(text)
}

fn described(process: &Process, event: Option<&String>) -> String {
    let state = match process.state {
        'T' | 't' => ", stopped by a signal",
        'D' => ", which waits for a disk",
        _ => "",
    };
    let event = event.map(|event| format!(", before that waiting for {event}")).unwrap_or_default();
    format!("process {} ({}){state}{event}", process.pid, process.title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for() {
        let process = |pid, title: &str, state| Process { pid, title: title.to_owned(), state };
        let sender = process(7, &title("postgres: batman: walsender rep 10.0.0.2(5000) streaming 0/30\0\0"), 'S');
        let backend = process(8, &title("postgres: app db 10.0.0.9(4000) idle"), 'T');
        let checkpointer = process(9, "checkpointer", 'D');
        let events = BTreeMap::from([(8, "Client:ClientRead".to_owned())]);
        let none = "; without a limit, because primary_stop_timeout is not set, or synchronous_mode is off";
        let rows = [
            (vec![], None, None),
            (
                vec![sender.clone(), checkpointer.clone()],
                None,
                Some(format!(
                    "it waits for process 7 (walsender rep 10.0.0.2(5000) streaming 0/30); wal_sender_timeout ends a walsender \
                     whose standby is gone{none}"
                )),
            ),
            (
                vec![backend],
                Some(Duration::from_secs(20)),
                Some(
                    "it waits for process 8 (app db 10.0.0.9(4000) idle), stopped by a signal, before that waiting for \
                     Client:ClientRead; it is aborted after primary_stop_timeout, 20 s"
                        .to_owned(),
                ),
            ),
            (
                vec![checkpointer],
                None,
                Some(format!("it waits for process 9 (checkpointer), which waits for a disk{none}")),
            ),
        ];
        for (processes, limit, expected) in rows {
            assert_eq!(text(&processes, &events, limit), expected);
        }
    }
}
