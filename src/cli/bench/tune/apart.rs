//! Measuring in a process of its own: a tile that hangs, or takes the device with it, ends that process and not the whole.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ccl::error::Error;
use ccl::tuning::journal::{Attempt, Journal};
use ccl::tuning::tile_name;

use crate::cli::interrupt::Interrupt;

/// Names the directory by which the process that measures and the one that starts it know of each other.
const JOURNAL: &str = "CCL_TUNE_JOURNAL";
/// Tiles that may end a process before all is given up.
const MOST: usize = 12;
/// How long a process may take to end that has lost its device: a driver may wait for a kernel that never ends.
const FAREWELL: Duration = Duration::from_secs(3);
/// How often the process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How a process ended.
enum End {
    /// By itself, or by somebody else.
    Itself(ExitStatus),
    /// It was ended, for this tile, which says why.
    Stuck(Attempt),
    /// It was ended, because the user wants that.
    Interrupted,
}

/// The directory of the process that measures; `None` in the one that starts it. That process ends with the one that started it.
pub fn journal() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os(JOURNAL).filter(|folder| !folder.is_empty())?);
    std::thread::spawn(|| {
        // Nobody writes there: this returns when the other end is gone.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    Some(folder)
}

/// Runs the same command in another process, and again without the tile at which it ended, until it is done.
///
/// # Errors
/// When the process cannot be started, or ends otherwise. What it has said itself is not said again: this one ends with its exit code.
pub fn run() -> Result<(), Error> {
    let failed = |what: &str, e: &dyn std::fmt::Display| Error::Failed(format!("{what}: {e}"));
    let folder = tempfile::tempdir().map_err(|e| failed("there is no room for temporary files", &e))?;
    let program = std::env::current_exe().map_err(|e| failed("where this program is cannot be known", &e))?;
    let interrupt = Interrupt::listen();
    let begin = Instant::now();
    let mut journal = Journal::open(folder.path());
    loop {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).env(JOURNAL, folder.path()).stdin(Stdio::piped());
        let child = command.spawn().map_err(|e| failed("the process that measures cannot be started", &e))?;
        let end = wait(child, &journal, &interrupt);
        let end = end.map_err(|e| failed("the process that measures cannot be waited for", &e))?;
        let attempt = match (end, journal.at_work()) {
            (End::Itself(status), _) if status.success() => return Ok(()),
            (End::Interrupted, _) => {
                return Err(Error::Failed("interrupted; what was measured before is kept".into()));
            }
            (End::Stuck(attempt), _) => attempt,
            // What nobody here asked for is no tile's doing where the system or the user ended it; a tile may have crashed the driver.
            (End::Itself(status), Some(at_work)) if !from_outside(status) => {
                let why = at_work.attempt.why.clone().unwrap_or_else(|| format!("the program ended ({status})"));
                Attempt { why: Some(why), ..at_work.attempt }
            }
            (End::Itself(status), _) => {
                drop(folder);
                let Some(code) = status.code() else {
                    return Err(Error::Failed(format!("the process that measures was ended ({status})")));
                };
                std::process::exit(code);
            }
        };
        let (name, why) = (tile_name(&attempt.tile), attempt.why.clone().unwrap_or_default());
        tracing::warn!("{}: a tile is left out, and measuring goes on: {why} ({name})", attempt.problem);
        journal.leave_out(attempt, begin.elapsed())?;
        if journal.left_out() > MOST {
            return Err(Error::Failed(format!("more than {MOST} tiles hang or take the device with them")));
        }
    }
}

/// Whether a process was ended by a signal that others send, as a system does that is short of memory.
#[cfg(unix)]
fn from_outside(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let sent = [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP, 9];
    status.signal().is_some_and(|signal| sent.contains(&signal))
}

#[cfg(not(unix))]
fn from_outside(_: ExitStatus) -> bool {
    false
}

/// Waits for a process, and ends it where a tile takes too long or the user wants that.
fn wait(mut child: Child, journal: &Journal, interrupt: &Interrupt) -> std::io::Result<End> {
    // What was at work when there was progress for the last time.
    let mut last = (None, Instant::now());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Itself(status));
        }
        let at_work = journal.at_work();
        let number = at_work.as_ref().map(|at_work| at_work.number);
        if last.0 != number {
            last = (number, Instant::now());
        }
        let stuck = at_work.and_then(|at_work| {
            let attempt = at_work.attempt;
            let most = if attempt.why.is_some() { FAREWELL } else { at_work.patience? };
            let why = || format!("it had not ended after {:.0} s", most.as_secs_f64());
            let late = last.1.elapsed() > most;
            late.then(|| Attempt { why: Some(attempt.why.clone().unwrap_or_else(why)), ..attempt })
        });
        if interrupt.wanted() || stuck.is_some() {
            child.kill()?;
            child.wait()?;
            return Ok(stuck.map_or(End::Interrupted, End::Stuck));
        }
        std::thread::sleep(LOOK);
    }
}
