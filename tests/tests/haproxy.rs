//! HAProxy from Debian in front of real nodes, through switchover and failover: with the configuration of Patroni's
//! documentation and with ours (`extras/haproxy.cfg`).
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use patroni_tests::{Cluster, Limit, free_port, json, wait_for};
use postgres::NoTls;

/// As `docs/` of Patroni has it.
const DOCUMENTED: &str = "\
global
    maxconn 100
defaults
    log global
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s
listen primary
    bind *:5000
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
SERVERS
listen replicas
    bind *:5001
    option httpchk OPTIONS /replica
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
SERVERS
";

struct Haproxy {
    child: Child,
    primary: u16,
    replicas: u16,
}

impl Haproxy {
    fn start(cluster: &Cluster, config: &str) -> Haproxy {
        let (primary, replicas) = (free_port(), free_port());
        let server = |node: &patroni_tests::Node| {
            format!("    server {} 127.0.0.1:{} maxconn 100 check port {}\n", node.name, node.pg_port, node.rest_port)
        };
        let servers: String = cluster.nodes.iter().map(server).collect();
        let text = config
            .replace("SERVERS\n", &servers)
            .replace("*:5000", &format!("127.0.0.1:{primary}"))
            .replace("*:5001", &format!("127.0.0.1:{replicas}"));
        let file = cluster.sandbox.file("haproxy.cfg", &text);
        let child = cluster.sandbox.command("haproxy".as_ref()).args(["-db", "-f"]).arg(file).spawn().unwrap();
        Haproxy { child, primary, replicas }
    }

    /// What this port answers to SQL.
    fn ask(port: u16, sql: &str) -> Result<String, String> {
        let connect = postgres::Config::new()
            .host("127.0.0.1")
            .port(port)
            .user("postgres")
            .password("super-secret")
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(2))
            .options("-c statement_timeout=2000")
            .connect(NoTls);
        let row = connect.and_then(|mut client| client.query_one(sql, &[]));
        row.map(|row| row.get(0)).map_err(|error| format!("{error:?}"))
    }

    #[track_caller]
    fn wait_primary(&self, cluster: &Cluster, leader: usize) -> Duration {
        let start = Instant::now();
        let sql = "SELECT current_setting('port') || pg_is_in_recovery()::text";
        let expected = format!("{}false", cluster.nodes[leader].pg_port);
        wait_for("clients reach the leader", Limit(60), || match Self::ask(self.primary, sql) {
            Ok(found) if found == expected => Ok(()),
            other => Err(other),
        });
        start.elapsed()
    }

    #[track_caller]
    fn wait_replica(&self) {
        let sql = "SELECT pg_is_in_recovery()::text";
        wait_for("readers reach a replica", Limit(60), || match Self::ask(self.replicas, sql) {
            Ok(found) if found == "true" => Ok(()),
            other => Err(other),
        });
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// HAProxy is there; the test is skipped otherwise.
fn installed() -> bool {
    let found = Command::new("haproxy").arg("-v").output().is_ok();
    if !found {
        eprintln!("SKIPPED: haproxy is not installed; apt-get install haproxy");
    }
    found
}

fn clients_follow_the_leader(config: &str) {
    if !installed() {
        return;
    }
    let mut cluster = Cluster::of(3).start();
    let proxy = Haproxy::start(&cluster, config);
    proxy.wait_primary(&cluster, 0);
    proxy.wait_replica();
    let answer = cluster.nodes[1].post("/switchover", &json!({"leader": "n0", "candidate": "n1"}));
    assert_eq!(answer.body, "Successfully switched over to \"n1\"");
    eprintln!("after the switchover clients reached the leader within {:?}", proxy.wait_primary(&cluster, 1));
    proxy.wait_replica();
    cluster.wait_streaming(1, Limit(60));
    cluster.nodes[1].kill_hard();
    let leader = cluster.wait_leader_among(&[0, 2], Limit(60));
    eprintln!("after the failover clients reached the leader within {:?}", proxy.wait_primary(&cluster, leader));
    proxy.wait_replica();
    assert_eq!(Haproxy::ask(proxy.primary, "SELECT pg_is_in_recovery()::text").as_deref(), Ok("false"));
}

#[test]
fn the_documented_configuration_of_haproxy() {
    clients_follow_the_leader(DOCUMENTED);
}

#[test]
fn our_configuration_of_haproxy() {
    let config = include_str!("../../extras/haproxy.cfg");
    let servers: Vec<&str> = config.lines().filter(|line| line.trim_start().starts_with("server ")).collect();
    assert_eq!(servers.len(), 6, "three servers twice");
    let mut lines = Vec::new();
    for line in config.lines() {
        match line.trim_start().starts_with("server ") {
            false => lines.push(line),
            true if lines.last() != Some(&"SERVERS") => lines.push("SERVERS"),
            true => {}
        }
    }
    let local = |line: &&&str| !line.contains("stats");
    let text: Vec<&str> = lines.iter().filter(local).copied().collect();
    clients_follow_the_leader(&(text.join("\n") + "\n"));
}
