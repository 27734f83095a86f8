//! The storage node: one virtual disk of fixed capacity behind the framed protocol.
