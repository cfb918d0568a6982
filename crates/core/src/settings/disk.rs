//! `disk_free_warning`.

use serde_json::Value;

use super::reader::Reader;
use crate::disk::Threshold;
use crate::python::PythonText;
use crate::units::parse_int;

/// The setting in force; the default where it cannot be used.
pub(super) fn read(reader: &mut Reader<'_>) -> Threshold {
    let name = "disk_free_warning";
    let Some(value) = reader.value(name) else { return Threshold::default() };
    disk_free_warning(value).unwrap_or_else(|| {
        reader.refuse(name, value, "a share of the disk (5%) or a size (10GB; in megabytes without a unit)");
        Threshold::default()
    })
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
}
