//! Times that people write for scheduled actions, read as liberally as `dateutil.parser.parse` reads ISO 8601 and its
//! common variations, and printed as Python's `datetime.isoformat`.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use patroni_core::time::WallTime;

/// A time that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// When; taken as UTC where the text names no offset.
    pub wall: WallTime,
    /// The text names an offset (`Z`, `UTC`, `GMT`, `+02:00`, ...). Scheduled actions need one.
    pub has_offset: bool,
    /// The time as Python's `isoformat` prints it: `2026-01-01T10:00:00.500000+02:00`.
    pub iso_text: String,
}

/// The text is not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time; write it in ISO 8601 with an offset, such as 2026-01-31T22:00:00+01:00")]
pub struct ParseTimestampError(String);

/// Reads a time: a date (`2026-01-31`, `2026/1/31`, `20260131`), then optionally `T` or spaces and a time of the day
/// (`22`, `22:00`, `22:00:00.5`, `220000`, with `am` or `pm`), then optionally an offset. A time of the day alone is
/// refused (the reference would take today's date).
pub fn parse_timestamp(text: &str) -> Result<Parsed, ParseTimestampError> {
    Reader { rest: text.trim() }.timestamp().ok_or_else(|| ParseTimestampError(text.to_owned()))
}

struct Reader<'a> {
    rest: &'a str,
}

#[derive(Default)]
struct Clock {
    hour: i8,
    minute: i8,
    second: i8,
    micros: i32,
}

