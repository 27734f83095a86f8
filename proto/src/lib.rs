//! The gRPC contracts of C-Store: generated code, conversions, reflection set.
