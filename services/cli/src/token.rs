//! `cstore admin token`: makes, lists and revokes the API tokens of a gateway, in the file that it
//! follows.
//!
//! A secret leaves through stdout, once, and no other way: it is never an argument, and the file
//! has its hash. The file is replaced as a whole by a durable rename, under a lock, so that a
//! gateway never reads half of it and two commands at once lose nothing.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use cstore_gateway::tokens::{self, Entry, Token, TokenFileError, TokenSet};
use cstore_node::{Env, Source};

use cstore_gateway::tokens::Rights;
use cstore_types::Tenant;

use crate::args;
use crate::exit::{End, Failure};
use crate::paths::PickedPath;

const HEADER: &str =
    "# API tokens of a C-Store gateway, by their hashes; made by `cstore admin token create`.\n";

/// Runs one of the commands.
pub(crate) fn run(command: &args::Token, source: &dyn Source) -> Result<(), Failure> {
    match command {
        args::Token::Create { options, file } => create(options, &path(file.as_deref(), source)?),
        args::Token::List { file } => list(&path(file.as_deref(), source)?),
        args::Token::Revoke { id, file } => revoke(id, &path(file.as_deref(), source)?),
    }
}

fn path(given: Option<&Path>, source: &dyn Source) -> Result<PathBuf, Failure> {
    let mut env = Env::new(source);
    let found = cstore_gateway::tokens_file(&mut env);
    env.finish().map_err(Failure::usage)?;
    if given.is_none() {
        PickedPath::tokens(&found, "--file", source).tell();
    }
    Ok(given.map_or(found, Path::to_path_buf))
}

fn create(options: &args::NewToken, path: &Path) -> Result<(), Failure> {
    let is_new = !path.try_exists().map_err(Failure::usage)?;
    let (token, entry) = add(options, path).map_err(Failure::usage)?;
    writeln!(std::io::stdout().lock(), "{}", token.expose()).map_err(Failure::output)?;
    let until = entry
        .expires()
        .map_or_else(|| "for ever".to_owned(), |when| format!("until {when}"));
    let (id, tenant, rights) = (entry.id(), entry.tenant(), entry.rights());
    let told = format!(
        "token {id} of tenant {tenant} may {rights} {until}; it is shown this once, its hash is in {}; a running gateway takes it within a second",
        path.display()
    );
    let mut stderr = std::io::stderr().lock();
    // The token is out: a closed stderr changes nothing.
    let _ = writeln!(stderr, "{told}");
    if is_new {
        // Made in the wrong folder, the file would be one that no gateway reads.
        let _ = writeln!(
            stderr,
            "{} is a new token file; only a gateway with this data folder (CSTORE_DATA_DIR, --data) or this file \
             (CSTORE_API_TOKENS_FILE) takes its tokens",
            path.display()
        );
    }
    Ok(())
}

/// Makes a token of the default tenant with all rights and prints it, if there is no token file yet.
///
/// An existing file is neither read nor written: it may be read-only, its disk may be full, and a
/// file without tokens had tokens that were revoked.
pub(crate) fn print_first(path: &Path, out: &mut impl Write) -> Result<(), Failure> {
    if path.try_exists().map_err(Failure::usage)? {
        return Ok(());
    }
    let token =
        Token::generate().map_err(|error| Failure::usage(anyhow!("no random numbers: {error}")))?;
    let entry = Entry::new(&token, Tenant::default(), Rights::ALL, None).map_err(Failure::usage)?;
    let shown = format!(
        "The first API token, with all rights, shown this once (its hash is in {}):\n  {}\n",
        path.display(),
        token.expose()
    );
    let made = edit(path, |text| {
        // Another start may have made the file before this one got the lock.
        if path.try_exists()? {
            return Ok(None);
        }
        // Printed BEFORE the file is written, otherwise a token that nobody has seen would be the
        // first one.
        let printed = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
        printed.context("cannot print the first API token")?;
        Ok(Some(format!("{text}{entry}\n")))
    });
    made.map_err(Failure::usage)
}

fn add(options: &args::NewToken, path: &Path) -> Result<(Token, Entry)> {
    let token = Token::generate().map_err(|error| anyhow!("no random numbers: {error}"))?;
    let expires = match options.expires {
        None => None,
        Some(life) => {
            let end = SystemTime::now()
                .checked_add(*life)
                .context("--expires is too far away")?;
            Some(end)
        }
    };
    let entry = Entry::new(&token, options.tenant.clone(), options.rights, expires)?;
    edit(path, |text| {
        let line_end = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        Ok(Some(format!("{text}{line_end}{entry}\n")))
    })?;
    Ok((token, entry))
}

/// Checks that there is a token file. In a wrong folder a list would be empty, and look right.
fn must_exist(path: &Path) -> Result<(), Failure> {
    if path.try_exists().map_err(Failure::usage)? {
        return Ok(());
    }
    Err(Failure::client(
        End::NotFound,
        format!(
            "there is no token file {}; set CSTORE_DATA_DIR (--data) to the data folder of the gateway, or --file",
            path.display()
        ),
    ))
}

