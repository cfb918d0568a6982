//! ZooKeeper's protocol: what goes over the connection, byte for byte.

/// Numbers of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Create = 1,
    Delete = 2,
    GetData = 4,
    SetData = 5,
    Ping = 11,
    GetChildren2 = 12,
    Check = 13,
    Multi = 14,
    Auth = 100,
}

/// Errors that mean something here; the numbers are those of ZooKeeper's `KeeperException`.
pub(super) const NO_NODE: i32 = -101;
pub(super) const BAD_VERSION: i32 = -103;
pub(super) const NODE_EXISTS: i32 = -110;
pub(super) const NOT_EMPTY: i32 = -111;
pub(super) const SESSION_EXPIRED: i32 = -112;
pub(super) const SESSION_MOVED: i32 = -118;
pub(super) const THROTTLED: i32 = -127;
/// What the other operations of a transaction say when one was refused.
const ROLLED_BACK: [i32; 2] = [0, -2];

/// An error as ZooKeeper calls it, and its number.
pub(super) fn error_text(code: i32) -> String {
    let name = match code {
        -1 => "system error",
        -2 => "runtime inconsistency",
        -4 => "connection loss",
        -5 => "the request cannot be read",
        -6 => "the request is not known",
        -7 => "the operation took too long",
        -8 => "bad arguments",
        NO_NODE => "no node",
        -102 => "no permission (ACL)",
        BAD_VERSION => "bad version",
        -108 => "there can be nothing below an ephemeral node",
        NODE_EXISTS => "the node exists",
        NOT_EMPTY => "there are nodes below it",
        SESSION_EXPIRED => "the session has expired",
        -114 => "invalid ACL",
        -115 => "authentication failed",
        SESSION_MOVED => "the session has moved to another server",
        -119 => "the server only reads",
        -122 => "the request took too long",
        -125 => "the quota is exceeded",
        THROTTLED => "there are too many requests",
        _ => "error",
    };
    format!("{name} ({code})")
}

/// The number of an answer that is none: a watch, a ping, an authentication.
pub(super) const WATCH_XID: i32 = -1;
pub(super) const PING_XID: i32 = -2;
pub(super) const AUTH_XID: i32 = -4;

/// Bytes to send.
#[derive(Clone, Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn long(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn flag(mut self, value: bool) -> Self {
        self.0.push(u8::from(value));
        self
    }

    pub(super) fn bytes(self, value: &[u8]) -> Self {
        self.int(i32::try_from(value.len()).unwrap_or(i32::MAX)).raw(value)
    }

    pub(super) fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    /// Bytes without their length.
    pub(super) fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }
}

/// Bytes that came. Reading beyond their end gives `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn int(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        self.take::<1>().map(|[byte]| byte != 0)
    }

    /// A length of -1 is no bytes.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = match self.int()? {
            -1 => 0,
            length => usize::try_from(length).ok()?,
        };
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(first)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes()?).into_owned())
    }
}

/// What ZooKeeper keeps of a node beside its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    /// The transaction that created it.
    pub(super) created: i64,
    /// The transaction that changed it last.
    pub(super) modified: i64,
    /// How often it was changed since it was created.
    pub(super) version: i32,
    /// The session that it belongs to; 0: none.
    pub(super) owner: i64,
}

impl Stat {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Stat> {
        let (created, modified) = (reader.long()?, reader.long()?);
        let (_ctime, _mtime) = (reader.long()?, reader.long()?);
        let (version, _cversion, _aversion) = (reader.int()?, reader.int()?, reader.int()?);
        let owner = reader.long()?;
        let (_length, _children, _pzxid) = (reader.int()?, reader.int()?, reader.long()?);
        Some(Stat { created, modified, version, owner })
    }
}

/// Who may do what with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    pub(super) permissions: i32,
    pub(super) scheme: String,
    pub(super) id: String,
}

/// Everybody may do everything: what ZooKeeper's clients usually ask for.
pub(super) fn open_acl() -> Vec<Acl> {
    vec![Acl { permissions: 31, scheme: "world".to_owned(), id: "anyone".to_owned() }]
}

/// The content of a request to create a node.
pub(super) fn create(path: &str, value: &[u8], acl: &[Acl], ephemeral: bool) -> Vec<u8> {
    let mut writer = Writer::default().text(path).bytes(value).int(i32::try_from(acl.len()).unwrap_or(0));
    for entry in acl {
        writer = writer.int(entry.permissions).text(&entry.scheme).text(&entry.id);
    }
    writer.int(i32::from(ephemeral)).0
}

