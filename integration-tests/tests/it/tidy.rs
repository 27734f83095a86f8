//! Rules of this repository that tests can check: imports, sizes of files, limits, documents.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use cstore_types::ErrorCode;

/// Hard limit of a file without its tests.
const MAX_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Allowed imports of each crate. Tests may also import the test kit, which imports the crates that
/// it has fakes and openers for.
const EDGES: &[(&str, &[&str])] = &[
    ("cstore-lanes", &[]),
    ("cstore-types", &["cstore-lanes"]),
    ("cstore-log", &["cstore-types"]),
    ("cstore-node", &["cstore-types"]),
    ("cstore-wire", &["cstore-types"]),
    ("cstore-proto", &["cstore-types"]),
    (
        "cstore-mesh",
        &["cstore-types", "cstore-proto", "cstore-node"],
    ),
    (
        "cstore-storage",
        &[
            "cstore-types",
            "cstore-proto",
            "cstore-mesh",
            "cstore-node",
            "cstore-wire",
            "cstore-log",
        ],
    ),
    (
        "cstore-master",
        &[
            "cstore-types",
            "cstore-proto",
            "cstore-mesh",
            "cstore-node",
            "cstore-log",
        ],
    ),
    (
        "cstore-worker",
        &[
            "cstore-types",
            "cstore-proto",
            "cstore-mesh",
            "cstore-node",
            "cstore-wire",
        ],
    ),
    (
        "cstore-gateway",
        &["cstore-types", "cstore-proto", "cstore-mesh", "cstore-node"],
    ),
    (
        "cstore-testkit",
        &[
            "cstore-types",
            "cstore-log",
            "cstore-storage",
            "cstore-mesh",
            "cstore-node",
            "cstore-proto",
            "cstore-wire",
        ],
    ),
];

#[test]
fn crates_import_only_what_the_plan_allows() {
    let cargo = std::env::vars()
        .find(|(key, _)| key == "CARGO")
        .map_or_else(|| "cargo".to_owned(), |(_, value)| value);
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some((_, allowed)) = EDGES.iter().find(|(crate_name, _)| *crate_name == name) else {
            continue;
        };
        seen.insert(name.to_owned());
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            let ours = on.starts_with("cstore") && on != name;
            let is_kit_of_tests = on == "cstore-testkit" && dependency["kind"] == "dev";
            assert!(
                !ours || is_kit_of_tests || allowed.contains(&on),
                "{name} must not import {on}"
            );
        }
    }
    assert_eq!(
        seen.len(),
        EDGES.len(),
        "a crate of the plan is missing: {seen:?}"
    );
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_are_small_and_libraries_say_what_they_are() {
    let mut found = Vec::new();
    for folder in ["proto", "services", "gateway", "integration-tests"] {
        sources(&root().join(folder), &mut found);
    }
    assert!(found.len() > 60, "only {} files were found", found.len());
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        assert!(
            code.lines().count() <= MAX_LINES,
            "{} is too long",
            path.display()
        );
        if path.ends_with("src/lib.rs") {
            assert!(
                text.starts_with("//!"),
                "{} does not begin with what it is for",
                path.display()
            );
        }
    }
}

/// Constants outside of the modules `limits` that are named as limits are, with the reason.
const UNLISTED: &[(&str, &str, &str)] = &[
    (
        "services/shared/log/src/format.rs",
        "MAX_KEY",
        "belongs to the format",
    ),
    (
        "services/shared/log/src/format.rs",
        "MAX_FRAME",
        "belongs to the format",
    ),
    (
        "services/shared/log/src/disk/hooked.rs",
        "PATIENCE",
        "bounds waits of tests only",
    ),
    (
        "services/shared/wire/src/frame.rs",
        "MAX_ERROR_TEXT",
        "belongs to the protocol",
    ),
    (
        "services/shared/wire/src/frame.rs",
        "MAX_HANDSHAKE",
        "belongs to the protocol",
    ),
    (
        "services/storage/src/engine/format/doubt.rs",
        "MAX_DOUBTS",
        "belongs to the format",
    ),
    (
        "services/storage/src/engine/index/blocks.rs",
        "MAX_REFS",
        "is the largest number of its field",
    ),
];

