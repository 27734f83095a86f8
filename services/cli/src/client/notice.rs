//! Tells a user that the gateway does not answer, while the program still waits for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A line for people about an outage of the gateway. Clones share the state.
///
/// Invariant: one line per outage. An answer of the gateway ends the outage.
#[derive(Clone)]
pub(crate) struct OutageNotice {
    is_printed: Arc<AtomicBool>,
    print: Arc<dyn Fn(&str) + Send + Sync>,
}

impl OutageNotice {
    /// Makes a notice that is printed by `print`.
    pub(crate) fn new(print: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            is_printed: Arc::default(),
            print: Arc::new(print),
        }
    }

    /// Prints the line, unless one was printed in this outage.
    pub(crate) fn tell(&self, line: &str) {
        if !self.is_printed.swap(true, Ordering::Relaxed) {
            (self.print)(line);
        }
    }

    /// Ends the outage.
    pub(crate) fn answered(&self) {
        self.is_printed.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for OutageNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutageNotice")
            .field("is_printed", &self.is_printed)
            .finish_non_exhaustive()
    }
}
