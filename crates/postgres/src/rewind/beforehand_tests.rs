use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

/// A data directory with a file of each kind.
fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("patroni-rewind-").tempdir_in("/tmp").expect("directory");
    for path in ["base/5", "global", "pg_wal", "pg_replslot/a", "pg_tblspc"] {
        fs::create_dir_all(dir.path().join(path)).expect("directory");
    }
    for path in ["PG_VERSION", "base/5/1", "base/5/1_fsm", "global/pg_control", "pg_wal/1", "pg_replslot/a/state"] {
        fs::write(dir.path().join(path), [0; 100]).expect("file");
    }
    dir
}

fn file(path: &str, size: u64) -> SourceFile {
    SourceFile { path: path.to_owned(), size: Some(size), location: None }
}

/// What a primary has that never diverged.
fn primary() -> Vec<SourceFile> {
    ["PG_VERSION", "base/5/1", "base/5/1_fsm", "global/pg_control", "pg_wal/1"].map(|path| file(path, 100)).to_vec()
}

fn refusal(data_dir: &Path, theirs: Option<&[SourceFile]>) -> Option<String> {
    let until = Instant::now() + LIMIT;
    Target::look(data_dir, &Cancel::new(), until).expect("all files").refusal(theirs)
}

fn assert_refused(refusal: Option<String>, named: &str) {
    let text = refusal.expect("a refusal");
    assert!(text.contains(named), "{named:?} is not named: {text}");
}

/// Root may do everything: these tests are run again as another user, who owns what is in /tmp/patroni-rewind-*.
fn as_somebody(name: &str, body: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        return body();
    }
    let this = std::env::current_exe().expect("own path");
    let copy = std::env::temp_dir().join(format!("patroni-beforehand-{}-{name}", std::process::id()));
    fs::copy(this, &copy).expect("a copy where anybody can run it");
    let status = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&copy)
        .args(["--exact", &format!("rewind::beforehand::tests::{name}"), "--nocapture", "--test-threads=1"])
        .current_dir("/")
        .status();
    let _ = fs::remove_file(&copy);
    assert!(status.expect("setpriv").success(), "{name} failed as another user");
}

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
}

#[test]
fn a_data_directory_that_is_ours_is_rewound() {
    as_somebody("a_data_directory_that_is_ours_is_rewound", || {
        let dir = data_dir();
        assert_eq!(refusal(dir.path(), Some(&primary())), None);
        assert_eq!(refusal(dir.path(), None), None);
    });
}

#[test]
fn what_cannot_be_overwritten_is_named_if_it_would_be() {
    as_somebody("what_cannot_be_overwritten_is_named_if_it_would_be", || {
        let dir = data_dir();
        for path in ["base/5/1_fsm", "PG_VERSION", "pg_replslot/a/state"] {
            set_mode(dir.path().join(path), 0o400);
        }
        let refused = refusal(dir.path(), Some(&primary())).expect("a refusal");
        assert!(refused.contains("base/5/1_fsm (Permission denied (os error 13); owner "), "{refused}");
        // The one is never written, the other is removed, which needs its directory only.
        assert!(!refused.contains("PG_VERSION") && !refused.contains("state"), "{refused}");
        // What the primary has not is removed.
        let fewer: Vec<SourceFile> = primary().into_iter().filter(|file| !file.path.ends_with("_fsm")).collect();
        assert_eq!(refusal(dir.path(), Some(&fewer)), None);
        assert_refused(refusal(dir.path(), None), "base/5/1_fsm");
    });
}

#[test]
fn closed_directories_and_links_to_nowhere_are_named() {
    as_somebody("closed_directories_and_links_to_nowhere_are_named", || {
        let dir = data_dir();
        symlink(dir.path().join("gone"), dir.path().join("pg_tblspc/16400")).expect("link");
        // Not followed by pg_rewind.
        symlink(dir.path().join("gone"), dir.path().join("base/5/link")).expect("link");
        let unreadable = dir.path().join("base/5");
        set_mode(&unreadable, 0o500);
        let refused = refusal(dir.path(), Some(&primary())).expect("a refusal");
        assert!(refused.contains("pg_tblspc/16400 (a link to "), "{refused}");
        assert!(refused.contains("base/5/ (Permission denied") && !refused.contains("link)"), "{refused}");
        set_mode(&unreadable, 0o700);
    });
}

#[test]
fn a_tablespace_that_only_the_primary_has_needs_its_place_here() {
    as_somebody("a_tablespace_that_only_the_primary_has_needs_its_place_here", || {
        let (dir, place) = (data_dir(), data_dir());
        let tablespace = |place: &Path| SourceFile {
            path: "pg_tblspc/16400".to_owned(),
            size: None,
            location: Some(place.display().to_string()),
        };
        let with = |file: SourceFile| [primary(), vec![file]].concat();
        let gone = place.path().join("gone");
        assert_refused(
            refusal(dir.path(), Some(&with(tablespace(&gone)))),
            "gone (a tablespace of the primary: No such",
        );
        assert_eq!(refusal(dir.path(), Some(&with(tablespace(place.path())))), None);
        set_mode(place.path(), 0o500);
        assert_refused(refusal(dir.path(), Some(&with(tablespace(place.path())))), "a tablespace of the primary: Perm");
        set_mode(place.path(), 0o700);
    });
}

#[test]
fn room_is_needed_for_what_grows_and_what_is_new() {
    let dir = data_dir();
    let room = statvfs(dir.path()).expect("room");
    let total = room.f_blocks * room.f_frsize;
    let with = |path: &str, size: u64| [primary(), vec![file(path, size)]].concat();
    assert_refused(refusal(dir.path(), Some(&with("base/5/2", 2 * total))), "MB are free. Make room there");
    assert_eq!(refusal(dir.path(), Some(&with("pg_replslot/b/spill", 2 * total))), None, "not copied");
    assert_eq!(refusal(dir.path(), Some(&with("base/pgsql_tmp/1", 2 * total))), None, "not copied");
    // As large here, without using any room.
    fs::File::create(dir.path().join("base/5/2")).and_then(|file| file.set_len(1 << 40)).expect("a file with a hole");
    assert_eq!(refusal(dir.path(), Some(&with("base/5/2", 1 << 40))), None);
}

#[test]
fn flags_are_in_the_way_of_root_too() {
    let dir = data_dir();
    let path = dir.path().join("global/pg_control");
    let set = |flags: &str| Command::new("chattr").arg(flags).arg(&path).status().is_ok_and(|status| status.success());
    for (set_flag, take_away, named) in [("+i", "-i", "immutable"), ("+a", "-a", "append-only")] {
        if !set(set_flag) {
            eprintln!("skipped: the flag {named} cannot be set here");
            return;
        }
        let refused = refusal(dir.path(), Some(&primary()));
        assert!(set(take_away), "the flag stays");
        assert_refused(refused, &format!("global/pg_control ({named}; owner "));
    }
}

#[test]
fn it_can_be_called_off() {
    let dir = data_dir();
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(matches!(Target::look(dir.path(), &cancel, Instant::now() + LIMIT), Err(Error::Cancelled)));
    assert!(matches!(Target::look(dir.path(), &Cancel::new(), Instant::now()), Err(Error::Timeout { .. })));
}
