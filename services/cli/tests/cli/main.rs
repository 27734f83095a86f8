//! The program as a process.

mod command_line;
mod files;
mod inspect;
mod mistakes;
