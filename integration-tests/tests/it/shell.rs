//! The command line in front of a real system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cstore_integration_tests::cluster::Cluster;
use cstore_testkit::{random, until_blocking};
use serde_json::Value;

use crate::PROGRAM;

const BLOCK: usize = 64 << 10;

fn command(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(args)
        .env_clear()
        .env("CSTORE_URL", format!("http://{}", cluster.gateway));
    command
}

fn run(cluster: &Cluster, args: &[&str]) -> Output {
    command(cluster, args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a command that must succeed. Returns its output, a value a line, without the summary.
fn good(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let output = run(cluster, &[args, &["--json"]].concat());
    assert!(
        output.status.success(),
        "{args:?}: {:?} {}",
        output.status,
        said(&output)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["status"] != "summary")
        .collect()
}

fn status(cluster: &Cluster, args: &[&str]) -> Option<i32> {
    run(cluster, args).status.code()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// All files below a folder, by their paths in it.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(
                    path.strip_prefix(root).unwrap().to_path_buf(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}

#[test]
fn i1_files_of_all_sizes_go_in_and_come_back() {
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let dir = tempfile::tempdir().unwrap();
    let (src, dest) = (dir.path().join("src"), dir.path().join("dest"));
    for size in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 100_000_000] {
        let name = format!("sizes/{size}.bin");
        let body = random(size, size as u64 + 1);
        std::fs::write(&src, &body).unwrap();
        let put = &good(
            &cluster,
            &["put", text(&src), &name, "--verify", "--meta", "Owner=Ada"],
        )[0];
        assert_eq!(
            (&put["status"], put["size"].as_u64()),
            (&"created".into(), Some(size as u64))
        );
        let got = &good(
            &cluster,
            &["get", &name, text(&dest), "--force", "--verify"],
        )[0];
        assert_eq!(
            (&got["verified"], &got["etag"]),
            (&true.into(), &put["etag"])
        );
        assert!(std::fs::read(&dest).unwrap() == body, "{size}");
        let stat = &good(&cluster, &["stat", &name])[0];
        assert_eq!(
            (&stat["sha256"], &stat["metadata"]["owner"]),
            (&put["sha256"], &"Ada".into())
        );
        assert_eq!(stat["content_type"], "application/octet-stream");
        // The very same bytes are no conflict, and others are.
        assert_eq!(
            good(&cluster, &["put", text(&src), &name])[0]["status"],
            "unchanged"
        );
        assert_eq!(
            good(&cluster, &["get", &name, text(&dest)])[0]["status"],
            "unchanged"
        );
        std::fs::write(&src, [&body[..], b"x"].concat()).unwrap();
        assert_eq!(
            status(&cluster, &["put", text(&src), &name]),
            Some(4),
            "{size}"
        );
        // Without a stated SHA-256 the ETag has to do, and through pipes there is neither.
        let piped = command(&cluster, &["put", "-", "piped", "--overwrite", "-q"])
            .stdin(std::fs::File::open(&src).unwrap())
            .output()
            .unwrap();
        assert!(
            piped.status.success() && said(&piped).is_empty(),
            "{}",
            said(&piped)
        );
        let out = run(&cluster, &["get", "piped", "-"]);
        assert!(
            out.stdout == std::fs::read(&src).unwrap(),
            "{size}: {:?}",
            out.status
        );
        let got = &good(
            &cluster,
            &["get", "piped", text(&dest), "--force", "--verify"],
        )[0];
        assert_eq!(got["verified"], true, "{got}");
        assert_eq!(
            good(&cluster, &["put", text(&src), "piped"])[0]["status"],
            "unchanged"
        );
    }
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        2,
        "nothing is left beside the files"
    );
    cluster.audit(&[]);
}

#[test]
fn i1_i3_a_folder_goes_in_and_comes_back_equal() {
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let dir = tempfile::tempdir().unwrap();
    let (src, back) = (dir.path().join("tree"), dir.path().join("back"));
    for n in 0..300_u64 {
        let folder = src.join(format!("d{}/ü {}", n % 7, n % 3));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join(format!("f{n}.txt")),
            random(n as usize * 97, n + 1),
        )
        .unwrap();
    }
    for odd in ["a:copy", "100%", "#?&=+", "…", "-rf", " ", "a\\b"] {
        std::fs::write(src.join(odd), odd).unwrap();
    }
    std::fs::create_dir(src.join("empty")).unwrap();
    let all = tree(&src);
    let put = ["put", "-r", text(&src), "keep", "--jobs", "16"];
    assert_eq!(good(&cluster, &put).len(), all.len());
    assert!(
        good(&cluster, &put)
            .iter()
            .all(|put| put["status"] == "unchanged")
    );
    assert_eq!(
        good(&cluster, &["get", "-r", "keep", text(&back), "-j", "16"]).len(),
        all.len()
    );
    assert!(tree(&back) == all);
    // One was changed here, one is missing: the second run brings what is missing and replaces
    // nothing.
    std::fs::write(back.join("100%"), "mine").unwrap();
    std::fs::remove_file(back.join("…")).unwrap();
    let again = run(&cluster, &["get", "-r", "keep", text(&back)]);
    assert!(
        again.status.code() == Some(2) && said(&again).contains("--force"),
        "{}",
        said(&again)
    );
    assert!(std::fs::read(back.join("100%")).unwrap() == b"mine" && back.join("…").is_file());
    good(&cluster, &["get", "-r", "keep", text(&back), "--force"]);
    assert!(tree(&back) == all);

    let listed = good(&cluster, &["ls", "keep/"]);
    assert_eq!(listed.len(), 14, "{listed:?}");
    assert_eq!(good(&cluster, &["ls", "-r", "keep/"]).len(), all.len());
    assert_eq!(
        good(&cluster, &["ls", "-r", "keep/", "--limit", "5"]).len(),
        5
    );
    assert_eq!(
        good(&cluster, &["cp", "keep/a:copy", "other/"])[0]["name"],
        "other/a:copy"
    );
    assert_eq!(
        good(&cluster, &["mv", "other/a:copy", "other/b"])[0]["status"],
        "renamed"
    );
    assert_eq!(status(&cluster, &["cp", "keep/ ", "other/b"]), Some(4));
    good(&cluster, &["cp", "keep/ ", "other/b", "--overwrite"]);
    assert_eq!(status(&cluster, &["stat", "other/a:copy"]), Some(3));
    assert_eq!(
        status(&cluster, &["rm", "other/b", "--if-match", "0-0"]),
        Some(4)
    );
    assert_eq!(good(&cluster, &["rm", "-r", "keep"]).len(), all.len());
    assert_eq!(status(&cluster, &["rm", "-r", "keep"]), Some(3));
    assert_eq!(good(&cluster, &["ls", "-r"]).len(), 1);
    cluster.audit(&[]);
}

