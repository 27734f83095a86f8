//! Doubt on the real program: what an operator sees of a storage node that has lost a segment, and
//! how the hold ends.

use std::path::{Path, PathBuf};
use std::process::Output;

use cstore_integration_tests::cluster::{Builder, Cluster};
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, until_blocking};
use serde_json::Value;

use crate::PROGRAM;

const STORAGE: &str = "storage-1";
const MASTER: &str = "master";
const HEARTBEATS: &str = "cstore_mesh_call_seconds_count{";
const FILES: u64 = 24;
const SIZE: usize = 600_000;

fn cluster() -> Cluster {
    settings().start()
}

fn settings() -> Builder {
    Cluster::one_of_each(PROGRAM)
        .env("FS_SIZE", "64MiB")
        // So that sweeps over pins, which come every 600 heartbeats, come within the test.
        .env("CSTORE_HEARTBEAT_MS", "10")
        .env("CSTORE_RELEASE_DELAY_MS", "0")
}

fn path(n: u64) -> String {
    format!("/api/files/file-{n:02}")
}

/// Uploads files of several segments; each second one has the first half of the one before it.
fn fill(cluster: &Cluster) {
    for n in 0..FILES {
        let put = cluster.ask("PUT", &path(n), &content(n));
        assert_eq!(put.status, 201, "{}", put.text());
    }
}

fn content(n: u64) -> Vec<u8> {
    let shared = random(SIZE / 2, n / 2);
    [shared, random(SIZE / 2, 1_000 + n)].concat()
}

fn segments(cluster: &Cluster) -> Vec<PathBuf> {
    let folder = cluster.dir().join(STORAGE).join("segments");
    let files = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "bin"));
    paths.sort();
    paths
}

/// The doubts of the storage node that are open.
fn doubts(cluster: &Cluster) -> Vec<Value> {
    let view = cluster.ask("GET", "/api/cluster", b"").json();
    let nodes = view["nodes"].as_array().unwrap();
    // A master that was just started does not know the node yet.
    let node = nodes.iter().find(|node| node["node_id"] == STORAGE);
    let doubts = node.and_then(|node| node["doubts"].as_array());
    let doubts = doubts.cloned().unwrap_or_default();
    let is_open = |doubt: &Value| doubt["accepted"] == false;
    doubts.into_iter().filter(is_open).collect()
}

fn hold(cluster: &Cluster, args: &[&str]) -> Output {
    cluster.admin_output(&[&["hold"], args].concat())
}

fn ready(cluster: &Cluster) -> (u16, Value) {
    let mut client = Client::connect(&cluster.admin_addr(STORAGE)).unwrap();
    let answer = client.call("GET", "/ready", "", b"").unwrap();
    (answer.status, answer.json())
}

/// Restarts the storage node with a kill.
fn restart(cluster: &Cluster, between: impl FnOnce()) {
    cluster.kill(STORAGE);
    between();
    cluster.launch(STORAGE);
    cluster.wait_ready();
}

fn assert_reads(cluster: &Cluster, numbers: impl Iterator<Item = u64>) {
    for n in numbers {
        let got = cluster.fetch(&path(n));
        assert!(got.body == content(n), "{}: {}", path(n), got.status);
    }
}

/// The example that made the rule: one of eight segments is away for a while, and what others need
/// lies in the rest.
#[test]
fn i4_s13_a_segment_that_is_away_for_a_while_costs_nothing() {
    let cluster = cluster();
    fill(&cluster);
    let away = segments(&cluster).remove(2);
    let kept = cluster.dir().join("away");
    restart(&cluster, || std::fs::rename(&away, &kept).unwrap());

    until_blocking("the doubt is known", || {
        (!doubts(&cluster).is_empty()).then_some(())
    });
    let known = doubts(&cluster);
    assert!(
        known.iter().any(|doubt| doubt["kind"] == "segment_missing"),
        "{known:?}"
    );
    let (status, parts) = ready(&cluster);
    assert_eq!(status, 200, "reads and writes go on: {parts}");
    assert!(parts.to_string().contains("nothing is freed"), "{parts}");
    assert!(cluster.metric(STORAGE, "cstore_storage_on_hold") > 0.0);

    // Actions that free space on a disk without doubts: removals, new uploads, two sweeps over
    // pins.
    for n in FILES / 2..FILES {
        assert_eq!(cluster.ask("DELETE", &path(n), b"").status, 204);
    }
    assert_eq!(cluster.ask("PUT", "/api/files/new", b"new").status, 201);
    let beats = || cluster.metric(STORAGE, HEARTBEATS);
    let retired = || cluster.metric(STORAGE, "cstore_storage_retired_files_total");
    let before = (beats(), retired());
    until_blocking("two sweeps over pins", || {
        (beats() > before.0 + 1_300.0).then_some(())
    });
    assert!(retired() <= before.1, "a segment was retired");

    restart(&cluster, || std::fs::rename(&kept, &away).unwrap());
    until_blocking("the doubt is disproved", || {
        doubts(&cluster).is_empty().then_some(())
    });
    assert_reads(&cluster, 0..FILES / 2);
    assert_eq!(cluster.fetch("/api/files/new").body, b"new");
    until_blocking("the removals are released", || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        (stats["pending_releases"] == 0).then_some(())
    });
}

