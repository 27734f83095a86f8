//! Plays the gateway: the same calls over the same mesh, the same way to settle an upload whose
//! outcome is unknown.

mod end;
mod writes;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use cstore_mesh::{
    Attempts, Class, ClientOptions, Discovery, Endpoints, MasterClient, RoleMetrics, Service,
    Target, WorkerClients,
};
use cstore_node::shutdown::spawn;
use cstore_proto::v1::download_response::Message;
use cstore_proto::{Caller, Signer, code_of, v1};
use cstore_types::ErrorCode;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::book::{BodyId, Book};
use crate::cluster;
use crate::faults::CutOff;
use crate::io::Resets;

/// Names that one client writes alone, and names that all create.
const OWN_NAMES: u32 = 8;

const SHARED_NAMES: u32 = 4;

/// After the heal everything must work again within this.
pub(crate) const HEAL: Duration = Duration::from_secs(30);

/// A lease that ended is seen within this.
const SLACK: Duration = Duration::from_millis(500);

const READ_TIMEOUT: Duration = Duration::from_secs(3);

const PAUSE: Duration = Duration::from_millis(100);

/// Progress of the run, for all clients.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Clients that have seen the cluster ready for the first time.
    pub(crate) began: usize,
    /// Time at which the last fault was over. `None` before.
    pub(crate) healed: Option<Duration>,
    /// Clients that know the outcome of all their uploads.
    pub(crate) settled: usize,
    /// Clients that are done.
    pub(crate) done: usize,
}

/// State that all clients share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) book: Rc<RefCell<Book>>,
    pub(crate) progress: Rc<RefCell<Progress>>,
    pub(crate) cut_off: CutOff,
    pub(crate) resets: Resets,
    pub(crate) clients: usize,
}

/// A client in the simulation.
pub(crate) struct Client {
    id: String,
    rng: StdRng,
    shared: Shared,
    master: MasterClient,
    workers: WorkerClients,
    /// Uploads whose outcome nobody has said yet.
    open: Vec<(String, BodyId, v1::Ticket)>,
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// Follows the master's view, as the gateway does.
async fn follow(master: MasterClient, workers: watch::Sender<Endpoints>) {
    loop {
        if let Ok(mut views) = master.watch_map(v1::WatchMapRequest::default()).await {
            while let Ok(Some(view)) = views.message().await {
                let class = |node: &v1::Node| match node.state() {
                    v1::NodeState::Ready => Some(Class::Whole),
                    v1::NodeState::NotReady => Some(Class::Partial),
                    _ => None,
                };
                let found = view
                    .nodes
                    .iter()
                    .filter(|node| node.role() == v1::Role::Worker);
                let found =
                    found.filter_map(|node| Some((Target::new(node.addr.clone()), class(node)?)));
                workers.send_replace(found.collect());
            }
        }
        sleep(PAUSE).await;
    }
}

impl Client {
    /// Makes a client of the cluster; its background tasks belong to its host.
    pub(crate) fn new(
        id: String,
        rng: StdRng,
        master: std::net::IpAddr,
        shared: Shared,
    ) -> Result<Self, cstore_mesh::MeshError> {
        let signer = Signer::new(&cstore_testkit::secret(), Caller::Gateway);
        let options = ClientOptions {
            dial: shared.resets.dial(&id),
            ..ClientOptions::new("gateway", signer, RoleMetrics::default().mesh)
        };
        let found = Discovery::of(&cluster::master_addr(master).to_string())?;
        let (service, manager) = Service::new("master", found, &options);
        drop(spawn("endpoints of the master", manager.run()));
        let master = MasterClient::new(&service);
        let (sender, members) = watch::channel(Endpoints::new());
        let (service, manager) = Service::new("worker", Discovery::Members(members), &options);
        drop(spawn("endpoints of the workers", manager.run()));
        drop(spawn("view", follow(master.clone(), sender)));
        Ok(Self {
            id,
            rng,
            shared,
            master,
            workers: WorkerClients::new(service),
            open: Vec::new(),
        })
    }

    fn say(&self, what: &str) {
        let line = format!("{:>6} {} {what}", now().as_millis(), self.id);
        self.shared.book.borrow_mut().say(line);
    }

    fn violated(&self, what: String) {
        let line = format!("{} at {} ms: {what}", self.id, now().as_millis());
        self.shared.book.borrow_mut().violated(line);
    }

    /// Runs the client from its start to its end.
    pub(crate) async fn run(mut self) -> turmoil::Result {
        while !self.all_ready().await {
            sleep(PAUSE).await;
        }
        self.say("sees the cluster ready");
        self.shared.progress.borrow_mut().began += 1;
        while self.shared.progress.borrow().healed.is_none() {
            self.step().await;
            sleep(Duration::from_millis(self.rng.random_range(0..60))).await;
        }
        self.recover().await;
        self.shared.progress.borrow_mut().settled += 1;
        self.wait_for("all clients to settle", |progress, clients| {
            progress.settled == clients
        })
        .await;
        self.verify().await;
        self.tidy_up().await;
        self.verify().await;
        self.say("is done");
        self.shared.progress.borrow_mut().done += 1;
        Ok(())
    }

