//! Connections between nodes and to the REST API under TLS, with client certificates.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::process::Command;

use patroni_tests::{Cluster, Limit, PASSWORD, Sandbox, json, wait_for};

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
