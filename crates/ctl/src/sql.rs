//! A connection to PostgreSQL of a member, as the operator's own tools would make it.

use std::error::Error;
use std::io;
use std::time::Duration;

use rustls::ClientConfig;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use patroni_core::cluster::Address;

/// How long a server may take to take a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to connect as, and to what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    /// `--username`
    pub(crate) user: Option<String>,
    /// `--password`, as typed.
    pub(crate) password: Option<String>,
    /// `--dbname`
    pub(crate) dbname: Option<String>,
    /// Settings of the session, as on the command line of a server.
    pub(crate) options: Option<String>,
}

/// The settings that libpq takes from the environment. `PGCLIENTENCODING` is not among them: what comes is read as
/// UTF-8.
pub(crate) fn options_of_environment() -> Option<String> {
    options(|name| std::env::var(name).ok())
}

fn options(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut words: Vec<String> = variable("PGOPTIONS").into_iter().collect();
    // libpq sends these on their own, which the server reads after the options: the last ones count.
    for (name, setting) in [("PGTZ", "TimeZone"), ("PGDATESTYLE", "DateStyle"), ("PGGEQO", "geqo")] {
        if let Some(value) = variable(name).filter(|value| !value.eq_ignore_ascii_case("default")) {
            words.push(format!("-c {setting}={}", escaped(&value)));
        }
    }
    (!words.is_empty()).then(|| words.join(" "))
}

/// One word of a server's options.
fn escaped(value: &str) -> String {
    let mut word = String::new();
    for c in value.chars() {
        if c == '\\' || c.is_ascii_whitespace() || c == '\x0b' {
            word.push('\\');
        }
        word.push(c);
    }
    word
}

/// Connects. What is not given comes from `PGUSER`, `PGDATABASE`, `PGPASSWORD` or the password file, as with libpq, and
/// so does the name of the application from `PGAPPNAME`; TLS is used where the server offers it, without checking its
/// certificate (`sslmode=prefer`), or as `PGSSLMODE` says.
pub(crate) async fn connect(address: &Address, login: &Login) -> Result<Client, String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = login.user.clone().or_else(|| variable("PGUSER")).or_else(system_user);
    let user = user.ok_or("no user is named: give --username")?;
    let dbname = login.dbname.clone().or_else(|| variable("PGDATABASE")).unwrap_or_else(|| user.clone());
    let password = login.password.clone().or_else(|| variable("PGPASSWORD"));
    let password = password.or_else(|| password_from_file(address, &dbname, &user));
    let mut config = Config::new();
    config.host(&address.host).port(address.port).user(&user).dbname(&dbname);
    config.connect_timeout(CONNECT_TIMEOUT);
    config.application_name(variable("PGAPPNAME").unwrap_or_else(|| "Patroni ctl".to_owned()));
    if let Some(options) = &login.options {
        config.options(options);
    }
    if let Some(password) = password {
        config.password(password);
    }
    let mode = variable("PGSSLMODE");
    config.ssl_mode(match mode.as_deref() {
        Some("disable" | "allow") => SslMode::Disable,
        Some("require" | "verify-ca" | "verify-full") => SslMode::Require,
        Some(_) | None => SslMode::Prefer,
    });
    let verify = matches!(mode.as_deref(), Some("verify-ca" | "verify-full"));
    let attempt = tokio::time::timeout(2 * CONNECT_TIMEOUT, open(config.clone(), verify)).await;
    let result = attempt.unwrap_or_else(|_| Err("timeout expired".to_owned()));
    let at = format!("connection to server at \"{}\", port {}", address.host, address.port);
    result.map_err(|reason| format!("connection failed: {at} failed: {reason}"))
}

async fn open(config: Config, verify: bool) -> Result<Client, String> {
    if config.get_ssl_mode() == SslMode::Disable {
        return open_plain(config).await;
    }
    let tls = MakeRustlsConnect::new(tls_config(verify)?);
    match config.connect(tls).await {
        Ok((client, connection)) => {
            tokio::spawn(connection);
            Ok(client)
        }
        // A server may refuse this user with TLS and take them without.
        Err(_) if config.get_ssl_mode() == SslMode::Prefer => open_plain(config).await,
        Err(error) => Err(describe_no_connection(&error)),
    }
}

async fn open_plain(mut config: Config) -> Result<Client, String> {
    config.ssl_mode(SslMode::Disable);
    let (client, connection) = config.connect(NoTls).await.map_err(|error| describe_no_connection(&error))?;
    tokio::spawn(connection);
    Ok(client)
}

