//! The embedded store under TLS: certificates and the secret, right and wrong, and garbage.

use std::path::Path;
use std::time::Duration;

use patroni_dcs::raft::admin::Administration;
use patroni_dcs::raft::{RaftClient, RaftOptions};
use patroni_dcs::{Expected, Key};
use patroni_http::TlsFiles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::Authority;
use crate::load;
use crate::raft::{LONG, Members};

/// A certificate for this machine and who vouches for it. The files have names that begin with this.
fn certificates(directory: &Path, name: &str) -> (Option<TlsFiles>, Option<String>) {
    let authority = Authority::new(directory, &format!("{name}-ca"));
    (Some(authority.sign(name, "127.0.0.1")), Some(authority.cacert))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_the_secret_are_needed_and_garbage_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (identity, cacert) = certificates(directory.path(), "own");
    let (stranger, other_cacert) = certificates(directory.path(), "other");
    let protected = |options: &mut RaftOptions| {
        options.identity.clone_from(&identity);
        options.cacert.clone_from(&cacert);
    };
    let mut members = Members::configured(3);
    members.change(protected);
    (0..3).for_each(|index| members.run(index));
    members.all_vote().await;
    let a = members.handle("a", LONG);
    assert!(a.write(Key::Config, "{\"ttl\":30}", Expected::Absent).await.is_done());

    // What somebody tries, and what is known of it afterwards.
    let outside = |identity: &Option<TlsFiles>, cacert: &Option<String>, password: Option<&str>| RaftOptions {
        partner_addrs: vec![members.address(0)],
        password: password.map(str::to_owned),
        identity: identity.clone(),
        cacert: cacert.clone(),
        ..RaftOptions::default()
    };
    let secret = Some("a long random text");
    for (what, options, told) in [
        ("a certificate of somebody else", outside(&stranger, &cacert, secret), ""),
        ("another authority for the members", outside(&identity, &other_cacert, secret), "certificate"),
        ("no TLS", outside(&None, &None, secret), ""),
        ("a wrong secret", outside(&identity, &cacert, Some("a guess")), "raft.password"),
        ("no secret", outside(&identity, &cacert, None), "raft.password"),
    ] {
        let client = RaftClient::new(&options, None).unwrap();
        let read = client.read("", Duration::from_secs(2)).await.map_err(|error| error.to_string());
        assert!(read.as_ref().is_err_and(|error| error.contains(told)), "{what}: {read:?}");
        let status = client.status_of(&members.address(0)).await;
        assert!(status.is_err(), "{what}: {status:?}");
    }
    let right = RaftClient::new(&outside(&identity, &cacert, secret), None).unwrap();
    assert!(!right.read("", Duration::from_secs(5)).await.unwrap().is_empty(), "certificate and secret let in");

    // Bytes that are no TLS are answered by an alert of TLS at most.
    let mut stream = TcpStream::connect(members.address(0)).await.unwrap();
    stream.write_all(&[b"PTRNRAFT".as_slice(), &[0; 37]].concat()).await.unwrap();
    let mut heard = Vec::new();
    // It may be reset instead of closed.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut heard)).await.expect("it is closed");
    assert!(heard.len() < 16 && !heard.windows(8).any(|bytes| bytes == b"PTRNRAFT"), "{heard:?}");

    let address = members.address(members.leader().await);
    let flood = tokio::spawn(async move {
        let mut open = Vec::new();
        for i in 0..600 {
            let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
            // A client hello that never ends, and something else.
            let garbage: &[u8] = if i % 2 == 0 { &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc] } else { b"GET / HTTP/1.1" };
            let _ = stream.write_all(garbage).await;
            open.push(stream);
        }
        open.len()
    });
    for _ in 0..20 {
        assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
        assert!(members.handle("b", LONG).load().await.is_ok(), "a new connection gets through");
    }
    assert!(flood.await.unwrap() > 100);
    assert_eq!(members.votes().await, 3, "all members are there");
    assert!(load(&a).await.config.is_some());
}
