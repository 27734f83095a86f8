//! The system's own gRPC clients, towards a cluster under test.

use cstore_mesh::{
    ClientOptions, Discovery, MasterClient, MeshMetrics, Service, TransferClient, WorkerClients,
};
use cstore_node::shutdown::spawn;

/// The endpoints of a service at one address; kept in the runtime of the caller.
///
/// # Panics
/// When `addr` is none.
pub fn service(name: &'static str, addr: &str, bearer: &str) -> Service {
    let options = ClientOptions::new("test", bearer, MeshMetrics::default());
    let discovery = Discovery::of(addr).expect("the address is one");
    let (service, keeper) = Service::new(name, discovery, &options).expect("the bearer is printable");
    drop(spawn("endpoints of a test", keeper.run()));
    service
}

/// The master at an address.
///
/// # Panics
/// When `addr` is none.
pub fn master(addr: &str, bearer: &str) -> MasterClient {
    MasterClient::new(&service("master", addr, bearer))
}

/// The worker at an address.
///
/// # Panics
/// When `addr` is none.
pub fn worker(addr: &str, bearer: &str) -> TransferClient {
    WorkerClients::new(service("worker", addr, bearer)).to(addr)
}
