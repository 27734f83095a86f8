//! Plays the gateway: the same calls over the same mesh, the same way to settle an upload whose outcome is unknown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use cstore_mesh::{
    Attempts, Class, ClientOptions, Discovery, Endpoints, MasterClient, RoleMetrics, Service, Target,
    WorkerClients,
};
use cstore_node::shutdown::spawn;
use cstore_proto::v1::download_response::Message;
use cstore_proto::v1::write_condition::Condition;
use cstore_proto::{Caller, Signer, code_of, v1};
use cstore_types::ErrorCode;
use futures_util::stream;
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

/// How far the run is, for all clients.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Clients that have seen the cluster ready for the first time.
    pub(crate) began: usize,
    /// Since when nothing is wrong any more.
    pub(crate) healed: Option<Duration>,
    /// Clients that know what became of all their uploads.
    pub(crate) settled: usize,
    /// Clients that are done.
    pub(crate) done: usize,
}

/// What all clients share.
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
                let found = view.nodes.iter().filter(|node| node.role() == v1::Role::Worker);
                let found = found.filter_map(|node| Some((Target::new(node.addr.clone()), class(node)?)));
                workers.send_replace(found.collect());
            }
        }
        sleep(PAUSE).await;
    }
}

impl Client {
    /// A client of the cluster; its background tasks belong to its host.
    pub(crate) fn new(
        id: String,
        rng: StdRng,
        master: std::net::IpAddr,
        shared: Shared,
    ) -> Result<Self, cstore_mesh::MeshError> {
        let signer = Signer::new(&cluster::secret(), Caller::Gateway);
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
        Ok(Self { id, rng, shared, master, workers: WorkerClients::new(service), open: Vec::new() })
    }

    fn say(&self, what: &str) {
        let line = format!("{:>6} {} {what}", now().as_millis(), self.id);
        self.shared.book.borrow_mut().say(line);
    }

    fn violated(&self, what: String) {
        let line = format!("{} at {} ms: {what}", self.id, now().as_millis());
        self.shared.book.borrow_mut().violated(line);
    }

    /// The whole life of a client.
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
        self.wait_for("all clients to settle", |progress, clients| progress.settled == clients).await;
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

    /// A name of its own that holds something for certain, if there is one.
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

    /// Uploads. Shared names and those that are not to be overwritten must be free.
    async fn put(&mut self, name: &str, overwrite: bool, shared: bool) {
        let before = self.shared.book.borrow().certain(name);
        let Some(before) = before.filter(|_| !self.open.iter().any(|(open, ..)| open == name)) else {
            return;
        };
        let condition = if overwrite { Condition::Any(true) } else { Condition::Absent(true) };
        let condition = v1::WriteCondition { condition: Some(condition) };
        let request = v1::BeginUploadRequest {
            name: name.to_owned(),
            condition: Some(condition.clone()),
            count: 1,
            ..v1::BeginUploadRequest::default()
        };
        let must_be_free = !overwrite && !shared;
        let asked = now();
        let ticket = match self.master.begin_upload(request).await {
            Ok(answer) => answer.tickets.into_iter().next(),
            Err(status) => {
                self.say(&format!("may not put {name}: {}", status.message()));
                if must_be_free && before.is_none() && code_of(&status) == ErrorCode::AlreadyExists {
                    self.violated(format!("{name} is taken by nothing that was acknowledged"));
                }
                return;
            }
        };
        let Some(ticket) = ticket else { return self.violated("no ticket came".to_owned()) };
        if must_be_free && before.is_some() {
            return self.violated(format!("{name} is taken, and a ticket came for it"));
        }
        self.check_is_live(&ticket.worker_addr, asked, "got a ticket for");
        let body = self.shared.book.borrow_mut().send(name, shared);
        let patience = Duration::from_millis(self.rng.random_range(20..6_000));
        let small = self.rng.random_bool(0.7);
        let sent = timeout(patience, self.send(name, condition, &ticket, body, small)).await;
        match sent {
            Ok(Ok(())) => {
                self.say(&format!("put {name} {body:?}"));
                self.shared.book.borrow_mut().committed(name, body);
            }
            Ok(Err(status)) if is_refusal(code_of(&status)) => {
                self.say(&format!("put {name} {body:?} refused: {}", status.message()));
                self.shared.book.borrow_mut().never(name, body);
                if !shared && code_of(&status) == ErrorCode::AlreadyExists {
                    self.violated(format!("{name} was free and is said to be taken"));
                }
            }
            failed => {
                let why = failed.map_or_else(
                    |_| "no patience".to_owned(),
                    |sent| sent.map_or_else(|status| status.to_string(), |()| String::new()),
                );
                self.say(&format!("put {name} {body:?} unknown: {why}"));
                self.open.push((name.to_owned(), body, ticket));
                if self.rng.random_bool(0.7) {
                    self.settle().await;
                }
            }
        }
    }

