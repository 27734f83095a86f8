//! The only place that knows the bytes of keys and values; `docs/metadata-format.md` says the same
//! in prose.
//!
//! ```text
//! c                              cluster: uuid [16] · dedup key [32] · incarnation u64
//! m                              placement: version u64 · n u32 · n × (node id · failure domain)
//! n tenant 0x00 name             file: session [16] · version u64 · size u64 · modified ms i64 · blocks u64 · etag
//!                                · content type · chunking · sha256 [· n u32 · n × (key · value) in version 2]
//! s session [16]                 session: 1 · names u32 · CRC-32C of the root u32 · stores · file name · file
//!                                or tombstone: 2 [· had committed u8 · version u64 · publication u32 in version 3]
//!                                or kept: 3, in version 4
//! r session [16]                 recipe root as in cstore-types
//! l session [16]                 release: not before ms i64 · stores
//! y term u64 big-endian          life: incarnation u64 · number u64 · first position u64 · link before it u64
//! e                              era: first bytes of the ids of its sessions [6]
//! t store uuid [16]              store: seal seq u64 [· nonce of its epoch u64 from version 2 on]
//!                                [· accepted point as in cstore-types in version 3] · node id
//!                                in versions 4 and 5: state u8 · seal seq u64 · nonce u64 · accepted point
//!                                · seal in doubt seq u64 · its nonce u64, zero in version 4 · zero [16] · node id
//! texts and byte strings: length u32, bytes · stores: n u32, uuid [16] each · numbers little-endian
//! ```
//! Every value begins with its version, 1. A file with metadata and a store whose newest seal lies
//! in an epoch have version 2, a tombstone that keeps how its session ended has version 3, and a
//! session that is kept has version 4, so that a program that does not know them refuses them
//! instead of losing them. Keys sort by bytes, so names list in their order.

use cstore_types::codec::{FieldWriter, Fields};
use cstore_types::epoch::{SealPoint, SeenSeals};
use cstore_types::history::{Life, Point};
use cstore_types::{
    ClusterUuid, DedupKey, FileMeta, FileName, Incarnation, MapVersion, NodeId, Placement,
    PlacementNode, SealSeq, SessionEra, SessionId, StoreUuid, Tenant, UserMetadata,
};

use super::DamageKind;
pub(crate) use super::publication::Publication;

/// Version of all values but those below.
const VERSION: u8 = 1;
/// Version of a file with user metadata.
const WITH_METADATA: u8 = 2;
/// Version of a tombstone that records whether its session had committed, but not what it had
/// published. Read, but no longer written.
const WITH_VERSION: u8 = 2;
/// Version of a tombstone that keeps how its session ended.
const WITH_ENDING: u8 = 3;
/// Version of a session that is kept.
const WITH_KEPT: u8 = 4;
/// Versions of a session record that this program reads.
const SESSION_VERSIONS: &[u8] = &[VERSION, WITH_VERSION, WITH_ENDING, WITH_KEPT];
/// Version of a store whose newest seal lies in an epoch.
const STORE_WITH_NONCE: u8 = 2;
/// Version of a store whose node goes on with this master although it has obeyed another history.
const STORE_WITH_ACCEPTED: u8 = 3;
/// Version of a store that is not up, with room for what a store will have: how far its releases
/// have come, the newest map that it knows, and 16 bytes more.
const STORE_WITH_STATE: u8 = 4;
/// Version of a store of which a file rests on a seal that was made in doubt.
const STORE_IN_DOUBT: u8 = 5;
/// Versions of a store record that this program reads.
const STORE_VERSIONS: &[u8] = &[
    VERSION,
    STORE_WITH_NONCE,
    STORE_WITH_ACCEPTED,
    STORE_WITH_STATE,
    STORE_IN_DOUBT,
];
/// Bytes of a store record of these versions that are zero until they are used.
const STORE_RESERVED: usize = 16;
/// Tags of a session record.
const COMMITTED: u8 = 1;
const ENDED: u8 = 2;
const KEPT: u8 = 3;
pub(crate) const CLUSTER: &[u8] = b"c";
pub(crate) const PLACEMENT: &[u8] = b"m";
pub(crate) const NAMES: u8 = b'n';
pub(crate) const SESSIONS: u8 = b's';
pub(crate) const ROOTS: u8 = b'r';
pub(crate) const RELEASES: u8 = b'l';
pub(crate) const STORES: u8 = b't';
pub(crate) const LIVES: u8 = b'y';
pub(crate) const ERA: &[u8] = b"e";

