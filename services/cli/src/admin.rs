//! Commands for operators.

use std::io::Write;
use std::path::Path;

use cstore_node::{Env, Source};

use crate::exit::Failure;
use crate::secret;

/// Prints the bearer token of the gRPC plane, for grpcurl.
pub(crate) fn bearer(source: &dyn Source) -> Result<(), Failure> {
    let mut env = Env::new(source);
    let path = secret::path(&mut env);
    env.finish().map_err(Failure::usage)?;
    let secret = secret::read(&path).map_err(Failure::usage)?;
    writeln!(std::io::stdout().lock(), "{}", secret.grpc_bearer().as_str()).map_err(Failure::failed)
}

/// Says what a storage directory holds.
pub(crate) fn inspect(dir: &Path) -> Result<(), Failure> {
    cstore_storage::inspect(dir, &mut std::io::stdout().lock()).map_err(Failure::failed)
}