    async fn send(
        &self,
        name: &str,
        condition: v1::WriteCondition,
        ticket: &v1::Ticket,
        body: BodyId,
        small: bool,
    ) -> Result<(), Status> {
        let header = v1::UploadHeader {
            ticket: Some(ticket.clone()),
            name: name.to_owned(),
            condition: Some(condition),
            ..v1::UploadHeader::default()
        };
        let bytes = Bytes::from(body.bytes());
        let crc32c = crc32c::crc32c(&bytes);
        let mut worker = self.workers.to(&ticket.worker_addr);
        if small {
            let request = v1::PutSmallRequest { header: Some(header), body: bytes, crc32c };
            worker.put_small(request).await?;
        } else {
            use v1::upload_request::Message::{Chunk, Finish, Header};
            let length = bytes.len() as u64;
            let rest = bytes.slice(bytes.len() / 2..);
            let messages = [
                Header(header),
                Chunk(bytes.slice(..bytes.len() / 2)),
                Chunk(rest),
                Finish(v1::UploadFinish { length, crc32c }),
            ];
            let request = |message| v1::UploadRequest { message: Some(message) };
            worker.upload(stream::iter(messages.map(request))).await?;
        }
        Ok(())
    }

    /// Asks the master to end the uploads whose outcome is unknown; its answer says what became of them.
    async fn settle(&mut self) {
        for (name, body, ticket) in std::mem::take(&mut self.open) {
            let request = v1::AbortUploadRequest { ticket: Some(ticket.clone()) };
            match self.master.abort_upload(request).await {
                Ok(answer) => {
                    self.say(&format!("settled {name} {body:?}: committed {}", answer.committed));
                    let mut book = self.shared.book.borrow_mut();
                    if answer.committed {
                        book.committed(&name, body);
                    } else {
                        book.never(&name, body);
                    }
                }
                Err(status) => {
                    self.say(&format!("did not settle {name} {body:?}: {}", status.message()));
                    self.open.push((name, body, ticket));
                }
            }
        }
    }

    async fn delete(&mut self, name: &str) {
        let Some(before) = self.shared.book.borrow().certain(name) else { return };
        let request = v1::DeleteFileRequest { name: name.to_owned(), ..v1::DeleteFileRequest::default() };
        let answer = self.master.delete_file(request).await.map(drop);
        let known = self.judge(&format!("delete {name}"), &answer, before.is_some(), true);
        let mut book = self.shared.book.borrow_mut();
        match known {
            Some(true) => book.changed(name, None),
            Some(false) => {}
            None => book.uncertain(name, None),
        }
    }

