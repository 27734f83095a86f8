//! The REST surface: the router, its layers, and one file for each verb. A verb reads its request,
//! asks the master or a worker, and writes its answer.

mod answer;
mod assets;
mod cluster;
mod copy;
mod delete;
mod get;
mod index;
mod list;
mod openapi;
mod page;
mod paths;
mod put;
mod responses;
pub(crate) mod router;
mod stats;
pub(crate) mod trace;
mod upload;
mod usage;
