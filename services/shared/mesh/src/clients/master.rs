//! The master as other roles see it: one method per RPC.

use std::sync::Arc;

use cstore_proto::v1;
use cstore_proto::v1::cluster_client::ClusterClient;
use cstore_proto::v1::namespace_client::NamespaceClient;
use cstore_proto::v1::uploads_client::UploadsClient;
use tonic::{Request, Status, Streaming};
use tower::ServiceExt;

use crate::client::call::{CallBounds, Method, Unary};
use crate::client::retry::Budget;
use crate::client::stack::CallStack;
use crate::endpoints::service::Service;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::transport::channel::GrpcChannel;

macro_rules! master_client {
    ($($(#[$doc:meta])* $name:ident: $client:ident $path:literal $request:ident -> $response:ident, idempotent $idempotent:literal;)*) => {
        /// A client of all services of the master. Cheap to clone: clones share the stacks.
        #[derive(Debug, Clone)]
        pub struct MasterClient(Arc<Methods>);

        /// A client stack for each method.
        #[derive(Debug)]
        struct Methods {
            channel: GrpcChannel,
            $($name: Unary<v1::$request, v1::$response>,)*
        }

        impl MasterClient {
            /// A client with other bounds.
            pub fn with_bounds(service: &Service, bounds: CallBounds) -> Self {
                let channel = service.channel();
                let stack =
                    CallStack { bounds, budget: Budget::default(), metrics: service.metrics.clone() };
                Self(Arc::new(Methods {
                    $($name: {
                        let method = Method { path: $path, idempotent: $idempotent };
                        let client = $client::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
                        stack.unary(method, move |request: Request<v1::$request>| {
                            let mut client = client.clone();
                            async move { Ok(client.$name(request).await?.into_inner()) }
                        })
                    },)*
                    channel,
                }))
            }

            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// The master's status, or `Unavailable` and `DeadlineExceeded` when it cannot be
                /// reached.
                pub async fn $name(&self, request: v1::$request) -> Result<v1::$response, Status> {
                    self.0.$name.clone().oneshot(request).await
                }
            )*
        }
    };
}

master_client! {
    /// One file by name.
    get_file: NamespaceClient "cstore.v1.Namespace/GetFile" GetFileRequest -> GetFileResponse, idempotent true;
    /// A page of files.
    list_files: NamespaceClient "cstore.v1.Namespace/ListFiles" ListFilesRequest -> ListFilesResponse, idempotent true;
    /// Removes a name.
    delete_file: NamespaceClient "cstore.v1.Namespace/DeleteFile" DeleteFileRequest -> DeleteFileResponse, idempotent false;
    /// Gives a file another name.
    rename_file: NamespaceClient "cstore.v1.Namespace/RenameFile" RenameFileRequest -> RenameFileResponse, idempotent false;
    /// Gives a file a second name.
    copy_file: NamespaceClient "cstore.v1.Namespace/CopyFile" CopyFileRequest -> CopyFileResponse, idempotent false;
    /// Selects files by name or prefix, and returns the sessions that they are made of.
    select_files: NamespaceClient "cstore.v1.Namespace/SelectFiles" SelectFilesRequest -> SelectFilesResponse, idempotent true;
    /// Files and bytes.
    get_usage: NamespaceClient "cstore.v1.Namespace/GetUsage" GetUsageRequest -> GetUsageResponse, idempotent true;
    /// Tickets for uploads. Tickets of a lost answer expire unused.
    begin_upload: UploadsClient "cstore.v1.Uploads/BeginUpload" BeginUploadRequest -> BeginUploadResponse, idempotent true;
    /// Publishes a name; idempotent for one session.
    commit_upload: UploadsClient "cstore.v1.Uploads/CommitUpload" CommitUploadRequest -> CommitUploadResponse, idempotent true;
    /// Makes sure that a session never commits.
    abort_upload: UploadsClient "cstore.v1.Uploads/AbortUpload" AbortUploadRequest -> AbortUploadResponse, idempotent true;
    /// Says that a node is there.
    register: ClusterClient "cstore.v1.Cluster/Register" RegisterRequest -> RegisterResponse, idempotent true;
    /// Renews a node's lease.
    heartbeat: ClusterClient "cstore.v1.Cluster/Heartbeat" HeartbeatRequest -> HeartbeatResponse, idempotent true;
    /// All nodes.
    list_nodes: ClusterClient "cstore.v1.Cluster/ListNodes" ListNodesRequest -> ListNodesResponse, idempotent true;
    /// Accepts a doubt of a storage node; repeating it is safe.
    accept_doubt: ClusterClient "cstore.v1.Cluster/AcceptDoubt" AcceptDoubtRequest -> AcceptDoubtResponse, idempotent true;
    /// Gives up the disk of a storage node.
    give_up_store: ClusterClient "cstore.v1.Cluster/GiveUpStore" GiveUpStoreRequest -> GiveUpStoreResponse, idempotent false;
    /// Lets releases go on without a storage node that stays away; repeating it is safe.
    excuse_node: ClusterClient "cstore.v1.Cluster/ExcuseNode" ExcuseNodeRequest -> ExcuseNodeResponse, idempotent true;
    /// A page of the uploads that are kept.
    list_kept: ClusterClient "cstore.v1.Cluster/ListKept" ListKeptRequest -> ListKeptResponse, idempotent true;
    /// Lets uploads go that are kept; repeating it is safe.
    drop_kept: ClusterClient "cstore.v1.Cluster/DropKept" DropKeptRequest -> DropKeptResponse, idempotent true;
}

impl MasterClient {
    /// A client with the usual bounds.
    pub fn new(service: &Service) -> Self {
        Self::with_bounds(service, CallBounds::default())
    }

    /// The cluster as it is now, then after each change. Never retried here: the caller starts
    /// anew.
    ///
    /// # Errors
    /// The master's status, or `Unavailable` when it cannot be reached.
    pub async fn watch_map(
        &self,
        request: v1::WatchMapRequest,
    ) -> Result<Streaming<v1::ClusterView>, Status> {
        let client = ClusterClient::new(self.0.channel.clone());
        let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(client.watch_map(request).await?.into_inner())
    }
}
