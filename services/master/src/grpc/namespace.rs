//! cstore.v1.Namespace.

use std::collections::BTreeMap;

use bytes::Bytes;
use cstore_proto::v1::namespace_server::Namespace;
use cstore_proto::{FieldError, file_name, tenant, v1};
use cstore_types::SessionId;
use tonic::{Request, Response, Status, async_trait};

use super::Doors;
use crate::core::file_info;
use crate::listing::ListQuery;
use crate::namespace::SecondName;
use crate::selection::Selection;

#[async_trait]
impl Namespace for Doors {
    async fn get_file(
        &self,
        request: Request<v1::GetFileRequest>,
    ) -> Result<Response<v1::GetFileResponse>, Status> {
        let request = request.into_inner();
        let name = file_name("name", &request.name)?;
        let (file, recipe_root) = self.0.get_file(&tenant(&request.tenant)?, &name).await?;
        let file = Some(file_info(name.as_str(), &file));
        Ok(Response::new(v1::GetFileResponse { state: self.0.state(), file, recipe_root }))
    }

    async fn list_files(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        let r = request.into_inner();
        let query = ListQuery::new(tenant(&r.tenant)?, r.prefix, &r.delimiter, r.page_size, r.page_token)?;
        let page = self.0.list_files(&query).await?;
        // A page of files with all their metadata would not fit a message.
        let listed = page.files.iter().map(|(name, file)| file_info(name, file));
        let files = listed.map(|file| v1::FileInfo { metadata: BTreeMap::new(), ..file }).collect();
        let (prefixes, next_page_token) = (page.prefixes, page.next_page_token);
        Ok(Response::new(v1::ListFilesResponse { state: self.0.state(), files, prefixes, next_page_token }))
    }

    async fn delete_file(
        &self,
        request: Request<v1::DeleteFileRequest>,
    ) -> Result<Response<v1::DeleteFileResponse>, Status> {
        let request = request.into_inner();
        let name = file_name("name", &request.name)?;
        self.0.delete_file(&tenant(&request.tenant)?, &name, &request.etag).await?;
        Ok(Response::new(v1::DeleteFileResponse { state: self.0.state() }))
    }

    async fn rename_file(
        &self,
        request: Request<v1::RenameFileRequest>,
    ) -> Result<Response<v1::RenameFileResponse>, Status> {
        let request = request.into_inner();
        let change = SecondName {
            tenant: tenant(&request.tenant)?,
            from: file_name("from", &request.from)?,
            to: file_name("to", &request.to)?,
            overwrite: request.overwrite,
            etag: request.etag,
        };
        let file = self.0.rename_file(&change).await?;
        let file = Some(file_info(change.to.as_str(), &file));
        Ok(Response::new(v1::RenameFileResponse { state: self.0.state(), file }))
    }

    async fn copy_file(
        &self,
        request: Request<v1::CopyFileRequest>,
    ) -> Result<Response<v1::CopyFileResponse>, Status> {
        let request = request.into_inner();
        let change = SecondName {
            tenant: tenant(&request.tenant)?,
            from: file_name("from", &request.from)?,
            to: file_name("to", &request.to)?,
            overwrite: request.overwrite,
            etag: request.etag,
        };
        let file = self.0.copy_file(&change).await?;
        let file = Some(file_info(change.to.as_str(), &file));
        Ok(Response::new(v1::CopyFileResponse { state: self.0.state(), file }))
    }

    async fn select_files(
        &self,
        request: Request<v1::SelectFilesRequest>,
    ) -> Result<Response<v1::SelectFilesResponse>, Status> {
        use v1::select_files_request::Selection as Wire;
        let request = request.into_inner();
        let selection = match request.selection {
            Some(Wire::Name(name)) => Selection::Name(file_name("name", &name)?),
            Some(Wire::Prefix(prefix)) => Selection::Prefix(prefix),
            None => return Err(FieldError::new("selection", "give a name or a prefix").into()),
        };
        let found = self.0.select_files(&tenant(&request.tenant)?, &selection).await?;
        let session = |(session, ends): &(SessionId, bool)| v1::SessionUse {
            session: Bytes::copy_from_slice(session.as_bytes()),
            ends: *ends,
        };
        Ok(Response::new(v1::SelectFilesResponse {
            state: self.0.state(),
            files: found.files,
            logical_bytes: found.logical_bytes,
            sessions: found.sessions.iter().map(session).collect(),
            other_names: found.other_names,
        }))
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        let (files, logical_bytes) = self.0.usage.of(&tenant(&request.into_inner().tenant)?);
        let (cluster_files, cluster_logical_bytes) = self.0.usage.total();
        let storage = self.0.members.storage_totals();
        Ok(Response::new(v1::GetUsageResponse {
            state: self.0.state(),
            files,
            logical_bytes,
            unique_bytes: storage.unique_bytes,
            physical_bytes: storage.physical_bytes,
            blocks: storage.blocks,
            capacity_bytes: storage.capacity_bytes,
            free_bytes: storage.free_bytes,
            pending_releases: self.0.releases.len() as u64,
            cluster_files,
            cluster_logical_bytes,
        }))
    }
}
