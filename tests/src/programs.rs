//! Which programs are under test, and where PostgreSQL and the reference are.

use std::path::{Path, PathBuf};

/// Whose agent a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The program under test.
    Ours,
    /// Patroni 4.1.5 in Python.
    Reference,
}

/// Paths of the programs which a cluster is made of.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The agent under test.
    pub patroni: PathBuf,
    /// The command line tool under test.
    pub patronictl: PathBuf,
    /// Directory with the reference's `patroni` and `patronictl`, if it is installed.
    pub reference: Option<PathBuf>,
    /// PostgreSQL's programs.
    pub pg_bin: PathBuf,
}

impl Programs {
    /// Finds them by the environment (see the crate's documentation) or in their usual places.
    ///
    /// # Panics
    /// Where a program is missing, with how to get it.
    pub fn find() -> Self {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug");
        let program = |variable: &str, name: &str| {
            let path = std::env::var_os(variable).map_or_else(|| built.join(name), PathBuf::from);
            assert!(path.is_file(), "no {}: run cargo build --workspace, or set {variable}", path.display());
            path.canonicalize().unwrap()
        };
        Programs {
            patroni: absolute_symlink_kept(program("PATRONI_BIN", "patroni"), "PATRONI_BIN"),
            patronictl: absolute_symlink_kept(program("PATRONICTL_BIN", "patronictl"), "PATRONICTL_BIN"),
            reference: reference_directory(),
            pg_bin: postgresql_directory(),
        }
    }

    /// Path of the agent of this kind.
    ///
    /// # Panics
    /// If the reference is asked for and not installed.
    pub fn agent(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Ours => self.patroni.clone(),
            Kind::Reference => self.reference_program("patroni"),
        }
    }

    /// Path of the command line tool of this kind.
    ///
    /// # Panics
    /// If the reference is asked for and not installed.
    pub fn ctl(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Ours => self.patronictl.clone(),
            Kind::Reference => self.reference_program("patronictl"),
        }
    }

    fn reference_program(&self, name: &str) -> PathBuf {
        self.reference.as_ref().expect("the reference is not installed; ./test installs it").join(name)
    }

    /// Whether the programs "under test" are the reference itself, which proves the harness but lacks our improvements.
    pub fn test_the_reference(&self) -> bool {
        std::fs::read(&self.patroni).is_ok_and(|program| program.starts_with(b"#!"))
    }
}

/// A path given by the environment is used as it stands: a Python venv is recognised by the path of its programs.
fn absolute_symlink_kept(canonical: PathBuf, variable: &str) -> PathBuf {
    match std::env::var_os(variable).map(PathBuf::from) {
        Some(given) if given.is_absolute() => given,
        _ => canonical,
    }
}

fn reference_directory() -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/reference/bin");
    let given = std::env::var_os("REFERENCE_BIN_DIR").map(PathBuf::from);
    let candidates = given.into_iter().chain([installed, PathBuf::from("/opt/ref/venv/bin")]);
    candidates.into_iter().find(|directory| directory.join("patroni").is_file())
}

fn postgresql_directory() -> PathBuf {
    if let Some(given) = std::env::var_os("PG_BIN_DIR") {
        return PathBuf::from(given);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let newest = newest.expect("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql, or set PG_BIN_DIR");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}
