//! How the program ends, and what it says then.

use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use cstore_types::error_chain;
use serde::Serialize;

/// The statuses that the program ends with. They are part of its interface: `docs/cli.md` and
/// `cstore help` list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum End {
    Failed = 1,
    Partial = 2,
    NotFound = 3,
    Conflict = 4,
    Denied = 5,
    Unavailable = 6,
    Full = 7,
    Damaged = 8,
    Held = 9,
    Refused = 10,
    Usage = 64,
    Interrupted = 130,
    BrokenPipe = 141,
}

impl End {
    /// Returns the code for programs, if the gateway has not sent a better one.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Partial => "partial",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::Damaged => "damaged",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::Usage => "usage",
            Self::Interrupted => "interrupted",
            Self::BrokenPipe => "broken_pipe",
        }
    }
}

/// For the help of the program.
pub(crate) const STATUSES: &str = "\
Exit status:
    0  done
    1  failed: a file of this machine, a wrong answer, a defect
    2  partial: of several files some were done and some were not; each failure is printed
    3  not found: the name is not there; no C-Store folder is there
    4  conflict: the name is taken, a condition does not hold, or a file of this machine is in the way
    5  denied: no valid token, or one without the right
    6  unavailable: the gateway is not there or not ready; a node runs on the folder; try again later
    7  full: the store has no room
    8  damaged: what was inspected starts and goes on by itself, and something of it is damaged
    9  held: what was inspected starts on hold or read-only, and waits for a person
   10  refused: what was inspected does not start
   64  usage: wrong arguments, variables, ports or secrets
  130  interrupted by SIGINT or SIGTERM
  141  the reader of the output went away";

/// Reason why the program fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Started wrongly: arguments, variables, ports, the secret. Somebody must change something.
    #[error("{0}")]
    Usage(String),
    /// Something failed that may work the next time.
    #[error("{0}")]
    Failed(String),
    /// A client did not get what it asked for.
    #[error(transparent)]
    Client(Box<Trouble>),
}

/// Failure of a client, for people and for programs.
#[derive(Debug, Clone, Serialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Trouble {
    #[serde(skip)]
    pub(crate) end: End,
    /// True if the failure concerns every other file as well, such as a full disk of this machine.
    #[serde(skip)]
    pub(crate) concerns_all: bool,
    pub(crate) code: String,
    pub(crate) message: String,
    /// Name of the file that the failure is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<String>,
}

#[derive(Serialize)]
struct Told<'a> {
    error: &'a Trouble,
}

