//! Commands that ask the master, with a bearer of the cluster secret.

use cstore_mesh::member::connect_master;
use cstore_mesh::{ClientOptions, Dial, MasterClient, MeshMetrics, Protocol};
use cstore_node::{Env, HostPort, Source};
use cstore_proto::{Caller, Signer};
use cstore_types::ErrorCode;

use crate::exit::{End, Failure};
use crate::paths::PickedPath;
use crate::{probe, secret, tls};

/// Connection to the master of this machine's settings.
#[derive(Debug)]
struct Door {
    master: HostPort,
    options: ClientOptions,
    /// True if the inner ports of the cluster speak TLS.
    is_tls: bool,
}

impl Door {
    /// Replaces a failure by what the port of the master is, if it is another one's.
    async fn looked_at(&self, failure: Failure) -> Failure {
        match probe::other_than_master(&self.master, self.is_tls).await {
            Some(what) => Failure::Failed(format!(
                "{} is no master: {what}; CSTORE_MASTER_ADDR wants the master's port, 4100 by default",
                self.master
            )),
            None if failure.end() == End::Unavailable => failure.because(&format!(
                "is the master at {} running? CSTORE_MASTER_ADDR says where it is",
                self.master
            )),
            None => failure,
        }
    }
}

/// Runs a command against the master, in a runtime of its own.
pub(crate) fn run(
    source: &dyn Source,
    command: impl AsyncFnOnce(MasterClient) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let door = door(source)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    runtime.block_on(async {
        let master = connect_master(&door.master.to_string(), &door.options);
        let ended = command(master.map_err(Failure::failed)?).await;
        match ended {
            Ok(()) => Ok(()),
            Err(failure) => Err(door.looked_at(failure).await),
        }
    })
}

fn door(source: &dyn Source) -> Result<Door, Failure> {
    let mut env = Env::new(source);
    let master = env.host_port("CSTORE_MASTER_ADDR", HostPort::new("127.0.0.1", 4_100));
    let path = secret::path(&mut env);
    let tls = tls::read(&mut env);
    env.finish().map_err(Failure::usage)?;

    PickedPath::secret(&path, "--data", source).tell();
    let secret = secret::read(&path).map_err(Failure::usage)?;
    let signer = Signer::new(&secret, Caller::Operator);
    let options = ClientOptions::new("cli", signer, MeshMetrics::default());
    let dial = Dial::secured(tls.as_ref(), Protocol::Grpc);
    Ok(Door {
        is_tls: tls.is_some(),
        master,
        options: ClientOptions { dial, ..options },
    })
}

/// Tells what the master answered.
pub(crate) fn refused(code: ErrorCode, message: &str) -> Failure {
    let end = match code {
        ErrorCode::NotFound => End::NotFound,
        ErrorCode::InvalidArgument => End::Usage,
        ErrorCode::PermissionDenied | ErrorCode::Unauthenticated => End::Denied,
        code if code.is_retryable() => End::Unavailable,
        _ => End::Failed,
    };
    Failure::client(end, format!("master: {message}"))
}
