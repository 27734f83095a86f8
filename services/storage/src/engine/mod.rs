//! The engine: blocks, reference sets, their places on the disk and their space. No sockets.
//!
//! ```text
//!                    Engine (facade)
//!   ┌───────────┬──────────┼───────────┬─────────────┐
//! Writer     Releaser   BlockReader  Holdings     Compactor ◀─ pacer     Verifier
//!   │  put, seal │         │           │            │  policy, victim, Relocator
//!   ├── Room ────┤         │        SetReader       │
//!   │ (space for requests: Recycler, Compactor)     │
//!   │            │         │           │            │
//! Appender   SpaceLedger   │        Recycler ─▶ Hold ─▶ Volume (superblock, inventory, lock)
//!   │            │         │           │            │
//!   └─────── cstore-log ───┴── Index ──┴── Fences ──┘
//! ```
//! Each part is a struct whose fields say what it may touch; `parts.rs` puts them together.
//!
//! Invariants
//! * What is acknowledged is synced. Records enter and leave the index only by callbacks of the
//!   log, AFTER the sync.
//! * Nothing is freed while a doubt is open, nor before the first answer of the master was judged
//!   (`hold.rs`, `judge.rs`).
//! * The mutex of the index is never held over I/O, the log or an await. The mutexes of the fences
//!   and of the space ledger are inner ones: they MAY be taken while the index is locked, never the
//!   reverse.

mod appender;
mod audit;
mod compactor;
mod counters;
mod debt;
mod doubts;
mod error;
pub(crate) mod examine;
mod facade;
mod fences;
mod for_reads;
pub(crate) mod format;
#[cfg(test)]
mod golden;
mod hold;
mod holdings;
mod index;
mod judge;
mod locked_log;
mod open;
mod parts;
mod reader;
mod recovery;
mod recycler;
mod releaser;
mod room;
mod sets;
mod space;
mod verifier;
mod volume;
mod writer;

pub(crate) use format::{INVENTORY_FILE, LOCK_FILE, SEGMENTS_DIR, SUPERBLOCK_FILE};

pub use audit::{Audit, AuditPage, Audited};
pub use compactor::{CompactStep, CompactionStats, Compactor, Need};
pub use counters::Counters;
pub use doubts::LostSets;
pub use error::{AcceptError, EngineError, OpenError};
pub use facade::Engine;
pub use format::{DiskEpoch, Doubt, DoubtKind, FormatError, KeptFields, Superblock};
pub use hold::Hold;
pub use holdings::Holdings;
pub use index::Totals;
pub use judge::{Answer, Judge, MasterHistory};
pub use recycler::Recycler;
pub use releaser::Releaser;
pub use space::{SharedRoom, Space};
pub use verifier::{Verifier, VerifyStep};
#[cfg(test)]
pub(crate) use volume::mount::small_disk;
pub use volume::mount::{DiskOptions, Identity, Look, look, peek};
pub use volume::rebuild::Remains;
pub use writer::{PutOutcome, SealOutcome};
