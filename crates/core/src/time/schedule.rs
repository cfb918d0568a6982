//! Times as operators write them, read as liberally as Patroni (`dateutil.parser.parse`) reads them: ISO 8601 in all its
//! forms, and dates in words. Printed as Python's `datetime.isoformat`.

use super::WallTime;

/// A time that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// When; taken as UTC where the text names no offset.
    pub wall: WallTime,
    /// The text names an offset (`Z`, `UTC`, `GMT`, `+02:00`, ...). Scheduled actions need one: nobody knows whose clock
    /// another time means.
    pub has_offset: bool,
    /// The time as Python prints it: `2026-01-01T10:00:00.500000+02:00`, without offset where there was none.
    pub iso_text: String,
}

/// Reads a time. What is left out of a date is that of `now`; without it, the date has to be whole. `None`: it is no
/// time.
pub fn parse(text: &str, now: Option<WallTime>) -> Option<Written> {
    let pieces = pieces(text)?;
    let mut reading = Reading::default();
    let mut rest = pieces.as_slice();
    while let [first, after @ ..] = rest {
        let next_unit = std::mem::take(&mut reading.next_unit);
        rest = match first {
            Piece::Blank => after,
            Piece::Number(digits, None) if next_unit.is_some() => reading.counted(digits, next_unit, after)?,
            Piece::Number(digits, fraction) => reading.number(digits, *fraction, after)?,
            Piece::Word(word) => reading.word(word, after)?,
            Piece::Mark(sign @ ('+' | '-')) if reading.time.is_some() => reading.offset(*sign, after)?,
            Piece::Mark(_) => after,
        };
    }
    Some(reading.civil(now)?.written())
}

/// A date and time of day as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    micros: u32,
    offset_s: Option<i32>,
}

impl Civil {
    fn written(self) -> Written {
        let day_s = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        let days_s = days_since_epoch(self.year, self.month, self.day) * 86_400;
        let seconds = days_s + day_s - i64::from(self.offset_s.unwrap_or(0));
        let wall = WallTime(seconds * 1000 + i64::from(self.micros / 1000));
        Written { wall, has_offset: self.offset_s.is_some(), iso_text: self.iso_text() }
    }

    fn iso_text(self) -> String {
        let fraction = if self.micros > 0 { format!(".{:06}", self.micros) } else { String::new() };
        let offset = self.offset_s.map_or_else(String::new, |offset_s| {
            let sign = if offset_s < 0 { '-' } else { '+' };
            let offset = offset_s.unsigned_abs();
            format!("{sign}{:02}:{:02}", offset / 3600, offset / 60 % 60)
        });
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}{offset}",
            self.year, self.month, self.day, self.hour, self.minute, self.second,
        )
    }

    fn is_real(self) -> bool {
        (1..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=days_in_month(self.year, self.month)).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
            && self.offset_s.is_none_or(|offset| offset.abs() < 86_400)
    }
}

