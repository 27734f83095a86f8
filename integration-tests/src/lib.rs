//! Cluster harness, fault proxy and end-to-end tests.
