//! The limits of the program, of the source and of the document are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::PROGRAM;

/// Folders of the crates, by the name that the table has for them.
const PARTS: [(&str, &str); 10] = [
    ("types", "services/shared/types"),
    ("node", "services/shared/node"),
    ("log", "services/shared/log"),
    ("wire", "services/shared/wire"),
    ("mesh", "services/shared/mesh"),
    ("master", "services/master"),
    ("storage", "services/storage"),
    ("worker", "services/worker"),
    ("gateway", "gateway"),
    ("cli", "services/cli"),
];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn printed(args: &[&str]) -> String {
    // Neither settings nor a folder are needed.
    let output = Command::new(PROGRAM)
        .args(["admin", "limits"])
        .args(args)
        .env_clear()
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the rows that the document must have, by part, in the order of the program.
fn rows() -> BTreeMap<String, Vec<String>> {
    let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in printed(&["--json"]).lines() {
        let limit: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| limit[name].as_str().unwrap();
        let row = format!(
            "| `{}` | {} | {} |",
            field("name"),
            field("value"),
            field("meaning")
        );
        rows.entry(field("part").to_owned()).or_default().push(row);
    }
    rows
}

#[test]
fn the_document_of_limits_has_every_limit_of_the_program_and_no_others() {
    let document = read("docs/limits.md");
    let mut documented: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut part = String::new();
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            part = heading.split(':').next().unwrap().to_owned();
        } else if line.starts_with("| `") {
            documented
                .entry(part.clone())
                .or_default()
                .push(line.to_owned());
        }
    }

    let rows = rows();
    for (part, expected) in &rows {
        let found = documented.get(part).cloned().unwrap_or_default();
        for row in expected {
            assert!(
                found.contains(row),
                "docs/limits.md lacks under '{part}': {row}"
            );
        }
        for row in &found {
            assert!(
                expected.contains(row),
                "docs/limits.md has under '{part}' what the program has not: {row}"
            );
        }
        assert_eq!(&found, expected, "docs/limits.md has another order");
    }
    assert_eq!(
        documented.keys().collect::<Vec<_>>(),
        rows.keys().collect::<Vec<_>>()
    );
}

#[test]
fn the_program_prints_the_limits_of_every_crate() {
    let table = printed(&[]);
    let rows = rows();
    for (part, folder) in PARTS {
        let source = read(&format!("{folder}/src/limits.rs"));
        let declared: BTreeSet<&str> = source
            .lines()
            .filter(|line| line.trim_start().starts_with("pub"))
            .filter_map(|line| line.split(": ").next()?.rsplit(' ').next())
            .collect();
        let listed: BTreeSet<&str> = rows[part]
            .iter()
            .filter_map(|row| row.split('`').nth(1))
            .collect();
        assert_eq!(declared, listed, "{part}");
        for name in listed {
            let is_printed = table
                .lines()
                .any(|line| line.starts_with(part) && line.contains(&format!(" {name} ")));
            assert!(is_printed, "{part} {name}");
        }
    }
    assert_eq!(rows.len(), PARTS.len());
}
