//! patronictl against living clusters: beside 4.1.5's patronictl, over TLS with passwords, and what is ours alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use patroni_tests::{Cluster, Kind, Limit, Programs, Sandbox, Value, json, wait_for};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// Times and positions move between two commands.
fn without_what_moves(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let digits = word.chars().filter(char::is_ascii_digit).count();
        let moves = digits > 3 && word.contains([':', '-']) && !word.contains("127.0.0.1");
        if moves || word.starts_with("0/") { "MOVES ".to_owned() } else { word.to_owned() }
    });
    words.collect()
}

/// One node of each kind, both in the store as they are: two commands one after the other see the same.
fn started() -> Cluster {
    let cluster = Cluster::mixed(&[Kind::Ours, Kind::Reference]).start();
    wait_for("the replica is listed as streaming", Limit(30), || {
        let rows = cluster.list();
        if rows.iter().any(|row| row["State"] == "streaming") { Ok(()) } else { Err(rows) }
    });
    cluster
}

/// Both kinds of patronictl, same command, same exit code, same standard output.
#[track_caller]
fn same(cluster: &Cluster, arguments: &[&str]) {
    same_output(arguments, [Kind::Ours, Kind::Reference].map(|kind| cluster.ctl_of(kind, arguments)));
}

#[track_caller]
fn same_output(arguments: &[&str], [ours, theirs]: [Output; 2]) {
    let shown = |output: &Output| without_what_moves(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(shown(&ours), shown(&theirs), "{arguments:?}: {} | {}", text(&ours), text(&theirs));
    assert_eq!(ours.status.code(), theirs.status.code(), "{arguments:?}: {} | {}", text(&ours), text(&theirs));
}

#[test]
fn what_is_printed_is_what_the_reference_prints() {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    let cluster = started();
    let read = |cluster: &Cluster| {
        for format in ["pretty", "tsv", "json", "yaml"] {
            same(cluster, &["list", "-f", format]);
            same(cluster, &["list", "-e", "-f", format]);
            same(cluster, &["history", "-f", format]);
        }
        for arguments in [["topology"], ["show-config"], ["dsn"], ["version"]] {
            same(cluster, &arguments);
        }
    };
    read(&cluster);
    for arguments in [
        &["version", "batman"][..],
        &["dsn", "-r", "replica"],
        &["dsn", "-m", "nobody"],
        &["dsn", "-m", "n0", "-r", "leader"],
        &["reload", "batman", "--force"],
        &["restart", "batman", "nobody", "--force"],
        &["restart", "batman", "n1", "--pg-version", "9.5.2", "--force"],
        &["restart", "batman", "--pending", "--force"],
        &["switchover", "batman", "--candidate", "nobody", "--force"],
        &["switchover", "batman", "--candidate", "n0", "--force"],
        &["switchover", "batman", "--leader", "nobody", "--force"],
        &["failover", "batman", "--force"],
        &["reinit", "batman", "n0", "--force"],
        &["flush", "batman", "switchover"],
        &["flush", "batman", "restart", "--force"],
        &["resume"],
        &["remove", "nothing"],
    ] {
        same(&cluster, arguments);
    }
    // What is shown while something is scheduled, paused, or waits for a restart.
    cluster.ctl_ok(&["restart", "batman", "n1", "--scheduled", "2099-01-01T00:00+00:00", "--force"]);
    cluster.ctl_ok(&["switchover", "batman", "--scheduled", "2099-01-01T00:00+00:00", "--force"]);
    cluster.ctl_ok(&["edit-config", "-p", "max_connections=60", "--force", "-q"]);
    wait_for("two members that wait for a restart", Limit(30), || {
        let rows = cluster.list();
        let waits = |row: &&Value| row["Pending restart"] == "*" && row["Pending restart reason"] != "";
        if rows.iter().filter(waits).count() == 2 { Ok(()) } else { Err(rows) }
    });
    wait_for("the restart in the table", Limit(30), || {
        let rows = cluster.list();
        if rows.iter().any(|row| row.get("Scheduled restart").is_some()) { Ok(()) } else { Err(rows) }
    });
    read(&cluster);
    cluster.ctl_ok(&["flush", "batman", "switchover"]);
    cluster.ctl_ok(&["pause", "--wait"]);
    read(&cluster);
    same(&cluster, &["pause"]);
    same(&cluster, &["restart", "batman", "--scheduled", "2099-01-01T00:00+00:00", "--force"]);
}

#[test]
fn queries_are_answered_as_by_the_reference() {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    let cluster = Cluster::of(1).start();
    let ask = |kind, environment: &[(&str, &str)], sql: &str, more: &[&str]| {
        let mut command = cluster.sandbox.command(&cluster.programs.ctl(kind));
        command.env("PGPASSWORD", "super-secret").envs(environment.iter().copied());
        command.arg("-c").arg(cluster.nodes[0].directory().join("patroni.yml"));
        let login = ["query", "batman", "-U", "postgres", "-d", "postgres", "-c", sql];
        command.args(login).args(more).output().unwrap()
    };
    let query_in = |environment: &[(&str, &str)], sql: &str, more: &[&str]| {
        same_output(&[sql], [Kind::Ours, Kind::Reference].map(|kind| ask(kind, environment, sql, more)));
    };
    let query = |sql: &str, more: &[&str]| query_in(&[], sql, more);
    assert_eq!(text(&ask(Kind::Ours, &[], "SELECT 1 AS n", &[])), "n\n1\n", "a query is let in");
    // Tables are found, and made, where the operator's own search path says.
    cluster.nodes[0].sql("CREATE TABLE app (n int); INSERT INTO app VALUES (1)");
    query("SELECT * FROM app", &[]);
    query("SELECT * FROM app", &["--role", "primary"]);
    query("SHOW search_path", &[]);
    for kind in [Kind::Ours, Kind::Reference] {
        let create = format!("CREATE TABLE of_{kind:?} AS SELECT 2 AS n");
        ask(kind, &[], &create, &[]);
    }
    query(
        "SELECT schemaname, tablename FROM pg_tables WHERE tablename LIKE 'of\\_%' ORDER BY 2",
        &["--format", "json"],
    );
    query("SELECT n FROM of_ours UNION SELECT n FROM public.of_reference", &[]);
    // What libpq takes from the environment.
    for (environment, sql) in [
        (&[("PGAPPNAME", "mine")][..], "SELECT current_setting('application_name')"),
        (&[], "SELECT current_setting('application_name')"),
        (
            &[("PGOPTIONS", "-c search_path=a,\\ b -c work_mem=1MB")],
            "SELECT current_setting('search_path'), current_setting('work_mem')",
        ),
        (&[("PGOPTIONS", "-c TimeZone=UTC"), ("PGTZ", "Asia/Tokyo")], "SELECT '2026-01-01 00:00Z'::timestamptz::text"),
        (&[("PGOPTIONS", "-c search_path=a\\ b")], "SELECT 1"),
        (&[("PGTZ", "default")], "SHOW timezone"),
        (&[("PGTZ", "no where")], "SHOW timezone"),
        (&[("PGSSLMODE", "require")], "SELECT 1"),
        (&[("PGDATESTYLE", "ISO, DMY")], "SELECT '2/1/2026'::date, current_setting('datestyle')"),
        (&[("PGDATESTYLE", "German")], "SELECT '2026-01-02'::date::text"),
        (&[("PGGEQO", "off")], "SHOW geqo"),
    ] {
        query_in(environment, sql, &[]);
    }
    // What has no columns, no statement, or rows that are not sent as such.
    for format in ["tsv", "json", "yaml"] {
        query("SELECT FROM pg_class LIMIT 2", &["--format", format]);
    }
    for sql in
        ["", ";", "-- nothing", "/* a /* b */ */ ;", "COPY app TO STDOUT", "COPY app FROM STDIN", "SELECT 1;; --"]
    {
        query(sql, &[]);
    }
    query("SELECT now() - now(), time '01:02:03.5', timetz '01:02:03-05', timestamp '2026-01-02 03:04:05.25'", &[]);
    query(
        "SELECT interval '-2 hours', interval '1 day -0.5 s', interval '11 mons -3 days -25:00', '-1 day'::interval",
        &[],
    );
}

/// A command on a terminal of its own (`script` makes one): an answer is typed once its prompt is there. What the terminal
/// showed, and the exit code.
fn dialogue(cluster: &Cluster, kind: Kind, arguments: &str, answers: &[(&str, &str)]) -> (String, Option<i32>) {
    let program = cluster.programs.ctl(kind).display().to_string();
    let config = cluster.nodes[0].directory().join("patroni.yml").display().to_string();
    let mut child = cluster
        .sandbox
        .command("script".as_ref())
        .args(["-qec", &format!("{program} -c {config} {arguments}"), "/dev/null"])
        .env("COLUMNS", "200")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (bsdutils) must be installed");
    let mut output = child.stdout.take().unwrap();
    let (sender, shown) = mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(1..) = output.read(&mut chunk).inspect(|length| _ = sender.send(chunk[..*length].to_vec())) {}
    });
    let mut input = child.stdin.take().unwrap();
    let mut screen = String::new();
    // A prompt that is asked again is not taken for the one that was answered.
    let mut answered = 0;
    for (prompt, answer) in answers {
        wait_for(&format!("{kind:?} {arguments}: {prompt}"), Limit(30), || {
            shown.try_iter().for_each(|chunk| screen += &String::from_utf8_lossy(&chunk));
            if screen[answered..].ends_with(prompt) { Ok(()) } else { Err(screen.clone()) }
        });
        answered = screen.len();
        // Each character is one byte: "\u{ff}" is none of UTF-8.
        let bytes: Vec<u8> = answer.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        input.write_all(&bytes).unwrap();
    }
    let code = wait_for("the end", Limit(30), || child.try_wait().unwrap().ok_or(arguments)).code();
    // Only now: the end of its input would be typed as Ctrl-D.
    drop(input);
    shown.iter().for_each(|chunk| screen += &String::from_utf8_lossy(&chunk));
    (screen, code)
}

