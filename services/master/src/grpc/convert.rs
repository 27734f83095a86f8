//! Conversions between messages and the rules' types. Every failure names its field.

use bytes::Bytes;
use cstore_proto::{FieldError, session, store_uuid, v1};
use cstore_types::epoch::{Epoch, SealPoint};
use cstore_types::history::Point;
use cstore_types::{ETag, ETagError, SealSeq, SessionId};

use crate::domain::{
    AuditPage, DiskReport, DiskTotals, DoubtReport, MasterState, NodeRole, NodeState, NodeView,
    Seal, SharedRoom, Telling, Told, Verdict,
};
use crate::limits::{MAX_NODE_DOUBTS, MAX_NODE_TEXT, MAX_TOLD_EPOCHS};

impl From<MasterState> for v1::MasterState {
    fn from(state: MasterState) -> Self {
        Self {
            cluster_uuid: Bytes::copy_from_slice(state.cluster.as_bytes()),
            incarnation: state.incarnation.0,
            log_position: state.head.position,
            term: state.head.term,
            life: state.head.life,
        }
    }
}

impl From<NodeRole> for v1::Role {
    fn from(role: NodeRole) -> Self {
        match role {
            NodeRole::Worker => Self::Worker,
            NodeRole::Storage => Self::Storage,
        }
    }
}

impl From<NodeState> for v1::NodeState {
    fn from(state: NodeState) -> Self {
        match state {
            NodeState::Ready => Self::Ready,
            NodeState::NotReady => Self::NotReady,
            NodeState::Lost => Self::Lost,
            NodeState::Suspect => Self::Suspect,
        }
    }
}

impl From<NodeView> for v1::Node {
    fn from(view: NodeView) -> Self {
        let NodeView {
            id,
            node,
            state,
            reason,
            in_map,
        } = view;
        let totals = node.disk.map(|disk| disk.totals).unwrap_or_default();
        Self {
            role: v1::Role::from(node.role).into(),
            node_id: id.to_string(),
            addr: node.addr,
            state: v1::NodeState::from(state).into(),
            reason,
            last_seen_ms: node.last_seen_ms,
            version: node.version,
            in_map,
            store_uuid: node
                .disk
                .map(|disk| Bytes::copy_from_slice(disk.store.as_bytes()))
                .unwrap_or_default(),
            capacity_bytes: totals.capacity_bytes,
            free_bytes: totals.free_bytes,
            doubts: node.doubts.into_iter().map(v1::Doubt::from).collect(),
            max_small_bytes: node.max_small_bytes,
            physical_bytes: totals.physical_bytes,
            allocated_bytes: totals.allocated_bytes,
        }
    }
}

impl From<AuditPage> for v1::AuditPage {
    fn from(page: AuditPage) -> Self {
        Self {
            sessions: page.sessions.iter().map(raw_session).collect(),
            last: page.last.as_ref().map(raw_session).unwrap_or_default(),
            is_last: page.is_last,
        }
    }
}

impl From<&Verdict> for v1::SessionState {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Open => Self::Open,
            Verdict::Committed(_) => Self::Committed,
            Verdict::Ended(_) => Self::Tombstoned,
            Verdict::Kept => Self::Kept,
        }
    }
}

impl From<DoubtReport> for v1::Doubt {
    fn from(doubt: DoubtReport) -> Self {
        Self {
            number: doubt.number,
            kind: doubt.kind,
            detail: doubt.detail,
            accepted: doubt.accepted,
            seal: doubt.seal.map(v1::SealPoint::from),
        }
    }
}

/// Reads what is in doubt on a disk. More than a disk has places for, and long texts, are cut off:
/// they are for people.
pub(super) fn doubts(report: &v1::StorageReport) -> Vec<DoubtReport> {
    let text = |text: &str| text.chars().take(MAX_NODE_TEXT).collect();
    let doubts = report.doubts.iter().take(MAX_NODE_DOUBTS);
    doubts
        .map(|doubt| DoubtReport {
            number: doubt.number,
            kind: text(&doubt.kind),
            detail: text(&doubt.detail),
            accepted: doubt.accepted,
            seal: doubt.seal.map(SealPoint::from),
        })
        .collect()
}

