//! The password file of libpq.

use std::path::Path;

use super::files;
use crate::Result;
use crate::sql::Conninfo;

/// Writes the password of a connection into the password file. False, and nothing is written, if it has none. Programs
/// that shall use it get it by `PGPASSFILE`.
///
/// # Errors
/// The file cannot be written.
pub async fn write_pgpass(file: &Path, conninfo: &Conninfo) -> Result<bool> {
    match pgpass_content(conninfo) {
        Some(content) => files::write_private(file.to_owned(), content.into_bytes()).await.map(|()| true),
        None => Ok(false),
    }
}

/// One line for each host: `host:port:*:user:password`. `None` without a password. A socket counts as `localhost` too,
/// which is what libpq looks up for the default directory.
pub fn pgpass_content(conninfo: &Conninfo) -> Option<String> {
    let password = conninfo.get("password").filter(|password| !password.is_empty())?;
    let host = conninfo.get("host").filter(|host| !host.is_empty()).unwrap_or("*");
    let mut hosts: Vec<String> = host.split(',').map(str::trim).filter(|h| !h.is_empty()).map(escape).collect();
    if hosts.iter().any(|host| host.starts_with('/')) && !hosts.iter().any(|host| host == "localhost") {
        hosts.push("localhost".to_owned());
    }
    let field = |keyword| conninfo.get(keyword).filter(|value| !value.is_empty()).map_or("*".to_owned(), escape);
    // Several ports, one for each host, are no field of this file: any port will do.
    let port = if conninfo.get("port").is_some_and(|port| port.contains(',')) { "*".to_owned() } else { field("port") };
    let user = field("user");
    let password = escape(password);
    Some(hosts.iter().map(|host| format!("{host}:{port}:*:{user}:{password}\n")).collect())
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_its_line_and_separators_are_escaped() {
        type Pairs = &'static [(&'static str, &'static str)];
        let rows: [(Pairs, Option<&str>); 6] = [
            (&[("host", "a"), ("port", "5432"), ("user", "r"), ("password", "p:w\\")], Some("a:5432:*:r:p\\:w\\\\\n")),
            (
                &[("host", "a, b"), ("port", "5432"), ("user", "r"), ("password", "p")],
                Some("a:5432:*:r:p\nb:5432:*:r:p\n"),
            ),
            (&[("host", "a,b"), ("port", "1,2"), ("user", "r"), ("password", "p")], Some("a:*:*:r:p\nb:*:*:r:p\n")),
            (&[("host", "/tmp"), ("password", "p")], Some("/tmp:*:*:*:p\nlocalhost:*:*:*:p\n")),
            (&[("host", "::1"), ("port", "1"), ("user", "r"), ("password", "p")], Some("\\:\\:1:1:*:r:p\n")),
            (&[("host", "a"), ("user", "r")], None),
        ];
        for (pairs, expected) in rows {
            let mut conninfo = Conninfo::default();
            for (keyword, value) in pairs {
                conninfo.set(keyword, *value);
            }
            assert_eq!(pgpass_content(&conninfo).as_deref(), expected, "{pairs:?}");
        }
    }
}
