//! The settings of the section `log`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use patroni_core::JsonMap;

/// What `log` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// `type`
    pub kind: LogKind,
    /// `format`: a format string, or the fields of a JSON line as `(field, name in the line)`.
    pub format: LogFormat,
    /// `dateformat`, in the notation of `strftime`.
    pub dateformat: Option<String>,
    /// `static_fields`, for JSON lines.
    pub static_fields: JsonMap,
    /// `level`
    pub level: Level,
    /// `loggers`: levels of single parts of the program, by the dotted names Patroni has for them.
    pub loggers: BTreeMap<String, Level>,
    /// `max_queue_size`, in lines; 0 for no limit in Patroni, here for the default.
    pub max_queue_size: usize,
    /// `dir`: where `patroni.log` is written; standard error without it.
    pub dir: Option<PathBuf>,
    /// `file_size`, in bytes; 0 for no limit.
    pub file_size: u64,
    /// `file_num`: how many old files are kept.
    pub file_num: u32,
    /// `mode`: permissions of the files; by the umask without it.
    pub mode: Option<u32>,
    /// `deduplicate_heartbeat_logs`
    pub deduplicate_heartbeat_logs: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            kind: LogKind::Plain,
            format: LogFormat::default(),
            dateformat: None,
            static_fields: JsonMap::new(),
            level: Level::Info,
            loggers: BTreeMap::new(),
            max_queue_size: 1000,
            dir: None,
            file_size: 25_000_000,
            file_num: 4,
            mode: None,
            deduplicate_heartbeat_logs: false,
        }
    }
}

/// `log.type`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogKind {
    /// Lines for people.
    #[default]
    Plain,
    /// A JSON object per line.
    Json,
}

/// `log.format`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A format string of Python's `logging`, such as `%(asctime)s %(levelname)s: %(message)s`. For JSON lines it
    /// names the fields.
    Text(String),
    /// Fields, and what they are called in the line.
    Fields(Vec<(String, String)>),
}

impl Default for LogFormat {
    fn default() -> Self {
        LogFormat::Text("%(asctime)s %(levelname)s: %(message)s".to_owned())
    }
}

/// The levels of Python's `logging`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// `DEBUG`
    Debug,
    /// `INFO`
    #[default]
    Info,
    /// `WARNING`
    Warning,
    /// `ERROR`
    Error,
    /// `CRITICAL`
    Critical,
}

impl Level {
    /// Python's name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
            Level::Critical => "CRITICAL",
        }
    }

    /// Python's number.
    pub fn number(self) -> u32 {
        match self {
            Level::Debug => 10,
            Level::Info => 20,
            Level::Warning => 30,
            Level::Error => 40,
            Level::Critical => 50,
        }
    }
}

/// The text is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log level; levels are DEBUG, INFO, WARNING, ERROR and CRITICAL")]
pub struct ParseLevelError(String);

impl FromStr for Level {
    type Err = ParseLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().to_uppercase().as_str() {
            "NOTSET" | "DEBUG" => Ok(Level::Debug),
            "INFO" => Ok(Level::Info),
            "WARN" | "WARNING" => Ok(Level::Warning),
            "ERROR" => Ok(Level::Error),
            "FATAL" | "CRITICAL" => Ok(Level::Critical),
            number => match number.parse::<u32>() {
                Ok(..=10) => Ok(Level::Debug),
                Ok(11..=20) => Ok(Level::Info),
                Ok(21..=30) => Ok(Level::Warning),
                Ok(31..=40) => Ok(Level::Error),
                Ok(_) => Ok(Level::Critical),
                Err(_) => Err(ParseLevelError(text.to_owned())),
            },
        }
    }
}
