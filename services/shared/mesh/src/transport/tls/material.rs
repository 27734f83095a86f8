//! Keys and certificates as rustls takes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::protocol::Protocol;

const FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or is not PEM of the right kind.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The rule of PEM that the file breaks, or the operating system's error.
        source: pem::Error,
    },
    /// A file of certificates holds none.
    #[error("{}: holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The key can be read by everybody.
    #[error("{} has mode {mode:03o}, so that others can read it; run: chmod 600 {}", path.display(), path.display())]
    Open {
        /// The key.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The files do not fit together.
    #[error("certificates do not fit together")]
    Unfit(#[from] rustls::Error),
    /// The CA cannot judge callers.
    #[error("ca.pem cannot judge callers")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// When the files were last changed. Secrets that an orchestrator mounts change by a new link, so
/// time and inode count.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<(SystemTime, u64)>>);

impl Stamp {
    pub(super) fn of(dir: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let stamp = |file: &&str| {
            let found = std::fs::metadata(dir.join(file)).ok()?;
            Some((found.modified().ok()?, found.ino()))
        };
        Self(FILES.iter().map(stamp).collect())
    }
}

/// One set of certificates, ready for both sides and both protocols.
pub(super) struct Material {
    grpc: (TlsConnector, TlsAcceptor),
    frames: (TlsConnector, TlsAcceptor),
}

impl Material {
    pub(super) fn load(dir: &Path, client_auth: bool) -> Result<Self, TlsError> {
        let [ca, cert, key] = FILES.map(|file| dir.join(file));
        let mut roots = RootCertStore::empty();
        for found in certificates(&ca)? {
            roots.add(found)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&cert)?;
        let key = private_key(&key)?;
        Ok(Self {
            grpc: pair(&roots, &chain, &key, client_auth, Protocol::Grpc)?,
            frames: pair(&roots, &chain, &key, client_auth, Protocol::Frames)?,
        })
    }

    pub(super) fn connector(&self, protocol: Protocol) -> TlsConnector {
        match protocol {
            Protocol::Grpc => self.grpc.0.clone(),
            Protocol::Frames => self.frames.0.clone(),
        }
    }

    pub(super) fn acceptor(&self, protocol: Protocol) -> TlsAcceptor {
        match protocol {
            Protocol::Grpc => self.grpc.1.clone(),
            Protocol::Frames => self.frames.1.clone(),
        }
    }
}

fn pair(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    client_auth: bool,
    protocol: Protocol,
) -> Result<(TlsConnector, TlsAcceptor), TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let alpn = vec![protocol.alpn().to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(VERSIONS)?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.to_vec(), key.clone_key())?;
    client.alpn_protocols.clone_from(&alpn);
    let server =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(VERSIONS)?;
    let server = match client_auth {
        true => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
            server.with_client_cert_verifier(verifier.build()?)
        }
        false => server.with_no_client_auth(),
    };
    let mut server = server.with_single_cert(chain.to_vec(), key.clone_key())?;
    server.alpn_protocols = alpn;
    Ok((
        TlsConnector::from(Arc::new(client)),
        TlsAcceptor::from(Arc::new(server)),
    ))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |source| TlsError::File {
        path: path.to_path_buf(),
        source,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(bad)?.collect();
    match found.map_err(bad)? {
        none if none.is_empty() => Err(TlsError::Empty {
            path: path.to_path_buf(),
        }),
        found => Ok(found),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    use std::os::unix::fs::PermissionsExt;
    let bad = |source| TlsError::File {
        path: path.to_path_buf(),
        source,
    };
    let found = std::fs::metadata(path).map_err(|error| bad(pem::Error::Io(error)))?;
    let mode = found.permissions().mode() & 0o777;
    // A group may read it, as with secrets that an orchestrator mounts; the world may not.
    if mode & 0o007 != 0 {
        return Err(TlsError::Open {
            path: path.to_path_buf(),
            mode,
        });
    }
    PrivateKeyDer::from_pem_file(path).map_err(bad)
}
