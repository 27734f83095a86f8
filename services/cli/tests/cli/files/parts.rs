//! Files that a download finds beside its destination, and those that it leaves there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cstore_testkit::nobody;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::files::fake::{Fake, Reply, Request};
use crate::files::run::{bytes, command, cstore, etag, files_in, lines, said, status, text};

/// Behaviour of the gateway towards its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    Cut,
    Same,
    Other,
    Gone,
    Denied,
}

fn part(dest: &Path) -> PathBuf {
    PathBuf::from(format!("{}.cstore-part", text(dest)))
}

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// A gateway with one file, and the state that a test may change.
fn gateway(content: Vec<u8>, other: Vec<u8>) -> (Fake, Arc<Mutex<Now>>) {
    let now = Arc::new(Mutex::new(Now::Cut));
    let state = now.clone();
    let fake = Fake::start(move |request| match *state.lock().unwrap() {
        Now::Cut => Reply::file(request, &content, "e-1").cut(content.len() / 2),
        Now::Same => Reply::file(request, &content, "e-1"),
        Now::Other => Reply::file(request, &other, "e-2"),
        Now::Gone => Reply::problem(404, "not_found"),
        Now::Denied => Reply::problem(401, "unauthenticated"),
    });
    (fake, now)
}

#[test]
fn i2_a_whole_part_of_an_earlier_process_is_delivered_only_when_the_gateway_still_has_that_file() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("f");
    let (content, other) = (bytes(300_000, 12), bytes(300_000, 13));
    for (then, expected) in [
        (Now::Same, 0),
        (Now::Other, 0),
        (Now::Gone, 3),
        (Now::Denied, 5),
    ] {
        let (fake, now) = gateway(content.clone(), other.clone());
        let get = ["get", "f", text(&dest), "--json", "--retries", "0"];
        assert_eq!(status(&cstore(&fake, &get)), 6);
        // The state after a process that was killed when all bytes were here and nothing was
        // published.
        std::fs::write(part(&dest), &content).unwrap();
        *now.lock().unwrap() = then;
        let output = cstore(&fake, &get);
        assert_eq!(status(&output), expected, "{then:?}: {}", said(&output));
        assert_eq!(fake.count("HEAD"), 1, "{then:?}");
        match then {
            Now::Same => {
                assert!(std::fs::read(&dest).unwrap() == content && fake.count("GET") == 1);
                assert_eq!(lines(&output.stdout)[0]["status"], "resumed");
            }
            Now::Other => {
                assert!(
                    std::fs::read(&dest).unwrap() == other,
                    "an old version was delivered"
                );
                assert_eq!(lines(&output.stdout)[0]["status"], "received");
            }
            // A removed file has no rest to fetch; a client that may not read now may do so later.
            Now::Gone => assert!(files_in(dir.path()).is_empty()),
            _ => assert_eq!(
                files_in(dir.path()),
                ["f.cstore-part", "f.cstore-part.json"]
            ),
        }
        for file in files_in(dir.path()) {
            std::fs::remove_file(dir.path().join(file)).unwrap();
        }
    }
}

#[test]
fn a_note_that_is_a_link_or_a_pipe_is_neither_written_through_nor_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (dest, victim) = (dir.path().join("f"), dir.path().join("victim"));
    let note = PathBuf::from(format!("{}.json", text(&part(&dest))));
    std::fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, &note).unwrap();
    let fake = Fake::start(|request| Reply::file(request, b"theirs", "e-1"));
    let get = || {
        let output = cstore(&fake, &["get", "f", text(&dest)]);
        assert!(
            status(&output) == 4 && said(&output).contains("in the way"),
            "{}",
            said(&output)
        );
    };
    get();
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
    std::fs::remove_file(&note).unwrap();
    pipe(&note);
    get();
    assert_eq!(files_in(dir.path()), ["f.cstore-part.json", "victim"]);
}

