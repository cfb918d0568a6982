//! Who may use ZooKeeper, over which connection, and who says where it is.

use std::time::Duration;

use patroni_core::facts::Outcome;
use patroni_dcs::zookeeper::ZooKeeperOptions;
use patroni_dcs::{Expected, Key, LeaderUpdate, Timing};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::certificates::{Authority, write};
use crate::faults::LONG;
use crate::zookeeper::{USUAL, ZooKeeper, handle, node, section};
use crate::{World, eventually, load, path};

const QUICK: Timing = Timing { retry_timeout: Duration::from_secs(2), ..LONG };

#[tokio::test]
async fn who_has_no_rights_hears_no_word_about_the_lease() {
    let Some(zookeeper) = ZooKeeper::start(1).await else { return };
    // The cluster's nodes are those of a user, as somebody may have set them up.
    let mut owner = zookeeper.raw().await;
    owner.authenticate("digest", "patroni:right").await;
    let scope = node("").trim_end_matches('/').to_owned();
    owner.set("/service", b"").await;
    assert!(owner.create(&scope, b"", &[(31, "auth", "")]).await);
    assert!(owner.create(&node("leader"), b"a", &[(31, "auth", "")]).await);
    let with = |auth: serde_json::Value| handle(&zookeeper.section(json!({"auth_data": auth})), "a", QUICK);
    let a = with(json!({"digest": "patroni:right"}));
    assert!(a.renew(&LeaderUpdate::default()).await.is_done(), "the key of an earlier run");
    // Its own nodes are everybody's, as with 4.1.5; the path of the cluster is not.
    for (auth, part) in [
        (json!({"digest": "patroni:wrong"}), "no permission"),
        (json!({}), "no permission"),
        (json!({"nonsense": "x"}), "does not accept auth_data of the scheme nonsense"),
    ] {
        let refused = with(auth.clone());
        for outcome in [refused.renew(&LeaderUpdate::default()).await, refused.acquire().await] {
            assert!(matches!(&outcome, Outcome::Failed(text) if text.contains(part)), "{auth}: {outcome:?}");
        }
        let written = refused.write(Key::Sync, "{}", Expected::Absent).await;
        assert!(matches!(&written, Outcome::Failed(text) if text.contains(part)), "{auth}: {written:?}");
        let read = refused.load().await;
        assert!(matches!(&read, Err(unread) if unread.to_string().contains(part)), "{auth}: {read:?}");
    }
    let refused = with(json!({"digest": "patroni:wrong"}));
    assert!(refused.load().await.is_err());
    let section = zookeeper.section(json!({"auth_data": {"digest": "patroni:right"}}));
    refused.reload(json!({"zookeeper": section}).as_object().unwrap()).expect("valid");
    assert!(refused.load().await.is_ok(), "the new credentials are used");
}

#[tokio::test]
async fn certificates_and_rights_by_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let cacert = &authority.cacert;
    // The reference compares no names.
    let signed = |name: &str| authority.sign(name, "elsewhere.example");
    let server = signed("server");
    let both = [server.keyfile.unwrap(), server.certfile].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    let both = write(directory.path(), "both.pem", &both);
    let port = patroni_ports::free_port();
    let settings = format!(
        "{USUAL}secureClientPort={port}\nserverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
         ssl.keyStore.location={both}\nssl.keyStore.type=PEM\nssl.trustStore.location={cacert}\nssl.trustStore.type=PEM\n\
         authProvider.x509=org.apache.zookeeper.server.auth.X509AuthenticationProvider\n"
    );
    let Some(zookeeper) = ZooKeeper::start_with(1, &settings).await else { return };
    let hosts = [format!("127.0.0.1:{port}")];
    let with = |name: &str, further: serde_json::Value| {
        let files = signed(name);
        let mut settings = json!({"use_ssl": true, "cacert": cacert, "cert": files.certfile, "key": files.keyfile});
        settings.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
        handle(&section(&hosts, settings), "a", QUICK)
    };
    let a = with("one", json!({"set_acls": {"CN=one": ["ALL"], "CN=two": ["READ"]}}));
    let acquired = a.acquire().await;
    assert!(acquired.is_done(), "{acquired:?}");
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    let reader = with("two", json!({}));
    assert_eq!(load(&reader).await.leader_name().map(ToString::to_string).as_deref(), Some("a"));
    let written = reader.write(Key::Sync, "{}", Expected::Absent).await;
    assert!(matches!(&written, Outcome::Failed(text) if text.contains("no permission")), "{written:?}");
    let nobody = with("three", json!({})).load().await;
    assert!(matches!(&nobody, Err(unread) if unread.to_string().contains("no permission")), "{nobody:?}");
    // Whose certificate nobody vouches for is not talked to, unless that does not matter.
    let system = with("one", json!({"cacert": null})).load().await;
    assert!(system.is_err(), "{system:?}");
    assert!(with("one", json!({"cacert": null, "verify": false})).load().await.is_ok());
    let missing = with("one", json!({"cacert": "/nowhere"})).load().await;
    assert!(matches!(&missing, Err(unread) if unread.to_string().contains("/nowhere")), "{missing:?}");
    drop(zookeeper);
}

/// Exhibitor is a list behind HTTP; the first one named does not answer.
#[tokio::test]
async fn exhibitor_says_where_zookeeper_is() {
    let Some(zookeeper) = ZooKeeper::start(1).await else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (found, answers) = tokio::sync::watch::channel(0_u16);
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            assert!(request.starts_with("GET /exhibitor/v1/cluster/list HTTP/1.1\r\n"), "{request}");
            let body = match *answers.borrow() {
                0 => "starting".to_owned(),
                port => json!({"servers": ["127.0.0.1"], "port": port}).to_string(),
            };
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let section = json!({"hosts": ["127.0.0.2", "127.0.0.1"], "port": port, "poll_interval": 1});
    let options = ZooKeeperOptions::from_exhibitor(section.as_object().unwrap()).expect("valid");
    let a = patroni_dcs::zookeeper::connect(options, &path(), "a".into(), QUICK);
    let nobody = a.load().await;
    assert!(matches!(&nobody, Err(unread) if unread.to_string().contains("Exhibitor does not answer")), "{nobody:?}");
    found.send(zookeeper.ports[0]).unwrap();
    eventually("it is asked again", || async { a.acquire().await.is_done() }).await;
    assert_eq!(zookeeper.get_raw("leader").await.as_deref(), Some(b"a".as_slice()));
    serving.abort();
}
