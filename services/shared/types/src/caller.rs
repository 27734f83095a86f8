//! Callers of the gRPC plane.

use std::fmt;

/// Kind of a caller of the gRPC plane, which its bearer proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Caller {
    /// The REST gateway.
    Gateway,
    /// A worker, which moves data.
    Worker,
    /// A storage node, which keeps data.
    Storage,
    /// A person with the cluster secret and grpcurl.
    Operator,
}

impl Caller {
    /// All kinds of callers, for tables and tests.
    pub const ALL: [Self; 4] = [Self::Gateway, Self::Worker, Self::Storage, Self::Operator];

    /// Returns the name in bearers and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Storage => "storage",
            Self::Operator => "operator",
        }
    }

    /// Returns the caller of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|caller| caller.as_str() == name)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
