//! Measuring in a process of its own: a tile that hangs, or takes the device with it, ends that process and not the whole.

use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use ccl::error::Error;
use ccl::tuning::journal::{Attempt, Journal};
use ccl::tuning::tile_name;

use crate::cli::interrupt::Interrupt;

/// Tiles that may end a process before all is given up.
const MOST: usize = 12;
/// How long a process may take to end that has lost its device: a driver may wait for a kernel that never ends.
const FAREWELL: Duration = Duration::from_secs(3);
/// How often the process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How a process ended.
enum End {
    /// By itself.
    Itself(ExitStatus),
    /// It was ended, for this tile, which says why.
    Stuck(Attempt),
}

/// Runs the same command in another process, and again without the tile at which it ended, until it is done. A tile that has not ended after `patience`
/// is one of those.
///
/// # Errors
/// When the process cannot be started, or ends otherwise. What it has said itself is not said again: this one ends with its exit code.
pub fn run(patience: Duration) -> Result<(), Error> {
    let failed = |what: &str, e: &dyn std::fmt::Display| Error::Failed(format!("{what}: {e}"));
    let folder = tempfile::tempdir().map_err(|e| failed("there is no room for temporary files", &e))?;
    let program = std::env::current_exe().map_err(|e| failed("where this program is cannot be known", &e))?;
    let interrupt = Interrupt::listen();
    let begin = Instant::now();
    let mut journal = Journal::open(folder.path());
    loop {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).arg("--journal").arg(folder.path());
        let child = command.spawn().map_err(|e| failed("the process that measures cannot be started", &e))?;
        let end = wait(child, &journal, &interrupt, patience)
            .map_err(|e| failed("the process that measures cannot be waited for", &e))?;
        if interrupt.wanted() {
            return Err(Error::Failed("interrupted; what was measured before is kept".into()));
        }
        let attempt = match (end, journal.at_work()) {
            (End::Stuck(attempt), _) => attempt,
            (End::Itself(status), Some((attempt, _))) if !status.success() => {
                let why = attempt.why.unwrap_or_else(|| format!("the program ended ({status})"));
                Attempt { why: Some(why), ..attempt }
            }
            (End::Itself(status), _) if status.success() => return Ok(()),
            (End::Itself(status), _) => {
                drop(folder);
                let Some(code) = status.code() else {
                    return Err(Error::Failed(format!("the process that measures ended ({status})")));
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

/// Waits for a process, and ends it where a tile takes too long or the user wants that.
fn wait(mut child: Child, journal: &Journal, interrupt: &Interrupt, patience: Duration) -> std::io::Result<End> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Itself(status));
        }
        let stuck = journal.at_work().and_then(|(attempt, since)| {
            let most = if attempt.why.is_some() { FAREWELL } else { patience };
            let late = since.elapsed().is_ok_and(|elapsed| elapsed > most);
            let why = || format!("it had not ended after {:.0} s", most.as_secs_f64());
            late.then(|| Attempt { why: Some(attempt.why.clone().unwrap_or_else(why)), ..attempt })
        });
        if interrupt.wanted() || stuck.is_some() {
            child.kill()?;
            let status = child.wait()?;
            return Ok(stuck.map_or(End::Itself(status), End::Stuck));
        }
        std::thread::sleep(LOOK);
    }
}
