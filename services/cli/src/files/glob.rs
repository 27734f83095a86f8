//! Patterns with `*`, and the names that they match.
//!
//! The syntax, for names of the store and for paths of this machine alike:
//!
//! | text | stands for |
//! |---|---|
//! | `*` | any number of characters other than `/` |
//! | `?` | one character other than `/` |
//! | `[ab0-9]`, `[!ab]` | one of these characters, or one other than these, never `/` |
//! | `{a,b}` | one of these texts, which may be patterns |
//! | `**` between slashes | any number of folders, also zero; at the end everything below |
//! | `\*` | the character itself |

use regex::{Regex, escape};

/// A pattern that is compared with a whole name or path.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    text: String,
    matcher: Regex,
    /// True if a trailing `/` restricts the pattern to folders.
    is_of_folders: bool,
}

impl Glob {
    /// Parses a pattern. A trailing `/` makes a pattern for folders.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let (inner, is_of_folders) = match text.strip_suffix('/') {
            Some(inner) => (inner, true),
            None => (text, false),
        };
        let matcher = Regex::new(&expression(inner)?)
            .map_err(|_| "is too long or too deeply nested for a pattern".to_owned())?;
        Ok(Self {
            text: text.to_owned(),
            matcher,
            is_of_folders,
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_of_folders(&self) -> bool {
        self.is_of_folders
    }

    /// Returns true if the pattern matches a file of this name.
    pub(super) fn is_match(&self, name: &str) -> bool {
        !self.is_of_folders && self.matcher.is_match(name)
    }

    /// Returns true if the pattern matches a folder; `folder` has no trailing `/`.
    pub(super) fn is_folder_match(&self, folder: &str) -> bool {
        self.matcher.is_match(folder)
    }

    /// Returns true if the pattern matches the file, or a folder above it.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.is_match(name) || folders_of(name).any(|folder| self.is_folder_match(folder))
    }

    /// Returns the text before the first wildcard: every name that matches begins with it.
    pub(super) fn prefix(&self) -> &str {
        let end = self.text.find(['*', '?', '[', '{', '\\']);
        &self.text[..end.unwrap_or(self.text.len())]
    }

    /// Returns the folder without wildcards that holds all matches, with a trailing `/`; empty for
    /// the folder of everything.
    pub(super) fn root(&self) -> &str {
        let prefix = self.prefix();
        &prefix[..prefix.rfind('/').map_or(0, |slash| slash + 1)]
    }

    /// Returns true if all matches stand directly in [`Self::root`].
    pub(super) fn is_flat(&self) -> bool {
        let below = &self.text[self.root().len()..];
        let below = below.strip_suffix('/').unwrap_or(below);
        !below.contains('/') && below != "**"
    }
}

/// Returns the folders above a name, the outermost first, without a trailing `/`.
pub(super) fn folders_of(name: &str) -> impl DoubleEndedIterator<Item = &str> {
    name.match_indices('/').map(|(slash, _)| &name[..slash])
}

/// Returns true if a text is meant as a pattern, unless a name is that very text.
pub(super) fn has_wildcards(text: &str) -> bool {
    text.contains(['*', '?', '[']) || (text.contains('{') && text.contains(','))
}

