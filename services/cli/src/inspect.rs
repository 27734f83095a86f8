//! `cstore admin inspect`: what a folder holds, whether it is whole, and what a start would do.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use cstore_master::MetadataInspection;
use cstore_storage::DiskInspection;
use cstore_types::StoreUuid;
use cstore_types::inspection::{Inspection, MasterFacts, PayloadScope, StartOutcome};
use serde_json::{Map, Value, json};

use crate::args::Payloads;
use crate::exit::{End, Failure, printable};

/// Name of the folder of a master beside those of disks. Another folder with metadata is a copy that
/// somebody has made, of which no master starts.
const MASTER: &str = "master";

/// Inspects the folder `dir`, prints a report on each part in it, and fails unless all are whole.
pub(crate) fn run(dir: &Path, payloads: Payloads, is_json: bool) -> Result<(), Failure> {
    let payloads = match payloads {
        Payloads::All => PayloadScope::All,
        Payloads::Sample => PayloadScope::Sample,
        Payloads::None => PayloadScope::None,
    };
    let parts = Parts::find(dir)?;
    let inspections = parts.inspect(payloads)?;

    let out = &mut std::io::stdout().lock();
    for inspection in &inspections {
        match is_json {
            true => writeln!(out, "{}", as_json(inspection)),
            false => say(out, inspection),
        }
        .map_err(Failure::output)?;
    }
    let worst = inspections.iter().map(|found| found.outcome).max();
    match worst.and_then(end_of) {
        None => Ok(()),
        Some(end) => Err(Failure::client(end, summary(&inspections))),
    }
}

/// Returns the summary for people: the sentence of the part to deal with first, and the names of the
/// other parts that are not whole.
///
/// A master that is read-only or does not start comes first, because doubts of disks may follow from
/// it. Otherwise the part with the worst outcome comes first.
fn summary(inspections: &[Inspection]) -> String {
    let is_first = |found: &&Inspection| {
        let waits = matches!(found.outcome, StartOutcome::Held | StartOutcome::Refused);
        found.part == MASTER && waits
    };
    let worst = inspections.iter().map(|found| found.outcome).max();
    let first = inspections.iter().find(is_first);
    let first = first.or_else(|| {
        let mut of_worst = inspections.iter();
        of_worst.find(|found| Some(found.outcome) == worst)
    });
    let Some(first) = first else {
        return String::new();
    };

    let others: Vec<String> = inspections
        .iter()
        .filter(|found| !std::ptr::eq(*found, first))
        .filter_map(|found| Some(format!("{} {}", found.path, state_of(found)?)))
        .collect();
    let sentence = format!("{}: {}", first.path, first.start);
    match others.is_empty() {
        true => sentence,
        false => format!(
            "{sentence}. Also {}: see the line `a start:` of each",
            others.join(", ")
        ),
    }
}

/// Returns the state of a part in words; `None` if it is whole.
fn state_of(inspection: &Inspection) -> Option<&'static str> {
    match inspection.outcome {
        StartOutcome::Whole => None,
        StartOutcome::Damaged => Some("is damaged"),
        StartOutcome::Held if inspection.part == MASTER => Some("is read-only"),
        StartOutcome::Held => Some("is on hold"),
        StartOutcome::Refused => Some("does not start"),
        StartOutcome::InUse => Some("is in use"),
    }
}

fn end_of(outcome: StartOutcome) -> Option<End> {
    match outcome {
        StartOutcome::Whole => None,
        StartOutcome::Damaged => Some(End::Damaged),
        StartOutcome::Held => Some(End::Held),
        StartOutcome::Refused => Some(End::Refused),
        StartOutcome::InUse => Some(End::Unavailable),
    }
}

/// Folders that a folder was found to be, or to have.
#[derive(Debug)]
struct Parts {
    master: Option<PathBuf>,
    disks: Vec<PathBuf>,
    /// Folders without content that may be the places of disks.
    empty: Vec<PathBuf>,
}