pub(crate) fn name_key(tenant: &Tenant, name: &FileName) -> Vec<u8> {
    names_key(tenant, name.as_str().as_bytes())
}

/// Returns the prefix of all names of a tenant. A tenant has no NUL, so tenants do not mix.
pub(crate) fn names_prefix(tenant: &Tenant) -> Vec<u8> {
    names_key(tenant, b"")
}

fn names_key(tenant: &Tenant, rest: &[u8]) -> Vec<u8> {
    [&[NAMES], tenant.as_str().as_bytes(), b"\0", rest].concat()
}

/// Returns the tenant of a name's key.
pub(crate) fn tenant_of(key: &[u8]) -> Result<Tenant, DamageKind> {
    let tenant = key
        .get(1..)
        .and_then(|rest| rest.split(|byte| *byte == 0).next());
    let text = tenant
        .and_then(|tenant| std::str::from_utf8(tenant).ok())
        .ok_or(DamageKind::Layout("key"))?;
    Tenant::new(text).map_err(|_| DamageKind::Layout("key"))
}

pub(crate) fn session_key(session: SessionId) -> Vec<u8> {
    tagged(SESSIONS, session.as_bytes())
}

pub(crate) fn root_key(session: SessionId) -> Vec<u8> {
    tagged(ROOTS, session.as_bytes())
}

pub(crate) fn release_key(session: SessionId) -> Vec<u8> {
    tagged(RELEASES, session.as_bytes())
}

pub(crate) fn store_key(store: StoreUuid) -> Vec<u8> {
    tagged(STORES, store.as_bytes())
}

fn tagged(tag: u8, bytes: &[u8; 16]) -> Vec<u8> {
    [&[tag], &bytes[..]].concat()
}

/// Returns the 16 bytes behind a key's tag.
pub(crate) fn uuid_of(key: &[u8]) -> Result<[u8; 16], DamageKind> {
    key.get(1..)
        .and_then(|rest| rest.try_into().ok())
        .ok_or(DamageKind::Layout("key"))
}

/// Identity of the cluster and the key of its block ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterRecord {
    pub(crate) cluster: ClusterUuid,
    pub(crate) dedup_key: DedupKey,
    pub(crate) incarnation: Incarnation,
}

/// A visible file: its metadata and the session whose blocks it shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileRecord {
    pub(crate) session: SessionId,
    pub(crate) meta: FileMeta,
}

/// The verdict on a session that has ended or committed, or is kept. A session without a record is
/// open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SessionRecord {
    /// The session published a file that is still there.
    Committed(Box<CommittedSession>),
    /// The session will never publish anything (again): a tombstone.
    Ended(Ending),
    /// The session will never publish anything here, but may have done so in another history of
    /// the metadata: its blocks stay until an operator drops them.
    Kept,
}

/// A session that published a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommittedSession {
    /// Names that share its blocks.
    pub(crate) names: u32,
    /// CRC-32C of the recipe root: a repeated commit must bring the same.
    pub(crate) root_crc: u32,
    /// Stores that hold its reference sets.
    pub(crate) stores: Vec<StoreUuid>,
    /// The name under which it was published.
    pub(crate) name: FileName,
    /// The file as it was published.
    pub(crate) file: FileRecord,
}

