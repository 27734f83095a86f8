//! Every bound of the system that two parts must agree on, in one place.

/// Largest block in bytes; the smallest has one byte.
pub const MAX_BLOCK_BYTES: usize = 4 << 20;
/// Most ids in one frame, seal or reference set.
pub const MAX_IDS: usize = 8_192;
/// Most payload bytes that one request frame may carry as blocks.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;
/// A part of an upload is sealed when it holds this many bytes (or [`MAX_IDS`] ids).
pub const MAX_PART_BYTES: u64 = 64 << 20;
/// Bytes that one stream may hold in a worker, upload or download.
pub const MAX_STREAM_BYTES: usize = 8 << 20;
/// Largest encoded recipe root, the part of a recipe that the master keeps.
pub const MAX_ROOT_BYTES: usize = 4 << 10;
/// Entries of one recipe leaf.
pub const MAX_LEAF_ENTRIES: usize = 1_024;
/// Entries of a recipe root: what fits [`MAX_ROOT_BYTES`] after its header.
pub const MAX_ROOT_ENTRIES: usize = 100;
/// Levels of leaves below a root: 100 × 1,024⁴ blocks are more than any store holds.
pub const MAX_RECIPE_DEPTH: u8 = 4;
/// Bytes of a file name.
pub const MAX_NAME_BYTES: usize = 1_024;
/// Sessions of one question about the space that they use.
pub const MAX_USAGE_SESSIONS: usize = 4_096;
/// Entries that a user may note beside a file.
pub const MAX_METADATA_ENTRIES: usize = 32;
/// Bytes of a metadata key.
pub const MAX_METADATA_KEY: usize = 64;
/// Bytes of a metadata value.
pub const MAX_METADATA_VALUE: usize = 1_024;
/// Bytes of all metadata keys and values of a file together.
pub const MAX_METADATA_BYTES: usize = 4 << 10;
/// A known body of at most this size may travel in one unary call.
pub const MAX_SMALL_BYTES: usize = 64 << 10;
/// Tickets that one `BeginUpload` may hand out.
pub const MAX_TICKETS: u32 = 64;
/// Files of one list page.
pub const MAX_PAGE_SIZE: u32 = 1_000;
/// Fixed number of placement partitions.
pub const PARTITIONS: u16 = 4_096;
/// Most storage nodes of a placement map.
pub const MAX_STORAGE_NODES: usize = 256;
