//! Connections between nodes and to the REST API under TLS, with client certificates.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use patroni_tests::{Cluster, Limit, Node, PASSWORD, Sandbox, json, request, wait_for};

/// A self-signed certificate for 127.0.0.1, which is its own authority, its key, and that key encrypted with `s3cret`.
fn certificate(sandbox: &Sandbox) -> [String; 3] {
    let [certificate, key, encrypted] = ["cert.pem", "key.pem", "encrypted.pem"].map(|name| sandbox.path().join(name));
    let status = Command::new("openssl")
        .args(["req", "-nodes", "-new", "-x509", "-subj", "/CN=batman.patroni", "-days", "2"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl must be installed")
        .status;
    assert!(status.success());
    let encrypt = ["pkcs8", "-topk8", "-v2", "aes256", "-passout", "pass:s3cret", "-in"];
    let status = Command::new("openssl").args(encrypt).arg(&key).arg("-out").arg(&encrypted).status();
    assert!(status.unwrap().success());
    [certificate, key, encrypted].map(|path| {
        sandbox.give(&path);
        path.to_str().unwrap().to_owned()
    })
}

#[test]
fn replication_rewind_and_rest_work_with_client_certificates_only() {
    let mut cluster = Cluster::of(2).prepare();
    let [certificate, key, encrypted] = certificate(&cluster.sandbox);
    for node in &mut cluster.nodes {
        for user in ["superuser", "replication", "rewind"] {
            let authentication = &mut node.config["postgresql"]["authentication"][user];
            authentication["sslmode"] = json!("verify-ca");
            authentication["sslrootcert"] = json!(certificate);
            authentication["sslcert"] = json!(certificate);
            authentication["sslkey"] = json!(encrypted);
            authentication["sslpassword"] = json!("s3cret");
        }
        let parameters = &mut node.config["postgresql"]["parameters"];
        parameters["ssl"] = json!("on");
        for (parameter, file) in
            [("ssl_ca_file", &certificate), ("ssl_cert_file", &certificate), ("ssl_key_file", &key)]
        {
            parameters[parameter] = json!(file);
        }
        node.config["postgresql"]["pg_hba"] = json!([
            "local all all trust",
            "hostssl replication replicator all md5 clientcert=verify-ca",
            "hostssl all all all md5 clientcert=verify-ca",
        ]);
        node.config["restapi"]["certfile"] = json!(certificate);
        node.config["restapi"]["keyfile"] = json!(key);
        node.config["restapi"]["cafile"] = json!(certificate);
        node.config["restapi"]["verify_client"] = json!("required");
        node.config["ctl"] = json!({"cacert": certificate, "certfile": certificate, "keyfile": key});
    }
    cluster.start_node(0);
    cluster.start_node(1);
    let rest = |index: usize, path: &str, with_certificate: bool| {
        let mut command = Command::new("curl");
        command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", "--cacert", &certificate]);
        if with_certificate {
            command.args(["--cert", &certificate, "--key", &key]);
        }
        let url = format!("https://127.0.0.1:{}{path}", cluster.nodes[index].rest_port);
        String::from_utf8(command.arg(url).output().unwrap().stdout).unwrap()
    };
    let one_leads_one_streams = |limit| {
        wait_for("a leader, and a replica that streams", limit, || {
            let replica = "/replica?replication_state=streaming";
            let found = (0..2).find(|i| rest(*i, "/primary", true) == "200" && rest(1 - i, replica, true) == "200");
            found.ok_or("not yet")
        })
    };
    let leader = one_leads_one_streams(Limit(60));
    assert_eq!(rest(leader, "/primary", false), "000", "no answer without a client certificate");
    let candidate = format!("n{}", 1 - leader);
    cluster.ctl_ok(&["switchover", "batman", "--candidate", &candidate, "--force"]);
    assert_eq!(one_leads_one_streams(Limit(40)), 1 - leader);
}

#[test]
fn the_agents_keep_their_store_under_tls_and_strangers_learn_nothing() {
    let mut cluster = Cluster::of(3).embedded().prepare();
    let [own, own_key, encrypted] = certificate(&cluster.sandbox);
    for node in &mut cluster.nodes {
        let raft = json!({"cert": own, "key": encrypted, "key_password": "s3cret", "cacert": own});
        node.change_config(&json!({"raft": raft}));
    }
    let leader = cluster.start_together();
    cluster.wait_voters(3, Limit(60));

    let elsewhere = Sandbox::new();
    let [stranger, stranger_key, _] = certificate(&elsewhere);
    let url = cluster.members.clone().unwrap().url();
    let list = |cert: &str, key: &str, password: &str| {
        let mut command = cluster.sandbox.command(&cluster.programs.patronictl);
        command.envs([("PATRONI_RAFT_CERT", cert), ("PATRONI_RAFT_KEY", key), ("PATRONI_RAFT_PASSWORD", password)]);
        command.env("PATRONI_RAFT_CACERT", &own).args(["-d", &url, "list", "batman", "-f", "json"]).output().unwrap()
    };
    assert!(String::from_utf8_lossy(&list(&own, &own_key, PASSWORD).stdout).contains("n0"));
    for (cert, key, password) in [(&stranger, &stranger_key, PASSWORD), (&own, &own_key, "a guess")] {
        let output = list(cert, key, password);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && !said.contains("n0"), "{said}");
    }

    let candidate = (leader + 1) % 3;
    cluster.ctl_ok(&["switchover", "batman", "--candidate", &format!("n{candidate}"), "--force"]);
    cluster.wait_streaming(candidate, Limit(40));
}

/// A certificate authority, and a certificate of 127.0.0.1 by it: `ca.crt`, `node.crt`, `node.key`.
fn certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt");
    openssl("req -newkey rsa:2048 -nodes -subj /CN=node -keyout node.key -out node.csr");
    std::fs::write(directory.join("extensions"), "subjectAltName=IP:127.0.0.1").unwrap();
    openssl(
        "x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out node.crt",
    );
    for name in ["", "ca.crt", "node.crt", "node.key"] {
        let mode = if name.is_empty() { 0o755 } else { 0o644 };
        std::fs::set_permissions(directory.join(name), Permissions::from_mode(mode)).unwrap();
    }
}

