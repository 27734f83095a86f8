//! Patterns of names, in front of a gateway that lists like a real one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::files::fake::{Fake, Reply, Request};
use crate::files::run::{command, cstore, files_in, lines, said, status, text};

/// Files on one page of a list.
const PAGE: usize = 2;

const NAMES: &[&str] = &[
    "a.txt",
    "many/1.jpg",
    "many/2.jpg",
    "many/3.png",
    "many/sub/4.jpg",
    "many/sub/5.txt",
    "manx/1.jpg",
    "tmp-1/x",
    "tmp-2/y/z",
    "ü.txt",
];

/// A store with these files, one byte each.
fn store(names: &[&str]) -> Fake {
    let mut names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Fake::start(move |request| {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if path == "/api/files" {
            return Reply::new(200, page(&names, query).to_string());
        }
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let name = decoded.strip_prefix("/api/files/").unwrap_or_default();
        if !names.contains(name) {
            return match request.method.as_str() {
                "HEAD" => Reply::new(404, ""),
                _ => Reply::problem(404, "not_found"),
            };
        }
        match request.method.as_str() {
            "DELETE" => {
                names.remove(name);
                Reply::new(204, "")
            }
            _ if query == "explain=freed" => Reply::new(200, r#"{"size":1,"freed_bytes":1}"#),
            _ => Reply::file(request, b"x", "e-1"),
        }
    })
}

/// One page of a list, by the rules of the REST interface.
fn page(names: &BTreeSet<String>, query: &str) -> Value {
    let value = |key: &str| {
        let pair = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        percent_decode_str(pair.unwrap_or_default())
            .decode_utf8_lossy()
            .into_owned()
    };
    let (prefix, delimiter, after) = (value("prefix"), value("delimiter"), value("page_token"));
    let limit = value("limit").parse().unwrap_or(PAGE).min(PAGE);
    let entry = |name: &String| match name[prefix.len()..].split_once('/') {
        Some((folder, _)) if !delimiter.is_empty() => format!("{prefix}{folder}/"),
        _ => name.clone(),
    };
    let entries: BTreeSet<String> = names
        .iter()
        .filter(|name| name.starts_with(&prefix))
        .map(entry)
        .collect();
    let mut rest = entries.into_iter().filter(|entry| *entry > after);
    let shown: Vec<String> = rest.by_ref().take(limit).collect();
    let (folders, files): (Vec<String>, Vec<String>) = shown
        .iter()
        .cloned()
        .partition(|entry| entry.ends_with('/'));
    let files: Vec<Value> = files
        .iter()
        .map(|name| json!({"name": name, "size": 1, "etag": "e-1"}))
        .collect();
    let next = rest
        .next()
        .and_then(|_| shown.last().cloned())
        .unwrap_or_default();
    json!({"files": files, "prefixes": folders, "next_page_token": next})
}

fn removed(fake: &Fake) -> Vec<String> {
    let mut names: Vec<String> = fake
        .seen()
        .iter()
        .filter(|request| request.method == "DELETE")
        .map(|request| {
            let name = request.path.trim_start_matches("/api/files/");
            percent_decode_str(name).decode_utf8_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}

fn stdout(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

/// All files below a folder of this machine, as paths from there.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in files_in(root) {
        let path = root.join(&name);
        if path.is_dir() {
            found.extend(tree(&path).iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found
}

#[test]
fn ls_shows_what_a_pattern_matches() {
    let fake = store(NAMES);
    for (args, expected) in [
        (
            &["many/*"][..],
            &["many/1.jpg", "many/2.jpg", "many/3.png", "many/sub/"][..],
        ),
        (&["many/*.jpg"], &["many/1.jpg", "many/2.jpg"]),
        (&["*.txt"], &["a.txt", "ü.txt"]),
        (&["?.txt"], &["a.txt", "ü.txt"]),
        (
            &["**/*.jpg"],
            &["manx/1.jpg", "many/1.jpg", "many/2.jpg", "many/sub/4.jpg"],
        ),
        (&["man[!y]/*"], &["manx/1.jpg"]),
        (
            &["man?/{1,2}.jpg"],
            &["manx/1.jpg", "many/1.jpg", "many/2.jpg"],
        ),
        (&["tmp-*"], &["tmp-1/", "tmp-2/"]),
        (&["tmp-*/"], &["tmp-1/", "tmp-2/"]),
        (&["*/sub"], &["many/sub/"]),
        (&["-r", "tmp-*"], &["tmp-1/x", "tmp-2/y/z"]),
        (&["-r", "many/*.jpg"], &["many/1.jpg", "many/2.jpg"]),
        (&["many/*", "--limit", "2"], &["many/1.jpg", "many/2.jpg"]),
        (&["many/*.jpg", "--reverse"], &["many/2.jpg", "many/1.jpg"]),
        (
            &["*"],
            &["a.txt", "manx/", "many/", "tmp-1/", "tmp-2/", "ü.txt"],
        ),
    ] {
        let output = cstore(&fake, &[&["ls"], args].concat());
        assert_eq!(
            (status(&output), stdout(&output).as_slice()),
            (
                0,
                expected
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect::<Vec<_>>()
                    .as_slice()
            ),
            "{args:?} {}",
            said(&output)
        );
    }
    let output = cstore(&fake, &["ls", "many/*.gif"]);
    assert_eq!(
        (status(&output), said(&output)),
        (
            3,
            "cstore: many/*.gif: no name matches this pattern\n".to_owned()
        )
    );
    let output = cstore(&fake, &["ls", "--no-glob", "many/*"]);
    assert!(status(&output) == 3 && said(&output).contains("begins with \"many/*\""));
    // The part before the first wildcard is what the gateway is asked for.
    let asked = store(NAMES);
    cstore(&asked, &["ls", "many/s*/4*"]);
    let last = asked.seen().pop().unwrap_or_default();
    assert!(last.path.contains("prefix=many%2Fs&"), "{}", last.path);
}

#[test]
fn rm_removes_what_a_pattern_matches_and_nothing_else() {
    for (args, expected, gone) in [
        (
            &["many/*"][..],
            0,
            &["many/1.jpg", "many/2.jpg", "many/3.png"][..],
        ),
        (&["many/*.jpg", "many/1*"], 0, &["many/1.jpg", "many/2.jpg"]),
        (
            &["many/**"],
            0,
            &[
                "many/1.jpg",
                "many/2.jpg",
                "many/3.png",
                "many/sub/4.jpg",
                "many/sub/5.txt",
            ],
        ),
        (&["-r", "many/s*"], 0, &["many/sub/4.jpg", "many/sub/5.txt"]),
        (&["-r", "tmp-*"], 0, &["tmp-1/x", "tmp-2/y/z"]),
        (&["tmp-*"], 3, &[]),
        (&["many/*.gif"], 3, &[]),
        (&["many/*.gif", "many/3*"], 2, &["many/3.png"]),
        (&["--no-glob", "many/*"], 3, &[]),
        (&["-n", "many/*"], 0, &[]),
        (&["*"], 64, &[]),
        (&["**"], 64, &[]),
        (&["-r", "*"], 64, &[]),
        (&["-r", "*/"], 64, &[]),
        (&["many/1.jpg", "*/*"], 64, &[]),
        (&["*", "--all"], 0, &["a.txt", "ü.txt"]),
        (&["**", "--all"], 0, NAMES),
        (&["many/*", "--all"], 64, &[]),
        (&["/many/*"], 64, &[]),
        (&["s3://b/*"], 64, &[]),
        (&["many//*"], 64, &[]),
    ] {
        let fake = store(NAMES);
        let output = cstore(&fake, &[&["rm"], args].concat());
        let mut gone: Vec<String> = gone.iter().map(|name| (*name).to_owned()).collect();
        gone.sort();
        let mut removed = removed(&fake);
        // The gateway was asked to remove the name that is no pattern, and refused.
        removed.retain(|name| NAMES.contains(&name.as_str()));
        assert_eq!(
            (status(&output), removed),
            (expected, gone),
            "{args:?}: {}",
            said(&output)
        );
    }
    let fake = store(NAMES);
    for (args, told) in [
        (
            &["tmp-*"][..],
            "tmp-*: this pattern matches folders only, which --recursive takes",
        ),
        (&["many/*.gif"], "many/*.gif: no name matches this pattern"),
        (&["*"], "\"*\" spares no file at the root of the store"),
    ] {
        let output = cstore(&fake, &[&["rm"], args].concat());
        assert!(said(&output).contains(told), "{args:?}: {}", said(&output));
    }
    let output = cstore(&fake, &["rm", "-n", "many/*.jpg", "-j1"]);
    assert_eq!(
        stdout(&output),
        [
            "many/1.jpg  1 B, would free 1 B",
            "many/2.jpg  1 B, would free 1 B"
        ]
    );
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.starts_with("2 files would go, 2 B, "), "{told}");
}

#[test]
fn a_name_that_exists_takes_precedence_over_the_pattern() {
    let names = ["*", "a1", "a*", "b/*/x", "b/1/x"];
    for (args, gone) in [
        (&["*"][..], &["*"][..]),
        (&["a*"], &["a*"]),
        (&["--", "a*"], &["a*"]),
        (&["a\\*"], &["a*"]),
        (&["-r", "b/*"], &["b/*/x"]),
        (&["a[0-9]"], &["a1"]),
    ] {
        let fake = store(&names);
        let output = cstore(&fake, &[&["rm"], args].concat());
        assert_eq!(status(&output), 0, "{args:?}: {}", said(&output));
        assert_eq!(removed(&fake), gone, "{args:?}");
    }
    let fake = store(&names);
    assert_eq!(stdout(&cstore(&fake, &["ls", "a*"])), ["a*"]);
    assert_eq!(stdout(&cstore(&fake, &["ls", "a[*0-9]"])), ["a*", "a1"]);
}

#[test]
fn get_keeps_the_paths_below_the_folder_of_the_pattern() {
    for (args, expected) in [
        (&["many/*.jpg"][..], &["1.jpg", "2.jpg"][..]),
        (&["many/**/*.jpg"], &["1.jpg", "2.jpg", "sub/4.jpg"]),
        (&["*/1.jpg"], &["manx/1.jpg", "many/1.jpg"]),
        (&["-r", "many/s*"], &["sub/4.jpg", "sub/5.txt"]),
        (
            &["-r", "many/*", "--exclude", "*.jpg"],
            &["3.png", "sub/5.txt"],
        ),
    ] {
        for is_new in [true, false] {
            let fake = store(NAMES);
            let dir = tempfile::tempdir().unwrap();
            let dest = if is_new {
                dir.path().join("new")
            } else {
                dir.path().to_path_buf()
            };
            let into = format!("{}/", text(&dest));
            let dest_arg = if is_new { into.as_str() } else { text(&dest) };
            let args: Vec<&str> = ["get"]
                .iter()
                .chain(args)
                .copied()
                .chain([dest_arg])
                .collect();
            let output = cstore(&fake, &args);
            assert_eq!(status(&output), 0, "{args:?}: {}", said(&output));
            assert_eq!(tree(&dest), expected, "{args:?}");
        }
    }
    let fake = store(NAMES);
    let dir = tempfile::tempdir().unwrap();
    let here = command(&fake.url, &["get", "many/*.png"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(
        (status(&here), tree(dir.path())),
        (0, vec!["3.png".to_owned()])
    );
    let none = cstore(&fake, &["get", "many/*.gif", text(dir.path())]);
    assert!(
        status(&none) == 3 && said(&none).contains("many/*.gif: no name matches this pattern"),
        "{}",
        said(&none)
    );
    let piped = cstore(&fake, &["get", "many/*.png", "-"]);
    assert!(
        status(&piped) == 3 && said(&piped).contains("it is taken as it is written"),
        "{}",
        said(&piped)
    );
}

#[test]
fn the_last_line_of_json_sums_up_and_the_status_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (one, into) = (dir.path().join("one"), dir.path().join("into"));
    std::fs::write(&one, "x").unwrap();
    let put = |request: &Request| match request.path.as_str() {
        "/api/files/d/taken" if request.method == "PUT" => Reply::problem(409, "already_exists"),
        _ if request.method == "PUT" => Reply::new(201, r#"{"size":1,"etag":"e","new_bytes":1}"#),
        _ => Reply::new(404, ""),
    };
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for name in ["a", "b", "taken"] {
        std::fs::write(tree.join(name), "x").unwrap();
    }
    for (args, expected, summary) in [
        (
            vec!["put", text(&one), "d/"],
            0,
            json!({"command": "put", "files": 1, "unchanged": 0, "failed": 0, "bytes": 1, "new_bytes": 1,
                "empty_folders": 0, "skipped_links": 0}),
        ),
        (
            vec!["put", "-r", text(&tree), "d"],
            2,
            json!({"command": "put", "files": 2, "unchanged": 0, "failed": 1, "bytes": 2, "new_bytes": 2,
                "empty_folders": 0, "skipped_links": 0}),
        ),
        (
            vec!["get", "many/*", text(&into)],
            0,
            json!({"command": "get", "files": 3, "unchanged": 0, "failed": 0, "bytes": 3}),
        ),
        (
            vec!["get", "nosuch", text(&into)],
            3,
            json!({"command": "get", "files": 0, "unchanged": 0, "failed": 1, "bytes": 0}),
        ),
        (
            vec!["rm", "many/*"],
            0,
            json!({"command": "rm", "files": 3, "failed": 0, "bytes": 3}),
        ),
        (
            vec!["rm", "a.txt", "nosuch"],
            2,
            json!({"command": "rm", "files": 1, "failed": 1, "bytes": null}),
        ),
        (
            vec!["rm", "-n", "many/*"],
            0,
            json!({"command": "rm", "dry_run": true, "files": 3, "failed": 0, "bytes": 3}),
        ),
    ] {
        let fake = || match args[0] {
            "put" => Fake::start(put),
            _ => store(NAMES),
        };
        let _ = std::fs::remove_dir_all(&into);
        let plain = status(&cstore(&fake(), &args));
        let _ = std::fs::remove_dir_all(&into);
        let output = cstore(&fake(), &[&args[..], &["--json"]].concat());
        assert_eq!(
            (status(&output), plain),
            (expected, expected),
            "{args:?}: {}",
            said(&output)
        );
        let mut last = lines(&output.stdout).pop().unwrap();
        assert!(last["seconds"].take().is_f64(), "{last}");
        let last = last.as_object_mut().unwrap();
        last.remove("seconds");
        assert_eq!(last.remove("status"), Some("summary".into()));
        assert_eq!(Value::Object(last.clone()), summary, "{args:?}");
        let summaries = lines(&output.stdout);
        let summaries = summaries.iter().filter(|line| line["status"] == "summary");
        assert_eq!(summaries.count(), 1);
    }
}
