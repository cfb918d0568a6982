//! A connection on which both sides have proved that they know the secret, and nothing but frames.
//!
//! Both send a random number. The side that connected proves first that it knows the secret, so whoever knows the address
//! alone hears a random number and nothing else. From the numbers and the secret come the keys that seal all frames that
//! follow: what is on the wire can be neither read, changed, repeated nor left out. With a secret on one side only there
//! is no connection. There is no forward secrecy without TLS.

use std::io;
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::transport::Stream;
use crate::raft::protocol::{OLDEST_VERSION, VERSION};

/// How long the proofs may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long it may take to send a frame that the other side does not read.
const SENDING: Duration = Duration::from_secs(20);

const MAGIC: &[u8; 8] = b"PTRNRAFT";
const GREETING: usize = 8 + 2 + 2 + 1 + 32;
const PROOF: usize = 32;

/// The largest frame before the other side has said who it is.
pub(crate) const SMALL_FRAME: usize = 4096;
/// The largest frame.
pub(crate) const LARGE_FRAME: usize = 64 * 1024 * 1024;

/// What all members and clients know, or that there is no such thing.
#[derive(Clone)]
pub(crate) struct Secret(Option<Vec<u8>>);

impl Secret {
    /// The configured password.
    pub(crate) fn new(password: Option<&str>) -> Self {
        Secret(password.map(|text| text.as_bytes().to_vec()))
    }
}

/// A connection.
pub(crate) struct Channel {
    stream: Box<dyn Stream>,
    keys: Option<Keys>,
}

struct Keys {
    send: Sealed,
    receive: Sealed,
}

struct Sealed {
    key: LessSafeKey,
    count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Connected,
    Accepted,
}

/// What both sides say first: versions, whether there is a secret, a random number.
struct Greeting([u8; GREETING]);

impl Greeting {
    fn new(secret: &Secret) -> io::Result<Self> {
        let mut bytes = [0; GREETING];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&OLDEST_VERSION.to_be_bytes());
        bytes[10..12].copy_from_slice(&VERSION.to_be_bytes());
        bytes[12] = u8::from(secret.0.is_some());
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes[13..])
            .map_err(|_| io::Error::other("there are no random numbers"))?;
        Ok(Greeting(bytes))
    }

    fn check(&self, secret: &Secret) -> io::Result<()> {
        let number = |at: usize| u16::from_be_bytes([self.0[at], self.0[at + 1]]);
        if self.0[..8] != *MAGIC {
            return refused("the other side does not speak the protocol of the embedded store");
        }
        let (oldest, newest) = (number(8), number(10));
        if newest < OLDEST_VERSION || oldest > VERSION {
            return refused(format!(
                "the other side speaks versions {oldest} to {newest} of the protocol, this one {OLDEST_VERSION} to {VERSION}: use closer versions of the program"
            ));
        }
        match (secret.0.is_some(), self.0[12] == 1) {
            (true, false) => refused("the other side has no raft.password"),
            (false, true) => refused("the other side has a raft.password, this one has none"),
            (true, true) | (false, false) => Ok(()),
        }
    }
}

fn refused<T>(text: impl Into<String>) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text.into()))
}

impl Channel {
    /// Goes through the proofs on a connection that this side opened.
    pub(crate) async fn connected(stream: Box<dyn Stream>, secret: &Secret) -> io::Result<Self> {
        Self::handshake(stream, secret, Side::Connected).await
    }

    /// Goes through the proofs on a connection that the other side opened.
    pub(crate) async fn accepted(stream: Box<dyn Stream>, secret: &Secret) -> io::Result<Self> {
        Self::handshake(stream, secret, Side::Accepted).await
    }

    async fn handshake(stream: Box<dyn Stream>, secret: &Secret, side: Side) -> io::Result<Self> {
        let work = Self::prove(stream, secret, side);
        timeout(HANDSHAKE, work)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer to the greeting"))?
    }

