//! Limits of the gateway: HTTP connections, requests, calls to workers and the master, tokens.

use std::time::Duration;

cstore_types::limits! {
    /// Most bytes of all headers of a request; a name of 1,024 bytes is at most 3 KiB in a path. A
    /// request with more is refused with 431.
    pub(crate) bytes MAX_HEAD_BYTES: usize = 32 << 10;
    /// Most headers of a request. A request with more is refused with 431.
    pub(crate) count MAX_HEADERS: usize = 100;
    /// Memory of an HTTP/1.1 connection for what it has received; hyper needs as much for its first
    /// read. The rest waits in the socket.
    pub(crate) bytes READ_BUFFER: usize = 256 << 10;
    /// Most streams of one HTTP/2 connection at a time. More wait at the client.
    pub(crate) count MAX_H2_STREAMS: u32 = 128;
    /// Flow-control window of one HTTP/2 stream. The client waits when it is used up.
    pub(crate) bytes H2_STREAM_WINDOW: u32 = 1 << 20;
    /// Flow-control window of one HTTP/2 connection. The client waits when it is used up.
    pub(crate) bytes H2_CONNECTION_WINDOW: u32 = 4 << 20;
    /// Silence after which an HTTP/2 connection is asked by a ping. Without an answer it is closed.
    pub(crate) time H2_PING_INTERVAL: Duration = Duration::from_secs(20);

    /// Time over which the waiting for a slow client is measured against CSTORE_MIN_RATE, so that a
    /// client may pause for a while. A client that was slower over it is disconnected.
    pub(crate) time PACE_WINDOW: Duration = Duration::from_secs(30);
    /// Longest time for which a client that was answered before it had sent everything is read on,
    /// so that it sees the answer and not a reset. Then the connection is closed.
    pub(crate) time LINGER_TIME: Duration = Duration::from_secs(300);
    /// Longest silence of such a client. Then the connection is closed.
    pub(crate) time LINGER_SILENCE: Duration = Duration::from_secs(5);
    /// Bytes a second that are read from such a client at most. It is slowed beyond them.
    pub(crate) bytes LINGER_RATE: u64 = 64 << 20;
    /// Bytes that are read at a time from such a client, and dropped.
    pub(crate) bytes LINGER_BUFFER: usize = 16 << 10;
    /// Longest wait of a connection for a place while all are busy. Then it is answered 503.
    pub(crate) time ADMISSION_PATIENCE: Duration = Duration::from_secs(1);
    /// Longest time in which an evicted connection sends the rest of its last answer, and in which a
    /// client is read on at a stop. Then the connection is closed.
    pub(crate) time EVICTION_GRACE: Duration = Duration::from_secs(1);
    /// Most connections at a time that wait for a place, and as many that were answered 503 and are
    /// read on. More are answered 503 and closed at once, so that they may lose the answer.
    pub(crate) count MAX_WAITING: usize = 64;
    /// Longest body of a request that has no use for one, such as GET, that is read and dropped to
    /// keep the connection. A longer one is left, and the connection is closed after the answer.
    pub(crate) bytes DROPPED_BODY: u64 = 16 << 10;
    /// Longest wait for such a body. Then the connection is closed after the answer.
    pub(crate) time DROPPED_BODY_TIME: Duration = Duration::from_secs(1);
    /// Retry-After of refusals as overloaded or unavailable that name no time themselves. Clients
    /// should try again after it.
    pub(crate) time DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
    /// Retry-After of refusals because a disk or the metadata is in doubt. Clients should try again
    /// after it, although a person may have to look first.
    pub(crate) time DOUBT_RETRY_AFTER: Duration = Duration::from_secs(30);
    /// Characters of an unknown parameter that a refusal repeats. The rest is left out.
    pub(crate) count SHOWN_KEY: usize = 64;
    /// Longest body of a copy or rename. A longer one is refused with 413.
    pub(crate) bytes MAX_COPY_BODY: usize = 8 << 10;

    /// Longest boundary of a form, as RFC 2046 has it. A longer one is refused with 400.
    pub(crate) bytes MAX_BOUNDARY: usize = 70;
    /// Most parts of a form. A form with more is refused with 413.
    pub(crate) count MAX_PARTS: usize = 32;
    /// Most bytes of the headers of one part, and of what is before the first part. More are
    /// refused with 413.
    pub(crate) bytes MAX_PART_HEADERS: usize = 8 << 10;
    /// Most bytes of all parts of a form that are not the file. More are refused with 413.
    pub(crate) bytes MAX_OTHER_PARTS: usize = 1 << 20;

    /// Bytes of an upload that go to a worker in one message. A larger piece is cut.
    pub(crate) bytes UPLOAD_CHUNK: usize = 256 << 10;
    /// Longest wait for a worker to take the next chunk of an upload. Beyond it the upload fails.
    pub(crate) time CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
    /// Longest wait from the last byte of an upload to the answer of the worker, which sees a
    /// master through its restart in this time. Beyond it the gateway asks the master for the
    /// outcome.
    pub(crate) time FINISH_TIMEOUT: Duration = Duration::from_secs(90);
    /// Bytes of the bodies above 64 KiB that are collected for uploads in one call at a time. A body
    /// that would be beyond them is streamed.
    pub(crate) bytes COLLECTED_BYTES: usize = 64 << 20;
    /// Longest wait for the answer to an upload in one call. Beyond it the gateway asks the master
    /// for the outcome.
    pub(crate) time SMALL_UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);
    /// Tickets that one upload asks for to find a worker that can be reached. Then it is tried with
    /// the last one.
    pub(crate) count MAX_UPLOAD_TICKETS: u32 = 4;
    /// Tickets for small uploads that one call to the master gets.
    pub(crate) count TICKET_BATCH: u32 = 32;
    /// Tickets of a tenant in stock below which the next batch is fetched.
    pub(crate) count MIN_STOCKED_TICKETS: usize = 8;
    /// Batches of tickets that a request waits for while others use them up.
    pub(crate) count MAX_TICKET_FETCHES: usize = 64;
    /// Age of a ticket in stock after which it is dropped.
    pub(crate) time MAX_TICKET_AGE: Duration = Duration::from_secs(30);
    /// Most tenants with tickets in stock. The stock of all is dropped for another one.
    pub(crate) count MAX_STOCKED_TENANTS: usize = 64;

    /// Longest wait for the first bytes of a download from one worker. Beyond it another worker is
    /// asked.
    pub(crate) time FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(20);
    /// Workers that a download tries until its first bytes. Then it fails with the last error.
    pub(crate) count MAX_DOWNLOAD_TRIES: usize = 3;
    /// Longest wait for all storage nodes to read the reference sets of a question about used
    /// space. Beyond it the request fails with 504.
    pub(crate) time USAGE_TIMEOUT: Duration = Duration::from_secs(60);

    /// Largest file of API tokens. A larger one is refused, and the tokens stay as they were.
    pub bytes MAX_TOKENS_BYTES: u64 = 4 << 20;
    /// Most tokens of one file. A file with more is refused.
    pub(crate) count MAX_TOKENS: usize = 10_000;
    /// Time between two looks at the file of API tokens. A revoked token works for as long at most.
    pub(crate) time TOKENS_INTERVAL: Duration = Duration::from_millis(500);
}