    async fn rename(&mut self, from: &str, to: &str) {
        let Some((body, target)) = self.two(from, to) else { return };
        let request = v1::RenameFileRequest {
            from: from.to_owned(),
            to: to.to_owned(),
            ..v1::RenameFileRequest::default()
        };
        let answer = self.master.rename_file(request).await.map(drop);
        let what = format!("rename {from} {to}");
        let known = self.judge(&what, &answer, body.is_some(), target.is_none());
        let mut book = self.shared.book.borrow_mut();
        match known {
            Some(true) => {
                book.changed(to, body);
                book.changed(from, None);
            }
            Some(false) => {}
            None => {
                book.uncertain(to, body);
                book.uncertain(from, None);
            }
        }
    }

    async fn copy(&mut self, from: &str, to: &str) {
        let Some((body, target)) = self.two(from, to) else { return };
        let request = v1::CopyFileRequest {
            from: from.to_owned(),
            to: to.to_owned(),
            ..v1::CopyFileRequest::default()
        };
        let answer = self.master.copy_file(request).await.map(drop);
        let known = self.judge(&format!("copy {from} {to}"), &answer, body.is_some(), target.is_none());
        let mut book = self.shared.book.borrow_mut();
        match known {
            Some(true) => book.changed(to, body),
            Some(false) => {}
            None => book.uncertain(to, body),
        }
    }

    /// What two different names hold for certain.
    fn two(&self, from: &str, to: &str) -> Option<(Option<BodyId>, Option<BodyId>)> {
        let book = self.shared.book.borrow();
        (from != to).then(|| Some((book.certain(from)?, book.certain(to)?)))?
    }

    /// Whether a change of names was done; `None` when nobody can say. An answer that says something must be right.
    fn judge(&self, what: &str, answer: &Result<(), Status>, there: bool, free: bool) -> Option<bool> {
        let code = answer.as_ref().err().map(code_of);
        self.say(&format!("{what}: {}", code.map_or("done", ErrorCode::as_str)));
        let (right, done) = match code {
            None => (there && free, Some(true)),
            Some(ErrorCode::NotFound) => (!there, Some(false)),
            Some(ErrorCode::AlreadyExists) => (!free, Some(false)),
            Some(_) => (true, None),
        };
        if !right {
            self.violated(format!(
                "{what} answered {code:?}, but the source was there: {there}, the target free: {free}"
            ));
        }
        done
    }

