//! Files of the web page. They are built into the program, so that there is no folder to deploy,
//! and the page loads nothing from other hosts.

use std::sync::LazyLock;

use http::HeaderValue;
use sha2::{Digest, Sha256};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// A file of `gateway/web`.
#[derive(Debug)]
pub(crate) struct Asset {
    pub(crate) name: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) bytes: &'static [u8],
    /// Strong: of the bytes.
    pub(crate) etag: HeaderValue,
}

macro_rules! assets {
    ($($name:literal $kind:ident),* $(,)?) => {
        [$(($name, $kind, include_bytes!(concat!("../../web/", $name)).as_slice())),*]
    };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let files = assets![
        "index.html" HTML,
        "style.css" STYLE,
        "icon.svg" PICTURE,
        "app.js" SCRIPT,
        "api.js" SCRIPT,
        "backoff.js" SCRIPT,
        "change.js" SCRIPT,
        "cluster.js" SCRIPT,
        "conflict.js" SCRIPT,
        "contact.js" SCRIPT,
        "dialog.js" SCRIPT,
        "dom.js" SCRIPT,
        "download.js" SCRIPT,
        "drop.js" SCRIPT,
        "failed.js" SCRIPT,
        "failure.js" SCRIPT,
        "file-rows.js" SCRIPT,
        "files.js" SCRIPT,
        "format.js" SCRIPT,
        "icons.js" SCRIPT,
        "names.js" SCRIPT,
        "pictures.js" SCRIPT,
        "remove.js" SCRIPT,
        "rename.js" SCRIPT,
        "share.js" SCRIPT,
        "signin.js" SCRIPT,
        "title.js" SCRIPT,
        "trace.js" SCRIPT,
        "transfer.js" SCRIPT,
        "transfers.js" SCRIPT,
        "upload-rows.js" SCRIPT,
        "uploads.js" SCRIPT,
        "who.js" SCRIPT,
    ];
    files
        .into_iter()
        .map(|(name, content_type, bytes)| Asset::new(name, content_type, bytes))
        .collect()
});

/// The file of this name.
pub(crate) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Self {
        let digest = hex::encode(Sha256::digest(bytes));
        // Hexadecimal digits are always good in a header; without them nothing would be cached, and
        // all would work.
        let etag = HeaderValue::try_from(format!("\"{}\"", &digest[..32]))
            .unwrap_or(HeaderValue::from_static("\"\""));
        Self {
            name,
            content_type,
            bytes,
            etag,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn text(asset: &Asset) -> &'static str {
        std::str::from_utf8(asset.bytes).unwrap()
    }

    /// Returns every text that stands between `before` and `after`.
    fn between<'a>(text: &'a str, before: &str, after: char) -> Vec<&'a str> {
        text.split(before)
            .skip(1)
            .filter_map(|rest| rest.split(after).next())
            .collect()
    }

    #[test]
    fn every_file_of_the_folder_is_built_in_under_its_name() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        let built: BTreeSet<String> = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        assert_eq!(there, built);
    }

    #[test]
    fn everything_that_is_referred_to_exists_and_is_used() {
        let mut referred: BTreeSet<&str> = BTreeSet::from(["index.html"]);
        for asset in ASSETS.iter() {
            let text = text(asset);
            for name in between(text, "\"/assets/", '"') {
                referred.insert(name);
            }
            for import in text.lines().filter(|line| line.starts_with("import ")) {
                let from = between(import, "from \"./", '"');
                assert_eq!(from.len(), 1, "{}: {import}", asset.name);
                referred.extend(from);
            }
        }
        let built: BTreeSet<&str> = ASSETS.iter().map(|asset| asset.name).collect();
        assert_eq!(referred, built);
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        for asset in ASSETS.iter() {
            let text = text(asset).replace("http://www.w3.org/2000/svg", "");
            for word in [
                "http:",
                "https:",
                "src=\"//",
                "href=\"//",
                " url(",
                "@import",
                "import(",
            ] {
                assert!(!text.contains(word), "{} has {word}", asset.name);
            }
        }
    }

    #[test]
    fn i13_nothing_can_turn_a_name_into_markup_or_a_script() {
        for asset in ASSETS.iter() {
            let text = text(asset);
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "createContextualFragment",
                "DOMParser",
                "srcdoc",
                "eval(",
                "new Function",
                "javascript:",
                "style=",
                "<style",
            ] {
                assert!(!text.contains(word), "{} has {word}", asset.name);
            }
            // One part decides where a token is kept.
            let keeps = text.contains("localStorage") || text.contains("sessionStorage");
            assert_eq!(keeps, asset.name == "api.js", "{}", asset.name);
        }
        let page = text(find("index.html").unwrap());
        for rest in page.split(" on").skip(1) {
            let word = rest.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            assert!(
                !word.starts_with('='),
                "a handler stands in the markup: {rest}"
            );
        }
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script type=\"module\" src=\"/assets/")
                .count()
        );
    }
}
