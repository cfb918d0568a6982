//! Where the API server is, and how this process shows who it is: what a Pod finds in its files and variables, or else a
//! context of kubectl's configuration.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use patroni_http::{ClientOptions, HeaderName, HeaderValue, TlsFiles};
use serde_json::Value;
use tokio::time::Instant;

use super::kubeconfig;
use crate::section::{Section, SectionError};

/// The API server, and how this process shows who it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The address, such as `https://10.96.0.1:443`, without a slash at its end.
    pub server: String,
    /// Whom to trust: a file, or what it would hold; without it whom the system trusts.
    pub cacert: Option<String>,
    /// Nobody looks at the certificate of the server.
    pub unverified: bool,
    /// The certificate that is shown.
    pub identity: Option<TlsFiles>,
    /// What requests say of who is asking.
    pub credentials: Credentials,
}

/// What requests say of who is asking.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// A token.
    Token(String),
    /// A token in a file, which is replaced from time to time.
    TokenFile(PathBuf),
    /// `username:password`.
    Basic(String),
}

impl std::fmt::Debug for Access {
    /// Without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("server", &self.server).finish_non_exhaustive()
    }
}

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl Access {
    /// A server that asks nobody who is asking.
    pub fn at(server: &str) -> Self {
        Access { server: server.to_owned(), ..Access::default() }
    }

    /// What this process finds: the files and variables of a Pod, or else `context` of kubectl's configuration.
    pub(super) fn find(section: Section<'_>) -> Result<Self, SectionError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let place = variable("KUBERNETES_SERVICE_HOST").zip(variable("KUBERNETES_SERVICE_PORT"));
        let cacert = section.text("cacert")?.unwrap_or_else(|| format!("{SERVICE_ACCOUNT}/ca.crt"));
        let token = PathBuf::from(format!("{SERVICE_ACCOUNT}/token"));
        if let Some((host, port)) = place
            && holds_something(Path::new(&cacert))
            && holds_something(&token)
        {
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            let credentials = Credentials::TokenFile(token);
            let server = format!("https://{host}:{port}");
            return Ok(Access { server, cacert: Some(cacert), credentials, ..Access::default() });
        }
        let file = variable("KUBECONFIG").map(PathBuf::from);
        let file = file.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".kube/config")));
        let file = file.unwrap_or_else(|| PathBuf::from("/root/.kube/config"));
        // As with 4.1.5 the usual one is called so, and an empty name is kubectl's present one.
        let context = match section.map.get("context") {
            None | Some(Value::Null) => Some("kind-kind".to_owned()),
            Some(_) => section.text("context")?,
        };
        kubeconfig::read(&file, context.as_deref()).map_err(|problem| {
            let remedy = "in a Pod this needs KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT and the files of its service account; \
                          elsewhere a context of the file that KUBECONFIG names";
            section.error("context", problem, remedy)
        })
    }

    /// How requests are made.
    pub(super) fn client_options(&self) -> ClientOptions {
        let auth = if let Credentials::Basic(auth) = &self.credentials { Some(auth.clone()) } else { None };
        ClientOptions {
            auth,
            cacert: self.cacert.clone(),
            identity: self.identity.clone(),
            unverified: self.unverified,
            // As the logs of API servers show it.
            user_agent: format!(
                "Patroni/{} patroni-rs/{}",
                patroni_core::COMPATIBLE_VERSION,
                env!("CARGO_PKG_VERSION")
            ),
            ..ClientOptions::default()
        }
    }
}

fn holds_something(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() > 0)
}

/// The header that says who is asking. A token in a file is read again once a minute, and after it was refused.
#[derive(Default)]
pub(super) struct Bearer(Mutex<Option<(HeaderValue, Instant)>>);

const TOKEN_AGE: Duration = Duration::from_secs(60);
/// Files of service accounts are in memory; one on a disk that hangs must not keep a request.
const READING: Duration = Duration::from_secs(1);

impl Bearer {
    pub(super) async fn headers(&self, credentials: &Credentials) -> Vec<(HeaderName, HeaderValue)> {
        let value = match credentials {
            Credentials::None | Credentials::Basic(_) => None,
            Credentials::Token(token) => bearer(token),
            Credentials::TokenFile(file) => self.of_file(file).await,
        };
        value.into_iter().map(|value| (HeaderName::from_static("authorization"), value)).collect()
    }

    async fn of_file(&self, file: &Path) -> Option<HeaderValue> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((value, read)) = &known
            && read.elapsed() < TOKEN_AGE
        {
            return Some(value.clone());
        }
        let text = tokio::time::timeout(READING, tokio::fs::read_to_string(file)).await;
        match text.map_err(std::io::Error::other).and_then(|text| text).map(|text| bearer(text.trim())) {
            Ok(Some(value)) => {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((value.clone(), Instant::now()));
                Some(value)
            }
            Ok(None) => known.map(|(value, _)| value),
            Err(error) => {
                tracing::error!("Failed to refresh service account token: {}: {error}", file.display());
                known.map(|(value, _)| value)
            }
        }
    }

    /// The token was refused.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| !token.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_that_was_refused_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        let credentials = Credentials::TokenFile(file.clone());
        let source = Bearer::default();
        assert!(source.headers(&credentials).await.is_empty(), "there is none");
        let shown = async || source.headers(&credentials).await[0].1.to_str().expect("a text").to_owned();
        std::fs::write(&file, "one\n").expect("can be written");
        assert_eq!(shown().await, "Bearer one");
        std::fs::write(&file, "two").expect("can be written");
        assert_eq!(shown().await, "Bearer one", "for a minute");
        source.forget();
        assert_eq!(shown().await, "Bearer two");
        std::fs::write(&file, "").expect("can be written");
        *source.0.lock().expect("no panic") = Some((bearer("two").expect("valid"), Instant::now() - TOKEN_AGE));
        assert_eq!(shown().await, "Bearer two", "an empty file is one that is being replaced");
    }
}
