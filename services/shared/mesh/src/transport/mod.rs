//! Connections: how one is made, accepted and secured, and the channel of gRPC over it.

pub(crate) mod channel;
pub(crate) mod dial;
pub(crate) mod tls;