    fn own_name(&mut self) -> String {
        format!("{}/{}", self.id, self.rng.random_range(0..OWN_NAMES))
    }

    /// Returns a name of the client's own that holds something for certain, if there is one.
    fn full_name(&mut self) -> String {
        let book = self.shared.book.borrow();
        let full = |n: &u32| matches!(book.certain(&format!("{}/{n}", self.id)), Some(Some(_)));
        let full: Vec<u32> = (0..OWN_NAMES).filter(full).collect();
        drop(book);
        match full.choose(&mut self.rng) {
            Some(n) => format!("{}/{n}", self.id),
            None => self.own_name(),
        }
    }

    fn shared_name(&mut self) -> String {
        format!("shared/{}", self.rng.random_range(0..SHARED_NAMES))
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..20) {
            0..=5 => {
                let (name, overwrite) = (self.own_name(), self.rng.random_bool(0.5));
                self.put(&name, overwrite, false).await;
            }
            6..=8 => {
                let name = self.shared_name();
                self.put(&name, false, true).await;
            }
            9..=11 => {
                let name = self.full_name();
                self.delete(&name).await;
            }
            12 => {
                let (from, to) = (self.full_name(), self.own_name());
                self.rename(&from, &to).await;
            }
            13 => {
                let (from, to) = (self.full_name(), self.own_name());
                self.copy(&from, &to).await;
            }
            14 | 15 => {
                let name = self.own_name();
                drop(self.get(&name).await);
            }
            16 => {
                let name = self.shared_name();
                drop(self.get(&name).await);
            }
            17 => self.settle().await,
            _ => drop(self.all_ready().await),
        }
    }

    /// Reads a name and enters what it saw; an error when the cluster could not say.
    async fn get(&mut self, name: &str) -> Result<(), Status> {
        let winner = self.shared.book.borrow().winner(name);
        let read = timeout(READ_TIMEOUT, self.download(name)).await;
        let read = read.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        match read {
            Ok(bytes) => {
                self.say(&format!(
                    "read {name}: {:?}",
                    bytes.as_ref().map(|bytes| BodyId::of(bytes))
                ));
                self.shared
                    .book
                    .borrow_mut()
                    .read(name, winner, bytes.as_deref());
                Ok(())
            }
            Err(status) => {
                self.say(&format!("did not read {name}: {}", status.message()));
                if code_of(&status) == ErrorCode::DataLoss {
                    self.violated(format!("{name} is lost: {}", status.message()));
                }
                Err(status)
            }
        }
    }

    async fn download(&self, name: &str) -> Result<Option<Vec<u8>>, Status> {
        let request = v1::GetFileRequest {
            name: name.to_owned(),
            tenant: String::new(),
        };
        let root = match self.master.get_file(request).await {
            Ok(found) => found.recipe_root,
            Err(status) if code_of(&status) == ErrorCode::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        let request = v1::DownloadRequest {
            recipe_root: root,
            offset: 0,
            length: 0,
        };
        let request = Attempts::default().request(request);
        let mut messages = self.workers.any().download(request).await?.into_inner();
        let mut bytes = Vec::new();
        loop {
            match messages
                .message()
                .await?
                .and_then(|response| response.message)
            {
                Some(Message::Chunk(chunk)) => bytes.extend(chunk),
                Some(Message::End(end)) if end.length == bytes.len() as u64 => {
                    return Ok(Some(bytes));
                }
                Some(Message::End(_)) | None => return Err(Status::unavailable("it was cut")),
            }
        }
    }

    /// Returns true if the master's view shows every node ready. Reports nodes that it takes for
    /// ready although they are not.
    async fn all_ready(&mut self) -> bool {
        let asked = now();
        let Ok(view) = self.master.list_nodes(v1::ListNodesRequest {}).await else {
            return false;
        };
        let ready = view
            .nodes
            .iter()
            .filter(|node| node.state() == v1::NodeState::Ready);
        for node in ready.clone() {
            self.check_is_live(&node.addr, asked, "sees ready");
        }
        view.waiting_for.is_empty() && ready.count() == cluster::WORKERS + cluster::STORAGES
    }

    /// Checks that the master does not name a node that had been cut off from it for longer than
    /// its lease when the call began.
    fn check_is_live(&self, addr: &str, asked: Duration, what: &str) {
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        let Ok(ip) = host.parse::<std::net::IpAddr>() else {
            return;
        };
        let Some(node) = turmoil::reverse_lookup(ip) else {
            return;
        };
        let since = self.shared.cut_off.borrow().get(&node).copied();
        if let Some(since) = since.filter(|since| *since + cluster::LEASE + SLACK < asked) {
            let off = asked.saturating_sub(since).as_millis();
            self.violated(format!(
                "{what} {node}, which the master has not heard of for {off} ms"
            ));
        }
    }

    async fn wait_for(&self, what: &str, is: impl Fn(&Progress, usize) -> bool) {
        let end = now() + HEAL;
        while !is(&self.shared.progress.borrow(), self.shared.clients) {
            if now() > end {
                return self.violated(format!("waited {HEAL:?} for {what}"));
            }
            sleep(PAUSE).await;
        }
    }
}
