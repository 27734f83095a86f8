//! `cstore admin limits`: the limits of all parts of the program that are constants, with their
//! values and what happens when they are met. `docs/limits.md` has the same table.

use std::io::Write;

use cstore_types::{Limit, LimitValue};
use serde::Serialize;
use serde_json::Number;

use crate::exit::Failure;
use crate::limits::LIMITS;

/// Limits of each crate, the shared ones first.
const PARTS: [(&str, &[Limit]); 10] = [
    ("types", cstore_types::limits::LIMITS),
    ("node", cstore_node::limits::LIMITS),
    ("log", cstore_storage::LOG_LIMITS),
    ("wire", cstore_storage::WIRE_LIMITS),
    ("mesh", cstore_mesh::limits::LIMITS),
    ("master", cstore_master::limits::LIMITS),
    ("storage", cstore_storage::limits::LIMITS),
    ("worker", cstore_worker::limits::LIMITS),
    ("gateway", cstore_gateway::limits::LIMITS),
    ("cli", LIMITS),
];

/// Columns of a line for people.
const WIDTH: usize = 120;
/// Characters between two columns.
const GAP: usize = 2;

/// A limit as a line of JSON.
#[derive(Debug, Serialize)]
struct JsonLine {
    part: &'static str,
    name: &'static str,
    /// Value with its unit, for people.
    value: String,
    /// Value in the unit that `unit` names.
    amount: Option<Number>,
    unit: &'static str,
    meaning: &'static str,
}

impl JsonLine {
    fn new(part: &'static str, limit: &Limit) -> Self {
        let (amount, unit) = match limit.value {
            LimitValue::Time(time) => (Number::from_f64(time.as_secs_f64()), "seconds"),
            LimitValue::Bytes(bytes) => (Some(bytes.into()), "bytes"),
            LimitValue::Count(count) => (Some(count.into()), "count"),
            // Shares are declared with few digits; more come from the conversion of an f32.
            LimitValue::Share(share) => {
                let rounded = (share * 10_000.0).round() / 10_000.0;
                (Number::from_f64(rounded), "share")
            }
        };
        Self {
            part,
            name: limit.name,
            value: limit.value.to_string(),
            amount,
            unit,
            meaning: limit.meaning,
        }
    }
}

/// Prints all limits: a table for people, or a line of JSON each.
pub(crate) fn print(json: bool) -> Result<(), Failure> {
    let text = if json {
        let mut text = String::new();
        for (part, limit) in all() {
            let line = serde_json::to_string(&JsonLine::new(part, limit));
            text.push_str(&line.map_err(Failure::failed)?);
            text.push('\n');
        }
        text
    } else {
        table()
    };
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(Failure::output)
}

fn all() -> impl Iterator<Item = (&'static str, &'static Limit)> {
    PARTS
        .into_iter()
        .flat_map(|(part, limits)| limits.iter().map(move |limit| (part, limit)))
}

/// Returns the table for people: columns as wide as their longest entry, and the meaning in what is
/// left of the line.
fn table() -> String {
    let head = ["part", "name", "value", "meaning"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(all().map(|(part, limit)| {
        [
            part.to_owned(),
            limit.name.to_owned(),
            limit.value.to_string(),
            limit.meaning.to_owned(),
        ]
    }));

    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0) + GAP;
    let widths = [width(0), width(1), width(2)];
    let indent: usize = widths.iter().sum();
    let mut text = String::new();
    for [part, name, value, meaning] in &rows {
        let [part_width, name_width, value_width] = widths;
        let mut begin = format!("{part:part_width$}{name:name_width$}{value:value_width$}");
        for line in wrapped(meaning, WIDTH - indent) {
            text.push_str(&format!("{begin}{line}\n"));
            begin = " ".repeat(indent);
        }
    }
    text
}

/// Cuts a text into lines of at most `width` characters, between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let current = lines.last().map_or(0, |line| line.chars().count());
        if current > 0 && current + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn lines_are_aligned_and_fit() {
        let text = table();
        let meaning = text.find("meaning").unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
            let (columns, rest) = line.split_at(meaning);
            assert!(columns.ends_with("  ") && !rest.starts_with(' '), "{line}");
        }
        assert!(text.lines().count() > all().count());
    }

    #[test]
    fn texts_are_wrapped_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("undividable", 3), ["undividable"]);
    }

    #[test]
    fn names_are_unique_in_their_part_and_meanings_are_sentences() {
        let mut seen = HashSet::new();
        for (part, limit) in all() {
            assert!(seen.insert((part, limit.name)), "{part} {}", limit.name);
            assert!(limit.meaning.ends_with('.'), "{part} {}", limit.name);
            assert!(!limit.meaning.contains(['|', '[']), "{part} {}", limit.name);
        }
    }
}