#[test]
fn i12_a_lost_segment_is_accepted_by_the_number_that_the_list_shows() {
    let cluster = cluster();
    fill(&cluster);
    let lost = segments(&cluster).remove(2);
    restart(&cluster, || std::fs::remove_file(&lost).unwrap());
    until_blocking("the doubt is known", || {
        (!doubts(&cluster).is_empty()).then_some(())
    });

    let unlisted = hold(&cluster, &["accept", STORAGE]);
    assert_eq!(unlisted.status.code(), Some(64));
    let text = String::from_utf8(unlisted.stderr).unwrap();
    assert!(text.contains("NUMBER"), "{text}");
    let wrong = hold(&cluster, &["accept", STORAGE, "77"]);
    assert_eq!(wrong.status.code(), Some(64));
    let text = String::from_utf8(wrong.stderr).unwrap();
    assert!(text.contains("no open doubt 77; open are ["), "{text}");
    let stranger = hold(&cluster, &["accept", "storage-9", "1"]);
    assert_eq!(stranger.status.code(), Some(3));

    let listed = hold(&cluster, &["list"]);
    assert!(listed.status.success());
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(
        text.contains("segment_missing") && text.contains("OPEN"),
        "{text}"
    );
    for line in String::from_utf8(hold(&cluster, &["list", "--json"]).stdout)
        .unwrap()
        .lines()
    {
        let doubt: Value = serde_json::from_str(line).unwrap();
        let number = doubt["number"].to_string();
        let accepted = hold(&cluster, &["accept", STORAGE, &number]);
        let said = String::from_utf8(accepted.stderr).unwrap();
        assert!(accepted.status.success(), "{doubt}: {said}");
    }

    // The disk frees again, and what was not in the segment is there.
    until_blocking("the hold has ended", || {
        let held = cluster.metric(STORAGE, "cstore_storage_on_hold");
        (held == 0.0 && doubts(&cluster).is_empty()).then_some(())
    });
    let lost = until_blocking("what was lost with the segment is listed", || {
        let listed = String::from_utf8(hold(&cluster, &["list"]).stdout).unwrap();
        let line = listed.lines().find(|line| line.contains("sets_lost"));
        line.map(str::to_owned)
    });
    assert!(lost.contains("accepted"), "{lost}");
    let whole: Vec<u64> = (0..FILES)
        .filter(|n| cluster.fetch(&path(*n)).body == content(*n))
        .collect();
    assert!(whole.len() as u64 > FILES / 2, "{whole:?}");
    for n in 0..FILES {
        assert_eq!(cluster.ask("DELETE", &path(n), b"").status, 204);
    }
    until_blocking("the removals are released", || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        (stats["pending_releases"] == 0).then_some(())
    });
    restart(&cluster, || {});
    assert_eq!(doubts(&cluster), Vec::<Value>::new());
}

/// Waits until the storage node has heard of what the master has written.
fn until_heard(cluster: &Cluster) {
    let before = cluster.metric(STORAGE, HEARTBEATS);
    until_blocking("some heartbeats", || {
        (cluster.metric(STORAGE, HEARTBEATS) > before + 5.0).then_some(())
    });
}

