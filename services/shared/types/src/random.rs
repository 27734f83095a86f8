//! Where random identities come from: the system, or in a simulation a seed.

#[cfg(feature = "seeded")]
thread_local! {
    static SEEDED: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// Random bytes.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    #[cfg(feature = "seeded")]
    if let Some(mut state) = SEEDED.get() {
        for byte in bytes {
            // SplitMix64: identities of a simulation need no secrecy.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (z ^ (z >> 31)).to_le_bytes()[0];
        }
        SEEDED.set(Some(state));
        return Ok(());
    }
    getrandom::fill(bytes)
}

/// Returns a random number that names something, such as an epoch or a life; never 0.
///
/// # Errors
/// The system has no random numbers.
pub fn nonce() -> Result<u64, getrandom::Error> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

/// From now on identities that this thread makes follow from `seed`. For simulations only.
#[cfg(feature = "seeded")]
pub fn seed_identities(seed: u64) {
    SEEDED.set(Some(seed));
}
