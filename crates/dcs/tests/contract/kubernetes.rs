//! A real API server of Kubernetes on a real etcd, without kubelets: Pods are objects that tests create. Agents have the rights of the Role
//! that Patroni's manifest gives them, and no others. Where its program is not there, tests on it pass without a word; the summary of
//! `./test` says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use patroni_core::JsonMap;
use patroni_core::cluster::{MemberData, Version};
use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::time::Moment;
use patroni_dcs::kubernetes::{Access, Credentials, KubernetesOptions, connect};
use patroni_dcs::wire::RawKey;
use patroni_dcs::{Dcs, Expected, Key, LeaderUpdate, Timing, Unread};
use patroni_http::{Body, Call, ClientOptions, HeaderName, HeaderValue, HttpClient, Method};
use patroni_ports::free_port;
use rcgen::{KeyPair, PublicKeyData};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificates::{Authority, write};
use crate::etcd::Etcd;
use crate::{World, eventually, path, servers};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct ApiServer {
    child: Child,
    program: PathBuf,
    arguments: Vec<String>,
    pub(crate) port: u16,
    pub(crate) cacert: String,
    pub(crate) etcd: Etcd,
    pub(crate) directory: TempDir,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    Some(servers().join("kubernetes/kube-apiserver")).filter(|program| program.exists())
}

/// Of the token that administrates, and of that of agents.
const USERS: &str = "root,admin,admin,system:masters\nagent,agent,agent\n";

impl ApiServer {
    /// `None`: it is not there.
    pub(crate) async fn start() -> Option<Self> {
        let program = program()?;
        let etcd = Etcd::start(1).await;
        let directory = tempfile::tempdir().expect("no temporary directory");
        let place = directory.path();
        let authority = Authority::new(place, "ca");
        let identity = authority.sign("apiserver", "127.0.0.1");
        let accounts = KeyPair::generate().unwrap();
        let public = write(place, "sa.pub", &pem("PUBLIC KEY", &accounts.subject_public_key_info()));
        let private = write(place, "sa.key", &accounts.serialize_pem());
        let tokens = write(place, "tokens.csv", USERS);
        let port = free_port();
        let arguments = [
            format!("--etcd-servers={}", etcd.urls()[0]),
            "--service-account-issuer=https://test".to_owned(),
            format!("--service-account-signing-key-file={private}"),
            format!("--service-account-key-file={public}"),
            format!("--token-auth-file={tokens}"),
            "--authorization-mode=RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=192.0.2.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", identity.certfile),
            format!("--tls-private-key-file={}", identity.keyfile.unwrap()),
        ];
        let arguments = arguments.to_vec();
        let child = spawn(&program, &arguments, place);
        let server = ApiServer { child, program, arguments, port, cacert: authority.cacert, etcd, directory };
        server.serves().await;
        Some(server)
    }

    /// Waits until it serves, roles of its own included.
    async fn serves(&self) {
        let begun = Instant::now();
        while begun.elapsed() < SECOND * 60 {
            let answer = self.try_ask(Method::GET, "/readyz", None).await;
            let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin";
            if answer.is_ok_and(|(status, _)| status == 200)
                && self.try_ask(Method::GET, role, None).await.is_ok_and(|(status, _)| status == 200)
            {
                return;
            }
            tokio::time::sleep(SECOND / 5).await;
        }
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        panic!("the API server does not serve: {}", &log[log.len().saturating_sub(2000)..]);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("cannot signal");
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill().expect("cannot kill");
        self.child.wait().expect("cannot wait");
    }

    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.arguments, self.directory.path());
        self.serves().await;
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value), String> {
        let client = HttpClient::new(ClientOptions { cacert: Some(self.cacert.clone()), ..ClientOptions::default() });
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let headers = [(HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer root"))];
        let url = format!("{}{path}", self.url());
        let body = body.map(|body| Body { text: body.to_string(), content_type });
        let call = Call { method, url: &url, headers: &headers, body };
        let answer = client.unwrap().call(call, SECOND * 10).await.map_err(|error| error.to_string())?;
        Ok((answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::Null)))
    }

    /// Asks as administrator.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.try_ask(method, path, body).await.expect("the API server does not answer");
        assert!(matches!(status, 200..=205 | 404 | 409), "{path}: {status} {answer}");
        answer
    }

    /// A namespace with Pods of these names, in which agents have the rights that they need. (`endpoints`: so that keys are in Endpoints.)
    pub(crate) async fn cluster(self: &Arc<Self>, namespace: &str, endpoints: bool, pods: &[&str]) -> Kubernetes {
        self.ask(Method::POST, "/api/v1/namespaces", Some(json!({"metadata": {"name": namespace}}))).await;
        let kubernetes = Kubernetes {
            server: self.clone(),
            namespace: namespace.to_owned(),
            url: self.url(),
            endpoints,
            follows: true,
        };
        kubernetes.grant(true).await;
        for pod in pods {
            kubernetes.make_pod(pod).await;
        }
        kubernetes
    }
}