    /// Reads a name and enters what it saw; an error when the cluster could not say.
    async fn get(&mut self, name: &str) -> Result<(), Status> {
        let winner = self.shared.book.borrow().winner(name);
        let read = timeout(READ_TIMEOUT, self.download(name)).await;
        let read = read.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        match read {
            Ok(bytes) => {
                self.say(&format!("read {name}: {:?}", bytes.as_ref().map(|bytes| BodyId::of(bytes))));
                self.shared.book.borrow_mut().read(name, winner, bytes.as_deref());
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
        let request = v1::GetFileRequest { name: name.to_owned(), tenant: String::new() };
        let root = match self.master.get_file(request).await {
            Ok(found) => found.recipe_root,
            Err(status) if code_of(&status) == ErrorCode::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        let request = v1::DownloadRequest { recipe_root: root, offset: 0, length: 0 };
        let request = Attempts::default().request(request);
        let mut messages = self.workers.any().download(request).await?.into_inner();
        let mut bytes = Vec::new();
        loop {
            match messages.message().await?.and_then(|response| response.message) {
                Some(Message::Chunk(chunk)) => bytes.extend(chunk),
                Some(Message::End(end)) if end.length == bytes.len() as u64 => return Ok(Some(bytes)),
                Some(Message::End(_)) | None => return Err(Status::unavailable("it was cut")),
            }
        }
    }

    /// Whether the master's view shows every node ready; enters nodes that it takes for ready and that are not.
    async fn all_ready(&mut self) -> bool {
        let asked = now();
        let Ok(view) = self.master.list_nodes(v1::ListNodesRequest {}).await else { return false };
        let ready = view.nodes.iter().filter(|node| node.state() == v1::NodeState::Ready);
        for node in ready.clone() {
            self.check_is_live(&node.addr, asked, "sees ready");
        }
        view.waiting_for.is_empty() && ready.count() == cluster::WORKERS + cluster::STORAGES
    }

    /// A node that was cut off from the master for longer than its lease, when the call began, is not to be named.
    fn check_is_live(&self, addr: &str, asked: Duration, what: &str) {
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        let Ok(ip) = host.parse::<std::net::IpAddr>() else { return };
        let Some(node) = turmoil::reverse_lookup(ip) else { return };
        let since = self.shared.cut_off.borrow().get(&node).copied();
        if let Some(since) = since.filter(|since| *since + cluster::LEASE + SLACK < asked) {
            let off = asked.saturating_sub(since).as_millis();
            self.violated(format!("{what} {node}, which the master has not heard of for {off} ms"));
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

    /// I12: after the faults uploads succeed and all nodes are ready within bounds, and every outcome can be learned.
    async fn recover(&mut self) {
        let healed = self.shared.progress.borrow().healed.unwrap_or_default();
        let mut missing: BTreeMap<&str, bool> =
            ["an upload", "all nodes ready", "every outcome"].into_iter().map(|what| (what, true)).collect();
        let mut tries = 0;
        while missing.values().any(|missing| *missing) {
            if now() > healed + HEAL {
                let missing: Vec<_> = missing.iter().filter(|(_, missing)| **missing).collect();
                return self.violated(format!("{HEAL:?} after the heal there is not: {missing:?}"));
            }
            if missing["an upload"] {
                tries += 1;
                let name = format!("{}/after-{tries}", self.id);
                self.put(&name, false, false).await;
                let there = matches!(self.shared.book.borrow().certain(&name), Some(Some(_)));
                missing.insert("an upload", !there);
            }
            missing.insert("all nodes ready", !self.all_ready().await);
            self.settle().await;
            missing.insert("every outcome", !self.open.is_empty());
            sleep(PAUSE).await;
        }
        self.say(&format!("recovered {} ms after the heal", (now().saturating_sub(healed)).as_millis()));
    }

    /// I1, I2: everything is read again.
    async fn verify(&mut self) {
        let names = self.shared.book.borrow().names();
        let mine = |name: &String| name.starts_with("shared/") || name.starts_with(&format!("{}/", self.id));
        let names: Vec<String> = names.into_iter().filter(mine).collect();
        for name in names {
            let mut tries = 0;
            while let Err(status) = self.get(&name).await {
                tries += 1;
                if tries == 5 {
                    return self.violated(format!("{name} cannot be read after the heal: {status}"));
                }
                sleep(PAUSE).await;
            }
        }
        let request = v1::ListFilesRequest::default();
        match self.master.list_files(request).await {
            Ok(found) => {
                let known = self.shared.book.borrow().names();
                for file in found.files.iter().filter(|file| !known.contains(&file.name)) {
                    self.violated(format!("{} is listed, and nobody made it", file.name));
                }
            }
            Err(status) => self.violated(format!("nothing can be listed after the heal: {status}")),
        }
    }

    /// I4: half of the own names go, their space is given back, and the other half must not miss a block.
    async fn tidy_up(&mut self) {
        for n in 0..OWN_NAMES / 2 {
            let name = format!("{}/{n}", self.id);
            self.delete(&name).await;
        }
        let end = now() + HEAL;
        loop {
            let usage = self.master.get_usage(v1::GetUsageRequest::default()).await;
            if usage.is_ok_and(|usage| usage.pending_releases == 0) {
                return;
            }
            if now() > end {
                return self.violated(format!("releases are not done after {HEAL:?}"));
            }
            sleep(PAUSE).await;
        }
    }
}

/// Whether an upload's answer says that it did not and will not happen.
const fn is_refusal(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::AlreadyExists
            | ErrorCode::PreconditionFailed
            | ErrorCode::InvalidArgument
            | ErrorCode::NotFound
    )
}