/// Returns the name and the type of the constant that a line declares.
fn declared_constant(line: &str) -> Option<(&str, &str)> {
    let (visibility, rest) = line.trim_start().split_once("const ")?;
    let (name, rest) = rest.split_once(": ")?;
    let is_constant = (visibility.is_empty() || visibility.starts_with("pub"))
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    is_constant.then_some((name, rest.split(" =").next()?))
}

/// Returns true if a constant of this name and type bounds what the program does: a time, a
/// maximum, a wait or a queue.
fn is_limit(name: &str, kind: &str) -> bool {
    let last = name.rsplit('_').next();
    kind.contains("Duration")
        || name.starts_with("MAX_")
        || ["DEADLINE", "TIMEOUT", "PATIENCE", "QUEUE"]
            .iter()
            .any(|word| last == Some(word))
}

/// A limit that the macro `limits!` does not declare is missing in `cstore admin limits`. The macro
/// has a unit where a declaration has `const`, so its lines are not found here.
#[test]
fn limits_are_declared_where_they_are_listed() {
    let mut found = Vec::new();
    for folder in ["services", "gateway"] {
        sources(&root().join(folder), &mut found);
    }
    let mut excused = BTreeSet::new();
    for path in found {
        let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
        if path.contains("/tests/") {
            continue;
        }
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        let code = text
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        for (name, kind) in code.lines().filter_map(declared_constant) {
            if !is_limit(name, kind) {
                continue;
            }
            let is_excused = UNLISTED
                .iter()
                .any(|(file, unlisted, _)| (*file, *unlisted) == (path, name));
            assert!(
                is_excused,
                "{path}: {name} is a limit; declare it in the module `limits` of its crate"
            );
            excused.insert((path.to_owned(), name.to_owned()));
        }
    }
    assert_eq!(
        excused.len(),
        UNLISTED.len(),
        "a constant of the list is gone; found are {excused:?}"
    );
}

/// A change of a layout must touch its document: each carries the checksum of the file that knows
/// the bytes.
#[test]
fn layouts_and_their_documents_change_together() {
    for (layout, document) in [
        ("services/shared/wire/src/frame.rs", "docs/wire-protocol.md"),
        ("services/shared/log/src/format.rs", "docs/log-format.md"),
        (
            "services/shared/log/src/format/header.rs",
            "docs/log-format.md",
        ),
        (
            "services/storage/src/engine/format/mod.rs",
            "docs/disk-format.md",
        ),
        (
            "services/storage/src/engine/format/superblock.rs",
            "docs/disk-format.md",
        ),
        (
            "services/storage/src/engine/format/doubt.rs",
            "docs/disk-format.md",
        ),
        (
            "services/storage/src/engine/format/inventory.rs",
            "docs/disk-format.md",
        ),
        (
            "services/master/src/store/keys.rs",
            "docs/metadata-format.md",
        ),
        (
            "services/master/src/store/record.rs",
            "docs/metadata-format.md",
        ),
        (
            "services/master/src/store/snapshot/mod.rs",
            "docs/metadata-format.md",
        ),
    ] {
        let bytes = std::fs::read(root().join(layout)).unwrap();
        let line = format!("layout: {layout} {:08x}", crc32c::crc32c(&bytes));
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        assert!(
            text.contains(&line),
            "{document} must be checked against {layout}, and then say: {line}"
        );
    }
}

#[test]
fn the_document_of_errors_has_the_renderings_of_every_code() {
    let document = std::fs::read_to_string(root().join("docs/errors.md")).unwrap();
    for code in ErrorCode::ALL {
        let status = code.http_status();
        // Converts the name of the code to the spelling of the gRPC specification: NotFound becomes
        // NOT_FOUND.
        let mut grpc = String::new();
        for c in format!("{:?}", tonic::Code::from(code.grpc_code())).chars() {
            if c.is_uppercase() && !grpc.is_empty() {
                grpc.push('_');
            }
            grpc.push(c.to_ascii_uppercase());
        }
        let retry = if code.is_retryable() { "yes" } else { "no" };
        let begin = format!("| `{code}` | {status}");
        let row = document.lines().find(|line| line.starts_with(&begin));
        let row =
            row.unwrap_or_else(|| panic!("docs/errors.md has no row that begins with {begin:?}"));
        assert!(
            row.contains(&format!(" | {grpc} | {retry} | ")),
            "{grpc}, retry {retry}: {row}"
        );
    }
}