impl Failure {
    /// Makes the failure of a wrong start, with the causes of an error.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::Usage(error_chain(error.into().as_ref()).to_string())
    }

    /// Makes the failure of a start that is wrong in several ways, one a line. Equal lines are
    /// shown once.
    pub(crate) fn mistakes(lines: &str) -> Self {
        let mut told = Vec::new();
        for line in lines.lines() {
            if !told.contains(&line) {
                told.push(line);
            }
        }
        Self::Usage(told.join("\n"))
    }

    /// Makes a failure with the causes of an error.
    pub(crate) fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self::Failed(error_chain(error.into().as_ref()).to_string())
    }

    /// Makes the failure of a client that is not a refusal by the gateway.
    pub(crate) fn client(end: End, message: impl Into<String>) -> Self {
        let concerns_all = matches!(end, End::Unavailable | End::Denied | End::Full);
        let (code, message) = (end.code().to_owned(), message.into());
        Self::Client(Box::new(Trouble {
            end,
            concerns_all,
            code,
            message,
            name: None,
            trace_id: None,
        }))
    }

    /// Makes a failure of this machine, whose kind says whether it concerns one file or all of
    /// them.
    pub(crate) fn local(error: &std::io::Error, message: String) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let concerns_all = matches!(
            error.kind(),
            StorageFull | ReadOnlyFilesystem | QuotaExceeded
        );
        let (end, code) = (End::Failed, End::Failed.code().to_owned());
        Self::Client(Box::new(Trouble {
            end,
            concerns_all,
            code,
            message,
            name: None,
            trace_id: None,
        }))
    }

    /// Makes the failure of a write to stdout or to a pipe.
    pub(crate) fn output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => {
                Self::client(End::BrokenPipe, "nobody reads the output")
            }
            _ => Self::failed(anyhow::Error::new(error).context("cannot write the output")),
        }
    }

    /// Adds the name of the file.
    pub(crate) fn of(self, name: &str) -> Self {
        let mut trouble = self.trouble();
        trouble.name.get_or_insert_with(|| name.to_owned());
        Self::Client(Box::new(trouble))
    }

    /// Replaces the message, such as one that says no more than an HTTP status.
    pub(crate) fn saying(self, message: String) -> Self {
        let mut trouble = self.trouble();
        trouble.message = message;
        Self::Client(Box::new(trouble))
    }

    /// Adds a reason to the message.
    pub(crate) fn because(self, why: &str) -> Self {
        let mut trouble = self.trouble();
        trouble.message = format!("{}: {why}", trouble.message);
        Self::Client(Box::new(trouble))
    }

    /// Adds what to do to the message.
    pub(crate) fn with_advice(self, advice: &str) -> Self {
        let mut trouble = self.trouble();
        trouble.message = format!("{}; {advice}", trouble.message);
        Self::Client(Box::new(trouble))
    }

    pub(crate) fn end(&self) -> End {
        match self {
            Self::Usage(_) => End::Usage,
            Self::Failed(_) => End::Failed,
            Self::Client(trouble) => trouble.end,
        }
    }

    /// Returns true if other files will fail likewise.
    pub(crate) fn concerns_all(&self) -> bool {
        matches!(self, Self::Client(trouble) if trouble.concerns_all)
    }

    fn trouble(&self) -> Trouble {
        if let Self::Client(trouble) = self {
            return (**trouble).clone();
        }
        let end = self.end();
        let (code, message) = (end.code().to_owned(), self.to_string());
        Trouble {
            end,
            concerns_all: false,
            code,
            message,
            name: None,
            trace_id: None,
        }
    }

    /// Prints the failure on stderr, as a line of JSON if `json`.
    pub(crate) fn tell(&self, json: bool) {
        let trouble = self.trouble();
        // A user who closed the output knows, and a terminal shows the ^C.
        if matches!(trouble.end, End::BrokenPipe) {
            return;
        }
        let mut stderr = std::io::stderr().lock();
        // If stderr cannot be written, the status still reports the failure.
        let _ = if json {
            let line = serde_json::to_string(&Told { error: &trouble }).unwrap_or_default();
            writeln!(stderr, "{line}")
        } else {
            let about = trouble
                .name
                .as_deref()
                .map(|name| format!("{}: ", printable(name)));
            let trace = trouble
                .trace_id
                .as_deref()
                .map(|id| format!(" (trace {})", printable(id)));
            let message = match self {
                // Several mistakes are said at once, one a line.
                Self::Usage(lines) => lines.lines().map(printable).collect::<Vec<_>>().join("\n"),
                // A line that breaks comes out of a name, which must not look like a message of its
                // own.
                Self::Failed(_) | Self::Client(_) => printable(&trouble.message),
            };
            writeln!(
                stderr,
                "cstore: {}{message}{}",
                about.unwrap_or_default(),
                trace.unwrap_or_default()
            )
        };
    }

    pub(crate) fn exit(&self) -> ExitCode {
        ExitCode::from(self.end() as u8)
    }
}

