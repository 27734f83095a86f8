//! Faults that several parts of a transfer meet.

use cstore_types::{ErrorCode, Fault};
use tokio::task::JoinError;

/// Makes the fault of a task of ours that panicked or was cancelled: a defect.
pub(crate) fn lost_task(error: JoinError) -> Fault {
    Fault::new(ErrorCode::Internal, "task ended early").with_source(error)
}
