//! `cstore rm`: files go, or it is said what would go.
//!
//! The folder of everything goes only with `--all`, and many files only after a question on a terminal.
//! The same holds for patterns.
//!
//! A removal whose answer was lost is asked for again; that the file is not there then is what was
//! wished. With `--if-match` it is not: there the name may have been written anew, so its loss is
//! told.

mod confirm;

use std::future::ready;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};

use super::du::{SPACE_IS_HIDDEN, Usage};
use super::many::each;
use super::out::{human, number};
use super::select::{Selection, glob, nothing_below};
use super::summary::{FileTotals, Summary};
use super::{Session, folder, name, prefix};
use crate::args::files::{Expand, Rm};
use crate::client::Answer;
use crate::exit::{End, Failure, printable};

#[derive(Debug, Serialize)]
struct Removed<'a> {
    status: &'static str,
    name: &'a str,
}

/// Space that a removal would free now.
#[derive(Debug, Serialize)]
struct Would {
    status: &'static str,
    /// Name of the file, or prefix of the names of a folder.
    name: String,
    files: u64,
    logical_bytes: u64,
    /// Bytes. Missing for named tenants: the number reveals whether others have the same bytes.
    freed_bytes: Option<u64>,
}

/// The part of the gateway's answer that counts.
#[derive(Debug, Deserialize)]
struct Explained {
    size: u64,
    freed_bytes: u64,
}

pub(super) async fn run(session: &Session, options: &Rm) -> Result<(), Failure> {
    if options.if_match.is_some() && options.name.len() > 1 {
        return Err(Failure::Usage("--if-match is for one file".to_owned()));
    }
    // Names are checked before anything is removed.
    check(options)?;
    let wanted = wanted(session, options).await?;
    let is_of_names = wanted
        .iter()
        .all(|selection| matches!(selection, Selection::File(_)));
    let mut summary = Summary::begin("rm");
    summary.is_dry_run = options.dry_run;
    let jobs = options.jobs.jobs;
    if options.dry_run {
        let items = stream::iter(0..wanted.len()).flat_map(|at| would_go(session, &wanted, at));
        let work = |item: Item| explained(session, item, &summary);
        let ended = each(session, &summary, jobs, items.boxed(), work).await;
        let is_one = wanted.len() == 1 && !matches!(wanted[0], Selection::Pattern { .. });
        let ended = summary.close(session, is_one, ended);
        if ended.is_ok() {
            session.note_pending_releases().await;
        }
        return ended.map(drop);
    }

    if !is_of_names && !options.yes {
        confirm::ask(session, &wanted).await?;
    }
    let found = have_files(session, &wanted).await?;
    let work = |(name, size): (String, Option<u64>)| {
        let summary = &summary;
        async move {
            if let Err(failure) = remove(session, options, &name).await {
                // Names of a list are no folders.
                let failure = match size {
                    Some(_) => failure,
                    None => session.hint(&name, failure).await,
                };
                return Err(failure.of(&name));
            }
            summary.add(FileTotals {
                size,
                ..FileTotals::default()
            });
            let done = Removed {
                status: "removed",
                name: &name,
            };
            session
                .out
                .done(&done, || format!("{}  removed", printable(&name)))
        }
    };
    let names =
        stream::iter(0..wanted.len()).flat_map(|at| all_of(session, &wanted, at, found[at]));
    let ended = each(session, &summary, jobs, names.boxed(), work).await;
    summary.close(session, is_of_names, ended).map(drop)
}

/// Checks the names of the command line without a question to the gateway.
///
/// # Errors
/// If a name is empty, or is the folder of everything without `--all`. An empty variable of a shell
/// turns `"$DIR/"` into that folder, and `"$DIR"` into no name at all.
fn check(options: &Rm) -> Result<(), Failure> {
    for text in &options.name {
        match text.as_str() {
            "" => {
                let hint = match options.recursive {
                    true => "; to remove every file, write / and --all",
                    false => "",
                };
                return Err(Failure::Usage(format!(
                    "\"\": an empty name, perhaps of an empty variable{hint}"
                )));
            }
            "/" if options.recursive && !options.all && !options.dry_run => {
                let message = "\"/\" is every file of the store, perhaps of an empty variable as in \"$DIR/\"; \
                     if every file shall go, add --all; --dry-run says what would go";
                return Err(Failure::Usage(message.to_owned()));
            }
            _ if glob(text, options.expand).is_some() => {
                prefix(text)?;
            }
            _ if options.recursive => drop(folder(text)?),
            _ => drop(name(text)?),
        }
    }
    Ok(())
}

/// Returns what the names of the command line stand for.
///
/// # Errors
/// If a pattern spares nothing and `--all` is missing, or the other way round.
async fn wanted(session: &Session, options: &Rm) -> Result<Vec<Selection>, Failure> {
    let is_literal = |text: &String| glob(text, options.expand).is_none();
    if options.all
        && options.name.iter().all(is_literal)
        && !(options.recursive && options.name.iter().any(|name| name == "/"))
    {
        return Err(needless_all());
    }
    let mut wanted = Vec::new();
    for text in &options.name {
        // A condition is for one file, so its name is no pattern.
        let no_glob = options.expand.no_glob || options.if_match.is_some();
        let expand = Expand { no_glob };
        let selection = Selection::of(session, text, options.recursive, expand).await?;
        if selection.is_everything() && !options.all && !options.dry_run {
            return Err(Failure::Usage(format!(
                "{text:?} spares no file at the root of the store; if all of them shall go, add --all; \
                 --dry-run says which would go"
            )));
        }
        wanted.push(selection);
    }
    if options.all && !wanted.iter().any(Selection::is_everything) {
        return Err(needless_all());
    }
    Ok(wanted)
}