/// The crates that may have unsafe code, each with the one file of it that may.
const CRATES_WITH_UNSAFE: [(&str, &str); 2] = [
    ("services/shared/heap", "src/lib.rs"),
    ("services/shared/lanes", "src/backend.rs"),
];

/// Returns the lines of one section of a manifest, without comments and empty lines.
fn section(manifest: &str, header: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != header).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Every crate has the lints of the workspace, which forbid unsafe code. Two have a copy of them, in
/// which unsafe code is denied instead, so that one file can allow it.
#[test]
fn one_file_of_two_crates_has_unsafe_code() {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for member in members(&workspace) {
        let path = root().join(member).join("Cargo.toml");
        let manifest = std::fs::read_to_string(path).unwrap();
        if !CRATES_WITH_UNSAFE.iter().any(|(name, _)| *name == member) {
            assert_eq!(
                section(&manifest, "[lints]"),
                ["workspace = true"],
                "{member} must have the lints of the workspace"
            );
            continue;
        }
        for tool in ["rust", "clippy"] {
            let expected: Vec<String> = section(&workspace, &format!("[workspace.lints.{tool}]"))
                .into_iter()
                .map(|line| line.replace("unsafe_code = \"forbid\"", "unsafe_code = \"deny\""))
                .collect();
            let found = section(&manifest, &format!("[lints.{tool}]"));
            assert!(!expected.is_empty());
            assert_eq!(
                found, expected,
                "{member} must have the lints of the workspace"
            );
        }
    }

    // The compiler checks the other crates.
    for (name, allowed) in CRATES_WITH_UNSAFE {
        let folder = root().join(name);
        let mut found = Vec::new();
        sources(&folder, &mut found);
        for path in found {
            let text = std::fs::read_to_string(&path).unwrap();
            let allows = text.matches("unsafe_code").count();
            let expected = usize::from(path == folder.join(allowed));
            assert_eq!(allows, expected, "{}", path.display());
        }
    }
}

/// Returns the entries of all sections of a manifest whose headers end in `dependencies]`, with
/// their sections.
fn dependencies(manifest: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(manifest).unwrap();
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if section.ends_with("dependencies")
            && let Some((name, _)) = line.split_once([' ', '.', '='])
            && !name.is_empty()
            && !name.starts_with('#')
        {
            found.push((section.clone(), name.to_owned()));
        }
    }
    found
}

/// Returns true if Rust source text mentions the crate `name` as a whole word.
fn names_crate(text: &str, name: &str) -> bool {
    let name = match name {
        "md-5" => "md5".to_owned(),
        other => other.replace('-', "_"),
    };
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(&name).any(|(at, _)| {
        !text[..at].ends_with(is_word) && !text[at + name.len()..].starts_with(is_word)
    })
}

/// Returns the folders of the crates, from the manifest of the workspace.
fn members(manifest: &str) -> Vec<&str> {
    let (_, rest) = manifest.split_once("members = [").unwrap();
    let (members, _) = rest.split_once(']').unwrap();
    members
        .split('"')
        .filter(|part| part.contains(char::is_alphabetic))
        .collect()
}

#[test]
fn every_dependency_is_used_and_says_what_for() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = members(&manifest);
    let mut used = BTreeSet::new();
    for member in members {
        let text_of = |folders: &[&str]| {
            let mut found = Vec::new();
            for folder in folders
                .iter()
                .map(|folder| root().join(member).join(folder))
            {
                if folder.is_dir() {
                    sources(&folder, &mut found);
                }
            }
            found
                .iter()
                .map(|path| std::fs::read_to_string(path).unwrap())
                .collect::<String>()
        };
        let product = text_of(&["src"]);
        let all = product.clone() + &text_of(&["tests"]);
        let build =
            std::fs::read_to_string(root().join(member).join("build.rs")).unwrap_or_default();
        for (section, name) in dependencies(&root().join(member).join("Cargo.toml")) {
            let text = match section.as_str() {
                "dev-dependencies" => &all,
                "build-dependencies" => &build,
                _ => &product,
            };
            let is_used = names_crate(text, &name);
            assert!(is_used, "{member}: nothing uses {name} of [{section}]");
            used.insert(name);
        }
    }

    for (_, name) in dependencies(&root().join("Cargo.toml")) {
        assert!(
            used.contains(&name),
            "no crate uses {name} of the workspace"
        );
        let says_what_for = name.starts_with("cstore")
            || manifest
                .lines()
                .zip(manifest.lines().skip(1))
                .any(|(before, line)| {
                    line.starts_with(&format!("{name} = "))
                        && before.starts_with("# ")
                        && !before.contains("==")
                });
        assert!(
            says_what_for,
            "Cargo.toml does not say what {name} is for, in a line above it"
        );
    }
}

