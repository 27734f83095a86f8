//! The only place that knows the bytes of keys and values; `docs/metadata-format.md` says the same in prose.
//!
//! ```text
//! c                              cluster: uuid [16] · dedup key [32] · incarnation u64
//! m                              placement: version u64 · n u32 · n × (node id · failure domain)
//! n tenant 0x00 name             file: session [16] · version u64 · size u64 · modified ms i64 · blocks u64 · etag
//!                                · content type · chunking · sha256 [· n u32 · n × (key · value) in version 2]
//! s session [16]                 session: 1 · names u32 · CRC-32C of the root u32 · stores · file name · file
//!                                or 2 (tombstone)
//! r session [16]                 recipe root as in cstore-types
//! l session [16]                 release: not before ms i64 · stores
//! t store uuid [16]              store: seal seq u64 · node id
//! texts and byte strings: length u32, bytes · stores: n u32, uuid [16] each · numbers little-endian
//! ```
//! Every value begins with its version, 1; a file with metadata has version 2, so that a program that does not know
//! metadata refuses it instead of losing it. Keys sort by bytes, so names list in their order.

use cstore_types::{
    ClusterUuid, DedupKey, FileName, Incarnation, MapVersion, NodeId, Placement, PlacementNode, SealSeq,
    SessionId, StoreUuid, Tenant, UserMetadata,
};

use super::MetaError;

const VERSION: u8 = 1;
/// Of a file with metadata.
const WITH_METADATA: u8 = 2;
pub(crate) const CLUSTER: &[u8] = b"c";
pub(crate) const PLACEMENT: &[u8] = b"m";
pub(crate) const NAMES: u8 = b'n';
pub(crate) const RELEASES: u8 = b'l';
pub(crate) const STORES: u8 = b't';

pub(crate) fn name_key(tenant: &Tenant, name: &FileName) -> Vec<u8> {
    let mut key = names_prefix(tenant);
    key.extend(name.as_str().as_bytes());
    key
}

/// What all names of a tenant begin with. A tenant has no NUL, so tenants do not mix.
pub(crate) fn names_prefix(tenant: &Tenant) -> Vec<u8> {
    let mut key = vec![NAMES];
    key.extend(tenant.as_str().as_bytes());
    key.push(0);
    key
}

/// The tenant of a name's key.
pub(crate) fn tenant_of(key: &[u8]) -> Result<Tenant, MetaError> {
    let tenant = key.get(1..).and_then(|rest| rest.split(|byte| *byte == 0).next());
    let text = tenant.and_then(|tenant| std::str::from_utf8(tenant).ok()).ok_or_else(|| damaged("key"))?;
    Tenant::new(text).map_err(|_| damaged("key"))
}

pub(crate) fn session_key(session: SessionId) -> Vec<u8> {
    tagged(b's', session.as_bytes())
}

pub(crate) fn root_key(session: SessionId) -> Vec<u8> {
    tagged(b'r', session.as_bytes())
}

pub(crate) fn release_key(session: SessionId) -> Vec<u8> {
    tagged(RELEASES, session.as_bytes())
}

pub(crate) fn store_key(store: StoreUuid) -> Vec<u8> {
    tagged(STORES, store.as_bytes())
}

fn tagged(tag: u8, bytes: &[u8; 16]) -> Vec<u8> {
    let mut key = vec![tag];
    key.extend(bytes);
    key
}

/// The 16 bytes behind a key's tag.
pub(crate) fn uuid_of(key: &[u8]) -> Result<[u8; 16], MetaError> {
    key.get(1..).and_then(|rest| rest.try_into().ok()).ok_or_else(|| damaged("key"))
}

/// Who the cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterRecord {
    pub(crate) cluster: ClusterUuid,
    pub(crate) dedup_key: DedupKey,
    pub(crate) incarnation: Incarnation,
}

/// A visible file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileRecord {
    pub(crate) session: SessionId,
    pub(crate) version: u64,
    pub(crate) size: u64,
    pub(crate) modified_ms: i64,
    pub(crate) blocks: u64,
    pub(crate) etag: String,
    pub(crate) content_type: String,
    pub(crate) chunking: String,
    pub(crate) sha256: Vec<u8>,
    pub(crate) metadata: UserMetadata,
}

/// What became of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SessionRecord {
    /// It published a file.
    Committed {
        /// Names that share its blocks.
        names: u32,
        /// CRC-32C of the recipe root: a repeated commit must bring the same.
        root_crc: u32,
        /// Stores that hold its reference sets.
        stores: Vec<StoreUuid>,
        /// Under which name, and what was answered.
        name: String,
        /// The file as it was published.
        file: Box<FileRecord>,
    },
    /// It will never commit.
    Tombstoned,
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
    pub(crate) seal_seq: SealSeq,
    pub(crate) node: NodeId,
}

struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        Self::versioned(VERSION)
    }

    fn versioned(version: u8) -> Self {
        Self(vec![version])
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend((bytes.len() as u32).to_le_bytes());
        self.0.extend(bytes);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn stores(mut self, stores: &[StoreUuid]) -> Self {
        self.0.extend((stores.len() as u32).to_le_bytes());
        stores.iter().for_each(|store| self.0.extend(store.as_bytes()));
        self
    }
}

/// Takes fields off the front of stored bytes.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

fn damaged(what: &str) -> MetaError {
    MetaError::Damaged(format!("{what} has other bytes than this program writes"))
}

impl<'a> Fields<'a> {
    fn value(bytes: &'a [u8]) -> Result<Self, MetaError> {
        Self::versioned(bytes, &[VERSION]).map(|(_, fields)| fields)
    }

    fn versioned(bytes: &'a [u8], known: &[u8]) -> Result<(u8, Self), MetaError> {
        match bytes.split_first() {
            Some((version, rest)) if known.contains(version) => Ok((*version, Self(rest))),
            Some((version, _)) => {
                Err(MetaError::Damaged(format!("value has version {version}, known are {known:?}")))
            }
            None => Err(damaged("value")),
        }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], MetaError> {
        let (front, rest) = self.0.split_at_checked(len).ok_or_else(|| damaged("value"))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MetaError> {
        self.take(N)?.try_into().map_err(|_| damaged("value"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, MetaError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, MetaError> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], MetaError> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    fn text(&mut self) -> Result<String, MetaError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| damaged("text"))
    }

    fn stores(&mut self) -> Result<Vec<StoreUuid>, MetaError> {
        let count = self.u32()?;
        (0..count).map(|_| self.array().map(StoreUuid::from_bytes)).collect()
    }

    fn metadata(&mut self) -> Result<UserMetadata, MetaError> {
        let count = self.u32()?;
        let entries: Result<Vec<_>, MetaError> =
            (0..count).map(|_| Ok((self.text()?, self.text()?))).collect();
        UserMetadata::new(entries?).map_err(|error| MetaError::Damaged(error.to_string()))
    }

    pub(super) fn end(&self) -> Result<(), MetaError> {
        if self.0.is_empty() { Ok(()) } else { Err(damaged("value")) }
    }
}

impl ClusterRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let writer = Writer::new().raw(self.cluster.as_bytes()).raw(self.dedup_key.as_bytes());
        writer.raw(&self.incarnation.0.to_le_bytes()).0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let mut fields = Fields::value(bytes)?;
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
        let version = if self.metadata.is_empty() { VERSION } else { WITH_METADATA };
        let mut writer = Writer::versioned(version).raw(self.session.as_bytes());
        for number in [self.version, self.size, self.modified_ms.cast_unsigned(), self.blocks] {
            writer = writer.raw(&number.to_le_bytes());
        }
        writer = writer.bytes(self.etag.as_bytes()).bytes(self.content_type.as_bytes());
        writer = writer.bytes(self.chunking.as_bytes()).bytes(&self.sha256);
        if version == WITH_METADATA {
            writer = writer.raw(&(self.metadata.len() as u32).to_le_bytes());
            for (key, value) in self.metadata.iter() {
                writer = writer.bytes(key.as_bytes()).bytes(value.as_bytes());
            }
        }
        writer.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let (version, mut fields) = Fields::versioned(bytes, &[VERSION, WITH_METADATA])?;
        let record = Self {
            session: SessionId::from_bytes(fields.array()?),
            version: fields.u64()?,
            size: fields.u64()?,
            modified_ms: fields.u64()?.cast_signed(),
            blocks: fields.u64()?,
            etag: fields.text()?,
            content_type: fields.text()?,
            chunking: fields.text()?,
            sha256: fields.bytes()?.to_vec(),
            metadata: if version == WITH_METADATA { fields.metadata()? } else { UserMetadata::default() },
        };
        fields.end()?;
        Ok(record)
    }
}

impl SessionRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Committed { names, root_crc, stores, name, file } => {
                let writer = Writer::new().raw(&[1]).raw(&names.to_le_bytes()).raw(&root_crc.to_le_bytes());
                writer.stores(stores).bytes(name.as_bytes()).bytes(&file.encode()).0
            }
            Self::Tombstoned => Writer::new().raw(&[2]).0,
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let mut fields = Fields::value(bytes)?;
        let record = match fields.array()? {
            [1] => Self::Committed {
                names: fields.u32()?,
                root_crc: fields.u32()?,
                stores: fields.stores()?,
                name: fields.text()?,
                file: Box::new(FileRecord::decode(fields.bytes()?)?),
            },
            [2] => Self::Tombstoned,
            _ => return Err(damaged("session")),
        };
        fields.end()?;
        Ok(record)
    }
}

