//! Answers as Patroni's server forms them: its texts, its error page, its headers.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use patroni_core::json;
use serde_json::Value;

/// An answer on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: String,
}

impl Reply {
    /// A sentence; of type `text/html`, as all sentences of Patroni.
    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        Reply { status, content_type: Some("text/html"), headers: Vec::new(), body: body.into() }
    }

    /// A document.
    pub(crate) fn json(status: u16, document: &Value) -> Self {
        Reply { content_type: Some("application/json"), ..Reply::text(status, json::spaced(document)) }
    }

    /// Nothing but the status, as for OPTIONS and HEAD.
    pub(crate) fn bare(status: u16) -> Self {
        Reply { content_type: None, ..Reply::text(status, "") }
    }

    /// The page that Python's server shows for an error, with its own message.
    pub(crate) fn error(status: u16) -> Self {
        Reply::error_saying(status, reason(status))
    }

    /// The same with a message that says more.
    pub(crate) fn error_saying(status: u16, message: &str) -> Self {
        let message = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let explanation = explanation(status);
        let body = format!(
            r#"<!DOCTYPE HTML>
<html lang="en">
    <head>
        <meta charset="utf-8">
        <title>Error response</title>
    </head>
    <body>
        <h1>Error response</h1>
        <p>Error code: {status}</p>
        <p>Message: {message}.</p>
        <p>Error code explanation: {status} - {explanation}.</p>
    </body>
</html>
"#
        );
        Reply { content_type: Some("text/html;charset=utf-8"), ..Reply::text(status, body) }
    }

    /// With one more header. Values that cannot be one are left out.
    pub(crate) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// For the wire, with the headers that every answer with a body gets.
    pub(crate) fn into_response(
        self,
        server: &HeaderValue,
        extra: &[(HeaderName, HeaderValue)],
    ) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(hyper::header::SERVER, server.clone());
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        if let Some(kind) = self.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            for (name, value) in extra {
                headers.append(name.clone(), value.clone());
            }
        }
        response
    }
}

/// The words of Python's server for a status.
fn reason(status: u16) -> &'static str {
    match status {
        413 => "Request Entity Too Large",
        other => StatusCode::from_u16(other).ok().and_then(|code| code.canonical_reason()).unwrap_or("Unknown"),
    }
}

fn explanation(status: u16) -> &'static str {
    match status {
        400 => "Bad request syntax or unsupported method",
        408 => "Request timed out; try again later",
        409 => "Request conflict",
        411 => "Client must specify Content-Length",
        413 => "Entity is too large",
        500 => "Server got itself in trouble",
        501 => "Server does not support this operation",
        502 => "Invalid responses from another server/proxy",
        503 => "The server cannot process the request due to a high load",
        504 => "The gateway server did not receive a timely response",
        other => reason(other),
    }
}