fn list(path: &Path) -> Result<(), Failure> {
    must_exist(path)?;
    let set = load(path)
        .and_then(|text| parse(path, &text))
        .map_err(Failure::usage)?;
    let mut out = std::io::stdout().lock();
    for entry in set.entries() {
        let until = entry.expires().unwrap_or_else(|| "never".to_owned());
        writeln!(
            out,
            "{}  {}  {}  expires {until}",
            entry.id(),
            entry.tenant(),
            entry.rights()
        )
        .map_err(Failure::output)?;
    }
    Ok(())
}

fn revoke(id: &str, path: &Path) -> Result<(), Failure> {
    must_exist(path)?;
    let mut is_known = true;
    let revoked = edit(path, |text| {
        let is_it =
            |line: &&str| matches!(Entry::of_line(line), Ok(Some(entry)) if entry.id() == id);
        let (gone, kept): (Vec<&str>, Vec<&str>) = text.lines().partition(is_it);
        if gone.is_empty() {
            is_known = false;
            return Ok(None);
        }
        let kept = kept.into_iter().map(|line| format!("{line}\n"));
        Ok(Some(kept.collect()))
    });
    revoked.map_err(Failure::usage)?;
    if is_known {
        return Ok(());
    }
    let text = format!("there is no token {id} in {}", path.display());
    Err(Failure::client(End::NotFound, text))
}

/// The text of the file; that of a new one when there is none.
fn load(path: &Path) -> Result<String> {
    match tokens::read(path) {
        Ok(text) => Ok(text),
        Err(TokenFileError::Io(error)) if error.kind() == ErrorKind::NotFound => {
            Ok(HEADER.to_owned())
        }
        Err(error) => Err(error).with_context(|| format!("API tokens in {}", path.display())),
    }
}

fn parse(path: &Path, text: &str) -> Result<TokenSet> {
    TokenSet::parse(text).with_context(|| format!("API tokens in {}", path.display()))
}

/// Replaces the contents of the file by those that `change` returns, or leaves the file as it is if
/// `change` returns `None`. A file that is broken before or after the change is not written.
fn edit(path: &Path, change: impl FnOnce(&str) -> Result<Option<String>>) -> Result<()> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let folder = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    folder
        .lock()
        .with_context(|| format!("cannot lock {}", dir.display()))?;
    let before = load(path)?;
    parse(path, &before)?;
    let Some(after) = change(&before)? else {
        return Ok(());
    };
    parse(path, &after)?;
    let draft = dir.join(format!(".api-tokens.{}", std::process::id()));
    let written =
        write(&draft, path, &after).with_context(|| format!("cannot write {}", path.display()));
    if written.is_err() {
        // A remaining draft has no secrets in it, so a failure to remove it is ignored.
        let _ = std::fs::remove_file(&draft);
    }
    written?;
    folder.sync_all()?;
    Ok(())
}

/// Mode and owner stay those of the file that is replaced, or a gateway of another user could not
/// read the new one.
fn write(draft: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(draft)?;
    let mut mode = 0o600;
    match std::fs::metadata(path) {
        Ok(old) => {
            mode = old.mode() & 0o777;
            let new = file.metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(path: &Path) -> Result<String> {
        let token = Token::generate().unwrap();
        let entry = Entry::new(&token, Tenant::default(), Rights::ALL, None)?;
        edit(path, |text| Ok(Some(format!("{text}{entry}\n"))))?;
        Ok(token.id().to_owned())
    }

    #[test]
    fn many_commands_at_once_lose_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/api-tokens");
        // Threads of one process share the name of the draft; the lock must keep them apart all the
        // same.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5).for_each(|_| drop(add(&path).unwrap())));
            }
        });
        assert_eq!(
            TokenSet::parse(&load(&path).unwrap())
                .unwrap()
                .entries()
                .count(),
            40
        );
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no draft is left"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_revoked_token_is_gone_and_comments_and_mode_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-tokens");
        let (first, second) = (add(&path).unwrap(), add(&path).unwrap());
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        edit(&path, |text| {
            Ok(Some(format!("{text}# of the backup job\n")))
        })
        .unwrap();
        revoke(&first, &path).unwrap();
        let text = load(&path).unwrap();
        assert!(text.starts_with(HEADER) && text.contains("# of the backup job"));
        assert!(!text.contains(&first) && text.contains(&second), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(
            revoke(&first, &path)
                .unwrap_err()
                .to_string()
                .contains("there is no token")
        );
    }

    #[test]
    fn the_first_token_is_printed_before_it_is_kept_and_only_without_a_file() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-tokens");
        assert!(print_first(&path, &mut Closed).is_err());
        assert!(!path.try_exists().unwrap());

        let mut shown = Vec::new();
        print_first(&path, &mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        let set = TokenSet::parse(&load(&path).unwrap()).unwrap();
        let id = set.entries().next().unwrap().id();
        assert!(shown.contains(&format!("cst_{id}_")), "{shown}");

        // Neither read nor written, whatever it holds.
        std::fs::write(&path, "broken").unwrap();
        print_first(&path, &mut Closed).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "broken");
    }

    #[test]
    fn a_broken_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-tokens");
        std::fs::write(&path, "nonsense").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(add(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nonsense");
    }
}
