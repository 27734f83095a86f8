//! From a ticket to a commit: the part of an upload that talks to the master.

use std::sync::Arc;

use bytes::Bytes;
use cstore_mesh::MasterClient;
use cstore_node::clock::Clock;
use cstore_proto::{TicketClaims, digest, file_name, from_status, metadata, v1, write_condition};
use cstore_types::{
    ErrorCode, Fault, FileName, SessionId, TicketKey, UserMetadata, WriteCondition, error_chain,
};
use cstore_wire::Request;
use parking_lot::Mutex;
use std::collections::HashSet;
use tokio::time::{Instant, sleep};

use crate::budget::Budget;
use crate::cluster::{Route, Stores};
use crate::digests::Digests;
use crate::limits::{COMMIT_PATIENCE, COMMIT_PAUSE};
use crate::upload::{Stored, Upload};

/// Uploads that made progress since the last heartbeat.
pub(crate) type Active = Arc<Mutex<HashSet<SessionId>>>;

/// State that all uploads of a worker share.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    pub(crate) stores: Stores,
    pub(crate) master: MasterClient,
    pub(crate) ticket_key: TicketKey,
    pub(crate) budget: Budget,
    pub(crate) active: Active,
    /// The time of day, for the expiry of tickets.
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) worker_id: String,
}

/// An admitted upload. The header's fields are kept as the values that were read from them.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Sessions,
    /// Proof for the master, passed on as it came.
    ticket: Option<v1::Ticket>,
    claims: TicketClaims,
    name: FileName,
    condition: WriteCondition,
    content_type: String,
    metadata: UserMetadata,
    route: Route,
}

impl Sessions {
    /// Checks ticket and header.
    ///
    /// # Errors
    /// [`ErrorCode::PermissionDenied`] for a ticket that is not valid here,
    /// [`ErrorCode::InvalidArgument`] for a field that breaks its rule, [`ErrorCode::Unavailable`]
    /// if the placement map is not the ticket's.
    pub(crate) fn begin(&self, header: v1::UploadHeader) -> Result<(Session, Upload), Fault> {
        let claims = TicketClaims::verify(header.ticket.as_ref(), &self.ticket_key)?;
        if claims.cluster != self.stores.cluster() {
            return Err(Fault::new(
                ErrorCode::PermissionDenied,
                "upload ticket is of another cluster",
            ));
        }
        claims.check_expiry(self.clock.now_ms())?;
        // The master checks the tenant again. A wrong one is refused here BEFORE the body is sent
        // for nothing.
        claims.check_tenant(&header.tenant)?;

        let name = file_name("name", &header.name)?;
        let metadata = metadata(header.metadata)?;
        let md5 = digest("expect_md5", &header.expect_md5)?;
        let sha256 = digest("expect_sha256", &header.expect_sha256)?;
        let digests = Digests::expect(md5, sha256);

        let route = Route::new(&self.stores)?;
        if route.version() != claims.map_version {
            return Err(Fault::new(
                ErrorCode::Unavailable,
                "placement map of the ticket is not the one in use",
            ));
        }
        let upload = Upload::new(
            route.clone(),
            claims.session,
            claims.chunking,
            digests,
            self.budget.clone(),
        );
        let session = Session {
            shared: self.clone(),
            ticket: header.ticket,
            claims,
            name,
            condition: write_condition(header.condition),
            content_type: header.content_type,
            metadata,
            route,
        };
        Ok((session, upload))
    }
}

impl Session {
    /// The upload is alive: its ticket does not expire meanwhile.
    pub(crate) fn progress(&self) {
        self.shared.active.lock().insert(self.claims.session);
    }

    /// Publishes the file. Refused is final; anything else is unknown and repeated, never aborted.
    pub(crate) async fn commit(self, stored: Stored) -> Result<v1::UploadResponse, Fault> {
        let sha256 = match stored.digests.verify() {
            Ok(sha256) => sha256,
            Err(fault) => {
                self.abort().await;
                return Err(fault);
            }
        };
        let seal = |seal: &crate::blocks::Seal| v1::StoreSeal {
            store_uuid: Bytes::copy_from_slice(seal.store.as_bytes()),
            seal_seq: seal.point.seq.0,
            nonce: seal.point.nonce,
        };
        let request = v1::CommitUploadRequest {
            ticket: self.ticket.clone(),
            tenant: self.claims.tenant.as_str().to_owned(),
            name: self.name.as_str().to_owned(),
            condition: Some(self.condition.clone().into()),
            recipe_root: stored.root.encode().into(),
            size: stored.root.size(),
            etag: stored.etag.to_string(),
            blocks: stored.blocks,
            content_type: self.content_type.clone(),
            sha256: sha256
                .map(|sha256| Bytes::copy_from_slice(&sha256))
                .unwrap_or_default(),
            metadata: self.metadata.clone().into(),
            seals: stored.seals.iter().map(seal).collect(),
        };
        let end = Instant::now() + COMMIT_PATIENCE;
        let committed = loop {
            match self.shared.master.commit_upload(request.clone()).await {
                Ok(committed) => break committed,
                Err(status) => {
                    let fault = from_status(status);
                    if !fault.code.is_retryable() || Instant::now() + COMMIT_PAUSE > end {
                        self.unpin().await;
                        return Err(fault);
                    }
                    self.progress();
                    sleep(COMMIT_PAUSE).await;
                }
            }
        };
        if stored.has_pins {
            self.unpin_later();
        }
        Ok(v1::UploadResponse {
            file: committed.file,
            replaced: committed.replaced,
            new_blocks: stored.new.blocks,
            new_bytes: stored.new.bytes,
            worker_id: self.shared.worker_id.clone(),
        })
    }

    /// Ends an upload that never asked for its commit: the master makes sure that it never will,
    /// storage drops its pins. Nobody waits for it longer than the bounds of the calls.
    pub(crate) async fn abort(&self) {
        let request = v1::AbortUploadRequest {
            ticket: self.ticket.clone(),
        };
        if let Err(status) = self.shared.master.abort_upload(request).await {
            tracing::info!(session = %self.claims.session, %status, "upload could not be aborted; it will be given up");
        }
        self.unpin().await;
    }

    async fn unpin(&self) {
        unpin(&self.route, self.claims.session).await;
    }

    fn unpin_later(&self) {
        let (route, session) = (self.route.clone(), self.claims.session);
        cstore_node::shutdown::spawn("unpin", async move { unpin(&route, session).await });
    }
}

async fn unpin(route: &Route, session: SessionId) {
    for node in route.nodes() {
        if let Err(fault) = route.ask(node, &Request::Unpin { session }, 0).await {
            tracing::debug!(%session, error = %error_chain(&fault), "pins were not dropped");
        }
    }
}
