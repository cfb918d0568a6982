//! What systemd hears of an agent's life, and that nobody else speaks to it.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use patroni_tests::{Cluster, Kind, Limit, Signal, json, wait_for};

fn environment_of(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned()
}

/// The next message that holds this text.
fn wait_message(socket: &UnixDatagram, text: &str) -> String {
    wait_for(&format!("systemd hears {text}"), Limit(30), || {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).map_err(|error| error.to_string())?;
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if message.contains(text) { Ok(message) } else { Err(message) }
    })
}

#[test]
fn systemd_hears_of_start_reload_and_stop_and_only_from_the_agent() {
    let name = format!("patroni-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut cluster = Cluster::mixed(&[Kind::Ours]).prepare();
    let sandbox_file = cluster.sandbox.path().join("environment").display().to_string();
    let script = cluster
        .sandbox
        .file("on_start", &format!("#!/bin/sh\nenv >{sandbox_file}.new && mv {sandbox_file}.new {sandbox_file}\n"));
    cluster.nodes[0].change_config(&json!({"postgresql": {"callbacks": {"on_start": script}}}));
    cluster.nodes[0].set_environment("NOTIFY_SOCKET", &format!("@{name}"));
    cluster.start_node(0);
    wait_message(&socket, "READY=1");
    cluster.nodes[0].wait_primary(Limit(60));
    wait_message(&socket, "READY=1\nSTATUS=no action. I am (n0), the leader with the lock");

    let node = &cluster.nodes[0];
    assert!(environment_of(node.pid()).contains("NOTIFY_SOCKET"), "the agent has it");
    let postmaster = node.postmaster().unwrap();
    assert!(!environment_of(postmaster).contains("NOTIFY_SOCKET"), "PostgreSQL does not");
    let guard = wait_for("the guard runs", Limit(20), || child_with(node.pid(), "--guard").ok_or("it does not"));
    assert!(!environment_of(guard).contains("NOTIFY_SOCKET"), "the guard does not");
    let callback = wait_for("the callback ran", Limit(20), || std::fs::read_to_string(Path::new(&sandbox_file)));
    assert!(callback.contains("PATH=") && !callback.contains("NOTIFY_SOCKET"), "a callback does not: {callback}");

    node.signal(Signal::HUP);
    let reloading = wait_message(&socket, "RELOADING=1");
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    wait_message(&socket, "READY=1");
    cluster.nodes[0].signal(Signal::TERM);
    wait_message(&socket, "STOPPING=1");
    cluster.nodes[0].wait_exit(Limit(30));
}

fn child_with(parent: u32, argument: &str) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let other_threads = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let all = other_threads
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .fold(children, |all, own| all + " " + &own);
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(argument)
    })
}
