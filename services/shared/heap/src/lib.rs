//! Bounds of the memory that glibc's allocator keeps after it was freed.
//!
//! By default glibc learns from each large buffer that is freed: buffers up to its length come from
//! arenas from then on, and each arena keeps up to twice as many free bytes (mallopt(3), "dynamic
//! mmap threshold", at most 32 MiB). A process has up to eight arenas per core, so one buffer of
//! 8 MiB that was freed once may cost 16 MiB in each of them for as long as the process lives.
//!
//! The only `unsafe` is the call of `mallopt` in [`set_bounds`].

/// Bounds of the allocator.
#[derive(Debug, Clone, Copy)]
pub struct HeapBounds {
    /// Bytes from which a buffer is mapped on its own and returned to the system when it is freed.
    pub mapped_from: u32,
    /// Free bytes at the end of an arena from which they are returned to the system.
    pub trimmed_from: u32,
}

/// Fixes the bounds of the allocator for the rest of the process. Returns false if the allocator
/// does not have such bounds, with another C library than glibc, or if a value is out of range; the
/// first bound may be set then.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "libc declares mallopt only as unsafe")]
pub fn set_bounds(bounds: HeapBounds) -> bool {
    let options = [
        (libc::M_MMAP_THRESHOLD, bounds.mapped_from),
        (libc::M_TRIM_THRESHOLD, bounds.trimmed_from),
    ];
    options.into_iter().all(|(option, bytes)| {
        let Ok(bytes) = libc::c_int::try_from(bytes) else {
            return false;
        };
        // SAFETY: mallopt takes two integers and keeps no pointer. It takes the lock of the allocator
        // itself; the program calls it before it starts threads all the same.
        unsafe { libc::mallopt(option, bytes) == 1 }
    })
}

/// Fixes the bounds of the allocator for the rest of the process. Returns false if the allocator
/// does not have such bounds: with another C library than glibc.
#[cfg(not(target_env = "gnu"))]
pub const fn set_bounds(_: HeapBounds) -> bool {
    false
}

#[cfg(all(test, target_env = "gnu", target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Returns the resident memory of the process in bytes.
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4_096
    }

    /// Returns the resident memory after 48 buffers of 512 KiB were allocated and freed.
    fn resident_after_buffers() -> usize {
        let buffers: Vec<Vec<u8>> = (0..48).map(|_| vec![1; 512 << 10]).collect();
        drop(std::hint::black_box(buffers));
        resident()
    }

    /// A single test, because the bounds apply to the whole process.
    #[test]
    fn freed_buffers_go_back_to_the_system_although_a_larger_one_was_freed_before() {
        let is_set = |(name, _): (std::ffi::OsString, _)| {
            let name = name.to_string_lossy();
            name == "GLIBC_TUNABLES" || name == "LD_PRELOAD" || name.starts_with("MALLOC_")
        };
        if std::env::vars_os().any(is_set) {
            println!("SKIP heap: the environment sets the allocator or its bounds");
            return;
        }
        let before = resident();
        drop(std::hint::black_box(vec![1_u8; 16 << 20]));
        let unbounded = resident_after_buffers() - before;
        assert!(unbounded > 20 << 20, "{unbounded} bytes without bounds");
        let bounds = HeapBounds {
            mapped_from: 1 << 20,
            trimmed_from: 2 << 20,
        };
        assert!(set_bounds(bounds));
        drop(std::hint::black_box(vec![1_u8; 16 << 20]));
        let bounded = resident_after_buffers().saturating_sub(before);
        assert!(bounded < 4 << 20, "{bounded} bytes with bounds");
    }

    #[test]
    fn a_bound_that_glibc_cannot_express_is_refused() {
        let bounds = HeapBounds {
            mapped_from: u32::MAX,
            trimmed_from: 0,
        };
        assert!(!set_bounds(bounds));
    }
}
