//! The endpoints of one service behind one channel.
//!
//! ```text
//! service ─┬─▶ manager ──▶ discovery     which endpoints there are
//!          │      └──────▶ health        which of them are serving
//!          └─▶ balance ──▶ history       which of them a call has tried
//!                 └──▶ set ──▶ endpoint ──▶ outlier
//! ```
//! The manager is the only writer of the set; calls pick from it.

pub(crate) mod balance;
pub(crate) mod discovery;
pub(crate) mod endpoint;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod manager;
pub(crate) mod outlier;
pub(crate) mod service;
pub(crate) mod set;
