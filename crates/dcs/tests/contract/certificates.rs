//! Certificates for servers and clients, in files.

use std::path::{Path, PathBuf};

use patroni_http::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Who vouches for others.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    /// The file with its own certificate.
    pub(crate) cacert: String,
}

impl Authority {
    /// A new one, in the file `NAME.pem`. It writes to this directory.
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let cacert = write(directory, &format!("{name}.pem"), &issuer.pem());
        Authority { issuer, directory: directory.to_owned(), cacert }
    }

    /// A certificate for this address or host, with the subject `CN=NAME`: the files `NAME.pem` and `NAME.key`.
    pub(crate) fn sign(&self, name: &str, address: &str) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![address.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TlsFiles {
            certfile: write(&self.directory, &format!("{name}.pem"), &certificate.pem()),
            keyfile: Some(write(&self.directory, &format!("{name}.key"), &key.serialize_pem())),
            keyfile_password: None,
        }
    }
}

/// Writes a file; its path.
pub(crate) fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name).display().to_string();
    std::fs::write(&path, text).unwrap();
    path
}
