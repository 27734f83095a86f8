//! The runbook has every message that an operator can meet: the warnings and errors of the log, the
//! reasons why a part refuses to start, the kinds of doubts, the alerts.

use std::path::{Path, PathBuf};

/// Messages that need no page, with the reason.
const WITHOUT_PAGE: &[(&str, &str)] = &[(
    "ending",
    "last line of a process that ends: its field is the reason, which has a page",
)];

/// Sources with reasons to refuse a start, and the part of each that has them.
const REFUSALS: &[(&str, &str, &str)] = &[
    (
        "services/storage/src/engine/error.rs",
        "pub enum OpenError",
        "\nimpl OpenError",
    ),
    ("services/storage/src/run.rs", "pub enum RunError", "\n}"),
    ("services/master/src/run.rs", "pub enum RunError", "\n}"),
    (
        "services/master/src/store/error.rs",
        "pub enum MetaError",
        "\nimpl DamageKind",
    ),
    (
        "services/shared/log/src/error.rs",
        "pub enum LogError",
        "\n}",
    ),
    (
        "services/shared/log/src/format.rs",
        "pub enum Damage",
        "\n}",
    ),
    (
        "services/shared/mesh/src/member/registration.rs",
        "pub enum IdentityError",
        "\n}",
    ),
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the runbook with every run of white space as one space.
fn runbook() -> String {
    let text = read("docs/runbook.md");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the string literals in `text` up to the parenthesis that closes the one before it.
fn literals(text: &str) -> Vec<String> {
    let (mut found, mut depth) = (Vec::new(), 1);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => found.push(literal(&mut chars)),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// Returns the rest of a string literal: a line that goes on is one line.
fn literal(chars: &mut std::str::Chars<'_>) -> String {
    let mut literal = String::new();
    let mut skips_blanks = false;
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('\n') => skips_blanks = true,
                Some(escaped) => literal.push(escaped),
                None => break,
            },
            blank if skips_blanks && blank.is_whitespace() => {}
            other => {
                skips_blanks = false;
                literal.push(other);
            }
        }
    }
    literal
}

/// Returns the longest part of a message that no value takes.
fn fixed_part(message: &str) -> String {
    let mut parts = vec![String::new()];
    let mut is_value = false;
    for c in message.chars() {
        match c {
            '{' => is_value = true,
            '}' => {
                is_value = false;
                parts.push(String::new());
            }
            c if !is_value => parts.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    let parts = parts.iter().map(|part| part.trim().to_owned());
    parts.max_by_key(String::len).unwrap_or_default()
}

/// Returns the places behind each `opening` in `text` that is no part of a longer word.
fn behind<'a>(text: &'a str, opening: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(opening).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        let is_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        (!is_word).then(|| &text[at + opening.len()..])
    })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !matches!(name.as_str(), "target" | "tests") {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Checks that the runbook has the fixed part of each message. Returns how many it has.
fn check(messages: impl IntoIterator<Item = (String, String)>) -> usize {
    let runbook = runbook();
    let (mut n_found, mut lacking) = (0, Vec::new());
    for (place, message) in messages {
        let part = fixed_part(&message);
        let needs_none = WITHOUT_PAGE.iter().any(|(known, _)| *known == part);
        if part.is_empty() || needs_none {
            continue;
        }
        n_found += 1;
        if !runbook.contains(&part) {
            lacking.push(format!("{place}: {part}"));
        }
    }
    assert!(
        lacking.is_empty(),
        "docs/runbook.md lacks:\n{}",
        lacking.join("\n")
    );
    n_found
}

#[test]
fn every_warning_and_error_of_the_log_has_a_page() {
    let mut files = Vec::new();
    for folder in ["services", "gateway"] {
        sources(&root().join(folder), &mut files);
    }
    let mut messages = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for opening in ["warn!(", "error!("] {
            for rest in behind(text, opening) {
                let message = literals(rest).pop().unwrap_or_default();
                messages.push((path.display().to_string(), message));
            }
        }
    }
    let n_found = check(messages);
    assert!(n_found > 90, "only {n_found} messages were found");
}

#[test]
fn every_reason_to_refuse_a_start_has_a_page() {
    let mut messages = Vec::new();
    for (path, begin, end) in REFUSALS {
        let text = read(path);
        let text = text.split_once(begin).unwrap().1;
        let text = text.split(end).next().unwrap();
        for rest in behind(text, "#[error(") {
            let message = literals(rest).into_iter().next().unwrap_or_default();
            messages.push(((*path).to_owned(), message));
        }
    }
    let n_found = check(messages);
    assert!(n_found > 60, "only {n_found} reasons were found");
}

#[test]
fn every_doubt_alert_and_code_has_a_page() {
    let runbook = runbook();
    let doubts = read("services/storage/src/engine/format/doubt.rs");
    let names = doubts.split("pub const fn name").nth(1).unwrap();
    let names = literals(names.split_once('{').unwrap().1);
    let kinds: Vec<&String> = names.iter().take(11).collect();
    assert_eq!(kinds.last().map(|kind| kind.as_str()), Some("sets_lost"));
    for kind in kinds {
        assert!(
            runbook.contains(&format!("### {kind} ")),
            "no section for doubts of kind {kind}"
        );
    }

    let alerts = read("helm/cstore/files/alerts.yaml");
    let alerts: Vec<&str> = alerts
        .split("alert: ")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        assert!(
            runbook.contains(&format!("`{alert}`")),
            "no page for the alert {alert}"
        );
    }
    for code in [
        "unavailable",
        "overloaded",
        "storage_hold",
        "metadata_older",
        "full",
        "data_loss",
        "internal",
    ] {
        assert!(
            runbook.contains(&format!("`{code}`")),
            "no page for the code {code}"
        );
    }
}

#[test]
fn every_link_of_the_runbook_leads_to_a_section() {
    let text = read("docs/runbook.md");
    let anchors: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("## ") || line.starts_with("### "))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect();
    let mut n_links = 0;
    for rest in text.split("](#").skip(1) {
        let anchor = rest.split(')').next().unwrap();
        n_links += 1;
        assert!(
            anchors.iter().any(|known| known == anchor),
            "no section #{anchor}"
        );
    }
    assert!(n_links > 30, "only {n_links} links were found");
}
