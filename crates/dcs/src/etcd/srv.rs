//! Endpoints from DNS SRV records.

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};

/// The endpoints of a domain, asked of the resolvers of this machine.
pub(crate) async fn system_endpoints(domain: &str, suffix: Option<&str>) -> Result<Vec<String>, String> {
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    endpoints(&resolver.map_err(|error| format!("the resolver cannot be set up: {error}"))?, domain, suffix).await
}

/// The records that name clients' ports, TLS first, in the order of the reference. Those of peers' ports
/// (`_etcd-server`) are of no use to a client of version 3.
async fn endpoints(resolver: &TokioResolver, domain: &str, suffix: Option<&str>) -> Result<Vec<String>, String> {
    let suffix = suffix.map(|suffix| format!("-{suffix}")).unwrap_or_default();
    let mut problem = String::new();
    for service in ["-client-ssl", "-client", "-ssl", ""] {
        let scheme = if service.contains("-ssl") { "https" } else { "http" };
        let name = format!("_etcd{service}{suffix}._tcp.{}.", domain.trim_end_matches('.'));
        match resolver.lookup(name, RecordType::SRV).await {
            Ok(lookup) => {
                let found: Vec<String> =
                    lookup.answers().iter().filter_map(|record| endpoint(scheme, &record.data)).collect();
                if !found.is_empty() {
                    return Ok(found);
                }
            }
            Err(error) => problem = format!(": {error}"),
        }
    }
    Err(format!("Can not resolve SRV for {domain}{problem}"))
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
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server that knows one name.
    async fn name_server(known: &'static str) -> TokioResolver {
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
                    for host in ["one.example.", "two.example."] {
                        let data = RData::SRV(SRV::new(0, 0, 2379, Name::from_ascii(host).unwrap()));
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
        let resolver = name_server("_etcd-client._tcp.example.org").await;
        let found = endpoints(&resolver, "example.org", None).await;
        assert_eq!(found, Ok(vec!["http://one.example:2379".to_owned(), "http://two.example:2379".to_owned()]));
        let error = endpoints(&resolver, "example.net", None).await.unwrap_err();
        assert!(error.starts_with("Can not resolve SRV for example.net"), "{error}");
        let resolver = name_server("_etcd-client-ssl-blue._tcp.example.org").await;
        let found = endpoints(&resolver, "example.org.", Some("blue")).await;
        assert_eq!(found.map(|found| found[0].clone()), Ok("https://one.example:2379".to_owned()));
    }
}
