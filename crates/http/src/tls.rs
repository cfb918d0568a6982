//! TLS settings from files: for clients, and for the server of the REST API.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite};

use crate::keys::{self, KeyError};
use crate::{ClientOptions, verify};

/// A certificate and its key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// `certfile`: the certificate and those between it and the authority, in PEM: a file, or the text itself.
    pub certfile: String,
    /// `keyfile`: the key, a file or the text itself; without it, it is in `certfile`.
    pub keyfile: Option<String>,
    /// `keyfile_password`: the password the key is encrypted with.
    pub keyfile_password: Option<String>,
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFiles")
            .field("certfile", &name(&self.certfile))
            .field("keyfile", &self.keyfile.as_deref().map(name))
            .finish()
    }
}

/// `restapi.verify_client`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerifyClient {
    /// Certificates of clients are not asked for.
    #[default]
    None,
    /// Asked for and verified where there is one.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// Settings of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// Its certificate.
    pub identity: TlsFiles,
    /// `cafile`: who vouches for clients; without it, whom the system trusts.
    pub cafile: Option<String>,
    /// `ciphers` in the notation of OpenSSL.
    pub ciphers: Option<String>,
    /// `verify_client`.
    pub verify_client: VerifyClient,
}

/// What is wrong with the files or settings.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Cannot be read.
    #[error("cannot read {path}: {source}; check that it exists and that this user may read it")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Is not what it should be.
    #[error("{path} holds no {what} in PEM format: {reason}")]
    Content {
        /// The file.
        path: String,
        /// What was looked for.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The key is encrypted.
    #[error("cannot use the key in {path}: {source}")]
    Key {
        /// The file.
        path: String,
        /// Why.
        source: KeyError,
    },
    /// No cipher is left.
    #[error("none of the ciphers {0:?} is known; names are those of OpenSSL, such as ECDHE-RSA-AES256-GCM-SHA384")]
    Ciphers(String),
    /// The library refuses the combination.
    #[error("TLS settings cannot be used: {0}")]
    Config(String),
}

/// Which servers a client talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust<'a> {
    /// Any: it only has to have the key of the certificate it shows.
    Anybody,
    /// Those that an authority of this file (those of the system without one) vouches for, or whose certificate is in it.
    Vouched {
        /// The file of authorities.
        cafile: Option<&'a str>,
        /// Under whatever name they are reached.
        any_name: bool,
    },
}

/// The settings of a client of the REST API as rustls wants them.
///
/// # Errors
/// A file cannot be read or used.
pub fn client_config(options: &ClientOptions) -> Result<ClientConfig, TlsError> {
    let trust = match options.unverified || (options.insecure && options.identity.is_none()) {
        true => Trust::Anybody,
        false => Trust::Vouched { cafile: options.cacert.as_deref(), any_name: options.insecure },
    };
    client_config_for(trust, options.identity.as_ref())
}

/// The settings of any client as rustls wants them.
///
/// # Errors
/// A file cannot be read or used.
pub fn client_config_for(trust: Trust<'_>, own: Option<&TlsFiles>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(config_error)?
        .dangerous()
        .with_custom_certificate_verifier(verify::server_verifier(trust, provider)?);
    match own {
        None => Ok(builder.with_no_client_auth()),
        Some(files) => {
            let (chain, key) = identity(files)?;
            builder.with_client_auth_cert(chain, key).map_err(config_error)
        }
    }
}

/// The settings of a server as rustls wants them.
///
/// # Errors
/// A file cannot be read or used, or no cipher is left.
pub fn server_config(tls: &ServerTls) -> Result<ServerConfig, TlsError> {
    let mut provider = ring::default_provider();
    if let Some(list) = &tls.ciphers {
        provider.cipher_suites = chosen_ciphers(list, &provider.cipher_suites)?;
    }
    let provider = Arc::new(provider);
    let (chain, key) = identity(&tls.identity)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(config_error)?;
    let builder = match tls.verify_client {
        VerifyClient::None => builder.with_no_client_auth(),
        VerifyClient::Optional | VerifyClient::Required => {
            builder.with_client_cert_verifier(verify::client_verifier(tls, provider)?)
        }
    };
    builder.with_single_cert(chain, key).map_err(config_error)
}

