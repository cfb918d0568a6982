//! Endpoints from DNS SRV records.

use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};
use patroni_http::{ClientOptions, HttpClient, Method};
use serde::Deserialize;

/// How long a member of etcd may take to say which members there are.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(2);

/// The endpoints of a domain, asked of the resolvers of this machine.
pub(crate) async fn system_endpoints(domain: &str, suffix: Option<&str>) -> Result<Vec<String>, String> {
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    endpoints(&resolver.map_err(|error| format!("the resolver cannot be set up: {error}"))?, domain, suffix).await
}

/// The records that name clients' ports, TLS first, in the order of the reference; where there are none, those of peers' ports,
/// where the members are asked for.
async fn endpoints(resolver: &TokioResolver, domain: &str, suffix: Option<&str>) -> Result<Vec<String>, String> {
    let mut problem = String::new();
    for service in ["-client-ssl", "-client", "-ssl", ""] {
        match named(resolver, service, domain, suffix).await {
            Ok(found) if found.is_empty() => {}
            Ok(found) => return Ok(found),
            Err(error) => problem = format!(": {error}"),
        }
    }
    for service in ["-server-ssl", "-server"] {
        for peer in named(resolver, service, domain, suffix).await.unwrap_or_default() {
            match members(&peer).await {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => problem = format!(": {peer} knows no member with an address for clients"),
                Err(error) => problem = format!(": {peer}/members: {error}"),
            }
        }
    }
    Err(format!("Can not resolve SRV for {domain}{problem}"))
}

/// What the records of one service name.
async fn named(
    resolver: &TokioResolver,
    service: &str,
    domain: &str,
    suffix: Option<&str>,
) -> Result<Vec<String>, String> {
    let suffix = suffix.map(|suffix| format!("-{suffix}")).unwrap_or_default();
    let scheme = if service.contains("-ssl") { "https" } else { "http" };
    let name = format!("_etcd{service}{suffix}._tcp.{}.", domain.trim_end_matches('.'));
    let lookup = resolver.lookup(name, RecordType::SRV).await.map_err(|error| error.to_string())?;
    Ok(lookup.answers().iter().filter_map(|record| endpoint(scheme, &record.data)).collect())
}

/// A member, as the others tell of it to each other.
#[derive(Deserialize)]
struct PeerOfEtcd {
    #[serde(default, rename = "clientURLs")]
    client_urls: Vec<String>,
}

/// The addresses for clients of all members, by the port for peers of one. Like the reference it takes any certificate: whoever
/// answers is only asked for addresses, and those are verified as the settings say.
async fn members(peer: &str) -> Result<Vec<String>, String> {
    let client = HttpClient::new(ClientOptions { unverified: true, ..ClientOptions::default() });
    let client = client.map_err(|error| error.to_string())?;
    let answer = client.request(Method::GET, &format!("{peer}/members"), None, MEMBERS_PATIENCE).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status >= 400 {
        return Err(format!("status {}", answer.status));
    }
    let members: Vec<PeerOfEtcd> = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    Ok(members.into_iter().flat_map(|member| member.client_urls).collect())
}

fn endpoint(scheme: &str, data: &RData) -> Option<String> {
    match data {
        RData::SRV(srv) => Some(format!("{scheme}://{}:{}", srv.target.to_utf8().trim_end_matches('.'), srv.port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_resolver::Resolver;
    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::rdata::SRV;
    use hickory_resolver::proto::rr::{Name, Record};
    use patroni_ports::free_port;
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server that knows one name, and two hosts of that.
    async fn name_server(known: &'static str, port_of_etcd: u16, hosts: [&'static str; 2]) -> TokioResolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let mut answer = Message::response(asked.metadata.id, OpCode::Query);
                let query = asked.queries[0].clone();
                answer.add_query(query.clone());
                if query.name().to_utf8().trim_end_matches('.') == known {
                    for host in hosts {
                        let data = RData::SRV(SRV::new(0, 0, port_of_etcd, Name::from_ascii(host).unwrap()));
                        answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                    }
                } else {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let mut server = NameServerConfig::udp(IpAddr::V4(Ipv4Addr::LOCALHOST));
        server.connections[0].port = port;
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        Resolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
    }

    #[tokio::test]
    async fn records_become_endpoints() {
        let hosts = ["one.example.", "two.example."];
        let resolver = name_server("_etcd-client._tcp.example.org", 2379, hosts).await;
        let found = endpoints(&resolver, "example.org", None).await;
        assert_eq!(found, Ok(vec!["http://one.example:2379".to_owned(), "http://two.example:2379".to_owned()]));
        let error = endpoints(&resolver, "example.net", None).await.unwrap_err();
        assert!(error.starts_with("Can not resolve SRV for example.net"), "{error}");
        let resolver = name_server("_etcd-client-ssl-blue._tcp.example.org", 2379, hosts).await;
        let found = endpoints(&resolver, "example.org.", Some("blue")).await;
        assert_eq!(found.map(|found| found[0].clone()), Ok("https://one.example:2379".to_owned()));
    }

    /// Records of peers' ports, as `etcd --discovery-srv` wants them.
    #[tokio::test]
    async fn members_are_asked_for_at_peers_ports() {
        let directory = tempfile::tempdir().unwrap();
        let (client, peer) = (format!("http://127.0.0.1:{}", free_port()), free_port());
        let peer_url = format!("http://127.0.0.1:{peer}");
        let mut etcd = std::process::Command::new("etcd")
            .args(["--name", "n", "--unsafe-no-fsync", "--log-level", "error", "--data-dir"])
            .arg(directory.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("n={peer_url}")])
            .spawn()
            .unwrap();
        // The first of them has no port that anybody listens at.
        let resolver = name_server("_etcd-server._tcp.example.org", peer, ["nobody.invalid.", "localhost."]).await;
        let asked = async {
            loop {
                match endpoints(&resolver, "example.org", None).await {
                    Ok(found) => break found,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(30), asked).await;
        let missing = endpoints(&resolver, "example.net", None).await;
        etcd.kill().unwrap();
        etcd.wait().unwrap();
        assert_eq!(found, Ok(vec![client]));
        assert!(missing.is_err());
    }
}
