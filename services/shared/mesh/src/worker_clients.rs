//! Clients of workers, by address.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::channel::{ClientOptions, GrpcChannel, MeshError, channel};
use crate::server::MAX_MESSAGE_BYTES;

/// Channels that are kept; when there are more addresses, all are forgotten and made again.
const MAX_CHANNELS: usize = 256;

/// The generated client of a worker.
pub type TransferClient = cstore_proto::v1::transfer_client::TransferClient<GrpcChannel>;

/// Channels to workers, made when they are first needed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerClients {
    options: ClientOptions,
    channels: Arc<Mutex<HashMap<String, GrpcChannel>>>,
}

impl WorkerClients {
    /// No channels yet.
    pub fn new(options: ClientOptions) -> Self {
        Self { options, channels: Arc::default() }
    }

    /// A client of the worker at `addr` (host:port).
    ///
    /// # Errors
    /// [`MeshError`] when it is no address.
    pub fn to(&self, addr: &str) -> Result<TransferClient, MeshError> {
        let mut channels = self.channels.lock();
        if channels.len() >= MAX_CHANNELS && !channels.contains_key(addr) {
            channels.clear();
        }
        let channel = match channels.get(addr) {
            Some(channel) => channel.clone(),
            None => channels.entry(addr.to_owned()).or_insert(channel(addr, &self.options)?).clone(),
        };
        Ok(TransferClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }
}
