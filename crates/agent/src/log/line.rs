//! From a record to its line: the format strings of Python's `logging`, or JSON.

use std::borrow::Cow;
use std::sync::OnceLock;

use jiff::Timestamp;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;
use patroni_core::JsonMap;
use patroni_core::json;
use patroni_core::python::PythonText;
use serde_json::Value;

use super::options::{Level, LogFormat, LogKind, LogOptions};

/// What was logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) at: Timestamp,
    pub(crate) level: Level,
    /// The dotted name Patroni has for the part of the program.
    pub(crate) logger: Cow<'static, str>,
    pub(crate) message: String,
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    pub(crate) thread: String,
}

/// Makes lines of records.
#[derive(Clone, Debug)]
pub(crate) struct Formatter {
    layout: Layout,
    dateformat: Option<String>,
    zone: TimeZone,
}

#[derive(Clone, Debug)]
enum Layout {
    Plain(Vec<Piece>),
    Json { fields: Vec<(String, String)>, constants: JsonMap },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field { name: String, flags: String, width: usize, precision: Option<usize>, conversion: char },
}

/// When the program started: Python's `relativeCreated` counts from there.
static STARTED: OnceLock<Timestamp> = OnceLock::new();

impl Formatter {
    /// Reads the format. What is wrong with it is told, and replaced by the default.
    pub(crate) fn new(options: &LogOptions, zone: TimeZone) -> (Self, Vec<String>) {
        STARTED.get_or_init(Timestamp::now);
        let mut problems = Vec::new();
        let dateformat = options.dateformat.clone().filter(|format| !format.is_empty()).filter(|format| {
            let usable = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
            let result = BrokenDownTime::from(&usable).to_string(format.as_str());
            if let Err(e) = &result {
                problems.push(format!("log.dateformat {format:?} cannot be used ({e}); using the default"));
            }
            result.is_ok()
        });
        let layout = match options.kind {
            LogKind::Plain => Layout::Plain(plain_pieces(&options.format, &mut problems)),
            LogKind::Json => {
                Layout::Json { fields: json_fields(&options.format), constants: options.static_fields.clone() }
            }
        };
        (Formatter { layout, dateformat, zone }, problems)
    }

    /// The line, without its end.
    pub(crate) fn line(&self, record: &Record) -> String {
        match &self.layout {
            Layout::Plain(pieces) => pieces.iter().map(|piece| self.piece(piece, record)).collect(),
            Layout::Json { fields, constants } => {
                let mut map = JsonMap::new();
                for (field, name) in fields {
                    map.insert(name.clone(), self.field(field, record));
                }
                map.extend(constants.clone());
                json::spaced(&Value::Object(map))
            }
        }
    }

    fn piece(&self, piece: &Piece, record: &Record) -> String {
        match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Field { name, flags, width, precision, conversion } => {
                let value = self.field(name, record);
                let text = match (*conversion, value.as_f64()) {
                    ('d' | 'i', Some(number)) => {
                        let digits = format!("{:.0}", number.trunc());
                        format!("{digits:0>width$}", width = precision.unwrap_or(0))
                    }
                    ('f', Some(number)) => format!("{number:.*}", precision.unwrap_or(6)),
                    _ => {
                        let text = value.python_text();
                        text.chars().take(precision.unwrap_or(usize::MAX)).collect()
                    }
                };
                padded(text, flags, *width, value.is_number() && *conversion != 's')
            }
        }
    }

    /// An attribute of Python's `LogRecord`; null where it has none of that name.
    fn field(&self, name: &str, record: &Record) -> Value {
        let file_name = record.file.rsplit('/').next().unwrap_or_default();
        match name {
            "asctime" => self.asctime(record.at).into(),
            "message" | "msg" => record.message.as_str().into(),
            "levelname" => record.level.name().into(),
            "levelno" => record.level.number().into(),
            "name" => record.logger.as_ref().into(),
            "process" => std::process::id().into(),
            "processName" => "MainProcess".into(),
            "thread" => 0.into(),
            "threadName" => record.thread.as_str().into(),
            "filename" => file_name.into(),
            "module" => file_name.trim_end_matches(".rs").into(),
            "pathname" => record.file.into(),
            "lineno" => record.line.into(),
            "funcName" => record.logger.rsplit('.').next().unwrap_or_default().into(),
            "created" => (record.at.as_microsecond() as f64 / 1e6).into(),
            "msecs" => f64::from(record.at.subsec_millisecond()).into(),
            "relativeCreated" => {
                let started = STARTED.get().copied().unwrap_or(record.at);
                ((record.at.as_microsecond() - started.as_microsecond()) as f64 / 1e3).into()
            }
            _ => Value::Null,
        }
    }

    fn asctime(&self, at: Timestamp) -> String {
        let local = at.to_zoned(self.zone.clone());
        match &self.dateformat {
            Some(format) => BrokenDownTime::from(&local).to_string(format.as_str()).unwrap_or_default(),
            None => format!("{},{:03}", local.strftime("%Y-%m-%d %H:%M:%S"), at.subsec_millisecond()),
        }
    }
}

fn plain_pieces(format: &LogFormat, problems: &mut Vec<String>) -> Vec<Piece> {
    let text = match format {
        LogFormat::Text(text) => text,
        LogFormat::Fields(_) => {
            problems.push("Expected log format to be a string when log type is plain, but got \"list\"".to_owned());
            return default_pieces();
        }
    };
    match pieces(text) {
        Some(pieces) if pieces.iter().any(|piece| matches!(piece, Piece::Field { .. })) => pieces,
        Some(_) | None => {
            problems.push(format!("log.format {text:?} is not a format of Python's logging; using the default"));
            default_pieces()
        }
    }
}

