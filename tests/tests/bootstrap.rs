//! From empty directories to a cluster; what is adopted, refused and cleaned up on the way.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Kind, Limit, json, wait_for};

#[test]
fn three_empty_directories_become_a_cluster() {
    let mut cluster = Cluster::of(3).prepare();
    // All at once: they race for the initialize key, and only one may win.
    for index in 0..3 {
        cluster.start_node(index);
    }
    let leader = cluster.wait_leader_among(&[0, 1, 2], Limit(60));
    cluster.wait_streaming(leader, Limit(60));

    cluster.nodes[leader].sql("CREATE TABLE t AS SELECT 42 AS answer");
    for node in &cluster.nodes {
        node.wait_sql("SELECT answer FROM t", "42", Limit(10));
    }
    let system = cluster.nodes[0].sql("SELECT system_identifier FROM pg_control_system()");
    assert_eq!(cluster.key("initialize"), Some(system));
    let checksums = cluster.nodes[leader].sql("SHOW data_checksums");
    assert_eq!(checksums, "on", "initdb options");
    let slots = "SELECT string_agg(slot_name, ',' ORDER BY 1) FROM pg_replication_slots";
    let others: Vec<String> = (0..3).filter(|i| *i != leader).map(|i| format!("n{i}")).collect();
    cluster.nodes[leader].wait_sql(slots, &others.join(","), Limit(10));

    let members = cluster.list();
    assert_eq!(members.len(), 3);
    let roles = |role: &str| members.iter().filter(|member| member["Role"] == role).count();
    assert_eq!((roles("Leader"), roles("Replica")), (1, 2), "{members:?}");
}