/// Reads the report of a disk.
pub(super) fn disk_report(report: &v1::StorageReport) -> Result<DiskReport, FieldError> {
    let totals = DiskTotals {
        capacity_bytes: report.capacity_bytes,
        free_bytes: report.free_bytes,
        unique_bytes: report.unique_bytes,
        physical_bytes: report.physical_bytes,
        allocated_bytes: report.allocated_bytes,
        blocks: report.blocks,
    };
    Ok(DiskReport {
        store: store_uuid(&report.store_uuid)?,
        seal_seq: SealSeq(report.seal_seq),
        totals,
        room: report.room.as_ref().map(|room| SharedRoom {
            file_system: room.file_system,
            free_bytes: room.free_bytes,
            growth_bytes: room.growth_bytes.min(report.free_bytes),
        }),
    })
}

impl From<Telling> for v1::History {
    fn from(telling: Telling) -> Self {
        Self {
            head: Some(telling.head.into()),
            lives: telling.lives.into_iter().map(v1::Life::from).collect(),
            accepted: telling.accepted.map(v1::Point::from),
        }
    }
}

/// Reads what a storage node has noted of the master's history.
pub(super) fn noted(report: Option<&v1::StorageReport>) -> Option<Point> {
    report.and_then(|report| report.noted).map(Point::from)
}

/// Reads what a report tells of the sequences of a disk.
pub(super) fn told(report: Option<&v1::StorageReport>) -> Result<Told, FieldError> {
    let Some(report) = report else {
        return Ok(Told::Sequence);
    };
    if report.unopened {
        return Ok(Told::Nothing);
    }
    // The oldest ones are left out: where they ended stands in the first that stays.
    let surplus = report.epochs.len().saturating_sub(MAX_TOLD_EPOCHS);
    let told = report.epochs.get(surplus..).unwrap_or_default();
    if !told.is_sorted_by(|a, b| a.number < b.number) {
        return Err(FieldError::new("epochs", "must grow by their numbers"));
    }
    Ok(match told.is_empty() {
        true => Told::Sequence,
        false => Told::Epochs(told.iter().map(|epoch| Epoch::from(*epoch)).collect()),
    })
}

/// Reads a list of sessions of at most `max`.
pub(super) fn sessions(
    field: &'static str,
    raw: &[Bytes],
    max: usize,
) -> Result<Vec<SessionId>, FieldError> {
    if raw.len() > max {
        return Err(FieldError::new(
            field,
            format!("must name at most {max} sessions, found {}", raw.len()),
        ));
    }
    raw.iter().map(|raw| session(raw)).collect()
}

/// Reads a session behind which a list goes on; empty is the beginning.
pub(super) fn cursor(field: &'static str, raw: &[u8]) -> Result<Option<SessionId>, FieldError> {
    match raw {
        [] => Ok(None),
        raw => match SessionId::try_from(raw) {
            Ok(session) => Ok(Some(session)),
            Err(error) => Err(FieldError::new(field, error)),
        },
    }
}

pub(super) fn raw_session(session: &SessionId) -> Bytes {
    Bytes::copy_from_slice(session.as_bytes())
}

pub(super) fn seal(seal: &v1::StoreSeal) -> Result<Seal, FieldError> {
    Ok(Seal {
        store: store_uuid(&seal.store_uuid)?,
        point: SealPoint {
            seq: SealSeq(seal.seal_seq),
            nonce: seal.nonce,
        },
    })
}

pub(super) fn etag(text: &str) -> Result<ETag, FieldError> {
    text.parse()
        .map_err(|error: ETagError| FieldError::new("etag", error))
}

/// Refuses a text that is too long or not printable.
pub(super) fn check_text(field: &'static str, text: &str) -> Result<(), FieldError> {
    if text.len() > MAX_NODE_TEXT || text.chars().any(char::is_control) {
        return Err(FieldError::new(
            field,
            format!("must have at most {MAX_NODE_TEXT} printable bytes"),
        ));
    }
    Ok(())
}
