//! Uploads and downloads against storage nodes and a master that are in this process and can be
//! told to fail.
//!
//! ```text
//! test ─▶ Upload, download, Session ─▶ Stores ─▶ real connections over pipes ─▶ real server ─▶ `FakeStore`
//!                                └────▶ MasterClient over a pipe ─▶ real server ─▶ `FakeMaster`
//! ```
//! Time is paused: it advances only when every task waits, so a wait of 30 seconds takes none and
//! nothing depends on the speed of the machine. `CSTORE_SEED` picks the first random case,
//! `CSTORE_CASES` how many there are.

mod calls;
mod cluster;
mod content;
mod memory;
mod read;
mod sessions;
mod write_faults;
