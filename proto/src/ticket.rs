//! Tickets: a right to upload once, authenticated by a MAC so that nothing is written for it.

use bytes::Bytes;
use cstore_types::history::Point;
use cstore_types::{
    Chunking, ChunkingError, ClusterUuid, ErrorCode, Fault, Incarnation, MapVersion, NodeId,
    SessionId, Tenant, TicketKey,
};
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;
use tonic::Status;

use crate::convert::{self, FieldError};
use crate::v1;

/// Claims of a valid ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketClaims {
    /// The upload.
    pub session: SessionId,
    /// The cluster that made it.
    pub cluster: ClusterUuid,
    /// The life of the metadata that made it.
    pub incarnation: Incarnation,
    /// The worker that it sends the upload to.
    pub worker: NodeId,
    /// Where that worker serves, host:port.
    pub worker_addr: String,
    /// The placement map to use.
    pub map_version: MapVersion,
    /// How to cut the file.
    pub chunking: Chunking,
    /// Tenant whose names the upload may publish.
    pub tenant: Tenant,
    /// Unix time in milliseconds after which the ticket is refused, unless progress renewed it.
    pub expires_ms: i64,
    /// Place that the history of the metadata had reached. A master whose history does not contain
    /// it is another copy. `None` in a ticket of a program that recorded none.
    pub issued: Option<Point>,
}

