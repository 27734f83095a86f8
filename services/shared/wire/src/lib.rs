//! The framed protocol between worker and storage.
