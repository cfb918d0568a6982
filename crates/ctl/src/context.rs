//! What commands share: the configuration, the way to the store, the way to the members.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;
use patroni_config::{Config, Environment, Purpose, Source};
use patroni_core::cluster::{Cluster, Member};
use patroni_core::facts::Outcome;
use patroni_dcs::wire::{self, RawKey};
use patroni_dcs::{Dcs, Expected, Key};
use patroni_http::{ClientOptions, HttpClient, HttpError, TlsFiles, endpoint_url};
use serde_json::Value;

use crate::cli::parse::Matches;
use crate::embedded::picture::Picture;
use crate::embedded::{self, Admin};
use crate::error::{CtlError, failed};
use crate::members::{self, Show};
use crate::output;
use crate::output::rows::Format;
use crate::place::Place;
use crate::selection::{Request, RoleFilter};

/// For requests that are answered at once.
pub(crate) const SHORT: Duration = Duration::from_secs(15);
/// For requests to many members, of which some may be gone.
pub(crate) const QUICK: Duration = Duration::from_secs(3);
/// For requests that the agent may have to wait for.
pub(crate) const MEDIUM: Duration = Duration::from_secs(120);
/// For requests that last as long as PostgreSQL needs to stop and start.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 3600);

/// What commands share.
pub(crate) struct Context {
    config: Arc<Config>,
    insecure: bool,
    place: Place,
    http: OnceLock<HttpClient>,
}

/// An answer of a member.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: String,
    /// The header `Date`.
    pub(crate) date: Option<String>,
}

impl Answer {
    /// The line that tells a refusal.
    pub(crate) fn refusal(&self, action: &str, member: &Member) -> String {
        format!("Failed: {action} for member {}, status code={}, ({})", member.name, self.status, self.body)
    }
}

/// Why there is no answer of a member.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the member announces no REST API (api_url)")]
    NoAddress,
    #[error("{0}: {1}")]
    Http(String, HttpError),
    #[error("the TLS settings of the section ctl cannot be used: {0}")]
    Tls(patroni_http::TlsError),
}

impl RequestError {
    /// The member lives: its certificate is what keeps it from being asked.
    pub(crate) fn is_about_trust(&self) -> bool {
        matches!(self, RequestError::Http(_, HttpError::Untrusted(..)) | RequestError::Tls(_))
    }
}