/// Copies the files of a folder and of its folders.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A backup of the storage folder, restored beside a master that has gone on. What it writes then
/// lies in front of what was lost, for every number of restarts.
#[test]
fn i4_s07_a_storage_folder_one_upload_older_than_the_master_is_seen_and_frees_nothing() {
    let cluster = cluster();
    fill(&cluster);
    let folder = cluster.dir().join(STORAGE);
    let (backup, newer) = (cluster.dir().join("backup"), cluster.dir().join("newer"));
    restart(&cluster, || copy_folder(&folder, &backup));
    assert_eq!(cluster.ask("PUT", "/api/files/last", b"last").status, 201);
    let is_older = |doubt: &Value| doubt["kind"] == "store_older";
    // The node is called suspect for as long, and reads and writes go on.
    let restart_older = |name: &str, between: &dyn Fn()| {
        cluster.kill(STORAGE);
        between();
        cluster.launch(STORAGE);
        until_blocking("an upload", || {
            let put = cluster.ask("PUT", &format!("/api/files/{name}"), b"new");
            (put.status == 201).then_some(())
        });
        until_blocking("the doubt is known", || {
            doubts(&cluster).iter().any(is_older).then_some(())
        });
    };
    restart_older("new-0", &|| {
        std::fs::rename(&folder, &newer).unwrap();
        std::fs::rename(&backup, &folder).unwrap();
    });
    // More is written than was lost.
    restart_older("new-1", &|| {});
    restart_older("new-2", &|| {});
    assert_eq!(cluster.ask("DELETE", &path(FILES - 1), b"").status, 204);
    let beats = || cluster.metric(STORAGE, HEARTBEATS);
    let (before, retired) = (beats(), "cstore_storage_retired_files_total");
    until_blocking("two sweeps over pins", || {
        (beats() > before + 1_300.0).then_some(())
    });
    assert_eq!(cluster.metric(STORAGE, retired), 0.0);
    let stats = cluster.ask("GET", "/api/stats", b"").json();
    assert!(stats["pending_releases"].as_u64() > Some(0), "{stats}");

    // The newer folder replaces the restored one. Uploads since the restore are in the restored
    // folder only, so the newer one is in doubt, too, until a person goes on without them.
    let other = cluster.dir().join("other");
    cluster.kill(STORAGE);
    std::fs::rename(&folder, &other).unwrap();
    std::fs::rename(&newer, &folder).unwrap();
    cluster.launch(STORAGE);
    until_blocking("the doubt about the newer folder is known", || {
        doubts(&cluster).iter().any(is_older).then_some(())
    });
    assert_reads(&cluster, 0..FILES - 1);
    assert_eq!(cluster.fetch("/api/files/last").body, b"last");
    let pending = || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        stats["pending_releases"].as_u64().unwrap()
    };
    assert!(pending() > 0);
    let accept_all = || {
        for doubt in doubts(&cluster) {
            let accepted = hold(&cluster, &["accept", STORAGE, &doubt["number"].to_string()]);
            let said = String::from_utf8(accepted.stderr).unwrap();
            assert!(accepted.status.success(), "{doubt}: {said}");
        }
        until_blocking("the removal is released", || (pending() == 0).then_some(()));
    };
    accept_all();
    assert_eq!(cluster.ask("DELETE", &path(FILES - 2), b"").status, 204);
    until_blocking("it frees again", || (pending() == 0).then_some(()));

    // Or a person takes the older one as it is.
    restart_older("new-3", &|| {
        std::fs::rename(&folder, &newer).unwrap();
        std::fs::rename(&other, &folder).unwrap();
    });
    assert_eq!(cluster.ask("DELETE", &path(0), b"").status, 204);
    assert!(pending() > 0);
    accept_all();
    restart(&cluster, || {});
    assert_eq!(doubts(&cluster), Vec::<Value>::new());
    assert_eq!(cluster.fetch("/api/files/new-2").body, b"new");
}

