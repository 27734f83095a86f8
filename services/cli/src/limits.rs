//! Limits of the commands of the program.

use std::time::Duration;

cstore_types::limits! {
    /// Bytes from which a buffer is mapped on its own, and returned to the system when it is freed.
    /// Smaller ones come from arenas. With glibc only.
    pub(crate) bytes MAPPED_BUFFER: u32 = 1 << 20;
    /// Free bytes at the end of an arena from which they are returned to the system. With glibc only.
    pub(crate) bytes ARENA_TRIM: u32 = 2 << 20;
    /// Most nodes of one kind that `cstore dev` starts. More are refused.
    pub(crate) count MAX_DEV_NODES: u16 = 16;
    /// Descriptors that a process needs for itself: standard streams, ports, telemetry, certificates.
    pub(crate) count PROCESS_DESCRIPTORS: u64 = 24;
    /// Descriptors that each role needs beside its shares: its port, connections to other roles, its
    /// files. A storage node keeps six of these open: its two folders, its lock, superblock and
    /// inventory, and a segment that is being made.
    pub(crate) count ROLE_DESCRIPTORS: u64 = 16;
    /// Least descriptors for connections of clients and open segments. A process that may not have
    /// them does not start.
    pub(crate) count MIN_SHARED_DESCRIPTORS: u64 = 16;
    /// Time after which a process with all roles says what it waits for, while it is not ready.
    pub(crate) time READY_PATIENCE: Duration = Duration::from_secs(10);
    /// Time after which a role that is not ready looks whether a master is at CSTORE_MASTER_ADDR. It
    /// warns then if it is something else.
    pub(crate) time MASTER_PATIENCE: Duration = Duration::from_secs(3);
    /// First pause before a role of a process with all roles is started again after its disk failed.
    /// Grows with each failure, up to twelve times as long.
    pub(crate) time RESTART_STEP: Duration = Duration::from_secs(1);
    /// Life of a role after which the pauses before its starts are short again.
    pub(crate) time SETTLED_LIFE: Duration = Duration::from_secs(60);
    /// Time beyond CSTORE_DRAIN_TIMEOUT_MS in which a role must stop. It is aborted then, and the
    /// program fails.
    pub(crate) time STOP_MARGIN: Duration = Duration::from_secs(50);
    /// Longest wait for blocking threads when a role ends. The program ends without them then.
    pub(crate) time ROLE_THREADS_TIMEOUT: Duration = Duration::from_secs(2);
    /// Largest file with the cluster secret. More of it is not read.
    pub(crate) bytes MAX_SECRET_FILE: u64 = 4_096;

    /// Longest life of an operator's bearer: only a new cluster secret revokes one. A longer one is
    /// refused.
    pub(crate) time MAX_BEARER_LIFE: Duration = Duration::from_secs(30 * 24 * 3_600);
    /// Longest life of an API token that has an end: 100 years. A longer one is refused.
    pub(crate) time MAX_TOKEN_LIFE: Duration = Duration::from_secs(100 * 31_557_600);
    /// Years that the CA of `cstore admin certs` is valid. Then all certificates must be made anew.
    pub(crate) count CA_YEARS: u32 = 10;
    /// Time by which clocks of nodes may differ: certificates are valid from this time before they
    /// were made.
    pub(crate) time CLOCK_SKEW: Duration = Duration::from_secs(3_600);
    /// Longest wait for a storage node to accept a doubt. The command fails then, and the node may
    /// still do it.
    pub(crate) time ACCEPT_PATIENCE: Duration = Duration::from_secs(30);
    /// Pause between two looks at whether it has.
    pub(crate) time ACCEPT_POLL_PAUSE: Duration = Duration::from_millis(100);
    /// Longest wait for the answer of an admin port. The command fails then.
    pub(crate) time ADMIN_PORT_TIMEOUT: Duration = Duration::from_secs(3);
    /// Largest answer of an admin port; the metrics of a role are far below. More is not read.
    pub(crate) bytes MAX_ADMIN_ANSWER: u64 = 4 << 20;
    /// Pause between two looks of `cstore admin gc --watch`. It looks again then.
    pub(crate) time GC_WATCH_PAUSE: Duration = Duration::from_secs(2);

    /// Longest look at a port that is no gateway's. What came until then says which protocol it speaks.
    pub(crate) time PROBE_TIMEOUT: Duration = Duration::from_secs(2);
    /// Most bytes of a port that are looked at. More are not read.
    pub(crate) bytes MAX_PROBE_BYTES: u64 = 4 << 10;
    /// Longest wait for a connection to the gateway. The request counts as not sent then, and is
    /// repeated.
    pub(crate) time CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// Time after which an unused connection to the gateway is closed: the gateway may have closed
    /// it, too.
    pub(crate) time CONNECTION_IDLE: Duration = Duration::from_secs(5);
    /// Longest wait for one answer of the gateway: a question about space goes to all storage
    /// nodes. The request fails then.
    pub(crate) time ANSWER_TIMEOUT: Duration = Duration::from_secs(100);
    /// Longest wait for the beginning of an answer. The request fails then.
    pub(crate) time FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
    /// Time without an answer after which a command tells its user that it waits for the gateway.
    pub(crate) time SILENCE_NOTICE: Duration = Duration::from_millis(1_500);
    /// Time without progress after which a transfer is broken off. A gateway may need 90 s from the
    /// last byte of an upload to its answer.
    pub(crate) time STALL_TIMEOUT: Duration = Duration::from_secs(120);
    /// Largest answer that is kept in memory: a page of the longest names needs less, and files of
    /// `cstore smoke` may be large. The request fails beyond it.
    pub(crate) bytes MAX_ANSWER_BYTES: usize = 256 << 20;
    /// Most repeats of one request that --retries allows. More are a usage error.
    pub(crate) count MAX_RETRIES: i64 = 20;
    /// First pause before a request is repeated. Doubles with each one.
    pub(crate) time RETRY_PAUSE: Duration = Duration::from_millis(200);
    /// First pause before a request to a gateway that is away is repeated: it comes back in
    /// seconds, and the usual four repeats wait for 11 to 15 s.
    pub(crate) time AWAY_PAUSE: Duration = Duration::from_secs(1);
    /// Longest pause before a request is repeated, unless the gateway asks for a longer one.
    pub(crate) time MAX_RETRY_PAUSE: Duration = Duration::from_secs(8);
    /// Longest Retry-After of a gateway that is kept to. A longer one counts as this one.
    pub(crate) time MAX_RETRY_AFTER: Duration = Duration::from_secs(10);
    /// Largest file with a token (--token-file). More of it is not read.
    pub(crate) bytes MAX_TOKEN_FILE: u64 = 4_096;

    /// Most transfers at a time that --jobs allows. More are a usage error.
    pub(crate) count MAX_JOBS: u64 = 64;
    /// Failures in a row that concern all files after which a command gives the rest up.
    pub(crate) count HOPELESS_FAILURES: usize = 4;
    /// Names that one request of a list asks for. More take several requests.
    pub(crate) count LIST_PAGE: u64 = 1_000;
    /// Most names that `cstore ls` holds to sort them. It fails if there are more.
    pub(crate) count MAX_SORTED_NAMES: usize = 250_000;
    /// Files up to which `cstore rm -r` on a terminal does not ask. For more it asks, unless --yes
    /// is given.
    pub(crate) count UNASKED_REMOVALS: u64 = 100;
    /// Size from which `cstore put` asks whether the name is taken before it sends the file. A
    /// smaller file is sent at once.
    pub(crate) bytes ASK_BEFORE_PUT: u64 = 1 << 20;
    /// Bytes of a file that an upload reads together. A larger file takes several reads.
    pub(crate) bytes PUT_PIECE: usize = 256 << 10;
    /// Bytes of a file that are read together for its digests. A larger file takes several reads.
    pub(crate) bytes DIGEST_PIECE: usize = 1 << 20;
    /// Longest name of a destination that the name of its part begins with: a longer one has no
    /// room for the suffixes in the 255 bytes of a file system. The part is named after a hash
    /// then.
    pub(crate) bytes MAX_PART_NAME: usize = 230;
    /// Largest note beside the part of a download. More of it is not read, so the note does not
    /// count and the download begins anew.
    pub(crate) bytes MAX_NOTE_BYTES: u64 = 16 << 10;
    /// Longest wait for reads and writes of files when a command ends. The program ends without
    /// them then.
    pub(crate) time FILE_THREADS_TIMEOUT: Duration = Duration::from_millis(500);

    /// Longest wait of `cstore smoke` for one answer. The request counts as failed then.
    pub(crate) time SMOKE_TIMEOUT: Duration = Duration::from_secs(60);
    /// Pause of `cstore smoke` between two looks for something that it waits for. It looks again
    /// then.
    pub(crate) time SMOKE_PAUSE: Duration = Duration::from_millis(250);
    /// Shortest pause of `cstore smoke --load` after a failure, so that a client that is refused
    /// does not hammer.
    pub(crate) time LOAD_FAILURE_PAUSE: Duration = Duration::from_millis(50);
    /// Files that each client of `cstore smoke --load` holds at a time. It removes one for another.
    pub(crate) count LOAD_FILES: usize = 20;
    /// Files that each client holds with --keep, because they are read back later. It removes one
    /// for another.
    pub(crate) count LOAD_KEPT_FILES: usize = 200;
    /// Failures that `cstore smoke` prints one by one. More are only counted.
    pub(crate) count SHOWN_FAILURES: usize = 20;
}