    async fn prove(mut stream: Box<dyn Stream>, secret: &Secret, side: Side) -> io::Result<Self> {
        let own = Greeting::new(secret)?;
        let mut other = Greeting([0; GREETING]);
        if side == Side::Connected {
            stream.write_all(&own.0).await?;
        }
        // Whatever else knocks is sent away after a few bytes.
        stream.read_exact(&mut other.0[..8]).await?;
        if other.0[..8] == *MAGIC {
            stream.read_exact(&mut other.0[8..]).await?;
        }
        if side == Side::Accepted && other.0[..8] == *MAGIC {
            stream.write_all(&own.0).await?;
        }
        other.check(secret)?;
        let Secret(Some(secret)) = secret else { return Ok(Channel { stream, keys: None }) };
        let (first, second) = if side == Side::Connected { (&own, &other) } else { (&other, &own) };
        let transcript = [first.0, second.0].concat();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let proof = |label: &[u8]| hmac::sign(&key, &[label, transcript.as_slice()].concat());
        let mut theirs = [0; PROOF];
        match side {
            Side::Connected => {
                stream.write_all(proof(b"connected").as_ref()).await?;
                stream.read_exact(&mut theirs).await.map_err(wrong_secret)?;
            }
            Side::Accepted => {
                stream.read_exact(&mut theirs).await?;
            }
        }
        let label: &[u8] = if side == Side::Connected { b"accepted" } else { b"connected" };
        // Takes the same time whatever is wrong.
        if hmac::verify(&key, &[label, transcript.as_slice()].concat(), &theirs).is_err() {
            return refused("the other side has another raft.password");
        }
        if side == Side::Accepted {
            stream.write_all(proof(b"accepted").as_ref()).await?;
        }
        let keys = Keys::new(secret, &transcript, side)?;
        Ok(Channel { stream, keys: Some(keys) })
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, payload: Vec<u8>) -> io::Result<()> {
        let sealed = match &mut self.keys {
            Some(keys) => keys.send.seal(payload)?,
            None => payload,
        };
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(4 + sealed.len());
        frame.extend(length.to_be_bytes());
        frame.extend(sealed);
        let sending = async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await
        };
        timeout(SENDING, sending).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it does not read"))?
    }

    /// Receives a frame of at most so many bytes.
    pub(crate) async fn receive(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let length = self.stream.read_u32().await? as usize;
        if length > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
        }
        // Memory is taken as bytes come, not as they are announced.
        let mut bytes = Vec::with_capacity(length.min(SMALL_FRAME));
        let got = (&mut self.stream).take(length as u64).read_to_end(&mut bytes).await?;
        if got < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &mut self.keys {
            Some(keys) => keys.receive.open(bytes),
            None => Ok(bytes),
        }
    }
}

/// A connection that ends instead of the other proof means that ours was wrong.
fn wrong_secret(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the other side closed the connection when it saw our proof: raft.password differs",
        ),
        _ => error,
    }
}

impl Keys {
    fn new(secret: &[u8], transcript: &[u8], side: Side) -> io::Result<Self> {
        let source = hkdf::Salt::new(hkdf::HKDF_SHA256, transcript).extract(secret);
        let sealed = |label: &[u8]| {
            let key = source.expand(&[label], &CHACHA20_POLY1305).map(UnboundKey::from);
            let key = key.map_err(|_| io::Error::other("no key can be made"))?;
            Ok::<_, io::Error>(Sealed { key: LessSafeKey::new(key), count: 0 })
        };
        let (there, back) = (sealed(b"patroni-rs raft 1 there")?, sealed(b"patroni-rs raft 1 back")?);
        Ok(match side {
            Side::Connected => Keys { send: there, receive: back },
            Side::Accepted => Keys { send: back, receive: there },
        })
    }
}