/// Yesterday's folder of the master, tried out for a while: it knows nothing of the newer half of
/// the files, and takes each of them for an abandoned upload.
#[test]
fn i4_s01_an_older_master_frees_nothing_and_the_right_one_finds_everything() {
    let cluster = settings().env("CSTORE_TICKET_TTL_MS", "1000").start();
    let put = |n: u64| {
        let put = cluster.ask("PUT", &path(n), &content(n));
        assert_eq!(put.status, 201, "{}", put.text());
    };
    (0..FILES / 2).for_each(put);
    let folder = cluster.dir().join(MASTER);
    let (backup, right) = (cluster.dir().join("yesterday"), cluster.dir().join("right"));
    let swap = |between: &dyn Fn()| {
        cluster.kill(MASTER);
        between();
        cluster.launch(MASTER);
    };
    swap(&|| copy_folder(&folder, &backup));
    cluster.wait_ready();
    (FILES / 2..FILES).for_each(put);
    assert_eq!(cluster.ask("DELETE", &path(0), b"").status, 204);

    until_heard(&cluster);
    // A storage node that is started again knows what it has obeyed, too.
    swap(&|| {
        std::fs::rename(&folder, &right).unwrap();
        std::fs::rename(&backup, &folder).unwrap();
        cluster.kill(STORAGE);
        cluster.launch(STORAGE);
    });
    let is_about_master = |doubt: &Value| doubt["kind"] == "master";
    until_blocking("the doubt is known", || {
        doubts(&cluster).iter().any(is_about_master).then_some(())
    });
    assert_eq!(cluster.fetch(&path(1)).body, content(1), "reads go on");
    // It writes nothing either: the files that it does not know are not its to replace.
    for n in 0..4 {
        let refused = cluster.ask("PUT", &format!("/api/files/other-{n}"), b"other");
        assert_eq!(refused.status, 503, "{}", refused.text());
        // The gateway may still have a ticket of before: then the storage node refuses.
        let code = refused.json()["code"].as_str().unwrap().to_owned();
        assert!(
            ["metadata_older", "storage_hold"].contains(&code.as_str()),
            "{code}"
        );
        let refused = cluster.ask("DELETE", &path(1), b"");
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.json()["code"], "metadata_older");
        let text = refused.text();
        assert!(!text.contains(STORAGE), "what operators are told: {text}");
    }
    let beats = || cluster.metric(STORAGE, HEARTBEATS);
    let before = beats();
    until_blocking("two sweeps over pins, and the life of tickets", || {
        (beats() > before + 1_300.0).then_some(())
    });

    swap(&|| {
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::rename(&right, &folder).unwrap();
    });
    cluster.wait_ready();
    until_blocking("the doubt is disproved", || {
        doubts(&cluster).is_empty().then_some(())
    });
    assert_reads(&cluster, 1..FILES);
    until_blocking("the removal is released", || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        (stats["pending_releases"] == 0).then_some(())
    });
    restart(&cluster, || {});
    assert_reads(&cluster, 1..FILES);
}

