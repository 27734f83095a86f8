//! Names of methods as labels: only those that exist, because paths come from callers.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use prost::Message;

static KNOWN: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut known = BTreeSet::new();
    // Our own descriptors, made by the build: they can be read.
    let set = prost_types::FileDescriptorSet::decode(cstore_proto::DESCRIPTORS).unwrap_or_default();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                known.insert(format!(
                    "{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    known
});

/// `package.Service/Method` of a path, or `other`.
pub(crate) fn name(path: &str) -> &'static str {
    KNOWN
        .get(path.trim_start_matches('/'))
        .map_or("other", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_methods_have_names_and_all_else_is_other() {
        assert_eq!(
            name("/cstore.v1.Namespace/GetFile"),
            "cstore.v1.Namespace/GetFile"
        );
        assert_eq!(
            name("/cstore.v1.Transfer/Upload"),
            "cstore.v1.Transfer/Upload"
        );
        assert_eq!(name("/grpc.health.v1.Health/Watch"), "other");
        assert_eq!(name("/anything\"at=all"), "other");
    }
}
