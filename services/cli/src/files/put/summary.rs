//! Totals of `cstore put`, and numbers of entries that it skipped.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Stored;
use crate::files::out::{human, number};

/// Totals of one command. Files that run at the same time share it.
#[derive(Debug)]
pub(super) struct Summary {
    begun: Instant,
    totals: Mutex<Totals>,
}

#[derive(Debug, Default)]
struct Totals {
    files: u64,
    unchanged: u64,
    bytes: u64,
    /// Bytes that the store did not have. `None` once a gateway did not tell them.
    new_bytes: Option<u64>,
    empty_folders: u64,
    links: u64,
}

impl Summary {
    /// Starts the clock.
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            totals: Mutex::new(Totals {
                new_bytes: Some(0),
                ..Totals::default()
            }),
        }
    }

    /// Adds a file.
    pub(super) fn add(&self, stored: &Stored) {
        let mut totals = self.totals.lock();
        let is_unchanged = stored.status == "unchanged";
        let new_bytes = match is_unchanged {
            true => Some(0),
            false => stored.new_bytes,
        };
        totals.files += 1;
        totals.unchanged += u64::from(is_unchanged);
        totals.bytes = totals.bytes.saturating_add(stored.size);
        totals.new_bytes = totals.new_bytes.zip(new_bytes).map(|(sum, new)| sum + new);
    }

    /// Counts a folder without an entry, which is not kept.
    pub(super) fn add_empty_folder(&self) {
        self.totals.lock().empty_folders += 1;
    }

    /// Counts a symbolic link that was skipped on request.
    pub(super) fn add_skipped_link(&self) {
        self.totals.lock().links += 1;
    }

    /// Returns the elapsed time as text for people.
    pub(super) fn time(&self) -> String {
        seconds(self.begun.elapsed())
    }

    /// Returns the lines for people. The totals are left out if there is one file, whose own line
    /// has them.
    pub(super) fn lines(&self, is_one: bool) -> Vec<String> {
        let totals = self.totals.lock();
        let mut lines = Vec::new();
        if totals.files > 0 && !is_one {
            let unchanged = match totals.unchanged {
                0 => String::new(),
                unchanged => format!(" ({unchanged} unchanged)"),
            };
            let new = match totals.new_bytes {
                Some(new) => format!("{} new, ", human(new)),
                None => String::new(),
            };
            lines.push(format!(
                "{}{unchanged}, {}, {new}{}",
                number(totals.files, "file"),
                human(totals.bytes),
                self.time()
            ));
        }
        match totals.empty_folders {
            0 => {}
            1 => lines.push("1 empty folder is not kept".to_owned()),
            empty => lines.push(format!("{empty} empty folders are not kept")),
        }
        match totals.links {
            0 => {}
            1 => lines.push("1 symbolic link was skipped".to_owned()),
            links => lines.push(format!("{links} symbolic links were skipped")),
        }
        lines
    }
}

/// Formats a time for people: tenths of seconds below a minute and a half, then minutes.
fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    match whole {
        0..90 => format!("{:.1} s", time.as_secs_f64()),
        90..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3_600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(status: &'static str, size: u64, new_bytes: Option<u64>) -> Stored {
        Stored {
            status,
            name: "n".to_owned(),
            source: "s".to_owned(),
            size,
            etag: "e".to_owned(),
            sha256: None,
            new_bytes,
            trace_id: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn totals_say_what_was_new() {
        let summary = Summary::begin();
        assert!(summary.lines(false).is_empty());
        summary.add(&stored("created", 1 << 30, Some(0)));
        summary.add(&stored("replaced", 1 << 20, Some(1 << 20)));
        tokio::time::advance(Duration::from_millis(3_100)).await;
        let expected = "2 files, 1.00 GiB, 1.00 MiB new, 3.1 s";
        assert_eq!(summary.lines(false), [expected]);
        assert!(summary.lines(true).is_empty(), "its own line has it all");

        summary.add(&stored("unchanged", 0, None));
        summary.add_empty_folder();
        summary.add_skipped_link();
        summary.add_skipped_link();
        let expected = [
            "3 files (1 unchanged), 1.00 GiB, 1.00 MiB new, 3.1 s",
            "1 empty folder is not kept",
            "2 symbolic links were skipped",
        ];
        assert_eq!(summary.lines(false), expected);

        // If the new bytes of one file are unknown, so is the sum.
        summary.add(&stored("created", 0, None));
        assert!(summary.lines(false)[0].ends_with("1.00 GiB, 3.1 s"));
    }

    #[test]
    fn times_are_short() {
        for (ms, text) in [
            (40, "0.0 s"),
            (89_940, "89.9 s"),
            (90_000, "1 min 30 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(seconds(Duration::from_millis(ms)), text);
        }
    }
}