/// How a session came to its tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The tombstone was written by a program that did not keep how the session ended.
    Unknown,
    /// The session never committed.
    Aborted,
    /// The session committed, and later its last name was removed or overwritten.
    Removed {
        /// The version of the file that the commit published.
        version: u64,
        /// Checksum of the name and content that the commit published.
        publication: Publication,
    },
}

/// Stores that still have to drop the reference sets of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReleaseRecord {
    pub(crate) not_before_ms: i64,
    pub(crate) stores: Vec<StoreUuid>,
}

/// A storage disk that ever registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreRecord {
    /// Newest seals of the disk on which files rest.
    pub(crate) seen: SeenSeals,
    /// Place in another history that the node has obeyed and that a person has accepted; the origin
    /// if there is none.
    pub(crate) accepted: Point,
    pub(crate) state: StoreState,
    pub(crate) node: NodeId,
}

/// State of a store that an operator has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum StoreState {
    /// No operator has excused the store.
    #[default]
    Up,
    /// Excused by an operator while its node is down: releases do not wait for it.
    Away,
}

/// Begins a value. The capacity fits the records of most files.
fn writer(version: u8) -> FieldWriter {
    FieldWriter::with_capacity(192).u8(version)
}

fn write_stores(writer: FieldWriter, stores: &[StoreUuid]) -> FieldWriter {
    stores
        .iter()
        .fold(writer.count(stores.len()), |writer, store| {
            writer.raw(store.as_bytes())
        })
}

/// Takes the version off a value; it must be one of `known`.
fn versioned<'a>(bytes: &'a [u8], known: &'static [u8]) -> Result<(u8, Fields<'a>), DamageKind> {
    let mut fields = Fields::new(bytes);
    match fields.u8()? {
        version if known.contains(&version) => Ok((version, fields)),
        found => Err(DamageKind::Version { found, known }),
    }
}

fn read_stores(fields: &mut Fields<'_>) -> Result<Vec<StoreUuid>, DamageKind> {
    let count = fields.u32()?;
    (0..count)
        .map(|_| Ok(StoreUuid::from_bytes(fields.array()?)))
        .collect()
}

fn read_metadata(fields: &mut Fields<'_>) -> Result<UserMetadata, DamageKind> {
    let count = fields.u32()?;
    let entries: Result<Vec<_>, DamageKind> = (0..count)
        .map(|_| Ok((fields.text()?.to_owned(), fields.text()?.to_owned())))
        .collect();
    Ok(UserMetadata::new(entries?)?)
}

fn read_node(fields: &mut Fields<'_>) -> Result<NodeId, DamageKind> {
    NodeId::new(fields.text()?).map_err(|_| DamageKind::Layout("node id"))
}

impl ClusterRecord {
    /// Makes the identity of a new cluster.
    ///
    /// # Errors
    /// The random generator's.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        Ok(Self {
            cluster: ClusterUuid::random()?,
            dedup_key: DedupKey::random()?,
            incarnation: Incarnation(1),
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        writer(VERSION)
            .raw(self.cluster.as_bytes())
            .raw(self.dedup_key.as_bytes())
            .u64(self.incarnation.0)
            .finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DamageKind> {
        let (_, mut fields) = versioned(bytes, &[VERSION])?;
        let record = Self {
            cluster: ClusterUuid::from_bytes(fields.array()?),
            dedup_key: DedupKey::from_bytes(fields.array()?),
            incarnation: Incarnation(fields.u64()?),
        };
        fields.end()?;
        Ok(record)
    }
}

