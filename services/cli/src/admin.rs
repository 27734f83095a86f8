//! Commands for operators.

use std::io::Write;
use std::time::Duration;

use cstore_node::{Env, Source};
use cstore_proto::{Caller, Signer};

use crate::exit::Failure;
use crate::limits::MAX_BEARER_LIFE;
use crate::paths::PickedPath;
use crate::secret;

/// Prints a bearer of the gRPC plane, for grpcurl.
pub(crate) fn bearer(ttl: Duration, source: &dyn Source) -> Result<(), Failure> {
    if ttl > MAX_BEARER_LIFE {
        return Err(Failure::Usage("--ttl must be 30 days at most".to_owned()));
    }
    let mut env = Env::new(source);
    let path = secret::path(&mut env);
    env.finish().map_err(Failure::usage)?;
    PickedPath::secret(&path, "--data", source).tell();
    let secret = secret::read(&path).map_err(Failure::usage)?;
    let bearer = Signer::new(&secret, Caller::Operator).for_ttl(ttl);
    writeln!(std::io::stdout().lock(), "{bearer}").map_err(Failure::output)
}
