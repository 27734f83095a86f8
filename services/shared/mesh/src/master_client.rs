//! The master as other roles see it: one method per RPC, with span, deadline and retry.

use cstore_proto::v1;
use cstore_proto::v1::cluster_client::ClusterClient;
use cstore_proto::v1::namespace_client::NamespaceClient;
use cstore_proto::v1::uploads_client::UploadsClient;
use futures_util::future::BoxFuture;
use tonic::{Status, Streaming};
use tracing::Instrument;

use crate::channel::GrpcChannel;
use crate::retry::RetryPolicy;
use crate::server::MAX_MESSAGE_BYTES;

/// A client of all services of the master. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MasterClient {
    channel: GrpcChannel,
    policy: RetryPolicy,
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident, $client:ident, $path:literal, $request:ident -> $response:ident, $idempotent:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// The master's status, or `Unavailable` and `DeadlineExceeded` when it cannot be reached.
        pub async fn $name(&self, request: v1::$request) -> Result<v1::$response, Status> {
            let span = tracing::info_span!("grpc", otel.name = $path, otel.kind = "client", rpc.system.name = "grpc");
            // Boxed, so that the caller's future stays small and its type simple.
            let call = self.policy.run(request, $idempotent, |request| -> BoxFuture<'static, _> {
                let client = $client::new(self.channel.clone());
                let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
                Box::pin(async move { Ok(client.$name(request).await?.into_inner()) })
            });
            call.instrument(span).await
        }
    )*};
}

impl MasterClient {
    /// A client over a channel, with the usual bounds.
    pub fn new(channel: GrpcChannel) -> Self {
        Self::with_policy(channel, RetryPolicy::default())
    }

    /// A client with other bounds.
    pub fn with_policy(channel: GrpcChannel, policy: RetryPolicy) -> Self {
        Self { channel, policy }
    }

    unary! {
        /// One file by name.
        get_file, NamespaceClient, "cstore.v1.Namespace/GetFile", GetFileRequest -> GetFileResponse, true;
        /// A page of files.
        list_files, NamespaceClient, "cstore.v1.Namespace/ListFiles", ListFilesRequest -> ListFilesResponse, true;
        /// Removes a name.
        delete_file, NamespaceClient, "cstore.v1.Namespace/DeleteFile", DeleteFileRequest -> DeleteFileResponse, false;
        /// Gives a file another name.
        rename_file, NamespaceClient, "cstore.v1.Namespace/RenameFile", RenameFileRequest -> RenameFileResponse, false;
        /// Gives a file a second name.
        copy_file, NamespaceClient, "cstore.v1.Namespace/CopyFile", CopyFileRequest -> CopyFileResponse, false;
        /// Files and bytes.
        get_usage, NamespaceClient, "cstore.v1.Namespace/GetUsage", GetUsageRequest -> GetUsageResponse, true;
        /// Tickets for uploads.
        begin_upload, UploadsClient, "cstore.v1.Uploads/BeginUpload", BeginUploadRequest -> BeginUploadResponse, true;
        /// Publishes a name; idempotent for one session.
        commit_upload, UploadsClient, "cstore.v1.Uploads/CommitUpload", CommitUploadRequest -> CommitUploadResponse, true;
        /// Makes sure that a session never commits.
        abort_upload, UploadsClient, "cstore.v1.Uploads/AbortUpload", AbortUploadRequest -> AbortUploadResponse, true;
        /// Says that a node is there.
        register, ClusterClient, "cstore.v1.Cluster/Register", RegisterRequest -> RegisterResponse, true;
        /// Renews a node's lease.
        heartbeat, ClusterClient, "cstore.v1.Cluster/Heartbeat", HeartbeatRequest -> HeartbeatResponse, true;
        /// All nodes.
        list_nodes, ClusterClient, "cstore.v1.Cluster/ListNodes", ListNodesRequest -> ListNodesResponse, true;
    }

    /// The cluster as it is now, then after each change. Never retried here: the caller starts anew.
    ///
    /// # Errors
    /// The master's status, or `Unavailable` when it cannot be reached.
    pub async fn watch_map(
        &self,
        request: v1::WatchMapRequest,
    ) -> Result<Streaming<v1::ClusterView>, Status> {
        let client = ClusterClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(client.watch_map(request).await?.into_inner())
    }
}
