//! What is sent is sealed: nobody on the way can read, change, repeat or leave out a frame.
//!
//! By `Noise_NNpsk0_25519_ChaChaPoly_SHA256` (noiseprotocol.org): fresh keys for each connection, so that who learns the secret
//! later reads nothing that was recorded before. Both greetings are its prologue: changed ones end the handshake.

use std::io;

use ring::pbkdf2;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::channel::{Side, refused, wrong_secret};
use super::transport::Stream;
use super::version_1;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
/// A message of the handshake: a public key and a tag.
const MESSAGE: usize = 32 + TAG;
const TAG: usize = 16;
/// The largest message of Noise. A frame is as many as it needs.
const PIECE: usize = 65_535;

/// What all members and clients know.
#[derive(Clone)]
pub(crate) struct Key {
    /// As it is configured.
    pub(super) password: Vec<u8>,
    shared: [u8; 32],
}

impl Key {
    pub(crate) fn new(password: &str) -> Self {
        let mut shared = [0; 32];
        // As often as PostgreSQL does for a password (SCRAM): who guesses has that much more to do, a command does not notice.
        let rounds = std::num::NonZeroU32::new(4096).expect("not zero");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, b"patroni-rs raft 2", password.as_bytes(), &mut shared);
        Key { password: password.as_bytes().to_vec(), shared }
    }
}

/// How frames of a connection are sealed.
pub(crate) enum Sealing {
    /// Not at all: there is no secret.
    Open,
    /// By Noise.
    Noise(Box<TransportState>),
    /// For members of before.
    First(Box<version_1::Keys>),
}

impl Sealing {
    /// Both sides prove that they know the secret, the one that connected first.
    pub(super) async fn noise(stream: &mut dyn Stream, key: &Key, prologue: &[u8], side: Side) -> io::Result<Self> {
        let mut state = handshake(key, prologue, side).map_err(io::Error::other)?;
        let mut message = [0; MESSAGE];
        let mut nothing = [0; MESSAGE];
        if side == Side::Connected {
            state.write_message(&[], &mut message).map_err(io::Error::other)?;
            stream.write_all(&message).await?;
            stream.read_exact(&mut message).await.map_err(wrong_secret)?;
            if state.read_message(&message, &mut nothing).is_err() {
                return refused("the other side has another raft.password");
            }
        } else {
            stream.read_exact(&mut message).await?;
            if state.read_message(&message, &mut nothing).is_err() {
                return refused("the other side has another raft.password");
            }
            state.write_message(&[], &mut message).map_err(io::Error::other)?;
            stream.write_all(&message).await?;
        }
        Ok(Sealing::Noise(Box::new(state.into_transport_mode().map_err(io::Error::other)?)))
    }

    pub(super) fn seal(&mut self, payload: Vec<u8>) -> io::Result<Vec<u8>> {
        let state = match self {
            Sealing::Open => return Ok(payload),
            Sealing::First(keys) => return keys.send.seal(payload),
            Sealing::Noise(state) => state,
        };
        let pieces = payload.len().div_ceil(PIECE - TAG).max(1);
        let mut sealed = vec![0; payload.len() + pieces * TAG];
        let mut rest = payload.as_slice();
        for out in sealed.chunks_mut(PIECE) {
            let (piece, after) = rest.split_at(out.len() - TAG);
            state.write_message(piece, out).map_err(io::Error::other)?;
            rest = after;
        }
        Ok(sealed)
    }

    pub(super) fn open(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let state = match self {
            Sealing::Open => return Ok(bytes),
            Sealing::First(keys) => return keys.receive.open(bytes),
            Sealing::Noise(state) => state,
        };
        let changed = || io::Error::new(io::ErrorKind::InvalidData, "a frame was changed on its way");
        let mut payload = vec![0; bytes.len()];
        let mut length = 0;
        if bytes.is_empty() {
            return Err(changed());
        }
        for piece in bytes.chunks(PIECE) {
            length += state.read_message(piece, &mut payload[length..]).map_err(|_| changed())?;
        }
        payload.truncate(length);
        Ok(payload)
    }
}

fn handshake(key: &Key, prologue: &[u8], side: Side) -> Result<HandshakeState, snow::Error> {
    let pattern: NoiseParams = PATTERN.parse()?;
    let builder = Builder::new(pattern).prologue(prologue)?.psk(0, &key.shared)?;
    match side {
        Side::Connected => builder.build_initiator(),
        Side::Accepted => builder.build_responder(),
    }
}
