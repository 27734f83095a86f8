//! Sizes that both sides of a connection agree on.

/// Bytes of one message, in both directions. File data travels in chunks far below it. A longer
/// message is refused.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Flow-control window of one stream, in bytes: how far the sender may run ahead of the reader.
pub(crate) const STREAM_WINDOW: u32 = 512 << 10;
/// Flow-control window of one connection, in bytes: the largest that HTTP/2 allows, so that only
/// streams push back. A smaller window would be used up by streams whose readers pause, and no
/// other call over the connection would get its answer.
pub(crate) const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
