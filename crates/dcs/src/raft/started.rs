//! What the embedded store was started with. Nothing of it changes before the next start: a reload says so, setting by setting.

use super::options::RaftOptions;

/// The options, and what their files held.
pub(crate) struct Started {
    options: RaftOptions,
    files: Vec<Option<Vec<u8>>>,
}

impl Started {
    /// Now.
    pub(crate) fn with(options: &RaftOptions) -> Self {
        Started { options: options.clone(), files: contents(options) }
    }

    /// What is different in these options.
    pub(crate) fn changed(&self, now: &RaftOptions) -> Vec<&'static str> {
        let old = &self.options;
        let certificates = old.identity != now.identity || old.cacert != now.cacert || self.files != contents(now);
        let rows = [
            (old.password != now.password, "password"),
            (certificates, "certificates"),
            (old.self_addr != now.self_addr, "self_addr"),
            (old.bind_addr != now.bind_addr, "bind_addr"),
            (old.partner_addrs != now.partner_addrs, "partner_addrs"),
            (old.data_dir != now.data_dir, "data_dir"),
        ];
        rows.into_iter().filter(|(changed, _)| *changed).map(|(_, name)| name).collect()
    }
}

fn contents(options: &RaftOptions) -> Vec<Option<Vec<u8>>> {
    let identity = options.identity.iter().flat_map(|files| [Some(&files.certfile), files.keyfile.as_ref()]);
    identity.flatten().chain(&options.cacert).map(|path| std::fs::read(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use patroni_http::TlsFiles;

    use super::*;

    #[test]
    fn what_changed_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = directory.path().join("cert.pem");
        std::fs::write(&certificate, "old").expect("a file");
        let identity = TlsFiles { certfile: certificate.display().to_string(), keyfile: None, keyfile_password: None };
        let options = RaftOptions {
            self_addr: Some("a:1".to_owned()),
            password: Some("old".to_owned()),
            identity: Some(identity),
            ..RaftOptions::default()
        };
        let started = Started::with(&options);
        assert_eq!(started.changed(&options), [""; 0]);
        let other =
            RaftOptions { password: Some("new".to_owned()), partner_addrs: vec!["b:1".to_owned()], ..options.clone() };
        assert_eq!(started.changed(&other), ["password", "partner_addrs"]);
        std::fs::write(&certificate, "new, under the same name").expect("a file");
        assert_eq!(started.changed(&options), ["certificates"]);
    }
}
