//! Checks of single values that look at the machine: addresses, directories, programs.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::python::{PythonText, quoted};
use patroni_core::units::parse_bool;
use serde_json::Value;

use super::Validation;

type Checked = Result<(), String>;

/// How long a connection may take before its address counts as not reachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

fn err(text: &str) -> Checked {
    Err(text.to_owned())
}

fn wrong_value() -> String {
    "contains a wrong value".to_owned()
}

pub(super) fn listen(validation: &Validation<'_>, data: &Value) -> Checked {
    reachable(validation, data, Side::Listen, |hosts| vec![hosts])
}

pub(super) fn listen_multiple(validation: &Validation<'_>, data: &Value) -> Checked {
    reachable(validation, data, Side::Listen, |hosts| hosts.split(',').map(str::to_owned).collect())
}

pub(super) fn host_port(validation: &Validation<'_>, data: &Value) -> Checked {
    reachable(validation, data, Side::Connect, |hosts| vec![hosts])
}

pub(super) fn host_port_list(validation: &Validation<'_>, data: &Value) -> Checked {
    data.as_array().into_iter().flatten().try_for_each(|item| host_port(validation, item))
}

pub(super) fn comma_separated_host_port(validation: &Validation<'_>, data: &Value) -> Checked {
    let text = data.as_str().unwrap_or_default();
    text.split(',').try_for_each(|part| host_port(validation, &Value::from(part.trim())))
}

pub(super) fn connect_address(_: &Validation<'_>, data: &Value) -> Checked {
    let (host, _) = split_host_port(data).map_err(|_| wrong_value())?;
    match host.as_str() {
        "127.0.0.1" | "0.0.0.0" | "*" | "::1" | "localhost" => {
            err("must not contain \"127.0.0.1\", \"0.0.0.0\", \"*\", \"::1\", \"localhost\"")
        }
        _ => Ok(()),
    }
}

/// Will we listen there, or connect?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Listen,
    Connect,
}

fn reachable(validation: &Validation<'_>, data: &Value, side: Side, hosts: fn(String) -> Vec<String>) -> Checked {
    let (host, port) = split_host_port(data)?;
    let mut hosts = hosts(host);
    if hosts.iter().any(|host| host == "*") {
        if hosts.len() != 1 {
            return err("expecting '*' alone");
        }
        hosts = vec!["0.0.0.0".to_owned(), "::".to_owned()];
    }
    for host in hosts {
        let address = first_address(&host)?;
        let Ok(port) = u16::try_from(port) else { return err("connect_ex(): port must be 0-65535.") };
        let address = SocketAddr::new(address.ip(), port);
        let answers = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok();
        match side {
            Side::Listen if answers && !validation.options.ignore_listen_port => {
                return Err(format!("Port {port} is already in use."));
            }
            Side::Connect if !answers => return Err(format!("{} is not reachable", data.python_text())),
            Side::Listen | Side::Connect => {}
        }
    }
    Ok(())
}

/// `host:port`; the port is 1 where there is none. Brackets around IPv6 addresses are taken off.
fn split_host_port(data: &Value) -> Result<(String, i64), String> {
    let Value::String(text) = data else {
        return Err(format!("'{}' object has no attribute 'rsplit'", python_type(data)));
    };
    let (host, port) = match text.rsplit_once(':') {
        None => (text.as_str(), 1),
        Some((host, port)) => (host, port.trim().parse().map_err(|_| wrong_value())?),
    };
    if !host.contains(':') {
        return Ok((host.to_owned(), port));
    }
    let hosts: Vec<&str> = host.split(',').map(|host| host.trim().trim_matches(['[', ']'])).collect();
    Ok((hosts.join(","), port))
}

