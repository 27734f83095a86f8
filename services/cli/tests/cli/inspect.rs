//! `cstore admin inspect` as a process: its words and statuses for folders of every kind.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does"
)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use cstore_testkit::until_blocking;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cstore"));
    command.args(args).env_clear();
    command
}

fn inspect(folder: &Path, flags: &[&str]) -> Output {
    let mut args = vec!["admin", "inspect", folder.to_str().unwrap()];
    args.extend(flags);
    program(&args).output().unwrap()
}

/// Checks the status and a part of the message on stderr.
fn ends_with(folder: &Path, status: i32, words: &str) {
    let output = inspect(folder, &[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(stderr.contains(words), "{stderr}");
}

#[test]
fn a_folder_that_is_none_of_ours_is_an_error_in_its_own_words() {
    let dir = tempfile::tempdir().unwrap();
    ends_with(Path::new("/nosuch"), 3, "there is no such folder");
    ends_with(dir.path(), 3, "the folder is empty; is the volume mounted?");
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    ends_with(&file, 3, "is a file");
    ends_with(dir.path(), 3, "no C-Store folder");
    let disk = dir.path().join("storage-1");
    std::fs::create_dir(&disk).unwrap();
    ends_with(dir.path(), 3, "no C-Store folder");

    std::fs::write(disk.join("superblock.bin"), [7; 16_384]).unwrap();
    ends_with(&disk, 10, "refuses: superblock of");
    ends_with(dir.path(), 10, "refuses: superblock of");
    let lock = std::fs::File::create(disk.join("LOCK")).unwrap();
    lock.lock().unwrap();
    ends_with(&disk, 6, "a node runs on the disk, so nothing was judged");
}

/// Runs `cstore dev` on a folder until it has made its parts, and stops it.
fn make(data: &Path) {
    let mut dev = program(&["dev"])
        .env("CSTORE_DATA_DIR", data)
        .env("FS_SIZE", "16MiB")
        .envs(
            ["GATEWAY_PORT", "MASTER_PORT", "WORKER_PORT", "STORAGE_PORT"].map(|port| (port, "0")),
        )
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until_blocking("the disk is made", || {
        data.join("storage-1/inventory.bin").is_file()
    });
    // The master and the disk are both in use.
    let output = inspect(data, &["--json"]);
    assert_eq!(output.status.code(), Some(6));
    let id = dev.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    dev.wait().unwrap();
}

#[test]
fn a_folder_of_all_parts_is_inspected_as_one_and_the_worst_outcome_counts() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    make(&data);
    let output = inspect(&data, &["--json"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    let parts: Vec<serde_json::Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let seen: Vec<_> = parts
        .iter()
        .map(|part| {
            (
                part["part"].as_str().unwrap(),
                part["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [("master", "whole"), ("storage", "whole")]);
    assert_eq!(
        parts[0]["facts"]["verified"],
        "all of log and snapshot, and the index"
    );
    assert_eq!(parts[1]["facts"]["node"], "storage-1");
    assert!(
        parts[1]["facts"]["compared with master"]
            .as_str()
            .unwrap()
            .starts_with("yes")
    );

    let mut relative = program(&["admin", "inspect", "data", "--json", "--payloads", "none"]);
    let output = relative.current_dir(dir.path()).output().unwrap();
    let paths: Vec<_> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].clone())
        .collect();
    assert_eq!(
        paths,
        ["data/master", "data/storage-1"],
        "as the user wrote them"
    );

    std::fs::remove_file(data.join("storage-1/superblock.bin")).unwrap();
    let held = inspect(&data, &["--payloads", "sample"]);
    assert_eq!(held.status.code(), Some(9));
    let stdout = String::from_utf8(held.stdout).unwrap();
    assert!(stdout.contains("a start: starts whole"), "{stdout}");
    assert!(
        stdout.contains("cstore admin hold accept storage-1"),
        "{stdout}"
    );

    // A disk that the master knows is not there.
    std::fs::remove_dir_all(data.join("storage-1")).unwrap();
    std::fs::create_dir(data.join("storage-1")).unwrap();
    ends_with(&data, 10, "is the volume mounted?");
}
