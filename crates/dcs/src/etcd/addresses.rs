//! The addresses of etcd: which are known, and which one is in use.

use super::options::EtcdOptions;

/// More are not kept: no etcd has as many members.
const MOST: usize = 64;

/// What is configured, what the members of etcd announce, and a place among them.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    configured: Vec<String>,
    announced: Vec<String>,
    /// The configured ones first, each once.
    all: Vec<String>,
    current: usize,
    /// Whose SRV records name the configured ones.
    records: Option<Records>,
    /// They are to be asked for before the next request.
    due: bool,
}

/// Where SRV records of etcd are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) domain: String,
    pub(crate) suffix: Option<String>,
}

impl Addresses {
    pub(crate) fn new(options: &EtcdOptions) -> Self {
        let suffix = options.srv_suffix.clone();
        let records = options.srv.clone().map(|domain| Records { domain, suffix });
        let mut addresses = Addresses { due: records.is_some(), records, ..Addresses::default() };
        addresses.configure(options.endpoints.clone());
        addresses
    }

    /// The SRV records that are to be asked for now, if any. What comes of it is for [`Addresses::resolved`].
    pub(crate) fn unresolved(&self) -> Option<Records> {
        self.records.clone().filter(|_| self.due)
    }

    /// Takes over what the SRV records say. While there is no answer, the addresses that are known do.
    ///
    /// # Errors
    /// None is known.
    pub(crate) fn resolved(&mut self, found: Result<Vec<String>, String>) -> Result<(), String> {
        match found {
            Ok(found) => self.configure(found),
            Err(text) if self.all.is_empty() => return Err(text),
            Err(text) => tracing::debug!("{text}; the addresses before stay in use"),
        }
        self.due = false;
        Ok(())
    }

    /// How many there are to try.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The one in use, or to be tried next.
    pub(crate) fn current(&self) -> Option<&str> {
        self.all.get(self.current).map(String::as_str)
    }

    /// Goes on to the next one. When every one has been tried since the first, the SRV records may have changed.
    pub(crate) fn advance(&mut self) {
        self.current = (self.current + 1) % self.all.len().max(1);
        self.due |= self.current == 0 && self.records.is_some();
    }

    /// Takes these for the configured ones from now on, and begins with the first of them.
    fn configure(&mut self, configured: Vec<String>) {
        self.configured = configured;
        self.arrange(None);
    }

    /// Takes these for what the members announce from now on; what only earlier ones announced is forgotten. Addresses with
    /// another scheme than the configured ones cannot be used with the same settings.
    pub(crate) fn announce(&mut self, announced: impl Iterator<Item = String>) {
        let first = self.configured.first().or(self.all.first());
        let scheme = if first.is_some_and(|url| url.starts_with("https:")) { "https:" } else { "http:" };
        let usable = announced.filter(|url| url.starts_with(scheme));
        let announced: Vec<String> = usable.map(|url| url.trim_end_matches('/').to_owned()).collect();
        // An answer without any address says nothing about where etcd is.
        if !announced.is_empty() {
            self.announced = announced;
            let in_use = self.current().map(str::to_owned);
            self.arrange(in_use);
        }
    }

    /// The one in use stays in use, even if nobody knows it any more, until it fails.
    fn arrange(&mut self, in_use: Option<String>) {
        let mut all: Vec<String> = Vec::new();
        for url in self.configured.iter().chain(&self.announced).chain(&in_use) {
            if !all.contains(url) && all.len() < MOST {
                all.push(url.clone());
            }
        }
        self.current = in_use.and_then(|url| all.iter().position(|known| *known == url)).unwrap_or(0);
        self.all = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|&url| url.to_owned()).collect()
    }

    fn announce(addresses: &mut Addresses, urls: &[&str]) {
        addresses.announce(texts(urls).into_iter());
    }

    #[test]
    fn members_come_and_go() {
        let endpoints = texts(&["http://a:1", "http://b:1"]);
        let mut addresses = Addresses::new(&EtcdOptions { endpoints, ..EtcdOptions::default() });
        addresses.advance();
        announce(&mut addresses, &["http://b:1/", "http://c:1", "https://c:2"]);
        assert_eq!(addresses.all, ["http://a:1", "http://b:1", "http://c:1"]);
        assert_eq!(addresses.current(), Some("http://b:1"), "the one in use stays");
        addresses.advance();
        announce(&mut addresses, &["http://d:1"]);
        assert_eq!(addresses.all, ["http://a:1", "http://b:1", "http://d:1", "http://c:1"], "c is still connected");
        assert_eq!(addresses.current(), Some("http://c:1"));
        addresses.advance();
        assert_eq!(addresses.current(), Some("http://a:1"), "every one was tried");
        assert_eq!(addresses.unresolved(), None, "there are no records");
        announce(&mut addresses, &["http://d:1"]);
        assert_eq!(addresses.all, ["http://a:1", "http://b:1", "http://d:1"], "c is forgotten");
        announce(&mut addresses, &[]);
        assert_eq!(addresses.count(), 3, "no answer is no news");
    }

    #[test]
    fn new_records_take_the_place_of_old_ones() {
        let options = EtcdOptions { srv: Some("example.org".into()), ..EtcdOptions::default() };
        let mut addresses = Addresses::new(&options);
        let due = |addresses: &Addresses| addresses.unresolved().is_some();
        assert!(due(&addresses));
        assert_eq!((addresses.current(), addresses.count()), (None, 0));
        assert!(addresses.resolved(Err("no answer".into())).is_err(), "there is nothing to try");
        assert!(due(&addresses));
        assert!(addresses.resolved(Ok(texts(&["https://a:1"]))).is_ok());
        assert!(!due(&addresses));
        announce(&mut addresses, &["https://b:1"]);
        addresses.advance();
        assert!(!due(&addresses), "b was not tried");
        addresses.advance();
        assert!(due(&addresses), "every one was tried");
        assert!(addresses.resolved(Err("no answer".into())).is_ok(), "those before stay in use");
        assert!(!due(&addresses));
        assert!(addresses.resolved(Ok(texts(&["https://c:1"]))).is_ok());
        assert_eq!(addresses.all, ["https://c:1", "https://b:1"]);
        assert_eq!(addresses.current(), Some("https://c:1"));
    }
}
