//! `restapi` and `ctl`: the two ends of the REST API.

use std::collections::BTreeMap;
use std::path::PathBuf;

use patroni_core::python::PythonText;

use crate::secret::Secret;
use crate::section::Section;

/// `restapi`: the server.
#[derive(Clone, Debug, PartialEq)]
pub struct RestApi {
    /// `listen`, host and port.
    pub listen: String,
    /// `connect_address`, host and port; `listen` where it is not given.
    pub connect_address: String,
    /// `authentication`, asked for by requests that change something.
    pub authentication: Option<BasicAuth>,
    /// `certfile`; with it the server speaks TLS.
    pub certfile: Option<PathBuf>,
    /// `keyfile`
    pub keyfile: Option<PathBuf>,
    /// `keyfile_password`
    pub keyfile_password: Option<Secret>,
    /// `cafile`, for client certificates.
    pub cafile: Option<PathBuf>,
    /// `ciphers`, in OpenSSL's notation.
    pub ciphers: Option<String>,
    /// `verify_client`
    pub verify_client: VerifyClient,
    /// `allowlist`: networks and hosts that may change something; empty for all.
    pub allowlist: Vec<String>,
    /// `allowlist_include_members`
    pub allowlist_include_members: bool,
    /// `http_extra_headers`
    pub http_extra_headers: BTreeMap<String, String>,
    /// `https_extra_headers`, added with TLS.
    pub https_extra_headers: BTreeMap<String, String>,
    /// `request_queue_size`: connections that may wait to be accepted.
    pub request_queue_size: u32,
    /// `thread_pool_size`: requests served side by side.
    pub thread_pool_size: usize,
    /// `server_tokens`
    pub server_tokens: ServerTokens,
    /// `compatibility`
    pub compatibility: Compatibility,
}

/// A user of the REST API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// `username`
    pub username: String,
    /// `password`
    pub password: Secret,
}

/// `restapi.verify_client`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyClient {
    /// No certificates.
    #[default]
    None,
    /// Requests that change something need a certificate.
    Optional,
    /// All requests need a certificate.
    Required,
}

/// `restapi.server_tokens`: what the header `Server` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTokens {
    /// Versions of the language's HTTP server.
    #[default]
    Original,
    /// `Patroni`
    ProductOnly,
    /// `Patroni/` and the version.
    Minimal,
}

/// `restapi.compatibility` (not a setting of Patroni): whose names and fields the answers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compatibility {
    /// 2: those of Patroni 2 and before.
    Two,
    /// 4: those of Patroni 4.
    #[default]
    Four,
}

/// `ctl`: the client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ctl {
    /// `insecure`: certificates are not checked.
    pub insecure: bool,
    /// `cacert`, else `restapi.cafile`.
    pub cacert: Option<PathBuf>,
    /// `certfile`
    pub certfile: Option<PathBuf>,
    /// `keyfile`
    pub keyfile: Option<PathBuf>,
    /// `keyfile_password`
    pub keyfile_password: Option<Secret>,
    /// `authentication`, else `restapi.authentication`.
    pub authentication: Option<BasicAuth>,
}

impl RestApi {
    pub(crate) fn read(section: &Section<'_>) -> RestApi {
        let listen = section.filled("listen").unwrap_or_default();
        let size = |name, min, default| section.int(name, None, min).unwrap_or(default);
        RestApi {
            connect_address: section.filled("connect_address").unwrap_or_else(|| listen.clone()),
            listen,
            authentication: basic_auth(section),
            certfile: section.path("certfile"),
            keyfile: section.path("keyfile"),
            keyfile_password: section.secret("keyfile_password"),
            cafile: section.path("cafile"),
            ciphers: section.filled("ciphers"),
            verify_client: match section.word("verify_client", &["none", "optional", "required"]) {
                Some("required") => VerifyClient::Required,
                Some("optional") => VerifyClient::Optional,
                _ => VerifyClient::None,
            },
            allowlist: section.texts("allowlist"),
            allowlist_include_members: section.flag("allowlist_include_members").unwrap_or(false),
            http_extra_headers: section.text_map("http_extra_headers"),
            https_extra_headers: section.text_map("https_extra_headers"),
            request_queue_size: u32::try_from(size("request_queue_size", 0, 5)).unwrap_or(u32::MAX),
            thread_pool_size: usize::try_from(size("thread_pool_size", 0, 5).max(5)).unwrap_or(usize::MAX),
            server_tokens: match section.word("server_tokens", &["minimal", "productonly", "original"]) {
                Some("minimal") => ServerTokens::Minimal,
                Some("productonly") => ServerTokens::ProductOnly,
                _ => ServerTokens::Original,
            },
            compatibility: compatibility(section),
        }
    }
}

impl Ctl {
    pub(crate) fn read(section: &Section<'_>, server: &RestApi) -> Ctl {
        Ctl {
            insecure: section.flag("insecure").unwrap_or(false),
            cacert: section.path("cacert").or_else(|| server.cafile.clone()),
            certfile: section.path("certfile"),
            keyfile: section.path("keyfile"),
            keyfile_password: section.secret("keyfile_password"),
            authentication: basic_auth(section).or_else(|| server.authentication.clone()),
        }
    }
}

fn compatibility(section: &Section<'_>) -> Compatibility {
    let Some(value) = section.value("compatibility") else { return Compatibility::Four };
    match &*value.python_text() {
        "2" => Compatibility::Two,
        "4" => Compatibility::Four,
        _ => {
            section.refuse("compatibility", value, "2 or 4");
            Compatibility::Four
        }
    }
}

/// User and password are needed together.
fn basic_auth(section: &Section<'_>) -> Option<BasicAuth> {
    let value = section.value("authentication")?;
    let auth = section.section("authentication");
    match (auth.text("username"), auth.secret("password")) {
        (Some(username), Some(password)) => Some(BasicAuth { username, password }),
        (None, None) if auth.map().is_empty() => None,
        _ => {
            section.refuse("authentication", value, "a mapping with username and password");
            None
        }
    }
}
