//! The messages of etcd's gRPC API that we send and read, with the numbers of their fields: from `rpc.proto` and `kv.proto` of etcd 3, which
//! promises not to change them. Fields that we do not use are left out; whoever reads a message skips what it does not know. Writing these
//! few by hand means that nobody needs a compiler of protocols to build this.

use prost::{Message, Oneof};

/// With every answer: the revision of the store that it is from.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Header {
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
}

/// A key; without a lease, that is 0.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(int64, tag = "2")]
    pub(crate) create_revision: i64,
    #[prost(int64, tag = "3")]
    pub(crate) mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) value: Vec<u8>,
    #[prost(int64, tag = "6")]
    pub(crate) lease: i64,
}

/// Reads a key, or all up to `range_end`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
    #[prost(bool, tag = "8")]
    pub(crate) keys_only: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) lease: i64,
}

/// The answer to what changes something: nothing but the revision.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Changed {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
}

/// What a transaction does to a key.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RequestOp {
    #[prost(oneof = "Request", tags = "1, 2, 3")]
    pub(crate) request: Option<Request>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Request {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
}

impl RequestOp {
    pub(crate) fn get(key: &str) -> RequestOp {
        RequestOp::range(key, false)
    }

    /// Reads the revisions and not the value.
    pub(crate) fn get_revisions(key: &str) -> RequestOp {
        RequestOp::range(key, true)
    }

    fn range(key: &str, keys_only: bool) -> RequestOp {
        let range = RangeRequest { key: key.into(), range_end: Vec::new(), keys_only };
        RequestOp { request: Some(Request::Range(range)) }
    }

    /// `lease`: 0 for none.
    pub(crate) fn put(key: &str, value: &str, lease: i64) -> RequestOp {
        RequestOp { request: Some(Request::Put(PutRequest { key: key.into(), value: value.into(), lease })) }
    }

    pub(crate) fn delete(key: &str) -> RequestOp {
        let delete = DeleteRangeRequest { key: key.into(), range_end: Vec::new() };
        RequestOp { request: Some(Request::Delete(delete)) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResponseOp {
    #[prost(oneof = "Response", tags = "1, 2, 3")]
    pub(crate) response: Option<Response>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Response {
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    #[prost(message, tag = "2")]
    Put(Changed),
    #[prost(message, tag = "3")]
    Delete(Changed),
}

/// A condition of a transaction. `result` is always 0, which is "equal".
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Compare {
    #[prost(int32, tag = "1")]
    result: i32,
    #[prost(enumeration = "Target", tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(oneof = "Operand", tags = "5, 6, 7, 8")]
    operand: Option<Operand>,
}

/// What of the key is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Target {
    Version = 0,
    Create = 1,
    Mod = 2,
    Value = 3,
    Lease = 4,
}

#[derive(Clone, PartialEq, Oneof)]
enum Operand {
    #[prost(int64, tag = "5")]
    CreateRevision(i64),
    #[prost(int64, tag = "6")]
    ModRevision(i64),
    #[prost(bytes, tag = "7")]
    Value(Vec<u8>),
    #[prost(int64, tag = "8")]
    Lease(i64),
}

/// All hold if the key has exactly this; a key that is absent has revisions 0.
impl Compare {
    fn equal(key: &str, target: Target, operand: Operand) -> Compare {
        Compare { result: 0, target: target.into(), key: key.into(), operand: Some(operand) }
    }

    pub(crate) fn create_revision(key: &str, revision: i64) -> Compare {
        Compare::equal(key, Target::Create, Operand::CreateRevision(revision))
    }

    pub(crate) fn mod_revision(key: &str, revision: i64) -> Compare {
        Compare::equal(key, Target::Mod, Operand::ModRevision(revision))
    }

    pub(crate) fn value(key: &str, value: &str) -> Compare {
        Compare::equal(key, Target::Value, Operand::Value(value.into()))
    }

    pub(crate) fn lease(key: &str, lease: i64) -> Compare {
        Compare::equal(key, Target::Lease, Operand::Lease(lease))
    }
}

/// `success` is carried out if all of `compare` hold, `failure` otherwise.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) success: Vec<RequestOp>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) failure: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(bool, tag = "2")]
    pub(crate) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub(crate) responses: Vec<ResponseOp>,
}

/// Asks for a lease of `ttl` seconds; etcd chooses the id.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseGrantRequest {
    #[prost(int64, tag = "1")]
    pub(crate) ttl: i64,
}

/// Revokes a lease, or keeps it alive.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseId {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

/// A lease that was granted, or is alive for `ttl` seconds; 0: it has ended.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseState {
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
    #[prost(int64, tag = "3")]
    pub(crate) ttl: i64,
}