fn python_type(data: &Value) -> &'static str {
    match data {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

fn first_address(host: &str) -> Result<SocketAddr, String> {
    let found = (host, 0).to_socket_addrs().map(|mut addresses| addresses.next());
    match found {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(resolver_error("No address associated with hostname")),
        Err(error) => Err(resolver_error(&error.to_string())),
    }
}

/// The resolver's error with its number, as Python shows it.
fn resolver_error(text: &str) -> String {
    let numbers = [
        (-2, "Name or service not known"),
        (-3, "Temporary failure in name resolution"),
        (-4, "Non-recoverable failure in name resolution"),
        (-5, "No address associated with hostname"),
    ];
    match numbers.iter().find(|(_, known)| text.ends_with(known)) {
        Some((number, known)) => format!("[Errno {number}] {known}"),
        None => text.to_owned(),
    }
}

pub(super) fn ipv4(_: &Validation<'_>, data: &Value) -> Checked {
    match data.as_str().is_some_and(is_ipv4) {
        true => Ok(()),
        false => err("Is not a valid ipv4 address"),
    }
}

pub(super) fn ipv6(_: &Validation<'_>, data: &Value) -> Checked {
    match data.as_str().is_some_and(|text| text.parse::<Ipv6Addr>().is_ok()) {
        true => Ok(()),
        false => err("Is not a valid ipv6 address"),
    }
}

/// What `inet_aton` takes: one to four numbers, decimal, octal or hexadecimal; the last fills the bytes that are left.
fn is_ipv4(text: &str) -> bool {
    let number = |part: &str| {
        if let Some(hex) = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
            return u64::from_str_radix(hex, 16).ok();
        }
        let radix = if part.len() > 1 && part.starts_with('0') { 8 } else { 10 };
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| u64::from_str_radix(part, radix).ok()).flatten()
    };
    let parts: Option<Vec<u64>> = text.split('.').map(number).collect();
    match parts.as_deref().and_then(|parts| parts.split_last()) {
        Some((last, first)) if first.len() < 4 => {
            first.iter().all(|part| *part < 256) && *last < 1 << (8 * (4 - first.len()))
        }
        _ => false,
    }
}

pub(super) fn watchdog_mode(_: &Validation<'_>, data: &Value) -> Checked {
    match data {
        Value::Bool(false) => Ok(()),
        Value::String(mode) if matches!(mode.as_str(), "off" | "automatic" | "required") => Ok(()),
        Value::String(_) | Value::Bool(true) => err("Wrong value"),
        _ => err("expected type is not a string"),
    }
}

pub(super) fn compatibility(_: &Validation<'_>, data: &Value) -> Checked {
    if matches!(&*data.python_text(), "2" | "4") { Ok(()) } else { err("should be 2 or 4") }
}

pub(super) fn synchronous_mode(_: &Validation<'_>, data: &Value) -> Checked {
    let is_quorum = data.as_str().is_some_and(|mode| mode.eq_ignore_ascii_case("quorum"));
    if is_quorum || parse_bool(data).is_some() { Ok(()) } else { err("invalid value for synchronous_mode") }
}

pub(super) fn disk_free_warning(_: &Validation<'_>, data: &Value) -> Checked {
    let known = patroni_core::settings::disk_free_warning(data).is_some();
    if known { Ok(()) } else { err("should be a share of the disk (5%) or a size (10GB)") }
}

pub(super) fn full_wal_switchover(_: &Validation<'_>, data: &Value) -> Checked {
    let known = patroni_core::settings::full_wal_switchover(data).is_some();
    if known { Ok(()) } else { err("should be crash, on or off") }
}

pub(super) fn log_format(_: &Validation<'_>, data: &Value) -> Checked {
    let is_field = |item: &Value| match item {
        Value::String(_) => true,
        Value::Object(map) => map.len() == 1 && map.values().all(Value::is_string),
        _ => false,
    };
    match data {
        Value::String(_) => Ok(()),
        Value::Array(items) if items.is_empty() => err("should contain at least one item"),
        Value::Array(items) if items.iter().all(is_field) => Ok(()),
        Value::Array(_) => err("each item should be a string or a dictionary with string values"),
        _ => err("Should be a string or a list"),
    }
}

/// The programs that have to be there; pg_rewind is only needed where it is used.
const PROGRAMS: &[&str] = &["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready"];

/// What is missing in the directory of programs, or in PATH if it is not set.
pub(super) fn programs(root: &JsonMap, dir: &str) -> Vec<String> {
    let path = Path::new(dir);
    if !dir.is_empty() && !path.exists() {
        return vec![format!("Directory '{dir}' does not exist.")];
    }
    if !dir.is_empty() && !path.is_dir() {
        return vec![format!("'{dir}' is not a directory.")];
    }
    let dir = Some(dir).filter(|dir| !dir.is_empty());
    let names = PROGRAMS.iter().map(|program| bin_name(root, program));
    names
        .filter(|name| which(name, dir).is_none())
        .map(|name| format!("does not contain '{name}' in '{}'", dir.unwrap_or("$PATH")))
        .collect()
}

