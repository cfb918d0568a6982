//! Where a server can be reached, as its member key says.

use super::Conf;

impl Conf {
    /// `conn_url` of the member key: `postgres://host:port/database`.
    pub fn connection_url(&self) -> String {
        let local = self.server.local_replication();
        let fallback = || {
            // A socket is no address for others.
            let host = local.get("host").filter(|host| !host.starts_with('/')).unwrap_or("localhost");
            format!("{host}:{}", self.server.port)
        };
        url(&self.files.connect_address.clone().unwrap_or_else(fallback), &self.server.database)
    }

    /// `proxy_url` of the member key, where a proxy is configured.
    pub fn proxy_url(&self) -> Option<String> {
        Some(url(self.files.proxy_address.as_deref()?, &self.server.database))
    }
}

/// `host`, `host:port`, `[v6]:port` with a database.
fn url(address: &str, database: &str) -> String {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(port)),
        Some(_) | None => (address, None),
    };
    let is_bare_ipv6 = host.contains(':') && !host.starts_with('[') && !host.contains(',');
    let host = if is_bare_ipv6 { format!("[{host}]") } else { host.to_owned() };
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("postgres://{host}{port}/{database}")
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn addresses_become_urls() {
        for (address, expected) in [
            ("127.0.0.1:5433", "postgres://127.0.0.1:5433/postgres"),
            ("host", "postgres://host/postgres"),
            ("[::1]:5433", "postgres://[::1]:5433/postgres"),
            ("fe80::1:5433", "postgres://[fe80::1]:5433/postgres"),
        ] {
            assert_eq!(url(address, "postgres"), expected);
        }
    }
}
