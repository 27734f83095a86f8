//! Choice of the instructions that a call uses.

/// Instructions with which blocks are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One block after the other with the crate `md-5`, on every processor.
    Portable,
    /// 8 or 16 blocks at once, on x86-64 processors with AVX2.
    Avx2,
    /// 8 to 32 blocks at once, on x86-64 processors with AVX-512F and AVX-512VL.
    Avx512,
}

impl Backend {
    /// All backends, the fastest one first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// Returns the fastest backend that this processor has.
    pub fn detect() -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|backend| backend.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Returns true if this processor has the instructions, and the operating system keeps their
    /// registers.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Returns the MD5 of each block, in order. A backend that is not available is replaced by
    /// [`Backend::Portable`].
    #[allow(
        unsafe_code,
        reason = "a function with instructions that not every processor has is unsafe to call"
    )]
    pub fn md5_many(self, blocks: &[&[u8]]) -> Vec<[u8; 16]> {
        if self.is_available() {
            #[cfg(target_arch = "x86_64")]
            match self {
                Self::Portable => {}
                // SAFETY: AVX2 is available, which is all that the function requires.
                Self::Avx2 => return unsafe { crate::avx2::md5_many(blocks) },
                // SAFETY: AVX-512F and AVX-512VL are available, which is all that the function requires.
                Self::Avx512 => return unsafe { crate::avx512::md5_many(blocks) },
            }
        }
        blocks.iter().map(|block| crate::md5_one(block)).collect()
    }
}