#[test]
fn questions_are_asked_and_answers_taken_as_in_the_reference() {
    if Programs::find().reference.is_none() {
        eprintln!("SKIPPED: Patroni 4.1.5 is not installed (target/reference); ./test installs it from PyPI");
        return;
    }
    let cluster = started();
    let leader = ("Primary [n0]: ", "\n");
    let candidate = ("Candidate ['n1'] []: ", "\n");
    let remove = ("Please confirm the cluster name to remove: ", "batman\n");
    let aware = "please type: \"Yes I am aware\": ";
    for (arguments, answers) in [
        ("switchover batman", &[leader, candidate, ("[now]: ", "\n"), ("[y/N]: ", "n\n")][..]),
        ("switchover batman", &[leader, candidate, ("[now]: ", "2099-01-01T00:00\n"), ("[y/N]: ", "\n")]),
        ("switchover batman", &[leader, candidate, ("[now]: ", "nonsense\n")]),
        ("switchover batman", &[leader, ("Candidate ['n1'] []: ", "n0\n")]),
        ("switchover batman", &[("Primary [n0]: ", "n1\n")]),
        ("switchover batman", &[("Primary [n0]: ", "\x03")]),
        ("switchover batman", &[("Primary [n0]: ", "\x04")]),
        ("failover batman", &[candidate]),
        ("failover batman", &[("Candidate ['n1'] []: ", "n1\n"), ("[y/N]: ", "maybe\n"), ("[y/N]: ", "n\n")]),
        ("restart batman n1", &[("[now]: ", "\n"), ("[y/N]: ", "n\n")]),
        ("restart batman n1", &[("[now]: ", "\n"), ("[y/N]: ", "y\n"), ("[]: ", "x.y\n")]),
        ("reinit batman n1", &[("[y/N]: ", "n\n")]),
        ("reload batman n1", &[("[y/N]: ", "y\n")]),
        ("flush batman n1 restart", &[("[y/N]: ", "y\n")]),
        ("remove batman", &[("Please confirm the cluster name to remove: ", "other\n")]),
        ("remove batman", &[remove, (aware, "yes\n")]),
        ("remove batman", &[remove, (aware, "Yes I am aware\n"), ("to continue: ", "n1\n")]),
    ] {
        let [ours, theirs] = [Kind::Ours, Kind::Reference].map(|kind| dialogue(&cluster, kind, arguments, answers));
        assert_eq!(without_what_moves(&ours.0), without_what_moves(&theirs.0), "{arguments} {answers:?}");
        assert_eq!(ours.1, theirs.1, "{arguments} {answers:?}: {}", ours.0);
    }
    // What is no text is asked for again. Python's answer depends on the locale: a name of surrogates, or a stack of calls.
    for answers in [
        &[("Candidate ['n1'] []: ", "\u{ff}\n"), ("Candidate ['n1'] []: ", "\n")],
        &[("Candidate ['n1'] []: ", "n1\n"), ("[y/N]: ", "\u{ff}\n"), ("[y/N]: ", "n\n")][..],
    ] {
        let (screen, code) = dialogue(&cluster, Kind::Ours, "failover batman", answers);
        assert!(screen.contains("Error: invalid input") && code == Some(1), "{answers:?}: {code:?} {screen}");
    }
}

