//! The bytes of a file, made from its name.

use bytes::Bytes;

/// Name of a file of `size` bytes below a prefix; `id` makes it one of its own.
pub(super) fn name(prefix: &str, id: &str, size: usize) -> String {
    format!("{prefix}/{id}-{size}")
}

/// The bytes that belong to a name; `None` when it is not one of ours.
pub(super) fn bytes(name: &str) -> Option<Bytes> {
    let size: usize = name.rsplit_once('-')?.1.parse().ok()?;
    let mut bytes = vec![0; size];
    blake3::Hasher::new()
        .update(name.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_name_and_of_no_other() {
        let one = name("p", "1", 100);
        assert_eq!(one, "p/1-100");
        assert_eq!(bytes(&one).unwrap().len(), 100);
        assert_eq!(bytes(&one), bytes(&one));
        assert_ne!(bytes(&one), bytes(&name("p", "2", 100)));
        assert_eq!(bytes("p/other"), None);
    }
}