impl Context {
    /// Reads the configuration that the options before the command name.
    pub(crate) fn load(global: &Matches) -> Result<Self, CtlError> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let given = global.text("config_file").map(str::to_owned).or_else(|| environment("PATRONICTL_CONFIG_FILE"));
        let path = match given {
            Some(path) => {
                let path = PathBuf::from(path);
                if !is_readable(&path) && Some(&path) != default_path().as_ref() {
                    return failed(format!(
                        "Provided config file {} not existing or no read rights. Check the -c/--config-file parameter",
                        path.display()
                    ));
                }
                Some(path)
            }
            None => default_path(),
        };
        let path = path.filter(|path| is_readable(path));
        let url = global.text("dcs_url").map(str::to_owned).or_else(|| environment("DCS_URL"));
        let source = Source::new(path.as_deref(), Environment::of_process());
        // Warnings about settings concern the agent, which tells them; here they would only disturb.
        let loaded = Config::load(source, Purpose::Ctl).or_else(|error| failed(error.to_string()))?;
        let place =
            url.map_or_else(|| Ok(Place::of_configuration(&loaded.config)), |url| Place::at(&url, &loaded.config))?;
        Ok(Context {
            insecure: loaded.config.ctl.insecure || global.flag("insecure"),
            config: loaded.config,
            place,
            http: OnceLock::new(),
        })
    }

    /// `scope` of the configuration.
    pub(crate) fn scope(&self) -> Option<String> {
        Some(self.config.scope.clone()).filter(|scope| !scope.is_empty())
    }

    /// The store of the cluster that is named by the argument or by the configuration.
    pub(crate) fn open_given(&self, matches: &Matches) -> Result<Store, CtlError> {
        self.open(&self.named(matches)?, matches.integer("group"))
    }

    /// The same, for commands whose group is the one of the configuration where none is given.
    pub(crate) fn open_default(&self, matches: &Matches) -> Result<Store, CtlError> {
        self.open(&self.named(matches)?, matches.integer("group").or_else(|| self.configured_group()))
    }

    fn named(&self, matches: &Matches) -> Result<String, CtlError> {
        let given = matches.text("cluster_name").map(str::to_owned).or_else(|| self.scope());
        given.map_or_else(
            || failed("no cluster is named: give CLUSTER_NAME, or scope in the configuration (-c, PATRONI_SCOPE)"),
            Ok,
        )
    }

    fn configured_group(&self) -> Option<i64> {
        self.config.effective().get("citus")?.get("group")?.as_i64()
    }

    /// The cluster of [`Context::open_default`] in another store, see [`Place::named`].
    pub(crate) fn open_other(&self, matches: &Matches, place: &str) -> Result<Store, CtlError> {
        let group = matches.integer("group").or_else(|| self.configured_group());
        self.open_in(&Place::named(place, &self.config)?, &self.named(matches)?, group)
    }

    /// The store of a cluster.
    pub(crate) fn open(&self, scope: &str, group: Option<i64>) -> Result<Store, CtlError> {
        self.open_in(&self.place, scope, group)
    }

    fn open_in(&self, place: &Place, scope: &str, group: Option<i64>) -> Result<Store, CtlError> {
        let citus = group.or_else(|| self.configured_group()).map(|_| group);
        let in_store = match (citus, group) {
            (None, _) => scope.to_owned(),
            // Without a group it is the coordinator's, which has group 0.
            (Some(_), group) => format!("{scope}/{}", group.unwrap_or(0)),
        };
        let settings = self.config.settings();
        let timing = patroni_dcs::Timing {
            ttl: settings.ttl,
            loop_wait: settings.loop_wait,
            retry_timeout: settings.retry_timeout,
        };
        Ok(Store {
            prefix: place.prefix(&in_store),
            dcs: place.open(in_store, timing)?,
            label: place.label.clone(),
            scope: scope.to_owned(),
            citus,
        })
    }

    /// The members of the embedded store, which must be what the cluster uses.
    pub(crate) fn embedded_store(&self) -> Result<(Admin, Vec<String>), CtlError> {
        let embedded = self.place.embedded()?;
        embedded.map_or_else(
            || failed(format!("this command is about the embedded store, and the store is {}", self.place.label)),
            Ok,
        )
    }

    /// The state of the embedded store, if that is what the cluster uses.
    pub(crate) async fn look_at_embedded(&self) -> Result<Option<Picture>, CtlError> {
        match self.place.embedded()? {
            Some((admin, configured)) => embedded::look(&admin, &configured).await.map(Some),
            None => Ok(None),
        }
    }

    /// Sends a request to the REST API of a member. Without endpoint it goes to the address the member announces.
    pub(crate) async fn request(
        &self,
        member: &Member,
        method: Method,
        endpoint: Option<&str>,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Answer, RequestError> {
        let api_url = member.data.api_url.as_deref().ok_or(RequestError::NoAddress)?;
        let url = endpoint.map_or_else(|| api_url.to_owned(), |endpoint| endpoint_url(api_url, endpoint));
        let body = body.map(patroni_core::json::compact);
        match self.client().request(method, &url, body, limit).await {
            Ok(answer) => {
                let date =
                    answer.headers.get(http::header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
                Ok(Answer { status: answer.status, body: answer.body, date })
            }
            Err(HttpError::Tls(error)) => Err(RequestError::Tls(error)),
            Err(error) => Err(RequestError::Http(url, error)),
        }
    }

    /// The same, for commands that cannot go on without an answer.
    pub(crate) async fn ask(
        &self,
        member: &Member,
        method: Method,
        endpoint: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Answer, CtlError> {
        let what = what_is_asked(&method, endpoint);
        self.request(member, method, Some(endpoint), body, limit)
            .await
            .or_else(|error| failed(format!("member {} cannot be asked to {what}: {error}", member.name)))
    }

    /// As with 4.1.5, files of TLS settings that are missing do not matter before an API with TLS is met.
    fn client(&self) -> &HttpClient {
        self.http.get_or_init(|| HttpClient::lazy(self.client_options()))
    }

    /// All sections of the configuration.
    pub(crate) fn effective(&self) -> &patroni_core::JsonMap {
        self.config.effective()
    }

    /// A section of the configuration.
    pub(crate) fn section(&self, name: &str) -> Option<&serde_json::Value> {
        self.effective().get(name)
    }

    /// How the REST API is asked.
    pub(crate) fn client_options(&self) -> ClientOptions {
        let ctl = &self.config.ctl;
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        ClientOptions {
            auth: ctl.authentication.as_ref().map(|auth| format!("{}:{}", auth.username, auth.password.expose())),
            insecure: self.insecure,
            unverified: false,
            cacert: text(&ctl.cacert),
            identity: text(&ctl.certfile).map(|certfile| TlsFiles {
                certfile,
                keyfile: text(&ctl.keyfile),
                keyfile_password: ctl.keyfile_password.as_ref().map(|secret| secret.expose().to_owned()),
            }),
            user_agent: format!("Patroni/{} patronictl", patroni_core::COMPATIBLE_VERSION),
        }
    }

    /// Which members a command is about, from its arguments and options.
    pub(crate) fn selection<'a>(
        &self,
        matches: &'a Matches,
        store: &'a Store,
        action: &'a str,
    ) -> Result<Request<'a>, CtlError> {
        let role = matches.text("role");
        Ok(Request {
            scope: &store.scope,
            names: matches.many("member_names"),
            role: role.map_or(Ok(RoleFilter::Any), str::parse)?,
            role_text: role.unwrap_or("any"),
            force: matches.flag("force"),
            action,
            citus: store.citus,
        })
    }
}

