//! Names, folders and prefixes as users type them, and what is wrong with them.

use cstore_types::{FileName, NameError};

use crate::exit::Failure;

/// Parses the name of a file.
pub(super) fn name(text: &str) -> Result<FileName, Failure> {
    if let Some(folder) = text.strip_suffix('/')
        && FileName::new(folder).is_ok()
    {
        return Err(Failure::Usage(format!(
            "{text:?} is a folder: `put`, `get` and `rm` take folders with --recursive, and `ls` and `du` tell of them"
        )));
    }
    FileName::new(text).map_err(|error| mistake(text, &error))
}

/// Returns the prefix of all names of a folder; `/` is the folder of everything.
pub(super) fn folder(text: &str) -> Result<String, Failure> {
    match text.strip_suffix('/').unwrap_or(text) {
        "" if text == "/" => Ok(String::new()),
        folder => match FileName::new(folder) {
            Ok(name) => Ok(format!("{name}/")),
            Err(error) => Err(mistake(text, &error)),
        },
    }
}

/// Returns the prefix of the names that are listed. `/` alone is the folder of everything, and no
/// name begins with it.
///
/// # Errors
/// If no name can begin with `text`, since an empty list would hide the mistake.
pub(super) fn prefix(text: &str) -> Result<&str, Failure> {
    match text {
        "/" => Ok(""),
        _ if text.starts_with('/') || text.contains("//") => {
            Err(mistake(text, &NameError::EmptySegment))
        }
        _ => Ok(text),
    }
}

/// Returns the name for a file whose last part is `last`: `dest` itself, or below the folder
/// `dest`.
pub(super) fn target(dest: &str, last: &str) -> Result<FileName, Failure> {
    if dest.ends_with('/') {
        name(&format!("{}{last}", folder(dest)?))
    } else {
        name(dest)
    }
}

/// Returns the failure for a text that is no name, in words that say how the name is written.
fn mistake(text: &str, error: &NameError) -> Failure {
    let message = if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.trim_matches('/');
        let like = if FileName::new(rest).is_ok() {
            rest
        } else {
            "b/a"
        };
        match scheme {
            "s3" => {
                format!("{text:?}: this is an S3 URL; names have no scheme and are like {like}")
            }
            _ => format!("{text:?}: this is a URL; names have no scheme and are like {like}"),
        }
    } else if text.starts_with('/') {
        let rest = text.trim_start_matches('/');
        match FileName::new(rest.trim_end_matches('/')) {
            Ok(_) => format!("{text:?}: names have no leading /; the name is {rest:?}"),
            Err(_) => format!("{text:?}: names have no leading /"),
        }
    } else {
        format!("{text:?}: {error}")
    };
    Failure::Usage(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_told_how_names_are_written() {
        let said = |text: &str| name(text).unwrap_err().to_string();
        for (text, expected) in [
            (
                "s3://b/a",
                "\"s3://b/a\": this is an S3 URL; names have no scheme and are like b/a",
            ),
            (
                "http://h/",
                "\"http://h/\": this is a URL; names have no scheme and are like h",
            ),
            (
                "/abs/a.jpg",
                "\"/abs/a.jpg\": names have no leading /; the name is \"abs/a.jpg\"",
            ),
            ("//", "\"//\": names have no leading /"),
        ] {
            assert_eq!(said(text), expected);
        }
        assert!(said("docs/").starts_with("\"docs/\" is a folder: "));
        assert!(said("docs/").contains("--recursive"));
        assert!(said("a//b").contains("empty segment") && said("").contains("found none"));
        let folder = folder("s3://b/").unwrap_err().to_string();
        assert!(folder.contains("are like b"), "{folder}");
    }

    #[test]
    fn a_prefix_that_no_name_can_have_is_a_mistake() {
        for (text, expected) in [("", ""), ("/", ""), ("a/", "a/"), ("a", "a")] {
            assert_eq!(prefix(text).unwrap(), expected);
        }
        for text in ["/a", "a//b", "s3://b/", "//"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_slash_behind_makes_a_folder() {
        let found = |dest| target(dest, "a.txt").ok().map(|name| name.to_string());
        assert_eq!(found("b"), Some("b".to_owned()));
        assert_eq!(found("b/"), Some("b/a.txt".to_owned()));
        assert_eq!(found("/"), Some("a.txt".to_owned()));
        for bad in ["", "/b", "b//", "../", ".."] {
            assert_eq!(found(bad), None, "{bad:?}");
        }
        assert_eq!(
            (folder("/").ok(), folder("a/b").ok()),
            (Some(String::new()), Some("a/b/".to_owned()))
        );
        assert!(folder("").is_err() && folder("//").is_err());
    }
}
