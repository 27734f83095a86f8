//! cstore.v1.Namespace.

use std::collections::BTreeMap;

use cstore_proto::v1::namespace_server::Namespace;
use cstore_proto::{FieldError, file_name, tenant, to_status, v1};
use tonic::{Request, Response, Status, async_trait};

use super::Services;
use crate::domain::{CopyOrRename, ListQuery, ListedFile, Selection};

/// Converts a file of a list, without its metadata: a page of files with all of it would not fit a
/// message.
fn listed_file(file: ListedFile) -> v1::FileInfo {
    let ListedFile { name, meta } = file;
    v1::FileInfo {
        name,
        size: meta.size,
        etag: meta.etag.to_string(),
        version: meta.version,
        modified_ms: meta.modified_ms,
        content_type: meta.content_type,
        chunking: meta.chunking.to_string(),
        blocks: meta.blocks,
        sha256: meta
            .sha256
            .map(|sha256| sha256.to_vec().into())
            .unwrap_or_default(),
        metadata: BTreeMap::new(),
    }
}

#[async_trait]
impl Namespace for Services {
    async fn get_file(
        &self,
        request: Request<v1::GetFileRequest>,
    ) -> Result<Response<v1::GetFileResponse>, Status> {
        let request = request.into_inner();
        let name = file_name("name", &request.name)?;
        let tenant = tenant(&request.tenant)?;
        let (file, recipe_root) = self
            .master
            .namespace
            .get_file(&tenant, &name)
            .await
            .map_err(to_status)?;
        let state = Some(self.master.state().into());
        Ok(Response::new(v1::GetFileResponse {
            state,
            file: Some(file.into()),
            recipe_root,
        }))
    }

    async fn list_files(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        let r = request.into_inner();
        let query = ListQuery::new(
            tenant(&r.tenant)?,
            r.prefix,
            &r.delimiter,
            r.page_size,
            r.page_token,
        )
        .map_err(to_status)?;
        let page = self
            .master
            .namespace
            .list_files(&query)
            .await
            .map_err(to_status)?;
        Ok(Response::new(v1::ListFilesResponse {
            files: page.files.into_iter().map(listed_file).collect(),
            prefixes: page.prefixes,
            next_page_token: page.next_page_token,
            state: Some(self.master.state().into()),
        }))
    }

    async fn delete_file(
        &self,
        request: Request<v1::DeleteFileRequest>,
    ) -> Result<Response<v1::DeleteFileResponse>, Status> {
        let request = request.into_inner();
        let name = file_name("name", &request.name)?;
        let tenant = tenant(&request.tenant)?;
        self.master
            .namespace
            .delete_file(&tenant, &name, &request.etag)
            .await
            .map_err(to_status)?;
        Ok(Response::new(v1::DeleteFileResponse {
            state: Some(self.master.state().into()),
        }))
    }

    async fn rename_file(
        &self,
        request: Request<v1::RenameFileRequest>,
    ) -> Result<Response<v1::RenameFileResponse>, Status> {
        let request = request.into_inner();
        let change = CopyOrRename {
            tenant: tenant(&request.tenant)?,
            from: file_name("from", &request.from)?,
            to: file_name("to", &request.to)?,
            overwrite: request.overwrite,
            etag: request.etag,
        };
        let file = self
            .master
            .namespace
            .rename_file(&change)
            .await
            .map_err(to_status)?;
        let state = Some(self.master.state().into());
        Ok(Response::new(v1::RenameFileResponse {
            state,
            file: Some(file.into()),
        }))
    }

    async fn copy_file(
        &self,
        request: Request<v1::CopyFileRequest>,
    ) -> Result<Response<v1::CopyFileResponse>, Status> {
        let request = request.into_inner();
        let change = CopyOrRename {
            tenant: tenant(&request.tenant)?,
            from: file_name("from", &request.from)?,
            to: file_name("to", &request.to)?,
            overwrite: request.overwrite,
            etag: request.etag,
        };
        let file = self
            .master
            .namespace
            .copy_file(&change)
            .await
            .map_err(to_status)?;
        let state = Some(self.master.state().into());
        Ok(Response::new(v1::CopyFileResponse {
            state,
            file: Some(file.into()),
        }))
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
        let tenant = tenant(&request.tenant)?;
        let found = self
            .master
            .namespace
            .select_files(&tenant, &selection)
            .await
            .map_err(to_status)?;
        Ok(Response::new(v1::SelectFilesResponse {
            files: found.files,
            logical_bytes: found.logical_bytes,
            sessions: found
                .sessions
                .into_iter()
                .map(v1::SessionUse::from)
                .collect(),
            other_names: found.other_names,
            state: Some(self.master.state().into()),
        }))
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        let derived = &self.master.context.derived;
        let own = derived.usage.of(&tenant(&request.into_inner().tenant)?);
        let cluster = derived.usage.total();
        let storage = self.master.members.storage_totals();
        Ok(Response::new(v1::GetUsageResponse {
            files: own.files,
            logical_bytes: own.logical_bytes,
            unique_bytes: storage.unique_bytes,
            physical_bytes: storage.physical_bytes,
            blocks: storage.blocks,
            capacity_bytes: storage.capacity_bytes,
            free_bytes: storage.free_bytes,
            pending_releases: derived.releases.len() as u64,
            cluster_files: cluster.files,
            cluster_logical_bytes: cluster.logical_bytes,
            state: Some(self.master.state().into()),
        }))
    }
}