impl Sealed {
    /// Each frame of one direction has its own number.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.count.to_be_bytes());
        self.count += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, mut payload: Vec<u8>) -> io::Result<Vec<u8>> {
        let nonce = self.nonce();
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut payload);
        sealed.map_err(|_| io::Error::other("a frame cannot be sealed"))?;
        Ok(payload)
    }

    fn open(&mut self, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let nonce = self.nonce();
        let length = match self.key.open_in_place(nonce, Aad::empty(), &mut bytes) {
            Ok(payload) => payload.len(),
            Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame was changed on its way")),
        };
        bytes.truncate(length);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    async fn both(connected: Option<&str>, accepted: Option<&str>) -> (io::Result<Channel>, io::Result<Channel>) {
        let (left, right) = duplex(1024);
        let (left_secret, right_secret) = (Secret::new(connected), Secret::new(accepted));
        tokio::join!(
            Channel::connected(Box::new(left), &left_secret),
            Channel::accepted(Box::new(right), &right_secret)
        )
    }

    #[tokio::test]
    async fn frames_arrive_in_both_directions() {
        for secret in [None, Some("secret")] {
            let (left, right) = both(secret, secret).await;
            let (mut left, mut right) = (left.expect("connected"), right.expect("accepted"));
            for text in ["", "a", "a longer text"] {
                left.send(text.into()).await.expect("sent");
                assert_eq!(right.receive(SMALL_FRAME).await.expect("received"), text.as_bytes());
                right.send(text.into()).await.expect("sent");
                assert_eq!(left.receive(SMALL_FRAME).await.expect("received"), text.as_bytes());
            }
            left.send(vec![0; 100]).await.expect("sent");
            assert_eq!(right.receive(99).await.map_err(|e| e.kind()), Err(io::ErrorKind::InvalidData));
        }
    }

    #[tokio::test]
    async fn a_wrong_secret_is_told_and_nothing_else() {
        for (connected, accepted, left_text, right_text) in [
            (Some("a"), Some("b"), "raft.password differs", "another raft.password"),
            (Some("a"), None, "has no raft.password", "this one has none"),
            (None, Some("b"), "this one has none", "has no raft.password"),
        ] {
            let (left, right) = both(connected, accepted).await;
            let text = |result: io::Result<Channel>| result.err().map(|error| error.to_string()).unwrap_or_default();
            let (left, right) = (text(left), text(right));
            assert!(left.contains(left_text) && right.contains(right_text), "{left} / {right}");
        }
    }

    /// What somebody without the secret hears: a greeting, and the end.
    #[tokio::test]
    async fn who_cannot_prove_anything_hears_a_random_number() {
        let (mut outside, inside) = duplex(1024);
        let secret = Secret::new(Some("secret"));
        let accepting = tokio::spawn(async move { Channel::accepted(Box::new(inside), &secret).await.map(drop) });
        let greeting = Greeting::new(&Secret::new(Some("guess"))).expect("a greeting");
        outside.write_all(&greeting.0).await.expect("written");
        outside.write_all(&[7; PROOF]).await.expect("written");
        let mut heard = Vec::new();
        outside.read_to_end(&mut heard).await.expect("the end");
        assert_eq!(heard.len(), GREETING);
        assert!(accepting.await.expect("no panic").is_err());
    }

    #[tokio::test]
    async fn garbage_and_silence_are_sent_away() {
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], b"PTRNRAFT\xff\xff"] {
            let (mut outside, inside) = duplex(64);
            let accepting = tokio::spawn(async move {
                Channel::accepted(Box::new(inside), &Secret::new(Some("secret"))).await.map(drop)
            });
            // It may be sent away before all is written.
            let _ = outside.write_all(garbage).await;
            drop(outside);
            assert!(accepting.await.expect("no panic").is_err());
        }
        tokio::time::pause();
        let (_outside, inside) = duplex(64);
        let error = Channel::accepted(Box::new(inside), &Secret::new(None)).await.map(drop).map_err(|e| e.kind());
        assert_eq!(error, Err(io::ErrorKind::TimedOut));
    }

    /// Frames cannot be changed, repeated, or left out.
    #[tokio::test]
    async fn frames_cannot_be_tampered_with() {
        type Tamper = fn(&mut Vec<Vec<u8>>);
        let tampers: [(&str, Tamper); 3] = [
            ("changed", |frames| frames[0][0] ^= 1),
            ("repeated", |frames| frames[1] = frames[0].clone()),
            ("left out", |frames| drop(frames.remove(0))),
        ];
        for (what, tamper) in tampers {
            let transcript = [1; 90];
            let mut sender = Keys::new(b"secret", &transcript, Side::Connected).expect("keys");
            let mut receiver = Keys::new(b"secret", &transcript, Side::Accepted).expect("keys");
            let mut frames: Vec<Vec<u8>> = (0..3_u8).map(|i| sender.send.seal(vec![i; 9]).expect("sealed")).collect();
            tamper(&mut frames);
            let opened: Vec<_> = frames.into_iter().map(|frame| receiver.receive.open(frame)).collect();
            assert!(opened.iter().any(Result::is_err), "a frame was {what} unnoticed");
        }
    }
}
