//! The two protocols of the inner ports.

/// Protocol inside a TLS connection, agreed by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2.
    Grpc,
    /// The framing of the data path.
    Frames,
}

impl Protocol {
    pub(super) const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Grpc => b"h2",
            Self::Frames => b"cstore-frames/2",
        }
    }
}
