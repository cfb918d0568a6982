//! Requests to stores that speak HTTP, and what becomes of them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use patroni_http::{Call, ClientOptions, HttpClient, HttpError, Response};

use crate::attempts::Fate;

/// A client whose certificate files are read again after a handshake that failed, and after other settings.
pub(crate) struct Http {
    inner: Mutex<(ClientOptions, HttpClient)>,
}

impl Http {
    pub(crate) fn new(options: ClientOptions) -> Self {
        Http { inner: Mutex::new((options.clone(), HttpClient::lazy(options))) }
    }

    pub(crate) fn reconfigure(&self, options: ClientOptions) {
        *self.inner.lock().unwrap_or_else(PoisonError::into_inner) = (options.clone(), HttpClient::lazy(options));
    }

    /// One attempt. A status that is an error is an answer.
    pub(crate) async fn send(&self, call: Call<'_>, patience: Duration) -> Result<Response, (Fate, String)> {
        let client = self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        let error = match client.call(call, patience).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        if matches!(error, HttpError::Handshake(..) | HttpError::Untrusted(..)) {
            let options = self.inner.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
            self.reconfigure(options);
        }
        Err((fate(&error), error.to_string()))
    }
}

pub(crate) fn fate(error: &HttpError) -> Fate {
    match error {
        HttpError::NotConnected(_) | HttpError::Connect(..) | HttpError::Untrusted(..) | HttpError::Handshake(..) => {
            Fate::NotSent
        }
        HttpError::Timeout(_) | HttpError::Protocol(_) => Fate::Unknown,
        HttpError::Address(_) | HttpError::Tls(_) => Fate::Refused,
    }
}

/// A text as a part of a path or of a query: everything but letters, digits and `-._~` is escaped, and slashes where they are
/// not `kept`.
pub(crate) fn escaped(text: &str, kept: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
        match plain {
            true => escaped.push(char::from(byte)),
            false => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// `name=value&name=value`, escaped.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escaped(value, ""))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert_eq!(escaped("service/ä b+1~", "/"), "service/%C3%A4%20b%2B1~");
        assert_eq!(form(&[("value", "{\"a\":1}&b=c"), ("ttl", "30")]), "value=%7B%22a%22%3A1%7D%26b%3Dc&ttl=30");
    }
}
