//! Every tower decision of the gRPC plane.
