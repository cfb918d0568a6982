//! A connection on which both sides have proved that they know the secret, and nothing but frames.
//!
//! Both say first which versions of the protocol they speak; the newest that both know counts. The side that connected proves
//! first that it knows the secret, so whoever knows the address alone hears a greeting and nothing else. Then all frames are
//! sealed ([`Sealing`]). With a secret on one side only there is no connection.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::sealing::{Key, Sealing};
use super::transport::Stream;
use super::version_1;
use crate::raft::protocol::{OLDEST_VERSION, VERSION};

/// How long the proofs may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long it may take to send a frame that the other side does not read.
const SENDING: Duration = Duration::from_secs(20);

const MAGIC: &[u8; 8] = b"PTRNRAFT";
const GREETING: usize = 8 + 2 + 2 + 1 + 32;

/// The largest frame before the other side has said who it is.
pub(crate) const SMALL_FRAME: usize = 4096;
/// The largest frame.
pub(crate) const LARGE_FRAME: usize = 64 * 1024 * 1024;

/// What all members and clients know, or that there is no such thing.
#[derive(Clone)]
pub(crate) struct Secret(Option<Key>);

impl Secret {
    /// The configured password.
    pub(crate) fn new(password: Option<&str>) -> Self {
        Secret(password.map(Key::new))
    }
}

/// A connection.
pub(crate) struct Channel {
    stream: Box<dyn Stream>,
    sealing: Sealing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Connected,
    Accepted,
}

/// What both sides say first: versions, whether there is a secret, a random number.
struct Greeting([u8; GREETING]);

impl Greeting {
    fn new(secret: &Secret, newest: u16) -> io::Result<Self> {
        let mut bytes = [0; GREETING];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&OLDEST_VERSION.to_be_bytes());
        bytes[10..12].copy_from_slice(&newest.to_be_bytes());
        bytes[12] = u8::from(secret.0.is_some());
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes[13..])
            .map_err(|_| io::Error::other("there are no random numbers"))?;
        Ok(Greeting(bytes))
    }

    /// The newest version that both sides speak, the newest that this one speaks being `newest`.
    fn agree(&self, secret: &Secret, newest: u16) -> io::Result<u16> {
        let number = |at: usize| u16::from_be_bytes([self.0[at], self.0[at + 1]]);
        if self.0[..8] != *MAGIC {
            return refused("the other side does not speak the protocol of the embedded store");
        }
        let (oldest, latest) = (number(8), number(10));
        if latest < OLDEST_VERSION || oldest > newest {
            return refused(format!(
                "the other side speaks versions {oldest} to {latest} of the protocol, this one {OLDEST_VERSION} to {newest}: use closer versions of the program"
            ));
        }
        match (secret.0.is_some(), self.0[12] == 1) {
            (true, false) => refused("the other side has no raft.password"),
            (false, true) => refused("the other side has a raft.password, this one has none"),
            (true, true) | (false, false) => Ok(newest.min(latest)),
        }
    }
}

pub(super) fn refused<T>(text: impl Into<String>) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text.into()))
}

impl Channel {
    /// Goes through the proofs on a connection that this side opened.
    pub(crate) async fn connected(stream: Box<dyn Stream>, secret: &Secret) -> io::Result<Self> {
        Self::handshake(stream, secret, Side::Connected, VERSION).await
    }

    /// Goes through the proofs on a connection that the other side opened.
    pub(crate) async fn accepted(stream: Box<dyn Stream>, secret: &Secret) -> io::Result<Self> {
        Self::handshake(stream, secret, Side::Accepted, VERSION).await
    }

    async fn handshake(stream: Box<dyn Stream>, secret: &Secret, side: Side, newest: u16) -> io::Result<Self> {
        let work = Self::prove(stream, secret, side, newest);
        timeout(HANDSHAKE, work)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer to the greeting"))?
    }

    async fn prove(mut stream: Box<dyn Stream>, secret: &Secret, side: Side, newest: u16) -> io::Result<Self> {
        let own = Greeting::new(secret, newest)?;
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
        let version = other.agree(secret, newest)?;
        let (first, second) = if side == Side::Connected { (&own, &other) } else { (&other, &own) };
        let greetings = [first.0, second.0].concat();
        let sealing = match &secret.0 {
            None => Sealing::Open,
            Some(key) if version == 1 => {
                let keys = version_1::Keys::agree(&mut *stream, &key.password, &greetings, side).await?;
                Sealing::First(Box::new(keys))
            }
            Some(key) => Sealing::noise(&mut *stream, key, &greetings, side).await?,
        };
        Ok(Channel { stream, sealing })
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, payload: Vec<u8>) -> io::Result<()> {
        let sealed = self.sealing.seal(payload)?;
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
        self.sealing.open(bytes)
    }
}

