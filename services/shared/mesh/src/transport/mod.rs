//! Connections: how one is made, accepted and secured, and the channel of gRPC over it.

pub(crate) mod channel;
pub(crate) mod credentials;
pub(crate) mod dial;
pub(crate) mod head_first;
pub(crate) mod io;
pub(crate) mod local;
pub(crate) mod local_grpc;
pub(crate) mod role_io;
pub(crate) mod tls;
