//! Seeds and case counts of random tests.
//!
//! `CSTORE_SEED` picks the first case and `CSTORE_CASES` the number of cases. A test prints the
//! values that it uses, in the form in which the next run accepts them.

#![allow(clippy::print_stdout, reason = "a failed test shows how to repeat it")]

/// Returns the seed of a test: `CSTORE_SEED`, or `default`. Prints it.
///
/// # Panics
/// If the variable is not a number. Otherwise a typing error would run another test than the one
/// that was meant.
pub fn seed(default: u64) -> u64 {
    let seed = number("CSTORE_SEED", default);
    println!("CSTORE_SEED={seed}");
    seed
}

/// Returns the number of cases of a test: `CSTORE_CASES`, or `default`. Prints it.
///
/// # Panics
/// If the variable is not a number.
pub fn cases(default: u64) -> u64 {
    let cases = number("CSTORE_CASES", default);
    println!("CSTORE_CASES={cases}");
    cases
}

/// Returns the first seed and the number of cases of a test. Prints both on one line.
///
/// # Panics
/// If one of the variables is not a number.
pub fn seed_and_cases(seed: u64, cases: u64) -> (u64, u64) {
    let seed = number("CSTORE_SEED", seed);
    let cases = number("CSTORE_CASES", cases);
    println!("CSTORE_SEED={seed} CSTORE_CASES={cases}");
    (seed, cases)
}

#[allow(
    clippy::disallowed_methods,
    reason = "these two variables are no settings of the program"
)]
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, found {text:?}")),
        Err(_) => default,
    }
}
