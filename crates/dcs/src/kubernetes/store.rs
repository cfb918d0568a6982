//! Objects of the cluster: reading and changing them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use patroni_core::cluster::{MemberData, Version};
use patroni_core::facts::Outcome;
use patroni_core::name::MemberName;
use patroni_core::time::Moment;
use patroni_http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::bodies;
use super::keys::{Annotations, Names, annotations};
use super::objects::{List, Object};
use super::options::KubernetesOptions;
use super::requests::{Answer, Api, Request};
use super::servers::{ENDPOINTS, Servers};
use super::view::{Holder, How, Kind, View};
use crate::attempts::Failure;
use crate::boot_time::boot_time;
use crate::wire::{self, RawKey};
use crate::{Expected, Key, Timing};

/// The objects of one cluster, for one member.
pub(super) struct Store {
    pub(super) api: Api,
    pub(super) options: Mutex<KubernetesOptions>,
    /// Labels of all objects of the cluster.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) names: Names,
    pub(super) name: MemberName,
    timing: Mutex<Timing>,
    view: Mutex<View>,
    /// Endpoints without a Service are removed by Kubernetes when it starts; those of the configuration get one.
    wants_service: AtomicBool,
    /// Something of what is known may have changed.
    pub(super) news: watch::Sender<()>,
    /// Until when this member holds the lease, by its own clock; the latest that it knows of.
    held_until: Mutex<Option<Moment>>,
}

/// What became of a change of an object.
pub(super) enum Changed {
    /// It was made.
    Done,
    /// There is none of this name and version. Where an earlier attempt may have been carried out, that may be the reason.
    Otherwise { repeated: bool },
}

impl Store {
    pub(super) fn new(options: KubernetesOptions, scope: &str, name: MemberName, timing: Timing) -> Self {
        let names = Names::new(scope, options.use_endpoints);
        let mut labels = options.labels.clone();
        labels.insert(options.scope_label.clone(), scope.to_owned());
        let servers = Servers::new(options.bypass_api_service);
        let store = Store {
            api: Api::new(options.access.clone(), options.retriable.clone(), servers),
            wants_service: AtomicBool::new(options.use_endpoints),
            options: Mutex::new(options),
            labels,
            view: Mutex::new(View::new(names.clone())),
            names,
            name,
            timing: Mutex::new(timing),
            news: watch::Sender::new(()),
            held_until: Mutex::new(None),
        };
        store.configure(timing);
        store
    }

