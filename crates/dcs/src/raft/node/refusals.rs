//! Who was refused at the store's port, in the log: with the address, in a form that fail2ban reads, and never so often that
//! the log fills.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// What follows is about so much time.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines about one address.
const OF_ONE_ADDRESS: u32 = 3;
/// Lines in all.
const IN_ALL: u32 = 30;

/// Counts what was written.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    began: Option<Instant>,
    lines: u32,
    of: BTreeMap<IpAddr, u32>,
    unwritten: u64,
}

impl Refusals {
    /// The lines to write about a connection that is refused now.
    pub(super) fn lines(&mut self, from: IpAddr, why: &str, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        if self.began.is_none_or(|began| now.duration_since(began) >= WINDOW) {
            let unwritten = std::mem::take(self).unwritten;
            self.began = Some(now);
            if unwritten > 0 {
                lines.push(format!("embedded store: {unwritten} more connections were refused"));
            }
        }
        let of = self.of.get(&from).copied().unwrap_or_default();
        if self.lines >= IN_ALL || of >= OF_ONE_ADDRESS {
            self.unwritten += 1;
            return lines;
        }
        self.lines += 1;
        self.of.insert(from, of + 1);
        lines.push(format!("embedded store: connection from {from} refused: {why}"));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_a_few_times_and_all_of_them_not_too_often() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let one = IpAddr::from([10, 0, 0, 9]);
        let line = "embedded store: connection from 10.0.0.9 refused: garbage";
        for _ in 0..OF_ONE_ADDRESS {
            assert_eq!(refusals.lines(one, "garbage", start), [line]);
        }
        assert!(refusals.lines(one, "garbage", start + WINDOW / 2).is_empty());
        let later = start + WINDOW;
        let summary = "embedded store: 1 more connections were refused";
        assert_eq!(refusals.lines(one, "garbage", later), [summary, line]);
        let written = (0..255).map(|last| refusals.lines(IpAddr::from([10, 0, 1, last]), "x", later).len());
        assert_eq!(written.sum::<usize>(), IN_ALL as usize - 1);
        assert_eq!(refusals.lines(one, "garbage", later + WINDOW).len(), 2, "they are counted");
    }
}
