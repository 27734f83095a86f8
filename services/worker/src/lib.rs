//! The worker: a stateless data mover between gRPC streams and storage frames.
