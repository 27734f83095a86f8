//! This worker's view of the cluster: identity, placement, and a live connection to each storage
//! node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cstore_mesh::member::Membership;
use cstore_mesh::{Dial, Target};
use cstore_node::backoff::Backoff;
use cstore_node::shutdown::{Shutdown, spawn};
use cstore_types::{
    BlockId, ClusterUuid, DedupKey, ErrorCode, Fault, FrameKey, MapVersion, NodeId, Placement,
    error_chain,
};
use cstore_wire::{ClientConfig, ClientError, Connection, Disconnect, LocalNode};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::hashing::HashingService;
use crate::limits::{HANDSHAKE_DEADLINE, PROGRESS_DEADLINE};

/// Addresses of the storage nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) placement: Option<Arc<Placement>>,
    pub(crate) addrs: HashMap<NodeId, String>,
}

/// One storage node.
#[derive(Debug)]
struct Link {
    connection: watch::Receiver<Option<Connection>>,
}

/// Connections to all storage nodes of the map. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Stores {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    membership: Membership,
    node: NodeId,
    frame_key: FrameKey,
    retry_step: Duration,
    dial: Dial,
    shutdown: Shutdown,
    view: watch::Receiver<View>,
    links: Mutex<HashMap<NodeId, Arc<Link>>>,
    hashing: HashingService,
}

impl Stores {
    pub(crate) fn new(
        membership: Membership,
        node: NodeId,
        frame_key: FrameKey,
        retry_step: Duration,
        dial: Dial,
        view: watch::Receiver<View>,
        shutdown: Shutdown,
    ) -> Self {
        let links = Mutex::default();
        let hashing = HashingService::new(membership.key.clone());
        Self {
            inner: Arc::new(Inner {
                membership,
                node,
                frame_key,
                retry_step,
                dial,
                shutdown,
                view,
                links,
                hashing,
            }),
        }
    }

    pub(crate) fn key(&self) -> &DedupKey {
        &self.inner.membership.key
    }

    /// Returns the service that hashes blocks with the key of the cluster, for all uploads.
    pub(crate) fn hashing(&self) -> &HashingService {
        &self.inner.hashing
    }

    pub(crate) fn cluster(&self) -> ClusterUuid {
        self.inner.membership.cluster
    }

    /// The map that is known now.
    pub(crate) fn placement(&self) -> Result<Arc<Placement>, Fault> {
        let missing = || Fault::new(ErrorCode::Unavailable, "placement map is not known yet");
        self.inner
            .view
            .borrow()
            .placement
            .clone()
            .ok_or_else(missing)
    }

    /// A live connection to a node; waits that long for one that is away.
    pub(crate) async fn connection(
        &self,
        node: &NodeId,
        patience: Duration,
    ) -> Result<Connection, Fault> {
        let link = self.link(node);
        let mut connection = link.connection.clone();
        let live =
            connection.wait_for(|found| found.as_ref().is_some_and(|found| !found.is_closed()));
        let away = || {
            Fault::new(
                ErrorCode::Unavailable,
                format!("storage node {node} is away"),
            )
        };
        match timeout(patience, live).await {
            Ok(Ok(found)) => found.clone().ok_or_else(away),
            _ => Err(away()),
        }
    }

    /// Opens links to all nodes of the map; says which are not connected.
    pub(crate) fn away(&self) -> Vec<String> {
        let Ok(placement) = self.placement() else {
            return vec!["placement map is not known yet".to_owned()];
        };
        let is_away = |node: &NodeId| {
            let link = self.link(node);
            let found = link.connection.borrow();
            found.as_ref().is_none_or(Connection::is_closed)
        };
        let nodes = placement.nodes().iter().map(|node| &node.id);
        nodes
            .filter(|node| is_away(node))
            .map(|node| format!("storage node {node} is not connected"))
            .collect()
    }

    fn link(&self, node: &NodeId) -> Arc<Link> {
        let mut links = self.inner.links.lock();
        if let Some(link) = links.get(node) {
            return link.clone();
        }
        let (sender, connection) = watch::channel(None);
        spawn(
            "storage link",
            keep_connected(self.inner.clone(), node.clone(), sender),
        );
        let link = Arc::new(Link { connection });
        links.insert(node.clone(), link.clone());
        link
    }
}

/// Connects, waits until the connection is gone, connects again; for ever, with linear back-off.
async fn keep_connected(
    inner: Arc<Inner>,
    node: NodeId,
    connection: watch::Sender<Option<Connection>>,
) {
    let config = ClientConfig {
        key: inner.frame_key.clone(),
        cluster: inner.membership.cluster,
        node: inner.node.clone(),
        expect: node.clone(),
        handshake_deadline: HANDSHAKE_DEADLINE,
        progress_deadline: PROGRESS_DEADLINE,
    };
    let mut backoff = Backoff::new(inner.retry_step, None);
    let mut view = inner.view.clone();
    while !inner.shutdown.is_triggered() {
        let addr = view.borrow_and_update().addrs.get(&node).cloned();
        let attempt = match &addr {
            Some(addr) => connect(&inner.dial, addr, &config)
                .await
                .map_err(Fault::from),
            None => Err(Fault::new(ErrorCode::Unavailable, "address is not known")),
        };
        match attempt {
            Ok(found) => {
                tracing::info!(storage = %node, store = %found.store(), "storage node is connected");
                backoff.reset();
                connection.send_replace(Some(found.clone()));
                tokio::select! {
                    biased;
                    () = found.closed() => {}
                    () = inner.shutdown.triggered() => return,
                }
                connection.send_replace(None);
                tracing::warn!(storage = %node, "connection to storage node is gone");
            }
            Err(error) => {
                let (error, tries) = (error_chain(&error), backoff.tries());
                tracing::info!(storage = %node, %error, tries, "storage node is away");
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                    changed = view.changed() => if changed.is_err() { return },
                    () = inner.shutdown.triggered() => return,
                }
            }
        }
    }
}

/// Connects to the storage node at `addr`: without a connection if it is a role of this process.
async fn connect(
    dial: &Dial,
    addr: &str,
    config: &ClientConfig,
) -> Result<Connection, ClientError> {
    let local = dial.local();
    if !local.has(addr) {
        return Connection::connect(dial.connect(Target::new(addr)), config).await;
    }
    match local.find::<LocalNode>(addr) {
        Some(node) => Connection::to_local(&node, config),
        None => Err(Disconnect::Closed.into()),
    }
}

/// The map of one transfer: it does not change meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) stores: Stores,
    pub(crate) placement: Arc<Placement>,
}

impl Route {
    pub(crate) fn new(stores: &Stores) -> Result<Self, Fault> {
        Ok(Self {
            stores: stores.clone(),
            placement: stores.placement()?,
        })
    }

    pub(crate) fn version(&self) -> MapVersion {
        self.placement.version()
    }

    /// Returns all storage nodes of the map.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.placement.nodes().iter().map(|node| &node.id)
    }

    /// Returns the storage node that holds a block.
    pub(crate) fn node_of(&self, id: &BlockId) -> &NodeId {
        &self.placement.node_of(id).id
    }

    /// Sorts items by the storage node of their block. Keeps their order; nodes without items are
    /// left out.
    pub(crate) fn by_node<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        id_of: impl Fn(&T) -> BlockId,
    ) -> BTreeMap<&NodeId, Vec<T>> {
        let mut groups: BTreeMap<&NodeId, Vec<T>> = BTreeMap::new();
        for item in items {
            groups
                .entry(self.node_of(&id_of(&item)))
                .or_default()
                .push(item);
        }
        groups
    }
}