fn needless_all() -> Failure {
    let message = "--all removes every file and goes together with / and --recursive, or with a \
         pattern such as '*'; folders need no --all";
    Failure::Usage(message.to_owned())
}

/// Returns for each of several folders and patterns whether it has files. MUST be called BEFORE
/// anything is removed: otherwise a pattern whose files an argument before it has taken would look
/// like a mistake.
async fn have_files(session: &Session, wanted: &[Selection]) -> Result<Vec<bool>, Failure> {
    let mut found = vec![false; wanted.len()];
    for (selection, found) in wanted.iter().zip(&mut found).skip(1) {
        if matches!(selection, Selection::File(_)) {
            continue;
        }
        *found = match selection.names(session).next().await {
            Some(Err(failure)) if failure.end() != End::NotFound => return Err(failure),
            next => matches!(next, Some(Ok(_))),
        };
    }
    Ok(found)
}

/// Returns the names of the argument at the index `at`, without those that arguments before it have
/// taken. If `had_files`, it is no failure that no file is left.
fn all_of<'a>(
    session: &'a Session,
    wanted: &'a [Selection],
    at: usize,
    had_files: bool,
) -> BoxStream<'a, Result<(String, Option<u64>), Failure>> {
    let names = wanted[at].names(session);
    let is_new = move |next: &Result<(String, Option<u64>), Failure>| match next {
        // A name that was typed twice is reported as a mistake.
        Ok((name, Some(_))) => !wanted[..at].iter().any(|before| before.takes(name)),
        Err(failure) => !(had_files && failure.end() == End::NotFound),
        Ok(_) => true,
    };
    names.filter(move |next| ready(is_new(next))).boxed()
}

/// Something that a removal would delete as a whole.
enum Item {
    File(String),
    /// Prefix of a folder's names.
    Folder(String),
}

/// Returns what the argument at the index `at` would remove.
fn would_go<'a>(
    session: &'a Session,
    wanted: &'a [Selection],
    at: usize,
) -> BoxStream<'a, Result<Item, Failure>> {
    match &wanted[at] {
        Selection::Folder(prefix) => stream::iter([Ok(Item::Folder(prefix.clone()))]).boxed(),
        _ => all_of(session, wanted, at, false)
            .map(|next| next.map(|(name, _)| Item::File(name)))
            .boxed(),
    }
}

async fn explained(session: &Session, item: Item, summary: &Summary) -> Result<(), Failure> {
    match item {
        Item::Folder(prefix) => {
            let would = would(session, true, &prefix, summary).await;
            would.map_err(|failure| failure.of(shown(&prefix)))
        }
        Item::File(name) => match would(session, false, &name, summary).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(session.hint(&name, failure).await.of(&name)),
        },
    }
}

/// Returns a folder as users type it.
fn shown(prefix: &str) -> &str {
    if prefix.is_empty() { "/" } else { prefix }
}

fn odd(answer: &Answer) -> Failure {
    Failure::Failed(format!(
        "a removal is answered by 204 No Content, found {}: nothing is known",
        answer.status
    ))
}

async fn remove(session: &Session, options: &Rm, name: &str) -> Result<(), Failure> {
    let etag = options.if_match.as_deref();
    let (mut again, mut uncertain) = (session.again(), false);
    loop {
        let (failure, wait) = match session.gateway.delete_if(name, etag).await {
            Ok(answer) if answer.is_success() && answer.status.as_u16() == 204 => return Ok(()),
            Ok(answer) if answer.is_success() => return Err(odd(&answer)),
            Ok(answer) if uncertain && answer.is_not_found() => return Ok(()),
            Ok(answer) if answer.is_busy() => (answer.failure(), answer.wait()),
            Ok(answer) => return Err(answer.failure()),
            Err(lost) if !lost.never_left() && etag.is_some() => return Err(session.unknown(lost)),
            Err(lost) => {
                uncertain |= !lost.never_left();
                (session.lost(lost), lost.wait())
            }
        };
        if !session.pause(&mut again, &failure, wait).await {
            return Err(failure);
        }
    }
}

async fn would(
    session: &Session,
    is_folder: bool,
    name: &str,
    summary: &Summary,
) -> Result<(), Failure> {
    let (files, logical_bytes, freed_bytes) = if is_folder {
        let usage = Usage::ask(session, name).await?;
        (usage.files, usage.logical_bytes, usage.freed_bytes)
    } else {
        match session.ask(|| session.gateway.explain(name)).await {
            Ok(answer) => {
                let Explained { size, freed_bytes } = answer.parse()?;
                (1, size, Some(freed_bytes))
            }
            // Named tenants are not told what others have.
            Err(failure) if failure.end() == End::Denied => {
                (1, super::known::Known::ask(session, name).await?.size, None)
            }
            Err(failure) => return Err(failure),
        }
    };
    if files == 0 {
        return Err(nothing_below(session, shown(name)).await);
    }
    summary.add_many(files, logical_bytes);
    let would = Would {
        status: "would_remove",
        name: name.to_owned(),
        files,
        logical_bytes,
        freed_bytes,
    };
    session.out.show(&would, || {
        let freed = match freed_bytes {
            Some(freed) => format!("would free {}", human(freed)),
            None => SPACE_IS_HIDDEN.to_owned(),
        };
        let what = if is_folder {
            format!("{}, ", number(files, "file"))
        } else {
            String::new()
        };
        format!(
            "{}  {what}{}, {freed}",
            printable(shown(name)),
            human(logical_bytes)
        )
    })
}