impl FileRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let meta = &self.meta;
        let version = if meta.metadata.is_empty() {
            VERSION
        } else {
            WITH_METADATA
        };
        let mut out = writer(version)
            .raw(self.session.as_bytes())
            .u64(meta.version)
            .u64(meta.size)
            .i64(meta.modified_ms)
            .u64(meta.blocks)
            .text(&meta.etag.to_string())
            .text(&meta.content_type)
            .text(&meta.chunking.to_string())
            .bytes(meta.sha256.as_ref().map_or(&[], |sha256| &sha256[..]));
        if version == WITH_METADATA {
            out = out.count(meta.metadata.len());
            for (key, value) in meta.metadata.iter() {
                out = out.text(key).text(value);
            }
        }
        out.finish()
    }

    /// Reads the size of a stored file, without the rest of it.
    pub(crate) fn size_of(bytes: &[u8]) -> Result<u64, DamageKind> {
        let (_, mut fields) = versioned(bytes, &[VERSION, WITH_METADATA])?;
        let _session: [u8; 16] = fields.array()?;
        let _version = fields.u64()?;
        Ok(fields.u64()?)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DamageKind> {
        let (version, mut fields) = versioned(bytes, &[VERSION, WITH_METADATA])?;
        let session = SessionId::from_bytes(fields.array()?);
        let meta = FileMeta {
            version: fields.u64()?,
            size: fields.u64()?,
            modified_ms: fields.i64()?,
            blocks: fields.u64()?,
            etag: fields.text()?.parse().map_err(DamageKind::ETag)?,
            content_type: fields.text()?.to_owned(),
            chunking: fields.text()?.parse().map_err(DamageKind::Chunking)?,
            sha256: match fields.bytes()? {
                [] => None,
                sha256 => Some(
                    sha256
                        .try_into()
                        .map_err(|_| DamageKind::Layout("sha256"))?,
                ),
            },
            metadata: match version {
                WITH_METADATA => read_metadata(&mut fields)?,
                _ => UserMetadata::default(),
            },
        };
        fields.end()?;
        Ok(Self { session, meta })
    }
}

impl SessionRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let ended = |had_committed: u8, version: u64, publication: u32| {
            writer(WITH_ENDING)
                .u8(ENDED)
                .u8(had_committed)
                .u64(version)
                .u32(publication)
                .finish()
        };
        match self {
            Self::Committed(session) => {
                let CommittedSession {
                    names,
                    root_crc,
                    stores,
                    name,
                    file,
                } = &**session;
                let out = writer(VERSION).u8(COMMITTED).u32(*names).u32(*root_crc);
                write_stores(out, stores)
                    .text(name.as_str())
                    .bytes(&file.encode())
                    .finish()
            }
            Self::Ended(Ending::Unknown) => writer(VERSION).u8(ENDED).finish(),
            Self::Kept => writer(WITH_KEPT).u8(KEPT).finish(),
            Self::Ended(Ending::Aborted) => ended(0, 0, 0),
            Self::Ended(Ending::Removed {
                version,
                publication,
            }) => ended(1, *version, publication.0),
        }
    }

    /// Returns true if a stored session has committed, without reading the rest of the record.
    pub(crate) fn has_committed(bytes: &[u8]) -> Result<bool, DamageKind> {
        let (_, mut fields) = versioned(bytes, SESSION_VERSIONS)?;
        Ok(fields.u8()? == COMMITTED)
    }

    /// Returns true if a stored session is kept, without reading the rest of the record.
    pub(crate) fn is_kept(bytes: &[u8]) -> Result<bool, DamageKind> {
        let (_, mut fields) = versioned(bytes, SESSION_VERSIONS)?;
        Ok(fields.u8()? == KEPT)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DamageKind> {
        let (version, mut fields) = versioned(bytes, SESSION_VERSIONS)?;
        let record = match (version, fields.u8()?) {
            (VERSION, COMMITTED) => Self::Committed(Box::new(CommittedSession {
                names: fields.u32()?,
                root_crc: fields.u32()?,
                stores: read_stores(&mut fields)?,
                name: FileName::new(fields.text()?).map_err(|_| DamageKind::Layout("file name"))?,
                file: FileRecord::decode(fields.bytes()?)?,
            })),
            (VERSION, ENDED) => Self::Ended(Ending::Unknown),
            (WITH_KEPT, KEPT) => Self::Kept,
            (WITH_VERSION, ENDED) => match (fields.u8()?, fields.u64()?) {
                (0, 0) => Self::Ended(Ending::Aborted),
                (1, _) => Self::Ended(Ending::Unknown),
                _ => return Err(DamageKind::Layout("session")),
            },
            (WITH_ENDING, ENDED) => match (fields.u8()?, fields.u64()?, fields.u32()?) {
                (0, 0, 0) => Self::Ended(Ending::Aborted),
                (1, version, publication) => Self::Ended(Ending::Removed {
                    version,
                    publication: Publication(publication),
                }),
                _ => return Err(DamageKind::Layout("session")),
            },
            _ => return Err(DamageKind::Layout("session")),
        };
        fields.end()?;
        Ok(record)
    }
}

