//! Limits that two parts of the system must agree on, and limits of the values in this crate.

crate::limits! {
    /// Largest block; the smallest has one byte. A larger BLOCK_SIZE is refused at the start, a
    /// larger block is a broken frame or file.
    pub bytes MAX_BLOCK_BYTES: usize = 4 << 20;
    /// Smallest BLOCK_SIZE; the last block of a file may be shorter. A block takes about 170 bytes
    /// beside its own. A smaller setting is refused at the start.
    pub bytes MIN_BLOCK_SIZE: usize = 64;
    /// Most block ids in one frame, seal or reference set. A file with more blocks is sealed in
    /// parts; a frame with more is refused.
    pub count MAX_IDS: usize = 8_192;
    /// Most payload bytes that one request frame may carry as blocks. A worker sends more in
    /// several frames; a storage node refuses a larger one.
    pub bytes MAX_REQUEST_BYTES: usize = 8 << 20;
    /// Bytes of an upload after which a part of it is sealed, unless it has as many ids as fit
    /// before. The upload goes on with the next part.
    pub bytes MAX_PART_BYTES: u64 = 64 << 20;

    /// Largest encoded root of a recipe, the part of it that the master keeps. A larger one is
    /// refused as invalid.
    pub bytes MAX_ROOT_BYTES: usize = 4 << 10;
    /// Most entries of one recipe leaf. A file with more blocks gets more leaves.
    pub count MAX_LEAF_ENTRIES: usize = 1_024;
    /// Most entries of a recipe root, as many as fit into its bytes. A file with more gets another
    /// level of leaves.
    pub count MAX_ROOT_ENTRIES: usize = 100;
    /// Most levels of leaves below a root, for more blocks than any store holds. A deeper recipe is
    /// refused as damaged.
    pub count MAX_RECIPE_DEPTH: u8 = 4;

    /// Longest name of a file. A longer one is refused with 400.
    pub bytes MAX_NAME_BYTES: usize = 1_024;
    /// Longest content type of a file. A longer one is refused.
    pub bytes MAX_CONTENT_TYPE_BYTES: usize = 255;
    /// Most entries of metadata that a user may store with a file. More are refused with 400.
    pub count MAX_METADATA_ENTRIES: usize = 32;
    /// Longest key of a metadata entry. A longer one is refused with 400.
    pub bytes MAX_METADATA_KEY: usize = 64;
    /// Longest value of a metadata entry. A longer one is refused with 400.
    pub bytes MAX_METADATA_VALUE: usize = 1_024;
    /// Most bytes of all metadata keys and values of a file together. More are refused with 400.
    pub bytes MAX_METADATA_BYTES: usize = 4 << 10;
    /// Longest name of a tenant. A longer one is refused.
    pub bytes MAX_TENANT_BYTES: usize = 64;
    /// Characters of a refused ETag that the error repeats. The rest is left out.
    pub(crate) count MAX_ETAG_SHOWN: usize = 64;

    /// Largest body that a worker takes in one unary call, as it advertises. A larger one is streamed.
    pub bytes MAX_SMALL_BYTES: usize = 1 << 20;
    /// Largest body that is sent in one unary call to a worker that advertises nothing: a program from
    /// before workers did. A larger one is streamed.
    pub bytes UNADVERTISED_SMALL_BYTES: usize = 64 << 10;
    /// Most tickets that one BeginUpload may ask for. A request for more is refused.
    pub count MAX_TICKETS: u32 = 64;
    /// Most files on one page of a list. A request for more is refused with 400.
    pub count MAX_PAGE_SIZE: u32 = 1_000;
    /// Most files of one question about the space that they use. A prefix with more is refused with
    /// 400.
    pub count MAX_USAGE_SESSIONS: usize = 4_096;

    /// Most sessions that one heartbeat of a storage node acknowledges, and that it reports as
    /// unknown. More follow in the next heartbeats; the master refuses a report with more.
    pub count MAX_REPORTED_SESSIONS: usize = 1_000;
    /// Most sessions that one answer to a heartbeat releases. An answer with as many makes the node
    /// ask again at once.
    pub count MAX_RELEASED_SESSIONS: usize = 1_000;
    /// Most running uploads that one heartbeat of a worker names. More take turns; the master
    /// refuses a report with more.
    pub count MAX_ACTIVE_SESSIONS: usize = 10_000;

    /// Placement partitions, a fixed number. Each belongs to one storage node.
    pub count PARTITIONS: u16 = 4_096;
    /// Most storage nodes of a placement map. A CSTORE_STORAGE_NODES above it is refused at the
    /// start.
    pub count MAX_STORAGE_NODES: usize = 256;
    /// Most seals of one store that a commit may name: one for each start of the node during the
    /// upload.
    pub count MAX_STORE_SEALS: usize = 16;

    /// Most items of a list that `cstore admin inspect` prints. The rest is counted.
    pub count MAX_INSPECTED_SHOWN: usize = 20;

    /// Shortest cluster secret. A role does not start with a shorter one.
    pub(crate) bytes MIN_SECRET_BYTES: usize = 32;
    /// Longest cluster secret. A role does not start with a longer one.
    pub(crate) bytes MAX_SECRET_BYTES: usize = 1_024;
}
