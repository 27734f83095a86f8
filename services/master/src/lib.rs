//! The master: names, upload sessions, membership, placement; its log is the truth and sled its index.