fn default_pieces() -> Vec<Piece> {
    match LogFormat::default() {
        LogFormat::Text(text) => pieces(&text).unwrap_or_default(),
        LogFormat::Fields(_) => Vec::new(),
    }
}

/// The fields of a JSON line; a format string names them by itself.
fn json_fields(format: &LogFormat) -> Vec<(String, String)> {
    let named = |text: &str| -> Vec<(String, String)> {
        let fields = pieces(text).unwrap_or_default().into_iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Field { name, .. } => Some((name.clone(), name)),
        });
        fields.collect()
    };
    match format {
        LogFormat::Text(text) => named(text),
        LogFormat::Fields(fields) if !fields.is_empty() => fields.clone(),
        LogFormat::Fields(_) => named("%(asctime)s %(levelname)s %(message)s"),
    }
}

/// `%(name)-8.3s` and the text between; `None` if it is not of that form.
fn pieces(text: &str) -> Option<Vec<Piece>> {
    let mut found = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let (name, after) = rest.strip_prefix('(')?.split_once(')')?;
        let (flags, after) = after.split_at(after.find(|c| !"-+ #0".contains(c))?);
        let (width, after) = after.split_at(after.find(|c: char| !c.is_ascii_digit())?);
        let (precision, after) = match after.strip_prefix('.') {
            Some(digits) => {
                let (digits, after) = digits.split_at(digits.find(|c: char| !c.is_ascii_digit())?);
                (Some(digits.parse().unwrap_or(0)), after)
            }
            None => (None, after),
        };
        let conversion = after.chars().next().filter(|c| "sdifr".contains(*c))?;
        if !literal.is_empty() {
            found.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        // A width that nobody can mean is none.
        let width = width.parse().ok().filter(|width| *width <= 1000).unwrap_or(0);
        found.push(Piece::Field { name: name.to_owned(), flags: flags.to_owned(), width, precision, conversion });
        rest = &after[1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        found.push(Piece::Literal(literal));
    }
    Some(found)
}

fn padded(text: String, flags: &str, width: usize, is_number: bool) -> String {
    if flags.contains('-') {
        format!("{text:<width$}")
    } else if flags.contains('0') && is_number {
        format!("{text:0>width$}")
    } else {
        format!("{text:>width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(message: &str) -> Record {
        Record {
            at: "2024-08-28T19:39:26.352526Z".parse().unwrap(),
            level: Level::Warning,
            logger: Cow::Borrowed("patroni.postgresql.callback_executor"),
            message: message.to_owned(),
            file: "crates/postgres/src/callbacks.rs",
            line: 42,
            thread: "main".to_owned(),
        }
    }

    fn line(options: LogOptions, message: &str) -> String {
        let (formatter, problems) = Formatter::new(&options, TimeZone::fixed(jiff::tz::offset(2)));
        assert_eq!(problems, Vec::<String>::new());
        formatter.line(&record(message))
    }

    fn with_format(format: &str) -> LogOptions {
        LogOptions { format: LogFormat::Text(format.to_owned()), ..LogOptions::default() }
    }

    /// What Python prints for the same record and format.
    #[test]
    fn lines_as_python_formats_them() {
        assert_eq!(line(LogOptions::default(), "hello"), "2024-08-28 21:39:26,352 WARNING: hello");
        let rows = [
            ("%(levelname)-8s|%(message)s", "WARNING |hello"),
            ("%(levelname)10s|%(message).2s", "   WARNING|he"),
            ("%(levelname).1s %(levelno)d %(levelno)05d %%", "W 30 00030 %"),
            ("%(name)s %(filename)s:%(lineno)d", "patroni.postgresql.callback_executor callbacks.rs:42"),
            ("%(module)s %(msecs)03d %(created).3f", "callbacks 352 1724873966.353"),
            ("%(nonsense)s %(message)s", "None hello"),
        ];
        for (format, expected) in rows {
            assert_eq!(line(with_format(format), "hello"), expected, "{format}");
        }
        let dated = LogOptions { dateformat: Some("%d/%b/%Y:%H:%M:%S %z".to_owned()), ..LogOptions::default() };
        assert_eq!(line(dated, "hello"), "28/Aug/2024:21:39:26 +0200 WARNING: hello");
    }

    #[test]
    fn lines_in_json() {
        let fields = [("message", "message"), ("module", "module"), ("asctime", "@timestamp"), ("levelname", "level")];
        let fields = fields.map(|(field, name)| (field.to_owned(), name.to_owned())).to_vec();
        let options = LogOptions {
            kind: LogKind::Json,
            format: LogFormat::Fields(fields),
            static_fields: json!({"app": "patroni"}).as_object().unwrap().clone(),
            ..LogOptions::default()
        };
        assert_eq!(
            line(options, "say \"é\""),
            r#"{"message": "say \"\u00e9\"", "module": "callbacks", "@timestamp": "2024-08-28 21:39:26,352", "level": "WARNING", "app": "patroni"}"#
        );
        let options = LogOptions { kind: LogKind::Json, ..LogOptions::default() };
        assert_eq!(
            line(options, "x"),
            r#"{"asctime": "2024-08-28 21:39:26,352", "levelname": "WARNING", "message": "x"}"#
        );
    }

    #[test]
    fn formats_that_are_none_are_told_and_replaced() {
        for bad in ["no field", "%(message", "%(message)", "%(message)q", "%s", "%(message)s %"] {
            let (formatter, problems) = Formatter::new(&with_format(bad), TimeZone::UTC);
            assert_eq!(problems.len(), 1, "{bad}");
            assert_eq!(formatter.line(&record("x")), "2024-08-28 19:39:26,352 WARNING: x");
        }
    }
}