/// Status and body of a request over TLS.
fn curl(directory: &Path, node: &Node, path: &str, arguments: &[&str]) -> (u16, String) {
    let url = format!("https://127.0.0.1:{}{path}", node.rest_port);
    let output = Command::new("curl")
        .args(["-s", "--max-time", "60", "--cacert", "ca.crt", "-w", "\n%{http_code}"])
        .args(arguments)
        .arg(url)
        .current_dir(directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[test]
fn nodes_with_tls_client_certificates_and_passwords() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    certificates(files);
    let path = |name: &str| files.join(name).display().to_string();
    let (ca, certificate, key) = (path("ca.crt"), path("node.crt"), path("node.key"));
    let mut cluster = Cluster::of(2)
        .config(json!({
            "restapi": {
                "certfile": certificate, "keyfile": key, "cafile": ca, "verify_client": "optional",
                "authentication": {"username": "admin", "password": "pa:ss"},
            },
            "ctl": {"cacert": ca, "certfile": certificate, "keyfile": key},
        }))
        .prepare();
    let is_primary = "SELECT NOT pg_is_in_recovery()";
    let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    cluster.start_node(0);
    cluster.nodes[0].wait_sql(is_primary, "t", Limit(60));
    cluster.start_node(1);
    cluster.nodes[0].wait_sql(streams, "1", Limit(60));
    let [n0, n1] = &cluster.nodes[..] else { unreachable!() };

    let certified = ["--cert", "node.crt", "--key", "node.key"];
    let with = |more: &[&'static str]| [&certified[..], more].concat();
    let order = r#"{"leader": "n0", "candidate": "n1"}"#;
    wait_for("both are in the store", Limit(30), || match curl(files, n0, "/cluster", &[]) {
        (200, body) if body.contains("streaming") => Ok(()),
        other => Err(other),
    });
    let rows: [(&str, Vec<&str>, u16, &str); 6] = [
        ("/primary", vec![], 200, ""),
        ("/primary", with(&[]), 200, ""),
        ("/switchover", vec!["-u", "admin:pa:ss", "-d", order], 403, "client certificate required"),
        ("/switchover", with(&["-d", order]), 401, "no auth header received"),
        ("/switchover", with(&["-u", "admin:wrong", "-d", order]), 401, "not authenticated"),
        ("/switchover", with(&["-u", "admin:pa:ss", "-d", order]), 200, "Successfully switched over to \"n1\""),
    ];
    for (path, arguments, status, words) in rows {
        let (found, body) = curl(files, n0, path, &arguments);
        assert!(found == status && (words.is_empty() || body == words), "{path} {arguments:?}: {found} {body}");
    }
    n1.wait_sql(is_primary, "t", Limit(30));
    n1.wait_sql(streams, "1", Limit(60));
    let (status, _) = curl(files, n1, "/replica", &["--http1.0"]);
    assert_eq!((status, curl(files, n1, "/leader", &["-I"]).0), (503, 200));
    let plain = request(n1.rest_port, "GET", "/", None, Duration::from_secs(5));
    assert!(plain.is_err(), "{plain:?}");
    let text = cluster.ctl_ok(&["restart", "batman", "n0", "--force"]);
    assert!(text.contains("Success: restart on member n0"), "{text}");
}
