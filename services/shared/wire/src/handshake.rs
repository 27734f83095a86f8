//! The three-message handshake: who is there, and both sides' proof that they hold the frame key.
//!
//! ```text
//! Hello    1 · min version u16 · max version u16 · role u8 · cluster [16] · nonce [32] · max frame u32 · id
//! Welcome  2 · version u16 · role u8 · cluster [16] · store [16] · nonce [32] · max frame u32 · credits u32 · id
//!            · proof [32]
//! Refused  3 · error code u8 · min version u16 · max version u16 · text length u16 · text
//! Proof    4 · proof [32]
//! id       length u8 · node id
//! proof    HMAC-SHA256(frame key, direction ‖ Hello ‖ Welcome without its proof)
//!          direction = "cstore frames v2 server" or "cstore frames v2 client"
//! ```
//! Credits are bytes of requests that may be in flight.

use bytes::{BufMut, Bytes, BytesMut};
use cstore_types::codec::CodecError;
use cstore_types::{ClusterUuid, ErrorCode, Fault, FrameKey, NodeId, StoreUuid, error_chain};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::decode_error::DecodeError;
use crate::frame::{MAX_ERROR_TEXT, Payload};

/// Newest version that this program speaks: the answer to a seal may hold the nonce of its epoch.
pub const VERSION: u16 = 3;
/// Oldest version that this program speaks.
pub const MIN_VERSION: u16 = 2;

/// Returns the newest version that is spoken on both sides.
pub(crate) fn common_version(min: u16, max: u16) -> Option<u16> {
    let newest = max.min(VERSION);
    (newest >= min.max(MIN_VERSION)).then_some(newest)
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;
const PROOF: u8 = 4;

/// Role of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends requests.
    Worker,
    /// Serves requests.
    Storage,
}

impl Role {
    const fn byte(self) -> u8 {
        match self {
            Self::Worker => 1,
            Self::Storage => 2,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        match byte {
            1 => Ok(Self::Worker),
            2 => Ok(Self::Storage),
            other => Err(DecodeError::Value {
                field: "role",
                value: other.into(),
            }),
        }
    }
}

/// First message, from the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version that the worker speaks.
    pub min_version: u16,
    /// Newest version that the worker speaks.
    pub max_version: u16,
    /// Role of the sender.
    pub role: Role,
    /// Cluster of the worker.
    pub cluster: ClusterUuid,
    /// Random.
    pub nonce: [u8; 32],
    /// Largest frame that the worker reads, in bytes.
    pub max_frame: u32,
    /// Name of the worker.
    pub node: NodeId,
}

/// Second message, from the storage node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version to speak.
    pub version: u16,
    /// Role of the sender.
    pub role: Role,
    /// Cluster of the storage node.
    pub cluster: ClusterUuid,
    /// Disk of the storage node.
    pub store: StoreUuid,
    /// Random.
    pub nonce: [u8; 32],
    /// Largest frame that the storage node reads, in bytes.
    pub max_frame: u32,
    /// Bytes of requests that may be in flight.
    pub credits: u32,
    /// Name of the storage node.
    pub node: NodeId,
}

/// Answer of a storage node to Hello.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Welcome(Welcome, [u8; 32]),
    Refused(Fault),
}

fn put_node(out: &mut BytesMut, node: &NodeId) {
    out.put_u8(u8::try_from(node.as_str().len()).unwrap_or_default());
    out.put_slice(node.as_str().as_bytes());
}

fn take_node(fields: &mut Payload) -> Result<NodeId, DecodeError> {
    let len = fields.u8()?;
    let text = fields.bytes(len.into())?;
    let text = std::str::from_utf8(&text).map_err(CodecError::from)?;
    Ok(NodeId::new(text)?)
}

fn expect_stage(fields: &mut Payload, stage: u8) -> Result<(), DecodeError> {
    match fields.u8()? {
        found if found == stage => Ok(()),
        found => Err(DecodeError::Value {
            field: "handshake stage",
            value: found.into(),
        }),
    }
}

