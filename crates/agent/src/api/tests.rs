//! The API as clients meet it: over sockets, with a store in memory.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use patroni_core::cluster::FailoverRequest;
use patroni_core::job::{Job, JobView, Stage};
use patroni_core::name::MemberName;
use patroni_core::server::Postmaster;
use patroni_dcs::memory::{Memory, Store};
use patroni_dcs::{Expected, Key, Timing, wire};
use patroni_http::tls::{ServerTls, VerifyClient};
use patroni_http::{ClientOptions, TlsFiles};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::peers;

/// How long a connection without a request is let be.
const HALF_OPEN: Duration = Duration::from_secs(10);

/// A wait that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(20);

struct Probe {
    hangs: AtomicBool,
}

#[async_trait]
impl StatusProbe for Probe {
    async fn probe(&self) -> Postmaster {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Postmaster::Running(sample::primary())
    }
}

/// The leader of the sample cluster, served.
struct Node {
    api: Api,
    address: SocketAddr,
    view: watch::Sender<Arc<View>>,
    probe: Arc<Probe>,
    working: watch::Sender<Option<Moment>>,
    requests: mpsc::Receiver<Envelope>,
    signals: mpsc::Receiver<Signal>,
    leader: Memory,
    candidate: Memory,
    _stop: DropGuard,
}

fn local(options: ApiOptions) -> ApiOptions {
    ApiOptions { listen: "127.0.0.1:0".to_owned(), ..options }
}

async fn node(options: ApiOptions) -> Node {
    let timing = Timing {
        ttl: Duration::from_secs(30),
        loop_wait: Duration::from_secs(2),
        retry_timeout: Duration::from_secs(5),
    };
    let store = Store::new(Arc::new(|| sample::NOW.boot));
    let leader = store.handle(MemberName::from("postgresql0"), timing);
    let candidate = store.handle(MemberName::from("postgresql1"), timing);
    let view = watch::Sender::new(Arc::new(sample::view("postgresql0", sample::primary())));
    let probe = Arc::new(Probe { hangs: AtomicBool::new(false) });
    let working = watch::Sender::new(None);
    let (request_sender, requests) = mpsc::channel(4);
    let (signal_sender, signals) = mpsc::channel(16);
    let client = HttpClient::new(ClientOptions::default()).unwrap();
    let parts = ApiParts {
        view: view.subscribe(),
        probe: probe.clone(),
        working: working.subscribe(),
        requests: request_sender,
        signals: signal_sender,
        agreement: Arc::default(),
        dcs: Arc::new(store.handle(MemberName::from("postgresql0"), timing)),
        http: watch::Sender::new(client).subscribe(),
        clock: Arc::new(|| sample::NOW),
        log: Arc::new(QueueState::default),
        metrics: Arc::default(),
    };
    let cancel = CancellationToken::new();
    let api = serve(options, parts, cancel.clone()).await.unwrap();
    let address = api.address().await.unwrap();
    assert!(leader.acquire().await.is_done());
    let node =
        Node { api, address, view, probe, working, requests, signals, leader, candidate, _stop: cancel.drop_guard() };
    node.announce().await;
    let config = wire::config(&sample::map(json!({"ttl": 30, "loop_wait": 2})));
    assert!(node.leader.write(Key::Config, &config, Expected::Absent).await.is_done());
    node
}

impl Node {
    /// Writes the keys of both members. The candidate's REST API is this one, which stands in for it.
    async fn announce(&self) {
        let members = sample::cluster().members;
        let url = format!("http://{}/patroni", self.address);
        for (name, handle) in [("postgresql0", &self.leader), ("postgresql1", &self.candidate)] {
            let mut data = members[name].data.clone();
            data.api_url = Some(url.clone());
            assert!(handle.touch_member(&data).await.is_done());
        }
    }

