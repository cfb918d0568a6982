//! From `tracing` to records.

use std::borrow::Cow;
use std::fmt::{Debug, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use super::Shared;
use super::line::Record;
use super::options::Level;

/// Takes events in; spans are not used.
pub(super) struct Records(pub(super) Arc<Shared>);

impl Subscriber for Records {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // Levels change at a reload.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Python's logging has nothing below DEBUG, and we have nothing to say there.
        if *metadata.level() == tracing::Level::TRACE {
            return false;
        }
        let level = level_of(metadata);
        if (level as u8) < self.0.lowest.load(Ordering::Relaxed) {
            return false;
        }
        let levels = self.0.levels.read().unwrap_or_else(PoisonError::into_inner);
        // Whether an error is critical shows only in its fields.
        let level = if level == Level::Error { Level::Critical } else { level };
        level >= levels.level(&logger_name(metadata.target()))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        None
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let level = match level_of(metadata) {
            Level::Error if fields.critical => Level::Critical,
            other => other,
        };
        let logger = logger_name(metadata.target());
        if level < self.0.levels.read().unwrap_or_else(PoisonError::into_inner).level(&logger) {
            return;
        }
        self.0.put(Record {
            at: Timestamp::now(),
            level,
            logger: Cow::Owned(logger.into_owned()),
            message: fields.message + &fields.others,
            file: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
            thread: std::thread::current().name().unwrap_or("MainThread").to_owned(),
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &SpanRecord<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn level_of(metadata: &Metadata<'_>) -> Level {
    // The library of the embedded store tells each step at INFO and each lost message at ERROR; what an operator should
    // know of that, the store tells itself.
    if metadata.target().starts_with("openraft") {
        return Level::Debug;
    }
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warning,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
    }
}

/// The name Patroni has for a part of the program: `patroni_postgres::rewind` is `patroni.postgresql.rewind`.
fn logger_name(target: &str) -> Cow<'_, str> {
    // Parts that are called otherwise here.
    const RENAMED: [(&str, &str); 5] = [
        ("patroni_postgres::callbacks", "patroni.postgresql.callback_executor"),
        ("patroni_agent::driver", "patroni.ha"),
        ("patroni_agent::peers", "patroni.ha"),
        ("patroni_postgres", "patroni.postgresql"),
        ("patroni_agent", "patroni"),
    ];
    for (ours, theirs) in RENAMED {
        match target.strip_prefix(ours) {
            Some("") => return Cow::Borrowed(theirs),
            Some(rest) if rest.starts_with("::") => return Cow::Owned(format!("{theirs}{}", rest.replace("::", "."))),
            Some(_) | None => {}
        }
    }
    match target.strip_prefix("patroni_") {
        Some(rest) => Cow::Owned(format!("patroni.{}", rest.replace("::", "."))),
        None if target.contains("::") => Cow::Owned(target.replace("::", ".")),
        None => Cow::Borrowed(target),
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
    critical: bool,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => {
                let _ = write!(self.others, " {name}={value}");
            }
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "critical" => self.critical = value,
            _ => self.record_debug(field, &value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let rows = [
            ("patroni::api", "patroni.api"),
            ("patroni_postgres::rewind", "patroni.postgresql.rewind"),
            ("patroni_postgres::callbacks", "patroni.postgresql.callback_executor"),
            ("patroni_dcs::etcd3", "patroni.dcs.etcd3"),
            ("patroni_agent::driver", "patroni.ha"),
            ("patroni_agent", "patroni"),
            ("hyper", "hyper"),
            ("hyper::proto::h1", "hyper.proto.h1"),
        ];
        for (target, name) in rows {
            assert_eq!(logger_name(target), name);
        }
    }
}