impl Parts {
    /// Finds out which parts `dir` is, or has.
    fn find(dir: &Path) -> Result<Self, Failure> {
        let shown = dir.display();
        let metadata = std::fs::metadata(dir).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Failure::client(End::NotFound, format!("{shown}: there is no such folder"))
            }
            _ => Failure::local(&error, format!("{shown}: {error}")),
        })?;
        if !metadata.is_dir() {
            let message = format!("{shown}: is a file; give the folder of a disk or of a master");
            return Err(Failure::client(End::NotFound, message));
        }
        let mut parts = Self {
            master: None,
            disks: Vec::new(),
            empty: Vec::new(),
        };
        if cstore_storage::is_disk(dir).map_err(Failure::failed)? {
            parts.disks.push(dir.to_path_buf());
            return Ok(parts);
        }
        if cstore_master::is_metadata(dir).map_err(Failure::failed)? {
            parts.master = Some(dir.to_path_buf());
            return Ok(parts);
        }

        let mut folders = folders_in(dir)?;
        folders.sort();
        for folder in folders {
            if cstore_storage::is_disk(&folder).map_err(Failure::failed)? {
                parts.disks.push(folder);
            } else if folder.ends_with(MASTER)
                && cstore_master::is_metadata(&folder).map_err(Failure::failed)?
            {
                parts.master = Some(folder);
            } else if folders_in(&folder)?.is_empty() {
                parts.empty.push(folder);
            }
        }
        if parts.master.is_some() || !parts.disks.is_empty() {
            return Ok(parts);
        }
        let is_empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        let message = match is_empty {
            true => format!(
                "{shown}: the folder is empty; is the volume mounted? A start formats a new disk, or begins new metadata, in it"
            ),
            false => format!(
                "{shown}: no C-Store folder: it has neither a storage disk (superblock.bin, segments), nor a master's \
                 metadata (log, index, snapshot.bin), nor folders with them"
            ),
        };
        Err(Failure::client(End::NotFound, message))
    }

    /// Inspects all parts: the master first, because what it knows says more about the disks.
    fn inspect(&self, payloads: PayloadScope) -> Result<Vec<Inspection>, Failure> {
        let master = self.master.as_ref();
        let master = master.map(|folder| cstore_master::inspect(folder, payloads));
        let mut master = master.transpose().map_err(Failure::failed)?;
        if let (Some(found), Some(folder)) = (&mut master, &self.master) {
            // The path as typed, like the paths of disks.
            found.inspection.path = folder.display().to_string();
        }
        let facts = master.as_ref().and_then(|master| master.facts.as_ref());

        let mut disks = Vec::new();
        let mut stores = Vec::new();
        for folder in &self.disks {
            let found = cstore_storage::inspect(folder, payloads, facts);
            let DiskInspection {
                mut inspection,
                store,
                hit,
            } = found.map_err(Failure::failed)?;
            if let Some(master) = &master
                && !hit.is_empty()
            {
                inspection.list(master.files_of(&hit));
            }
            stores.extend(store);
            disks.push(inspection);
        }
        if let Some(facts) = facts {
            disks.extend(self.lost_disks(facts, &stores));
        }
        note_absent_disks(&mut master, &stores);
        let master = master.map(|master| master.inspection);
        Ok(master.into_iter().chain(disks).collect())
    }

    /// Reports empty folders in which a disk must be, by the name of the folder.
    fn lost_disks(&self, facts: &MasterFacts, found: &[StoreUuid]) -> Vec<Inspection> {
        let mut lost = Vec::new();
        for folder in &self.empty {
            let name = folder.file_name().and_then(|name| name.to_str());
            let known = facts
                .disks
                .iter()
                .find(|(store, disk)| Some(disk.node.as_str()) == name && !found.contains(store));
            if let Some((store, disk)) = known {
                let inspection = Inspection::new("storage", folder.display().to_string());
                let start = format!(
                    "refuses: the folder is empty, and the master knows the disk {store} of node {}: is the volume mounted?",
                    disk.node
                );
                lost.push(inspection.end(StartOutcome::Refused, start));
            }
        }
        lost
    }
}

