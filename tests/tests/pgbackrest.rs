//! pgBackRest as it is used with Patroni: archive, replicas made of the repository, a new cluster made of it as it was at
//! a point in time. `./test` installs it.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use patroni_tests::{Cluster, Limit, json, wait_for};

#[test]
fn replicas_and_new_clusters_come_from_the_repository_of_pgbackrest() {
    if !std::path::Path::new("/usr/bin/pgbackrest").exists() {
        eprintln!("SKIPPED: pgbackrest is not installed (apt-get install pgbackrest)");
        return;
    }
    let mut cluster = Cluster::of(2).prepare();
    let configuration = configure(&mut cluster);
    cluster.start_node(0);
    cluster.nodes[0].wait_primary(Limit(60));
    run(&cluster, &configuration, &["stanza-create"]);
    run(&cluster, &configuration, &["backup", "--type=full", "--start-fast"]);
    let primary = &cluster.nodes[0];
    // pgBackRest counts in whole seconds: the point in time has to be in a later one than the end of the backup.
    let end = primary.sql("SELECT clock_timestamp()");
    primary.wait_sql(&format!("SELECT clock_timestamp() > '{end}'::timestamptz + interval '1 second'"), "t", Limit(10));
    primary.sql("CREATE TABLE t AS SELECT 'wanted' AS row");
    let target = primary.sql("SELECT to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.US') || '+00'");
    primary.sql("INSERT INTO t VALUES ('by mistake')");
    let segment = primary.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    primary.sql("SELECT pg_switch_wal()");
    let archived = format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver");
    primary.wait_sql(&archived, "t", Limit(60));

    // A replica from the repository, not from the primary.
    cluster.start_node(1);
    cluster.nodes[1].wait_streaming(Limit(60));
    cluster.nodes[1].wait_log("replica has been created using pgbackrest", Limit(1));
    cluster.nodes[1].wait_sql("SELECT count(*) FROM t", "2", Limit(20));

    // A new cluster, as all was before the mistake.
    let mut restored = Cluster::of(1).prepare();
    let pgbackrest = format!(
        "/usr/bin/pgbackrest --config={configuration} --stanza=main --pg1-path={} --lock-path={} restore --type=time \
         '--target={target}' --target-action=promote",
        restored.nodes[0].data.display(),
        restored.sandbox.path().display(),
    );
    restored.nodes[0].config["bootstrap"]["method"] = json!("pgbackrest");
    restored.nodes[0].config["bootstrap"]["pgbackrest"] =
        json!({"command": pgbackrest, "keep_existing_recovery_conf": true, "no_params": true});
    restored.start_node(0);
    restored.nodes[0].wait_primary(Limit(90));
    assert_eq!(restored.nodes[0].sql("SELECT string_agg(row, ' ') FROM t"), "wanted");
    assert!(restored.nodes[0].timeline() > 1);
    wait_for("the new cluster is in its store", Limit(10), || restored.etcd.get("initialize").ok_or("no key"));
}

/// Archive and replica method of all nodes, by pgBackRest's configuration; where that is.
fn configure(cluster: &mut Cluster) -> String {
    let repository = cluster.sandbox.directory("repository");
    let mut text = format!(
        "[global]\nrepo1-path={}\nlog-level-file=off\nlog-level-console=warn\nlock-path={}\ncompress-type=none\n\n[main]\n",
        repository.display(),
        cluster.sandbox.directory("lock").display(),
    );
    let node = &cluster.nodes[0];
    text += &format!("pg1-path={}\npg1-port={}\n", node.data.display(), node.pg_port);
    text += &format!("pg1-socket-path={}\npg1-user=postgres\n", node.directory().display());
    let configuration = cluster.sandbox.file("pgbackrest.conf", &text).display().to_string();
    for node in &mut cluster.nodes {
        let own =
            format!("/usr/bin/pgbackrest --config={configuration} --stanza=main --pg1-path={}", node.data.display());
        let parameters = &mut node.config["bootstrap"]["dcs"]["postgresql"]["parameters"];
        parameters["archive_mode"] = json!("on");
        parameters["timezone"] = json!("UTC");
        node.config["postgresql"]["parameters"]["archive_command"] = json!(format!("{own} archive-push %p"));
        node.config["postgresql"]["recovery_conf"] = json!({"restore_command": format!("{own} archive-get %f %p")});
        node.config["postgresql"]["create_replica_methods"] = json!(["pgbackrest", "basebackup"]);
        node.config["postgresql"]["pgbackrest"] = json!({"command": format!("{own} --delta restore"), "keep_data": true, "no_params": true, "no_leader": true});
    }
    configuration
}

fn run(cluster: &Cluster, configuration: &str, arguments: &[&str]) {
    let mut command = cluster.sandbox.command(std::path::Path::new("/usr/bin/pgbackrest"));
    command.arg(format!("--config={configuration}")).arg("--stanza=main").args(arguments);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pgbackrest {arguments:?}: {text}");
}
