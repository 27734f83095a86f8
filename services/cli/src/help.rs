//! Help for shells and manuals, made from the definitions of the command line.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::shells::{Bash, Fish, Zsh};
use clap_mangen::Man;

use crate::args::{Args, Shell};
use crate::exit::Failure;

/// Prints what completes commands and flags.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let (mut command, mut text) = (Args::command(), Vec::new());
    match shell {
        Shell::Bash => clap_complete::generate(Bash, &mut command, "cstore", &mut text),
        Shell::Zsh => clap_complete::generate(Zsh, &mut command, "cstore", &mut text),
        Shell::Fish => clap_complete::generate(Fish, &mut command, "cstore", &mut text),
    }
    print(&text)
}

/// Prints the page of the program, or of one of its commands.
pub(crate) fn man(words: &[String]) -> Result<(), Failure> {
    let mut command = Args::command();
    // Pages of commands say their whole name, as in `cstore-put`.
    command.build();
    let mut found = &command;
    for word in words {
        let none = || Failure::Usage(format!("there is no command {:?}", words.join(" ")));
        found = found.find_subcommand(word).ok_or_else(none)?;
    }
    let mut text = Vec::new();
    Man::new(found.clone())
        .render(&mut text)
        .map_err(Failure::failed)?;
    print(&text)
}

fn print(text: &[u8]) -> Result<(), Failure> {
    std::io::stdout()
        .lock()
        .write_all(text)
        .map_err(Failure::output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(command: &clap::Command, path: &str, look: &mut impl FnMut(&clap::Command, &str)) {
        look(command, path);
        for below in command.get_subcommands() {
            each(below, &format!("{path} {}", below.get_name()), look);
        }
    }

    #[test]
    fn every_command_and_every_flag_has_help() {
        let (mut commands, mut flags) = (0, 0);
        each(&Args::command(), "cstore", &mut |command, path| {
            commands += 1;
            assert!(command.get_about().is_some(), "{path} has no help");
            for arg in command.get_arguments() {
                flags += 1;
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 5, "{path} {} has no help", arg.get_id());
            }
        });
        assert!(
            commands > 25 && flags > 80,
            "only {commands} commands and {flags} flags were looked at"
        );
    }

    /// The part of the document under `## cstore put`, and so on.
    fn section<'a>(document: &'a str, path: &str) -> &'a str {
        let begin = document
            .find(&format!("\n## {path}\n"))
            .unwrap_or_else(|| panic!("no section {path}"));
        let text = &document[begin + 4..];
        &text[..text.find("\n## ").unwrap_or(text.len())]
    }

    #[test]
    fn the_document_knows_every_command_flag_and_status_and_no_others() {
        let document = include_str!("../../../docs/cli.md");
        let shared = section(document, "Flags of all commands over files");
        let mut told = 0;
        each(&Args::command(), "cstore", &mut |command, path| {
            let over_files = command
                .get_arguments()
                .any(|arg| arg.get_id() == "token_file");
            if !over_files {
                assert!(
                    path == "cstore" || document.contains(&format!("`{path}")),
                    "{path} is not told"
                );
                return;
            }
            told += 1;
            let text = section(document, path);
            let is_told = |flag: &str| {
                [text, shared]
                    .iter()
                    .any(|text| text.contains(&format!("`{flag}")))
            };
            let mut known = Vec::new();
            for long in command
                .get_arguments()
                .filter_map(|arg| arg.get_long())
                .filter(|long| *long != "help")
            {
                let flag = format!("--{long}");
                assert!(is_told(&flag), "{path} {flag} is not told");
                known.push(flag);
            }
            for flag in text.split('`').filter(|word| word.starts_with("--")) {
                let flag = flag.split([' ', '=']).next().unwrap_or_default();
                assert!(
                    known.iter().any(|known| known == flag),
                    "{path} has no {flag}"
                );
            }
        });
        assert_eq!(told, 8);
        for line in crate::exit::STATUSES.lines().skip(1) {
            let (status, meaning) = line.trim().split_once("  ").unwrap();
            assert!(
                document.contains(&format!("| {status} | {}", meaning.trim())),
                "{line}"
            );
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        Args::command().debug_assert();
    }
}
