//! HTTP as this gateway takes it: bodies, headers, names and queries of requests, without knowing
//! what they are for.

pub(crate) mod body;
pub(crate) mod condition;
pub(crate) mod content;
pub(crate) mod date;
pub(crate) mod digest;
mod disposition;
pub(crate) mod etag_list;
#[cfg(test)]
mod fuzz;
pub(crate) mod head;
pub(crate) mod host;
pub(crate) mod metadata;
pub(crate) mod multipart;
pub(crate) mod name;
mod needle;
pub(crate) mod pace;
pub(crate) mod query;
pub(crate) mod range;