fn bin_name(root: &JsonMap, program: &str) -> String {
    let names = root.get("postgresql").and_then(|p| p.get("bin_name"));
    names.and_then(|names| names.get(program)).map_or_else(|| program.to_owned(), |n| n.python_text().into_owned())
}

fn bin_dir(root: &JsonMap) -> Option<&str> {
    root.get("postgresql").and_then(|p| p.get("bin_dir")).and_then(Value::as_str)
}

pub(super) fn binary_name(validation: &Validation<'_>, data: &Value) -> Checked {
    let name = data.as_str().unwrap_or_default();
    if name.is_empty() {
        return err("is an empty string");
    }
    let dir = bin_dir(validation.root);
    match which(name, dir) {
        Some(_) => Ok(()),
        None => Err(format!("does not contain '{name}' in '{}'", dir.filter(|d| !d.is_empty()).unwrap_or("$PATH"))),
    }
}

/// Where a program is: in the directories given, else in PATH. A name with a slash is a path.
fn which(name: &str, dirs: Option<&str>) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| is_program(path));
    }
    let path = match dirs {
        Some(dirs) => dirs.into(),
        None => std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into()),
    };
    std::env::split_paths(&path)
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(|dir| dir.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

pub(super) fn data_dir(validation: &Validation<'_>, data: &Value) -> Checked {
    let text = data.as_str().unwrap_or_default();
    let dir = Path::new(text);
    if text.is_empty() {
        return err("is an empty string");
    }
    if dir.exists() && !dir.is_dir() {
        return err("is not a directory");
    }
    if is_empty(dir).map_err(|error| os_error(&error, dir))? {
        return Ok(());
    }
    let Ok(version) = std::fs::read_to_string(dir.join("PG_VERSION")) else {
        return err("doesn't look like a valid data directory");
    };
    let version = version.trim();
    let number: f64 = version.parse().map_err(|_| format!("could not convert string to float: {}", quoted(version)))?;
    let wal = if number >= 10.0 { "pg_wal" } else { "pg_xlog" };
    if !dir.join(wal).is_dir() {
        return Err(format!("data dir for the cluster is not empty, but doesn't contain \"{wal}\" directory"));
    }
    let installed = major_version(validation.root)?;
    if version == installed {
        return Ok(());
    }
    Err(format!(
        "data_dir directory postgresql version ({version}) doesn't match with 'postgres --version' output ({installed})"
    ))
}

/// Nothing but hidden files and `lost+found`.
fn is_empty(dir: &Path) -> io::Result<bool> {
    if dir.join("global/pg_control").is_file() {
        return Ok(false);
    }
    if !dir.exists() {
        return Ok(true);
    }
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name != "lost+found" && !name.to_string_lossy().starts_with('.') {
            return Ok(false);
        }
    }
    Ok(true)
}

fn os_error(error: &io::Error, path: &Path) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let number = error.raw_os_error().unwrap_or_default();
    format!("[Errno {number}] {text}: {}", quoted(&path.to_string_lossy()))
}

/// The major version of the PostgreSQL that is installed, by `postgres --version`.
fn major_version(root: &JsonMap) -> Result<String, String> {
    let name = bin_name(root, "postgres");
    let program = match bin_dir(root).filter(|dir| !dir.is_empty()) {
        Some(dir) => Path::new(dir).join(name),
        None => PathBuf::from(name),
    };
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .map_err(|error| format!("Failed to get postgres version: {}", os_error(&error, &program)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let full = text.split_whitespace().nth(2).unwrap_or_default();
    let end = full.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(full.len());
    let parts: Vec<&str> = full[..end].split('.').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => Err(format!("cannot find a version in the output of {} --version: {text}", program.display())),
        [major, minor, ..] if major.parse::<u32>().is_ok_and(|n| n < 10) => Ok(format!("{major}.{minor}")),
        [major, ..] => Ok((*major).to_owned()),
    }
}