impl<'a> Reader<'a> {
    fn timestamp(mut self) -> Option<Parsed> {
        let (year, month, day) = self.date()?;
        let separated = self.separator();
        let clock = if self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            self.clock()?
        } else if separated && !self.rest.is_empty() {
            return None;
        } else {
            Clock::default()
        };
        let offset = self.offset()?;
        if !self.rest.is_empty() || year < 1 {
            return None;
        }
        let civil =
            DateTime::new(year, month, day, clock.hour, clock.minute, clock.second, clock.micros * 1000).ok()?;
        let zone = TimeZone::fixed(offset.unwrap_or(Offset::UTC));
        let wall = WallTime(civil.to_zoned(zone).ok()?.timestamp().as_millisecond());
        Some(Parsed { wall, has_offset: offset.is_some(), iso_text: iso_text(civil, offset) })
    }

    fn date(&mut self) -> Option<(i16, i8, i8)> {
        let year = self.digits(4, 4)?;
        let date = match self.take(&['-', '/', '.']) {
            Some(separator) => {
                let month = self.digits(1, 2)?;
                self.take(&[separator])?;
                (year, month, self.digits(1, 2)?)
            }
            None => (year, self.digits(2, 2)?, self.digits(2, 2)?),
        };
        Some((i16::try_from(date.0).ok()?, i8::try_from(date.1).ok()?, i8::try_from(date.2).ok()?))
    }

    /// Between date and time of the day. True after a `T`, which a time has to follow.
    fn separator(&mut self) -> bool {
        if self.take(&['T', 't']).is_some() {
            return true;
        }
        self.spaces();
        false
    }

    fn clock(&mut self) -> Option<Clock> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let mut clock = Clock { hour: self.small()?, ..Clock::default() };
        if digits > 2 {
            clock.minute = self.pair()?;
            if digits > 4 {
                clock.second = self.pair()?;
                clock.micros = self.fraction()?;
            }
        } else if self.take(&[':']).is_some() {
            clock.minute = self.small()?;
            if self.take(&[':']).is_some() {
                clock.second = self.small()?;
                clock.micros = self.fraction()?;
            }
        }
        self.spaces();
        self.half_day(&mut clock.hour)?;
        Some(clock)
    }

    fn small(&mut self) -> Option<i8> {
        i8::try_from(self.digits(1, 2)?).ok()
    }

    fn pair(&mut self) -> Option<i8> {
        i8::try_from(self.digits(2, 2)?).ok()
    }

    /// Digits after the sixth are cut off, not rounded.
    fn fraction(&mut self) -> Option<i32> {
        if self.take(&['.', ',']).is_none() {
            return Some(0);
        }
        let length = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        format!("{digits:0<6}").get(..6)?.parse().ok().filter(|_| length > 0)
    }

    fn half_day(&mut self, hour: &mut i8) -> Option<()> {
        let afternoon = match self.word().to_ascii_lowercase().as_str() {
            "am" => false,
            "pm" => true,
            _ => return Some(()),
        };
        let length = self.word().len();
        self.rest = self.rest[length..].trim_start();
        if *hour > 12 {
            return None;
        }
        *hour = *hour % 12 + if afternoon { 12 } else { 0 };
        Some(())
    }

    /// `None`: not an offset. `Some(None)`: no offset, or a name that says nothing outside its country.
    fn offset(&mut self) -> Option<Option<Offset>> {
        self.spaces();
        let word = self.word();
        self.rest = &self.rest[word.len()..];
        let utc = matches!(word.to_ascii_uppercase().as_str(), "Z" | "UTC" | "GMT");
        let Some(sign) = self.take(&['+', '-']) else {
            let named = (3..=5).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_uppercase());
            return (word.is_empty() || utc || named).then_some(utc.then_some(Offset::UTC));
        };
        // "GMT+3" means that adding three hours to this time gives GMT; "Z+3" means nothing.
        let mut sign = if sign == '+' { 1 } else { -1 };
        if utc && word.len() == 3 {
            sign = -sign;
        } else if !word.is_empty() {
            return None;
        }
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let hours = i32::from(self.small()?);
        let minutes = match digits {
            4 => i32::from(self.pair()?),
            1 | 2 if self.take(&[':']).is_some() => i32::from(self.pair()?),
            1 | 2 => 0,
            _ => return None,
        };
        if hours >= 24 || minutes >= 60 {
            return None;
        }
        Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok().map(Some)
    }

    fn word(&self) -> &'a str {
        let length = self.rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        &self.rest[..length]
    }

    fn digits(&mut self, least: usize, most: usize) -> Option<u32> {
        let length = self.rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if length < least {
            return None;
        }
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        digits.parse().ok()
    }

    fn take(&mut self, any: &[char]) -> Option<char> {
        let first = self.rest.chars().next().filter(|c| any.contains(c))?;
        self.rest = &self.rest[first.len_utf8()..];
        Some(first)
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

fn iso_text(civil: DateTime, offset: Option<Offset>) -> String {
    let mut text = civil.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let micros = civil.subsec_nanosecond() / 1000;
    if micros != 0 {
        text.push_str(&format!(".{micros:06}"));
    }
    if let Some(offset) = offset {
        let seconds = offset.seconds();
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.abs() / 60;
        text.push_str(&format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from `dateutil.parser.parse(TEXT).isoformat()`, version 2.9.
    #[test]
    fn times_are_read_as_dateutil_reads_them() {
        for (text, iso, has_offset) in [
            ("2016-01-14T10:09:57.1394Z", "2016-01-14T10:09:57.139400+00:00", true),
            ("2026-01-01 00:00:00+02:00", "2026-01-01T00:00:00+02:00", true),
            ("2026-01-01T00:00+0200", "2026-01-01T00:00:00+02:00", true),
            ("2026-01-01T00:00:00-05", "2026-01-01T00:00:00-05:00", true),
            ("2026-01-01T00:00:00 +01:00", "2026-01-01T00:00:00+01:00", true),
            ("20260101T000000Z", "2026-01-01T00:00:00+00:00", true),
            ("20260101T0000Z", "2026-01-01T00:00:00+00:00", true),
            ("20260101000000Z", "2026-01-01T00:00:00+00:00", true),
            ("2026-01-01", "2026-01-01T00:00:00", false),
            ("2026-01-01T10", "2026-01-01T10:00:00", false),
            ("2026-01-01 10:11", "2026-01-01T10:11:00", false),
            ("2026-01-01T10:11:12,5Z", "2026-01-01T10:11:12.500000+00:00", true),
            ("2026-01-01T10:11:12.123456789Z", "2026-01-01T10:11:12.123456+00:00", true),
            ("2026-01-01T10:11:12.9999999Z", "2026-01-01T10:11:12.999999+00:00", true),
            ("2026-01-01T10:11:12.0Z", "2026-01-01T10:11:12+00:00", true),
            ("2026-01-01T10:11:12 UTC", "2026-01-01T10:11:12+00:00", true),
            ("2026-01-01T10:11:12 GMT", "2026-01-01T10:11:12+00:00", true),
            ("2026-01-01t10:11:12z", "2026-01-01T10:11:12+00:00", true),
            ("2026-01-01T10:11:12 PM Z", "2026-01-01T22:11:12+00:00", true),
            ("2026-01-01 10:11:12 am +00:00", "2026-01-01T10:11:12+00:00", true),
            ("2026-01-01 10:11 pm +00:00", "2026-01-01T22:11:00+00:00", true),
            ("2026/01/02 10:11:12+00:00", "2026-01-02T10:11:12+00:00", true),
            ("2026-01-01T00:00:00 EST", "2026-01-01T00:00:00", false),
            ("2026-01-01T00:00:00 GMT+3", "2026-01-01T00:00:00-03:00", true),
            (" 2026-01-01T00:00:00Z ", "2026-01-01T00:00:00+00:00", true),
            ("2026-1-2T3:4:5Z", "2026-01-02T03:04:05+00:00", true),
            ("2026-01-01T10:11:12+14:30", "2026-01-01T10:11:12+14:30", true),
            ("2026-01-01T00:00:00-00:00", "2026-01-01T00:00:00+00:00", true),
            ("2026-01-01T10:11:12+2", "2026-01-01T10:11:12+02:00", true),
            ("2026-01-01T10:11:12 +02", "2026-01-01T10:11:12+02:00", true),
        ] {
            let parsed = parse_timestamp(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((parsed.iso_text.as_str(), parsed.has_offset), (iso, has_offset), "{text:?}");
        }
    }

    #[test]
    fn what_dateutil_refuses_is_refused() {
        for text in [
            "",
            "nonsense",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T25:00:00Z",
            "2026-01-01T23:59:60Z",
            "2026-01-01T00:00:00+02:00:30",
            "2026-001T00:00Z",
            "2026-W01-1T00:00Z",
            "2026-01-01T00:00:00+25:00",
            "2026-01-01T00:00:00\u{2212}02:00",
            "12345",
            "1767225600",
            "+02:00",
            "2026-01-01T10:11:12+02:00Z",
            "2026-01-01T10:11:12+200",
        ] {
            assert!(parse_timestamp(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn the_offset_moves_the_wall_time() {
        let at = |text| parse_timestamp(text).map(|parsed| parsed.wall);
        assert_eq!(at("1970-01-01T00:00:01.5Z"), Ok(WallTime(1500)));
        assert_eq!(at("1970-01-01T02:00:00+02:00"), Ok(WallTime(0)));
        assert_eq!(at("1970-01-01T00:00:00 GMT+3"), Ok(WallTime(3 * 3_600_000)));
    }
}