/// A connection that ends instead of the other proof means that ours was wrong.
pub(super) fn wrong_secret(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the other side closed the connection when it saw our proof: raft.password differs",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    type Both = (io::Result<Channel>, io::Result<Channel>);

    /// Secrets, and the newest versions that are spoken.
    async fn of_versions(connected: (Option<&str>, u16), accepted: (Option<&str>, u16)) -> Both {
        let (left, right) = duplex(1024);
        let (left_secret, right_secret) = (Secret::new(connected.0), Secret::new(accepted.0));
        tokio::join!(
            Channel::handshake(Box::new(left), &left_secret, Side::Connected, connected.1),
            Channel::handshake(Box::new(right), &right_secret, Side::Accepted, accepted.1)
        )
    }

    #[tokio::test]
    async fn frames_arrive_in_both_directions() {
        let long = "x".repeat(200_000);
        for (secret, left, right) in [
            (None, VERSION, VERSION),
            (Some("secret"), VERSION, VERSION),
            (Some("secret"), 1, VERSION),
            (Some("secret"), VERSION, 1),
            (Some("secret"), 1, 1),
        ] {
            let (left, right) = of_versions((secret, left), (secret, right)).await;
            let (mut left, mut right) = (left.expect("connected"), right.expect("accepted"));
            for text in ["", "a", "a longer text", &long] {
                let (sent, received) = tokio::join!(left.send(text.into()), right.receive(LARGE_FRAME));
                sent.expect("sent");
                assert_eq!(received.expect("received"), text.as_bytes());
                let (sent, received) = tokio::join!(right.send(text.into()), left.receive(LARGE_FRAME));
                sent.expect("sent");
                assert_eq!(received.expect("received"), text.as_bytes());
            }
            left.send(vec![0; 100]).await.expect("sent");
            assert_eq!(right.receive(99).await.map_err(|e| e.kind()), Err(io::ErrorKind::InvalidData));
        }
    }

    #[tokio::test]
    async fn a_wrong_secret_is_told_and_nothing_else() {
        for (connected, accepted, version, left_text, right_text) in [
            (Some("a"), Some("b"), VERSION, "raft.password differs", "another raft.password"),
            (Some("a"), Some("b"), 1, "raft.password differs", "another raft.password"),
            (Some("a"), None, VERSION, "has no raft.password", "this one has none"),
            (None, Some("b"), VERSION, "this one has none", "has no raft.password"),
        ] {
            let (left, right) = of_versions((connected, version), (accepted, VERSION)).await;
            let text = |result: io::Result<Channel>| result.err().map(|error| error.to_string()).unwrap_or_default();
            let (left, right) = (text(left), text(right));
            assert!(left.contains(left_text) && right.contains(right_text), "{left} / {right}");
        }
    }

    /// What somebody without the secret hears: a greeting, and the end.
    #[tokio::test]
    async fn who_cannot_prove_anything_hears_a_greeting() {
        for version in [1, VERSION] {
            let (mut outside, inside) = duplex(1024);
            let secret = Secret::new(Some("secret"));
            let accepting = tokio::spawn(async move { Channel::accepted(Box::new(inside), &secret).await.map(drop) });
            let greeting = Greeting::new(&Secret::new(Some("guess")), version).expect("a greeting");
            outside.write_all(&greeting.0).await.expect("written");
            outside.write_all(&[7; 48]).await.expect("written");
            let mut heard = Vec::new();
            outside.read_to_end(&mut heard).await.expect("the end");
            assert_eq!(heard.len(), GREETING);
            assert!(accepting.await.expect("no panic").is_err());
        }
    }

    /// Nobody on the way can make two new programs speak the old version.
    #[tokio::test]
    async fn greetings_cannot_be_changed() {
        let ((left, mut to_left), (right, mut to_right)) = (duplex(1024), duplex(1024));
        let secret = Secret::new(Some("secret"));
        let between = async {
            let mut greeting = [0; GREETING];
            to_left.read_exact(&mut greeting).await?;
            greeting[10..12].copy_from_slice(&1_u16.to_be_bytes());
            to_right.write_all(&greeting).await?;
            to_right.read_exact(&mut greeting).await?;
            greeting[10..12].copy_from_slice(&1_u16.to_be_bytes());
            to_left.write_all(&greeting).await?;
            tokio::io::copy_bidirectional(&mut to_left, &mut to_right).await
        };
        let ends = async {
            tokio::join!(Channel::connected(Box::new(left), &secret), Channel::accepted(Box::new(right), &secret))
        };
        let (_, (left, right)) = tokio::join!(between, ends);
        assert!(left.is_err() && right.is_err());
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
        let tampers: [(&str, Tamper); 4] = [
            ("changed", |frames| frames[0][0] ^= 1),
            ("emptied", |frames| frames[0].clear()),
            ("repeated", |frames| frames[1] = frames[0].clone()),
            ("left out", |frames| drop(frames.remove(0))),
        ];
        for version in [1, VERSION] {
            for (what, tamper) in tampers {
                let (sender, receiver) = of_versions((Some("secret"), version), (Some("secret"), VERSION)).await;
                let (mut sender, mut receiver) = (sender.expect("connected"), receiver.expect("accepted"));
                let mut frames: Vec<Vec<u8>> =
                    (0..3_u8).map(|i| sender.sealing.seal(vec![i; 9]).expect("sealed")).collect();
                tamper(&mut frames);
                let opened: Vec<_> = frames.into_iter().map(|frame| receiver.sealing.open(frame)).collect();
                assert!(opened.iter().any(Result::is_err), "version {version}: a frame was {what} unnoticed");
            }
        }
    }
}
