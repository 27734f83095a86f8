//! Limits of both ends of a connection between worker and storage node. Those that a role chooses
//! are in `ClientConfig` and `ServerConfig`.

use std::time::Duration;

cstore_types::limits! {
    /// Frames that may wait for the socket of one connection. Whoever sends another one waits.
    pub(crate) count WRITE_QUEUE: usize = 64;
    /// Most frames that one vectored write gathers. More go with the next write.
    pub(crate) count GATHERED_FRAMES: usize = 16;
    /// Granularity in which bytes in flight are counted. Fewer bytes count as this many.
    pub(crate) bytes CREDIT_UNIT: usize = 1_024;
    /// Memory reserved for a payload before its first bytes are received. It grows with what
    /// follows, so an announced length alone costs no memory.
    pub(crate) bytes FIRST_RESERVATION: usize = 64 << 10;
    /// Bytes that one read of a socket may take beyond the frame that is read. Headers and small
    /// frames cost a system call each without it; larger payloads pass it by.
    pub(crate) bytes READ_BUFFER: usize = 16 << 10;

    /// Silence after which a client asks the server by Ping. Must be well below `SILENCE_DEADLINE`.
    pub(crate) time PING_AFTER: Duration = Duration::from_secs(3);
    /// Silence after which a client closes the connection and its requests fail. Longer than a busy
    /// disk holds all answers back.
    pub(crate) time SILENCE_DEADLINE: Duration = Duration::from_secs(12);
    /// Longest wait of a client for the next frame. Never met before the connection counts as
    /// silent, or the deadlines of its requests pass.
    pub(crate) time FRAME_DEADLINE: Duration = Duration::from_secs(3_600);
}