/// Translates a pattern to a regular expression for the whole text.
fn expression(glob: &str) -> Result<String, String> {
    let mut out = String::from(r"(?s)\A(?:");
    let mut depth = 0_usize;
    let mut rest = glob;
    while let Some(first) = rest.chars().next() {
        let before = &glob[..glob.len() - rest.len()];
        rest = &rest[first.len_utf8()..];
        match first {
            '*' => {
                let more = rest.trim_start_matches('*');
                let is_double = more.len() < rest.len();
                let is_whole = (before.is_empty() || before.ends_with('/'))
                    && (more.is_empty() || more.starts_with('/'));
                rest = more;
                match (is_double && is_whole, rest.strip_prefix('/')) {
                    (true, Some(below)) => {
                        out.push_str("(?:.*/)?");
                        rest = below;
                    }
                    (true, None) => out.push_str(".+"),
                    (false, _) => out.push_str("[^/]*"),
                }
            }
            '?' => out.push_str("[^/]"),
            '[' => rest = class(rest, &mut out)?,
            '{' => {
                depth += 1;
                out.push_str("(?:");
            }
            ',' if depth > 0 => out.push('|'),
            '}' if depth > 0 => {
                depth -= 1;
                out.push(')');
            }
            '\\' => {
                let taken = rest.chars().next().ok_or("ends with a lone \\")?;
                out.push_str(&escape(taken.encode_utf8(&mut [0; 4])));
                rest = &rest[taken.len_utf8()..];
            }
            other => out.push_str(&escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    if depth > 0 {
        return Err("has a { without its }".to_owned());
    }
    out.push_str(r")\z");
    Ok(out)
}

/// Translates a class, whose `[` was taken. Returns the text after its `]`.
fn class<'a>(text: &'a str, out: &mut String) -> Result<&'a str, String> {
    let inner = text.strip_prefix(['!', '^']);
    let (is_negated, inner) = (inner.is_some(), inner.unwrap_or(text));
    // A ] that stands first is a character of the class.
    let end = inner.char_indices().skip(1).find(|(_, c)| *c == ']');
    let (end, _) = end.ok_or("has a [ without its ]")?;
    let members: Vec<char> = inner[..end].chars().collect();

    out.push_str(if is_negated { "[^/" } else { "[[" });
    let mut at = 0;
    while at < members.len() {
        let first = members[at];
        let last = match (members.get(at + 1), members.get(at + 2)) {
            (Some('-'), Some(last)) => *last,
            _ => first,
        };
        if last < first {
            return Err(format!("has the range {first}-{last}, which is empty"));
        }
        out.push_str(&format!(
            r"\x{{{:x}}}-\x{{{:x}}}",
            u32::from(first),
            u32::from(last)
        ));
        let is_range = matches!(
            (members.get(at + 1), members.get(at + 2)),
            (Some('-'), Some(_))
        );
        at += if is_range { 3 } else { 1 };
    }
    out.push_str(if is_negated { "]" } else { "]&&[^/]]" });
    Ok(&inner[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_a_shell() {
        for (pattern, matching, others) in [
            (
                "many/*",
                &["many/a", "many/ü b", "many/.x"][..],
                &["many", "many/a/b", "x/many/a"][..],
            ),
            ("*.jpg", &["a.jpg", ".jpg"], &["a/b.jpg", "a.jpgx", "ajpg"]),
            (
                "a?c",
                &["abc", "aüc", "a\u{1f600}c"],
                &["ac", "a/c", "abbc"],
            ),
            ("[a-cü]", &["a", "b", "c", "ü"], &["d", "-", "ab"]),
            ("[!a-c]", &["d", "ä"], &["a", "/", ""]),
            ("[]x]", &["]", "x"], &["[", ""]),
            ("a[-/.]b", &["a-b", "a.b"], &["a/b"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("{a,b*}.o", &["a.o", "bcd.o"], &["c.o", "b/c.o"]),
            ("a{,.gz}", &["a", "a.gz"], &["a."]),
            ("**", &["a", "a/b", "a/b/c"], &[""]),
            ("a/**", &["a/b", "a/b/c"], &["a", "a/", "ab"]),
            ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["az", "a/bz", "z"]),
            ("**/z", &["z", "a/z", "a/b/z"], &["az", "a/bz"]),
            ("a**z", &["az", "abcz"], &["a/z"]),
            (r"a\*\?", &["a*?"], &["abc", "a*b"]),
            ("a}b,c", &["a}b,c"], &["a"]),
            ("(a|b)+$.^", &["(a|b)+$.^"], &["a"]),
        ] {
            let glob = Glob::new(pattern).unwrap();
            for name in matching {
                assert!(glob.is_match(name), "{pattern} {name}");
            }
            for name in others {
                assert!(!glob.is_match(name), "{pattern} {name}");
            }
        }
        for bad in ["[a", "[]", "{a", "a\\", "[b-a]"] {
            assert!(Glob::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn folders_are_covered_with_their_content() {
        let glob = Glob::new("tmp-*/").unwrap();
        assert!(glob.covers("tmp-1/a/b") && !glob.covers("tmp-1") && !glob.covers("x/tmp-1/a"));
        let glob = Glob::new("a/*").unwrap();
        assert!(glob.covers("a/b") && glob.covers("a/b/c") && !glob.covers("a"));
    }

    #[test]
    fn the_part_before_the_first_wildcard_is_the_prefix_of_the_list() {
        for (pattern, prefix, root, is_flat) in [
            ("many/x*", "many/x", "many/", true),
            ("*", "", "", true),
            ("**", "", "", false),
            ("a/**/b", "a/", "a/", false),
            ("a/b?/c", "a/b", "a/", false),
            ("a/t*/", "a/t", "a/", true),
            (r"a/b\*c*", "a/b", "a/", true),
        ] {
            let glob = Glob::new(pattern).unwrap();
            assert_eq!(
                (glob.prefix(), glob.root(), glob.is_flat()),
                (prefix, root, is_flat),
                "{pattern}"
            );
        }
    }
}
