//! API tokens: what a client shows, and the file that knows them by their hashes.
//!
//! ```text
//! token  "cst_" id "_" base64url(32 random bytes)
//! file   one token a line, its fields in any order; empty lines and lines that begin with # are skipped
//!        id=4f1c0a9be2d7 tenant=acme rights=read,write,delete expires=2027-01-31T00:00:00Z sha256=<64 digits>
//! ```
//! Invariant: nothing here holds the secret of a token; a hash without salt is enough for 256
//! random bits. `expires` may be missing.

mod entry;
mod error;
mod file;
mod rights;
mod set;
mod token;

pub use entry::{Entry, EntryError};
pub use error::TokenFileError;
pub(crate) use file::TokenFile;
pub use file::read;
pub use rights::{Right, Rights, RightsError};
pub use set::TokenSet;
pub use token::Token;