impl Hello {
    /// The bytes of the module's table.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_u8(HELLO);
        out.put_u16_le(self.min_version);
        out.put_u16_le(self.max_version);
        out.put_u8(self.role.byte());
        out.put_slice(self.cluster.as_bytes());
        out.put_slice(&self.nonce);
        out.put_u32_le(self.max_frame);
        put_node(&mut out, &self.node);
        out.freeze()
    }

    /// # Errors
    /// [`DecodeError`] for anything that [`Self::encode`] does not make.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut fields = Payload::new(payload);
        expect_stage(&mut fields, HELLO)?;
        let hello = Self {
            min_version: fields.u16()?,
            max_version: fields.u16()?,
            role: Role::from_byte(fields.u8()?)?,
            cluster: ClusterUuid::from_bytes(fields.array()?),
            nonce: fields.array()?,
            max_frame: fields.u32()?,
            node: take_node(&mut fields)?,
        };
        fields.end()?;
        Ok(hello)
    }
}

impl Welcome {
    /// The bytes of the module's table, without the proof.
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(192);
        out.put_u8(WELCOME);
        out.put_u16_le(self.version);
        out.put_u8(self.role.byte());
        out.put_slice(self.cluster.as_bytes());
        out.put_slice(self.store.as_bytes());
        out.put_slice(&self.nonce);
        out.put_u32_le(self.max_frame);
        out.put_u32_le(self.credits);
        put_node(&mut out, &self.node);
        out
    }
}

impl Answer {
    pub(crate) fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut fields = Payload::new(payload);
        let answer = match fields.u8()? {
            WELCOME => {
                let welcome = Welcome {
                    version: fields.u16()?,
                    role: Role::from_byte(fields.u8()?)?,
                    cluster: ClusterUuid::from_bytes(fields.array()?),
                    store: StoreUuid::from_bytes(fields.array()?),
                    nonce: fields.array()?,
                    max_frame: fields.u32()?,
                    credits: fields.u32()?,
                    node: take_node(&mut fields)?,
                };
                Self::Welcome(welcome, fields.array()?)
            }
            REFUSED => {
                let byte = fields.u8()?;
                let code = ErrorCode::from_wire_byte(byte).unwrap_or(ErrorCode::PermissionDenied);
                let (min, max, len) = (fields.u16()?, fields.u16()?, fields.u16()?);
                let text = fields.bytes(len.into())?;
                let text = String::from_utf8_lossy(&text);
                Self::Refused(Fault::new(
                    code,
                    format!("{text} (it speaks versions {min} to {max})"),
                ))
            }
            other => {
                return Err(DecodeError::Value {
                    field: "handshake stage",
                    value: other.into(),
                });
            }
        };
        fields.end()?;
        Ok(answer)
    }
}

/// Encodes a Refused message.
pub(crate) fn encode_refused(fault: &Fault) -> Bytes {
    let mut out = BytesMut::new();
    let text: String = error_chain(fault)
        .to_string()
        .chars()
        .take(MAX_ERROR_TEXT / 4)
        .collect();
    out.put_u8(REFUSED);
    out.put_u8(fault.code.wire_byte());
    out.put_u16_le(MIN_VERSION);
    out.put_u16_le(VERSION);
    out.put_u16_le(u16::try_from(text.len()).unwrap_or_default());
    out.put_slice(text.as_bytes());
    out.freeze()
}

/// Encodes a Proof message.
pub(crate) fn encode_proof(proof: [u8; 32]) -> Bytes {
    let mut out = BytesMut::with_capacity(33);
    out.put_u8(PROOF);
    out.put_slice(&proof);
    out.freeze()
}

pub(crate) fn decode_proof(payload: Bytes) -> Result<[u8; 32], DecodeError> {
    let mut fields = Payload::new(payload);
    expect_stage(&mut fields, PROOF)?;
    let proof = fields.array()?;
    fields.end()?;
    Ok(proof)
}

/// Which side proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The worker.
    Client,
    /// The storage node.
    Server,
}

fn mac(key: &FrameKey, direction: Direction, hello: &[u8], welcome: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(match direction {
        Direction::Client => b"cstore frames v2 client",
        Direction::Server => b"cstore frames v2 server",
    });
    mac.update(hello);
    mac.update(welcome);
    mac
}

/// Returns the proof of one side over both messages.
pub fn prove(key: &FrameKey, direction: Direction, hello: &[u8], welcome: &[u8]) -> [u8; 32] {
    mac(key, direction, hello, welcome)
        .finalize()
        .into_bytes()
        .into()
}

/// Checks a proof in constant time.
pub fn is_proof(
    key: &FrameKey,
    direction: Direction,
    hello: &[u8],
    welcome: &[u8],
    proof: &[u8; 32],
) -> bool {
    mac(key, direction, hello, welcome)
        .verify_slice(proof)
        .is_ok()
}
