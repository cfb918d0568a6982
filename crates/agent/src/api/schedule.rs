//! When something is to happen, as requests say it.

use patroni_core::time::{WallTime, schedule};

/// A time that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// The instant.
    pub(crate) at: WallTime,
    /// Its text in ISO 8601, with the offset it was given with.
    pub(crate) text: String,
}

/// Why a time cannot be used: status code and text of the answer.
pub(crate) type Refusal = (u16, String);

/// Reads a time at which `action` is to happen; it must lie in the future.
pub(crate) fn read(text: &str, action: &str, now: WallTime) -> Result<Scheduled, Refusal> {
    let written = schedule::parse(text, Some(now)).ok_or_else(|| {
        let words = "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601";
        (422, words.to_owned())
    })?;
    if !written.has_offset {
        return Err((400, format!("Timezone information is mandatory for the scheduled {action}")));
    }
    if written.wall < now {
        return Err((422, format!("Cannot schedule {action} in the past")));
    }
    Ok(Scheduled { at: written.wall, text: written.iso_text })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-15 12:00 UTC.
    const NOW: WallTime = WallTime(1_768_478_400_000);

    #[test]
    fn times_that_are_refused() {
        let rows = [
            ("2030-09-24T12:00", 400, "Timezone information is mandatory for the scheduled switchover"),
            ("2030-09-24 12:00 XYZ", 400, "Timezone information is mandatory for the scheduled switchover"),
            ("2019-09-24T12:00+00", 422, "Cannot schedule switchover in the past"),
            ("2030-13-45T12:00+00", 422, "Unable to parse"),
            ("2030-02-29T12:00+00", 422, "Unable to parse"),
            ("2030-09-24T24:61+00", 422, "Unable to parse"),
            ("tomorrow", 422, "Unable to parse"),
            ("tomorrow 12:00Z", 422, "Unable to parse"),
            ("2030-09-24", 400, "Timezone information is mandatory for the scheduled switchover"),
            ("2030-09-24Z", 422, "Unable to parse"),
            ("2030-09-24 24:00Z", 422, "Unable to parse"),
            ("2030-09-24T12:00:60Z", 422, "Unable to parse"),
            ("2030-W39-2T12:00Z", 422, "Unable to parse"),
            ("2030-268T12:00Z", 422, "Unable to parse"),
            ("1916474400", 422, "Unable to parse"),
            ("2030-09-24T12:00:00+02:00:30", 422, "Unable to parse"),
            ("30-09-24 12:00Z", 422, "Cannot schedule switchover in the past"),
            ("", 422, "Unable to parse"),
            ("{}", 422, "Unable to parse"),
            ("99999999999999999999", 422, "Unable to parse"),
        ];
        for (text, status, words) in rows {
            let (code, reason) = read(text, "switchover", NOW).expect_err(text);
            assert_eq!(code, status, "{text}: {reason}");
            assert!(reason.starts_with(words), "{text}: {reason}");
        }
    }
}
