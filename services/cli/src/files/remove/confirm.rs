//! The question before many files are removed by hand.

use std::io::{BufRead, IsTerminal, Write};

use futures_util::StreamExt;

use crate::exit::{End, Failure, printable};
use crate::files::Session;
use crate::files::du::Usage;
use crate::files::out::human;
use crate::files::select::Selection;
use crate::limits::UNASKED_REMOVALS;

/// Files and bytes that a removal deletes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Loss {
    files: u64,
    bytes: u64,
    /// Bytes that come back at once. `None` if the gateway does not tell.
    freed: Option<u64>,
}

/// Asks whether the files of folders and patterns shall go, if there are many and a person can answer.
///
/// # Errors
/// If the person says no, or the gateway does not say how many files there are.
pub(super) async fn ask(session: &Session, wanted: &[Selection]) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(());
    }
    let loss = count(session, wanted).await?;
    if loss.files <= UNASKED_REMOVALS {
        return Ok(());
    }

    let question = question(wanted, &loss);
    // Reading stdin blocks. If a signal ends the command, the thread keeps waiting, so the thread
    // MUST NOT hold the lock of stderr; otherwise the message about the signal would wait as well.
    let asked = tokio::task::spawn_blocking(move || {
        is_agreed(
            &question,
            &mut std::io::stdin().lock(),
            &mut std::io::stderr(),
        )
    });
    let mut line = QuestionLine { is_answered: false };
    let is_agreed = asked.await.map_err(Failure::failed)?;
    line.is_answered = true;
    match is_agreed.map_err(Failure::failed)? {
        true => Ok(()),
        false => Err(Failure::Failed("nothing was removed".to_owned())),
    }
}

/// The line of the question. Ends it if a signal ends the command before the answer does.
struct QuestionLine {
    is_answered: bool,
}

impl Drop for QuestionLine {
    fn drop(&mut self) {
        if !self.is_answered {
            // A closed stderr changes nothing.
            let _ = writeln!(std::io::stderr());
        }
    }
}

/// Counts the files of all arguments. A file of two of them counts twice.
async fn count(session: &Session, wanted: &[Selection]) -> Result<Loss, Failure> {
    let mut sum = Loss {
        freed: Some(0),
        ..Loss::default()
    };
    for selection in wanted {
        let known = match selection {
            // The gateway computes freed space for a bounded number of files only, and not for every
            // tenant. A list of names has no such bounds.
            Selection::Folder(prefix) => Usage::of_store(session, prefix).await.ok(),
            _ => None,
        };
        let loss = match known {
            Some(usage) => Loss {
                files: usage.files,
                bytes: usage.logical_bytes,
                freed: usage.freed_bytes,
            },
            None => listed(session, selection).await?,
        };
        sum.files += loss.files;
        sum.bytes = sum.bytes.saturating_add(loss.bytes);
        sum.freed = sum.freed.zip(loss.freed).map(|(one, other)| one + other);
    }
    Ok(sum)
}

async fn listed(session: &Session, selection: &Selection) -> Result<Loss, Failure> {
    let mut names = selection.names(session);
    let mut loss = Loss::default();
    while let Some(next) = names.next().await {
        match next {
            Ok((_, size)) => {
                loss.files += 1;
                loss.bytes = loss.bytes.saturating_add(size.unwrap_or_default());
            }
            // The removal reports arguments without a file.
            Err(failure) if failure.end() == End::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(loss)
}

fn question(wanted: &[Selection], loss: &Loss) -> String {
    let freed = match loss.freed {
        Some(freed) => format!(", would free {}", human(freed)),
        None => String::new(),
    };
    let texts: Vec<String> = wanted
        .iter()
        .map(|selection| printable(selection.text()))
        .collect();
    format!(
        "{}: {} files, {}{freed}. Remove them? [y/N] ",
        texts.join(" "),
        loss.files,
        human(loss.bytes)
    )
}

/// Prints the question and returns true if the answer is yes.
fn is_agreed(
    question: &str,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> std::io::Result<bool> {
    write!(output, "{question}")?;
    output.flush()?;
    let mut answer = String::new();
    if input.read_line(&mut answer)? == 0 {
        // At the end of the input the cursor stays on the line of the question.
        writeln!(output)?;
    }
    let answer = answer.trim().to_lowercase();
    Ok(answer == "y" || answer == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (typed, expected) in [
            ("y\n", true),
            ("YES\n", true),
            (" yes \n", true),
            ("\n", false),
            ("", false),
            ("n\n", false),
            ("yy\n", false),
        ] {
            let mut output = Vec::new();
            let agreed = is_agreed("? ", &mut typed.as_bytes(), &mut output).unwrap();
            assert_eq!(agreed, expected, "{typed:?}");
            assert!(output.starts_with(b"? "));
        }
    }

    #[test]
    fn the_question_has_the_numbers_of_a_dry_run() {
        let folders = ["a/", ""].map(|prefix| Selection::Folder(prefix.to_owned()));
        let mut loss = Loss {
            files: 101,
            bytes: 3 << 30,
            freed: Some(1 << 20),
        };
        assert_eq!(
            question(&folders, &loss),
            "a/ /: 101 files, 3.00 GiB, would free 1.00 MiB. Remove them? [y/N] "
        );
        loss.freed = None;
        assert!(question(&folders[..1], &loss).contains("3.00 GiB. Remove"));
    }
}