#[test]
fn reinit_waits_until_the_copy_runs_and_the_doctor_sees_what_is_wrong() {
    let mut cluster = Cluster::of(2).start();
    let system = |cluster: &Cluster| cluster.nodes[1].status()["postmaster_start_time"].clone();
    let before = system(&cluster);
    let said = cluster.ctl_ok(&["reinit", "batman", "n1", "--force", "--wait"]);
    assert!(
        said.ends_with("Waiting for reinitialize to complete on: n1\nReinitialize is completed on: n1\n"),
        "{said}"
    );
    let after = cluster.nodes[1].status();
    assert!(after["postmaster_start_time"] != before, "n1 was copied and started: {after}");
    cluster.wait_streaming(0, Limit(30));

    wait_for("nothing is found", Limit(30), || {
        let output = cluster.ctl(&["doctor"]);
        let complete = output.status.success() && output.stderr.is_empty();
        if complete { Ok(()) } else { Err(text(&output)) }
    });
    assert!(cluster.ctl_ok(&["explain"]).contains("n1 would take over: it is the only candidate"));
    let frozen = cluster.nodes[1].freeze();
    cluster.etcd.delete("members/n1");
    let found = text(&cluster.ctl(&["doctor"]));
    frozen.thaw();
    assert!(found.contains("n1 is not in the store any more, but its PostgreSQL still streams from n0"), "{found}");
    for command in ["explain", "doctor"] {
        let output = cluster.ctl(&[command, "nosuch"]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let said = text(&output);
        assert!(
            said.contains("there is no cluster nosuch in the store (etcd3 of the configuration): no key"),
            "{said}"
        );
        assert!(!said.contains("leader"), "{said}");
    }

    // Archiving that fails, a slot that nobody uses, a rule that keeps the replica out, a setting that waits.
    cluster.nodes[0].patch_config(&json!({
        "ignore_slots": [{"name": "forgotten"}],
        "postgresql": {"parameters": {"archive_mode": "on", "archive_command": "false", "max_connections": 60,
                                       "superuser_reserved_connections": 50}},
    }));
    cluster.nodes[0].config["postgresql"]["pg_hba"] =
        json!(["local all all trust", "host all all 127.0.0.1/32 md5", "host replication all 10.9.9.9/32 md5"]);
    cluster.nodes[0].write_config(&cluster.sandbox);
    cluster.ctl_ok(&["reload", "batman", "n0", "--force"]);
    wait_for("the findings", Limit(30), || {
        let output = cluster.ctl(&["doctor"]);
        let found = text(&output);
        let all = [
            "n0 has to be restarted for settings to take effect (",
            "\n  remedy: patronictl restart batman n0 --pending",
            "pg_hba.conf of n0 has no rule for replication of user replicator from n1 (127.0.0.1)",
        ];
        let complete = output.status.code() == Some(1) && all.iter().all(|one| found.contains(one));
        if complete { Ok(()) } else { Err(found) }
    });
    cluster.ctl_ok(&["restart", "batman", "n0", "--force"]);
    cluster.nodes[0].sql("SELECT pg_switch_wal()");
    wait_for("the archiver's failure", Limit(30), || {
        let found = text(&cluster.ctl(&["doctor"]));
        let told = ["n0 could not archive 0000", "(last success: never); segments that wait: "];
        if told.iter().all(|one| found.contains(one)) { Ok(()) } else { Err(found) }
    });
    wait_for("why the replica does not stream", Limit(30), || {
        let found = text(&cluster.ctl(&["doctor"]));
        let line = found.lines().find(|line| line.starts_with("* n1 does not stream"));
        let told = line.is_some_and(|line| line.contains("FATAL:  no pg_hba.conf entry for replication connection"));
        if told { Ok(()) } else { Err(found) }
    });
    // The doctor itself is let in as the superuser.
    let clients: Vec<_> = (0..10).map(|_| cluster.nodes[0].connect().unwrap()).collect();
    let found = text(&cluster.ctl(&["doctor"]));
    assert!(found.contains("* PostgreSQL of n0 takes no more connections of applications: "), "{found}");
    drop(clients);

    cluster.nodes[1].kill_agent();
    let explained = cluster.ctl_ok(&["explain"]);
    assert!(explained.contains("n1 is no candidate: its REST API does not answer"), "{explained}");
    assert!(explained.contains("If the leader died now, nobody could take over."), "{explained}");
    wait_for("the lost member", Limit(60), || {
        let found = text(&cluster.ctl(&["doctor"]));
        let lost = "the member of the slot n1 is not in the store any more, but n0 still keeps its slot";
        if found.contains(lost) { Ok(()) } else { Err(found) }
    });
}

/// An authority, and a certificate of it for 127.0.0.1 that both sides show.
fn certificates(sandbox: &Sandbox) -> [String; 3] {
    let path = |name: &str| sandbox.path().join(name).to_str().unwrap().to_owned();
    let [ca, ca_key, request, certificate, key] = ["ca.pem", "ca.key", "csr", "cert.pem", "key.pem"].map(path);
    let extension = sandbox.file("extension", "subjectAltName=IP:127.0.0.1\n");
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().expect("openssl must be installed");
        assert!(output.status.success(), "openssl {arguments:?}: {}", text(&output));
    };
    openssl(&["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=ca", "-keyout", &ca_key, "-out", &ca]);
    openssl(&["req", "-new", "-nodes", "-subj", "/CN=node", "-keyout", &key, "-out", &request]);
    let extension = extension.to_str().unwrap();
    let sign = ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    openssl(&[&sign[..], &["-extfile", extension, "-out", &certificate]].concat());
    for file in [&ca, &certificate, &key] {
        sandbox.give(std::path::Path::new(file));
    }
    [ca, certificate, key]
}

