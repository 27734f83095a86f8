//! Totals of `cstore put`, `get` and `rm`, and numbers of entries that were skipped.

use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::Session;
use super::out::{human, number};
use crate::exit::{End, Failure};

/// Totals of one command. Files that run at the same time share it.
#[derive(Debug)]
pub(super) struct Summary {
    /// The command, such as `put`.
    command: &'static str,
    /// True if the command says what it would remove.
    pub(super) is_dry_run: bool,
    begun: Instant,
    totals: Mutex<Totals>,
}

/// Result for one file, as far as it counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FileTotals {
    pub(super) is_unchanged: bool,
    /// Bytes. `None` if the size is unknown, as that of a file that was removed by its name.
    pub(super) size: Option<u64>,
    /// Bytes that the store did not have. `None` if the gateway did not tell them.
    pub(super) new_bytes: Option<u64>,
}

#[derive(Debug, Default)]
struct Totals {
    files: u64,
    unchanged: u64,
    failed: u64,
    /// `None` once a size was unknown.
    bytes: Option<u64>,
    /// Bytes that the store did not have. `None` once a gateway did not tell them.
    new_bytes: Option<u64>,
    empty_folders: u64,
    links: u64,
}

impl Summary {
    /// Starts the clock.
    pub(super) fn begin(command: &'static str) -> Self {
        Self {
            command,
            is_dry_run: false,
            begun: Instant::now(),
            totals: Mutex::new(Totals {
                bytes: Some(0),
                new_bytes: Some(0),
                ..Totals::default()
            }),
        }
    }

    /// Adds a file.
    pub(super) fn add(&self, file: FileTotals) {
        let mut totals = self.totals.lock();
        let new_bytes = match file.is_unchanged {
            true => Some(0),
            false => file.new_bytes,
        };
        totals.files += 1;
        totals.unchanged += u64::from(file.is_unchanged);
        totals.bytes = sum(totals.bytes, file.size);
        totals.new_bytes = sum(totals.new_bytes, new_bytes);
    }

    /// Adds the files of a folder.
    pub(super) fn add_many(&self, files: u64, bytes: u64) {
        let mut totals = self.totals.lock();
        totals.files += files;
        totals.bytes = sum(totals.bytes, Some(bytes));
    }

    /// Counts a file that failed.
    pub(super) fn add_failure(&self) {
        self.totals.lock().failed += 1;
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

    /// Prints the totals: lines for people on stderr, or with `--json` one object on stdout. Returns
    /// `ended`, unless the object cannot be printed.
    pub(super) fn close<T>(
        &self,
        session: &Session,
        is_one: bool,
        ended: Result<T, Failure>,
    ) -> Result<T, Failure> {
        if matches!(&ended, Err(failure) if failure.end() == End::BrokenPipe) {
            return ended;
        }
        for line in self.lines(is_one) {
            session.out.note(&line);
        }
        session.out.summarize(&self.json())?;
        ended
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
            let bytes = match totals.bytes {
                Some(bytes) => format!("{}, ", human(bytes)),
                None => String::new(),
            };
            let new = match totals.new_bytes {
                Some(new) if self.is_put() => format!("{} new, ", human(new)),
                _ => String::new(),
            };
            let removed = match self.command {
                "rm" if self.is_dry_run => " would go",
                "rm" => " removed",
                _ => "",
            };
            lines.push(format!(
                "{}{removed}{unchanged}, {bytes}{new}{}",
                number(totals.files, "file"),
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

    /// Returns the object for programs.
    fn json(&self) -> Map<String, Value> {
        let totals = self.totals.lock();
        let mut object = Map::new();
        let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
        set("status", "summary".into());
        set("command", self.command.into());
        if self.is_dry_run {
            set("dry_run", true.into());
        }
        set("files", totals.files.into());
        if self.command != "rm" {
            set("unchanged", totals.unchanged.into());
        }
        set("failed", totals.failed.into());
        set("bytes", totals.bytes.into());
        if self.is_put() {
            set("new_bytes", totals.new_bytes.into());
            set("empty_folders", totals.empty_folders.into());
            set("skipped_links", totals.links.into());
        }
        let milliseconds = self.begun.elapsed().as_secs_f64() * 1_000.0;
        set("seconds", (milliseconds.round() / 1_000.0).into());
        object
    }

    fn is_put(&self) -> bool {
        self.command == "put"
    }
}

/// Adds bytes, some of which may be unknown.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.zip(other).map(|(one, other)| one.saturating_add(other))
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

    fn put(is_unchanged: bool, size: u64, new_bytes: Option<u64>) -> FileTotals {
        FileTotals {
            is_unchanged,
            size: Some(size),
            new_bytes,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn totals_say_what_was_new() {
        let summary = Summary::begin("put");
        assert!(summary.lines(false).is_empty());
        summary.add(put(false, 1 << 30, Some(0)));
        summary.add(put(false, 1 << 20, Some(1 << 20)));
        tokio::time::advance(Duration::from_millis(3_100)).await;
        let expected = "2 files, 1.00 GiB, 1.00 MiB new, 3.1 s";
        assert_eq!(summary.lines(false), [expected]);
        assert!(summary.lines(true).is_empty(), "its own line has it all");

        summary.add(put(true, 0, None));
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
        summary.add(put(false, 0, None));
        assert!(summary.lines(false)[0].ends_with("1.00 GiB, 3.1 s"));
    }

    #[tokio::test(start_paused = true)]
    async fn programs_get_the_totals_with_what_is_unknown_as_null() {
        let summary = Summary::begin("put");
        summary.add(put(true, 5, None));
        summary.add(put(false, 1 << 20, Some(7)));
        summary.add_failure();
        tokio::time::advance(Duration::from_micros(1_234_567)).await;
        let expected = serde_json::json!({
            "status": "summary", "command": "put", "files": 2, "unchanged": 1, "failed": 1,
            "bytes": 1_048_581, "new_bytes": 7, "empty_folders": 0, "skipped_links": 0, "seconds": 1.235
        });
        assert_eq!(Value::Object(summary.json()), expected);

        let summary = Summary::begin("rm");
        summary.add(put(false, 5, None));
        assert!(summary.lines(false)[0].starts_with("1 file removed, 5 B, "));
        summary.add(FileTotals::default());
        let expected = serde_json::json!({
            "status": "summary", "command": "rm", "files": 2, "failed": 0, "bytes": null, "seconds": 0.0
        });
        assert_eq!(Value::Object(summary.json()), expected);
        assert!(summary.lines(false)[0].starts_with("2 files removed, 0.0 s"));
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
