//! Times as operators write them, read as liberally as Patroni reads them: ISO 8601 in all its forms, and dates in
//! words. A time without offset is refused, since nobody knows whose clock it means.

use patroni_core::time::WallTime;

/// A time that was read.
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
    let time = parse(text, now).ok_or_else(|| {
        let words = "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601";
        (422, words.to_owned())
    })?;
    let Some(scheduled) = time.scheduled() else {
        return Err((400, format!("Timezone information is mandatory for the scheduled {action}")));
    };
    if scheduled.at < now {
        return Err((422, format!("Cannot schedule {action} in the past")));
    }
    Ok(scheduled)
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
    fn scheduled(self) -> Option<Scheduled> {
        let offset_s = self.offset_s?;
        let day_s = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        let seconds = days_since_epoch(self.year, self.month, self.day) * 86_400 + day_s - i64::from(offset_s);
        let at = WallTime(seconds * 1000 + i64::from(self.micros / 1000));
        Some(Scheduled { at, text: self.iso_text(offset_s) })
    }

    fn iso_text(self, offset_s: i32) -> String {
        let fraction = if self.micros > 0 { format!(".{:06}", self.micros) } else { String::new() };
        let sign = if offset_s < 0 { '-' } else { '+' };
        let offset = offset_s.unsigned_abs();
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}{sign}{:02}:{:02}",
            self.year,
            self.month,
            self.day,
            self.hour,
            self.minute,
            self.second,
            offset / 3600,
            offset / 60 % 60,
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
}

#[derive(Clone, Copy)]
enum DatePart {
    /// A number and how many digits it was written with.
    Number(u32, usize),
    Month(u32),
}

fn parse(text: &str, now: WallTime) -> Option<Civil> {
    let pieces = pieces(text)?;
    let mut reading = Reading::default();
    let mut rest = pieces.as_slice();
    while let [first, after @ ..] = rest {
        rest = match first {
            Piece::Blank => after,
            Piece::Number(digits, fraction) => reading.number(digits, *fraction, after)?,
            Piece::Word(word) => reading.word(word, after)?,
            Piece::Mark(sign @ ('+' | '-')) if reading.time.is_some() => reading.offset(*sign, after)?,
            Piece::Mark(_) => after,
        };
    }
    reading.civil(now)
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
        if let (Some(Piece::Word(unit)), Some(time)) = (after.first(), &mut self.time)
            && let Some(place) = match unit.to_lowercase().as_str() {
                "m" | "min" | "minute" | "minutes" => Some(&mut time.1),
                "s" | "sec" | "second" | "seconds" => Some(&mut time.2),
                _ => None,
            }
        {
            *place = digits.parse().ok()?;
            return Some(after);
        }
        match digits.len() {
            14 | 12 if self.date.is_empty() => {
                self.date_digits(&digits[..8])?;
                self.clock_digits(&digits[8..], fraction)?;
            }
            8 if self.date.is_empty() => self.date_digits(digits)?,
            4 | 6 if !self.date.is_empty() && self.date.len() != 2 => self.clock_digits(digits, fraction)?,
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
        if self.time.is_some() {
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
            "am" | "a" => self.afternoon = Some(false),
            "pm" | "p" => self.afternoon = Some(true),
            "utc" | "gmt" | "z" if self.time.is_none() => return None,
            "utc" | "gmt" | "z" => {
                self.offset_s = Some(0);
                if let [Piece::Mark(sign @ ('+' | '-')), rest @ ..] = after {
                    // "GMT+3" is read as "my time and three hours is GMT", as POSIX has it.
                    let turned = if *sign == '+' { '-' } else { '+' };
                    return self.offset(turned, rest);
                }
            }
            "t" | "at" | "on" | "and" | "ad" | "of" | "st" | "nd" | "rd" | "th" => {}
            "h" | "m" | "min" | "s" | "sec" if self.time.is_some() => {}
            day if is_weekday(day) => {}
            // The name of another time zone: names are ambiguous, and count as none.
            zone if self.time.is_some() && zone.len() >= 3 && zone.len() <= 5 && word == word.to_uppercase() => {}
            _ => return None,
        }
        Some(after)
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
        let seconds = hours * 3600 + minutes * 60;
        self.offset_s = Some(if sign == '-' { -seconds } else { seconds });
        Some(rest)
    }

    fn civil(self, now: WallTime) -> Option<Civil> {
        let (year, month, day) = match self.date.as_slice() {
            [] => {
                self.time?;
                date_of(now.0.div_euclid(86_400_000))
            }
            parts => date_from(parts, now)?,
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
fn date_from(parts: &[DatePart], now: WallTime) -> Option<(i64, u32, u32)> {
    use DatePart::{Month, Number};
    let this_year = date_of(now.0.div_euclid(86_400_000)).0;
    let year = |number: u32, digits: usize| match digits {
        1 | 2 => nearest_century(i64::from(number), this_year),
        _ => i64::from(number),
    };
    Some(match *parts {
        [Number(y, 3..), Number(m, _)] => (i64::from(y), m, date_of(now.0.div_euclid(86_400_000)).2),
        [Number(y, d @ 3..), Number(m, _), Number(day, _)] => year_month_day(year(y, d), m, day),
        [Number(y, d), Month(m), Number(day, _)] if d > 2 || y > 31 => (year(y, d), m, day),
        [Number(day, _), Month(m), Number(y, d)] | [Month(m), Number(day, _), Number(y, d)] => (year(y, d), m, day),
        [Number(day, _), Month(m)] | [Month(m), Number(day, _)] => (this_year, m, day),
        [Number(y, d), Number(m, _), Number(day, _)] if y > 31 => (year(y, d), m, day),
        [Number(day, _), Number(m, _), Number(y, d)] if day > 12 => (year(y, d), m, day),
        [Number(m, _), Number(day, _), Number(y, d)] => (year(y, d), m, day),
        _ => return None,
    })
}

/// 2030-24-12 can only be the 24th of December.
fn year_month_day(year: i64, month: u32, day: u32) -> (i64, u32, u32) {
    if month > 12 { (year, day, month) } else { (year, month, day) }
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

fn is_weekday(word: &str) -> bool {
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
        .iter()
        .any(|day| *day == word || word == &day[..3])
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
        ];
        for (text, iso) in rows {
            let scheduled = read(text, "restart", NOW).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"));
            assert_eq!(scheduled.text, iso, "{text}");
        }
        assert_eq!(read("2030-09-24T12:00:00.5+02:00", "restart", NOW).unwrap().at, WallTime(1_916_474_400_500));
    }

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
