//! Private keys in PEM, plain or encrypted with a password.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, KeyIvInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use pkcs8::EncryptedPrivateKeyInfo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

/// Why a key cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("no private key in PEM format in it: {0}")]
    NotFound(String),
    /// A password is needed.
    #[error("it is encrypted: set keyfile_password")]
    PasswordNeeded,
    /// The password is wrong, or the way of encryption is not known.
    #[error("it cannot be decrypted: {0}; check keyfile_password")]
    Decrypt(String),
}

/// The first private key of a PEM file.
///
/// # Errors
/// There is none, or it cannot be decrypted.
pub(crate) fn read_key(pem: &[u8], password: Option<&str>) -> Result<PrivateKeyDer<'static>, KeyError> {
    let text = String::from_utf8_lossy(pem);
    if let Some(body) = section(&text, "ENCRYPTED PRIVATE KEY") {
        return decrypt_pkcs8(body, password.ok_or(KeyError::PasswordNeeded)?);
    }
    for kind in ["RSA PRIVATE KEY", "EC PRIVATE KEY"] {
        if let Some(body) = section(&text, kind).filter(|body| body.contains("Proc-Type: 4,ENCRYPTED")) {
            let der = decrypt_traditional(body, password.ok_or(KeyError::PasswordNeeded)?)?;
            return Ok(match kind {
                "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der).into(),
                _ => PrivateSec1KeyDer::from(der).into(),
            });
        }
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| KeyError::NotFound(e.to_string()))
}

/// What stands between the lines BEGIN and END of a kind.
fn section<'a>(text: &'a str, kind: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {kind}-----"))?;
    Some(rest.split_once(&format!("-----END {kind}-----"))?.0)
}

fn base64_lines(text: &str) -> Result<Vec<u8>, KeyError> {
    let joined: String = text.split_whitespace().collect();
    STANDARD.decode(joined).map_err(|e| KeyError::Decrypt(e.to_string()))
}

fn decrypt_pkcs8(body: &str, password: &str) -> Result<PrivateKeyDer<'static>, KeyError> {
    let der = base64_lines(body)?;
    let info = EncryptedPrivateKeyInfo::try_from(der.as_slice()).map_err(|e| KeyError::Decrypt(e.to_string()))?;
    let plain = info.decrypt(password).map_err(|e| KeyError::Decrypt(e.to_string()))?;
    Ok(PrivatePkcs8KeyDer::from(plain.as_bytes().to_vec()).into())
}

/// The encryption of OpenSSL before version 3: `DEK-Info: CIPHER,IV`, and a key made from password and IV by MD5.
fn decrypt_traditional(body: &str, password: &str) -> Result<Vec<u8>, KeyError> {
    let bad = |what: &str| KeyError::Decrypt(what.to_owned());
    let (_, info) = body.split_once("DEK-Info:").ok_or_else(|| bad("it has no DEK-Info"))?;
    let (info, data) = info.split_once('\n').ok_or_else(|| bad("it has no data"))?;
    let (cipher, iv) = info.trim().split_once(',').ok_or_else(|| bad("its DEK-Info has no IV"))?;
    let iv = hex(iv).ok_or_else(|| bad("its IV is not hexadecimal"))?;
    let salt = iv.get(..8).ok_or_else(|| bad("its IV is too short"))?;
    let data = base64_lines(data)?;
    let key = |length: usize| derived_key(password.as_bytes(), salt, length);
    match cipher {
        "AES-128-CBC" => plain::<cbc::Decryptor<aes::Aes128>>(&key(16), &iv, &data),
        "AES-192-CBC" => plain::<cbc::Decryptor<aes::Aes192>>(&key(24), &iv, &data),
        "AES-256-CBC" => plain::<cbc::Decryptor<aes::Aes256>>(&key(32), &iv, &data),
        "DES-EDE3-CBC" => plain::<cbc::Decryptor<des::TdesEde3>>(&key(24), &iv, &data),
        other => Err(KeyError::Decrypt(format!("the cipher {other} is not supported; convert it with openssl pkcs8"))),
    }
}

fn plain<D: KeyIvInit + BlockDecryptMut>(key: &[u8], iv: &[u8], data: &[u8]) -> Result<Vec<u8>, KeyError> {
    let decryptor = D::new_from_slices(key, iv).map_err(|e| KeyError::Decrypt(e.to_string()))?;
    decryptor.decrypt_padded_vec_mut::<Pkcs7>(data).map_err(|e| KeyError::Decrypt(e.to_string()))
}

fn derived_key(password: &[u8], salt: &[u8], length: usize) -> Vec<u8> {
    let mut key = Vec::new();
    let mut last = Vec::new();
    while key.len() < length {
        last = Md5::new().chain_update(&last).chain_update(password).chain_update(salt).finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(length);
    key
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn openssl(arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("openssl").args(arguments).output().expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Every way openssl encrypts keys with gives the key that it shows without password.
    #[test]
    fn encrypted_keys_are_read_with_their_password_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let plain = dir.path().join("plain.key");
        let plain = plain.to_str().expect("text");
        openssl(&["genrsa", "-traditional", "-out", plain, "2048"]);
        let expected = read_key(&openssl(&["rsa", "-in", plain, "-traditional"]), None).expect("a key");
        let encrypted = [
            openssl(&["rsa", "-in", plain, "-traditional", "-aes256", "-passout", "pass:secret"]),
            openssl(&["rsa", "-in", plain, "-traditional", "-aes128", "-passout", "pass:secret"]),
            openssl(&["rsa", "-in", plain, "-traditional", "-des3", "-passout", "pass:secret"]),
        ];
        for pem in encrypted {
            assert_eq!(read_key(&pem, Some("secret")).expect("decrypted"), expected);
            assert_eq!(read_key(&pem, None), Err(KeyError::PasswordNeeded));
            let wrong = read_key(&pem, Some("wrong"));
            assert!(wrong.is_err() || wrong != Ok(expected.clone_key()));
        }
        let expected = read_key(&openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", plain]), None).expect("a key");
        for cipher in ["aes256", "aes-128-cbc", "des3"] {
            let pem = openssl(&["pkcs8", "-topk8", "-v2", cipher, "-in", plain, "-passout", "pass:secret"]);
            assert_eq!(read_key(&pem, Some("secret")).expect("decrypted"), expected);
            assert!(matches!(read_key(&pem, Some("wrong")), Err(KeyError::Decrypt(_))));
        }
    }

    #[test]
    fn garbage_is_no_key() {
        assert!(matches!(read_key(b"hello", None), Err(KeyError::NotFound(_))));
        let cut = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(matches!(read_key(cut, Some("x")), Err(KeyError::Decrypt(_))));
    }
}
