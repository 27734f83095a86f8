//! Who calls an inner door.

use std::fmt;

/// What a caller of the gRPC plane proves to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Caller {
    /// The REST door.
    Gateway,
    /// Moves data.
    Worker,
    /// Keeps data.
    Storage,
    /// A person with the cluster secret and grpcurl.
    Operator,
}

impl Caller {
    /// All of them, for tables and tests.
    pub const ALL: [Self; 4] = [Self::Gateway, Self::Worker, Self::Storage, Self::Operator];

    /// As it stands in bearers and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Storage => "storage",
            Self::Operator => "operator",
        }
    }

    /// The caller of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|caller| caller.as_str() == name)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
