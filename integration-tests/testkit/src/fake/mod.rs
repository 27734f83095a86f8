//! Services in this process whose replies a test scripts.
//!
//! | fake | services | state |
//! |---|---|---|
//! | [`FakeMaster`] | Namespace, Uploads, Cluster | files, sessions, the release list |
//! | [`FakeWorker`] | Transfer | publishes uploads at a [`FakeMaster`] |
//! | [`FakeStore`] | frames | blocks, pins and sealed parts |
//!
//! gRPC fakes run on the real server stack: [`grpc_server`] builds it, and [`serve_over_pipes`]
//! connects it without ports, so that a test may pause time.

mod master;
mod pipes;
mod script;
mod store;
mod worker;

pub use master::{FakeMaster, MasterState};
pub use pipes::{grpc_server, serve_over_pipes};
pub use script::Reply;
pub use store::{Call, FRAME_KEY, FakeStore, ReadReply, StoreReply};
pub use worker::{FakeWorker, WorkerState};

/// Stream of the replies to a streaming call.
type Replies<T> =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<T, tonic::Status>> + Send>>;
