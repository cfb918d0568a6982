//! Reading connection strings of libpq, both forms.

use super::recovery::TLS_DEFAULTS;
use crate::sql::Conninfo;

/// The parameters of a connection string, with libpq's defaults where it says nothing of TLS, so that two of them can be
/// compared. `None` if it is not one.
pub fn parse_dsn(text: &str) -> Option<Conninfo> {
    let is_uri = text.starts_with("postgres://") || text.starts_with("postgresql://");
    let mut conninfo = if is_uri { parse_uri(text)? } else { parse_pairs(text)? };
    if let Some(required) = conninfo.get("requiressl").map(|value| value == "1") {
        conninfo.remove("requiressl");
        if conninfo.get("sslmode").is_none() {
            conninfo.set("sslmode", if required { "require" } else { "prefer" });
        }
    }
    for (keyword, value) in TLS_DEFAULTS {
        if conninfo.get(keyword).is_none() {
            conninfo.set(keyword, value);
        }
    }
    Some(conninfo)
}

fn parse_uri(text: &str) -> Option<Conninfo> {
    let rest = text.split_once("://")?.1;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let mut pairs = vec![("user", user.to_owned()), ("password", password.to_owned()), ("dbname", database.to_owned())];
    let (names, ports): (Vec<_>, Vec<_>) = hosts.split(',').map(host_and_port).unzip();
    pairs.push(("host", names.join(",")));
    pairs.push(("port", ports.join(",")));
    let is_set = |value: &str| value.chars().any(|c| c != ',');
    let mut conninfo = Conninfo::default();
    for (keyword, value) in pairs.into_iter().filter(|(_, value)| is_set(value)) {
        conninfo.set(keyword, percent_decoded(&value)?);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=')? {
            ("ssl", "true") => conninfo.set("sslmode", "require"),
            (keyword, value) => conninfo.set(&percent_decoded(keyword)?, percent_decoded(value)?),
        }
    }
    Some(conninfo)
}

fn host_and_port(text: &str) -> (&str, &str) {
    match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.trim_start_matches(':')),
        None => text.rsplit_once(':').unwrap_or((text, "")),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// `keyword = value`, values quoted with `'` where they need it, `\` before what is meant as it is.
fn parse_pairs(text: &str) -> Option<Conninfo> {
    let mut conninfo = Conninfo::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=')?;
        let keyword = keyword.trim_end();
        if keyword.is_empty() || !keyword.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return None;
        }
        let (value, after) = read_value(after.trim_start())?;
        conninfo.set(keyword, value);
        rest = after.trim_start();
    }
    Some(conninfo)
}

fn read_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.strip_prefix('\'');
    let text = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted.is_some() => return Some((value, &text[at + 1..])),
            c if c.is_whitespace() && quoted.is_none() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted.is_some() { None } else { Some((value, "")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        const TLS: &str = "channel_binding=prefer gssencmode=prefer sslnegotiation=postgres";
        let rows = [
            ("postgresql://foo/postgres", Some("dbname=postgres host=foo sslmode=prefer")),
            (
                "postgresql://u%2Fse:pass@:%2f123/db%2Fsdf?application_name=mya%2Fpp&ssl=true",
                Some("application_name=mya/pp dbname=db/sdf password=pass port=/123 sslmode=require user=u/se"),
            ),
            ("postgres://[::1]:5433,b/x", Some("dbname=x host=::1,b port=5433, sslmode=prefer")),
            (r" host = 'host' dbname = db\ name requiressl=1 ", Some("dbname=db name host=host sslmode=require")),
            ("requiressl = 0\\", Some("sslmode=prefer")),
            (r"user=a password='it\'s x' sslmode=disable", Some("password=it's x sslmode=disable user=a")),
            ("host=a foo = '", None),
            ("1", None),
            ("a b=c", None),
            ("postgres://%zz/x", None),
        ];
        for (text, expected) in rows {
            let parsed = parse_dsn(text).map(|conninfo| {
                let pairs: Vec<_> = conninfo.iter().map(|(k, v)| format!("{k}={v}")).collect();
                pairs.join(" ")
            });
            let expected = expected.map(|text| {
                // Keywords come sorted.
                let mut pairs = split_pairs(text);
                pairs.extend(split_pairs(TLS));
                pairs.sort();
                pairs.join(" ")
            });
            assert_eq!(parsed, expected, "{text}");
        }
    }

    fn split_pairs(text: &str) -> Vec<String> {
        let mut pairs: Vec<String> = Vec::new();
        for word in text.split(' ') {
            match pairs.last_mut() {
                Some(last) if !word.contains('=') => last.push_str(&format!(" {word}")),
                _ => pairs.push(word.to_owned()),
            }
        }
        pairs
    }
}
