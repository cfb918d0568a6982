//! Where a record ends depends on version and platform, so pg_waldump is asked.

use patroni_core::lsn::{Lsn, Timeline};

use super::RewindContext;
use crate::Result;
use crate::cancel::Cancel;
use crate::programs::Output;

/// Reads the record at `lsn` with pg_waldump, and one more, which has to be missing: the complaint names where it would be. `None` if
/// something follows the checkpoint, or the output is another.
pub(super) async fn checkpoint_end(context: &RewindContext, timeline: Timeline, lsn: Lsn) -> Result<Option<Lsn>> {
    let output = run(context, timeline, lsn, &["-n", "2"]).await?;
    let end = parse(lsn, &output.stdout, &output.stderr);
    if end.is_none() {
        tracing::error!("Failed to parse pg_waldump output");
        tracing::error!(" stdout={}", output.stdout.trim_end());
        tracing::error!(" stderr={}", output.stderr.trim_end());
    }
    Ok(end)
}

/// All WAL between two positions is here.
pub(super) async fn is_readable(context: &RewindContext, timeline: Timeline, from: Lsn, until: Lsn) -> Result<bool> {
    // A summary, not a line for each record.
    let output = run(context, timeline, from, &["-z", "-e", &until.to_string()]).await?;
    Ok(output.status.success())
}

async fn run(context: &RewindContext, timeline: Timeline, from: Lsn, more: &[&str]) -> Result<Output> {
    let mut command = context.programs.command("pg_waldump");
    command.args(["-t", &timeline.to_string(), "-s", &from.to_string()]).args(more);
    command.env("LANG", "C").env("LC_ALL", "C").env("PGDATA", &context.options.data_dir);
    context.programs.capture(command, &Cancel::new(), Some(context.limit)).await
}

fn parse(lsn: Lsn, stdout: &str, stderr: &str) -> Option<Lsn> {
    let record = format!(", lsn: {:X}/{:08X}, prev ", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF);
    let one_line = |text: &'_ str| text.trim_end().lines().count() == 1;
    if !one_line(stdout) || !one_line(stderr) || !stdout.contains(&record) {
        return None;
    }
    let complaint = format!("error in WAL record at {lsn}: invalid record length at ");
    let (_, rest) = stderr.split_once(&complaint)?;
    // ": wanted 24, got 0", from PostgreSQL 16 on ": expected at least 24, got 0".
    let end = rest.split(':').next()?;
    end.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complaint_names_the_end() {
        let out = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/0182E220, prev 0/0182E1E8, desc: CHECKPOINT_SHUTDOWN\n";
        let before_16 = "pg_waldump: fatal: error in WAL record at 0/182E220: invalid record length at 0/182E298: wanted 24, got 0\n";
        let since_16 = "pg_waldump: error: error in WAL record at 0/182E220: invalid record length at 0/182E298: expected at least 24, got 0";
        let lsn = Lsn(0x182_E220);
        for (stdout, stderr, expected) in [
            (out, before_16, Some(Lsn(0x182_E298))),
            (out, since_16, Some(Lsn(0x182_E298))),
            ("", before_16, None),
            (out, "", None),
            (&*format!("{out}{out}"), "", None),
            (out, "pg_waldump: fatal: error in WAL record at 0/182E220: invalid magic number", None),
            (&*out.replace("0182E220", "0182E221"), before_16, None),
        ] {
            assert_eq!(parse(lsn, stdout, stderr), expected, "{stdout:?} {stderr:?}");
        }
    }
}