impl ReleaseRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        write_stores(writer(VERSION).i64(self.not_before_ms), &self.stores).finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DamageKind> {
        let (_, mut fields) = versioned(bytes, &[VERSION])?;
        let record = Self {
            not_before_ms: fields.i64()?,
            stores: read_stores(&mut fields)?,
        };
        fields.end()?;
        Ok(record)
    }
}

impl StoreRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // A record without a nonce is one that programs before epochs read, too.
        let SeenSeals { newest, in_doubt } = self.seen;
        let (seq, nonce) = (newest.seq.0, newest.nonce);
        let is_sure = in_doubt == SealPoint::default();
        if self.state == StoreState::Away || !is_sure {
            let version = STORE_WITH_STATE + u8::from(!is_sure);
            return writer(version)
                .u8(u8::from(self.state == StoreState::Away))
                .raw(&newest.to_bytes())
                .raw(&self.accepted.to_bytes())
                .raw(&in_doubt.to_bytes())
                .raw(&[0; STORE_RESERVED])
                .text(self.node.as_str())
                .finish();
        }
        match (nonce, self.accepted.is_origin()) {
            (_, false) => writer(STORE_WITH_ACCEPTED)
                .u64(seq)
                .u64(nonce)
                .raw(&self.accepted.to_bytes()),
            (0, true) => writer(VERSION).u64(seq),
            (_, true) => writer(STORE_WITH_NONCE).u64(seq).u64(nonce),
        }
        .text(self.node.as_str())
        .finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DamageKind> {
        let (version, mut fields) = versioned(bytes, STORE_VERSIONS)?;
        let state = match version {
            STORE_WITH_STATE | STORE_IN_DOUBT => match fields.u8()? {
                0 => StoreState::Up,
                1 => StoreState::Away,
                _ => return Err(DamageKind::Layout("state of a store")),
            },
            _ => StoreState::Up,
        };
        let seq = SealSeq(fields.u64()?);
        let nonce = match version {
            VERSION => 0,
            _ => fields.u64()?,
        };
        let accepted = match version {
            STORE_WITH_ACCEPTED | STORE_WITH_STATE | STORE_IN_DOUBT => Point::take(&mut fields)?,
            _ => Point::default(),
        };
        let mut in_doubt = SealPoint::default();
        if matches!(version, STORE_WITH_STATE | STORE_IN_DOUBT) {
            in_doubt = SealPoint::take(&mut fields)?;
            let is_sure = in_doubt == SealPoint::default();
            if fields.array()? != [0; STORE_RESERVED] || is_sure != (version == STORE_WITH_STATE) {
                return Err(DamageKind::Layout("reserved bytes of a store"));
            }
        }
        let record = Self {
            seen: SeenSeals {
                newest: SealPoint { seq, nonce },
                in_doubt,
            },
            accepted,
            state,
            node: read_node(&mut fields)?,
        };
        fields.end()?;
        Ok(record)
    }
}

/// Returns the key of a life.
pub(crate) fn life_key(life: &Life) -> Vec<u8> {
    [&[LIVES][..], &life.term.to_be_bytes()].concat()
}

