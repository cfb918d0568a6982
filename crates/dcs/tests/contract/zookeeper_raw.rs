//! As much of ZooKeeper's protocol as tests need to look at nodes from outside, written down independently of the client under test.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A session of its own, which ends with the connection closed in good order, or soon after.
pub(crate) struct Raw {
    stream: TcpStream,
}

const NO_NODE: i32 = -101;
const EXISTS: i32 = -110;
/// Everybody may do everything.
const OPEN: &[(i32, &str, &str)] = &[(31, "world", "anyone")];

fn text(bytes: &[u8]) -> Vec<u8> {
    [&i32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn int(number: i32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

impl Raw {
    pub(crate) async fn connect(port: u16) -> io::Result<Self> {
        Self::resume(port, 0).await
    }

    /// Goes on with somebody's session (0: a new one), as only one can who knows how servers make passwords.
    pub(crate) async fn resume(port: u16, session: i64) -> io::Result<Self> {
        let limit = Duration::from_secs(5);
        tokio::time::timeout(limit, Self::greet(port, session)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    async fn greet(port: u16, session: i64) -> io::Result<Self> {
        let mut raw = Raw { stream: TcpStream::connect(("127.0.0.1", port)).await? };
        let password = if session == 0 { [0; 16] } else { password(session) };
        let hello = [&int(0)[..], &[0; 8], &int(4000), &session.to_be_bytes(), &text(&password), &[0]].concat();
        raw.stream.write_all(&text(&hello)).await?;
        let answer = raw.frame().await?;
        let id = i64::from_be_bytes(answer[8..16].try_into().unwrap());
        if id == 0 { Err(io::Error::other("no session")) } else { Ok(raw) }
    }

    async fn frame(&mut self) -> io::Result<Vec<u8>> {
        let length = self.stream.read_u32().await?;
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut frame).await?;
        Ok(frame)
    }

    /// The error and the content of the answer.
    async fn ask(&mut self, op: i32, content: &[u8]) -> (i32, Vec<u8>) {
        let xid = if op == 100 { -4 } else { 1 };
        self.stream.write_all(&text(&[&int(xid)[..], &int(op), content].concat())).await.expect("the server is gone");
        let answer = tokio::time::timeout(Duration::from_secs(10), self.frame()).await.expect("no answer");
        let answer = answer.expect("the server is gone");
        (i32::from_be_bytes(answer[12..16].try_into().unwrap()), answer[16..].to_vec())
    }

    /// Ends the session.
    pub(crate) async fn close(mut self) {
        self.ask(-11, &[]).await;
    }

    pub(crate) async fn authenticate(&mut self, scheme: &str, credential: &str) {
        let content = [int(0), text(scheme.as_bytes()), text(credential.as_bytes())].concat();
        assert_eq!(self.ask(100, &content).await.0, 0, "not authenticated");
    }

    /// Creates the node and what is above it, or changes it.
    pub(crate) async fn set(&mut self, path: &str, value: &[u8]) {
        for (at, _) in path.match_indices('/').skip(1) {
            self.create(&path[..at], b"", OPEN).await;
        }
        if !self.create(path, value, OPEN).await {
            let (error, _) = self.ask(5, &[text(path.as_bytes()), text(value), int(-1)].concat()).await;
            assert_eq!(error, 0, "{path} cannot be written");
        }
    }

    /// False: it exists.
    pub(crate) async fn create(&mut self, path: &str, value: &[u8], acl: &[(i32, &str, &str)]) -> bool {
        let entries = acl.iter().map(|(bits, scheme, id)| [int(*bits), text(scheme.as_bytes()), text(id.as_bytes())]);
        let acl = [int(i32::try_from(acl.len()).unwrap()), entries.flatten().flatten().collect()].concat();
        let (error, _) = self.ask(1, &[text(path.as_bytes()), text(value), acl, int(0)].concat()).await;
        assert!(error == 0 || error == EXISTS, "{path}: {error}");
        error == 0
    }

    pub(crate) async fn delete(&mut self, path: &str) {
        let (error, _) = self.ask(2, &[text(path.as_bytes()), int(-1)].concat()).await;
        assert!(error == 0 || error == NO_NODE, "{path}: {error}");
    }

    /// The value, and with [`Raw::owner`] the session.
    pub(crate) async fn get(&mut self, path: &str) -> Option<Vec<u8>> {
        self.node(path).await.map(|(value, _)| value)
    }

    /// The session that a node belongs to; 0: none.
    pub(crate) async fn owner(&mut self, path: &str) -> Option<i64> {
        self.node(path).await.map(|(_, owner)| owner)
    }

    async fn node(&mut self, path: &str) -> Option<(Vec<u8>, i64)> {
        let (error, answer) = self.ask(4, &[text(path.as_bytes()), vec![0]].concat()).await;
        if error == NO_NODE {
            return None;
        }
        assert_eq!(error, 0, "{path} cannot be read");
        let length = usize::try_from(i32::from_be_bytes(answer[..4].try_into().unwrap()).max(0)).unwrap();
        let (value, stat) = answer[4..].split_at(length);
        Some((value.to_vec(), i64::from_be_bytes(stat[44..52].try_into().unwrap())))
    }
}

/// What `java.util.Random` gives for it.
fn password(session: i64) -> [u8; 16] {
    const SECRET: i64 = 0xB341_5C00;
    const MASK: i64 = (1 << 48) - 1;
    let mut seed = (session ^ SECRET ^ 0x5_DEEC_E66D) & MASK;
    let mut password = [0; 16];
    for four in password.chunks_mut(4) {
        seed = (seed.wrapping_mul(0x5_DEEC_E66D) + 0xB) & MASK;
        let number = seed >> 16;
        four.copy_from_slice(&number.to_le_bytes()[..4]);
    }
    password
}