    /// Sends these bytes and reads the answer until the connection is closed.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
        answer
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        let client = HttpClient::new(ClientOptions::default()).unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("http://{}{path}", self.address);
        let answer = client.request(method, &url, body.map(str::to_owned), LIMIT).await.unwrap();
        (answer.status, answer.body)
    }
}

#[tokio::test]
async fn http_1_0_and_1_1_and_methods_without_a_body() {
    let node = node(local(ApiOptions::default())).await;
    for method in ["OPTIONS", "HEAD"] {
        for (path, code) in [("/", "200 OK"), ("/replica", "503 Service Unavailable"), ("/liveness", "200 OK")] {
            let answer = node.raw(&format!("{method} {path} HTTP/1.0\r\n\r\n")).await;
            assert!(answer.starts_with(&format!("HTTP/1.0 {code}\r\n")), "{method} {path}: {answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        }
    }
    let answer = node.raw("GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains("\r\nContent-Type: application/json\r\n"), "{answer}");
    assert!(answer.contains("\r\n\r\n{\"state\": \"running\", "), "{answer}");
    let two = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = node.raw(&format!("{two}{}", two.replace("Host", "Connection: close\r\nHost"))).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(
        node.raw(&format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(200_000))).await.contains("431")
    );
    assert!(node.raw("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn bodies_that_are_too_large_or_too_slow_are_refused() {
    let node = node(local(ApiOptions::default())).await;
    let head = |length: usize| {
        format!("PATCH /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
    };
    let too_large = node.raw(&(head(MAX_BODY_BYTES + 1) + &"x".repeat(MAX_BODY_BYTES + 1))).await;
    assert!(too_large.starts_with("HTTP/1.1 413 "), "{too_large}");
    // As soon as it is announced.
    for length in [MAX_BODY_BYTES + 1, 99 << 30] {
        let start = tokio::time::Instant::now();
        let announced = node.raw(&head(length)).await;
        assert!(announced.starts_with("HTTP/1.1 413 "), "{announced}");
        assert!(start.elapsed() < BODY_LIMIT / 2, "{:?}", start.elapsed());
    }
    let mut slow = TcpStream::connect(node.address).await.unwrap();
    slow.write_all((head(9) + "{").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, slow.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn clients_that_trickle_do_not_keep_others_waiting() {
    let node = node(local(ApiOptions::default())).await;
    let mut slow = Vec::new();
    for number in 0..1000 {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let part: &[u8] =
            if number % 2 == 0 { b"GET /pri" } else { b"POST /config HTTP/1.1\r\nContent-Length: 99\r\n" };
        stream.write_all(part).await.unwrap();
        slow.push(stream);
    }
    let start = tokio::time::Instant::now();
    assert_eq!(node.ask("GET", "/primary", None).await.0, 200);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // And they are let go in the end.
    let mut buffer = Vec::new();
    timeout(LIMIT, slow[0].read_to_end(&mut buffer)).await.expect("closed in time").unwrap();
}

#[tokio::test]
async fn one_client_with_more_connections_than_there_are_places_harms_nobody() {
    let node = node(local(ApiOptions::default())).await;
    let mut half_open = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(b"GET /primary HTTP/1.1\r\n").await.unwrap();
        half_open.push(stream);
    }
    // From the same address, and from another one.
    assert_eq!(node.ask("GET", "/primary", None).await.0, 200);
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(node.address).await.unwrap();
    other.write_all(b"GET /primary HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, other.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
    // The oldest gave way, long before its time was over; the newest has not.
    let mut buffer = [0];
    let closed = timeout(HALF_OPEN / 2, half_open[0].read(&mut buffer)).await.expect("it had to give way");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    let newest = half_open.last_mut().unwrap();
    newest.write_all(b"Host: x\r\nConnection: close\r\n\r\n").await.unwrap();
    answer.clear();
    timeout(LIMIT, newest.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_server_that_hangs_leaves_the_leader_a_leader() {
    let node = node(local(ApiOptions::default())).await;
    node.probe.hangs.store(true, Ordering::SeqCst);
    let start = tokio::time::Instant::now();
    assert_eq!(node.ask("OPTIONS", "/primary", None).await.0, 200);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    let (code, body) = node.ask("GET", "/primary", None).await;
    assert_eq!(code, 200);
    assert!(body.starts_with(r#"{"state": "unknown", "role": "primary""#), "{body}");
    let start = tokio::time::Instant::now();
    assert_eq!(node.ask("GET", "/health", None).await.0, 503);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn requests_that_are_refused_are_refused_in_patronis_words() {
    let node = node(local(ApiOptions::default())).await;
    let page = |code: u16, words: &str| (code, reply::Reply::error_saying(code, words).body);
    let text = |code: u16, words: &str| (code, words.to_owned());
    let rows = [
        ("POST", "/nothing", None, page(501, "Unsupported method ('POST')")),
        ("DELETE", "/config", None, page(501, "Unsupported method ('DELETE')")),
        (
            "POST",
            "/restart",
            Some(r#"{"role":"master"}"#),
            text(400, "PostgreSQL role should be either primary, standby_leader, or replica"),
        ),
        (
            "POST",
            "/restart",
            Some(r#"{"postgres_version":15.10}"#),
            text(400, "Invalid PostgreSQL version: 15.1 (it must be a text in quotes, such as \"15.10\")"),
        ),
        (
            "POST",
            "/restart",
            Some(r#"{"postgres_version":"15"}"#),
            text(400, "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 15"),
        ),
        ("POST", "/restart", Some(r#"{"timeout":-1}"#), text(400, "Timeout should be a positive number of seconds")),
        ("POST", "/restart", Some(r#"{"x":1}"#), text(400, "Unknown filter for the scheduled restart: x")),
        (
            "POST",
            "/restart",
            Some(r#"{"schedule":"2030-01-01T00:00"}"#),
            text(400, "Timezone information is mandatory for the scheduled restart"),
        ),
        ("DELETE", "/switchover", None, text(404, "no switchover is scheduled")),
        ("POST", "/switchover", None, page(411, "Length Required")),
        ("POST", "/switchover", Some("{}"), page(400, "Bad Request")),
        ("POST", "/switchover", Some("[]"), page(400, "Bad Request")),
        (
            "POST",
            "/switchover",
            Some(r#"{"candidate":"x"}"#),
            text(400, "Switchover could be performed only from a specific leader"),
        ),
        (
            "POST",
            "/failover",
            Some(r#"{"leader":"x"}"#),
            text(400, "Failover could be performed only to a specific candidate"),
        ),
        (
            "POST",
            "/failover",
            Some(r#"{"candidate":"x","scheduled_at":"2030-01-01T00:00Z"}"#),
            text(400, "Failover can't be scheduled"),
        ),
        ("POST", "/switchover", Some(r#"{"leader":"zz"}"#), text(412, "leader name does not match")),
        (
            "POST",
            "/switchover",
            Some(r#"{"leader":"postgresql0","candidate":"postgresql0"}"#),
            text(400, "Switchover target and source are the same"),
        ),
        (
            "POST",
            "/switchover",
            Some(r#"{"leader":"postgresql0","candidate":"nobody"}"#),
            text(412, "candidate does not exists"),
        ),
        ("POST", "/sigterm", None, text(202, "shutdown scheduled")),
        ("POST", "/failsafe", Some(r#"{"a":1}"#), page(502, "Bad Gateway")),
        ("GET", "/failsafe", None, page(502, "Bad Gateway")),
        ("POST", "/mpp", Some(r#"{"a":1}"#), text(200, "OK")),
        ("PATCH", "/config", Some("bad"), page(400, "Bad Request")),
        ("PATCH", "/config", None, page(411, "Length Required")),
        ("GET", "/history", None, text(200, "[]")),
    ];
    for (method, path, body, expected) in rows {
        // The client always tells the length of a body; without one this goes by hand.
        if body.is_none() && expected.0 == 411 {
            let answer = node.raw(&format!("{method} {path} HTTP/1.0\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.0 411 ") && answer.ends_with(&expected.1), "{answer}");
            continue;
        }
        assert_eq!(node.ask(method, path, body).await, expected, "{method} {path} {body:?}");
    }
}

#[tokio::test]
async fn configuration_is_patched_by_many_and_loses_nothing() {
    let node = Arc::new(node(local(ApiOptions::default())).await);
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let node = Arc::clone(&node);
            tokio::spawn(
                async move { node.ask("PATCH", "/config", Some(&format!("{{\"key{number}\":{number}}}"))).await },
            )
        })
        .collect();
    for writer in writers {
        assert_eq!(writer.await.unwrap().0, 200);
    }
    let stored = node.leader.load().await.unwrap().config.unwrap().data.unwrap();
    for number in 0..8 {
        assert_eq!(stored.get(&format!("key{number}")), Some(&json!(number)));
    }
    let (code, body) = node.ask("PATCH", "/config", Some(r#"{"key0":null,"ttl":40,"x":{"y":null,"z":1.5}}"#)).await;
    assert_eq!(
        (code, body.contains("key0"), body.contains(r#""x": {"y": null, "z": 1.5}"#)),
        (200, false, true),
        "{body}"
    );
    assert_eq!(node.ask("PUT", "/config", Some(r#"{"ttl":20}"#)).await, (200, r#"{"ttl": 20}"#.to_owned()));
    let stored = node.leader.load().await.unwrap().config.unwrap().data.unwrap();
    assert_eq!(json!(stored), json!({"ttl": 20}));
}

/// It is not stored; and what was stored by others does not keep anything else from being changed.
#[tokio::test]
async fn a_setting_that_cannot_be_used_is_refused() {
    let node = node(local(ApiOptions::default())).await;
    let stored = async || node.leader.load().await.unwrap().config.unwrap().data.unwrap();
    let before = stored().await;
    let refused = (422, "ttl is \"abc\", but must be a whole number of seconds".to_owned());
    assert_eq!(node.ask("PATCH", "/config", Some(r#"{"ttl":"abc","pause":true}"#)).await, refused);
    assert_eq!(node.ask("PUT", "/config", Some(r#"{"ttl":"abc"}"#)).await, refused);
    assert_eq!(stored().await, before);
    let broken = wire::config(&sample::map(json!({"ttl": "abc"})));
    assert!(node.leader.write(Key::Config, &broken, Expected::Anything).await.is_done());
    assert_eq!(node.ask("PATCH", "/config", Some(r#"{"loop_wait":5}"#)).await.0, 200);
    assert_eq!(json!(stored().await), json!({"ttl": "abc", "loop_wait": 5}));
}

#[tokio::test]
async fn a_switchover_is_a_key_and_its_result_the_new_leader() {
    let mut node = node(local(ApiOptions::default())).await;
    let scheduled = r#"{"leader":"postgresql0","scheduled_at":"2030-01-01T00:00+01"}"#;
    assert_eq!(node.ask("POST", "/switchover", Some(scheduled)).await, (202, "Switchover scheduled".to_owned()));
    let (_, body) = node.ask("GET", "/cluster", None).await;
    let shown = r#""scheduled_switchover": {"at": "2030-01-01T00:00:00+01:00", "from": "postgresql0"}"#;
    assert!(body.contains(shown), "{body}");
    assert_eq!(node.ask("DELETE", "/switchover", None).await, (200, "scheduled switchover deleted".to_owned()));

    let order = r#"{"leader":"postgresql0","candidate":"postgresql1"}"#;
    let result = {
        let asked = node.ask("POST", "/switchover", Some(order));
        tokio::pin!(asked);
        let carried_out = async {
            let request = loop {
                let cluster = node.leader.load().await.unwrap();
                match cluster.failover {
                    Some(request) if request.candidate.is_some() => break request,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            let FailoverRequest { version, leader, .. } = request;
            assert_eq!(leader, Some(MemberName::from("postgresql0")));
            assert!(node.leader.release(None).await.is_done());
            assert!(node.candidate.acquire().await.is_done());
            assert!(node.candidate.delete(Key::Failover, Expected::Version(version)).await.is_done());
        };
        let ((), result) = timeout(LIMIT, async { tokio::join!(carried_out, asked) }).await.expect("a result in time");
        result
    };
    assert_eq!(result, (200, "Successfully switched over to \"postgresql1\"".to_owned()));
    assert_eq!(node.signals.try_recv(), Ok(Signal::Wake));
}

/// Whoever asked for a switchover that does not end, of whatever member, is told what the leader waits for.
#[tokio::test]
async fn what_a_member_is_about_can_be_asked() {
    let node = node(local(ApiOptions::default())).await;
    let url = format!("http://{}/patroni", node.address);
    let http = HttpClient::new(ClientOptions::default()).unwrap();
    assert_eq!(peers::progress(&http, &url).await, None);
    let mut view = sample::view("postgresql0", sample::primary());
    view.job = Some(JobView {
        job: Job::Shutdown,
        title: "demote".to_owned(),
        since: sample::NOW.boot,
        stage: Stage::Committed("it waits for process 7".to_owned()),
    });
    node.view.send_replace(Arc::new(view));
    node.working.send_replace(Some(sample::NOW.boot));
    assert_eq!(peers::progress(&http, &url).await.as_deref(), Some("it waits for process 7"));
}

#[tokio::test]
async fn restarts_are_asked_of_the_loop() {
    let mut node = node(local(ApiOptions::default())).await;
    let answers = [
        ("{}", Answer::Done("restarted successfully".to_owned()), (200, "restarted successfully")),
        (
            r#"{"role":"replica"}"#,
            Answer::Refused("restart conditions are not satisfied".to_owned()),
            (503, "restart conditions are not satisfied"),
        ),
        (
            r#"{"schedule":"2030-01-01T00:00Z"}"#,
            Answer::Refused("Another restart is already scheduled".to_owned()),
            (409, "Another restart is already scheduled"),
        ),
        (
            r#"{"schedule":"2030-01-01T00:00Z"}"#,
            Answer::Scheduled("Restart scheduled".to_owned()),
            (202, "Restart scheduled"),
        ),
    ];
    for (body, answer, (code, words)) in answers {
        let mut requests = std::mem::replace(&mut node.requests, mpsc::channel(1).1);
        let loop_side = async {
            let Envelope { request, reply } = requests.recv().await.expect("a request");
            assert_eq!(matches!(request, Request::ScheduleRestart(_)), body.contains("schedule"), "{request:?}");
            reply.send(answer.clone()).expect("somebody waits");
        };
        let (result, ()) =
            timeout(LIMIT, async { tokio::join!(node.ask("POST", "/restart", Some(body)), loop_side) }).await.unwrap();
        assert_eq!(result, (code, words.to_owned()));
        node.requests = requests;
    }
    let mut view = (**node.view.borrow()).clone();
    Arc::make_mut(&mut view.settings).paused = true;
    node.view.send_replace(Arc::new(view));
    let refused = node.ask("POST", "/restart", Some(r#"{"schedule":"2030-01-01T00:00Z"}"#)).await;
    assert_eq!(refused, (500, "Can't schedule restart in the paused state".to_owned()));
}

#[tokio::test]
async fn unsafe_requests_need_the_password_and_others_do_not() {
    let options = ApiOptions {
        auth: Some("admin:secret".to_owned()),
        http_extra_headers: vec![("X-Frame-Options".to_owned(), "SAMEORIGIN".to_owned())],
        https_extra_headers: vec![("X-Tls".to_owned(), "yes".to_owned())],
        server_tokens: ServerTokens::Minimal,
        ..ApiOptions::default()
    };
    let node = node(local(options)).await;
    let answer = node.raw("POST /reload HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 401 Unauthorized\r\n"), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nwww-authenticate: basic realm=\"patroni\"\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nno auth header received"), "{answer}");
    let client =
        |auth: &str| HttpClient::new(ClientOptions { auth: Some(auth.to_owned()), ..Default::default() }).unwrap();
    let url = format!("http://{}/reload", node.address);
    for (auth, code, words) in [("admin:wrong", 401, "not authenticated"), ("admin:secret", 202, "reload scheduled")] {
        let answer = client(auth).request(Method::POST, &url, None, LIMIT).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (code, words));
        assert_eq!(answer.headers["server"], "Patroni/4.1.5");
        assert_eq!(answer.headers["x-frame-options"], "SAMEORIGIN");
        assert_eq!(answer.headers.get("x-tls"), None);
    }
    assert_eq!(node.ask("GET", "/config", None).await.0, 200);
}

/// A certificate that vouches for itself, as in Patroni's own tests.
fn self_signed(dir: &Path, name: &str) -> TlsFiles {
    let (certfile, keyfile) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=test", "-addext"])
        .args(["subjectAltName=IP:127.0.0.1", "-passout", "pass:secret", "-keyout"])
        .args([keyfile.as_os_str(), "-out".as_ref(), certfile.as_os_str()])
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    TlsFiles { certfile: text(&certfile), keyfile: Some(text(&keyfile)), keyfile_password: Some("secret".to_owned()) }
}

#[tokio::test]
async fn tls_with_certificates_of_clients_and_new_ones_at_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let (server, other) = (self_signed(dir.path(), "server"), self_signed(dir.path(), "other"));
    let options = |identity: &TlsFiles, verify_client| {
        let cafile = Some(server.certfile.clone());
        let tls = ServerTls { identity: identity.clone(), cafile, ciphers: None, verify_client };
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        local(ApiOptions {
            tls: Some(tls),
            http_extra_headers: vec![header("X-Frame-Options", "SAMEORIGIN"), header("X-Plain", "1")],
            https_extra_headers: vec![header("X-Frame-Options", "DENY"), header("X-Tls", "2")],
            ..ApiOptions::default()
        })
    };
    let node = node(options(&server, VerifyClient::Optional)).await;
    let trusting = HttpClient::new(ClientOptions { insecure: true, ..ClientOptions::default() }).unwrap();
    let url = format!("https://{}/primary", node.address);
    let headers = trusting.request(Method::GET, &url, None, LIMIT).await.unwrap().headers;
    for (name, value) in [("x-frame-options", "DENY"), ("x-plain", "1"), ("x-tls", "2")] {
        let found: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(found, [value], "{name}");
    }
    let ask = async |cacert: Option<&TlsFiles>, identity: Option<&TlsFiles>, insecure: bool, method, path: &str| {
        let options = ClientOptions {
            cacert: cacert.map(|files| files.certfile.clone()),
            identity: identity.cloned(),
            insecure,
            ..ClientOptions::default()
        };
        let url = format!("https://{}{path}", node.address);
        let answer = HttpClient::new(options).unwrap().request(method, &url, None, LIMIT).await;
        answer.map(|answer| (answer.status, answer.body)).map_err(|e| e.to_string())
    };
    let reloaded = Ok((202, "reload scheduled".to_owned()));
    assert!(ask(Some(&server), None, false, Method::GET, "/primary").await.is_ok_and(|answer| answer.0 == 200));
    assert!(ask(None, None, true, Method::GET, "/primary").await.is_ok(), "insecure");
    assert!(ask(None, None, false, Method::GET, "/primary").await.is_err(), "not trusted");
    let refused = Ok((403, "client certificate required".to_owned()));
    assert_eq!(ask(Some(&server), None, false, Method::POST, "/reload").await, refused);
    assert_eq!(ask(Some(&server), Some(&server), false, Method::POST, "/reload").await, reloaded);
    assert!(ask(Some(&server), Some(&other), false, Method::POST, "/reload").await.is_err(), "not vouched for");

    node.api.reload(options(&other, VerifyClient::Required)).await.unwrap();
    assert!(ask(Some(&server), Some(&server), false, Method::GET, "/primary").await.is_err(), "the old certificate");
    assert!(ask(Some(&other), None, false, Method::GET, "/primary").await.is_err(), "no certificate shown");
    assert_eq!(ask(Some(&other), Some(&server), false, Method::POST, "/reload").await, reloaded);

    let broken = TlsFiles { certfile: "/nonexistent".to_owned(), ..other.clone() };
    let error = node.api.reload(options(&broken, VerifyClient::None)).await.unwrap_err().to_string();
    assert!(error.starts_with("restapi: cannot read /nonexistent: "), "{error}");
    assert_eq!(
        ask(Some(&other), Some(&server), false, Method::POST, "/reload").await,
        reloaded,
        "the old settings stay"
    );
}

#[tokio::test]
async fn certificates_that_were_replaced_are_taken_up_without_being_told() {
    let dir = tempfile::tempdir().unwrap();
    let (files, other) = (self_signed(dir.path(), "server"), self_signed(dir.path(), "other"));
    let tls = ServerTls { identity: files.clone(), ..ServerTls::default() };
    let node = node(local(ApiOptions { tls: Some(tls), ..ApiOptions::default() })).await;
    let url = format!("https://{}/primary", node.address);
    let trusts = async |certfile: &str| {
        let client = HttpClient::new(ClientOptions { cacert: Some(certfile.to_owned()), ..ClientOptions::default() });
        client.unwrap().request(Method::GET, &url, None, LIMIT).await.is_ok()
    };
    assert!(trusts(&files.certfile).await && !trusts(&other.certfile).await);
    // The certificate without its key: the old ones stay.
    std::fs::copy(&other.certfile, &files.certfile).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!trusts(&other.certfile).await);
    std::fs::copy(other.keyfile.unwrap(), files.keyfile.unwrap()).unwrap();
    let taken_up = async {
        while !trusts(&other.certfile).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, taken_up).await.expect("the new certificate in time");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let listen = format!("127.0.0.1:{}", patroni_ports::free_port());
    let taken = std::net::TcpListener::bind(&listen).unwrap();
    let node = node(local(ApiOptions::default())).await;
    let options = ApiOptions { listen: listen.clone(), ..ApiOptions::default() };
    let error = node.api.reload(options).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("Couldn't start a service on '{listen}', please check")), "{error}");
    assert_eq!(node.ask("GET", "/primary", None).await.0, 200, "the old address is still served");
    drop(taken);
    node.api.reload(ApiOptions { listen: listen.clone(), ..ApiOptions::default() }).await.unwrap();
    assert_eq!(node.api.address().await.unwrap().to_string(), listen);
    assert!(TcpStream::connect(node.address).await.is_err(), "the old one is given up");
    // All addresses overlap with the one: it has to be given up before.
    let all = format!("*:{}", listen.rsplit_once(':').unwrap().1);
    node.api.reload(ApiOptions { listen: all, ..ApiOptions::default() }).await.unwrap();
    assert!(node.api.address().await.unwrap().ip().is_unspecified());
    assert!(TcpStream::connect(&listen).await.is_ok());
}

#[tokio::test]
async fn the_answers_of_patroni_2_where_they_are_wanted() {
    let node = node(local(ApiOptions { compatibility: Compatibility::Two, ..ApiOptions::default() })).await;
    let (_, body) = node.ask("GET", "/patroni", None).await;
    assert!(body.contains(r#""role": "master""#) && body.contains(r#""cluster_unlocked": false"#), "{body}");
    let (_, body) = node.ask("GET", "/cluster", None).await;
    assert!(!body.contains("streaming"), "{body}");
}
