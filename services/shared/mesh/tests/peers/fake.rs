//! Servers that can be told to fail, and a client of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use cstore_mesh::{
    CallBounds, Class, ClientOptions, Discovery, Endpoints, GrpcServer, HealthHandle, MasterClient,
    MeshMetrics, ServerOptions, Service, Target,
};
use cstore_proto::v1::namespace_server::{Namespace, NamespaceServer};
use cstore_proto::{Signer, Verifier, v1};
use cstore_testkit::{PATIENCE, secret};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

/// Time-out of one attempt of a call. A peer that answers meets it only on a machine that gives it
/// no time for so long.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(3);

/// How a server behaves; may be changed while it runs.
#[derive(Debug, Default)]
pub(crate) struct Manners {
    /// Of ten calls so many fail as Unavailable.
    pub(crate) fail_of_ten: AtomicUsize,
    /// Of ten calls so many are done, but never answered.
    pub(crate) lose_of_ten: AtomicUsize,
    /// Calls that came in.
    pub(crate) calls: AtomicU64,
}

impl Manners {
    async fn answer<T: Default>(&self) -> Result<Response<T>, Status> {
        let n = self.calls.fetch_add(1, Ordering::Relaxed) as usize % 10;
        if n < self.lose_of_ten.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        // Spread over the ten: 0, 3, 6, …
        if n * 7 % 10 < self.fail_of_ten.load(Ordering::Relaxed) {
            return Err(Status::unavailable("told to fail"));
        }
        Ok(Response::new(T::default()))
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone)]
struct Fake(Arc<Manners>);

#[tonic::async_trait]
impl Namespace for Fake {
    async fn get_file(
        &self,
        _: Request<v1::GetFileRequest>,
    ) -> Result<Response<v1::GetFileResponse>, Status> {
        self.0.answer().await
    }

    async fn list_files(
        &self,
        _: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        self.0.answer().await
    }

    async fn delete_file(
        &self,
        _: Request<v1::DeleteFileRequest>,
    ) -> Result<Response<v1::DeleteFileResponse>, Status> {
        self.0.answer().await
    }

    async fn rename_file(
        &self,
        _: Request<v1::RenameFileRequest>,
    ) -> Result<Response<v1::RenameFileResponse>, Status> {
        self.0.answer().await
    }

    async fn copy_file(
        &self,
        _: Request<v1::CopyFileRequest>,
    ) -> Result<Response<v1::CopyFileResponse>, Status> {
        self.0.answer().await
    }

    async fn get_usage(
        &self,
        _: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        self.0.answer().await
    }

    async fn select_files(
        &self,
        _: Request<v1::SelectFilesRequest>,
    ) -> Result<Response<v1::SelectFilesResponse>, Status> {
        self.0.answer().await
    }
}

/// A running server. Dropping it cuts all its connections, as a kill does.
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    pub(crate) manners: Arc<Manners>,
    pub(crate) health: HealthHandle,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinSet<()>,
}

impl Peer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let manners = Arc::<Manners>::default();
        let options = ServerOptions {
            drain: PATIENCE,
            role: "fake",
            verifier: Verifier::new(&secret()),
            reflection: false,
            metrics: MeshMetrics::default(),
        };
        let server = GrpcServer::new(options).await.unwrap();
        let health = server.health();
        health.set_serving(true).await;
        let server = server.add_service(NamespaceServer::new(Fake(manners.clone())));
        let (stop, stopped) = oneshot::channel();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            server
                .serve(listener, async { drop(stopped.await) })
                .await
                .unwrap();
        });
        Self {
            addr,
            manners,
            health,
            stop: Some(stop),
            serving,
        }
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
    pub(crate) fn new<'a>(targets: impl IntoIterator<Item = &'a Target>) -> Self {
        let mut registry = Registry::with_prefix("cstore");
        let metrics = MeshMetrics::register(&mut registry);
        let options = ClientOptions::new(
            "test",
            Signer::new(&secret(), cstore_proto::Caller::Operator),
            metrics,
        );
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
