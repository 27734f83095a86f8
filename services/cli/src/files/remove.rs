//! `cstore rm`: files go, or it is said what would go.
//!
//! The folder of everything goes only with `--all`, and many files only after a question on a terminal.
//!
//! A removal whose answer was lost is asked for again; that the file is not there then is what was
//! wished. With `--if-match` it is not: there the name may have been written anew, so its loss is
//! told.

mod confirm;

use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::du::Usage;
use super::list::Names;
use super::many::each;
use super::out::human;
use super::{Session, folder, name};
use crate::args::files::Rm;
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
    let wanted = wanted(options)?;
    let names = stream::iter(wanted.clone()).map(Ok);
    let jobs = options.jobs.jobs;
    if options.dry_run {
        let work = |name: String| async move {
            match would(session, options, &name).await {
                Ok(()) => Ok(()),
                Err(failure) if options.recursive => Err(failure.of(shown(&name))),
                Err(failure) => Err(session.hint(&name, failure).await.of(&name)),
            }
        };
        return each(session, jobs, names, work).await.map(drop);
    }

    if options.recursive && !options.yes {
        confirm::ask(session, &wanted).await?;
    }
    let work = |name: String| async move {
        if let Err(failure) = remove(session, options, &name).await {
            let failure = if options.recursive {
                failure
            } else {
                session.hint(&name, failure).await
            };
            return Err(failure.of(&name));
        }
        let done = Removed {
            status: "removed",
            name: &name,
        };
        session
            .out
            .done(&done, || format!("{}  removed", printable(&name)))
    };
    if !options.recursive {
        return each(session, jobs, names, work).await.map(drop);
    }
    let names = stream::iter(&wanted).flat_map(|prefix| all_below(session, prefix).boxed());
    each(session, jobs, names, work).await.map(drop)
}

/// Returns the names of the command line; with `--recursive` the prefixes of folders.
///
/// # Errors
/// If a name is mistyped, or is the folder of everything without `--all`. An empty variable of a
/// shell turns `"$DIR/"` into that folder, and `"$DIR"` into no name at all.
fn wanted(options: &Rm) -> Result<Vec<String>, Failure> {
    let mut wanted = Vec::new();
    for text in &options.name {
        let name = match text.as_str() {
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
            _ if options.recursive => folder(text)?,
            _ => name(text)?.to_string(),
        };
        wanted.push(name);
    }
    if options.all && !wanted.iter().any(String::is_empty) {
        let message = "--all removes every file and goes together with /; folders need no --all";
        return Err(Failure::Usage(message.to_owned()));
    }
    Ok(wanted)
}

/// Returns all names of a folder. A folder without names is a failure of its own, whatever the
/// others have.
fn all_below<'a>(
    session: &'a Session,
    prefix: &'a str,
) -> impl Stream<Item = Result<String, Failure>> + use<'a> {
    stream::unfold(
        (Names::below(session, prefix), false),
        move |(mut names, any)| async move {
            match names.next().await {
                Some(next) => Some((next.map(|(name, _)| name), (names, true))),
                None if any => None,
                None => Some((Err(nothing_below(prefix)), (names, true))),
            }
        },
    )
}

fn nothing_below(prefix: &str) -> Failure {
    Failure::client(End::NotFound, "there is no file below it").of(shown(prefix))
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

async fn would(session: &Session, options: &Rm, name: &str) -> Result<(), Failure> {
    let (files, logical_bytes, freed_bytes) = if options.recursive {
        let usage = Usage::ask(session, name).await?;
        (usage.files, usage.logical_bytes, Some(usage.freed_bytes))
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
        return Err(nothing_below(name));
    }
    let would = Would {
        status: "would_remove",
        name: name.to_owned(),
        files,
        logical_bytes,
        freed_bytes,
    };
    session.out.show(&would, || {
        let freed = freed_bytes.map_or_else(|| "it is not told how much".to_owned(), human);
        let what = if options.recursive {
            format!("{files} files, ")
        } else {
            String::new()
        };
        format!(
            "{}  {what}{}, would free {freed}",
            printable(shown(name)),
            human(logical_bytes)
        )
    })
}
