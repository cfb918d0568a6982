//! The log: records go into a bounded queue, a thread of its own writes them, so that a full disk or a terminal that
//! is stopped never stops the loop.
//!
//! Lines are Patroni's: `2024-08-28 19:39:26,352 INFO: no action. I am (a), the leader with the lock`. A critical
//! line is one with the field `critical = true`: `tracing::error!(critical = true, "...")`.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;

mod file;
mod heartbeat;
mod line;
mod options;
mod subscriber;

use file::{Limits, RotatingFile};
use heartbeat::HeartbeatFilter;
use line::{Formatter, Record};
pub use options::{Level, LogFormat, LogKind, LogOptions, ParseLevelError};

/// Lines that wait when all is well: a tick writes two.
const NORMAL_QUEUE: usize = 2;

/// How long the end of the program waits for the last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// How the queue of the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Lines that wait to be written.
    pub queued: usize,
    /// So many are normal.
    pub expected: usize,
    /// Lines that were lost because the queue was full, since that was last told.
    pub lost: u64,
}

/// Why the log cannot be as it should.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be written.
    #[error("cannot write {path}: {source}; check log.dir, it must exist and be writable")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another log was installed in this process, or the thread cannot be started.
    #[error("cannot start the log: {0}")]
    Start(String),
}

/// The running log.
pub struct Log {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Between those who log and the thread that writes.
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    lost: AtomicU64,
    // Changed when settings are loaded; read for every event.
    levels: RwLock<Levels>,
    lowest: AtomicU8,
}

struct Queue {
    records: VecDeque<Record>,
    limit: usize,
    /// Settings for the thread to take over.
    target: Option<Target>,
    closed: bool,
}

/// Where and how lines are written.
struct Target {
    formatter: Formatter,
    output: Option<Output>,
    limits: Limits,
    deduplicate: bool,
    at_info: bool,
}

enum Output {
    Stderr,
    File(RotatingFile),
}

/// Which level each part of the program has.
#[derive(Clone, Debug, Default)]
struct Levels {
    root: Level,
    loggers: Vec<(String, Level)>,
}

impl Levels {
    fn of(options: &LogOptions) -> Self {
        let mut loggers: Vec<_> = options.loggers.iter().map(|(name, level)| (name.clone(), *level)).collect();
        // The longest name is the most special.
        loggers.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Levels { root: options.level, loggers }
    }

