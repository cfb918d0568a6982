//! Which lines of a tick are shown: who has the lock only when something is unusual.

use super::line::Record;

/// What the lines before say about the next one.
#[derive(Debug, Default)]
pub(crate) struct HeartbeatFilter {
    /// `Lock owner: ...`, until the next line tells whether it is worth showing.
    held: Option<Record>,
    last_verdict: Option<String>,
}

impl HeartbeatFilter {
    /// The lines to write now that this one came. At other levels than INFO everything is shown.
    pub(crate) fn pass(&mut self, record: Record, at_info: bool, deduplicate: bool) -> Vec<Record> {
        if !at_info {
            return self.held.take().into_iter().chain([record]).collect();
        }
        if record.message.starts_with("Lock owner: ") {
            // Two in a row: the first was not followed by a verdict.
            return self.held.replace(record).into_iter().collect();
        }
        let Some(held) = self.held.take() else { return vec![record] };
        if !is_verdict_of_nothing(&record.message) {
            self.last_verdict = None;
            return vec![held, record];
        }
        if deduplicate && self.last_verdict.as_deref() == Some(&record.message) {
            return Vec::new();
        }
        self.last_verdict = Some(record.message.clone());
        vec![record]
    }

    /// What is held back, at the end.
    pub(crate) fn rest(&mut self) -> Option<Record> {
        self.held.take()
    }
}

fn is_verdict_of_nothing(message: &str) -> bool {
    message.starts_with("no action. ") || message.starts_with("PAUSE: no action")
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use jiff::Timestamp;

    use super::super::options::Level;
    use super::*;

    fn shown(messages: &[&str], at_info: bool, deduplicate: bool) -> Vec<String> {
        let mut filter = HeartbeatFilter::default();
        let record = |message: &str| Record {
            at: Timestamp::UNIX_EPOCH,
            level: Level::Info,
            logger: Cow::Borrowed("patroni.ha"),
            message: message.to_owned(),
            file: "",
            line: 0,
            thread: String::new(),
        };
        messages.iter().flat_map(|m| filter.pass(record(m), at_info, deduplicate)).map(|r| r.message).collect()
    }

    #[test]
    fn the_owner_of_the_lock_is_shown_when_something_happens() {
        let quiet = ["Lock owner: a; I am a", "no action. I am (a), the leader with the lock"];
        let eventful = ["Lock owner: a; I am b", "following a different leader"];
        assert_eq!(shown(&quiet, true, false), quiet[1..]);
        assert_eq!(shown(&quiet, false, false), quiet);
        assert_eq!(shown(&eventful, true, false), eventful);
        let twice = [quiet, quiet].concat();
        assert_eq!(shown(&twice, true, false), [quiet[1], quiet[1]]);
        assert_eq!(shown(&twice, true, true), [quiet[1]]);
        let again = [quiet, eventful, quiet].concat();
        assert_eq!(shown(&again, true, true), [quiet[1], eventful[0], eventful[1], quiet[1]]);
    }
}
