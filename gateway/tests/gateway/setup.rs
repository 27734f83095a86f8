//! A gateway before a master and a worker that live in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cstore_gateway::Config;
use cstore_node::admin::Readiness;
use cstore_node::{HostPort, Shutdown};
use cstore_testkit::fake::{FakeMaster, FakeWorker, grpc_server};
use cstore_testkit::{PATIENCE, nobody, secret};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A gateway before the fakes.
pub(crate) struct Setup {
    pub(crate) addr: SocketAddr,
    pub(crate) master: FakeMaster,
    pub(crate) worker: FakeWorker,
    pub(crate) shutdown: Shutdown,
    pub(crate) done: tokio::task::JoinHandle<Result<(), cstore_gateway::Error>>,
    /// Address at which nobody listens, and the socket that keeps it so. The master shows a ready
    /// worker there.
    dead_addr: String,
    _nobody: TcpSocket,
}

impl Setup {
    /// Gives the next ticket to the worker that does not exist.
    pub(crate) fn make_next_ticket_dead(&self) {
        let addr = self.dead_addr.clone();
        self.master.with(|state| state.next_ticket = Some(addr));
    }
}

pub(crate) async fn start() -> Setup {
    start_with(|_| {}).await
}

/// Like [`start`], with another configuration of the gateway.
pub(crate) async fn start_with(tune: impl FnOnce(&mut Config)) -> Setup {
    let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let inner_addr = inner.local_addr().unwrap();
    let (dead_addr, nobody) = nobody();
    let worker = FakeWorker::default();
    let master = worker.master.clone();
    master.with(|state| state.workers = vec![inner_addr.to_string(), dead_addr.clone()]);
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let server = worker.add_to(master.add_to(grpc_server().await));
    let serving = server.serve(inner, async move { stop.triggered().await });
    drop(cstore_node::shutdown::spawn("fakes", serving));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let no_variables: BTreeMap<String, String> = BTreeMap::new();
    let mut config = Config::from_env(&mut cstore_node::Env::new(&no_variables));
    config.anonymous = true;
    config.master_addr = HostPort::new("127.0.0.1", inner_addr.port());
    config.drain_timeout = PATIENCE;
    tune(&mut config);
    let run = cstore_gateway::run(
        config,
        secret(),
        listener,
        Readiness::new(&[]),
        cstore_mesh::RoleMetrics::default(),
        shutdown.clone(),
    );
    let done = cstore_node::shutdown::spawn("gateway", run);
    tokio::time::timeout(PATIENCE, started(addr))
        .await
        .expect("the gateway starts");
    Setup {
        addr,
        master,
        worker,
        shutdown,
        done,
        dead_addr,
        _nobody: nobody,
    }
}

/// Waits until the gateway no longer refuses requests because it starts.
async fn started(addr: SocketAddr) {
    loop {
        let answer = crate::http::send(addr, "GET /api/stats HTTP/1.1\r\nHost: x\r\n\r\n").await;
        if answer.status != 503 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Opens a connection to the gateway.
pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.unwrap()
}
