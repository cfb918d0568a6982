//! `disk_free_warning` and `full_wal_switchover`.

use serde_json::Value;

use super::reader::{BOOLEAN, Reader};
use super::{DiskSettings, FullWalSwitchover};
use crate::disk::Threshold;
use crate::python::PythonText;
use crate::units::{parse_bool, parse_int};

/// The settings in force; the default where one cannot be used.
pub(super) fn disk(reader: &mut Reader<'_>) -> DiskSettings {
    let default = DiskSettings::default();
    let share = "a share of the disk (5%) or a size (10GB; in megabytes without a unit)";
    DiskSettings {
        warning: read(reader, "disk_free_warning", disk_free_warning, share).unwrap_or(default.warning),
        switchover: read(reader, "full_wal_switchover", full_wal_switchover, &format!("{BOOLEAN} or crash"))
            .unwrap_or(default.switchover),
    }
}

fn read<T>(reader: &mut Reader<'_>, name: &str, parse: fn(&Value) -> Option<T>, allowed: &str) -> Option<T> {
    let value = reader.value(name)?;
    let parsed = parse(value);
    if parsed.is_none() {
        reader.refuse(name, value, allowed);
    }
    parsed
}

/// `disk_free_warning`: a share such as `5%`, or a size (in megabytes, where it has no unit). `None` where it is neither.
pub fn disk_free_warning(value: &Value) -> Option<Threshold> {
    let text = value.python_text();
    if let Some(percent) = text.trim().strip_suffix('%') {
        let percent = percent.trim().parse().ok().filter(|percent| *percent <= 100)?;
        return Some(Threshold { percent, at_most: u64::MAX });
    }
    let megabytes = u64::try_from(parse_int(value, Some("MB"))?).ok()?;
    Some(Threshold { percent: 100, at_most: megabytes.checked_mul(1 << 20)? })
}

/// `full_wal_switchover`: `crash`, or a boolean. `None` where it is neither.
pub fn full_wal_switchover(value: &Value) -> Option<FullWalSwitchover> {
    match parse_bool(value) {
        Some(true) => Some(FullWalSwitchover::On),
        Some(false) => Some(FullWalSwitchover::Off),
        None => value.python_text().eq_ignore_ascii_case("crash").then_some(FullWalSwitchover::Crash),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shares_and_sizes() {
        let share = |percent| Some(Threshold { percent, at_most: u64::MAX });
        let size = |megabytes: u64| Some(Threshold { percent: 100, at_most: megabytes << 20 });
        let rows = [
            (json!("5%"), share(5)),
            (json!(" 100 % "), share(100)),
            (json!("101%"), None),
            (json!("-1%"), None),
            (json!("10GB"), size(10 << 10)),
            (json!(64), size(64)),
            (json!(0), size(0)),
            (json!(-1), None),
            (json!("much"), None),
            (json!([]), None),
        ];
        for (value, expected) in rows {
            assert_eq!(disk_free_warning(&value), expected, "{value}");
        }
    }

    #[test]
    fn when_to_hand_over() {
        let rows = [
            (json!("crash"), Some(FullWalSwitchover::Crash)),
            (json!("on"), Some(FullWalSwitchover::On)),
            (json!(true), Some(FullWalSwitchover::On)),
            (json!(false), Some(FullWalSwitchover::Off)),
            (json!("off"), Some(FullWalSwitchover::Off)),
            (json!("always"), None),
        ];
        for (value, expected) in rows {
            assert_eq!(full_wal_switchover(&value), expected, "{value}");
        }
    }
}
