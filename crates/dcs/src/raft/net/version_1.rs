//! Version 1 of the protocol, for members that have not been upgraded yet: proofs by HMAC, keys from the secret and the random
//! numbers of the greetings. Without forward secrecy. Goes when version 1 is not spoken any more.

use std::io;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::channel::{Side, refused, wrong_secret};
use super::transport::Stream;

pub(super) const PROOF: usize = 32;

/// A key for each direction.
pub(crate) struct Keys {
    pub(super) send: Sealed,
    pub(super) receive: Sealed,
}

/// One direction.
pub(crate) struct Sealed {
    key: LessSafeKey,
    count: u64,
}

impl Keys {
    /// Both sides prove that they know the secret, the one that connected first. The transcript is that of the greetings.
    pub(super) async fn agree(
        stream: &mut dyn Stream,
        secret: &[u8],
        transcript: &[u8],
        side: Side,
    ) -> io::Result<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let proof = |label: &[u8]| hmac::sign(&key, &[label, transcript].concat());
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
        if hmac::verify(&key, &[label, transcript].concat(), &theirs).is_err() {
            return refused("the other side has another raft.password");
        }
        if side == Side::Accepted {
            stream.write_all(proof(b"accepted").as_ref()).await?;
        }
        Keys::new(secret, transcript, side)
    }

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

    pub(super) fn seal(&mut self, mut payload: Vec<u8>) -> io::Result<Vec<u8>> {
        let nonce = self.nonce();
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut payload);
        sealed.map_err(|_| io::Error::other("a frame cannot be sealed"))?;
        Ok(payload)
    }

    pub(super) fn open(&mut self, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let nonce = self.nonce();
        let length = match self.key.open_in_place(nonce, Aad::empty(), &mut bytes) {
            Ok(payload) => payload.len(),
            Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame was changed on its way")),
        };
        bytes.truncate(length);
        Ok(bytes)
    }
}
