//! I13 at every door, generated from the contracts: each RPC of the descriptors, each opcode of the
//! frames and each route of the REST table, times each way of having no right to it. What is added
//! without a case here fails.

pub(crate) mod frames;
mod rest;
mod rpc;

use std::collections::BTreeMap;

/// Cases that were tried, by their kind.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, usize>);

impl Tally {
    fn count(&mut self, case: &str) {
        *self.0.entry(case.to_owned()).or_default() += 1;
    }

    /// Says how many there were, and demands that every kind was tried at least `least` times.
    fn end(&self, what: &str, least: usize, kinds: &[&str]) {
        let all: usize = self.0.values().sum();
        println!("I13 {what}: {all} cases {:?}", self.0);
        for kind in kinds {
            let found = self.0.get(*kind).copied().unwrap_or_default();
            assert!(
                found >= least,
                "{what}: {kind} was tried {found} times, there are {least} doors"
            );
        }
    }
}
