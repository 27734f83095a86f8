//! The one durable log under segments and metadata.
