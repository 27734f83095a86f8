//! The service Namespace of the fake master.

use bytes::Bytes;
use cstore_proto::v1;
use cstore_proto::v1::namespace_server::Namespace;
use cstore_proto::v1::select_files_request::Selection;
use cstore_types::ErrorCode;
use tonic::{Request, Response, Status};

use super::FakeMaster;

fn no_file() -> Status {
    cstore_proto::status(ErrorCode::NotFound, "no file of this name")
}

fn named(name: String) -> Option<v1::FileInfo> {
    Some(v1::FileInfo {
        name,
        ..v1::FileInfo::default()
    })
}

#[tonic::async_trait]
impl Namespace for FakeMaster {
    /// The name stands for the recipe: the fake worker knows no other.
    async fn get_file(
        &self,
        request: Request<v1::GetFileRequest>,
    ) -> Result<Response<v1::GetFileResponse>, Status> {
        self.serve(request, |state, request| {
            let (_, file) = state.files.get(&request.name).ok_or_else(no_file)?;
            Ok(v1::GetFileResponse {
                file: Some(file.clone()),
                recipe_root: Bytes::from(request.name),
                state: None,
            })
        })
        .await
    }

    async fn list_files(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        self.serve(request, |state, request| {
            let files = state.files.values().map(|(_, file)| file);
            let files = files.filter(|file| file.name.starts_with(&request.prefix));
            Ok(v1::ListFilesResponse {
                files: files.take(request.page_size as usize).cloned().collect(),
                ..v1::ListFilesResponse::default()
            })
        })
        .await
    }

    async fn delete_file(
        &self,
        request: Request<v1::DeleteFileRequest>,
    ) -> Result<Response<v1::DeleteFileResponse>, Status> {
        self.serve(request, |state, request| {
            state.files.remove(&request.name).ok_or_else(no_file)?;
            Ok(v1::DeleteFileResponse::default())
        })
        .await
    }

    async fn rename_file(
        &self,
        request: Request<v1::RenameFileRequest>,
    ) -> Result<Response<v1::RenameFileResponse>, Status> {
        self.serve(request, |_, request| {
            Ok(v1::RenameFileResponse {
                file: named(request.to),
                state: None,
            })
        })
        .await
    }

    async fn copy_file(
        &self,
        request: Request<v1::CopyFileRequest>,
    ) -> Result<Response<v1::CopyFileResponse>, Status> {
        self.serve(request, |_, request| {
            Ok(v1::CopyFileResponse {
                file: named(request.to),
                state: None,
            })
        })
        .await
    }

    async fn select_files(
        &self,
        request: Request<v1::SelectFilesRequest>,
    ) -> Result<Response<v1::SelectFilesResponse>, Status> {
        self.serve(request, |state, request| {
            let is_chosen = |name: &str| match &request.selection {
                Some(Selection::Name(wanted)) => name == wanted,
                Some(Selection::Prefix(prefix)) => name.starts_with(prefix.as_str()),
                None => false,
            };
            let chosen = state.files.iter().filter(|(name, _)| is_chosen(name));
            let sizes: Vec<u64> = chosen.map(|(_, (_, file))| file.size).collect();
            if sizes.is_empty() && matches!(request.selection, Some(Selection::Name(_))) {
                return Err(no_file());
            }
            let session = v1::SessionUse {
                session: Bytes::from_static(&[1; 16]),
                ends: true,
            };
            Ok(v1::SelectFilesResponse {
                files: sizes.len() as u64,
                logical_bytes: sizes.iter().sum(),
                sessions: vec![session; sizes.len()],
                other_names: 1,
                state: None,
            })
        })
        .await
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        self.serve(request, |_, _| {
            Ok(v1::GetUsageResponse {
                files: 2,
                logical_bytes: 300,
                unique_bytes: 100,
                cluster_logical_bytes: 300,
                ..v1::GetUsageResponse::default()
            })
        })
        .await
    }
}