#[test]
fn metrics_and_settings_are_documented() {
    let mut found = Vec::new();
    for folder in ["services", "gateway"] {
        sources(&root().join(folder), &mut found);
    }
    let code: String = found
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let env = std::fs::read_to_string(root().join(".env")).unwrap();
    let settings = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut n_keys = 0;
    for line in env.lines().filter_map(|line| line.strip_prefix("# ")) {
        let Some((key, _)) = line.split_once('=') else {
            continue;
        };
        if key.contains(|c: char| !c.is_ascii_uppercase() && c != '_') {
            continue;
        }
        n_keys += 1;
        assert!(
            code.contains(&format!("\"{key}\"")),
            ".env names {key}, but nothing reads it"
        );
        assert!(
            settings.contains(key),
            "docs/configuration.md does not know {key}"
        );
    }
    assert!(n_keys > 20, ".env names only {n_keys} settings");
    let documented = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let declares = |path: &&PathBuf| path.ends_with("metrics.rs") || path.ends_with("counters.rs");
    for path in found.iter().filter(declares) {
        let text = std::fs::read_to_string(path).unwrap();
        let names = text.split('"').filter(|word| {
            ["storage_", "master_", "worker_", "gateway_", "mesh_"]
                .iter()
                .any(|part| word.starts_with(part))
                && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
        for name in names {
            assert!(
                documented.contains(&format!("cstore_{name}")),
                "docs/metrics.md does not know cstore_{name}"
            );
        }
    }
}

/// Scenarios of doubt: an older, copied, damaged or foreign part of the cluster.
/// `docs/durability.md` says what happens in each class of them. The test of the n-th has `_s` and
/// two digits of n in its name.
const SCENARIOS: [&str; 23] = [
    "01 an older master for a while, then the right one",
    "02 an older master that takes more writes than it lacks",
    "03 a store that is away while an older master starts",
    "04 a copy that lacks nothing that anybody has heard: not seen",
    "05 a snapshot that is restored twice",
    "06 an accept that is cut off",
    "07 a storage folder one upload older",
    "08 a disk rolled back by any number of frames and opened any number of times",
    "09 an older disk under a master that is sure of itself",
    "10 an older disk under a master that is older by more",
    "11 two storage nodes with each other's disks",
    "12 a volume that is not mounted",
    "13 a segment that is away for a while",
    "14 a segment that comes back after it was given up",
    "15 a rotten block that is uploaded again",
    "16 a kill between any two steps of a roll or a removal",
    "17 a clock that jumps by ten years",
    "18 a hold that cannot be written",
    "19 a superblock or an inventory that is older than the segments",
    "20 a lying disk that lost the last batch of the master",
    "22 a process that is resumed twice with its memory",
    "23 an index of another copy beside the log",
    "24 a byte that flips in a record of the master",
];

#[test]
fn every_scenario_of_doubt_has_a_test_with_its_number() {
    let mut files = Vec::new();
    for folder in ["services", "integration-tests/tests"] {
        sources(&root().join(folder), &mut files);
    }
    let texts: Vec<String> = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    for scenario in SCENARIOS {
        let infix = format!("_s{}_", &scenario[..2]);
        let is_test = |line: &str| {
            let name = line.trim_start().trim_start_matches("async ");
            name.starts_with("fn i") && name.contains(&infix)
        };
        let found = texts.iter().any(|text| text.lines().any(is_test));
        assert!(found, "no test has {infix} in its name: {scenario}");
    }
}