impl ReleaseRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        Writer::new().raw(&self.not_before_ms.to_le_bytes()).stores(&self.stores).0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let mut fields = Fields::value(bytes)?;
        let record = Self { not_before_ms: fields.u64()?.cast_signed(), stores: fields.stores()? };
        fields.end()?;
        Ok(record)
    }
}

impl StoreRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        Writer::new().raw(&self.seal_seq.0.to_le_bytes()).bytes(self.node.as_str().as_bytes()).0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let mut fields = Fields::value(bytes)?;
        let seal_seq = SealSeq(fields.u64()?);
        let node = NodeId::new(&fields.text()?).map_err(|_| damaged("node id"))?;
        fields.end()?;
        Ok(Self { seal_seq, node })
    }
}

pub(crate) fn encode_placement(placement: &Placement) -> Vec<u8> {
    let mut writer = Writer::new().raw(&placement.version().0.to_le_bytes());
    writer = writer.raw(&(placement.nodes().len() as u32).to_le_bytes());
    for node in placement.nodes() {
        writer = writer.bytes(node.id.as_str().as_bytes()).bytes(node.failure_domain.as_bytes());
    }
    writer.0
}

pub(crate) fn decode_placement(bytes: &[u8]) -> Result<Placement, MetaError> {
    let mut fields = Fields::value(bytes)?;
    let version = MapVersion(fields.u64()?);
    let count = fields.u32()?;
    let mut nodes = Vec::new();
    for _ in 0..count {
        let id = NodeId::new(&fields.text()?).map_err(|_| damaged("node id"))?;
        nodes.push(PlacementNode { id, failure_domain: fields.text()? });
    }
    fields.end()?;
    Placement::new(version, nodes).map_err(|error| MetaError::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn file() -> FileRecord {
        FileRecord {
            session: SessionId::from_bytes([1; 16]),
            version: 2,
            size: 3,
            modified_ms: -4,
            blocks: 5,
            etag: "e-1".to_owned(),
            content_type: "text/plain".to_owned(),
            chunking: "fixed:64".to_owned(),
            sha256: vec![9; 32],
            metadata: UserMetadata::default(),
        }
    }

    #[test]
    fn values_survive_their_bytes() {
        let stores = vec![StoreUuid::from_bytes([7; 16])];
        assert_eq!(FileRecord::decode(&file().encode()), Ok(file()));
        let session = SessionRecord::Committed {
            names: 2,
            root_crc: 3,
            stores: stores.clone(),
            name: "a".to_owned(),
            file: Box::new(file()),
        };
        assert_eq!(SessionRecord::decode(&session.encode()), Ok(session));
        assert_eq!(SessionRecord::decode(&SessionRecord::Tombstoned.encode()), Ok(SessionRecord::Tombstoned));
        let release = ReleaseRecord { not_before_ms: 9, stores };
        assert_eq!(ReleaseRecord::decode(&release.encode()), Ok(release));
        let store = StoreRecord { seal_seq: SealSeq(4), node: NodeId::new("s1").unwrap() };
        assert_eq!(StoreRecord::decode(&store.encode()), Ok(store));
        let node = PlacementNode { id: NodeId::new("s1").unwrap(), failure_domain: "d".to_owned() };
        let placement = Placement::new(MapVersion(1), vec![node]).unwrap();
        assert_eq!(decode_placement(&encode_placement(&placement)), Ok(placement));
    }

    #[test]
    fn the_layout_of_a_file_is_pinned() {
        let expected = concat!(
            "01",
            "01010101010101010101010101010101",
            "0200000000000000",
            "0300000000000000",
            "fcffffffffffffff",
            "0500000000000000",
            "03000000",
            "652d31",
            "0a000000",
            "746578742f706c61696e",
            "08000000",
            "66697865643a3634",
            "20000000",
        );
        let bytes = file().encode();
        assert!(hex::encode(&bytes).starts_with(expected), "{}", hex::encode(&bytes));
        let (tenant, name) = (Tenant::new("t").unwrap(), FileName::new("a/b").unwrap());
        assert_eq!(name_key(&tenant, &name), b"nt\0a/b");
        assert_eq!(name_key(&Tenant::default(), &name), b"n\0a/b");
        for tenant in [tenant, Tenant::default()] {
            assert_eq!(tenant_of(&name_key(&tenant, &name)), Ok(tenant));
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
        assert!(FileRecord::decode(&newer).unwrap_err().to_string().contains("version 3"));
    }

    #[test]
    fn a_file_without_metadata_is_what_it_was_before_there_was_metadata() {
        let plain = file().encode();
        assert_eq!(plain[0], 1);
        let metadata = UserMetadata::new([("a", "1"), ("b", "")]).unwrap();
        let noted = FileRecord { metadata, ..file() };
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
