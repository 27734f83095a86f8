//! Limits of the log that do not depend on its options.

use std::time::Duration;

cstore_types::limits! {
    /// Recycled files that are kept for the next segment. More are removed.
    pub(crate) count MAX_SPARE_FILES: usize = 2;
    /// Room that a file of more than standard size gets beyond the group that it is made for. The
    /// small groups that follow fill it; then the next file begins.
    pub(crate) bytes LARGE_FILE_SLACK: u64 = 32 << 10;
    /// Most buffers of one vectored write (IOV_MAX on Linux). A frame with more takes several
    /// writes.
    pub(crate) count MAX_WRITE_BUFFERS: usize = 1_024;
    /// Most bytes of zeros behind a small frame. The next frames overwrite them, and their syncs wait
    /// for no journal. Fewer behind the first small frames in a row: as many as these have bytes.
    pub(crate) bytes ZERO_AHEAD_BYTES: u64 = 512 << 10;
    /// Longest frame with zeros behind it. The journal is a small part of the sync of longer frames.
    pub(crate) bytes ZERO_AHEAD_FRAME_BYTES: u64 = 64 << 10;
    /// Least number of expected groups for which a frame waits. With fewer callers the wait takes more
    /// time than a shared sync saves.
    pub(crate) count GATHER_LEAST: usize = 4;
    /// Longest wait of a frame for more groups. During a sync that takes longer groups collect anyway.
    pub(crate) time MAX_GATHER: Duration = Duration::from_millis(1);
    /// Attempts to read the same bytes at an open. If the last one fails with an error of the medium,
    /// the bytes count as damaged.
    pub(crate) count READ_ATTEMPTS: usize = 2;
    /// Times the length of a file that its search for frames may read. Beyond it the rest of the file
    /// is a hole.
    pub(crate) count SCAN_FACTOR: u64 = 4;
    /// Blocks of a file that cannot be read, after which it is not searched for frames any more: each may
    /// take the disk seconds. The rest of the file is a hole.
    pub(crate) count MAX_BAD_BLOCKS: usize = 256;
    /// Bytes read first when a file is searched for frames behind one that does not validate. Each
    /// further read of the search takes twice as many, up to `SCAN_BYTES`.
    pub(crate) bytes FIRST_SCAN_BYTES: usize = 16 << 10;
    /// Most bytes read at once when a file is searched for frames behind one that does not validate.
    /// The search goes on with the next as many.
    pub(crate) bytes SCAN_BYTES: usize = 1 << 20;
}
