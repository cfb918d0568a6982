//! The query of a request, read as Python's `parse_qs` does: empty values do not count, the first of several wins.

/// Parameters by name, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands behind `?`.
    pub fn parse(text: &str) -> Self {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in text.split('&') {
            let Some((name, value)) = pair.split_once('=').filter(|(_, value)| !value.is_empty()) else { continue };
            let name = decode(name);
            if !parameters.iter().any(|(known, _)| *known == name) {
                parameters.push((name, decode(value)));
            }
        }
        Query(parameters)
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut String> {
        self.0.iter_mut().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Undoes percent encoding; `+` is a blank. What is not UTF-8 is replaced.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest = after;
            }
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("lag=10MB&tag_a=x+y%2Fz&tag_a=second&empty=&flag&%74=%zz%4");
        assert_eq!(query.get("lag"), Some("10MB"));
        assert_eq!(query.get("tag_a"), Some("x y/z"));
        assert_eq!((query.get("empty"), query.get("flag")), (None, None));
        assert_eq!(query.get("t"), Some("%zz%4"));
        assert_eq!(Query::parse("a=%FF").get("a"), Some("\u{FFFD}"));
    }
}