pub(crate) fn encode_life(life: &Life) -> Vec<u8> {
    writer(VERSION)
        .u64(life.incarnation.0)
        .u64(life.life)
        .u64(life.first)
        .u64(life.chain_before)
        .finish()
}

pub(crate) fn decode_life(key: &[u8], bytes: &[u8]) -> Result<Life, DamageKind> {
    let term = key.get(1..).and_then(|raw| raw.try_into().ok());
    let term = u64::from_be_bytes(term.ok_or(DamageKind::Layout("key of a life"))?);
    let (_, mut fields) = versioned(bytes, &[VERSION])?;
    let life = Life {
        incarnation: Incarnation(fields.u64()?),
        term,
        life: fields.u64()?,
        first: fields.u64()?,
        chain_before: fields.u64()?,
    };
    fields.end()?;
    Ok(life)
}

/// Returns the value of an era.
pub(crate) fn encode_era(era: SessionEra) -> Vec<u8> {
    writer(VERSION).raw(era.as_bytes()).finish()
}

pub(crate) fn decode_era(bytes: &[u8]) -> Result<SessionEra, DamageKind> {
    let (_, mut fields) = versioned(bytes, &[VERSION])?;
    let era = SessionEra::from_bytes(fields.array()?);
    fields.end()?;
    Ok(era)
}

pub(crate) fn encode_placement(placement: &Placement) -> Vec<u8> {
    let out = writer(VERSION)
        .u64(placement.version().0)
        .count(placement.nodes().len());
    let add = |out: FieldWriter, node: &PlacementNode| {
        out.text(node.id.as_str()).text(&node.failure_domain)
    };
    placement.nodes().iter().fold(out, add).finish()
}

pub(crate) fn decode_placement(bytes: &[u8]) -> Result<Placement, DamageKind> {
    let (_, mut fields) = versioned(bytes, &[VERSION])?;
    let version = MapVersion(fields.u64()?);
    let count = fields.u32()?;
    let mut nodes = Vec::new();
    for _ in 0..count {
        let id = read_node(&mut fields)?;
        nodes.push(PlacementNode {
            id,
            failure_domain: fields.text()?.to_owned(),
        });
    }
    fields.end()?;
    Ok(Placement::new(version, nodes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> FileRecord {
        FileRecord {
            session: SessionId::from_bytes([1; 16]),
            meta: FileMeta {
                version: 2,
                size: 3,
                modified_ms: -4,
                blocks: 5,
                etag: "9e107d9d372bb6826bd81d3542a419d6-5".parse().unwrap(),
                content_type: "text/plain".to_owned(),
                chunking: "fixed:64".parse().unwrap(),
                sha256: Some([9; 32]),
                metadata: UserMetadata::default(),
            },
        }
    }

    #[test]
    fn cut_and_newer_values_are_refused() {
        let bytes = file().encode();
        for cut in 0..bytes.len() {
            assert!(FileRecord::decode(&bytes[..cut]).is_err());
        }
        let mut newer = bytes;
        newer[0] = 3;
        assert!(
            FileRecord::decode(&newer)
                .unwrap_err()
                .to_string()
                .contains("version 3")
        );
    }

    #[test]
    fn a_file_without_metadata_is_what_it_was_before_there_was_metadata() {
        let plain = file().encode();
        assert_eq!(plain[0], 1);
        let metadata = UserMetadata::new([("a", "1"), ("b", "")]).unwrap();
        let noted = FileRecord {
            meta: FileMeta {
                metadata,
                ..file().meta
            },
            ..file()
        };
        let bytes = noted.encode();
        assert_eq!((bytes[0], &bytes[1..plain.len()]), (2, &plain[1..]));
        assert_eq!(
            hex::encode(&bytes[plain.len()..]),
            "02000000010000006101000000310100000062".to_owned() + "00000000"
        );
        assert_eq!(FileRecord::decode(&bytes), Ok(noted));
        for cut in 0..bytes.len() {
            assert!(FileRecord::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