/// Begins a watch, the only kind of request that we send.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) create: Option<WatchCreateRequest>,
}

/// All keys from `key` up to `range_end`, from now on.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchResponse {
    #[prost(bool, tag = "4")]
    pub(crate) canceled: bool,
    #[prost(string, tag = "6")]
    pub(crate) cancel_reason: String,
    #[prost(message, repeated, tag = "11")]
    pub(crate) events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Event {
    /// 0: the key was written, 1: it was deleted.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) kv: Option<KeyValue>,
}

impl Event {
    pub(crate) fn is_deletion(&self) -> bool {
        self.kind == 1
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemberListRequest {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemberListResponse {
    #[prost(message, repeated, tag = "2")]
    pub(crate) members: Vec<Member>,
}

/// A member of etcd. A learner answers no requests of clients.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Member {
    #[prost(string, repeated, tag = "4")]
    pub(crate) client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    pub(crate) is_learner: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) password: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub(crate) token: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes by protobuf's rules, worked out by hand from the numbers in etcd's `rpc.proto`: a number of a field and its kind, then the value.
    #[test]
    fn what_is_sent_is_what_etcd_reads() {
        let txn = TxnRequest {
            compare: vec![
                Compare::create_revision("k", 0),
                Compare::mod_revision("k", 5),
                Compare::value("k", "v"),
                Compare::lease("k", 7),
            ],
            success: vec![RequestOp::put("k", "v", 7), RequestOp::delete("k")],
            failure: vec![RequestOp::get("k"), RequestOp::get_revisions("k")],
        };
        let expected: &[u8] = &[
            0x0a, 7, 0x10, 1, 0x1a, 1, b'k', 0x28, 0, // compare: CREATE, key, create_revision 0
            0x0a, 7, 0x10, 2, 0x1a, 1, b'k', 0x30, 5, // MOD, mod_revision 5
            0x0a, 8, 0x10, 3, 0x1a, 1, b'k', 0x3a, 1, b'v', // VALUE
            0x0a, 7, 0x10, 4, 0x1a, 1, b'k', 0x40, 7, // LEASE
            0x12, 10, 0x12, 8, 0x0a, 1, b'k', 0x12, 1, b'v', 0x18, 7, // success: put with a lease
            0x12, 5, 0x1a, 3, 0x0a, 1, b'k', // delete
            0x1a, 5, 0x0a, 3, 0x0a, 1, b'k', // failure: range
            0x1a, 7, 0x0a, 5, 0x0a, 1, b'k', 0x40, 1, // keys_only
        ];
        assert_eq!(txn.encode_to_vec(), expected);
        let create = WatchCreateRequest { key: b"k".to_vec(), range_end: b"l".to_vec() };
        let watch = WatchRequest { create: Some(create) };
        assert_eq!(watch.encode_to_vec(), [0x0a, 6, 0x0a, 1, b'k', 0x12, 1, b'l']);
    }

    #[test]
    fn what_we_do_not_use_is_skipped() {
        // header with all its fields, more (3), and a key with its version (4).
        let bytes = [
            0x0a, 8, 0x08, 1, 0x10, 2, 0x18, 9, 0x20, 4, 0x12, 16, 0x0a, 1, b'k', 0x10, 2, 0x18, 3, 0x20, 4, 0x2a, 1,
            b'v', 0x30, 7, 0x3a, 0, 0x18, 1, 0x20, 1,
        ];
        let answer = RangeResponse::decode(&bytes[..]).unwrap();
        let key = KeyValue { key: b"k".to_vec(), create_revision: 2, mod_revision: 3, value: b"v".to_vec(), lease: 7 };
        assert_eq!(answer, RangeResponse { header: Some(Header { revision: 9 }), kvs: vec![key] });
    }
}
