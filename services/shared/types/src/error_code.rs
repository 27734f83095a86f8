//! One error vocabulary and its three renderings: HTTP status, gRPC code, one byte on the wire.
//!
//! The matches are exhaustive on purpose: a new code cannot be forgotten in one of them.

/// Class of a failure, by what a caller can do about it. See `docs/errors.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The name or block does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A condition that the caller stated does not hold.
    PreconditionFailed,
    /// The request itself is wrong; repeating it does not help.
    InvalidArgument,
    /// The range lies outside of the file.
    RangeNotSatisfiable,
    /// No valid credential was given.
    Unauthenticated,
    /// The credential does not allow this.
    PermissionDenied,
    /// The body or message is over its limit.
    TooLarge,
    /// The store has no room; deleting files helps.
    Full,
    /// Too much work at once; retry later.
    Overloaded,
    /// The caller itself uses more than its share; retry later, and more slowly.
    RateLimited,
    /// The request does not state how long its body is.
    LengthRequired,
    /// A part of the cluster cannot be reached; retry later.
    Unavailable,
    /// A storage disk is in doubt and does not do this now; retry after the right disk or master is
    /// back, or a person has decided.
    StorageHold,
    /// The metadata may be an older copy and takes no changes; retry after the right one is back,
    /// or a person has decided.
    MetadataOlder,
    /// The time allowed is over; whether the request was carried out is unknown.
    Deadline,
    /// Stored bytes are damaged or gone.
    DataLoss,
    /// A defect of C-Store.
    Internal,
}

impl ErrorCode {
    /// All codes, for tables and tests.
    pub const ALL: [Self; 18] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::PreconditionFailed,
        Self::InvalidArgument,
        Self::RangeNotSatisfiable,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::TooLarge,
        Self::Full,
        Self::Overloaded,
        Self::RateLimited,
        Self::LengthRequired,
        Self::Unavailable,
        Self::StorageHold,
        Self::MetadataOlder,
        Self::Deadline,
        Self::DataLoss,
        Self::Internal,
    ];

    /// Stable name: `error.code` in HTTP bodies, `reason` in gRPC's ErrorInfo.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PreconditionFailed => "precondition_failed",
            Self::InvalidArgument => "invalid_argument",
            Self::RangeNotSatisfiable => "range_not_satisfiable",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::TooLarge => "too_large",
            Self::Full => "full",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::LengthRequired => "length_required",
            Self::Unavailable => "unavailable",
            Self::StorageHold => "storage_hold",
            Self::MetadataOlder => "metadata_older",
            Self::Deadline => "deadline",
            Self::DataLoss => "data_loss",
            Self::Internal => "internal",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// HTTP status (RFC 9110; 429 from RFC 6585, 507 from RFC 4918).
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::AlreadyExists => 409,
            Self::PreconditionFailed => 412,
            Self::InvalidArgument => 400,
            Self::RangeNotSatisfiable => 416,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::TooLarge => 413,
            Self::LengthRequired => 411,
            Self::RateLimited => 429,
            Self::Full => 507,
            Self::Overloaded | Self::Unavailable | Self::StorageHold | Self::MetadataOlder => 503,
            Self::Deadline => 504,
            Self::DataLoss | Self::Internal => 500,
        }
    }

    /// Number of the gRPC status code (google.rpc.Code).
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PreconditionFailed => 9,
            Self::InvalidArgument | Self::TooLarge | Self::LengthRequired => 3,
            Self::RangeNotSatisfiable => 11,
            Self::Unauthenticated => 16,
            Self::PermissionDenied => 7,
            Self::Full | Self::RateLimited => 8,
            Self::Overloaded | Self::Unavailable | Self::StorageHold | Self::MetadataOlder => 14,
            Self::Deadline => 4,
            Self::DataLoss => 15,
            Self::Internal => 13,
        }
    }

    /// The code for a gRPC status that came without an ErrorInfo of ours. Unknown is what a broken
    /// connection gives.
    pub const fn from_grpc_code(code: i32) -> Self {
        match code {
            3 => Self::InvalidArgument,
            4 => Self::Deadline,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::Full,
            9 => Self::PreconditionFailed,
            11 => Self::RangeNotSatisfiable,
            1 | 2 | 14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Internal,
        }
    }

    /// One byte in an ERROR frame.
    pub const fn wire_byte(self) -> u8 {
        match self {
            Self::NotFound => 1,
            Self::AlreadyExists => 2,
            Self::PreconditionFailed => 3,
            Self::InvalidArgument => 4,
            Self::RangeNotSatisfiable => 5,
            Self::Unauthenticated => 6,
            Self::PermissionDenied => 7,
            Self::TooLarge => 8,
            Self::Full => 9,
            Self::Overloaded => 10,
            Self::Unavailable => 11,
            Self::Deadline => 12,
            Self::DataLoss => 13,
            Self::Internal => 14,
            Self::StorageHold => 15,
            Self::MetadataOlder => 16,
            Self::RateLimited => 17,
            Self::LengthRequired => 18,
        }
    }

    /// The code for peers that know the first 14 only.
    pub const fn for_earlier_peers(self) -> Self {
        match self {
            Self::StorageHold | Self::MetadataOlder => Self::Unavailable,
            Self::RateLimited => Self::Overloaded,
            Self::LengthRequired => Self::InvalidArgument,
            known => known,
        }
    }

    /// The inverse of [`Self::wire_byte`].
    pub fn from_wire_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.wire_byte() == byte)
    }

    /// Returns true if the same idempotent request may succeed later without anybody changing it.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Overloaded
                | Self::RateLimited
                | Self::Unavailable
                | Self::StorageHold
                | Self::MetadataOlder
                | Self::Deadline
        )
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_wire_bytes_are_distinct_and_round_trip() {
        let names: HashSet<_> = ErrorCode::ALL.map(ErrorCode::as_str).into();
        let bytes: HashSet<_> = ErrorCode::ALL.map(ErrorCode::wire_byte).into();
        assert_eq!((names.len(), bytes.len()), (18, 18));
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(code));
            assert_eq!(ErrorCode::from_wire_byte(code.wire_byte()), Some(code));
        }
        assert_eq!(ErrorCode::from_wire_byte(0), None);
    }

    #[test]
    fn a_grpc_code_without_details_keeps_its_http_class() {
        for code in ErrorCode::ALL {
            if code == ErrorCode::RateLimited {
                // RESOURCE_EXHAUSTED is also the code of a full store, which is not retried: a
                // caller that cannot tell them apart must not repeat a request for ever.
                continue;
            }
            let back = ErrorCode::from_grpc_code(code.grpc_code());
            assert_eq!(back.http_status() / 100, code.http_status() / 100, "{code}");
        }
    }
}
