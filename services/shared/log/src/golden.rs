//! Golden files: bytes that earlier programs wrote, committed, and compared with what this program
//! writes.
//!
//! ```text
//! # comment
//! name                      in the first column; what the value is
//!   0a0b0c                  its bytes, indented: hexadecimal digits
//!   00*4000                 and BYTE*COUNT for a long run of one byte
//! ```
//! A test encodes fixed values, hands the bytes to [`GoldenFile::check`], decodes what the file has
//! and compares that with the values. A format whose bytes change gets a new file; the old file
//! stays, and must still decode.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Environment variable that makes a test write its golden file. The test fails in that run, so
/// that it is not left on.
pub const WRITE_FIXTURES: &str = "CSTORE_WRITE_FIXTURES";

/// Bytes on one line of a golden file.
const LINE: usize = 32;
/// Shortest run of one byte that is written as BYTE*COUNT.
const MIN_RUN: usize = 16;

/// An open golden file, and what the test has encoded so far.
#[derive(Debug)]
pub struct GoldenFile {
    path: PathBuf,
    /// Values of the file that were not compared yet.
    expected: BTreeMap<String, Vec<u8>>,
    /// `Some` while the file is being written instead of compared.
    written: Option<String>,
}

impl GoldenFile {
    /// Opens the golden file at `path`, or starts a new one with `head` as its comment if
    /// [`WRITE_FIXTURES`] is set.
    ///
    /// # Panics
    /// If the file cannot be read or parsed.
    pub fn open(path: impl Into<PathBuf>, head: &str) -> Self {
        let path = path.into();
        if std::env::var_os(WRITE_FIXTURES).is_some() {
            let head = head
                .lines()
                .fold(String::new(), |text, line| text + "# " + line + "\n");
            return Self {
                path,
                expected: BTreeMap::new(),
                written: Some(head),
            };
        }

        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!(
                "read {}: {error}; {WRITE_FIXTURES}=1 makes the test write it",
                path.display()
            )
        });
        let expected =
            parse(&text).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
        Self {
            path,
            expected,
            written: None,
        }
    }

    /// Compares `encoded` with the value `name` of the file and returns the bytes of the file, to
    /// be decoded.
    ///
    /// # Panics
    /// If the file has no such value or other bytes.
    pub fn check(&mut self, name: &str, encoded: &[u8]) -> Vec<u8> {
        if let Some(text) = &mut self.written {
            *text += &format!("\n{name}\n{}", render(encoded));
            return encoded.to_vec();
        }

        let file = self.path.display();
        let expected = self
            .expected
            .remove(name)
            .unwrap_or_else(|| panic!("{file} has no value named {name}"));
        assert!(
            expected == encoded,
            "{name} is not what {file} has:\n{}this program encodes\n{}",
            render(&expected),
            render(encoded)
        );
        expected
    }

    /// Returns the bytes of the value `name` of the file without comparing them: for formats that
    /// are read and not written any more.
    ///
    /// # Panics
    /// If the file has no such value.
    pub fn take(&mut self, name: &str) -> Vec<u8> {
        let file = self.path.display();
        self.expected
            .remove(name)
            .unwrap_or_else(|| panic!("{file} has no value named {name}"))
    }

    /// Ends the comparison, or writes the file if [`WRITE_FIXTURES`] is set.
    ///
    /// # Panics
    /// If the file has values that were not compared, and always after writing.
    pub fn finish(self) {
        if let Some(text) = self.written {
            let file = self.path.display();
            std::fs::write(&self.path, text)
                .unwrap_or_else(|error| panic!("write {file}: {error}"));
            panic!("{file} was written; read its diff, then run the test without {WRITE_FIXTURES}");
        }
        let left: Vec<_> = self.expected.keys().collect();
        assert!(
            left.is_empty(),
            "{} has values that no test compares: {left:?}",
            self.path.display()
        );
    }
}

/// Lines of at most [`LINE`] bytes; a long run of one byte is a line of its own.
fn render(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut literal = Vec::new();
    for run in bytes.chunk_by(|a, b| a == b) {
        if run.len() < MIN_RUN {
            literal.extend_from_slice(run);
        } else {
            render_literal(&mut text, &std::mem::take(&mut literal));
            text += &format!("  {:02x}*{}\n", run[0], run.len());
        }
    }
    render_literal(&mut text, &literal);
    text
}

fn render_literal(text: &mut String, bytes: &[u8]) {
    for line in bytes.chunks(LINE) {
        text.push_str("  ");
        line.iter().for_each(|byte| *text += &format!("{byte:02x}"));
        text.push('\n');
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut values = BTreeMap::new();
    let mut name = None;
    for line in text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
    {
        if !line.starts_with(' ') {
            if values.insert(line.to_owned(), Vec::new()).is_some() {
                return Err(format!("has two values named {line}"));
            }
            name = Some(line);
            continue;
        }
        let value = name
            .and_then(|name| values.get_mut(name))
            .ok_or("begins with bytes without a name")?;
        for word in line.split_whitespace() {
            value.extend(
                parse_word(word).ok_or_else(|| format!("has a word that is no bytes: {word}"))?,
            );
        }
    }
    Ok(values)
}

/// `0a0b` or `00*4000`.
fn parse_word(word: &str) -> Option<Vec<u8>> {
    let (digits, count) = match word.split_once('*') {
        Some((byte, count)) if byte.len() == 2 => (byte, count.parse().ok()?),
        Some(_) => return None,
        None => (word, 1),
    };
    let pairs: Option<Vec<u8>> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    (digits.len() % 2 == 0).then_some(pairs?.repeat(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_bytes_parse_to_the_same_bytes() {
        let long = [
            vec![1, 2, 3],
            vec![0; 4_000],
            (0..100).collect(),
            vec![7; 16],
            vec![9; 15],
        ]
        .concat();
        for bytes in [long, vec![], vec![5], vec![6; 32], vec![0; 16]] {
            let text = format!("# comment\nvalue\n{}", render(&bytes));
            assert!(text.lines().all(|line| line.len() < 120), "{text}");
            assert_eq!(
                parse(&text).unwrap(),
                BTreeMap::from([("value".to_owned(), bytes)])
            );
        }
    }

    #[test]
    fn text_that_is_no_golden_file_is_refused() {
        for text in [
            "  00\n",
            "a\n  0\n",
            "a\n  0x00\n",
            "a\n  0001*3\n",
            "a\n  00*x\n",
            "a\na\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
