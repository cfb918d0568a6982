//! Reading the section of a store: what a setting may be, and what is said where it is something else.

use patroni_core::JsonMap;
use serde_json::Value;

/// A setting of a section that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{section}.{key}: {problem}; {remedy}")]
pub struct SectionError {
    /// The name of the section.
    pub section: &'static str,
    /// The key in it.
    pub key: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

/// A section and its name.
#[derive(Clone, Copy)]
pub(crate) struct Section<'a> {
    pub(crate) name: &'static str,
    pub(crate) map: &'a JsonMap,
}

impl<'a> Section<'a> {
    pub(crate) fn error(&self, key: &'static str, problem: impl Into<String>, remedy: &'static str) -> SectionError {
        SectionError { section: self.name, key, problem: problem.into(), remedy }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A text; empty counts as not given.
    pub(crate) fn text(&self, key: &'static str) -> Result<Option<String>, SectionError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            // A password of digits only is a number in YAML.
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.error(key, "is not a text", "write it as one text")),
        }
    }

    /// A port, also as a text.
    pub(crate) fn port(&self, key: &'static str) -> Result<Option<u16>, SectionError> {
        let port = match self.value(key) {
            None => return Ok(None),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(other) => other.as_u64().and_then(|number| u16::try_from(number).ok()),
        };
        port.map(Some).ok_or_else(|| self.error(key, "is not a port", "use a number from 1 to 65535"))
    }

    /// Yes or no; `None` where it is not given, or neither.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::String(text) => patroni_core::tags::parse_bool(text),
            other => Some(patroni_core::tags::truthy(other)),
        }
    }

    /// Texts: a list, or one text with commas between them. Empty ones are left out.
    pub(crate) fn texts(&self, key: &'static str) -> Result<Vec<String>, SectionError> {
        let error = |problem: String| self.error(key, problem, "write a list of texts");
        let listed: Vec<String> = match self.value(key) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| error(format!("{item} is not a text"))))
                .collect::<Result<_, _>>()?,
            Some(other) => return Err(error(format!("{other} is neither a list nor a text"))),
        };
        Ok(listed.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect())
    }

    /// `http` or `https`; the former where nothing is given.
    pub(crate) fn protocol(&self, key: &'static str) -> Result<&'static str, SectionError> {
        match self.text(key)?.as_deref() {
            None | Some("http") => Ok("http"),
            Some("https") => Ok("https"),
            Some(other) => Err(self.error(key, format!("{other:?} is not known"), "use http or https")),
        }
    }
}

/// `host`, `host:port`, `[::1]:port` as host (without brackets) and port.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn host_port(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            (name, port.parse().map_err(|_| format!("{port:?} in {text:?} is not a port"))?)
        }
        Some(_) | None => (text, default_port),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(format!("{text:?} names no host"));
    }
    Ok((name.to_owned(), port))
}

/// The address of an endpoint; the host of IPv6 gets its brackets.
pub(crate) fn url(protocol: &str, (host, port): (String, u16)) -> String {
    if host.contains(':') { format!("{protocol}://[{host}]:{port}") } else { format!("{protocol}://{host}:{port}") }
}

/// What a URL in a setting says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) protocol: &'static str,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) credentials: Option<(String, String)>,
}

impl Section<'_> {
    /// A setting that is a URL.
    pub(crate) fn url(&self, key: &'static str, default_port: u16) -> Result<Option<Url>, SectionError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let error = |problem: String| self.error(key, problem, "write http://host:port or https://host:port");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| error(format!("{text:?} has no scheme")))?;
        let protocol = match scheme {
            "http" => "http",
            "https" => "https",
            _ => return Err(error(format!("{scheme:?} is neither http nor https"))),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let credentials = user.and_then(|user| user.split_once(':'));
        let credentials = credentials.map(|(name, password)| (name.to_owned(), password.to_owned()));
        let (host, port) = host_port(host, default_port).map_err(error)?;
        Ok(Some(Url { protocol, host, port, credentials }))
    }
}
