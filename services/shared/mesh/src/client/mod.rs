//! The upper, typed half of the client stack: one file for each layer, put together in `stack`.

pub(crate) mod attempt;
pub(crate) mod call;
pub(crate) mod deadline;
pub(crate) mod observe;
pub(crate) mod retry;
pub(crate) mod stack;
pub(crate) mod stream;