/// The content of a request to change a node of this version.
pub(super) fn set(path: &str, value: &[u8], version: i32) -> Vec<u8> {
    Writer::default().text(path).bytes(value).int(version).0
}

/// The content of a request to delete a node of this version, or to check that it has it; -1: any.
pub(super) fn versioned(path: &str, version: i32) -> Vec<u8> {
    Writer::default().text(path).int(version).0
}

/// The content of a request to read a node, or the names of its children.
pub(super) fn read(path: &str, watch: bool) -> Vec<u8> {
    Writer::default().text(path).flag(watch).0
}

/// The content of a request that carries out all of these or none.
pub(super) fn multi(operations: &[(Op, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::default();
    for (op, content) in operations {
        writer = writer.int(*op as i32).flag(false).int(-1).raw(content);
    }
    writer.int(-1).flag(true).int(-1).0
}

/// What became of a [`multi`]: 0 if all of it was carried out, or the first error. `None`: the answer makes no sense.
pub(super) fn multi_error(answer: &[u8]) -> Option<i32> {
    let mut reader = Reader(answer);
    let mut refused = None;
    loop {
        let (op, done, _) = (reader.int()?, reader.flag()?, reader.int()?);
        match op {
            _ if done => return Some(refused.unwrap_or(0)),
            -1 => {
                let code = reader.int()?;
                if refused.is_none_or(|known| ROLLED_BACK.contains(&known)) {
                    refused = Some(code);
                }
            }
            _ if op == Op::Create as i32 => drop(reader.bytes()?),
            _ if op == Op::SetData as i32 => drop(Stat::read(&mut reader)?),
            _ if op == Op::Delete as i32 || op == Op::Check as i32 => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_byte_for_byte() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&read("/a", true)), "000000022f6101");
        assert_eq!(hex(&versioned("/a", -1)), "000000022f61ffffffff");
        assert_eq!(hex(&set("/a", b"x", 3)), "000000022f61000000017800000003");
        let acl = "00000001".to_owned() + "0000001f" + "00000005776f726c64" + "00000006616e796f6e65";
        assert_eq!(hex(&create("/a", b"x", &open_acl(), true)), format!("000000022f610000000178{acl}00000001"));
        let check = multi(&[(Op::Check, versioned("/a", -1))]);
        assert_eq!(hex(&check), "0000000d00ffffffff000000022f61ffffffffffffffff01ffffffff");
    }

    #[test]
    fn what_became_of_a_transaction() {
        let header = |op: i32, done: bool| Writer::default().int(op).flag(done).int(-1).0;
        let refused = |code: i32| [header(-1, false), Writer::default().int(code).0].concat();
        let end = header(-1, true);
        let created = [header(Op::Create as i32, false), Writer::default().text("/a").0].concat();
        let rows: [(Vec<Vec<u8>>, Option<i32>); 8] = [
            (vec![header(Op::Delete as i32, false), created, end.clone()], Some(0)),
            (vec![header(Op::Check as i32, false), end.clone()], Some(0)),
            (vec![refused(BAD_VERSION), refused(-2), end.clone()], Some(BAD_VERSION)),
            (vec![refused(0), refused(NODE_EXISTS), end.clone()], Some(NODE_EXISTS)),
            // Never: but nothing was carried out.
            (vec![refused(-2), refused(-2), end.clone()], Some(-2)),
            (vec![refused(BAD_VERSION)], None),
            (vec![header(77, false), end], None),
            (Vec::new(), None),
        ];
        for (parts, expected) in rows {
            assert_eq!(multi_error(&parts.concat()), expected, "{parts:?}");
        }
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        assert_eq!(Reader(&[0, 0, 0, 5, 1]).bytes(), None);
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff]).bytes(), Some(&[][..]), "no bytes");
        assert_eq!(Reader(&[0x80, 0, 0, 0]).bytes(), None, "no length");
        assert_eq!(Reader(&[0; 67]).long().and(Stat::read(&mut Reader(&[0; 67]))), None);
        assert_eq!(Stat::read(&mut Reader(&[0; 68])), Some(Stat::default()));
    }
}