/// Why there is no connection: what libpq says where the system refuses it, else as [`describe`].
fn describe_no_connection(error: &tokio_postgres::Error) -> String {
    match error.source().and_then(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error()) {
        Some(code) => {
            let reason = io::Error::from_raw_os_error(code).to_string();
            let reason = reason.split(" (os error").next().unwrap_or_default();
            format!("{reason}\n\tIs the server running on that host and accepting TCP/IP connections?")
        }
        None => {
            let more = error.as_db_error().map(more_of).unwrap_or_default();
            in_words_of_libpq(describe(error)) + &more
        }
    }
}

fn in_words_of_libpq(text: String) -> String {
    match text.as_str() {
        "invalid configuration: password missing" => "fe_sendauth: no password supplied".to_owned(),
        "error performing TLS handshake: server does not support TLS" => {
            "server does not support SSL, but SSL was required".to_owned()
        }
        _ => text,
    }
}

/// The lines that libpq adds to an error.
fn more_of(said: &DbError) -> String {
    let lines = [("DETAIL", said.detail()), ("HINT", said.hint())];
    lines.iter().filter_map(|(name, text)| Some(format!("\n{name}:  {}", (*text)?))).collect()
}

/// What PostgreSQL says, or else the whole chain of causes.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        // Two blanks, as in all messages of libpq.
        return format!("{}:  {}", said.severity(), said.message());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

fn tls_config(verify: bool) -> Result<ClientConfig, String> {
    let cacert = std::env::var("PGSSLROOTCERT").ok().filter(|_| verify);
    let options = patroni_http::ClientOptions { insecure: !verify, cacert, ..Default::default() };
    patroni_http::tls::client_config(&options).map_err(|error| error.to_string())
}

fn system_user() -> Option<String> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f.get(2) == Some(&&*uid));
    entry.and_then(|fields| fields.first().map(ToString::to_string)).or_else(|| std::env::var("USER").ok())
}

/// The first matching line of `PGPASSFILE` or `~/.pgpass`.
fn password_from_file(address: &Address, dbname: &str, user: &str) -> Option<String> {
    let path = std::env::var_os("PGPASSFILE").map(std::path::PathBuf::from);
    let path = path.or_else(|| std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(".pgpass")))?;
    let text = std::fs::read_to_string(path).ok()?;
    let port = address.port.to_string();
    text.lines().find_map(|line| password_of_line(line, [&address.host, &port, dbname, user]))
}

/// The password of a line `host:port:database:user:password` that matches; `*` matches everything, a backslash takes
/// the meaning from a colon or a backslash.
fn password_of_line(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let last = fields.last_mut()?;
        match c {
            '\\' => last.extend(characters.next()),
            ':' => fields.push(String::new()),
            other => last.push(other),
        }
    }
    let [host, port, dbname, user, password] = fields.as_slice() else { return None };
    let matches = [host, port, dbname, user].iter().zip(wanted).all(|(field, value)| *field == "*" || *field == value);
    matches.then(|| password.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_in_the_words_of_libpq() {
        let port = patroni_ports::free_port();
        let login = Login { user: Some("postgres".to_owned()), ..Login::default() };
        let refused = connect(&Address { host: "127.0.0.1".to_owned(), port }, &login).await.unwrap_err();
        let expected = format!(
            "connection failed: connection to server at \"127.0.0.1\", port {port} failed: Connection refused\n\tIs the \
             server running on that host and accepting TCP/IP connections?"
        );
        assert_eq!(refused, expected);
    }

    #[test]
    fn settings_from_the_environment() {
        let of = |given: &'static [(&str, &str)]| {
            options(|name| given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("PGTZ", "DEFAULT")]), None);
        assert_eq!(of(&[("PGTZ", "UTC"), ("PGOPTIONS", "-c a=b")]).as_deref(), Some("-c a=b -c TimeZone=UTC"));
        let spaces = of(&[("PGDATESTYLE", "ISO, DMY"), ("PGTZ", r"a\ b")]);
        assert_eq!(spaces.as_deref(), Some(r"-c TimeZone=a\\\ b -c DateStyle=ISO,\ DMY"));
    }

    #[test]
    fn lines_of_password_files() {
        let wanted = ["::1", "5432", "postgres", "admin"];
        assert_eq!(password_of_line(r"\:\:1:5432:*:admin:se\:cret", wanted).as_deref(), Some("se:cret"));
        assert_eq!(password_of_line("*:*:*:*:x", wanted).as_deref(), Some("x"));
        for other in ["#*:*:*:*:x", "*:5433:*:*:x", "*:*:*:x", ""] {
            assert_eq!(password_of_line(other, wanted), None, "{other}");
        }
    }
}