#[test]
fn members_behind_tls_and_passwords_are_reached() {
    let mut cluster = Cluster::of(2).prepare();
    let [ca, certificate, key] = certificates(&cluster.sandbox);
    let login = json!({"username": "adm", "password": "s3cret"});
    for node in &mut cluster.nodes {
        let restapi = node.config["restapi"].as_object_mut().unwrap();
        let tls = json!({"certfile": certificate, "keyfile": key, "cafile": ca, "verify_client": "required"});
        restapi.extend(tls.as_object().unwrap().clone());
        restapi.insert("authentication".to_owned(), login.clone());
        node.config["ctl"] = json!({"certfile": certificate, "keyfile": key, "cacert": ca, "authentication": login});
    }
    cluster.start_node(0);
    let rows = |cluster: &Cluster, state: &str| {
        wait_for(state, Limit(60), || {
            let rows = cluster.list();
            if rows.iter().any(|row| row["State"] == state) { Ok(rows) } else { Err(rows) }
        })
    };
    rows(&cluster, "running");
    cluster.start_node(1);
    rows(&cluster, "streaming");
    cluster.ctl_ok(&["reload", "batman", "--force"]);
    cluster.ctl_ok(&["pause", "--wait"]);
    cluster.ctl_ok(&["resume", "--wait"]);
    let said = cluster.ctl_ok(&["restart", "batman", "n1", "--force"]);
    assert!(said.contains("Success: restart on member n1"), "{said}");
    rows(&cluster, "streaming");
    let said = cluster.ctl_ok(&["switchover", "batman", "--candidate", "n1", "--force"]);
    assert!(said.contains("Successfully switched over to \"n1\""), "{said}");
    let found = text(&cluster.ctl(&["doctor"]));
    assert!(found.contains("the certificate of the REST API of n0 expires in 1 days"), "{found}");
    assert!(found.contains("the certificate of patronictl expires in 1 days"), "{found}");

    // The same from the environment alone, and what is said where a part is missing.
    let etcd = format!("127.0.0.1:{}", cluster.etcd.port);
    let environment = [
        ("PATRONI_SCOPE", "batman"),
        ("PATRONI_ETCD3_HOST", &etcd),
        ("PATRONI_RESTAPI_USERNAME", "adm"),
        ("PATRONI_RESTAPI_PASSWORD", "s3cret"),
        ("PATRONI_CTL_CERTFILE", &certificate),
        ("PATRONI_CTL_KEYFILE", &key),
        ("PATRONI_CTL_CACERT", &ca),
    ];
    let run = |without: &[&str], arguments: &[&str]| {
        let given = environment.iter().filter(|(name, _)| !without.contains(name));
        let mut command = cluster.sandbox.command(&cluster.programs.patronictl);
        text(&command.envs(given.copied()).args(arguments).output().unwrap())
    };
    let reload = |without: &[&str]| run(without, &["reload", "batman", "n1", "--force"]);
    assert!(reload(&[]).contains("Reload request received for member n1"), "{}", reload(&[]));
    for (without, expected) in [
        (&["PATRONI_RESTAPI_USERNAME", "PATRONI_RESTAPI_PASSWORD"][..], "status code=401"),
        (&["PATRONI_CTL_CACERT"], "is not trusted: it is issued by nobody who is trusted here"),
        (&["PATRONI_CTL_CERTFILE", "PATRONI_CTL_KEYFILE"], "it wants a certificate of this side"),
    ] {
        let said = reload(without);
        assert!(said.contains(expected), "without {without:?}: {said}");
    }
    let found = run(&["PATRONI_CTL_CACERT"], &["doctor", "batman"]);
    assert!(found.contains("remedy: name the authority of its certificate in ctl.cacert, or give -k"), "{found}");
    assert!(!found.contains("delete the key"), "{found}");
}
