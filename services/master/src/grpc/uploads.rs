//! cstore.v1.Uploads.

use cstore_proto::v1::uploads_server::Uploads;
use cstore_proto::{
    FieldError, TicketClaims, file_name, metadata, sha256, tenant, to_status, v1, write_condition,
};
use cstore_types::limits::MAX_CONTENT_TYPE_BYTES;
use tonic::{Request, Response, Status, async_trait};

use super::{Services, convert};
use crate::domain::{Aborted, Commit};

/// Checks the fields of a commit; the ticket's MAC and tenant are part of it.
fn commit(request: v1::CommitUploadRequest, claims: TicketClaims) -> Result<Commit, Status> {
    claims.check_tenant(&request.tenant)?;
    if request.content_type.len() > MAX_CONTENT_TYPE_BYTES {
        let found = request.content_type.len();
        let text = format!("must have at most {MAX_CONTENT_TYPE_BYTES} bytes, found {found}");
        return Err(FieldError::new("content_type", text).into());
    }
    Ok(Commit {
        claims,
        name: file_name("name", &request.name)?,
        condition: write_condition(request.condition),
        root: request.recipe_root.to_vec(),
        etag: convert::etag(&request.etag)?,
        blocks: request.blocks,
        content_type: request.content_type,
        sha256: sha256(&request.sha256)?,
        metadata: metadata(request.metadata)?,
        size: request.size,
        seals: request
            .seals
            .iter()
            .map(convert::seal)
            .collect::<Result<_, _>>()?,
    })
}

#[async_trait]
impl Uploads for Services {
    async fn begin_upload(
        &self,
        request: Request<v1::BeginUploadRequest>,
    ) -> Result<Response<v1::BeginUploadResponse>, Status> {
        let request = request.into_inner();
        let name = match request.name.as_str() {
            "" => None,
            name => Some(file_name("name", name)?),
        };
        let condition = write_condition(request.condition);
        let tenant = tenant(&request.tenant)?;
        let master = &self.master;
        let claims = master
            .uploads
            .begin(&tenant, name.as_ref(), &condition, request.count)
            .await
            .map_err(to_status)?;
        let tickets = claims
            .iter()
            .map(|claims| claims.sign(&master.ticket_key))
            .collect();
        Ok(Response::new(v1::BeginUploadResponse {
            tickets,
            state: Some(master.state().into()),
        }))
    }

    async fn commit_upload(
        &self,
        request: Request<v1::CommitUploadRequest>,
    ) -> Result<Response<v1::CommitUploadResponse>, Status> {
        let request = request.into_inner();
        let claims = TicketClaims::verify(request.ticket.as_ref(), &self.master.ticket_key)?;
        let commit = commit(request, claims)?;
        let published = self
            .master
            .uploads
            .commit(&commit)
            .await
            .map_err(to_status)?;
        Ok(Response::new(v1::CommitUploadResponse {
            file: Some(published.file.into()),
            replaced: published.replaced,
            state: Some(self.master.state().into()),
        }))
    }

    async fn abort_upload(
        &self,
        request: Request<v1::AbortUploadRequest>,
    ) -> Result<Response<v1::AbortUploadResponse>, Status> {
        let claims = TicketClaims::verify(
            request.into_inner().ticket.as_ref(),
            &self.master.ticket_key,
        )?;
        let aborted = self
            .master
            .uploads
            .abort(&claims)
            .await
            .map_err(to_status)?;
        let state = Some(self.master.state().into());
        let response = match aborted {
            Aborted::Ended => v1::AbortUploadResponse {
                state,
                ..v1::AbortUploadResponse::default()
            },
            Aborted::Committed(file) => v1::AbortUploadResponse {
                state,
                committed: true,
                version: file.meta.version,
                file: Some(file.into()),
            },
            Aborted::Removed { version } => v1::AbortUploadResponse {
                state,
                committed: true,
                version,
                file: None,
            },
        };
        Ok(Response::new(response))
    }
}