#[test]
fn a_file_of_somebody_that_has_the_name_of_a_part_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("a");
    let fake = Fake::start(|request| Reply::file(request, b"theirs", "e-1"));
    std::fs::write(part(&dest), "mine").unwrap();
    let output = cstore(&fake, &["get", "a", text(&dest), "--force"]);
    assert!(
        status(&output) == 4 && said(&output).contains("another name"),
        "{}",
        said(&output)
    );
    assert_eq!(std::fs::read(part(&dest)).unwrap(), b"mine");
    std::fs::remove_file(part(&dest)).unwrap();
    for name in ["a.cstore-part", "a.cstore-part.json"] {
        let output = command(&fake.url, &["get", name])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(
            status(&output) == 4 && said(&output).contains("unfinished"),
            "{}",
            said(&output)
        );
        let under = cstore(&fake, &["get", name, text(&dest), "--force"]);
        assert_eq!(status(&under), 0, "{}", said(&under));
    }
}

#[test]
fn a_pipe_is_not_replaced_even_with_force() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("f");
    pipe(&dest);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&dest, &link).unwrap();
    let fake = Fake::start(|request| Reply::file(request, b"theirs", "e-1"));
    for force in [&[][..], &["--force"]] {
        for dest in [&dest, &link] {
            let output = cstore(&fake, &[&["get", "f", text(dest)], force].concat());
            assert!(
                status(&output) == 4 && said(&output).contains("- as DEST"),
                "{}",
                said(&output)
            );
        }
    }
    assert_eq!(files_in(dir.path()), ["f", "link"]);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(!std::fs::symlink_metadata(&dest).unwrap().is_file());
}

#[test]
fn a_get_that_fails_before_the_first_byte_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("f");
    let (free, _held) = nobody();
    let answers: [fn(&Request) -> Reply; 3] = [
        |_| Reply::problem(404, "not_found"),
        |_| Reply::problem(401, "unauthenticated"),
        |_| Reply::lost(),
    ];
    let mut urls: Vec<String> = answers
        .into_iter()
        .map(|answer| Fake::start(answer).url)
        .collect();
    urls.push(format!("http://{free}"));
    for (url, expected) in urls.iter().zip([3, 5, 6, 6]) {
        let output = command(url, &["get", "f", text(&dest), "--retries", "0"])
            .output()
            .unwrap();
        assert_eq!(status(&output), expected, "{}", said(&output));
        assert!(
            files_in(dir.path()).is_empty(),
            "{expected}: {:?}",
            files_in(dir.path())
        );
    }
}

#[test]
fn a_destination_with_a_slash_is_a_folder_and_what_is_the_same_already_can_be_verified() {
    let dir = tempfile::tempdir().unwrap();
    let into = format!("{}/new/er/", text(dir.path()));
    let fake = Fake::start(|request| Reply::file(request, b"theirs", &etag(b"theirs")));
    let get = || cstore(&fake, &["get", "a/f", &into, "--verify", "--json"]);
    for expected in ["received", "unchanged"] {
        let output = get();
        assert_eq!(status(&output), 0, "{}", said(&output));
        let got = &lines(&output.stdout)[0];
        assert_eq!(
            (&got["status"], &got["verified"]),
            (&expected.into(), &true.into())
        );
    }
    assert_eq!(files_in(&dir.path().join("new/er")), ["f"]);
    let gone = Fake::start(|_| Reply::problem(404, "not_found"));
    let other = format!("{}/other/", text(dir.path()));
    assert_eq!(status(&cstore(&gone, &["get", "a/f", &other])), 3);
    assert_eq!(
        files_in(dir.path()),
        ["new"],
        "no folder is made for nothing"
    );
    // A folder cannot be made where a file is, and that is said once for all files.
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let root = format!("{}/file/below", text(dir.path()));
    let output = cstore(&fake, &["get", "-r", "a", &root]);
    assert_eq!(
        (status(&output), said(&output).lines().count()),
        (1, 1),
        "{}",
        said(&output)
    );
}

#[test]
fn on_a_terminal_no_bar_wipes_what_stdout_has_shown() {
    let fake = Fake::start(|request| Reply::file(request, b"first\nlast", "e-1"));
    let line = format!("{} get f -", env!("CARGO_BIN_EXE_cstore"));
    let mut script = std::process::Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("CSTORE_URL", &fake.url)
        .env("TERM", "xterm")
        .env_remove("CSTORE_TOKEN");
    let Ok(output) = script.stdin(std::process::Stdio::null()).output() else {
        println!("SKIP: there is no script(1), which makes a terminal");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\r\nlast");
}