    pub(super) fn configure(&self, timing: Timing) {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner) = timing;
        self.api.set_keepalive(timing.ttl);
    }

    /// Takes over other labels, credentials and certificates. Where and how keys are kept stays.
    pub(super) fn reload(&self, options: KubernetesOptions) {
        let mut known = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |options: &KubernetesOptions| {
            (options.namespace.clone(), options.labels.clone(), options.scope_label.clone(), options.use_endpoints)
        };
        let same_server = self.api.reconfigure(options.access.clone(), options.retriable.clone());
        if !same_server || place(&options) != place(&known) || options.bypass_api_service != known.bypass_api_service {
            tracing::warn!(
                "another API server, namespace or scope_label, other labels of objects, use_endpoints and bypass_api_service take effect when \
                 the agent is started again"
            );
        }
        *known = KubernetesOptions {
            namespace: known.namespace.clone(),
            labels: known.labels.clone(),
            scope_label: known.scope_label.clone(),
            use_endpoints: known.use_endpoints,
            bypass_api_service: known.bypass_api_service,
            access: known.access.clone(),
            ..options
        };
    }

    pub(super) fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn options(&self) -> KubernetesOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over something that is known now.
    pub(super) fn change_view(&self, change: impl FnOnce(&mut View, Moment)) {
        change(&mut self.view(), boot_time());
        self.news.send_replace(());
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timing().retry_timeout
    }

    /// Who holds the lease, for all that is known.
    pub(super) fn leads(&self, view: &View) -> bool {
        view.holder(self.timing().ttl, boot_time()) == Holder::Member(self.name.as_str())
    }

    /// The lease was won or renewed by a request that was sent then; `None`: it was given up.
    pub(super) fn note_lease(&self, from: Option<Moment>) {
        let until = from.map(|from| from + self.timing().ttl);
        *self.held_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Whether the lease that was won or renewed last lasts.
    pub(super) fn holds_by_its_clock(&self) -> bool {
        let until = *self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| boot_time() < until)
    }

    fn path(&self, plural: &str, name: Option<&str>) -> String {
        let namespace = crate::http::escaped(&self.options().namespace, "");
        let name = name.map(|name| format!("/{}", crate::http::escaped(name, ""))).unwrap_or_default();
        format!("/api/v1/namespaces/{namespace}/{plural}{name}")
    }

    fn plural(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Pods => "pods",
            Kind::Keys if self.options.lock().unwrap_or_else(PoisonError::into_inner).use_endpoints => "endpoints",
            Kind::Keys => "configmaps",
        }
    }

    /// A request for all objects of a kind.
    pub(super) fn all(&self, method: Method, kind: Kind) -> Request {
        let labels: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Request::new(method, self.path(self.plural(kind), None)).query("labelSelector", labels.join(","))
    }

    /// Reads all objects of a kind; as they are, not as some server remembers them. Where a watch of them begins.
    pub(super) async fn list(&self, kind: Kind, deadline: Instant) -> Result<String, Failure> {
        let writes = self.view().writes(kind);
        let list: List = match self.api.ask(&self.all(Method::GET, kind), deadline).await? {
            Answer::Done(text) => serde_json::from_str(&text).map_err(|error| {
                Failure::NotDone(format!("the {} answered something else: {error}", super::requests::NAME))
            })?,
            Answer::Forbidden(why) => return Err(Failure::NotDone(why)),
            Answer::Absent | Answer::Conflict { .. } => {
                return Err(Failure::NotDone("there is no list of objects".to_owned()));
            }
        };
        let version = list.metadata.resource_version.clone();
        self.change_view(|view, now| view.replace(kind, list, writes, now));
        Ok(version)
    }

    /// Reads one object with keys, as it is.
    pub(super) async fn look(&self, name: &str, deadline: Instant) -> Result<Option<Object>, Failure> {
        let request = Request::new(Method::GET, self.path(self.plural(Kind::Keys), Some(name)));
        match self.api.ask(&request, deadline).await? {
            Answer::Done(text) => {
                let object = Answer::object(&text).map_err(Failure::NotDone)?;
                self.change_view(|view, now| view.put(Kind::Keys, object.clone(), How::Look, now));
                Ok(Some(object))
            }
            Answer::Absent => {
                self.change_view(|view, now| view.remove(Kind::Keys, name, None, now));
                Ok(None)
            }
            Answer::Forbidden(why) => Err(Failure::NotDone(why)),
            Answer::Conflict { .. } => Err(Failure::NotDone(format!("cannot read {name}"))),
        }
    }

    /// All keys. While somebody leads and all changes arrive here, they are known; otherwise much hangs on what they say, and they
    /// are asked for, those of the leader last.
    pub(super) async fn read(&self) -> Result<BTreeMap<String, RawKey>, Failure> {
        let deadline = self.deadline();
        let ttl = self.timing().ttl;
        if let Some(keys) = self.known() {
            return Ok(keys);
        }
        self.look_for_servers().await;
        self.list(Kind::Pods, deadline).await?;
        self.list(Kind::Keys, deadline).await?;
        let view = self.view();
        let mut keys = view.keys(ttl, boot_time());
        if view.is_outdated() {
            // The name in the leader key is that of a former leader, perhaps. Whether it still leads shows when it renews its lease: nobody
            // follows it, or leads, by this word alone.
            keys.remove(wire::LEADER);
        }
        Ok(keys)
    }

    /// `None`: it has to be asked for.
    fn known(&self) -> Option<BTreeMap<String, RawKey>> {
        let (view, ttl, now) = (self.view(), self.timing().ttl, boot_time());
        let led = matches!(view.holder(ttl, now), Holder::Member(_)) && !view.is_outdated();
        (led && view.is_followed(now)).then(|| view.keys(ttl, now))
    }

    /// With `bypass_api_service`: which servers there are.
    async fn look_for_servers(&self) {
        if !self.api.servers.are_due() {
            return;
        }
        let request = Request::new(Method::GET, ENDPOINTS.to_owned());
        let deadline = Instant::now() + self.timing().retry_timeout / 4;
        match self.api.ask(&request, deadline).await {
            Ok(Answer::Done(endpoints)) => self.api.servers.found(&endpoints),
            Ok(Answer::Forbidden(_)) => self.api.servers.are_secret(),
            Ok(Answer::Absent | Answer::Conflict { .. }) => {}
            Err(failure) => tracing::warn!("cannot look for API servers: {failure:?}"),
        }
    }

    /// Changes an object of this version, or creates it. `further`: parts of it beside its metadata.
    pub(super) async fn change(
        &self,
        name: &str,
        annotations: &Annotations,
        version: Option<&str>,
        further: Option<(&'static str, Value)>,
        deadline: Instant,
    ) -> Result<Changed, Failure> {
        let namespace = self.options().namespace;
        let metadata = bodies::metadata((&namespace, name), &self.labels, annotations, version);
        let mut body = json!({ "metadata": metadata });
        if let Some((part, value)) = further {
            body[part] = value;
        }
        let plural = self.plural(Kind::Keys);
        let mut request = match version {
            Some(_) => Request::new(Method::PATCH, self.path(plural, Some(name))),
            None => Request::new(Method::POST, self.path(plural, None)),
        };
        if name == self.names.leader {
            // A primary is not to be stopped for rights that are missing for a moment.
            request = request.outliving_forbidden();
        }
        match self.api.ask(&request.body(body), deadline).await? {
            Answer::Done(text) => {
                let object = Answer::object(&text).map_err(Failure::Unknown)?;
                self.change_view(|view, now| view.wrote(Kind::Keys, object, now));
                Ok(Changed::Done)
            }
            Answer::Absent if version.is_none() => Err(Failure::NotDone(format!("there is no namespace {namespace}"))),
            Answer::Absent => Ok(Changed::Otherwise { repeated: false }),
            Answer::Conflict { repeated } => Ok(Changed::Otherwise { repeated }),
            Answer::Forbidden(why) => Err(Failure::NotDone(why)),
        }
    }

    /// Writes a key, or deletes it, if it is as expected.
    pub(super) async fn write(
        &self,
        key: Key,
        value: Option<&str>,
        expected: Expected,
    ) -> Result<Outcome<Version>, Failure> {
        let deadline = self.deadline();
        let name = self.names.of(key).to_owned();
        // What is known may be a moment old; then it is looked at, and what is known afterwards decides.
        let mut looked = self.view().object(&name).is_none();
        if looked {
            self.look(&name, deadline).await.map_err(Failure::before_write)?;
        }
        loop {
            let (version, present) = {
                let view = self.view();
                let version = view.object(&name).map(|object| object.metadata.resource_version.clone());
                (version, view.value(key).map(|(_, version)| version))
            };
            let as_expected = match expected {
                Expected::Anything => true,
                Expected::Absent => present.is_none(),
                Expected::Version(version) => present == Some(version),
            };
            if !as_expected && looked {
                return Ok(Outcome::Refused);
            }
            if !as_expected {
                self.look(&name, deadline).await.map_err(Failure::before_write)?;
                looked = true;
                continue;
            }
            if value.is_none() && present.is_none() {
                return Ok(Outcome::Done(Version(0)));
            }
            if name == self.names.config && version.is_none() {
                self.make_service().await;
            }
            let made = self.change(&name, &annotations(key, value), version.as_deref(), None, deadline).await?;
            if let Changed::Done = made {
                return Ok(Outcome::Done(self.view().value(key).map_or(Version(0), |(_, version)| version)));
            }
            looked = true;
            let Changed::Otherwise { repeated: true } = made else {
                self.look(&name, deadline).await.map_err(Failure::before_write)?;
                continue;
            };
            self.look(&name, deadline).await.map_err(Failure::after_write)?;
            return self.after_doubt(key, value, expected);
        }
    }

    /// A change failed whose earlier attempt may have been carried out. The same value is ours, or as good as ours; a key that was absent
    /// is another matter: creating it decides a race.
    fn after_doubt(&self, key: Key, value: Option<&str>, expected: Expected) -> Result<Outcome<Version>, Failure> {
        let view = self.view();
        let same = match (value, view.value(key)) {
            (None, None) => Some(Version(0)),
            (Some(wanted), Some((text, version))) if text == wanted && expected != Expected::Absent => Some(version),
            _ => None,
        };
        let undecided = || {
            let name = wire::key_name(key);
            Failure::Unknown(format!("{name} changed while it was not known whether our change of it was carried out"))
        };
        same.map(Outcome::Done).ok_or_else(undecided)
    }

    /// Says in this member's Pod what it says of itself.
    pub(super) async fn touch_member(&self, data: &MemberData) -> Result<(), Failure> {
        let (deadline, options) = (self.deadline(), self.options());
        let text = wire::member(data);
        let change = {
            let view = self.view();
            let labels = bodies::labels(&options.roles, &options.bootstrap_labels, data, self.leads(&view));
            let known = view.pod(self.name.as_str()).filter(|_| view.is_followed(boot_time()));
            bodies::pod(known, (&options.namespace, self.name.as_str()), &labels, &text)
        };
        if let Some(change) = change {
            let path = self.path("pods", Some(self.name.as_str()));
            match self.api.ask(&Request::new(Method::PATCH, path).body(change), deadline).await? {
                Answer::Done(text) => {
                    let pod = Answer::object(&text).map_err(Failure::Unknown)?;
                    self.change_view(|view, now| view.wrote(Kind::Pods, pod, now));
                }
                Answer::Forbidden(why) => return Err(Failure::NotDone(why)),
                Answer::Absent | Answer::Conflict { .. } => {
                    let place = format!("{} in the namespace {}", self.name, options.namespace);
                    return Err(Failure::NotDone(format!("there is no Pod {place}: a member has the name of its Pod")));
                }
            }
        }
        self.make_service().await;
        Ok(())
    }

    /// The Service of the Endpoints of the configuration, if it may be needed: it has no addresses, and nobody asks it.
    async fn make_service(&self) {
        if !self.wants_service.load(Ordering::Relaxed) {
            return;
        }
        let metadata = json!({"namespace": self.options().namespace, "name": self.names.config, "labels": self.labels});
        let body = json!({"metadata": metadata, "spec": {"clusterIP": "None"}});
        let request = Request::new(Method::POST, self.path("services", None)).body(body);
        let deadline = Instant::now() + self.timing().retry_timeout / 4;
        match self.api.ask(&request, deadline).await {
            // There is one, or it is not for us to make one.
            Ok(Answer::Done(_) | Answer::Conflict { .. } | Answer::Forbidden(_)) => {
                self.wants_service.store(false, Ordering::Relaxed);
            }
            Ok(Answer::Absent) => {}
            Err(failure) => tracing::error!("create_config_service failed: {failure:?}"),
        }
    }

    /// Deletes all objects with keys. What a Pod says of its member goes with the Pod.
    pub(super) async fn delete_cluster(&self) -> Result<(), Failure> {
        let deadline = self.deadline();
        if let Answer::Forbidden(why) = self.api.ask(&self.all(Method::DELETE, Kind::Keys), deadline).await? {
            return Err(Failure::NotDone(why));
        }
        self.list(Kind::Keys, deadline).await.map_err(Failure::after_write)?;
        Ok(())
    }

    /// How long a request may take that nobody waits for.
    pub(super) fn patience(&self) -> Duration {
        self.timing().retry_timeout
    }
}
