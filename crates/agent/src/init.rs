//! The duties of the first process of a container: whoever loses its parent becomes its child and has to be collected when it ends, and
//! signals without a handler do not end it. So the agent is started again as a child of it, as Patroni does, and gets the signals.

use std::io;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

/// What is passed on: all that asks an agent for something.
const PASSED_ON: [Signal; 6] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// This process is the first of its machine, or of its container.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Runs this program with its arguments as a child. Ends with it, and as it does.
///
/// # Errors
/// It cannot be started, or signals cannot be received.
pub fn run_as_child() -> io::Result<ExitCode> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    supervise(command).map(ExitCode::from)
}

/// Runs a command, passes signals on to it, and collects every child of this process that ends. Its exit status; 128 and the number of the signal where
/// one ended it.
///
/// # Errors
/// As [`run_as_child`].
pub fn supervise(command: Command) -> io::Result<u8> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(look_after(command))
}

/// Nothing here has a deadline: it is over when the child is.
async fn look_after(mut command: Command) -> io::Result<u8> {
    // Before there is a child: nothing that happens to it is missed.
    let mut ended = signal(SignalKind::child())?;
    let mut asked = PASSED_ON.map(|which| signal(SignalKind::from_raw(which.as_raw())));
    let spawned = command.spawn()?;
    let child = i32::try_from(spawned.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    loop {
        tokio::select! {
            _ = ended.recv() => {
                if let Some(status) = collect(child) {
                    return Ok(exit_status(status));
                }
            }
            which = any(&mut asked) => {
                // It may have ended just now.
                let _ = kill_process(child, which);
            }
        }
    }
}

/// Collects all that have ended. How the child did, if it is among them.
fn collect(child: Pid) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == child {
            found = Some(status);
        }
    }
    found
}

/// The next signal that is passed on.
async fn any(asked: &mut [io::Result<tokio::signal::unix::Signal>; PASSED_ON.len()]) -> Signal {
    std::future::poll_fn(|context| {
        let received = asked.iter_mut().zip(PASSED_ON).find_map(|(stream, which)| {
            let stream = stream.as_mut().ok()?;
            stream.poll_recv(context).is_ready().then_some(which)
        });
        received.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}

fn exit_status(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|number| 128 + number));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
