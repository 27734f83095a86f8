//! The framed protocol between worker and storage, version 3; it speaks version 2 as well.
//!
//! A frame is `[opcode u8][payload length u32][payload]`, strict little endian, over TCP with
//! TCP_NODELAY. The byte tables stand in [`frame`] and [`handshake`], nowhere else;
//! `docs/wire-protocol.md` explains the protocol around them.
//!
//! ```text
//! worker                                   storage
//!   │ Hello: versions, ids, nonce            │     one handshake deadline for all of it; nothing but Hello
//!   ├───────────────────────────────────────▶│     is looked at before the proof
//!   │ Welcome: version, ids, nonce, credits, │     or Refused: code, versions, why
//!   │          server's proof                │
//!   │◀───────────────────────────────────────┤
//!   │ Proof: client's proof                  │
//!   ├───────────────────────────────────────▶│
//!   │ OK                                     │
//!   │◀───────────────────────────────────────┤
//!   │ requests, many in flight               │     answers in any order, matched by request id
//!   │◀══════════════════════════════════════▶│
//! ```
//!
//! * Both sides prove the frame key over all fields of Hello and Welcome, each with its own
//!   direction, so that neither a replayed nor a reflected proof is worth anything.
//! * The payload length is checked against both bounds of its opcode before anything is reserved,
//!   and every count against the bytes that are there.
//! * Bytes in flight are bounded by credits that Welcome grants; the server stops reading beyond
//!   its budget.
//! * Bytes of blocks on their way out are bounded as well, from before they are read until they are
//!   written: for each connection and for the process.
//! * A connection that breaks leaves the outcome of its requests unknown; all of them are
//!   idempotent.
//! * Block bytes are slices of the received buffer and leave in vectored writes: never copied.

#![warn(missing_docs)]

mod budget;
mod client;
mod connection;
mod decode_error;
mod error;
pub mod frame;
pub mod handshake;
mod io;
pub mod limits;
mod local;
mod message;
mod pulse;
mod server;
mod sink;
mod task;

pub use budget::{HeldBytes, ReadBudget};
pub use connection::{BlockStream, ClientConfig, Connection};
pub use decode_error::DecodeError;
pub use error::{ClientError, Disconnect, HandshakeError};
pub use frame::{Opcode, Prefix, TraceField};
pub use handshake::{MIN_VERSION, Role, VERSION};
pub use local::{CloseOnDrop, LocalNode};
pub use message::{BlockReply, PutStatus, Request, Response, SealedBlock};
pub use server::{Context, Handler, ServerConfig, serve_connection};
pub use sink::{BlockSink, Reserver};
