//! The one program: every role, the all-in-one and the admin commands.
//!
//! ```text
//! arguments ─> environment ─> configuration ─> telemetry ─> listeners ─> run ─> drain ─> exit status
//! ```
//! Mistakes of the start (arguments, variables, a taken port, a missing secret) are printed on
//! stderr, all at once, and end with status 64. A failure of a running program ends with 1, a
//! requested end with 0.

mod admin;
mod admin_port;
mod args;
mod certs;
mod client;
mod dev;
mod exit;
mod files;
mod gc;
mod health;
mod help;
mod hold;
mod inspect;
mod kept;
mod limit_table;
mod limits;
mod master;
mod node;
mod open_files;
mod paths;
mod probe;
mod process;
mod rescue;
mod role;
mod secret;
mod settings;
mod smoke;
mod tls;
mod token;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use cstore_heap::HeapBounds;
use cstore_node::Source;

use crate::args::{Admin, Args, Command, Hold, Kept, NodeCommand};
use crate::exit::Failure;

/// Runs one command line in one environment, to its end.
pub fn main_with(args: impl IntoIterator<Item = OsString>, env: &dyn Source) -> ExitCode {
    bound_the_heap(env);
    let args: Vec<OsString> = args.into_iter().collect();
    let args = match Args::try_parse_from(&args) {
        Ok(args) => args,
        Err(error) => {
            // Arguments that could not be parsed may still contain --json.
            let flags = args.iter().take_while(|arg| *arg != "--");
            return exit::arguments(error, flags.into_iter().any(|arg| arg == "--json"));
        }
    };
    match run(&args.command, env) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell(args.command.json());
            failure.exit()
        }
    }
}

/// Fixes the bounds of the allocator, unless the environment sets some. MUST be called before
/// threads are started.
fn bound_the_heap(env: &dyn Source) {
    /// Variables by which users of glibc set its bounds, see mallopt(3) and the manual's chapter on
    /// tunables.
    const VARIABLES: [&str; 3] = [
        "GLIBC_TUNABLES",
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
    ];
    if VARIABLES.iter().all(|name| env.get(name).is_none()) {
        cstore_heap::set_bounds(HeapBounds {
            mapped_from: limits::MAPPED_BUFFER,
            trimmed_from: limits::ARENA_TRIM,
        });
    }
}

fn run(command: &Command, env: &dyn Source) -> Result<(), Failure> {
    let is_role = matches!(
        command,
        Command::Serve(_)
            | Command::Dev(_)
            | Command::Gateway(_)
            | Command::Master(_)
            | Command::Worker(_)
            | Command::Storage(_)
    );
    let is_help = matches!(command, Command::Completions { .. } | Command::Man { .. });
    // A role reports unknown names together with its other mistakes.
    if !is_role && !is_help {
        settings::check_names(env)?;
    }
    if let Some(door) = command.door() {
        return files::run(command, door, env);
    }
    match command {
        Command::Serve(options) => dev::serve(options, env),
        Command::Dev(options) => dev::run(options, env),
        Command::Gateway(settings) => role::run(role::Role::Gateway, &settings.over(env)),
        Command::Master(settings) => role::run(role::Role::Master, &settings.over(env)),
        Command::Worker(settings) => role::run(role::Role::Worker, &settings.over(env)),
        Command::Storage(settings) => role::run(role::Role::Storage, &settings.over(env)),
        Command::Completions { shell } => help::completions(*shell),
        Command::Man { command } => help::man(command),
        Command::Health { addr } => health::run(addr.as_deref(), env),
        Command::Smoke(options) => smoke::run(options, env),
        Command::Admin { command } => run_admin(command, env),
        // They have a door, and are gone through it.
        Command::Put(_)
        | Command::Get(_)
        | Command::Ls(_)
        | Command::Stat(_)
        | Command::Rm(_)
        | Command::Cp(_)
        | Command::Mv(_)
        | Command::Du(_) => Ok(()),
    }
}

/// Runs a command for operators.
fn run_admin(command: &Admin, env: &dyn Source) -> Result<(), Failure> {
    let given = command.data_folder();
    let env = &settings::lay(&given, env);
    match command {
        Admin::Bearer { ttl, .. } => admin::bearer(**ttl, env),
        Admin::Token { command, .. } => token::run(command, env),
        Admin::Certs(options) => certs::run(options).map_err(Failure::usage),
        Admin::Rescue { data, file, json } => rescue::run(data.as_deref(), file, *json, env),
        Admin::Inspect {
            dir,
            payloads,
            json,
        } => inspect::run(dir, *payloads, *json),
        Admin::Gc { addrs, json, watch } => gc::run(addrs, *json, *watch, env),
        Admin::Node { command, .. } => match command {
            NodeCommand::Away { node } => node::away(node, env),
            NodeCommand::Replace { node, lost } => node::replace(node, *lost, env),
        },
        Admin::Kept { command, .. } => match command {
            Kept::List { json } => kept::list(*json, env),
            Kept::Drop { uploads, all } => kept::drop(uploads, *all, env),
        },
        Admin::Hold { command, .. } => match command {
            Hold::List { json } => hold::list(*json, env),
            Hold::Accept { node, number } => hold::accept(node, *number, env),
        },
        Admin::Limits { json } => limit_table::print(*json),
    }
}