fn config_error(error: rustls::Error) -> TlsError {
    TlsError::Config(error.to_string())
}

fn identity(files: &TlsFiles) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(&files.certfile)?;
    let path = files.keyfile.as_ref().unwrap_or(&files.certfile);
    let key = keys::read_key(&read(path)?, files.keyfile_password.as_deref())
        .map_err(|source| TlsError::Key { path: name(path), source })?;
    Ok((chain, key))
}

pub(crate) fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |reason: String| TlsError::Content { path: name(path), what: "certificate", reason };
    let pem = read(path)?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|e| content(e.to_string()))?;
    if found.is_empty() {
        return Err(content("no BEGIN CERTIFICATE in it".to_owned()));
    }
    Ok(found)
}

/// Whether this is not the path of a file, but what such a file holds.
fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

/// How messages call it: a key is never shown.
pub(crate) fn name(path: &str) -> String {
    if is_pem(path) { "the configuration".to_owned() } else { path.to_owned() }
}

fn read(path: &str) -> Result<Vec<u8>, TlsError> {
    if is_pem(path) {
        return Ok(path.as_bytes().to_vec());
    }
    fs::read(Path::new(path)).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// The suites that a list of OpenSSL names: names, parts of names joined by `+`, and either with `!` or `-` before it
/// to take them away. Suites of TLS 1.3 are always allowed, as with OpenSSL.
fn chosen_ciphers(list: &str, known: &[SupportedCipherSuite]) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let mut chosen = Vec::new();
    for word in list.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        if let Some(unwanted) = word.strip_prefix(['!', '-']) {
            chosen.retain(|suite| !named(suite, unwanted));
        } else if !word.starts_with(['+', '@']) {
            let new: Vec<_> = known.iter().copied().filter(|s| named(s, word) && !chosen.contains(s)).collect();
            chosen.extend(new);
        }
    }
    if chosen.is_empty() {
        return Err(TlsError::Ciphers(list.to_owned()));
    }
    let tls13 = known.iter().filter(|suite| suite.tls13().is_some());
    Ok(tls13.copied().chain(chosen).collect())
}

/// Does a word of such a list mean this suite of TLS 1.2?
fn named(suite: &SupportedCipherSuite, word: &str) -> bool {
    if suite.tls13().is_some() {
        return false;
    }
    let name = openssl_name(suite);
    word.split('+').all(|part| match part {
        "ALL" | "DEFAULT" | "HIGH" | "COMPLEMENTOFDEFAULT" | "TLSv1.2" | "kEECDH" | "EECDH" | "ECDHE" => true,
        "AESGCM" | "AES" => name.contains("-AES"),
        "aRSA" | "RSA" => name.contains("-RSA-"),
        "aECDSA" | "ECDSA" => name.contains("-ECDSA-"),
        "AES128" | "AES256" | "CHACHA20" | "SHA256" | "SHA384" => name.contains(part),
        whole => name == whole,
    })
}

/// `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384` is `ECDHE-RSA-AES256-GCM-SHA384` to OpenSSL.
fn openssl_name(suite: &SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default().replace("TLS_", "").replace("_WITH", "");
    let name = name.replace("AES_", "AES").replace('_', "-");
    match name.strip_suffix("-POLY1305-SHA256") {
        Some(chacha) => format!("{chacha}-POLY1305"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ciphers() {
        let known = ring::default_provider().cipher_suites;
        let names = |list: &str| -> Vec<String> {
            let chosen = chosen_ciphers(list, &known).expect("some are known");
            assert_eq!(chosen.iter().filter(|s| s.tls13().is_some()).count(), 3, "TLS 1.3 is always allowed");
            chosen.iter().filter(|s| s.tls13().is_none()).map(openssl_name).collect()
        };
        assert_eq!(names("HIGH").len(), 6);
        assert_eq!(
            names("ECDHE-RSA-AES256-GCM-SHA384:AES256-SHA:ECDHE-RSA-CHACHA20-POLY1305"),
            ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"]
        );
        assert_eq!(names("HIGH:!CHACHA20:!aECDSA:!AES128"), ["ECDHE-RSA-AES256-GCM-SHA384"]);
        assert!(matches!(chosen_ciphers("RC4-MD5:!aNULL", &known), Err(TlsError::Ciphers(_))));
    }
}
