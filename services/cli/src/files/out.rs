//! Output of a command: lines for people or JSON on stdout, a bar on a terminal's stderr, failures
//! on stderr.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::client::OutageNotice;
use crate::exit::{Failure, printable};

const BAR: &str = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}  {msg}";

/// Output of one command, and its form.
pub(super) struct Out {
    json: bool,
    quiet: bool,
    bar: ProgressBar,
    /// True if the bar is to be drawn as soon as there are bytes to move: without any it would look
    /// full.
    is_pending: Arc<AtomicBool>,
}

impl Out {
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        Self {
            json,
            quiet,
            bar,
            is_pending: Arc::default(),
        }
    }

    /// Shows a bar as soon as there are bytes to move, where somebody can see it.
    pub(super) fn progress(&self) {
        if self.json || self.quiet || !std::io::stderr().is_terminal() {
            return;
        }
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            self.bar.set_style(style);
        }
        self.is_pending.store(true, Ordering::Relaxed);
    }

    /// Adds bytes that are to be moved.
    pub(super) fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
        if bytes > 0 {
            reveal(&self.bar, &self.is_pending);
        }
    }

    pub(super) fn moved(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Takes back bytes that were moved for nothing, and bytes that are not expected any more.
    pub(super) fn back(&self, moved: u64, expected: u64) {
        self.bar
            .set_position(self.bar.position().saturating_sub(moved));
        self.bar.dec_length(expected);
    }

    /// Counts what a body moves; one of unknown length is awaited only when it is there.
    pub(super) fn mover(&self, unknown: bool) -> impl Fn(u64) + Send + Sync + 'static {
        let (bar, is_pending) = (self.bar.clone(), self.is_pending.clone());
        move |bytes| {
            if unknown {
                bar.inc_length(bytes);
                reveal(&bar, &is_pending);
            }
            bar.inc(bytes);
        }
    }

    /// Shows the name of the current file.
    pub(super) fn at(&self, name: &str) {
        if !self.bar.is_hidden() || self.is_pending.load(Ordering::Relaxed) {
            self.bar.set_message(printable(name));
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a result that the user asked for.
    pub(super) fn show(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let line = if self.json {
            serde_json::to_string(value).map_err(Failure::failed)?
        } else {
            text()
        };
        self.bar
            .suspend(|| writeln!(std::io::stdout().lock(), "{line}"))
            .map_err(Failure::output)
    }

    /// Prints what the command has done, unless the user asked for quiet.
    pub(super) fn done(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.quiet && !self.json {
            Ok(())
        } else {
            self.show(value, text)
        }
    }

    /// Prints the totals of a command for programs. People get them by [`Self::note`].
    pub(super) fn summarize(&self, value: &impl Serialize) -> Result<(), Failure> {
        if self.json {
            self.show(value, String::new)
        } else {
            Ok(())
        }
    }

    /// Prints a line for people on stderr, beside results and failures. Programs that read JSON get
    /// none, since on stderr they expect failures only.
    pub(super) fn note(&self, line: &str) {
        if self.is_for_people() {
            self.bar.suspend(|| note(line));
        }
    }

    /// Returns the printer of outages of the gateway. `None` with `--json` and `--quiet`.
    pub(super) fn outage_notice(&self) -> Option<OutageNotice> {
        let bar = self.bar.clone();
        self.is_for_people().then(|| {
            OutageNotice::new(move |line| bar.suspend(|| note(&format!("cstore: {line}"))))
        })
    }

    /// Returns true if notes beside the results are printed.
    pub(super) fn is_for_people(&self) -> bool {
        !self.json && !self.quiet
    }

    /// Prints a failure while the command goes on with other files.
    pub(super) fn tell(&self, failure: &Failure) {
        self.bar.suspend(|| failure.tell(self.json));
    }
}

/// Draws the bar from now on, if it is pending.
fn reveal(bar: &ProgressBar, is_pending: &AtomicBool) {
    if is_pending.swap(false, Ordering::Relaxed) {
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    }
}

/// Writes a line on stderr. A closed stderr changes nothing.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(line));
}

/// Formats a number of things, whose plural ends in s.
pub(crate) fn number(count: u64, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

/// Formats a size for people: three significant digits.
pub(crate) fn human(bytes: u64) -> String {
    let mut shown = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if shown < 1_000.0 {
            return match unit {
                "B" => format!("{bytes} B"),
                _ if shown < 10.0 => format!("{shown:.2} {unit}"),
                _ if shown < 100.0 => format!("{shown:.1} {unit}"),
                _ => format!("{shown:.0} {unit}"),
            };
        }
        shown /= 1_024.0;
    }
    format!("{shown:.1} PiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_waits_for_bytes_and_is_revealed_once() {
        let out = Out::new(false, false);
        // Set by `progress` on a terminal.
        out.is_pending.store(true, Ordering::Relaxed);
        out.expect(0);
        assert!(out.is_pending.load(Ordering::Relaxed), "an empty file");
        out.expect(7);
        assert!(!out.is_pending.load(Ordering::Relaxed));
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "0.98 KiB"),
            (1_024, "1.00 KiB"),
            (65_536, "64.0 KiB"),
            (3 << 30, "3.00 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
