//! Connection parameters by their libpq keywords.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use patroni_http::TlsFiles;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use super::tls::Tls;
use super::{CONNECT_TIMEOUT, SqlError};
use crate::options::Credentials;

/// Connection parameters by their libpq keywords (`host`, `port`, `user`, `sslmode`, ...). Its `Debug` hides passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Conninfo(BTreeMap<String, String>);

/// Keywords in the order in which Patroni writes them.
const KEYWORDS: [(&str, u32); 20] = [
    ("dbname", 0),
    ("user", 0),
    ("passfile", 0),
    ("password", 0),
    ("host", 0),
    ("port", 0),
    ("sslmode", 0),
    ("sslcompression", 0),
    ("sslcert", 0),
    ("sslkey", 0),
    ("sslpassword", 130_000),
    ("sslrootcert", 0),
    ("sslcrl", 0),
    ("sslcrldir", 140_000),
    ("application_name", 0),
    ("krbsrvname", 0),
    ("gssencmode", 120_000),
    ("channel_binding", 130_000),
    ("target_session_attrs", 0),
    ("sslnegotiation", 170_000),
];

impl Conninfo {
    /// Sets a parameter.
    pub fn set(&mut self, keyword: &str, value: impl Into<String>) {
        self.0.insert(keyword.to_owned(), value.into());
    }

    /// Removes a parameter.
    pub fn remove(&mut self, keyword: &str) {
        self.0.remove(keyword);
    }

    /// A parameter.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str)
    }

    /// All parameters, by keyword.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Adds user, password and TLS options.
    pub fn add_credentials(&mut self, credentials: &Credentials) {
        let named = [("user", &credentials.username), ("password", &credentials.password)];
        for (keyword, value) in named {
            if let Some(value) = value {
                self.set(keyword, value);
            }
        }
        self.0.extend(credentials.tls.clone());
    }

    /// A member's `conn_url` (`postgres://host:port/database?parameters`) with credentials. `dbname` is left out: it is for
    /// replication connections, and others set it.
    ///
    /// # Errors
    /// The text is not such a URL.
    pub fn from_url(url: &str, credentials: &Credentials) -> Result<Self, SqlError> {
        let invalid = || SqlError::other(format!("connection URL {url:?}"), "expected postgres://host:port/database");
        let rest = url.split_once("://").filter(|(s, _)| ["postgres", "postgresql"].contains(s)).ok_or_else(invalid)?.1;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let netloc = rest.split('/').next().unwrap_or(rest);
        let netloc = netloc.rsplit('@').next().unwrap_or(netloc);
        let mut conninfo = Conninfo::default();
        let (hosts, ports): (Vec<_>, Vec<_>) = netloc.split(',').map(host_and_port).unzip();
        if hosts.iter().all(|h| h.is_empty()) {
            return Err(invalid());
        }
        conninfo.set("host", hosts.iter().map(|h| percent_decode(h)).collect::<Vec<_>>().join(","));
        if ports.iter().any(|p| !p.is_empty()) {
            conninfo.set("port", ports.join(","));
        }
        for (keyword, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            conninfo.set(keyword, percent_decode(value));
        }
        conninfo.add_credentials(credentials);
        Ok(conninfo)
    }

    /// The connection string of libpq (`key=value key=value`), with the keywords that the server version knows. A password
    /// file takes the place of the password.
    pub fn dsn(&self, server_version: u32) -> String {
        let known = KEYWORDS.iter().filter(|(_, since)| server_version >= *since);
        let known = known.filter(|(keyword, _)| *keyword != "password" || self.get("passfile").is_none());
        let pairs = known.filter_map(|(k, _)| Some(format!("{k}={}", escape(self.get(k)?))));
        pairs.collect::<Vec<_>>().join(" ")
    }

    pub(super) fn target(&self, application_name: &str, options: &str) -> Result<Target, SqlError> {
        let mut config = Config::new();
        config.application_name(application_name).options(options);
        let port = self.get("port").unwrap_or("5432");
        let host = self.get("host").map_or_else(|| default_socket_directory(port), str::to_owned);
        for (i, one) in host.split(',').enumerate() {
            config.host(one.trim());
            let port = port.split(',').nth(i).or(port.split(',').next()).unwrap_or("5432");
            let number = port.trim().parse().map_err(|_| SqlError::other("port", format!("{port:?} is not a port")))?;
            config.port(number);
        }
        let hosts = host.split(',').count();
        if hosts > 1 {
            // One that does not answer leaves time for the others.
            config.connect_timeout(CONNECT_TIMEOUT / u32::try_from(hosts).unwrap_or(u32::MAX));
            if self.get("target_session_attrs") == Some("read-write") {
                config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            }
        }
        if let Some(user) = self.get("user") {
            config.user(user);
        }
        if let Some(password) = self.get("password") {
            config.password(password);
        }
        config.dbname(self.get("dbname").unwrap_or("postgres"));
        let (mode, tls) = self.tls(host.starts_with('/'))?;
        config.ssl_mode(mode);
        Ok(Target { config, tls, mode, address: format!("{host}:{port}") })
    }

    fn tls(&self, unix_socket: bool) -> Result<(SslMode, Tls), SqlError> {
        let mode = self.get("sslmode").unwrap_or("prefer");
        if unix_socket || mode == "disable" {
            return Ok((SslMode::Disable, Tls::none()));
        }
        let text = |keyword: &str| self.get(keyword).map(str::to_owned);
        let own = text("sslcert").zip(text("sslkey")).map(|(certfile, keyfile)| TlsFiles {
            certfile,
            keyfile: Some(keyfile),
            keyfile_password: text("sslpassword"),
        });
        let tls = Tls::new(mode, self.get("sslrootcert"), own.as_ref())?;
        Ok((if ["allow", "prefer"].contains(&mode) { SslMode::Prefer } else { SslMode::Require }, tls))
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().filter(|(k, _)| !k.contains("password"))).finish()
    }
}

