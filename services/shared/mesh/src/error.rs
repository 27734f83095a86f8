//! The one error of the mesh.

/// Reasons why the mesh cannot be built or served.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The address is not host:port.
    #[error("address {addr:?} is not host:port: {why}")]
    Address {
        /// The address.
        addr: String,
        /// The part that is wrong.
        why: &'static str,
    },
    /// The address cannot be part of a URI.
    #[error("address {addr:?} cannot be used")]
    Endpoint {
        /// The address.
        addr: String,
        /// The rule of URIs that the address breaks.
        source: tonic::transport::Error,
    },
    /// The server ended with an error.
    #[error("gRPC server")]
    Serve(#[from] tonic::transport::Error),
    /// The descriptors cannot be read: a defect of the build.
    #[error("gRPC reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}
