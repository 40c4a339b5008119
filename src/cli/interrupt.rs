//! Ctrl-C and the system's request to end: the work in progress is brought to a point from which it can go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;

/// Whether the user wants the work to stop.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. The first signal is for the work to see; the second ends the process as it would have without this.
    pub fn listen() -> Self {
        let wanted = Arc::new(AtomicBool::new(false));
        for signal in TERM_SIGNALS {
            // In this order: a signal that finds the flag set ends the process, one that does not sets it. Where no signal can be had, nothing is
            // lost but the tidy end.
            let _ = flag::register_conditional_default(*signal, Arc::clone(&wanted));
            let _ = flag::register(*signal, Arc::clone(&wanted));
        }
        Self(wanted)
    }

    /// Whether there was a signal.
    pub fn wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself.
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }
}
