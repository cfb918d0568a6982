//! The one call to the kernel that has no safe wrapper.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::ioctl::{Updater, ioctl, opcode};

/// `WDIOC_SETTIMEOUT` of `linux/watchdog.h`: read and write of an `int`, in seconds.
const SET_TIMEOUT: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'W', 6);

/// Sets the time after which the device acts.
///
/// # Errors
/// It is no watchdog, refuses, or takes another time than this: a longer one would act too late.
pub(super) fn set_timeout(device: &File, timeout: Duration) -> io::Result<()> {
    let wanted = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
    let mut seconds = wanted;
    // SAFETY: the operation reads and writes one `int`, which is what the pointer made here refers to.
    unsafe { ioctl(device, Updater::<SET_TIMEOUT, i32>::new(&mut seconds))? };
    if seconds == wanted {
        return Ok(());
    }
    Err(io::Error::other(format!("it takes {seconds} seconds in place of {wanted}; set ttl or safety_margin to match")))
}