/// Days from 1970-01-01 in the Gregorian calendar.
fn days_since_epoch(year: i64, month: u32, day: u32) -> i64 {
    // Counting years from March puts the leap day at their end.
    let year = if month <= 2 { year - 1 } else { year };
    let month = i64::from((month + 9) % 12);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a day counted from 1970-01-01.
fn date_of(days: i64) -> (i64, u32, u32) {
    let mut year = 1970 + days.div_euclid(365).min(days.div_euclid(366));
    while days_since_epoch(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_since_epoch(year, month + 1, 1) <= days {
        month += 1;
    }
    let day = days - days_since_epoch(year, month, 1) + 1;
    (year, month, u32::try_from(day).unwrap_or(1))
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// A piece of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'a> {
    /// Digits, with their fraction if one follows.
    Number(&'a str, Option<&'a str>),
    Word(&'a str),
    Mark(char),
    Blank,
}

fn pieces(text: &str) -> Option<Vec<Piece<'_>>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let span = |inside: fn(char) -> bool| rest.find(|c: char| !inside(c)).unwrap_or(rest.len());
        let length = if first.is_ascii_digit() {
            let whole = span(|c| c.is_ascii_digit());
            let after = &rest[whole..];
            let fraction = after
                .strip_prefix(['.', ','])
                .map_or("", |digits| &digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())]);
            // 24.12.2030 is a date: a fraction is only what follows seconds, or a whole time of day.
            let is_fraction = !fraction.is_empty() && matches!(found.last(), Some(Piece::Mark(':') | Piece::Word(_)));
            let length = if is_fraction { whole + 1 + fraction.len() } else { whole };
            found.push(Piece::Number(&rest[..whole], is_fraction.then_some(fraction)));
            length
        } else if first.is_alphabetic() {
            let length = span(char::is_alphabetic);
            found.push(Piece::Word(&rest[..length]));
            length
        } else if first.is_whitespace() {
            found.push(Piece::Blank);
            span(char::is_whitespace)
        } else if "+-:./,".contains(first) {
            found.push(Piece::Mark(first));
            1
        } else {
            return None;
        };
        rest = &rest[length..];
    }
    Some(found)
}

/// What was understood so far.
#[derive(Default)]
struct Reading {
    date: Vec<DatePart>,
    time: Option<(u32, u32, u32, u32)>,
    afternoon: Option<bool>,
    offset_s: Option<i32>,
    /// The day of the week, from Monday on.
    weekday: Option<i64>,
    /// What a number means that follows at once: the 30 of `12h30`.
    next_unit: Option<Unit>,
}

/// What is counted after hours.
#[derive(Clone, Copy)]
enum Unit {
    Minutes,
    Seconds,
}

#[derive(Clone, Copy)]
enum DatePart {
    /// A number and how many digits it was written with.
    Number(u32, usize),
    Month(u32),
}