/// Adds to the report on the master which disks were not looked at.
fn note_absent_disks(master: &mut Option<MetadataInspection>, found: &[StoreUuid]) {
    let Some(master) = master else { return };
    let Some(facts) = &master.facts else { return };
    let away = facts
        .disks
        .iter()
        .filter(|(store, _)| !found.contains(store));
    let mut away: Vec<String> = away
        .map(|(store, disk)| format!("{store} of node {}", disk.node))
        .collect();
    away.sort();
    if !away.is_empty() {
        let away = away.join(", ");
        master
            .inspection
            .fact("disks that were not looked at", away);
    }
}

fn folders_in(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed =
        |error: std::io::Error| Failure::local(&error, format!("{}: {error}", dir.display()));
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}

fn as_json(inspection: &Inspection) -> Value {
    let facts: Map<String, Value> = inspection
        .facts
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let findings: Vec<Value> = inspection
        .findings
        .iter()
        .map(|list| json!({"what": list.what, "count": list.count, "shown": list.shown}))
        .collect();
    json!({
        "part": inspection.part,
        "path": inspection.path,
        "outcome": inspection.outcome.name(),
        "start": inspection.start,
        "facts": facts,
        "findings": findings,
    })
}

fn say(out: &mut impl Write, inspection: &Inspection) -> std::io::Result<()> {
    writeln!(out, "{} {}", inspection.part, printable(&inspection.path))?;
    for (name, value) in &inspection.facts {
        writeln!(out, "  {name:<22} {}", printable(value))?;
    }
    for list in &inspection.findings {
        writeln!(out, "  {}: {}", list.what, list.count)?;
        for item in &list.shown {
            writeln!(out, "    {}", printable(item))?;
        }
        let more = list.count - list.shown.len() as u64;
        if more > 0 {
            writeln!(out, "    and {more} more")?;
        }
    }
    writeln!(out, "  a start: {}", printable(&inspection.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a part with the words of its outcome as its sentence.
    fn part(name: &'static str, path: &str, outcome: StartOutcome) -> Inspection {
        let start = format!("sentence of {path}");
        Inspection::new(name, path.to_owned()).end(outcome, start)
    }

    #[test]
    fn the_last_line_is_of_the_part_to_decide_first_and_names_the_others() {
        use StartOutcome::{Damaged, Held, InUse, Refused, Whole};
        for (outcomes, says) in [
            ([Held, Whole, Whole], "m: sentence of m"),
            ([Whole, Whole, Held], "s2: sentence of s2"),
            (
                [Held, Held, Whole],
                "m: sentence of m. Also s1 is on hold: see the line `a start:` of each",
            ),
            (
                [Held, Refused, Damaged],
                "m: sentence of m. Also s1 does not start, s2 is damaged: see the line `a start:` of each",
            ),
            (
                [Damaged, Damaged, Held],
                "s2: sentence of s2. Also m is damaged, s1 is damaged: see the line `a start:` of each",
            ),
            (
                [InUse, InUse, Whole],
                "m: sentence of m. Also s1 is in use: see the line `a start:` of each",
            ),
            (
                [Refused, InUse, Held],
                "m: sentence of m. Also s1 is in use, s2 is on hold: see the line `a start:` of each",
            ),
        ] {
            let [master, first, second] = outcomes;
            let parts = [
                part(MASTER, "m", master),
                part("storage", "s1", first),
                part("storage", "s2", second),
            ];
            assert_eq!(summary(&parts), says);
        }
        assert_eq!(state_of(&part(MASTER, "m", Held)), Some("is read-only"));
    }
}
