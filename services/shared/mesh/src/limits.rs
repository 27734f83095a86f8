//! Limits of gRPC between the roles: calls, connections, endpoints, heartbeats.

use std::time::Duration;

cstore_types::limits! {
    /// Most bytes of one gRPC message, in both directions. File data travels in chunks far below
    /// it. A longer message is refused.
    pub bytes MAX_MESSAGE_BYTES: usize = 4 << 20;
    /// Flow-control window of one stream: how far the sender may run ahead of the reader. The
    /// sender waits when it is used up.
    pub(crate) bytes STREAM_WINDOW: u32 = 512 << 10;
    /// Flow-control window of one connection, the largest that HTTP/2 allows, so that only streams
    /// push back. A smaller window would be used up by streams whose readers pause, and no other
    /// call over the connection would get its answer.
    pub(crate) bytes CONNECTION_WINDOW: u32 = (1 << 31) - 1;
    /// Largest HTTP/2 frame that either side takes: a message with 256 KiB of a file. Longer data is
    /// cut into several. With the 16 KiB of HTTP/2 a download takes sixteen times as many system
    /// calls.
    pub(crate) bytes MAX_H2_FRAME: u32 = 257 << 10;
    /// Most bytes of all headers of a call. A call with more is refused with 431.
    pub(crate) bytes MAX_CALL_HEAD: u32 = 32 << 10;
    /// Longest trace state that is carried on. Members that do not fit are left out; W3C Trace
    /// Context asks for at least 512 characters.
    pub(crate) bytes MAX_TRACE_STATE: usize = 512;
    /// Length of a member of the trace state beyond which it is the first to be left out, as W3C
    /// Trace Context recommends.
    pub(crate) bytes LONG_TRACE_STATE_MEMBER: usize = 128;

    /// Default bound of a call with all its attempts. Beyond it the call fails with
    /// DEADLINE_EXCEEDED.
    pub(crate) time CALL_TIMEOUT: Duration = Duration::from_secs(5);
    /// Default bound of one attempt of a call that may be repeated. Beyond it the next attempt
    /// begins.
    pub(crate) time ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
    /// Default number of repeats of a call that may be repeated. Then the call fails with the error
    /// of the last attempt.
    pub(crate) count MAX_CALL_RETRIES: u32 = 3;
    /// First pause before a call is repeated. Doubles with each attempt.
    pub(crate) time MIN_RETRY_PAUSE: Duration = Duration::from_millis(20);
    /// Longest pause before a call is repeated, also if the server asks for a longer one.
    pub(crate) time MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);
    /// Time for which a successful call pays for retries. Older ones do not count.
    pub(crate) time RETRY_BUDGET_WINDOW: Duration = Duration::from_secs(10);
    /// Retries a second that a client may always make. More need a budget.
    pub(crate) count RETRY_BUDGET_FLOOR: u32 = 5;
    /// Retries that a successful call pays for. Without a budget a failed call is not repeated.
    pub(crate) share RETRY_BUDGET_SHARE: f32 = 0.2;

    /// Longest time that a call waits for an endpoint that serves. Beyond it the call fails with
    /// UNAVAILABLE.
    pub(crate) time ENDPOINT_PATIENCE: Duration = Duration::from_secs(1);
    /// Time after which a call that was dropped without any answer counts as a fault of the
    /// endpoint. A call that was dropped sooner says nothing about it.
    pub(crate) time UNANSWERED_FAULT: Duration = Duration::from_secs(1);
    /// Faults in a row after which an endpoint is ejected: it gets no calls for a while.
    pub(crate) count EJECTING_FAULTS: u32 = 5;
    /// Share of faults above which an endpoint is ejected: it gets no calls for a while.
    pub(crate) share EJECTING_SHARE: f64 = 0.2;
    /// Answers that an endpoint must have given before its share of faults counts. With fewer only
    /// faults in a row eject it.
    pub(crate) count EJECTING_ANSWERS: u32 = 10;
    /// Weight of one answer in the share of faults, which is a moving average. A larger one would
    /// make single faults count more.
    pub(crate) share FAULT_WEIGHT: f64 = 0.1;
    /// Time of the first ejection of an endpoint. Doubles with each one.
    pub(crate) time MIN_EJECTION: Duration = Duration::from_secs(1);
    /// Longest ejection. The endpoint gets calls again then.
    pub(crate) time MAX_EJECTION: Duration = Duration::from_secs(30);
    /// Thirds of all endpoints that may be ejected at a time. The rest gets calls although it
    /// fails.
    pub(crate) count EJECTED_THIRDS: usize = 2;

    /// Time between two resolutions of a host name. New addresses are noticed after it.
    pub(crate) time RESOLVE_INTERVAL: Duration = Duration::from_secs(5);
    /// Longest wait for the resolution of a host name. The known addresses stay in use then.
    pub(crate) time RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
    /// Most endpoints of one service. More addresses are ignored.
    pub(crate) count MAX_ENDPOINTS: usize = 4_096;
    /// Time in which an endpoint must report its health for the first time. It counts as down
    /// beyond it.
    pub(crate) time HEALTH_TIMEOUT: Duration = Duration::from_secs(3);
    /// First pause before the health of an endpoint is asked for again. Doubles with each failure.
    pub(crate) time MIN_HEALTH_PAUSE: Duration = Duration::from_millis(20);
    /// Longest pause before the health of an endpoint is asked for again.
    pub(crate) time MAX_HEALTH_PAUSE: Duration = Duration::from_secs(1);
    /// Time between two counts of the endpoints for the metrics. They are as old at most.
    pub(crate) time ENDPOINT_COUNT_INTERVAL: Duration = Duration::from_secs(1);

    /// Longest wait for a connection. The endpoint counts as down beyond it and is dialled again.
    pub(crate) time CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
    /// Silence after which a client sends a keepalive ping. Must be answered in time.
    pub(crate) time CLIENT_PING_AFTER: Duration = Duration::from_secs(5);
    /// Longest wait of a client for the answer to its ping. The connection is closed then.
    pub(crate) time CLIENT_PING_TIMEOUT: Duration = Duration::from_secs(5);
    /// Silence after which a server sends a keepalive ping. Must be answered in time.
    pub(crate) time SERVER_PING_AFTER: Duration = Duration::from_secs(20);
    /// Longest wait of a server for the answer to its ping. The connection is closed then.
    pub(crate) time SERVER_PING_TIMEOUT: Duration = Duration::from_secs(10);
    /// Age at which a server asks a connection to end, so that callers spread over servers that
    /// came later. Running calls finish.
    pub(crate) time CONNECTION_AGE: Duration = Duration::from_secs(3_600);
    /// Time in which a caller must send the preface of HTTP/2. A slower one is disconnected.
    pub(crate) time PREFACE_DEADLINE: Duration = Duration::from_secs(5);
    /// Time of a TLS handshake. A slower caller is disconnected.
    pub(crate) time TLS_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
    /// Most TLS handshakes at a time at the frame port of a storage node. More callers wait in the
    /// kernel's queue. Those of gRPC ports are bounded as connections.
    pub(crate) count MAX_HANDSHAKES: usize = 64;
    /// Shortest time between two looks at the files of certificates. A renewed certificate is used
    /// after it.
    pub(crate) time TLS_RELOAD_INTERVAL: Duration = Duration::from_secs(1);

    /// Most calls that a role works on at once. More are refused with UNAVAILABLE.
    pub(crate) count MAX_CALLS: usize = 4_096;
    /// Most streams of one connection at a time, and most that may be reset before they were looked
    /// at. More streams wait at the client; more resets end the connection.
    pub(crate) count MAX_STREAMS: u32 = 1_024;
    /// Time that a client is asked to wait before it calls again, after it was refused because too
    /// many calls were running.
    pub(crate) time SHED_PAUSE: Duration = Duration::from_millis(200);
    /// Share of the caller's time after which a server drops a call. Below 1, so that the caller
    /// receives the status before its own clock ends the call.
    pub(crate) share SERVER_TIME_SHARE: f64 = 0.95;
    /// Time from reporting NOT_SERVING to closing the port at a stop. Callers that watch health
    /// move away in it.
    pub(crate) time LEAVING_NOTICE: Duration = Duration::from_millis(200);

    /// Shortest interval of heartbeats. A master that asks for a shorter one gets this one.
    pub(crate) time MIN_HEARTBEAT: Duration = Duration::from_millis(10);
    /// Longest interval of heartbeats. A master that asks for a longer one gets this one.
    pub(crate) time MAX_HEARTBEAT: Duration = Duration::from_secs(60);
    /// Failed heartbeats in a row after which a node is not ready any more. The lease of the master
    /// has as many.
    pub(crate) count MAX_MISSED_HEARTBEATS: u32 = 5;
    /// Shortest time from one heartbeat to an early one. Bounds the cost of a master that names the
    /// same work over and over.
    pub(crate) time MIN_HEARTBEAT_GAP: Duration = Duration::from_millis(10);
    /// Time between two looks at the readiness of a node. The master hears of a change after it.
    pub(crate) time READINESS_INTERVAL: Duration = Duration::from_millis(100);
    /// Longest wait for the farewell of a node that stops. The node ends without it then, and is
    /// lost when its lease runs out.
    pub(crate) time FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
    /// Time in which the master must begin to stream the members. The request is repeated beyond
    /// it.
    pub(crate) time VIEW_TIMEOUT: Duration = Duration::from_secs(10);
}