/// A cluster's keys.
pub(crate) struct Store {
    dcs: Arc<dyn Dcs>,
    /// How messages call the store.
    pub(crate) label: String,
    /// How the keys begin.
    pub(crate) prefix: String,
    /// Name of the cluster.
    pub(crate) scope: String,
    /// Part of a Citus cluster: the group that was asked for.
    pub(crate) citus: Option<Option<i64>>,
}

impl Store {
    /// The cluster as it is now.
    pub(crate) async fn load(&self) -> Result<Cluster, CtlError> {
        Ok(wire::cluster(&self.read().await?))
    }

    /// The keys as they are now, by their names below the prefix.
    pub(crate) async fn read(&self) -> Result<BTreeMap<String, RawKey>, CtlError> {
        self.dcs.read().await.or_else(|why| failed(format!("the store cannot be read: {why}")))
    }

    /// What is said of a cluster without any key; `None` where there is one.
    pub(crate) fn absence(&self, cluster: &Cluster) -> Option<String> {
        let text = || {
            format!(
                "there is no cluster {} in the store ({}): no key begins with {}",
                self.scope, self.label, self.prefix
            )
        };
        (*cluster == Cluster::default()).then(text)
    }

    /// Prints the members.
    pub(crate) fn show(&self, cluster: &Cluster) {
        let show = Show { scope: &self.scope, extended: false, format: Format::Pretty, citus: self.citus };
        output::write(&members::render(cluster, show));
    }

    /// Writes a key unless somebody else did meanwhile.
    pub(crate) async fn write(&self, key: Key, value: &str, expected: Expected) -> Result<(), CtlError> {
        self.write_or(key, value, expected, "somebody else has changed the same key meanwhile: nothing was written")
            .await
    }

    /// The same, with another text for that.
    pub(crate) async fn write_or(
        &self,
        key: Key,
        value: &str,
        expected: Expected,
        refused: &str,
    ) -> Result<(), CtlError> {
        match self.dcs.write(key, value, expected).await {
            Outcome::Done(_) => Ok(()),
            Outcome::Refused => failed(refused),
            Outcome::Failed(reason) => failed(format!("nothing was written: {reason}")),
            Outcome::Unknown(reason) => {
                failed(format!("it is not known whether the change was written, look before you repeat it: {reason}"))
            }
        }
    }

    /// Deletes a key; the text is for the case that somebody else has changed it.
    pub(crate) async fn delete_or(&self, key: Key, expected: Expected, refused: &str) -> Result<(), CtlError> {
        match self.dcs.delete(key, expected).await {
            Outcome::Done(()) => Ok(()),
            Outcome::Refused => failed(refused),
            Outcome::Failed(reason) => failed(format!("nothing was deleted: {reason}")),
            Outcome::Unknown(reason) => {
                failed(format!("it is not known whether the key was deleted, look before you repeat it: {reason}"))
            }
        }
    }

    /// Deletes all keys.
    pub(crate) async fn delete_cluster(&self) -> Result<(), CtlError> {
        match self.dcs.delete_cluster().await {
            Outcome::Done(()) => Ok(()),
            Outcome::Refused => failed("the store refused to delete the keys"),
            Outcome::Failed(reason) => failed(format!("nothing was deleted: {reason}")),
            Outcome::Unknown(reason) => failed(format!("it is not known whether the keys were deleted: {reason}")),
        }
    }
}

/// What a member is asked to do: `restart`, or to call off a restart.
fn what_is_asked(method: &Method, endpoint: &str) -> String {
    if *method == Method::DELETE { format!("call off its scheduled {endpoint}") } else { endpoint.to_owned() }
}

fn is_readable(path: &Path) -> bool {
    std::fs::File::open(path).is_ok()
}

/// `patronictl.yaml` in the directory for configuration of this system.
fn default_path() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    let directory = if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Application Support"))
    } else {
        std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home().map(|home| home.join(".config")))
    };
    directory.map(|directory| directory.join("patroni").join("patronictl.yaml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calling_off_a_restart_is_no_restart() {
        assert_eq!(what_is_asked(&Method::POST, "restart"), "restart");
        assert_eq!(what_is_asked(&Method::DELETE, "restart"), "call off its scheduled restart");
    }
}
