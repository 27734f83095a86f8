//! System calls of running processes, counted by strace.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cstore_testkit::until_blocking;

use super::bounds::{CALLS, OTHER_CALLS, PACED_CALLS};

/// strace, attached to processes and all their threads.
pub(crate) struct Strace {
    child: Child,
    /// Messages (`messages`) and the summary (`summary`) of strace.
    dir: tempfile::TempDir,
}

impl Strace {
    /// Attaches to all of `pids`, or returns why the system does not allow it.
    pub(crate) fn attach(program: &Path, pids: &[u32]) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let messages = dir.path().join("messages");
        let mut child = Command::new(program)
            .args(["-f", "-c", "-o"])
            .arg(dir.path().join("summary"))
            .args(
                pids.iter()
                    .flat_map(|pid| ["-p".to_owned(), pid.to_string()]),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&messages).unwrap())
            .spawn()
            .unwrap();

        // strace reports each process once it holds all of its threads.
        let refused = until_blocking("strace to attach", || {
            let text = std::fs::read_to_string(&messages).unwrap();
            if child.try_wait().unwrap().is_some() {
                return Some(Some(text));
            }
            let attached = text.lines().filter(|line| line.contains(" attached"));
            (attached.count() >= pids.len()).then_some(None)
        });
        match refused {
            None => Ok(Self { child, dir }),
            Some(text) => Err(text.lines().next().unwrap_or_default().to_owned()),
        }
    }

    /// Detaches and returns the number of calls by kind. Kinds that [`CALLS`] does not list are
    /// summed up, without [`PACED_CALLS`].
    pub(crate) fn finish(mut self) -> BTreeMap<&'static str, f64> {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap();

        let summary = std::fs::read_to_string(self.dir.path().join("summary")).unwrap();
        let mut calls: BTreeMap<_, _> = CALLS.iter().map(|kind| (*kind, 0.0)).collect();
        calls.insert(OTHER_CALLS, 0.0);
        let bounded = summary
            .lines()
            .filter_map(parse)
            .filter(|(name, _)| !PACED_CALLS.contains(name));
        for (name, count) in bounded {
            let kind = CALLS.iter().find(|kind| **kind == name);
            *calls
                .entry(kind.copied().unwrap_or(OTHER_CALLS))
                .or_default() += count;
        }
        assert!(
            calls.values().sum::<f64>() > 0.0,
            "strace counted nothing: {summary}"
        );
        calls
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the name and the number of calls of a line of the summary: share, seconds, microseconds
/// per call, calls, errors if there were any, name.
fn parse(line: &str) -> Option<(&str, f64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    fields.first()?.parse::<f64>().ok()?;
    let count = fields.get(3)?.parse().ok()?;
    let name = *fields.last()?;
    (name != "total").then_some((name, count))
}
