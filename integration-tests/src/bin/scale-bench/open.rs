//! Opens of two sizes: the larger has twice of everything, so each figure should be twice as large.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::usage::Usage;
use crate::{log_scale, number, storage_scale};

/// Deadline of each wait while a disk is built.
pub(crate) const BUILD_PATIENCE: Duration = Duration::from_secs(600);

/// Runs one step in this process. `open` steps print their figures as JSON.
///
/// # Panics
/// If the step is not known.
pub(crate) fn step(args: &[&str]) {
    let print = |usage: &Usage| println!("{}", serde_json::to_string(usage).unwrap());
    let count = |text: &str| text.parse().unwrap();
    match args {
        ["build-log", folder, files, frames] => {
            log_scale::build(Path::new(folder), count(files), count(frames));
        }
        ["damage-headers", folder] => log_scale::damage(Path::new(folder), true),
        ["damage-payloads", folder] => log_scale::damage(Path::new(folder), false),
        ["cut-footers", folder] => log_scale::cut_footers(Path::new(folder)),
        ["open-log", folder] => print(&log_scale::open(Path::new(folder))),
        ["build-storage", folder, blocks] => {
            storage_scale::build(Path::new(folder), count(blocks));
        }
        ["open-killed-storage", folder] => print(&storage_scale::open(Path::new(folder), false)),
        ["open-clean-storage", folder] => print(&storage_scale::open(Path::new(folder), true)),
        _ => panic!("{args:?} is not a step"),
    }
}

/// Runs a step in a process of its own and returns what it prints.
fn child(args: &[&str]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("child")
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Opens a folder again and again, and returns the figures of the open with the median processor
/// time. Each must deliver `items`, if it is known how many.
fn opened(step: &str, folder: &str, items: Option<u64>) -> Usage {
    let opens = number("SCALE_OPENS", 3);
    let mut figures: Vec<Usage> = (0..opens)
        .map(|_| serde_json::from_str(&child(&[step, folder])).unwrap())
        .collect();
    for usage in &figures {
        let expected = items.unwrap_or(usage.items);
        assert_eq!(usage.items, expected, "{step} of {folder}");
    }
    figures.sort_by(|one, other| one.cpu.total_cmp(&other.cpu));
    figures[figures.len() / 2].clone()
}

/// Builds everything in `folder`, opens it and prints a table.
pub(crate) fn run(folder: &Path) {
    println!(
        "{:<44} {:>8} {:>8} {:>10} {:>9} {:>9}",
        "open of", "wall s", "CPU s", "peak MiB", "reads", "read MiB"
    );
    let files = number("SCALE_FILES", 10_000);
    let logs = [files / 2, files].map(|files| {
        let path = folder.join(format!("log-{files}"));
        let path = path.to_str().unwrap();
        let frames = log_scale::FRAMES.to_string();
        child(&["build-log", path, &files.to_string(), &frames]);
        let items = Some(files * log_scale::FRAMES);
        let footers = opened("open-log", path, items);
        child(&["cut-footers", path]);
        let walked = opened("open-log", path, items);
        std::fs::remove_dir_all(path).unwrap();
        (files, [footers, walked])
    });
    for (which, state) in ["files with footers", "files without footers"]
        .into_iter()
        .enumerate()
    {
        let rows = logs.each_ref().map(|(files, figures)| {
            let frames = files * log_scale::FRAMES;
            (format!("{frames} frames, {files} {state}"), &figures[which])
        });
        print_pair(rows);
    }

    for (step, part) in [("damage-payloads", "payload"), ("damage-headers", "header")] {
        let rows = [files * 2, files * 4].map(|frames| {
            let path = folder.join(format!("damage-{frames}"));
            let path = path.to_str().unwrap();
            child(&["build-log", path, "1", &frames.to_string()]);
            child(&[step, path]);
            let usage = opened("open-log", path, None);
            std::fs::remove_dir_all(path).unwrap();
            (format!("{frames} frames, every 2nd {part} damaged"), usage)
        });
        print_pair(rows.each_ref().map(|(name, usage)| (name.clone(), usage)));
    }

    let blocks = number("SCALE_BLOCKS", 4_000_000);
    let disks = [blocks / 2, blocks].map(|blocks| {
        let path = folder.join(format!("storage-{blocks}"));
        let path = path.to_str().unwrap();
        child(&["build-storage", path, &blocks.to_string()]);
        let killed = opened("open-killed-storage", path, Some(blocks));
        // The clean stop at its end is what the next opens begin with.
        child(&["open-clean-storage", path]);
        let clean = opened("open-clean-storage", path, Some(blocks));
        std::fs::remove_dir_all(path).unwrap();
        (blocks, [killed, clean])
    });
    for (which, state) in ["after a kill", "after a clean stop"]
        .into_iter()
        .enumerate()
    {
        let rows = disks
            .each_ref()
            .map(|(blocks, figures)| (format!("{blocks} blocks of 64 B {state}"), &figures[which]));
        print_pair(rows);
    }
}

/// Prints the figures of two sizes and their ratios.
fn print_pair(rows: [(String, &Usage); 2]) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (name, usage) in &rows {
        println!(
            "{name:<44} {:>8.2} {:>8.2} {:>10.1} {:>9} {:>9.1}",
            usage.wall,
            usage.cpu,
            mib(usage.peak),
            usage.reads,
            mib(usage.read_bytes),
        );
    }
    let [(_, half), (_, whole)] = rows;
    let ratio = |of: fn(&Usage) -> f64| of(whole) / of(half);
    println!(
        "{:<44} {:>8.2} {:>8.2} {:>10.2} {:>9.2} {:>9.2}",
        "  ratio",
        ratio(|usage| usage.wall),
        ratio(|usage| usage.cpu),
        ratio(|usage| usage.peak as f64),
        ratio(|usage| usage.reads as f64),
        ratio(|usage| usage.read_bytes as f64),
    );
}
