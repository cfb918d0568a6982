//! `log`

use std::collections::BTreeMap;
use std::path::PathBuf;

use patroni_core::JsonMap;
use patroni_core::tags::truthy;
use serde_json::Value;

use crate::section::Section;

/// `log`
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `type`
    pub log_type: LogType,
    /// `level`, one of DEBUG, INFO, WARNING, ERROR, CRITICAL.
    pub level: &'static str,
    /// `traceback_level: DEBUG` shows details of errors at level DEBUG only.
    pub traceback_at_debug: bool,
    /// `format`
    pub format: LogFormat,
    /// `dateformat`
    pub dateformat: Option<String>,
    /// `static_fields`: added to every JSON line.
    pub static_fields: JsonMap,
    /// `max_queue_size`: records that may wait to be written.
    pub max_queue_size: usize,
    /// `dir`: logs go to a file there instead of stderr.
    pub dir: Option<PathBuf>,
    /// `mode` of the file, as `chmod` takes it.
    pub mode: Option<u32>,
    /// `file_size` at which the file is rotated, in bytes.
    pub file_size: u64,
    /// `file_num`: rotated files to keep.
    pub file_num: usize,
    /// `loggers`: levels of parts of the program, by the names of Python modules.
    pub loggers: BTreeMap<String, String>,
    /// `deduplicate_heartbeat_logs`
    pub deduplicate_heartbeat_logs: bool,
}

/// `log.type`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogType {
    /// Lines of text.
    #[default]
    Plain,
    /// A JSON object per line.
    Json,
}

/// `log.format`
#[derive(Clone, Debug, PartialEq)]
pub enum LogFormat {
    /// A format of Python's `logging`.
    Text(String),
    /// For JSON: fields, each with the name it gets.
    Fields(Vec<(String, String)>),
}

/// Python's names for levels, with the one it prints.
const LEVELS: &[&str] = &["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"];

impl LogConfig {
    pub(crate) fn read(log: &Section<'_>) -> LogConfig {
        let level = match log.word("level", LEVELS) {
            None => "INFO",
            Some("WARN") => "WARNING",
            Some("FATAL") => "CRITICAL",
            Some(level) => level,
        };
        LogConfig {
            log_type: if log.word("type", &["plain", "json"]) == Some("json") { LogType::Json } else { LogType::Plain },
            level,
            traceback_at_debug: log.word("traceback_level", LEVELS) == Some("DEBUG"),
            format: format(log),
            dateformat: log.filled("dateformat"),
            static_fields: log.raw("static_fields"),
            max_queue_size: size(log, "max_queue_size", 1000),
            dir: log.path("dir"),
            mode: log.int("mode", None, 0).and_then(|mode| u32::try_from(mode).ok()),
            file_size: log.int("file_size", None, 0).map_or(25_000_000, i64::unsigned_abs),
            file_num: size(log, "file_num", 4),
            loggers: log.text_map("loggers"),
            deduplicate_heartbeat_logs: log.flag("deduplicate_heartbeat_logs").unwrap_or(false),
        }
    }
}

fn size(log: &Section<'_>, name: &str, default: usize) -> usize {
    log.int(name, None, 0).map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

fn format(log: &Section<'_>) -> LogFormat {
    match log.value("format").filter(|value| truthy(value)) {
        None => LogFormat::Text("%(asctime)s %(levelname)s: %(message)s".to_owned()),
        Some(Value::String(text)) => LogFormat::Text(text.clone()),
        Some(value @ Value::Array(items)) => LogFormat::Fields(
            items
                .iter()
                .filter_map(|item| {
                    let field = field(item);
                    if field.is_none() {
                        log.refuse(
                            "format",
                            value,
                            "a text, or a list of names and of one-key mappings from name to name",
                        );
                    }
                    field
                })
                .collect(),
        ),
        Some(value) => {
            log.refuse("format", value, "a text or a list");
            LogFormat::Fields(Vec::new())
        }
    }
}

/// `message`, or `{message: msg}`.
fn field(item: &Value) -> Option<(String, String)> {
    match item {
        Value::String(name) => Some((name.clone(), name.clone())),
        Value::Object(map) if map.len() == 1 => {
            let (name, shown) = map.iter().next()?;
            Some((name.clone(), shown.as_str()?.to_owned()))
        }
        _ => None,
    }
}