fn spawn(program: &Path, arguments: &[String], directory: &Path) -> Child {
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).arg(format!("--cert-dir={}", directory.display()));
    command.stdout(Stdio::null()).stderr(log).spawn().expect("the API server does not start")
}

fn pem(what: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}

/// A cluster in a namespace of its own.
#[derive(Clone)]
pub(crate) struct Kubernetes {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) namespace: String,
    /// Where members find the API server.
    pub(crate) url: String,
    pub(crate) endpoints: bool,
    /// Whether members follow changes, as agents do, or look when they are asked, as patronictl does.
    pub(crate) follows: bool,
}

/// What 4.1.5's manifest allows, without what nothing here needs.
pub(crate) fn rules() -> Value {
    let keys = ["create", "get", "list", "patch", "watch", "deletecollection"];
    json!([
        {"apiGroups": [""], "resources": ["configmaps", "endpoints"], "verbs": keys},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch", "watch"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["create"]},
    ])
}

impl Kubernetes {
    pub(crate) fn options(&self) -> KubernetesOptions {
        let section = json!({
            "labels": {"application": "patroni"}, "namespace": self.namespace, "use_endpoints": self.endpoints,
            "pod_ip": "10.1.2.3", "ports": [{"name": "postgresql", "port": 5432}],
        });
        let Value::Object(section) = section else { panic!("not an object") };
        let access = Access {
            server: self.url.clone(),
            cacert: Some(self.server.cacert.clone()),
            credentials: Credentials::Token("agent".into()),
            ..Access::default()
        };
        KubernetesOptions::with_access(&section, access).expect("valid")
    }

    pub(crate) fn handle(&self, options: KubernetesOptions, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        connect(options, &path(), name.into(), timing)
    }

    /// Gives agents their rights, or takes them away.
    pub(crate) async fn grant(&self, granted: bool) {
        let base = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", self.namespace);
        let place = format!("{base}/rolebindings/patroni");
        if !granted {
            self.server.ask(Method::DELETE, &place, None).await;
            return;
        }
        let role = json!({"metadata": {"name": "patroni"}, "rules": rules()});
        self.server.ask(Method::POST, &format!("{base}/roles"), Some(role)).await;
        let binding = json!({
            "metadata": {"name": "patroni"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patroni"},
            "subjects": [{"kind": "User", "name": "agent", "apiGroup": "rbac.authorization.k8s.io"}],
        });
        self.server.ask(Method::POST, &format!("{base}/rolebindings"), Some(binding)).await;
    }

    pub(crate) async fn make_pod(&self, name: &str) {
        let labels = json!({"application": "patroni", "cluster-name": "contract"});
        let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "a", "image": "none"}]}});
        self.server.ask(Method::POST, &self.place("pods", ""), Some(pod)).await;
    }

    fn place(&self, kind: &str, name: &str) -> String {
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("/api/v1/namespaces/{}/{kind}{name}", self.namespace)
    }

    fn keys_in(&self, suffix: &str) -> String {
        match (self.endpoints, suffix) {
            (true, "leader") => self.place("endpoints", "contract"),
            (true, suffix) => self.place("endpoints", &format!("contract-{suffix}")),
            (false, suffix) => self.place("configmaps", &format!("contract-{suffix}")),
        }
    }

    /// The object with these keys: `leader`, `config`, `sync` or `failover`. Null: there is none.
    pub(crate) async fn object(&self, suffix: &str) -> Value {
        let object = self.server.ask(Method::GET, &self.keys_in(suffix), None).await;
        if object["kind"] == "Status" { Value::Null } else { object }
    }

    pub(crate) async fn pod(&self, name: &str) -> Value {
        self.server.ask(Method::GET, &self.place("pods", name), None).await
    }

    /// The Pod says nothing of its member any more.
    pub(crate) async fn forget_pod(&self, name: &str) {
        let change = json!({"metadata": {"annotations": {"status": null}, "labels": {"role": null}}});
        self.server.ask(Method::PATCH, &self.place("pods", name), Some(change)).await;
    }

    pub(crate) async fn service(&self, name: &str) -> Value {
        self.server.ask(Method::GET, &self.place("services", name), None).await
    }

    /// Changes an object by hand.
    pub(crate) async fn edit(&self, suffix: &str, change: Value) {
        let answer = self.server.ask(Method::PATCH, &self.keys_in(suffix), Some(change.clone())).await;
        if answer["kind"] == "Status" {
            let name = self.keys_in(suffix).rsplit('/').next().unwrap().to_owned();
            let mut object = change;
            object["metadata"]["name"] = name.into();
            object["metadata"]["labels"] = json!({"application": "patroni", "cluster-name": "contract"});
            let all = self.place(if self.endpoints { "endpoints" } else { "configmaps" }, "");
            self.server.ask(Method::POST, &all, Some(object)).await;
        }
    }

    pub(crate) async fn remove(&self, suffix: &str) {
        self.server.ask(Method::DELETE, &self.keys_in(suffix), None).await;
    }
}

