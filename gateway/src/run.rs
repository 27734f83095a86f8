//! Putting one gateway together and running it to its end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cstore_mesh::{ClientOptions, MasterClient, MeshError, WorkerClients, channel};
use cstore_node::admin::{PartState, Readiness};
use cstore_node::{Shutdown, TaskGroup};
use cstore_types::ClusterSecret;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::app::{App, Shared};
use crate::auth::Auth;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::tickets::Tickets;
use crate::{cluster, router, server};

/// Why a gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the address of the master cannot be used")]
    Master(#[source] MeshError),
}

/// Serves until the shutdown.
///
/// # Errors
/// When the master's address is none. A master that is away is waited for.
pub fn run(
    config: Config,
    secret: ClusterSecret,
    listener: TcpListener,
    readiness: Readiness,
    registry: Arc<Mutex<Registry>>,
    shutdown: Shutdown,
) -> impl Future<Output = Result<(), Error>> + Send {
    let metrics = Metrics::register(&mut registry.lock());
    // Before the first await, so that nobody can take a gateway for ready that has not begun.
    readiness.set(cluster::PART, PartState::NotReady("starting".to_owned()));
    async move {
        let app = Arc::new(connect(config, &secret, metrics).map_err(Error::Master)?);
        let tasks = TaskGroup::new(shutdown.child());
        let follow = app.cluster.clone().follow(
            app.master.clone(),
            app.config.retry_step,
            readiness,
            tasks.shutdown().clone(),
        );
        drop(tasks.spawn("follow the cluster", follow));
        drop(tasks.spawn("wait for the cluster", announce(app.clone(), tasks.shutdown().clone())));
        let drain = app.config.drain_timeout;
        server::serve(listener, router::router(app.clone()), app, shutdown).await;
        tasks.drain(drain).await;
        Ok(())
    }
}

fn connect(config: Config, secret: &ClusterSecret, metrics: Metrics) -> Result<App, MeshError> {
    let options = ClientOptions::new(secret.grpc_bearer().as_str());
    let master = MasterClient::new(channel(&config.master_addr.to_string(), &options)?);
    Ok(App {
        auth: Auth::new(config.anonymous),
        master,
        workers: WorkerClients::new(options),
        cluster: cluster::Cluster::new(),
        tickets: Tickets::default(),
        metrics,
        started: AtomicBool::new(false),
        config,
    })
}

/// Opens the door when the cluster is complete for the first time, and says so.
async fn announce(app: Shared, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.triggered() => {}
        () = app.cluster.wait_ready() => {
            app.started.store(true, Ordering::Release);
            tracing::info!("Application startup complete");
        }
    }
}
