//! Masters on real sockets or of this process, and a client of all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cstore_mesh::{
    Admission, CallBounds, Class, ClientOptions, Dial, Discovery, Endpoints, HealthHandle,
    LocalServers, MasterClient, MeshMetrics, RoleIo, Service, Target,
};
use cstore_node::connections::ConnectionLimits;
use cstore_proto::{Signer, v1};
use cstore_testkit::fake::{FakeMaster, Reply, grpc_server};
use cstore_testkit::{PATIENCE, secret};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tonic::Status;

/// Time-out of one attempt of a call. A peer that answers meets it only on a machine that gives it
/// no time for so long.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(3);

/// The way from a caller to the peers. Each test makes its own.
#[derive(Default)]
pub(crate) struct Network {
    local: LocalServers,
    is_local: bool,
}

impl Network {
    /// Peers of this process, which are called without sockets.
    pub(crate) fn in_process() -> Self {
        Self {
            is_local: true,
            ..Self::default()
        }
    }
}

/// Makes each test twice: over sockets, and between roles of one process.
macro_rules! over_both {
    ($($name:ident),* $(,)?) => {
        mod over_sockets {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::peer::Network::default()).await;
                }
            )*
        }
        mod in_process {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::peer::Network::in_process()).await;
                }
            )*
        }
    };
}
pub(crate) use over_both;

/// A running server. Dropping it cuts all its connections, as a kill does.
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    pub(crate) master: FakeMaster,
    pub(crate) health: HealthHandle,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinSet<()>,
}

impl Peer {
    pub(crate) async fn start(network: &Network) -> Self {
        Self::start_with(network, None).await
    }

    /// Starts a peer whose connections are admitted within `limits`, as those of a role are.
    pub(crate) async fn start_limited(limits: ConnectionLimits) -> Self {
        let admission = Admission {
            role: "fake",
            limits,
            metrics: MeshMetrics::default(),
        };
        Self::start_with(&Network::default(), Some(admission)).await
    }

    async fn start_with(network: &Network, admission: Option<Admission>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let master = FakeMaster::default();
        master.reply_to_all(Reply::Empty);
        let server = grpc_server().await;
        let health = server.health();
        let mut server = master.add_to(server);
        if network.is_local {
            network.local.add(addr.to_string());
            server = server.within(network.local.clone(), &addr.to_string());
        }
        let (stop, stopped) = oneshot::channel();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let stopped = async { drop(stopped.await) };
            match admission {
                None => server.serve(listener, stopped).await.unwrap(),
                Some(admission) => {
                    let io = RoleIo::grpc_over_tcp("127.0.0.1", listener, None, admission);
                    server
                        .serve_over(io.unwrap().incoming, stopped)
                        .await
                        .unwrap();
                }
            }
        });
        Self {
            addr,
            master,
            health,
            stop: Some(stop),
            serving,
        }
    }

    /// Returns the number of calls that came.
    pub(crate) fn calls(&self) -> usize {
        self.master.count_all()
    }

    pub(crate) fn target(&self) -> Target {
        Target::new(self.addr.to_string())
    }

    /// Ends it in good order.
    pub(crate) async fn stop(&mut self) {
        drop(self.stop.take());
        while let Some(ended) = self.serving.join_next().await {
            ended.unwrap();
        }
    }
}

/// A client of a set of servers that may change.
pub(crate) struct Caller {
    pub(crate) client: MasterClient,
    pub(crate) endpoints: watch::Sender<Endpoints>,
    registry: Registry,
    _manager: JoinSet<()>,
}

impl Caller {
    pub(crate) fn new<'a>(
        network: &Network,
        targets: impl IntoIterator<Item = &'a Target>,
    ) -> Self {
        let mut registry = Registry::with_prefix("cstore");
        let metrics = MeshMetrics::register(&mut registry);
        let signer = Signer::new(&secret(), cstore_proto::Caller::Operator);
        let options = ClientOptions {
            dial: Dial::tcp().within(network.local.clone()),
            ..ClientOptions::new("test", signer, metrics)
        };
        let all = targets
            .into_iter()
            .map(|target| (target.clone(), Class::Whole))
            .collect();
        let (endpoints, members) = watch::channel(all);
        let (service, manager) = Service::new("fake", Discovery::Members(members), &options);
        let mut tasks = JoinSet::new();
        tasks.spawn(manager.run());
        let bounds = CallBounds {
            deadline: PATIENCE,
            attempt: ATTEMPT,
            ..CallBounds::default()
        };
        let client = MasterClient::with_bounds(&service, bounds);
        Self {
            client,
            endpoints,
            registry,
            _manager: tasks,
        }
    }

    /// The sum of a metric over the lines that contain all of `parts`.
    pub(crate) fn metric(&self, parts: &[&str]) -> f64 {
        let text = self.metrics();
        let fits = |line: &&str| parts.iter().all(|part| line.contains(part));
        text.lines()
            .filter(fits)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Many calls, some at once; how many of each code failed.
    pub(crate) async fn get_files(&self, count: usize, at_once: usize) -> Vec<Status> {
        let left = Arc::new(AtomicUsize::new(count));
        let mut tasks = JoinSet::new();
        for _ in 0..at_once {
            let (client, left) = (self.client.clone(), left.clone());
            tasks.spawn(async move {
                let mut failed = Vec::new();
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    .is_ok()
                {
                    if let Err(status) = client.get_file(v1::GetFileRequest::default()).await {
                        failed.push(status);
                    }
                }
                failed
            });
        }
        tasks.join_all().await.into_iter().flatten().collect()
    }
}