#[test]
fn users_and_post_init_script_and_hba_are_set_up() {
    let script = "#!/bin/sh\npsql -w -d \"$1\" -c 'CREATE DATABASE by_post_init'\n";
    let mut cluster = Cluster::of(1).prepare();
    let path = cluster.sandbox.file("post_init", script);
    let node = &mut cluster.nodes[0];
    node.config["bootstrap"]["post_init"] = json!(path);
    node.config["postgresql"]["pg_ident"] = json!(["mapped root postgres"]);
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    let node = &cluster.nodes[0];
    assert_eq!(node.sql("SELECT count(*) FROM pg_database WHERE datname = 'by_post_init'"), "1");
    assert_eq!(node.sql("SELECT rolreplication FROM pg_roles WHERE rolname = 'replicator'"), "t");
    assert_eq!(node.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'rewinder'"), "1");
    assert_eq!(node.sql("SELECT has_function_privilege('rewinder', 'pg_read_binary_file(text)', 'execute')"), "t");
    let hba = "SELECT count(*) FROM pg_hba_file_rules WHERE 'replicator' = ANY(user_name) AND auth_method = 'md5'";
    assert_eq!(node.sql(hba), "1");
    assert_eq!(node.sql("SELECT count(*) FROM pg_ident_file_mappings WHERE map_name = 'mapped'"), "1");
}

#[test]
fn a_failed_bootstrap_cleans_up_and_is_tried_again() {
    let mut cluster = Cluster::of(1).prepare();
    let marker = cluster.sandbox.path().join("may-succeed");
    let script = format!("#!/bin/sh\ntest -e {}\n", marker.display());
    let path = cluster.sandbox.file("post_init", &script);
    cluster.nodes[0].config["bootstrap"]["post_init"] = json!(path);
    cluster.start_node(0);
    // The reference ends after a failed bootstrap and leaves the next attempt to whoever starts it again.
    let node = &cluster.nodes[0];
    wait_for("the failure is logged and the key is released", Limit(60), || {
        let failed = node.log().contains("post_init") || node.log().contains("post_bootstrap");
        let released = cluster.key("initialize").is_none();
        let moved_away = !node.data.join("PG_VERSION").exists();
        if failed && released && moved_away { Ok(()) } else { Err((failed, released, moved_away)) }
    });
    cluster.sandbox.file("may-succeed", "");
    if !cluster.nodes[0].agent_runs() {
        cluster.start_node(0);
    }
    wait_for("the second attempt works", Limit(60), || {
        if !cluster.nodes[0].agent_runs() {
            cluster.start_node(0);
        }
        let status = cluster.nodes[0].status_of("/primary");
        if status == 200 { Ok(()) } else { Err(status) }
    });
}

#[test]
fn an_existing_data_directory_is_adopted() {
    let mut cluster = Cluster::of(2).prepare();
    let data = cluster.nodes[0].data.clone();
    let path = data.to_str().unwrap();
    let socket = cluster.nodes[0].directory().to_str().unwrap().to_owned();
    let password = cluster.sandbox.file("password", "super-secret\n");
    let auth = format!("--pwfile={}", password.display());
    let node = &cluster.nodes[0];
    node.pg_program(&cluster.sandbox, "initdb", &["-D", path, "-U", "postgres", "--auth=trust", "--no-sync", &auth]);
    let server = format!("-c port={} -c unix_socket_directories={socket}", node.pg_port);
    node.pg_program(&cluster.sandbox, "pg_ctl", &["start", "-w", "-D", path, "-l", "/dev/null", "-o", &server]);
    node.sql("CREATE TABLE precious AS SELECT 1 AS row");
    node.sql("CREATE USER replicator REPLICATION PASSWORD 'rep-secret'");
    node.pg_program(&cluster.sandbox, "pg_ctl", &["stop", "-m", "fast", "-D", path]);

    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    assert_eq!(cluster.nodes[0].sql("SELECT row FROM precious"), "1");
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    cluster.nodes[1].wait_sql("SELECT row FROM precious", "1", Limit(10));
}

#[test]
fn a_running_server_is_taken_over_without_a_restart() {
    let mut cluster = Cluster::of(2).prepare();
    let node = &cluster.nodes[0];
    let path = node.data.to_str().unwrap().to_owned();
    let socket = node.directory().to_str().unwrap().to_owned();
    let password = cluster.sandbox.file("password", "super-secret\n");
    let auth = format!("--pwfile={}", password.display());
    node.pg_program(&cluster.sandbox, "initdb", &["-D", &path, "-U", "postgres", "--auth=trust", "--no-sync", &auth]);
    let server = format!("-c port={} -c unix_socket_directories={socket}", node.pg_port);
    node.pg_program(&cluster.sandbox, "pg_ctl", &["start", "-w", "-D", &path, "-l", "/dev/null", "-o", &server]);
    node.sql("CREATE TABLE precious AS SELECT 1 AS row");
    node.sql("CREATE USER replicator REPLICATION PASSWORD 'rep-secret'");
    let (postmaster, mut client) = (node.postmaster(), node.connect().unwrap());

    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    cluster.nodes[1].wait_sql("SELECT row FROM precious", "1", Limit(10));
    assert_eq!(cluster.nodes[0].postmaster(), postmaster);
    client.simple_query("INSERT INTO precious VALUES (2)").unwrap();
    // What only a restart can change waits for one, visibly.
    cluster.nodes[0].wait_state("tells of the settings that wait", Limit(20), |state| state["pending_restart"] == true);
}

#[test]
fn a_foreign_data_directory_is_refused() {
    let mut cluster = Cluster::of(2).prepare();
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    let data = cluster.nodes[1].data.clone();
    let path = data.to_str().unwrap();
    cluster.nodes[1].pg_program(&cluster.sandbox, "initdb", &["-D", path, "-U", "postgres", "--no-sync"]);
    let control = std::fs::read(data.join("global/pg_control")).unwrap();
    cluster.start_node(1);
    assert_eq!(cluster.nodes[1].wait_exit(Limit(30)).code(), Some(1));
    cluster.nodes[1].wait_log("system ID mismatch, node n1 belongs to a different cluster", Limit(1));
    if !cluster.programs.test_the_reference() {
        cluster.nodes[1].wait_log("remove it and start again", Limit(1));
    }
    assert_eq!(std::fs::read(data.join("global/pg_control")).unwrap(), control, "the foreign data are untouched");
    assert_eq!(cluster.nodes[0].status_of("/primary"), 200);
}

#[test]
fn a_clone_that_fails_cleans_up_and_is_tried_again() {
    let mut cluster = Cluster::of(2).prepare();
    let real = cluster.programs.pg_bin.join("pg_basebackup");
    let marker = cluster.sandbox.path().join("may-succeed");
    let script = format!(
        "#!/bin/sh\n{} \"$@\" || exit\n# A backup that breaks at its end.\ntest -e {}\n",
        real.display(),
        marker.display()
    );
    cluster.replace_program(1, "pg_basebackup", &script);

    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.start_node(1);
    cluster.nodes[1].wait_log("pg_basebackup exited with code=1", Limit(60));
    wait_for("the broken copy is removed", Limit(30), || {
        if cluster.nodes[1].data.join("PG_VERSION").exists() { Err("still there") } else { Ok(()) }
    });
    cluster.sandbox.file("may-succeed", "");
    cluster.nodes[1].wait_streaming(Limit(60));
}

#[test]
fn a_second_agent_with_a_running_members_name_ends() {
    let mut cluster = Cluster::of(2).prepare();
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    cluster.nodes[1].config["name"] = json!("n0");
    cluster.start_node(1);
    let status = cluster.nodes[1].wait_exit(Limit(20));
    assert!(!status.success());
    assert!(cluster.nodes[1].log().contains("Can't start; there is already a node named 'n0' running"));
    assert_eq!(cluster.nodes[0].status_of("/primary"), 200);
}

#[test]
fn versions_and_help_are_printed() {
    let cluster = Cluster::mixed(&[Kind::Ours]).prepare();
    for (program, word) in
        [(&cluster.programs.patroni, "patroni "), (&cluster.programs.patronictl, "patronictl version ")]
    {
        let argument = if program == &cluster.programs.patroni { "--version" } else { "version" };
        let output = cluster.sandbox.command(program).arg(argument).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.starts_with(word), "{text}");
    }
    for name in ["patroni", "patronictl"] {
        let program = if name == "patroni" { &cluster.programs.patroni } else { &cluster.programs.patronictl };
        let output = cluster.sandbox.command(program).arg("--help").output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{name} --help");
    }
}