/// Returns text of others without characters that would steer a terminal, or make it show something
/// else than is there.
pub(crate) fn printable(text: &str) -> String {
    // Characters that turn the direction of writing make `gpj.exe` look like `exe.jpg`.
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = |c| matches!(c, '\u{2028}' | '\u{2029}');
    let hidden = |c: char| c.is_control() || turns(c) || breaks(c);
    text.chars()
        .map(|c| {
            if hidden(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Prints the message of clap and returns the status. Help and version are not failures. With
/// `json` a mistake is a line of JSON, like others.
pub(crate) fn arguments(mut error: clap::Error, json: bool) -> ExitCode {
    name_what_is_missing(&mut error);
    if error.kind() == ErrorKind::UnknownArgument {
        // The parser shows the nearest flag as if it were demanded; the tip names it already.
        error.remove(ContextKind::Usage);
    }
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if json {
        let text = error.render().to_string();
        let text = text.trim();
        Failure::Usage(text.strip_prefix("error: ").unwrap_or(text).to_owned()).tell(true);
    } else {
        let _ = error.print();
    }
    ExitCode::from(End::Usage as u8)
}

/// Corrects which argument of `put` is missing: the parser takes one path alone for the
/// destination, and people take it for the source.
fn name_what_is_missing(error: &mut clap::Error) {
    let source = "<SRC>...";
    let missing = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing.as_slice(),
        _ => return,
    };
    if error.kind() == ErrorKind::MissingRequiredArgument && missing == [source] {
        let destination = "<DEST>: the new name, or a folder with a trailing /";
        let destination = ContextValue::Strings(vec![destination.to_owned()]);
        error.insert(ContextKind::InvalidArg, destination);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_without_a_destination_lacks_the_destination() {
        use clap::Parser;
        for (args, missing) in [
            (&["cstore", "put", "a.jpg"][..], "\n  <DEST>: the new name"),
            (&["cstore", "put"], "\n  <SRC>...\n"),
        ] {
            let mut error = crate::args::Args::try_parse_from(args).unwrap_err();
            name_what_is_missing(&mut error);
            let said = error.render().to_string();
            assert!(said.contains(missing), "{said}");
        }
    }

    #[test]
    fn every_mistake_is_said_and_none_twice() {
        assert_eq!(
            Failure::mistakes("A: x\nB: y\nA: x").to_string(),
            "A: x\nB: y"
        );
    }

    #[test]
    fn an_error_is_said_with_its_causes() {
        let error = anyhow::anyhow!("disk is gone").context("open segment");
        assert_eq!(
            Failure::failed(error).to_string(),
            "open segment: disk is gone"
        );
        let io = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = anyhow::Error::new(io).context("write: entity not found");
        assert_eq!(
            Failure::failed(error).to_string(),
            "write: entity not found",
            "and no cause twice"
        );
    }

    #[test]
    fn a_name_can_neither_break_a_line_nor_turn_it() {
        assert_eq!(
            printable("a\nb\u{202e}c\u{2066}\u{1b}d \u{e4}"),
            "a\u{fffd}b\u{fffd}c\u{fffd}\u{fffd}d \u{e4}"
        );
    }

    #[test]
    fn a_wrong_start_ends_as_everywhere_in_the_house() {
        assert_eq!(i32::from(End::Usage as u8), cstore_node::EXIT_USAGE);
    }

    #[test]
    fn every_status_is_in_the_help() {
        use End::*;
        let all = [
            Failed,
            Partial,
            NotFound,
            Conflict,
            Denied,
            Unavailable,
            Full,
            Damaged,
            Held,
            Refused,
            Usage,
            Interrupted,
            BrokenPipe,
        ];
        for end in all {
            assert!(
                STATUSES.contains(&format!("\n{:>5}  ", end as u8)),
                "{end:?}"
            );
        }
        assert_eq!(STATUSES.lines().count(), 2 + all.len());
    }

    #[test]
    fn the_first_to_say_what_it_is_about_is_heard() {
        let failure = Failure::client(End::NotFound, "there is no such file")
            .of("a")
            .of("b");
        assert_eq!(
            (failure.end(), failure.trouble().name.as_deref()),
            (End::NotFound, Some("a"))
        );
    }
}