/// Why a ticket is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// None was sent.
    #[error("upload ticket is missing")]
    Missing,
    /// The MAC is not ours: forged, damaged, or of another cluster.
    #[error("upload ticket was not made by this cluster")]
    Foreign,
    /// Authentic, but its body is no message.
    #[error("upload ticket cannot be read")]
    Unreadable(#[from] prost::DecodeError),
    /// Authentic, but a field of it breaks its rule.
    #[error("upload ticket cannot be read")]
    Field(#[from] FieldError),
    /// Too old.
    #[error("upload ticket has expired")]
    Expired,
    /// Made for another tenant.
    #[error("upload ticket is of another tenant")]
    Tenant,
}

impl From<TicketError> for Fault {
    fn from(error: TicketError) -> Self {
        let code = match error {
            TicketError::Missing | TicketError::Unreadable(_) | TicketError::Field(_) => {
                ErrorCode::InvalidArgument
            }
            TicketError::Foreign | TicketError::Expired | TicketError::Tenant => {
                ErrorCode::PermissionDenied
            }
        };
        Self::from_error(code, error)
    }
}

impl From<TicketError> for Status {
    fn from(error: TicketError) -> Self {
        crate::to_status(error.into())
    }
}

impl TicketClaims {
    /// Makes the ticket for these claims.
    pub fn sign(&self, key: &TicketKey) -> v1::Ticket {
        let body = v1::TicketBody {
            session: Bytes::copy_from_slice(self.session.as_bytes()),
            cluster_uuid: Bytes::copy_from_slice(self.cluster.as_bytes()),
            incarnation: self.incarnation.0,
            worker_id: self.worker.to_string(),
            worker_addr: self.worker_addr.clone(),
            map_version: self.map_version.0,
            chunking: self.chunking.to_string(),
            expires_ms: self.expires_ms,
            tenant: self.tenant.as_str().to_owned(),
            issued: self.issued.map(Into::into),
        }
        .encode_to_vec();
        let mac = mac(key, &body).finalize().into_bytes();
        v1::Ticket {
            body: body.into(),
            mac: Bytes::copy_from_slice(&mac),
            worker_addr: self.worker_addr.clone(),
        }
    }

    /// Reads a ticket after checking its MAC in constant time. Expiry is judged by
    /// [`Self::check_expiry`], because progress may have renewed it.
    ///
    /// # Errors
    /// [`TicketError`] when it is missing, not ours or unreadable.
    pub fn verify(ticket: Option<&v1::Ticket>, key: &TicketKey) -> Result<Self, TicketError> {
        let ticket = ticket.ok_or(TicketError::Missing)?;
        mac(key, &ticket.body)
            .verify_slice(&ticket.mac)
            .map_err(|_| TicketError::Foreign)?;
        let body = v1::TicketBody::decode(ticket.body.clone())?;
        let chunking = chunking(&body)?;
        Ok(Self {
            session: convert::session(&body.session)?,
            cluster: convert::cluster_uuid(&body.cluster_uuid)?,
            incarnation: Incarnation(body.incarnation),
            worker: convert::node_id(&body.worker_id)?,
            worker_addr: body.worker_addr,
            map_version: MapVersion(body.map_version),
            chunking,
            tenant: convert::tenant(&body.tenant)?,
            expires_ms: body.expires_ms,
            issued: body.issued.map(Into::into),
        })
    }

    /// Reads how a ticket's file is cut, without the key: for whoever carries the ticket and trusts
    /// the master that sent it.
    ///
    /// # Errors
    /// [`TicketError`] if the body is unreadable.
    pub fn chunking_of(ticket: &v1::Ticket) -> Result<Chunking, TicketError> {
        Ok(chunking(&v1::TicketBody::decode(ticket.body.clone())?)?)
    }

    /// # Errors
    /// [`TicketError::Tenant`] when the ticket was made for another tenant than the one that a
    /// request names.
    pub fn check_tenant(&self, tenant: &str) -> Result<(), TicketError> {
        if Tenant::new(tenant).as_ref() == Ok(&self.tenant) {
            Ok(())
        } else {
            Err(TicketError::Tenant)
        }
    }

    /// # Errors
    /// [`TicketError::Expired`] at or after the expiry.
    pub fn check_expiry(&self, now_ms: i64) -> Result<(), TicketError> {
        if now_ms >= self.expires_ms {
            Err(TicketError::Expired)
        } else {
            Ok(())
        }
    }
}

fn chunking(body: &v1::TicketBody) -> Result<Chunking, FieldError> {
    body.chunking
        .parse()
        .map_err(|error: ChunkingError| FieldError::new("chunking", error))
}

fn mac(key: &TicketKey, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(b"cstore ticket v1");
    mac.update(body);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use cstore_types::ClusterSecret;

    fn claims() -> TicketClaims {
        TicketClaims {
            session: SessionId::from_bytes([1; 16]),
            cluster: ClusterUuid::from_bytes([2; 16]),
            incarnation: Incarnation(3),
            worker: NodeId::new("worker-1").unwrap(),
            worker_addr: "127.0.0.1:5000".to_owned(),
            map_version: MapVersion(1),
            chunking: Chunking::Fixed(65_536),
            tenant: Tenant::new("acme").unwrap(),
            expires_ms: 1_000,
            issued: Some(Point {
                incarnation: Incarnation(3),
                term: 4,
                life: 5,
                position: 6,
                chain: 7,
            }),
        }
    }

    fn key(text: &str) -> TicketKey {
        ClusterSecret::parse(text).unwrap().ticket_key()
    }

    #[test]
    fn i13_only_tickets_of_this_cluster_are_read() {
        let ours = key("0123456789abcdef0123456789abcdef");
        let ticket = claims().sign(&ours);
        assert_eq!(TicketClaims::verify(Some(&ticket), &ours), Ok(claims()));
        let theirs = key("abcdef0123456789abcdef0123456789");
        assert_eq!(
            TicketClaims::verify(Some(&ticket), &theirs),
            Err(TicketError::Foreign)
        );
        assert_eq!(TicketClaims::verify(None, &ours), Err(TicketError::Missing));
        for at in 0..ticket.body.len() {
            let mut body = ticket.body.to_vec();
            body[at] ^= 1;
            let forged = v1::Ticket {
                body: body.into(),
                ..ticket.clone()
            };
            assert_eq!(
                TicketClaims::verify(Some(&forged), &ours),
                Err(TicketError::Foreign),
                "byte {at}"
            );
        }
    }

    #[test]
    fn i13_a_ticket_is_good_for_its_own_tenant_only() {
        assert_eq!(claims().check_tenant("acme"), Ok(()));
        for other in ["", "default", "acme-2", "ACME", "acme\0x"] {
            assert_eq!(
                claims().check_tenant(other),
                Err(TicketError::Tenant),
                "{other:?}"
            );
        }
    }

    #[test]
    fn a_ticket_expires() {
        assert_eq!(claims().check_expiry(999), Ok(()));
        assert_eq!(claims().check_expiry(1_000), Err(TicketError::Expired));
    }

    #[test]
    fn an_authentic_ticket_that_cannot_be_read_says_why() {
        let key = key("0123456789abcdef0123456789abcdef");
        let signed = |body: &[u8]| v1::Ticket {
            body: Bytes::copy_from_slice(body),
            mac: Bytes::copy_from_slice(&mac(&key, body).finalize().into_bytes()),
            worker_addr: String::new(),
        };
        let error = TicketClaims::verify(Some(&signed(&[0xff])), &key).unwrap_err();
        assert!(matches!(error, TicketError::Unreadable(_)), "{error:?}");
        let error = TicketClaims::verify(Some(&signed(&[])), &key).unwrap_err();
        assert!(matches!(error, TicketError::Field(_)), "{error:?}");
        let status = Status::from(error);
        assert_eq!(crate::code_of(&status), ErrorCode::InvalidArgument);
        assert!(
            status
                .message()
                .starts_with("upload ticket cannot be read: field "),
            "{}",
            status.message()
        );
    }
}
