//! Workers as the gateway sees them: the one that a ticket names, or whichever has the least to do.
//!
//! Streams take the lower half of the client stack only: nothing but the pipeline knows what of
//! them was acknowledged.

use tonic::Request;
use tower::Layer;

use crate::client::stream::StreamLayer;
use crate::endpoints::history::AttemptHistory;
use crate::endpoints::service::Service;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::transport::channel::GrpcChannel;
use crate::transport::io::Target;

/// The generated client of a worker.
pub type TransferClient = cstore_proto::v1::transfer_client::TransferClient<GrpcChannel>;

/// All workers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerClients(Service);

impl WorkerClients {
    /// The workers of a service.
    pub fn new(service: Service) -> Self {
        Self(service)
    }

    /// Returns a client of the worker at `addr` (host:port). Its calls fail at once if that worker
    /// is known to be down.
    pub fn to(&self, addr: &str) -> TransferClient {
        self.client(self.0.pinned(Target::new(addr)))
    }

    /// Returns a client whose calls go to the worker with the fewest calls in work.
    pub fn any(&self) -> TransferClient {
        self.client(self.0.channel())
    }

    /// Returns true if a call to this worker is worth a try. A worker that is not known yet may be.
    pub fn may_serve(&self, addr: &str) -> bool {
        self.0.may_serve(&Target::new(addr))
    }

    fn client(&self, channel: GrpcChannel) -> TransferClient {
        let counted = StreamLayer::new(self.0.metrics.clone()).layer(channel);
        TransferClient::new(GrpcChannel::new(counted))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// Attempts of one stream that its pipeline starts anew: each goes to a worker that was not tried,
/// if there is one.
#[derive(Debug, Clone, Default)]
pub struct Attempts(AttemptHistory);

impl Attempts {
    /// The request of the next attempt.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(self.0.clone());
        request
    }
}