/// The right folder of the master is lost: a person goes on with the older one. What that one does
/// not know stays until the person has dropped it.
#[test]
fn i12_an_older_master_is_accepted_by_the_number_that_the_list_shows() {
    let cluster = settings().env("CSTORE_TICKET_TTL_MS", "1000").start();
    let put = |name: &str| {
        cluster
            .ask("PUT", &format!("/api/files/{name}"), b"content")
            .status
    };
    assert_eq!(put("kept"), 201);
    let folder = cluster.dir().join(MASTER);
    let backup = cluster.dir().join("yesterday");
    cluster.kill(MASTER);
    copy_folder(&folder, &backup);
    cluster.launch(MASTER);
    cluster.wait_ready();
    assert_eq!(put("newer"), 201);
    until_heard(&cluster);
    cluster.kill(MASTER);
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&backup, &folder).unwrap();
    cluster.launch(MASTER);
    until_blocking("the doubt is known", || {
        (!doubts(&cluster).is_empty()).then_some(())
    });
    assert_eq!(put("other"), 503);

    let listed = String::from_utf8(hold(&cluster, &["list"]).stdout).unwrap();
    assert!(
        listed.contains("older than what this disk has obeyed"),
        "{listed}"
    );
    let number = doubts(&cluster)[0]["number"].to_string();
    let accepted = hold(&cluster, &["accept", STORAGE, &number]);
    let said = String::from_utf8(accepted.stderr).unwrap();
    assert!(accepted.status.success(), "{said}");
    cluster.wait_ready();
    assert_eq!(put("other"), 201);
    for name in ["kept", "other"] {
        let path = format!("/api/files/{name}");
        assert_eq!(cluster.fetch(&path).body, b"content");
        assert_eq!(cluster.ask("DELETE", &path, b"").status, 204);
    }
    restart(&cluster, || {});
    let released = || {
        until_blocking("the removals are released", || {
            let stats = cluster.ask("GET", "/api/stats", b"").json();
            (stats["pending_releases"] == 0).then_some(())
        });
    };
    released();
    assert_eq!(doubts(&cluster), Vec::<Value>::new());

    let kept = |args: &[&str]| {
        let output = cluster.admin_output(&[&["kept"], args].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let upload = until_blocking("the newer upload is kept", || {
        let listed = kept(&["list", "--json"]);
        let line: Option<Value> = listed.lines().next().map(|line| line.parse().unwrap());
        line.map(|line| line["upload"].as_str().unwrap().to_owned())
    });
    assert_eq!(kept(&["list"]).trim(), upload);
    let listed = String::from_utf8(hold(&cluster, &["list"]).stdout).unwrap();
    assert!(listed.contains("1 uploads of another history"), "{listed}");
    let blocks = || cluster.metric(STORAGE, "cstore_storage_live_blocks");
    assert!(blocks() > 0.0, "its block is there");
    assert!(kept(&["drop", &upload]).starts_with("1 uploads are dropped"));
    assert_eq!(kept(&["list"]).trim(), "no upload is kept");
    assert!(kept(&["drop", "--all"]).starts_with("0 uploads are dropped"));
    released();
    until_blocking("its space is back", || (blocks() == 0.0).then_some(()));
    let none = cluster.admin_output(&["kept", "drop"]);
    assert_eq!(none.status.code(), Some(64), "which ones?");
}

/// The folder of the node is there and empty, because its volume is not mounted.
#[test]
fn i1_s12_a_volume_that_is_not_mounted_is_not_formatted() {
    let cluster = cluster();
    fill(&cluster);
    let folder = cluster.dir().join(STORAGE);
    let volume = cluster.dir().join("volume");
    cluster.kill(STORAGE);
    std::fs::rename(&folder, &volume).unwrap();
    std::fs::create_dir(&folder).unwrap();
    cluster.launch(STORAGE);
    let reason = cluster.await_refused_disk(STORAGE);
    assert!(
        !folder.join("superblock.bin").try_exists().unwrap(),
        "it was formatted: {reason}"
    );
    let put = cluster.ask("PUT", "/api/files/new", b"new");
    assert_eq!(put.status, 503, "{}", put.text());

    // The volume is mounted again: nothing has happened.
    cluster.kill(STORAGE);
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&volume, &folder).unwrap();
    cluster.launch(STORAGE);
    cluster.wait_ready();
    assert_reads(&cluster, 0..FILES);

    // It is lost for good: a person says so, with the uuid that the refusal names.
    cluster.kill(STORAGE);
    std::fs::rename(&folder, &volume).unwrap();
    cluster.launch(STORAGE);
    cluster.replace_disk(STORAGE);
    cluster.wait_ready();
    assert_eq!(cluster.ask("PUT", "/api/files/new", b"new").status, 201);
    assert_eq!(cluster.fetch("/api/files/new").body, b"new");
}

/// Checks that `/ready` of `dev` shows the hold, and that the log names the assumed size.
#[test]
fn i12_dev_tells_of_a_hold_and_of_an_assumed_size() {
    let mut cluster = Cluster::one_of_each(PROGRAM).dev().start();
    let put = cluster.ask("PUT", &path(0), &content(0));
    assert_eq!(put.status, 201, "{}", put.text());
    let ready = |cluster: &Cluster| {
        let mut client = Client::connect(&cluster.admin_addr("dev")).unwrap();
        let answer = client.call("GET", "/ready", "", b"").unwrap();
        (answer.status, answer.json())
    };
    assert_eq!(ready(&cluster), (200, Value::Array(Vec::new())));

    assert!(cluster.stop("dev").success());
    let superblock = cluster.dir().join(STORAGE).join("superblock.bin");
    std::fs::remove_file(superblock).unwrap();
    cluster.set_env("FS_SIZE", "");
    cluster.launch("dev");
    cluster.wait_ready();
    until_blocking("the hold on /ready", || {
        let (status, parts) = ready(&cluster);
        assert_eq!(status, 200, "reads and writes go on: {parts}");
        let reason = parts[0]["reason"].as_str()?;
        let says = "storage-1 is on hold, nothing is freed: the superblock was lost";
        (parts[0]["part"] == "hold" && reason.starts_with(says)).then_some(())
    });
    let log = cluster.log("dev");
    let warning = log
        .lines()
        .find(|line| line.contains("superblock is lost and FS_SIZE is not set"));
    let warning = warning.expect("a warning of the assumed size");
    assert!(
        warning.contains(" WARN ") && warning.contains("capacity=10737418240"),
        "{warning}"
    );
    assert_reads(&cluster, 0..1);
}
