//! The question before many files are removed, on a pseudo terminal.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::files::fake::{Fake, Reply, Request};
use crate::files::run::{command, cstore, said, status};

const QUESTION: &str = "Remove them? [y/N] ";

/// A store with `count` files below `many/`, without words about space.
fn many_files(count: usize) -> impl FnMut(&Request) -> Reply + Send + 'static {
    move |request| {
        if request.path.starts_with("/api/files?prefix=many%2F") {
            let file = |n| serde_json::json!({"name": format!("many/{n}"), "size": 1, "etag": "e"});
            let files: Vec<_> = (0..count).map(file).collect();
            let page = serde_json::json!({"files": files, "prefixes": []});
            return Reply::new(200, page.to_string());
        }
        match request.method.as_str() {
            "DELETE" => Reply::new(204, ""),
            "HEAD" => Reply::new(404, ""),
            _ if request.path.starts_with("/api/files?") => {
                Reply::new(200, r#"{"files":[],"prefixes":[]}"#)
            }
            _ => Reply::problem(403, "permission_denied"),
        }
    }
}

/// A program whose stdin, stdout and stderr are a pseudo terminal.
struct OnTerminal {
    child: Child,
    terminal: File,
    /// Everything that the terminal has shown.
    shown: String,
}

impl OnTerminal {
    fn start(mut command: Command) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let path = ptsname(&terminal, Vec::new()).unwrap();
        let no_controlling = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(no_controlling);
            Stdio::from(options.open(path.to_str().unwrap()).unwrap())
        };
        command.stdin(open()).stdout(open()).stderr(open());
        let child = command.spawn().unwrap();
        // The terminal ends only when nobody has it open: the command still holds its end here.
        drop(command);
        Self {
            child,
            terminal: File::from(terminal),
            shown: String::new(),
        }
    }

    /// Reads what the terminal shows. Returns false after the program has closed the terminal.
    fn read(&mut self) -> bool {
        let mut piece = [0; 4_096];
        match self.terminal.read(&mut piece) {
            Ok(0) => false,
            Ok(len) => {
                self.shown.push_str(&String::from_utf8_lossy(&piece[..len]));
                true
            }
            // Linux ends a terminal that nobody has open with EIO, which has no kind of its own.
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(_) => false,
        }
    }

    fn wait_for(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.read(), "no {text:?} in {:?}", self.shown);
        }
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).unwrap();
    }

    /// Returns the exit status and everything that was shown.
    fn end(mut self) -> (Option<i32>, String) {
        while self.read() {}
        (self.child.wait().unwrap().code(), self.shown)
    }
}

/// Reaction of a person to the question.
#[derive(Debug, Clone, Copy)]
enum Person {
    Types(&'static [u8]),
    Interrupts,
}

#[test]
fn many_files_are_removed_only_after_a_yes() {
    const END_OF_INPUT: &[u8] = &[4];
    for (args, person, expected, removed) in [
        (&["rm", "-r", "many"][..], Person::Types(b"n\n"), 1, 0),
        (&["rm", "-r", "many"], Person::Types(b"\n"), 1, 0),
        (&["rm", "-r", "many"], Person::Types(END_OF_INPUT), 1, 0),
        (&["rm", "-r", "many"], Person::Interrupts, 130, 0),
        (&["rm", "-r", "many"], Person::Types(b"y\n"), 0, 101),
        (&["rm", "many/*"], Person::Types(b"n\n"), 1, 0),
        (&["rm", "many/*"], Person::Types(b"yes\n"), 0, 101),
    ] {
        let fake = Fake::start(many_files(101));
        let mut program = OnTerminal::start(command(&fake.url, args));
        program.wait_for(QUESTION);
        match person {
            Person::Types(keys) => program.type_in(keys),
            Person::Interrupts => {
                kill_process(Pid::from_child(&program.child), Signal::INT).unwrap();
            }
        }
        let (code, shown) = program.end();
        assert_eq!(
            (code, fake.count("DELETE")),
            (Some(expected), removed),
            "{args:?} {person:?}: {shown}"
        );
        assert!(
            shown.contains(": 101 files, 101 B. Remove them?"),
            "{shown}"
        );
        // The next line of the shell begins at its first column.
        assert!(shown.ends_with("\r\n"), "{person:?}: {shown:?}");
        let (_, after) = shown.split_once(QUESTION).unwrap();
        let told = match (person, removed) {
            (Person::Interrupts, _) => "\r\ncstore: interrupted\r\n",
            (_, 0) => "\ncstore: nothing was removed\r\n",
            _ => "  removed\r\n",
        };
        assert!(after.contains(told), "{person:?}: {shown:?}");
    }
}

#[test]
fn few_files_a_yes_beforehand_and_scripts_are_not_asked() {
    for (count, args) in [
        (100, &["rm", "-r", "many"][..]),
        (100, &["rm", "many/*"]),
        (101, &["rm", "-r", "-y", "many"]),
        (101, &["rm", "--yes", "many/*"]),
        (101, &["rm", "-r", "--dry-run", "nosuch"]),
    ] {
        let fake = Fake::start(many_files(count));
        let (_, shown) = OnTerminal::start(command(&fake.url, args)).end();
        let expected = if args.contains(&"nosuch") { 0 } else { count };
        assert_eq!(fake.count("DELETE"), expected, "{args:?}: {shown}");
        assert!(!shown.contains("[y/N]"), "{args:?}: {shown}");
    }
    // Without a terminal nothing is asked.
    let fake = Fake::start(many_files(101));
    let output = cstore(&fake, &["rm", "-r", "many"]);
    assert_eq!(
        (status(&output), fake.count("DELETE")),
        (0, 101),
        "{}",
        said(&output)
    );
}
