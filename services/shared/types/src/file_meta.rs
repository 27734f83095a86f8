//! A visible file as master, gateway and clients mean it, and the condition under which a name is
//! written.

use crate::chunking::Chunking;
use crate::etag::ETag;
use crate::file_name::FileName;
use crate::user_metadata::UserMetadata;

/// The metadata of a file, whatever names it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// Bytes of the content.
    pub size: u64,
    /// Grows with each change of the name.
    pub version: u64,
    /// Time of the last change. Unix time in milliseconds.
    pub modified_ms: i64,
    /// Tag of the content.
    pub etag: ETag,
    /// MIME type as the client gave it. May be empty.
    pub content_type: String,
    /// How the content was cut.
    pub chunking: Chunking,
    /// Blocks of the content.
    pub blocks: u64,
    /// SHA-256 of the content. `None` unless the client gave it with the upload; it was verified
    /// then.
    pub sha256: Option<[u8; 32]>,
    /// Entries that the user noted beside the file. Empty in lists.
    pub metadata: UserMetadata,
}

/// A file under one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// The name.
    pub name: FileName,
    /// The file.
    pub meta: FileMeta,
}

/// The condition that must hold of a name when it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WriteCondition {
    /// No file has the name.
    #[default]
    Absent,
    /// None: a file of the name is replaced.
    Any,
    /// Some file has the name.
    Exists,
    /// The file of the name has this ETag. The text comes from the client, without quotes: one that
    /// is no ETag of ours matches no file, which is a failed condition and not a malformed request.
    EtagEquals(String),
}