#[test]
fn i4_du_and_a_dry_run_say_what_a_removal_would_free() {
    let cluster = Cluster::builder(PROGRAM)
        .dev()
        .env("BLOCK_SIZE", "4096")
        .start();
    let dir = tempfile::tempdir().unwrap();
    let block = 4_096_u64;
    let put = |name: &str, parts: &[u64]| {
        let body: Vec<u8> = parts.iter().flat_map(|seed| random(4_096, *seed)).collect();
        let path = dir.path().join("f");
        std::fs::write(&path, body).unwrap();
        good(&cluster, &["put", text(&path), name]);
    };
    put("d/one", &[1, 2, 3, 3]);
    put("d/two", &[3, 4]);
    put("other", &[4]);
    let du = &good(&cluster, &["du", "d/"])[0];
    let numbers = [
        "files",
        "logical_bytes",
        "unique_bytes",
        "shared_bytes",
        "freed_bytes",
    ]
    .map(|key| du[key].as_u64());
    assert_eq!(
        numbers,
        [2, 6 * block, 4 * block, block, 3 * block].map(Some),
        "{du}"
    );
    let table = said(&run(&cluster, &["du"]));
    assert!(
        table.starts_with("logical") && table.contains("28672"),
        "{table}"
    );
    assert!(said(&run(&cluster, &["du", "--human"])).contains("28.0 KiB"));
    let would = good(&cluster, &["rm", "-n", "d/one", "other"]);
    let mut freed: Vec<_> = would
        .iter()
        .map(|line| (line["name"].clone(), line["freed_bytes"].as_u64()))
        .collect();
    freed.sort_by_key(|(name, _)| name.to_string());
    assert_eq!(
        freed,
        [("d/one".into(), Some(2 * block)), ("other".into(), Some(0))]
    );
    let folder = &good(&cluster, &["rm", "-r", "--dry-run", "d"])[0];
    assert_eq!(
        (&folder["files"], folder["freed_bytes"].as_u64()),
        (&2.into(), Some(3 * block))
    );
    assert_eq!(status(&cluster, &["rm", "-n", "gone"]), Some(3));
    assert_eq!(status(&cluster, &["rm", "-r", "-n", "gone"]), Some(3));
    assert_eq!(
        good(&cluster, &["ls", "-r"]).len(),
        3,
        "nothing was removed"
    );
    cluster.audit(&[]);
}