/// The object that holds a key, and its annotations.
fn annotations(name: &str) -> Option<(&'static str, &'static [&'static str])> {
    Some(match name {
        "leader" => ("leader", &["leader"]),
        "status" => ("leader", &["optime", "slots", "retain_slots"]),
        "failsafe" => ("leader", &["failsafe"]),
        "config" => ("config", &["config"]),
        "history" => ("config", &["history"]),
        "initialize" => ("config", &["initialize"]),
        "sync" => ("sync", &["leader", "quorum", "sync_standby"]),
        "failover" => ("failover", &["leader", "member", "scheduled_at"]),
        _ => return None,
    })
}

impl World for Kubernetes {
    fn member(&self, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        let inner = self.handle(self.options(), name, timing);
        if !self.follows {
            return inner;
        }
        let _ = inner.changes();
        Arc::new(Following { inner, fresh: self.handle(self.options(), "nobody", timing) })
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn set_raw(&self, name: &str, value: Option<&[u8]>) {
        let text = value.map(|value| String::from_utf8_lossy(value).replace('\0', "?"));
        if let Some(pod) = name.strip_prefix("members/").filter(|pod| !pod.contains('/')) {
            let change = json!({"metadata": {"annotations": {"status": text}}});
            self.server.ask(Method::PATCH, &self.place("pods", pod), Some(change)).await;
            return;
        }
        let Some((suffix, names)) = annotations(name) else { return };
        // An empty leader is none, as for the reference.
        let text = if name == "leader" { text.map(|text| format!("{text} ")) } else { text };
        let text = text.map(|text| if text == "x " { "x".to_owned() } else { text });
        self.edit(suffix, json!({"metadata": {"annotations": {names[0]: text}}})).await;
    }

    async fn get_raw(&self, name: &str) -> Option<Vec<u8>> {
        if let Some(pod) = name.strip_prefix("members/") {
            return self.pod(pod).await["metadata"]["annotations"]["status"]
                .as_str()
                .map(|text| text.as_bytes().to_vec());
        }
        let (suffix, names) = annotations(name)?;
        let object = self.object(suffix).await;
        let text = |name: &str| object["metadata"]["annotations"][name].as_str();
        let [one] = names else {
            let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
            let found = names.iter().filter_map(|name| Some(((*name).to_owned(), parsed(text(name)?))));
            let map: JsonMap = found.collect();
            return (!map.is_empty()).then(|| Value::Object(map).to_string().into_bytes());
        };
        text(one).map(|text| text.as_bytes().to_vec())
    }

    fn has_leases(&self) -> bool {
        false
    }

    fn keys_expire(&self) -> bool {
        false
    }
}

/// A handle that follows changes, and reads when it has heard of all that happened before: what an agent reads may be a moment old.
struct Following {
    inner: Arc<dyn Dcs>,
    fresh: Arc<dyn Dcs>,
}

fn said(keys: &BTreeMap<String, RawKey>) -> BTreeMap<&str, &[u8]> {
    keys.iter().filter(|(name, _)| *name != "leader").map(|(name, raw)| (name.as_str(), raw.value.as_slice())).collect()
}

#[async_trait]
impl Dcs for Following {
    fn configure(&self, timing: Timing) {
        self.inner.configure(timing);
    }

    async fn read(&self) -> Result<BTreeMap<String, RawKey>, Unread> {
        loop {
            let present = self.fresh.read().await?;
            let begun = Instant::now();
            while begun.elapsed() < SECOND {
                let known = self.inner.read().await?;
                let leaders = [&known, &present].map(|keys| keys.get("leader").map(|raw| (&raw.value, raw.modified)));
                if said(&known) == said(&present) && (leaders[0].is_none() || leaders[0] == leaders[1]) {
                    return Ok(known);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    async fn acquire(&self) -> Outcome<Moment> {
        self.inner.acquire().await
    }

    async fn renew(&self, update: &LeaderUpdate) -> Outcome<Moment> {
        self.inner.renew(update).await
    }

    async fn release(&self, last_lsn: Option<Lsn>) -> Outcome<()> {
        self.inner.release(last_lsn).await
    }

    async fn touch_member(&self, data: &MemberData) -> Outcome<()> {
        self.inner.touch_member(data).await
    }

    async fn write(&self, key: Key, value: &str, expected: Expected) -> Outcome<Version> {
        self.inner.write(key, value, expected).await
    }

    async fn delete(&self, key: Key, expected: Expected) -> Outcome<()> {
        self.inner.delete(key, expected).await
    }

    async fn delete_cluster(&self) -> Outcome<()> {
        self.inner.delete_cluster().await
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.changes()
    }
}

/// Waits until a member has heard of what happened so far.
pub(crate) async fn follows(dcs: &Arc<dyn Dcs>) {
    eventually("it follows changes", || async { *dcs.changes().borrow() > 0 }).await;
}
