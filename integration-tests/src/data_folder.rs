//! Data folders of earlier programs, as fixtures: a packed folder, and a manifest of what a cluster
//! on it must have.
//!
//! ```text
//! integration-tests/fixtures/data/LABEL.tar.gz    the data folder: every role's files, cluster secret, token file
//! integration-tests/fixtures/data/LABEL.json      the manifest
//! ```
//! The program `data-fixture` writes them; `tests/it/data_folders.rs` starts today's program on
//! each. The bodies of the files are not in the manifest: [`random`] makes them from size and seed,
//! so [`random`] MUST NOT change, otherwise no fixture matches any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cstore_testkit::random;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::cluster::{Builder, Cluster};
use crate::http::{Answer, Client};

/// Most names that a list of the gateway is asked for. A fixture MUST have fewer, otherwise its
/// list is cut.
const MAX_NAMES: usize = 1_000;

/// A data folder and what must be in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// `true` if all roles ran in one process (`cstore dev`).
    pub dev: bool,
    /// Storage nodes.
    pub storages: usize,
    /// Settings that a start on this folder needs, beyond those of [`Cluster`].
    pub env: BTreeMap<String, String>,
    /// API token of each tenant but the default one. The tokens open nothing but this fixture.
    pub tokens: BTreeMap<String, String>,
    /// Visible files.
    pub files: Vec<FileEntry>,
    /// Names that must not be found, as (tenant, name).
    pub absent: Vec<(String, String)>,
}

/// A visible file. Its content is `random(size, seed)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Empty for the default tenant.
    pub tenant: String,
    /// Name as the client wrote it, without URL encoding.
    pub name: String,
    /// Bytes.
    pub size: usize,
    /// Seed of the content.
    pub seed: u64,
    /// ETag from the gateway, without quotes: hex(MD5 of the concatenated block MD5s)-N.
    pub etag: String,
    /// MIME type that was sent with the upload.
    pub content_type: String,
    /// When the file was committed, in milliseconds since 1970.
    pub modified_ms: i64,
    /// User metadata.
    pub metadata: BTreeMap<String, String>,
}

/// Folder of the fixtures.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/data")
}

/// Labels of all fixtures, sorted.
///
/// # Panics
/// If the folder of the fixtures cannot be read.
pub fn labels() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).expect("the folder of the fixtures can be read");
    let names = entries.map(|entry| entry.expect("an entry can be read").file_name());
    let labels: BTreeSet<String> = names
        .filter_map(|name| name.to_str()?.strip_suffix(".json").map(str::to_owned))
        .collect();
    labels.into_iter().collect()
}

/// Path of a name in the REST API.
pub fn path_of(name: &str) -> String {
    let mut path = "/api/files/".to_owned();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                path.push(byte.into())
            }
            _ => path += &format!("%{byte:02X}"),
        }
    }
    path
}