#[test]
fn i13_a_token_opens_its_own_names_and_a_wrong_one_ends_with_5() {
    let cluster = Cluster::builder(PROGRAM)
        .dev()
        .env("CSTORE_ANONYMOUS", "FALSE")
        .start_unready();
    let token = cluster.admin_command(&[
        "token",
        "create",
        "--tenant",
        "acme",
        "--rights",
        "read,write",
    ]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, &token).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let with = |args: &[&str]| {
        run(
            &cluster,
            &[args, &["--token-file", text(&path), "--retries", "20"]].concat(),
        )
    };
    // The gateway takes a new token in within a second.
    let put = until_blocking("the token", || {
        let put = with(&["put", text(&path), "a/secret.txt"]);
        (put.status.code() != Some(5) && put.status.code() != Some(6)).then_some(put)
    });
    assert!(put.status.success(), "{}", said(&put));
    assert_eq!(said(&with(&["ls", "a/"])), "a/secret.txt\n");
    assert_eq!(
        with(&["rm", "a/secret.txt"]).status.code(),
        Some(5),
        "it has no right to"
    );
    let would = with(&["rm", "-n", "a/secret.txt"]);
    assert!(
        would.status.success() && said(&would).contains("shown to the default tenant only"),
        "{}",
        said(&would)
    );
    assert_eq!(status(&cluster, &["ls"]), Some(5));
    cluster.audit(&[]);
}

#[test]
fn mistakes_in_front_of_a_real_system_are_told_with_what_helps() {
    let cluster = Cluster::builder(PROGRAM).dev().start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, random(300_000, 9)).unwrap();
    let first = said(&run(&cluster, &["put", text(&file), "d/one"]));
    assert!(first.contains("created, 293 KiB new, "), "{first}");
    // The store has the bytes already, so none of them is new.
    let second = said(&run(&cluster, &["put", text(&file), "d/two"]));
    assert!(second.contains("created, 0 B new, "), "{second}");

    let all = run(&cluster, &["rm", "-r", "/"]);
    assert!(
        all.status.code() == Some(64) && said(&all).contains("--all"),
        "{}",
        said(&all)
    );
    assert_eq!(status(&cluster, &["ls", "nosuch/"]), Some(3));
    assert_eq!(good(&cluster, &["ls", "-r"]).len(), 2);
    let sorted = good(&cluster, &["ls", "-r", "--sort", "time", "--reverse"]);
    assert_eq!(sorted[0]["name"], "d/one");

    let into = format!("{}/", text(&dir.path().join("new")));
    let alone = said(&run(&cluster, &["get", "nosuch"]));
    let below = said(&run(&cluster, &["get", "nosuch", &into]));
    let without_trace = |told: &str| told.split(" (trace").next().map(str::to_owned);
    assert_eq!(without_trace(&alone), without_trace(&below));

    let health = run(&cluster, &["health", "--addr", &cluster.gateway]);
    assert!(
        health.status.code() == Some(1) && said(&health).contains("is no admin port"),
        "{}",
        said(&health)
    );
    assert_eq!(good(&cluster, &["rm", "-r", "/", "--all"]).len(), 2);
    assert_eq!(status(&cluster, &["ls"]), Some(0));
    cluster.audit(&[]);
}
