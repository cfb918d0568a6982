//! The settings of the section `restapi`.

use patroni_core::COMPATIBLE_VERSION;
use patroni_http::tls::ServerTls;

/// What `restapi` says.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiOptions {
    /// `listen`: `host:port`; no host or `*` for all addresses.
    pub listen: String,
    /// `authentication` (or `auth`) as `username:password`: what unsafe requests have to show.
    pub auth: Option<String>,
    /// `certfile` and what belongs to it; without it, no TLS.
    pub tls: Option<ServerTls>,
    /// `allowlist`: names, addresses and networks that unsafe requests may come from.
    pub allowlist: Vec<String>,
    /// `allowlist_include_members`: members of the cluster may as well.
    pub allowlist_include_members: bool,
    /// `http_extra_headers`
    pub http_extra_headers: Vec<(String, String)>,
    /// `https_extra_headers`: added to those with TLS, in their place where names are equal.
    pub https_extra_headers: Vec<(String, String)>,
    /// `server_tokens`
    pub server_tokens: ServerTokens,
    /// `compatibility`: 2 for the bodies of Patroni 2 (`master`, `/liveness` and `/readiness` as they were).
    pub compatibility: Compatibility,
}

impl std::fmt::Debug for ApiOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiOptions").field("listen", &self.listen).field("tls", &self.tls.is_some()).finish()
    }
}

/// `restapi.server_tokens`: what the header `Server` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerTokens {
    /// `original`: name and version of this program.
    #[default]
    Original,
    /// `minimal`: `Patroni/` and the version it is compatible with.
    Minimal,
    /// `productonly`: `Patroni`.
    ProductOnly,
}

impl ServerTokens {
    /// The header's value.
    pub(crate) fn header(self) -> String {
        match self {
            ServerTokens::Original => format!("patroni-rs/{}", env!("CARGO_PKG_VERSION")),
            ServerTokens::Minimal => format!("Patroni/{COMPATIBLE_VERSION}"),
            ServerTokens::ProductOnly => "Patroni".to_owned(),
        }
    }
}

/// `restapi.compatibility`: whose names and fields the answers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compatibility {
    /// Those of Patroni 4.
    #[default]
    Four,
    /// Those of Patroni 2: see `patroni2`; `/liveness` is always 200, `/readiness` is 200 on the leader and on any node
    /// whose PostgreSQL runs.
    Two,
}
