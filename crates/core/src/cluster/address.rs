//! Where PostgreSQL of a member can be reached.

use serde_json::Value;

use super::MemberData;

/// Host, port and database of `postgres://host:port/database`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; PostgreSQL's where none is given.
    pub port: u16,
}

impl Address {
    /// The address a member announces.
    pub fn of(data: &MemberData) -> Option<Self> {
        if let Some(Value::Object(given)) = data.extra.get("conn_kwargs") {
            let host = given.get("host").and_then(Value::as_str)?;
            let port = match given.get("port") {
                Some(Value::String(text)) => text.parse().ok()?,
                Some(other) => other.as_u64().and_then(|port| u16::try_from(port).ok())?,
                None => 5432,
            };
            return Some(Address { host: host.to_owned(), port });
        }
        Self::parse(data.conn_url.as_deref()?)
    }

    fn parse(url: &str) -> Option<Self> {
        let (_, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        let (host, port) = match address.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']')?;
                (host, after.strip_prefix(':'))
            }
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        let port = port.filter(|port| !port.is_empty()).map_or(Some(5432), |port| port.parse().ok())?;
        let port = if port == 0 { 5432 } else { port };
        (!host.is_empty()).then(|| Address { host: host.to_lowercase(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_members() {
        let rows = [
            ("postgres://127.0.0.1:5433/postgres", Some(("127.0.0.1", 5433))),
            ("postgres://Node-1/postgres", Some(("node-1", 5432))),
            ("postgres://[::1]:6432/postgres", Some(("::1", 6432))),
            ("postgres://user:secret@db:5432/x?a=b", Some(("db", 5432))),
            ("nonsense", None),
            ("postgres:///postgres", None),
        ];
        for (url, expected) in rows {
            let expected = expected.map(|(host, port)| Address { host: host.to_owned(), port });
            assert_eq!(Address::parse(url), expected, "{url}");
        }
    }
}
