//! The system's own gRPC clients, towards a cluster under test.

use cstore_mesh::{
    ClientOptions, Discovery, MasterClient, MeshMetrics, Service, TransferClient, WorkerClients,
};
use cstore_node::shutdown::spawn;
use cstore_proto::Signer;

/// The endpoints of a service at one address; kept in the runtime of the caller.
///
/// # Panics
/// When `addr` is none.
pub fn service(name: &'static str, addr: &str, signer: &Signer) -> Service {
    let options = ClientOptions::new("test", signer.clone(), MeshMetrics::default());
    let discovery = Discovery::of(addr).expect("the address is one");
    let (service, manager) = Service::new(name, discovery, &options);
    drop(spawn("endpoints of a test", manager.run()));
    service
}

/// The master at an address.
///
/// # Panics
/// When `addr` is none.
pub fn master(addr: &str, signer: &Signer) -> MasterClient {
    MasterClient::new(&service("master", addr, signer))
}

/// The worker at an address.
///
/// # Panics
/// When `addr` is none.
pub fn worker(addr: &str, signer: &Signer) -> TransferClient {
    WorkerClients::new(service("worker", addr, signer)).to(addr)
}