/// What to connect to, in the words of the library.
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: Tls,
    pub(super) address: String,
    mode: SslMode,
}

impl Target {
    /// TLS is tried but not required.
    pub(super) fn may_retry_plain(&self) -> bool {
        self.mode == SslMode::Prefer
    }

    pub(super) fn plain(&self) -> Target {
        let mut config = self.config.clone();
        config.ssl_mode(SslMode::Disable);
        Target { config, tls: Tls::none(), address: self.address.clone(), mode: SslMode::Disable }
    }
}

/// The directory where libpq looks for a socket depends on who compiled it: Debian's, else PostgreSQL's own.
#[expect(clippy::disallowed_methods, reason = "sockets are in memory: in /run, or /tmp")]
fn default_socket_directory(port: &str) -> String {
    let exists = |d: &&str| Path::new(d).join(format!(".s.PGSQL.{port}")).exists();
    ["/var/run/postgresql", "/tmp"].iter().copied().find(exists).unwrap_or("/var/run/postgresql").to_owned()
}

fn host_and_port(netloc: &str) -> (&str, &str) {
    if let Some((host, rest)) = netloc.strip_prefix('[').and_then(|n| n.split_once(']')) {
        return (host, rest.trim_start_matches(':'));
    }
    netloc.rsplit_once(':').unwrap_or((netloc, ""))
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                i += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if ['\'', '\\', ' '].contains(&c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_members_become_parameters() {
        let credentials = Credentials {
            username: Some("rep".into()),
            password: Some("p w".into()),
            tls: BTreeMap::from([("sslmode".into(), "require".into())]),
        };
        let rows = [
            ("postgres://10.0.0.1:5433/postgres", "user=rep password=p\\ w host=10.0.0.1 port=5433 sslmode=require"),
            ("postgres://[::1]:5433/postgres", "user=rep password=p\\ w host=::1 port=5433 sslmode=require"),
            ("postgres://a:1,b:2/x", "user=rep password=p\\ w host=a,b port=1,2 sslmode=require"),
        ];
        for (url, dsn) in rows {
            assert_eq!(Conninfo::from_url(url, &credentials).map(|c| c.dsn(150_000)).as_deref(), Ok(dsn), "{url}");
        }
        for bad in ["", "http://a:1/", "postgres:///x", "10.0.0.1:5432"] {
            assert!(Conninfo::from_url(bad, &credentials).is_err(), "{bad:?} was accepted");
        }
        let shown = format!("{:?}", Conninfo::from_url("postgres://a:1/b", &credentials));
        assert!(!shown.contains("p w"), "{shown}");
    }
}
