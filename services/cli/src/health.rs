//! `cstore health`: asks the admin port of a role whether it is ready. For health checks that have
//! no curl.

use std::io::Write;

use cstore_node::{Env, HostPort, Source};

use crate::exit::Failure;
use crate::{admin_port, process};

/// Fails with the reasons that the role gives.
pub(crate) fn run(addr: Option<&str>, source: &dyn Source) -> Result<(), Failure> {
    let mut env = Env::new(source);
    let port = env.port(process::ADMIN_PORT, 9_100);
    env.finish().map_err(Failure::usage)?;
    let addr = match addr {
        None => HostPort::new("127.0.0.1", port),
        Some(text) => text
            .parse()
            .map_err(|_| Failure::Usage("--addr must be host:port".to_owned()))?,
    };
    let answer = admin_port::get(&addr, "/ready")?;
    if !answer.ok {
        return Err(Failure::Failed(format!("not ready: {}", answer.body)));
    }
    writeln!(std::io::stdout().lock(), "ready").map_err(Failure::output)
}
