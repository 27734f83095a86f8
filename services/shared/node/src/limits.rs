//! Limits of what every process does: telemetry, the admin port, accepted connections, the stop.

use std::time::Duration;

cstore_types::limits! {
    /// Default time that running work may take to its end at a stop (CSTORE_DRAIN_TIMEOUT_MS). What
    /// runs longer is cut off.
    pub(crate) time DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
    /// Default first pause between tries at the start of a role (CSTORE_RETRY_STEP). Grows with
    /// each try.
    pub time DEFAULT_RETRY_STEP: Duration = Duration::from_millis(250);
    /// Pauses at the start of a role that grow. After as many failures the pause stays as it is,
    /// and the role reports that it is not ready.
    pub count GROWING_TRIES: u32 = 12;

    /// First pause after a connection could not be accepted because this process lacks descriptors
    /// or memory. Doubles with each failure.
    pub(crate) time MIN_ACCEPT_PAUSE: Duration = Duration::from_millis(10);
    /// Longest pause of that kind. It is repeated until accepting works again.
    pub(crate) time MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

    /// Most connections to the admin port at a time. More wait in the kernel's queue.
    pub(crate) count ADMIN_CONNECTIONS: usize = 64;
    /// Time in which a client of the admin port must send the head of its request. A slower one is
    /// disconnected.
    pub(crate) time ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
    /// Time that running requests to the admin port may take at a stop. They are cut off then.
    pub(crate) time ADMIN_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

    /// Finished spans that wait for their export. More are dropped.
    pub(crate) count SPAN_QUEUE: usize = 2_048;
    /// Longest wait for the trace collector to take one batch of spans. The batch is lost then.
    pub(crate) time EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
    /// Longest wait for the last spans at a stop. The process ends without them then.
    pub(crate) time FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
}
