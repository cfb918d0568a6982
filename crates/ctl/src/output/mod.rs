//! What commands print: tables, and the formats that programs read.

pub(crate) mod rows;
pub(crate) mod table;
pub(crate) mod yaml;

use std::io::Write;

/// Writes text to standard output. A reader that went away ends the program quietly, as it would any other tool.
pub(crate) fn write(text: &str) {
    write_bytes(text.as_bytes());
}

/// As [`write()`], whatever the bytes are.
pub(crate) fn write_bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(1);
    }
}

/// Writes a line to standard output.
pub(crate) fn echo(line: &str) {
    write(&format!("{line}\n"));
}

/// Writes a warning to standard error, in the format of the reference.
pub(crate) fn warn(text: &str) {
    eprintln!("{} - WARNING - {text}", jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S,%3f"));
}

/// The local time, to the second.
pub(crate) fn timestamp_seconds() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The local time as messages of switchovers show it: to a hundred-thousandth of a second.
pub(crate) fn timestamp() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S.%5f").to_string()
}

/// The time in an hour, as an example of what to answer at a prompt.
pub(crate) fn next_hour() -> String {
    let now = jiff::Zoned::now();
    let later = now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap_or(now);
    later.strftime("%Y-%m-%dT%H:%M").to_string()
}
