//! Access to RPCs: one line a method. A method without a line is open to nobody.

use cstore_types::Caller::{self, Gateway, Operator, Storage, Worker};

/// `package.Service/Method` and the callers that may call it.
pub const ACCESS: &[(&str, &[Caller])] = &[
    ("cstore.v1.Namespace/GetFile", &[Gateway, Operator]),
    ("cstore.v1.Namespace/ListFiles", &[Gateway, Operator]),
    ("cstore.v1.Namespace/DeleteFile", &[Gateway, Operator]),
    ("cstore.v1.Namespace/RenameFile", &[Gateway, Operator]),
    ("cstore.v1.Namespace/CopyFile", &[Gateway, Operator]),
    ("cstore.v1.Namespace/SelectFiles", &[Gateway, Operator]),
    ("cstore.v1.Namespace/GetUsage", &[Gateway, Operator]),
    ("cstore.v1.Uploads/BeginUpload", &[Gateway, Operator]),
    // Only a worker has seen the seals that a commit names.
    ("cstore.v1.Uploads/CommitUpload", &[Worker]),
    (
        "cstore.v1.Uploads/AbortUpload",
        &[Gateway, Worker, Operator],
    ),
    // The master checks the role and name that a node reports against its bearer.
    ("cstore.v1.Cluster/Register", &[Worker, Storage]),
    ("cstore.v1.Cluster/Heartbeat", &[Worker, Storage]),
    ("cstore.v1.Cluster/WatchMap", &[Gateway, Worker, Operator]),
    ("cstore.v1.Cluster/ListNodes", &[Gateway, Operator]),
    // Frees what is missing for good: a person decides it.
    ("cstore.v1.Cluster/AcceptDoubt", &[Operator]),
    ("cstore.v1.Cluster/GiveUpStore", &[Operator]),
    ("cstore.v1.Cluster/ExcuseNode", &[Operator]),
    ("cstore.v1.Cluster/ListKept", &[Operator]),
    ("cstore.v1.Cluster/DropKept", &[Operator]),
    ("cstore.v1.Transfer/Upload", &[Gateway, Operator]),
    ("cstore.v1.Transfer/PutSmall", &[Gateway, Operator]),
    ("cstore.v1.Transfer/Download", &[Gateway, Operator]),
    ("cstore.v1.Transfer/GetRecipe", &[Gateway, Operator]),
    ("cstore.v1.Transfer/Explain", &[Gateway, Operator]),
];

/// Returns true if `caller` may call the method of a request's path (`/package.Service/Method`).
pub fn may_call(caller: Caller, path: &str) -> bool {
    let method = path.strip_prefix('/').unwrap_or(path);
    ACCESS
        .iter()
        .any(|(known, callers)| *known == method && callers.contains(&caller))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i13_what_has_no_line_is_open_to_nobody() {
        assert!(may_call(Gateway, "/cstore.v1.Namespace/GetFile"));
        assert!(!may_call(Storage, "/cstore.v1.Namespace/GetFile"));
        for caller in Caller::ALL {
            assert!(!may_call(caller, "/cstore.v1.Namespace/Added"), "{caller}");
            assert!(!may_call(caller, ""), "{caller}");
        }
    }
}
