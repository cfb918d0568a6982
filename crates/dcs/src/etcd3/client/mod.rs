//! A client of etcd's gRPC API: one connection, and the few calls that a store takes.

mod error;
pub(super) mod messages;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Streaming};
use tonic_prost::ProstCodec;

pub(super) use self::error::Error;
use self::messages::{
    AuthenticateRequest, AuthenticateResponse, Changed, DeleteRangeRequest, LeaseGrantRequest, LeaseId, LeaseState,
    Member, MemberListRequest, MemberListResponse, PutRequest, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};

/// etcd answers more frequent pings with an error (its `--grpc-keepalive-min-time` is 5 s).
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A name and its password.
pub(super) type Credentials = (String, String);

/// A connection to one server of etcd. Clones share it, and the token with which it authenticates.
#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
    session: Option<Arc<Session>>,
}

/// Who we are for etcd, and the token that proves it: it expires, and is gone when etcd starts again.
struct Session {
    credentials: Credentials,
    token: Mutex<Option<AsciiMetadataValue>>,
}

impl Session {
    fn token(&self) -> Option<AsciiMetadataValue> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Client {
    /// Nothing is sent before the first request, unless there are credentials: then a token is asked for.
    pub(super) async fn connect(
        url: &str,
        tls: Option<ClientTlsConfig>,
        credentials: Option<Credentials>,
        patience: Duration,
    ) -> Result<Client, Error> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| Error::Address(e.to_string()))?;
        let endpoint = match tls {
            Some(tls) => endpoint.tls_config(tls).map_err(|e| Error::not_connected(&e))?,
            None => endpoint,
        };
        let channel = endpoint
            .connect_timeout(patience)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let session = credentials.map(|credentials| Arc::new(Session { credentials, token: Mutex::default() }));
        let client = Client { channel, session };
        if let Some(session) = &client.session {
            client.authenticate(session).await?;
        }
        Ok(client)
    }

    /// All keys that begin so.
    pub(super) async fn get_prefix(&self, prefix: &str) -> Result<RangeResponse, Error> {
        let range = RangeRequest { key: prefix.into(), range_end: end_of_prefix(prefix), keys_only: false };
        self.ask("/etcdserverpb.KV/Range", range).await
    }

    /// The revisions of a key, without its value.
    pub(super) async fn get_revisions(&self, key: &str) -> Result<RangeResponse, Error> {
        let range = RangeRequest { key: key.into(), range_end: Vec::new(), keys_only: true };
        self.ask("/etcdserverpb.KV/Range", range).await
    }

    /// Writes a key that lives as long as the lease.
    pub(super) async fn put(&self, key: &str, value: &str, lease: i64) -> Result<Changed, Error> {
        let put = PutRequest { key: key.into(), value: value.into(), lease };
        self.ask("/etcdserverpb.KV/Put", put).await
    }

    /// Removes all keys that begin so.
    pub(super) async fn delete_prefix(&self, prefix: &str) -> Result<Changed, Error> {
        let delete = DeleteRangeRequest { key: prefix.into(), range_end: end_of_prefix(prefix) };
        self.ask("/etcdserverpb.KV/DeleteRange", delete).await
    }

    pub(super) async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Error> {
        self.ask("/etcdserverpb.KV/Txn", txn).await
    }

    /// A new lease of this many seconds: its id.
    pub(super) async fn lease_grant(&self, seconds: i64) -> Result<i64, Error> {
        let granted: LeaseState =
            self.ask("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl: seconds }).await?;
        Ok(granted.id)
    }

    pub(super) async fn lease_revoke(&self, id: i64) -> Result<(), Error> {
        let Changed { .. } = self.ask("/etcdserverpb.Lease/LeaseRevoke", LeaseId { id }).await?;
        Ok(())
    }

    /// Prolongs a lease by its time.
    pub(super) async fn lease_keep_alive(&self, id: i64) -> Result<(), Error> {
        let mut answers: Streaming<LeaseState> =
            self.converse("/etcdserverpb.Lease/LeaseKeepAlive", LeaseId { id }).await?;
        match answers.message().await? {
            Some(state) if state.ttl > 0 => Ok(()),
            Some(_) => Err(Error::LeaseNotFound),
            None => Err(Error::NoAnswer),
        }
    }

    /// Follows the keys that begin so. The first answer says whether that was accepted.
    pub(super) async fn watch_prefix(&self, prefix: &str) -> Result<Streaming<WatchResponse>, Error> {
        let create = WatchCreateRequest { key: prefix.into(), range_end: end_of_prefix(prefix) };
        self.converse("/etcdserverpb.Watch/Watch", WatchRequest { create: Some(create) }).await
    }

    pub(super) async fn members(&self) -> Result<Vec<Member>, Error> {
        let list: MemberListResponse = self.ask("/etcdserverpb.Cluster/MemberList", MemberListRequest {}).await?;
        Ok(list.members)
    }

    async fn authenticate(&self, session: &Session) -> Result<(), Error> {
        let (name, password) = session.credentials.clone();
        let request = with_metadata(AuthenticateRequest { name, password }, None);
        let answer: AuthenticateResponse = self.unary("/etcdserverpb.Auth/Authenticate", request).await?;
        let token = answer.token.parse().map_err(|_| Error::Token)?;
        *session.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }

    /// One question, one answer.
    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.with_token(|token| self.unary(path, with_metadata(question.clone(), token))).await
    }

    /// One question that opens a stream of answers. Our side of it stays open: some in front of etcd end theirs when it is closed.
    async fn converse<Q, A>(&self, path: &'static str, question: Q) -> Result<Streaming<A>, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let open = |token| {
            let questions = stream::iter([question.clone()]).chain(stream::pending());
            self.streaming(path, with_metadata(questions, token))
        };
        self.with_token(open).await
    }

    /// Sends what needs a token, and once more with a new one if etcd does not know this one any more.
    async fn with_token<A, F>(&self, send: impl Fn(Option<AsciiMetadataValue>) -> F) -> Result<A, Error>
    where
        F: Future<Output = Result<A, Error>>,
    {
        let Some(session) = &self.session else { return send(None).await };
        let token = session.token();
        match send(token.clone()).await {
            Err(Error::Status(status)) if status.code() == Code::Unauthenticated => {}
            answer => return answer,
        }
        // Another request may have been faster.
        if session.token() == token {
            self.authenticate(session).await?;
        }
        send(session.token()).await
    }

    async fn unary<Q, A>(&self, path: &'static str, request: Request<Q>) -> Result<A, Error>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let answer = grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::default()).await?;
        Ok(answer.into_inner())
    }

    async fn streaming<Q, A>(
        &self,
        path: &'static str,
        request: Request<impl Stream<Item = Q> + Send + 'static>,
    ) -> Result<Streaming<A>, Error>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let answers = grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::default()).await?;
        Ok(answers.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Error> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|e| Error::not_connected(&e))?;
        Ok(grpc)
    }
}

/// With what etcd looks for in the metadata: a token, and that a server without a leader is to refuse rather than to keep us waiting.
fn with_metadata<T>(message: T, token: Option<AsciiMetadataValue>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}

/// The first key behind all that begin so: its last byte that can be is increased. A zero byte stands for "no end".
fn end_of_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(end_of_prefix("/service/a/"), b"/service/a0");
        assert_eq!(end_of_prefix(""), [0]);
    }
}
