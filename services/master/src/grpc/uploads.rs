//! cstore.v1.Uploads.

use cstore_proto::v1::uploads_server::Uploads;
use cstore_proto::{FieldError, TicketClaims, file_name, metadata, store_uuid, tenant, v1};
use cstore_types::SealSeq;
use tonic::{Request, Response, Status, async_trait};

use super::Doors;
use crate::uploads::Commit;

/// Longest content type that is kept.
const MAX_CONTENT_TYPE: usize = 255;

#[async_trait]
impl Uploads for Doors {
    async fn begin_upload(
        &self,
        request: Request<v1::BeginUploadRequest>,
    ) -> Result<Response<v1::BeginUploadResponse>, Status> {
        let request = request.into_inner();
        let name = match request.name.as_str() {
            "" => None,
            name => Some(file_name("name", name)?),
        };
        let condition = request.condition.into();
        let tenant = tenant(&request.tenant)?;
        let tickets = self.0.begin_upload(&tenant, name.as_ref(), &condition, request.count).await?;
        Ok(Response::new(v1::BeginUploadResponse { state: self.0.state(), tickets }))
    }

    async fn commit_upload(
        &self,
        request: Request<v1::CommitUploadRequest>,
    ) -> Result<Response<v1::CommitUploadResponse>, Status> {
        let request = request.into_inner();
        let claims = TicketClaims::verify(request.ticket.as_ref(), &self.0.ticket_key)?;
        claims.check_tenant(&request.tenant)?;
        if request.content_type.len() > MAX_CONTENT_TYPE || ![0, 32].contains(&request.sha256.len()) {
            return Err(FieldError::new("content_type or sha256", "is too long").into());
        }
        let mut seals = Vec::with_capacity(request.seals.len());
        for seal in &request.seals {
            seals.push((store_uuid(&seal.store_uuid)?, SealSeq(seal.seal_seq)));
        }
        let commit = Commit {
            claims,
            name: file_name("name", &request.name)?,
            condition: request.condition.into(),
            root: request.recipe_root.to_vec(),
            etag: request.etag,
            blocks: request.blocks,
            content_type: request.content_type,
            sha256: request.sha256.to_vec(),
            metadata: metadata(request.metadata)?,
            size: request.size,
            seals,
        };
        let (file, replaced) = self.0.commit_upload(&commit).await?;
        let response = v1::CommitUploadResponse { state: self.0.state(), file: Some(file), replaced };
        Ok(Response::new(response))
    }

    async fn abort_upload(
        &self,
        request: Request<v1::AbortUploadRequest>,
    ) -> Result<Response<v1::AbortUploadResponse>, Status> {
        let claims = TicketClaims::verify(request.into_inner().ticket.as_ref(), &self.0.ticket_key)?;
        let committed = self.0.abort_upload(&claims).await?;
        Ok(Response::new(v1::AbortUploadResponse { state: self.0.state(), committed }))
    }
}
