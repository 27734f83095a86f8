//! A role's life as a member of the cluster: one implementation for every role but the master.
//!
//! ```text
//! connect_master ─▶ MasterLink::join ─▶ Membership { cluster, key, heartbeat interval }
//!      │                                  │
//!      │                                  └─▶ Heartbeats::run     Member::report ─▶ master ─▶ Member::handle_answer
//!      │                                           ▲
//!      │                                           └── HeartbeatTrigger: the role asks for a heartbeat before its tick
//!      └─▶ follow_view     view of the cluster ─▶ ViewObserver
//! ```
//! Invariants
//! * The heartbeat task waits for the clock, the master and the shutdown, and for nothing else.
//!   [`Member`] has no async method: work that an answer asks for MUST run on another task,
//!   otherwise a long piece of work outlasts the lease and the master takes a healthy node for
//!   lost.
//! * Heartbeats follow each other: a request is built AFTER the answer to the previous one was
//!   handled or has failed. So what a request acknowledges may be forgotten when
//!   [`Member::handle_answer`] runs.
//! * A heartbeat that is sent before its tick needs a reason that ends by itself: a changed
//!   readiness or a request of the role. Two of them are never closer than 10 ms.
//!
//! | task | ends |
//! |---|---|
//! | endpoints of the master | with the last client |
//! | heartbeats | at the shutdown, also when the master does not answer; farewell takes at most one second |
//! | view of the cluster | at the shutdown |
//!
//! Terms: a *tick* is the moment at which the interval of the master asks for a heartbeat; an
//! *early* heartbeat is one between two ticks.

mod heartbeat;
mod registration;
mod report;
mod view;

pub use heartbeat::{HeartbeatTrigger, Heartbeats, Member};
pub use registration::{IdentityError, MasterLink, Membership, NodeProfile, connect_master};
pub use report::{Occasion, Report};
pub use view::{ViewObserver, follow_view};
