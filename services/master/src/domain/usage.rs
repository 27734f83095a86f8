//! Files and their bytes, a tenant at a time.

use std::collections::HashMap;

use cstore_types::Tenant;
use parking_lot::Mutex;

/// A number of files and the sum of their sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileTotals {
    pub(crate) files: u64,
    pub(crate) logical_bytes: u64,
}

/// Totals of all tenants that have files.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    tenants: Mutex<HashMap<Tenant, FileTotals>>,
}

impl Usage {
    /// Takes one change of one name into account: the sizes of the file before and after it.
    pub(super) fn replace(&self, tenant: &Tenant, old_size: Option<u64>, new_size: Option<u64>) {
        let mut tenants = self.tenants.lock();
        if !tenants.contains_key(tenant) {
            tenants.insert(tenant.clone(), FileTotals::default());
        }
        let Some(totals) = tenants.get_mut(tenant) else {
            return;
        };
        if let Some(size) = old_size {
            totals.files = totals.files.saturating_sub(1);
            totals.logical_bytes = totals.logical_bytes.saturating_sub(size);
        }
        if let Some(size) = new_size {
            totals.files = totals.files.saturating_add(1);
            totals.logical_bytes = totals.logical_bytes.saturating_add(size);
        }
        if totals.files == 0 {
            tenants.remove(tenant);
        }
    }

    /// Forgets all files.
    pub(super) fn forget(&self) {
        self.tenants.lock().clear();
    }

    /// Returns the totals of one tenant.
    pub(crate) fn of(&self, tenant: &Tenant) -> FileTotals {
        self.tenants.lock().get(tenant).copied().unwrap_or_default()
    }

    /// Returns the totals of all tenants together.
    pub(crate) fn total(&self) -> FileTotals {
        let add = |sum: FileTotals, one: &FileTotals| FileTotals {
            files: sum.files.saturating_add(one.files),
            logical_bytes: sum.logical_bytes.saturating_add(one.logical_bytes),
        };
        self.tenants
            .lock()
            .values()
            .fold(FileTotals::default(), add)
    }

    /// Returns a copy of all totals, for comparisons in tests.
    #[cfg(test)]
    pub(super) fn snapshot(&self) -> std::collections::BTreeMap<String, FileTotals> {
        let tenants = self.tenants.lock();
        tenants
            .iter()
            .map(|(tenant, totals)| (tenant.as_str().to_owned(), *totals))
            .collect()
    }
}