impl Reading {
    fn number<'a>(&mut self, digits: &str, fraction: Option<&str>, after: &'a [Piece<'a>]) -> Option<&'a [Piece<'a>]> {
        if let [Piece::Mark(':'), Piece::Number(minutes, fraction), rest @ ..] = after {
            return self.clock(digits, minutes, *fraction, rest);
        }
        if self.date.is_empty()
            && let [Piece::Mark(mark @ ('-' | '/' | '.')), second @ (Piece::Number(..) | Piece::Word(_)), rest @ ..] =
                after
        {
            return self.date_group(digits, *mark, *second, rest);
        }
        let meridiem = after.iter().find(|piece| **piece != Piece::Blank);
        if let (Some(Piece::Word(word)), None, true) = (meridiem, self.time, digits.len() <= 2)
            && matches!(word.to_lowercase().as_str(), "am" | "pm" | "a" | "p" | "h")
        {
            self.time = Some((digits.parse().ok()?, 0, 0, 0));
            return Some(after);
        }
        if let (Some(Piece::Word(word)), Some(_)) = (after.first(), self.time)
            && let Some(unit) = match word.to_lowercase().as_str() {
                "m" | "min" | "minute" | "minutes" => Some(Unit::Minutes),
                "s" | "sec" | "second" | "seconds" => Some(Unit::Seconds),
                _ => None,
            }
        {
            return self.counted(digits, Some(unit), after);
        }
        match digits.len() {
            14 | 12 if self.date.is_empty() => {
                self.date_digits(&digits[..8])?;
                self.clock_digits(&digits[8..], fraction)?;
            }
            8 if self.date.is_empty() => self.date_digits(digits)?,
            4 if self.date.len() == 3 => self.clock_digits(digits, fraction)?,
            6 if !self.date.is_empty() => self.clock_digits(digits, fraction)?,
            6 if self.date.is_empty() => {
                for part in [&digits[..2], &digits[2..4], &digits[4..]] {
                    self.date.push(DatePart::Number(part.parse().ok()?, 2));
                }
            }
            2 if self.date.len() == 3 && self.time.is_none() => self.clock_digits(digits, fraction)?,
            length @ 1..=4 => self.date.push(DatePart::Number(digits.parse().ok()?, length)),
            _ => return None,
        }
        Some(after)
    }

    /// The minutes or seconds of a time of day whose hours are known.
    fn counted<'a>(&mut self, digits: &str, unit: Option<Unit>, after: &'a [Piece<'a>]) -> Option<&'a [Piece<'a>]> {
        let time = self.time.as_mut()?;
        *match unit? {
            Unit::Minutes => &mut time.1,
            Unit::Seconds => &mut time.2,
        } = digits.parse().ok()?;
        Some(after)
    }

    /// `2030-09-24`, `24/09/2030`, `24.9.`, `24-Sep-2030`: its marks are no signs of an offset.
    fn date_group<'a>(
        &mut self,
        first: &str,
        mark: char,
        second: Piece<'a>,
        rest: &'a [Piece<'a>],
    ) -> Option<&'a [Piece<'a>]> {
        self.date.push(DatePart::Number(first.parse().ok()?, first.len()));
        self.date.push(match second {
            Piece::Word(word) => DatePart::Month(month_of(&word.to_lowercase())?),
            Piece::Number(digits, _) => DatePart::Number(digits.parse().ok()?, digits.len()),
            Piece::Mark(_) | Piece::Blank => return None,
        });
        match rest {
            [Piece::Mark(again), Piece::Number(third, _), tail @ ..] if *again == mark => {
                self.date.push(DatePart::Number(third.parse().ok()?, third.len()));
                Some(tail)
            }
            _ => Some(rest),
        }
    }

    /// `HH:MM`, `HH:MM:SS`, `HH:MM:SS.ffffff`
    fn clock<'a>(
        &mut self,
        hours: &str,
        minutes: &str,
        fraction: Option<&str>,
        rest: &'a [Piece<'a>],
    ) -> Option<&'a [Piece<'a>]> {
        if self.time.is_some() {
            return None;
        }
        let (hours, minutes) = (hours.parse().ok()?, minutes.parse().ok()?);
        if let (None, [Piece::Mark(':'), Piece::Number(seconds, fraction), rest @ ..]) = (fraction, rest) {
            self.time = Some((hours, minutes, seconds.parse().ok()?, micros(*fraction)));
            return Some(rest);
        }
        // A fraction of a minute.
        self.time = Some((hours, minutes, micros(fraction) * 6 / 100_000, 0));
        Some(rest)
    }

    fn date_digits(&mut self, digits: &str) -> Option<()> {
        for (part, length) in [(&digits[..4], 4), (&digits[4..6], 2), (&digits[6..8], 2)] {
            self.date.push(DatePart::Number(part.parse().ok()?, length));
        }
        Some(())
    }

    /// `HH`, `HHMM`, `HHMMSS`
    fn clock_digits(&mut self, digits: &str, fraction: Option<&str>) -> Option<()> {
        if self.time.is_some() || fraction.is_some() && digits.len() < 6 {
            return None;
        }
        let at = |start: usize| digits.get(start..start + 2).map_or(Some(0), |part| part.parse().ok());
        self.time = Some((at(0)?, at(2)?, at(4)?, micros(fraction)));
        Some(())
    }

    fn word<'a>(&mut self, word: &str, after: &'a [Piece<'a>]) -> Option<&'a [Piece<'a>]> {
        let lower = word.to_lowercase();
        if let Some(month) = month_of(&lower) {
            self.date.push(DatePart::Month(month));
            return Some(after);
        }
        match lower.as_str() {
            "am" | "a" | "pm" | "p" if self.afternoon.is_some() => return None,
            "am" | "a" => self.afternoon = Some(false),
            "pm" | "p" => self.afternoon = Some(true),
            "t" | "at" | "on" | "and" | "ad" | "of" | "st" | "nd" | "rd" | "th" => {}
            "h" if self.time.is_some() => self.next_unit = Some(Unit::Minutes),
            "m" | "min" if self.time.is_some() => self.next_unit = Some(Unit::Seconds),
            "s" | "sec" if self.time.is_some() => {}
            day if weekday_of(day).is_some() => self.weekday = weekday_of(day),
            _ => return self.zone(word, after),
        }
        Some(after)
    }

    /// `UTC`, and the names of other zones: these are ambiguous, and count as none. A zone belongs to a time, and there is
    /// one.
    fn zone<'a>(&mut self, word: &str, after: &'a [Piece<'a>]) -> Option<&'a [Piece<'a>]> {
        let utc = matches!(word, "UTC" | "GMT" | "Z" | "z");
        let is_name = (3..=5).contains(&word.len()) && word.bytes().all(|letter| letter.is_ascii_uppercase());
        if self.time.is_none() || self.offset_s.is_some() || !utc && !is_name {
            return None;
        }
        self.offset_s = utc.then_some(0);
        match after {
            // "GMT+3" is read as "my time and three hours is GMT", as POSIX has it.
            [Piece::Mark('+'), rest @ ..] => self.offset('-', rest),
            [Piece::Mark('-'), rest @ ..] => self.offset('+', rest),
            _ => Some(after),
        }
    }

    /// `+HH`, `+HHMM`, `+HH:MM`, `+HH:MM:SS`
    fn offset<'a>(&mut self, sign: char, after: &'a [Piece<'a>]) -> Option<&'a [Piece<'a>]> {
        let [Piece::Number(digits, _), rest @ ..] = after else { return None };
        let (hours, mut minutes): (i32, i32) = match digits.len() {
            4 => (digits[..2].parse().ok()?, digits[2..].parse().ok()?),
            1 | 2 => (digits.parse().ok()?, 0),
            _ => return None,
        };
        let mut rest = rest;
        if let (1 | 2, [Piece::Mark(':'), Piece::Number(text, _), tail @ ..]) = (digits.len(), rest) {
            minutes = text.parse().ok()?;
            rest = tail;
        }
        if let [Piece::Mark(':'), ..] = rest {
            return None;
        }
        let seconds = hours * 3600 + minutes * 60;
        self.offset_s = Some(if sign == '-' { -seconds } else { seconds });
        Some(rest)
    }

    fn civil(self, now: Option<WallTime>) -> Option<Civil> {
        let today = now.map(|now| date_of(now.0.div_euclid(86_400_000)));
        let (year, month, day) = match self.date.as_slice() {
            [] => {
                self.time?;
                next_weekday(today?, self.weekday)
            }
            parts => date_from(parts, today)?,
        };
        let (mut hour, minute, second, micros) = self.time.unwrap_or_default();
        match self.afternoon {
            Some(_) if !(1..=12).contains(&hour) => return None,
            Some(afternoon) => hour = hour % 12 + if afternoon { 12 } else { 0 },
            None => {}
        }
        let civil = Civil { year, month, day, hour, minute, second, micros, offset_s: self.offset_s };
        civil.is_real().then_some(civil)
    }
}

/// Year, month and day from parts in any order that leaves no doubt; a number before a number is the month first, as
/// Patroni takes it.
fn date_from(parts: &[DatePart], today: Option<(i64, u32, u32)>) -> Option<(i64, u32, u32)> {
    use DatePart::{Month, Number};
    let year = |number: u32, digits: usize| match digits {
        1 | 2 => today.map(|(this_year, ..)| nearest_century(i64::from(number), this_year)),
        _ => Some(i64::from(number)),
    };
    Some(match *parts {
        [Number(y, 3..), Number(m, _)] | [Month(m), Number(y, 3..)] => (i64::from(y), m, today?.2),
        [Number(y, d @ 3..), Number(m, _), Number(day, _)] => (year(y, d)?, m, day),
        [Number(y, d), Month(m), Number(day, _)] if d > 2 || y > 31 => (year(y, d)?, m, day),
        [Number(day, _), Month(m), Number(y, d)] | [Month(m), Number(day, _), Number(y, d)] => (year(y, d)?, m, day),
        [Number(day, _), Month(m)] | [Month(m), Number(day, _)] => (today?.0, m, day),
        [Number(y, d), Number(m, _), Number(day, _)] if y > 31 => (year(y, d)?, m, day),
        [Number(day, _), Number(m, _), Number(y, d)] if day > 12 => (year(y, d)?, m, day),
        [Number(m, _), Number(day, _), Number(y, d)] => (year(y, d)?, m, day),
        _ => return None,
    })
}

/// The year with these last two digits that is nearest to this one.
fn nearest_century(two_digits: i64, this_year: i64) -> i64 {
    let year = this_year - this_year % 100 + two_digits;
    match year - this_year {
        50.. => year - 100,
        ..-50 => year + 100,
        _ => year,
    }
}

fn micros(fraction: Option<&str>) -> u32 {
    let digits: String = fraction.unwrap_or_default().chars().chain("000000".chars()).take(6).collect();
    digits.parse().unwrap_or(0)
}

fn month_of(word: &str) -> Option<u32> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let index = MONTHS
        .iter()
        .position(|month| *month == word || *word == month[..3] || (word == "sept" && *month == "september"))?;
    u32::try_from(index + 1).ok()
}

/// Days after Monday.
fn weekday_of(word: &str) -> Option<i64> {
    let days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    (0..).zip(days).find(|(_, day)| *day == word || word == &day[..3]).map(|(number, _)| number)
}

/// The first such day from this one on.
fn next_weekday((year, month, day): (i64, u32, u32), weekday: Option<i64>) -> (i64, u32, u32) {
    let today = days_since_epoch(year, month, day);
    // The first of January 1970 was a Thursday.
    weekday.map_or((year, month, day), |weekday| date_of(today + (weekday - (today + 3)).rem_euclid(7)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-15 12:00 UTC.
    const NOW: WallTime = WallTime(1_768_478_400_000);

    /// Texts and what dateutil, which Patroni uses, makes of them on that day.
    #[test]
    fn times_in_all_forms() {
        let rows = [
            ("2030-09-24T12:00+00", "2030-09-24T12:00:00+00:00"),
            ("2030-09-24T12:00:00Z", "2030-09-24T12:00:00+00:00"),
            ("2030-09-24 12:00:00.5+02:00", "2030-09-24T12:00:00.500000+02:00"),
            ("2030-09-24T12:00:00,123456-0530", "2030-09-24T12:00:00.123456-05:30"),
            ("20300924T120000Z", "2030-09-24T12:00:00+00:00"),
            ("20300924T1200+0100", "2030-09-24T12:00:00+01:00"),
            ("20300924120000+0100", "2030-09-24T12:00:00+01:00"),
            ("2030-09-24T12Z", "2030-09-24T12:00:00+00:00"),
            ("2030-09-24 12:00 UTC", "2030-09-24T12:00:00+00:00"),
            ("2030-09-24 12:00 GMT+3", "2030-09-24T12:00:00-03:00"),
            ("Sep 24 2030 1:30 PM +0000", "2030-09-24T13:30:00+00:00"),
            ("Tue, 24 Sep 2030 12:00:00 +0200", "2030-09-24T12:00:00+02:00"),
            ("24 September 2030 12:00:00 +0200", "2030-09-24T12:00:00+02:00"),
            ("09/24/2030 12:00 +00", "2030-09-24T12:00:00+00:00"),
            ("24/09/2030 12:00 +00", "2030-09-24T12:00:00+00:00"),
            ("24.09.2030 12:00 +00", "2030-09-24T12:00:00+00:00"),
            ("12am +00 2030-09-24", "2030-09-24T00:00:00+00:00"),
            ("23:59+00", "2026-01-15T23:59:00+00:00"),
            ("12:00+00 2030-09-24", "2030-09-24T12:00:00+00:00"),
            ("24-Sep-2030 12:00Z", "2030-09-24T12:00:00+00:00"),
            ("2030-09-24T12:00:00.123456789Z", "2030-09-24T12:00:00.123456+00:00"),
            ("2030-09T12:00Z", "2030-09-15T12:00:00+00:00"),
            ("2030-09-24T12:00:00 +02:00", "2030-09-24T12:00:00+02:00"),
            ("2030-09-24 12h30m Z", "2030-09-24T12:30:00+00:00"),
            ("2030-09-24 at 12:00 Z", "2030-09-24T12:00:00+00:00"),
            ("2030.09.24 12:00Z", "2030-09-24T12:00:00+00:00"),
            ("20300924 12:00Z", "2030-09-24T12:00:00+00:00"),
            ("2030-09-24T12:00:00+2", "2030-09-24T12:00:00+02:00"),
            ("2030-09-24T12:30.5Z", "2030-09-24T12:30:30+00:00"),
            ("2030-09-24T12h30Z", "2030-09-24T12:30:00+00:00"),
            ("2030-09-24 12h30m15 +02:00", "2030-09-24T12:30:15+02:00"),
            ("2030-09-24 12:00 EST+5", "2030-09-24T12:00:00-05:00"),
            ("24 Sep 2030 12:00 UTC-3", "2030-09-24T12:00:00+03:00"),
            ("Sep 2030 120000Z", "2030-09-15T12:00:00+00:00"),
            ("Sep 2030 12h30m15s +00", "2030-09-15T12:30:15+00:00"),
            ("Thursday 12:00Z", "2026-01-15T12:00:00+00:00"),
            ("Wed 12:00Z", "2026-01-21T12:00:00+00:00"),
            ("Friday, 16 Jan 2026 12:00Z", "2026-01-16T12:00:00+00:00"),
        ];
        for (text, iso) in rows {
            let written = parse(text, Some(NOW)).unwrap_or_else(|| panic!("{text:?} was refused"));
            assert_eq!((written.iso_text.as_str(), written.has_offset), (iso, true), "{text}");
        }
        for text in ["23:59+00", "2030-09T12:00Z", "24 Sep 12:00Z", "09/24/30 12:00Z"] {
            assert!(parse(text, Some(NOW)).is_some() && parse(text, None).is_none(), "{text} needs to know the date");
        }
        assert_eq!(parse("2030-09-24T12:00:00.5+02:00", None).map(|time| time.wall), Some(WallTime(1_916_474_400_500)));
    }

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
            let parsed = parse(text, None).unwrap_or_else(|| panic!("{text:?} was refused"));
            assert_eq!((parsed.iso_text.as_str(), parsed.has_offset), (iso, has_offset), "{text:?}");
        }
    }

    #[test]
    fn what_dateutil_refuses_is_refused() {
        for text in [
            "",
            "nonsense",
            "2030-24-12 12:00Z",
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
            "2026-01-01T10:11:12 utc",
            "2026-01-01 10.30Z",
            "2026-01-01 1:30 PM A Z",
            "2026-01-01T10:11 Zulu",
        ] {
            assert!(parse(text, None).is_none(), "{text:?} was accepted");
        }
    }

    #[test]
    fn the_offset_moves_the_wall_time() {
        let at = |text| parse(text, None).map(|written| written.wall);
        assert_eq!(at("1970-01-01T00:00:01.5Z"), Some(WallTime(1500)));
        assert_eq!(at("1970-01-01T02:00:00+02:00"), Some(WallTime(0)));
        assert_eq!(at("1970-01-01T00:00:00 GMT+3"), Some(WallTime(3 * 3_600_000)));
    }

    #[test]
    fn days_and_dates() {
        assert_eq!(days_since_epoch(1970, 1, 1), 0);
        assert_eq!(days_since_epoch(2000, 3, 1), 11_017);
        for days in (-200_000..200_000).step_by(37) {
            let (year, month, day) = date_of(days);
            assert_eq!(days_since_epoch(year, month, day), days);
        }
    }
}
