//! `cstore smoke`: proves a running installation from outside, as a client of its gateway.
//!
//! | form                    | what it does                                                                             |
//! |-------------------------|------------------------------------------------------------------------------------------|
//! | `smoke`                 | one round of every verb, and leaves nothing behind                                       |
//! | `smoke --load`          | uploads, reads and deletes for a while; counts what failed; then reads back all that was acknowledged |
//! | `smoke --check`         | reads back what an earlier load left with `--keep`                                       |
//!
//! The bytes of a file are made from its name ([`content`]), so that every process can tell whether
//! they are right. A wrong byte or a lost acknowledged file always ends with 1; requests that
//! failed do with `--strict`.

mod check;
mod content;
mod load;
mod round;
mod tally;

use std::io::Write;

use cstore_node::shutdown::on_signal;
use cstore_node::{Shutdown, Source};

use crate::args::Smoke;
use crate::client::Gateway;
use crate::exit::Failure;
use crate::limits::SMOKE_TIMEOUT;

pub(crate) fn run(options: &Smoke, source: &dyn Source) -> Result<(), Failure> {
    let gateway = Gateway::from_env(options.url.as_deref(), SMOKE_TIMEOUT, source)?;
    let prefix = match &options.prefix {
        Some(prefix) => prefix.clone(),
        None if options.check => {
            return Err(Failure::Usage(
                "--check needs the --prefix of a load".to_owned(),
            ));
        }
        None => random_prefix()?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    runtime.block_on(async {
        if options.check {
            check::run(&gateway, &prefix, options).await
        } else if options.load {
            let shutdown = Shutdown::new();
            let signals = on_signal(shutdown.clone()).map_err(Failure::failed)?;
            let ended = load::run(&gateway, &prefix, options, shutdown).await;
            signals.abort();
            ended
        } else {
            round::run(&gateway, &prefix, *options.wait).await
        }
    })
}

fn random_prefix() -> Result<String, Failure> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::Failed(format!("no random numbers: {error}")))?;
    Ok(format!("smoke-{}", hex::encode(bytes)))
}

/// A line for people on stdout; when nobody listens there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
