//! Times of scheduled actions.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use patroni_core::time::{WallTime, schedule};

use crate::error::{CtlError, failed};

/// When something is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// As Python's `isoformat` writes it, with an offset.
    pub(crate) iso: String,
}

impl Scheduled {
    /// For people: with a blank between date and time.
    pub(crate) fn text(&self) -> String {
        self.iso.replacen('T', " ", 1)
    }
}

/// Reads a time; `None` for now. A time without offset is one of this machine's time zone.
pub(crate) fn parse(text: &str) -> Result<Option<Scheduled>, CtlError> {
    if text.is_empty() || text == "now" {
        return Ok(None);
    }
    let unreadable = || {
        failed(format!(
            "Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format (e.g. ISO 8601)"
        ))
    };
    let Some(parsed) = schedule::parse(text, Some(WallTime(jiff::Timestamp::now().as_millisecond()))) else {
        return unreadable();
    };
    if parsed.has_offset {
        return Ok(Some(Scheduled { iso: parsed.iso_text }));
    }
    match with_local_offset(&parsed.iso_text, &TimeZone::system()) {
        Some(iso) => Ok(Some(Scheduled { iso })),
        None => unreadable(),
    }
}

fn with_local_offset(iso: &str, zone: &TimeZone) -> Option<String> {
    let civil: DateTime = iso.parse().ok()?;
    let offset = civil.to_zoned(zone.clone()).ok()?.offset();
    Some(format!("{iso}{}", offset_text(offset.seconds())))
}

fn offset_text(seconds: i32) -> String {
    let sign = if seconds < 0 { '-' } else { '+' };
    let minutes = seconds.abs() / 60;
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_later_and_nonsense() {
        assert_eq!(parse("now").ok(), Some(None));
        assert_eq!(parse("").ok(), Some(None));
        let at = parse("2026-01-31 12:00:00.123456+00:00").ok().flatten().expect("a time");
        assert_eq!(at.iso, "2026-01-31T12:00:00.123456+00:00");
        assert_eq!(at.text(), "2026-01-31 12:00:00.123456+00:00");
        let error = parse("tomorrow").map_err(|e| e.to_string()).expect_err("not a time");
        assert!(error.starts_with("Unable to parse scheduled timestamp (tomorrow)."), "{error}");
    }

    #[test]
    fn local_times_get_the_offset_of_that_day() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a time zone");
        assert_eq!(with_local_offset("2026-01-31T12:00:00", &zone).as_deref(), Some("2026-01-31T12:00:00+01:00"));
        assert_eq!(with_local_offset("2026-07-31T12:00:00", &zone).as_deref(), Some("2026-07-31T12:00:00+02:00"));
    }
}
