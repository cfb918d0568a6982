//! The addresses of etcd: which are known, and which one is in use.

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
}

impl Addresses {
    pub(crate) fn new(configured: Vec<String>) -> Self {
        let mut addresses = Addresses::default();
        addresses.configure(configured);
        addresses
    }

    /// How many there are to try.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The one in use, or to be tried next.
    pub(crate) fn current(&self) -> Option<&str> {
        self.all.get(self.current).map(String::as_str)
    }

    /// Goes on to the next one. True: every one has been tried since the first.
    pub(crate) fn advance(&mut self) -> bool {
        self.current = (self.current + 1) % self.all.len().max(1);
        self.current == 0
    }

    /// Takes these for the configured ones from now on, and begins with the first of them.
    pub(crate) fn configure(&mut self, configured: Vec<String>) {
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
        let mut addresses = Addresses::new(texts(&["http://a:1", "http://b:1"]));
        assert!(!addresses.advance());
        announce(&mut addresses, &["http://b:1/", "http://c:1", "https://c:2"]);
        assert_eq!(addresses.all, ["http://a:1", "http://b:1", "http://c:1"]);
        assert_eq!(addresses.current(), Some("http://b:1"), "the one in use stays");
        assert!(!addresses.advance());
        announce(&mut addresses, &["http://d:1"]);
        assert_eq!(addresses.all, ["http://a:1", "http://b:1", "http://d:1", "http://c:1"], "c is still connected");
        assert_eq!(addresses.current(), Some("http://c:1"));
        assert!(addresses.advance(), "every one was tried");
        announce(&mut addresses, &["http://d:1"]);
        assert_eq!(addresses.all, ["http://a:1", "http://b:1", "http://d:1"], "c is forgotten");
        announce(&mut addresses, &[]);
        assert_eq!(addresses.count(), 3, "no answer is no news");
    }

    #[test]
    fn new_records_take_the_place_of_old_ones() {
        let mut addresses = Addresses::default();
        assert!(addresses.advance(), "there is nothing to try");
        assert_eq!((addresses.current(), addresses.count()), (None, 0));
        addresses.configure(texts(&["https://a:1"]));
        announce(&mut addresses, &["https://b:1"]);
        addresses.advance();
        addresses.configure(texts(&["https://c:1"]));
        assert_eq!(addresses.all, ["https://c:1", "https://b:1"]);
        assert_eq!(addresses.current(), Some("https://c:1"));
    }
}