    fn level(&self, logger: &str) -> Level {
        let special = self.loggers.iter().find(|(name, _)| {
            logger.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        match special {
            Some((_, level)) => *level,
            None if logger == "patroni" || logger.starts_with("patroni.") => self.root,
            // At DEBUG, libraries tell every frame that they send and take: only whoever names them wants that.
            None => self.root.max(Level::Info),
        }
    }

    fn lowest(&self) -> Level {
        self.loggers.iter().map(|(_, level)| *level).chain([self.root]).min().unwrap_or_default()
    }
}

impl Log {
    /// Starts the log and makes it the one of the process.
    ///
    /// # Errors
    /// The file cannot be opened, or there is a log already.
    pub fn start(options: &LogOptions) -> Result<Self, LogError> {
        let log = Self::detached(options)?;
        tracing::subscriber::set_global_default(subscriber::Records(Arc::clone(&log.shared)))
            .map_err(|e| LogError::Start(e.to_string()))?;
        Ok(log)
    }

    fn detached(options: &LogOptions) -> Result<Self, LogError> {
        let levels = Levels::of(options);
        let (mut target, problems) = Target::new(options);
        target.output = Some(open(options)?);
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                records: VecDeque::new(),
                limit: queue_limit(options),
                target: None,
                closed: false,
            }),
            filled: Condvar::new(),
            lost: AtomicU64::new(0),
            lowest: AtomicU8::new(levels.lowest() as u8),
            levels: RwLock::new(levels),
        });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&writer, target))
            .map_err(|e| LogError::Start(e.to_string()))?;
        let log = Log { shared, thread: Some(thread) };
        log.tell(&problems);
        Ok(log)
    }

    /// Applies new settings. On an error the old ones stay in force.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn reconfigure(&self, options: &LogOptions) -> Result<(), LogError> {
        let (mut target, problems) = Target::new(options);
        target.output = Some(open(options)?);
        let levels = Levels::of(options);
        self.shared.lowest.store(levels.lowest() as u8, Ordering::Relaxed);
        *self.shared.levels.write().unwrap_or_else(PoisonError::into_inner) = levels;
        {
            let mut queue = self.shared.queue();
            queue.limit = queue_limit(options);
            queue.target = Some(target);
        }
        self.shared.filled.notify_one();
        tracing::callsite::rebuild_interest_cache();
        self.tell(&problems);
        Ok(())
    }

    /// How the queue is: for the REST API.
    pub fn queue_state(&self) -> impl Fn() -> QueueState + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move || QueueState {
            queued: shared.queue().records.len(),
            expected: NORMAL_QUEUE,
            lost: shared.lost.load(Ordering::Relaxed),
        }
    }

    /// Writes what is still in the queue, as far as that does not take too long, and ends.
    pub fn shutdown(mut self) {
        self.close();
    }

    fn close(&mut self) {
        self.shared.queue().closed = true;
        self.shared.filled.notify_one();
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + FLUSH_LIMIT;
        let mut queue = self.shared.queue();
        while !thread.is_finished() && Instant::now() < deadline {
            let wait = Duration::from_millis(5);
            queue = self.shared.filled.wait_timeout(queue, wait).map_or_else(|e| e.into_inner().0, |pair| pair.0);
        }
        drop(queue);
        if thread.is_finished() {
            let _ = thread.join();
        }
    }

    fn tell(&self, problems: &[String]) {
        for problem in problems {
            self.shared.put(record_of_our_own(problem.clone()));
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a record, or counts it as lost; what was lost is told as soon as there is room.
    fn put(&self, record: Record) {
        {
            let mut queue = self.queue();
            if queue.records.len() >= queue.limit {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            queue.records.push_back(record);
            let lost = self.lost.load(Ordering::Relaxed);
            if lost > 0 && queue.records.len() < queue.limit {
                queue.records.push_back(record_of_our_own(format!("QueueHandler has lost {lost} log records")));
                self.lost.store(0, Ordering::Relaxed);
            }
        }
        self.filled.notify_one();
    }
}

fn record_of_our_own(message: String) -> Record {
    Record {
        at: Timestamp::now(),
        level: Level::Warning,
        logger: Cow::Borrowed("patroni.log"),
        message,
        file: file!(),
        line: line!(),
        thread: "log".to_owned(),
    }
}

fn queue_limit(options: &LogOptions) -> usize {
    if options.max_queue_size == 0 { LogOptions::default().max_queue_size } else { options.max_queue_size }
}

impl Target {
    fn new(options: &LogOptions) -> (Self, Vec<String>) {
        let (formatter, problems) = Formatter::new(options, TimeZone::system());
        let limits = Limits { file_size: options.file_size, file_num: options.file_num, mode: options.mode };
        let target = Target {
            formatter,
            output: None,
            limits,
            deduplicate: options.deduplicate_heartbeat_logs,
            at_info: options.level == Level::Info,
        };
        (target, problems)
    }

    fn write(&mut self, record: &Record) {
        let line = self.formatter.line(record);
        let failed = match &mut self.output {
            Some(Output::File(file)) => {
                file.set_limits(self.limits);
                file.write_line(&line).err().map(|e| format!("cannot write {}: {e}", file.path().display()))
            }
            Some(Output::Stderr) | None => {
                let _ = writeln!(io::stderr().lock(), "{line}");
                None
            }
        };
        if let Some(reason) = failed {
            // Better there than nowhere.
            let _ = writeln!(io::stderr().lock(), "{line} ({reason})");
        }
    }
}

fn open(options: &LogOptions) -> Result<Output, LogError> {
    let Some(dir) = &options.dir else { return Ok(Output::Stderr) };
    let limits = Limits { file_size: options.file_size, file_num: options.file_num, mode: options.mode };
    let file = RotatingFile::open(dir, limits);
    file.map(Output::File).map_err(|source| LogError::File { path: dir.join("patroni.log"), source })
}

/// The thread that writes.
fn write_all(shared: &Shared, mut target: Target) {
    let mut filter = HeartbeatFilter::default();
    loop {
        let (records, new_target, closed) = {
            let mut queue = shared.queue();
            while queue.records.is_empty() && queue.target.is_none() && !queue.closed {
                queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            // One at a time, so that the queue is as long as what is not written.
            (queue.records.pop_front(), queue.target.take(), queue.closed)
        };
        if let Some(new) = new_target {
            target = new;
        }
        let Some(record) = records else {
            if closed {
                break;
            }
            continue;
        };
        for record in filter.pass(record, target.at_info, target.deduplicate) {
            target.write(&record);
        }
    }
    if let Some(record) = filter.rest() {
        target.write(&record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &std::path::Path) -> String {
        std::fs::read_to_string(dir.join("patroni.log")).unwrap_or_default()
    }

    #[test]
    fn levels_of_parts() {
        let loggers = [("patroni.postgresql", Level::Error), ("patroni.postgresql.callback_executor", Level::Debug)];
        let options = LogOptions {
            loggers: loggers.map(|(name, level)| (name.to_owned(), level)).into(),
            ..LogOptions::default()
        };
        let levels = Levels::of(&options);
        assert_eq!(levels.level("patroni.postgresql.callback_executor"), Level::Debug);
        assert_eq!(levels.level("patroni.postgresql.rewind"), Level::Error);
        assert_eq!(levels.level("patroni.postgresqlx"), Level::Info);
        assert_eq!(levels.lowest(), Level::Debug);
    }

    #[test]
    fn libraries_write_at_debug_only_where_they_are_named() {
        let level = |root, named: &[(&str, Level)], logger: &str| {
            let loggers = named.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect();
            Levels::of(&LogOptions { level: root, loggers, ..LogOptions::default() }).level(logger)
        };
        assert_eq!(level(Level::Debug, &[], "patroni"), Level::Debug);
        assert_eq!(level(Level::Debug, &[], "patroni.postgresql.rewind"), Level::Debug);
        assert_eq!(level(Level::Debug, &[], "h2.codec.framed_read"), Level::Info);
        assert_eq!(level(Level::Debug, &[], "patronix"), Level::Info);
        assert_eq!(level(Level::Error, &[], "h2"), Level::Error);
        assert_eq!(level(Level::Warning, &[("h2", Level::Debug)], "h2.codec.framed_read"), Level::Debug);
    }

    #[test]
    fn events_reach_the_file_by_their_level_and_a_reload_changes_it() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let options = |dir: &std::path::Path, level| LogOptions {
            dir: Some(dir.to_owned()),
            level,
            format: LogFormat::Text("%(levelname)s %(name)s: %(message)s".to_owned()),
            ..LogOptions::default()
        };
        let log = Log::detached(&options(first.path(), Level::Info)).unwrap();
        tracing::subscriber::with_default(subscriber::Records(Arc::clone(&log.shared)), || {
            tracing::debug!(target: "patroni::api", "unseen");
            tracing::warn!(target: "patroni::api", answer = 42, "seen");
            tracing::error!(target: "patroni_postgres::callbacks", critical = true, "bad {}", 1);
            log.reconfigure(&options(second.path(), Level::Debug)).unwrap();
            tracing::debug!(target: "patroni_agent::driver", "now seen");
        });
        log.shutdown();
        // Records queued before a reload may be written by either target, but none is lost.
        let all = read(first.path()) + &read(second.path());
        assert_eq!(
            all,
            "WARNING patroni.api: seen answer=42\nCRITICAL patroni.postgresql.callback_executor: bad 1\nDEBUG patroni.ha: now seen\n"
        );
        assert!(read(second.path()).contains("now seen"));
    }

    #[test]
    fn a_full_queue_loses_records_and_says_so() {
        let shared = Shared {
            queue: Mutex::new(Queue { records: VecDeque::new(), limit: 3, target: None, closed: false }),
            filled: Condvar::new(),
            lost: AtomicU64::new(0),
            levels: RwLock::new(Levels::default()),
            lowest: AtomicU8::new(0),
        };
        for number in 0..5 {
            shared.put(record_of_our_own(format!("{number}")));
        }
        assert_eq!(shared.lost.load(Ordering::Relaxed), 2);
        shared.queue().records.clear();
        shared.put(record_of_our_own("next".to_owned()));
        let messages: Vec<_> = shared.queue().records.iter().map(|record| record.message.clone()).collect();
        assert_eq!(messages, ["next", "QueueHandler has lost 2 log records"]);
        assert_eq!(shared.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let options = LogOptions { dir: Some("/nonexistent/dir".into()), ..LogOptions::default() };
        let text = Log::detached(&options).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.starts_with("cannot write /nonexistent/dir/patroni.log: "), "{text}");
    }
}