impl Manifest {
    /// Reads the manifest of `label`.
    ///
    /// # Panics
    /// If it cannot be read or parsed.
    pub fn read(label: &str) -> Self {
        let path = folder().join(format!("{label}.json"));
        let text =
            std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A cluster with the layout and the settings of this manifest.
    pub fn builder(&self, program: &str) -> Builder {
        let builder = Cluster::builder(program).workers(1).storages(self.storages);
        let builder = if self.dev { builder.dev() } else { builder };
        self.env
            .iter()
            .fold(builder, |builder, (key, value)| builder.env(key, value))
    }

    /// Sends a request as a tenant of the manifest; the empty tenant is the default one.
    ///
    /// # Panics
    /// If the tenant has no token, or the connection fails.
    pub fn ask(
        &self,
        cluster: &Cluster,
        tenant: &str,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Answer {
        let bearer = match tenant {
            "" => String::new(),
            _ => format!("authorization: Bearer {}\r\n", self.tokens[tenant]),
        };
        let client = Client::connect(&cluster.gateway);
        let answer =
            client.and_then(|mut client| client.call(method, path, &(bearer + headers), body));
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Compares a running cluster with the manifest: lists, bytes, entity tags, content types,
    /// dates, metadata, and names that must not be found.
    ///
    /// # Panics
    /// On the first difference.
    pub fn verify(&self, cluster: &Cluster) {
        for tenant in self.tokens.keys().map(String::as_str).chain([""]) {
            let expected: BTreeSet<&str> = self.names(tenant).collect();
            assert_eq!(
                self.list(cluster, tenant),
                expected.into_iter().collect::<Vec<_>>(),
                "of {tenant:?}"
            );
        }
        for file in &self.files {
            self.verify_file(cluster, file);
        }
        for (tenant, name) in &self.absent {
            let answer = self.ask(cluster, tenant, "GET", &path_of(name), "", b"");
            assert_eq!(answer.status, 404, "{name} of {tenant:?}");
        }
    }

    /// Names that `tenant` must see.
    pub fn names(&self, tenant: &str) -> impl Iterator<Item = &str> {
        self.files
            .iter()
            .filter(move |file| file.tenant == tenant)
            .map(|file| file.name.as_str())
    }

    fn list(&self, cluster: &Cluster, tenant: &str) -> Vec<String> {
        let answer = self.ask(
            cluster,
            tenant,
            "GET",
            &format!("/api/files?limit={MAX_NAMES}"),
            "",
            b"",
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
        let listed = answer.json();
        let files = listed["files"].as_array().expect("a list of files").iter();
        files
            .map(|file| file["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    fn verify_file(&self, cluster: &Cluster, file: &FileEntry) {
        let answer = self.ask(cluster, &file.tenant, "GET", &path_of(&file.name), "", b"");
        assert_eq!(answer.status, 200, "{file:?}: {}", answer.text());
        assert!(
            answer.body == random(file.size, file.seed),
            "{file:?} has other bytes"
        );
        assert_eq!(
            self.described(cluster, &file.tenant, &file.name, file.seed),
            *file
        );
    }

    /// Describes a file as the gateway does, by its headers and by its entry in the list.
    ///
    /// # Panics
    /// If there is no such file, or the two differ.
    pub fn described(&self, cluster: &Cluster, tenant: &str, name: &str, seed: u64) -> FileEntry {
        let head = self.ask(cluster, tenant, "HEAD", &path_of(name), "", b"");
        assert_eq!(head.status, 200, "{name}");
        let text = |header: &str| head.header(header).expect("the header is there").to_owned();
        let metadata = head.headers.iter().filter_map(|(key, value)| {
            Some((
                key.strip_prefix("x-cstore-meta-")?.to_owned(),
                value.clone(),
            ))
        });

        let list = format!("/api/files?limit={MAX_NAMES}");
        let listed = self.ask(cluster, tenant, "GET", &list, "", b"").json();
        let files = listed["files"].as_array().expect("a list of files");
        let entry = files
            .iter()
            .find(|file| file["name"] == name)
            .expect("the file is listed");
        let described = FileEntry {
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            size: text("content-length").parse().expect("a length"),
            seed,
            etag: text("etag").trim_matches('"').to_owned(),
            content_type: text("content-type"),
            modified_ms: entry["modified_ms"].as_i64().expect("a time"),
            metadata: metadata.collect(),
        };
        assert_eq!(entry["size"], described.size, "{name}");
        assert_eq!(
            entry["etag"].as_str().map(|etag| etag.trim_matches('"')),
            Some(&*described.etag),
            "{name}"
        );
        assert_eq!(entry["content_type"], described.content_type, "{name}");
        described
    }
}

/// Packs the data folder `dir` into `archive`: sorted, without times and owners, so that equal
/// folders give equal archives. Logs of the processes are left out.
///
/// # Errors
/// The system's.
pub fn pack(dir: &Path, archive: &Path) -> io::Result<()> {
    let mut paths = Vec::new();
    collect(dir, &mut paths)?;
    paths.sort();

    let mut tar = tar::Builder::new(GzEncoder::new(
        File::create_new(archive)?,
        Compression::best(),
    ));
    tar.mode(tar::HeaderMode::Deterministic);
    for path in paths {
        let name = path.strip_prefix(dir).map_err(io::Error::other)?;
        tar.append_path_with_name(&path, name)?;
    }
    tar.into_inner()?.finish()?.sync_all()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            continue;
        }
        paths.push(path.clone());
        if path.is_dir() {
            collect(&path, paths)?;
        }
    }
    Ok(())
}

/// Unpacks the data folder of `label` into a temporary folder. The secret is readable by its owner
/// only.
///
/// # Panics
/// If the archive cannot be read or the folder not written.
pub fn unpack(label: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;

    let path = folder().join(format!("{label}.tar.gz"));
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let archive =
        File::open(&path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    let unpacked = tar::Archive::new(GzDecoder::new(archive)).unpack(dir.path());
    unpacked.unwrap_or_else(|error| panic!("unpack {}: {error}", path.display()));

    // Packed without exact modes, and the program refuses a secret that others can read.
    for name in ["cluster-secret", "api-tokens"] {
        let file = dir.path().join(name);
        if file.is_file() {
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&file, mode).expect("the mode of a secret can be set");
        }
    }
    dir
}
