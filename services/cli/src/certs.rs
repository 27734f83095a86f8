//! `cstore admin certs`: a private CA, made once, and a certificate for each node.
//!
//! ```text
//! out/ca.pem  out/ca-key.pem                    the CA; its key belongs in a safe place, no node needs it
//! out/<node>/ca.pem  cert.pem  key.pem          what CSTORE_TLS_DIR of that node points at
//! ```
//! The CA may be kept elsewhere (`--ca`, `--ca-key`), as where an orchestrator mounts it for the
//! moment of signing. A certificate is replaced with `--force`, for instance to renew it: running
//! nodes take the new one in.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::args::Certs;
use crate::limits::{CA_YEARS, CLOCK_SKEW};

/// Makes what is asked for and says on stdout where it is.
pub(crate) fn run(options: &Certs) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if options.node.is_empty()
        || options.node.starts_with('.')
        || !options.node.chars().all(is_plain)
    {
        bail!(
            "--node {:?} is not a name: letters, digits, '-', '_' and '.' are allowed, not first a dot",
            options.node
        );
    }
    let dir = options.out.join(&options.node);
    if dir.join("cert.pem").try_exists()? && !options.force {
        bail!(
            "{} is there already; --force replaces it",
            dir.join("cert.pem").display()
        );
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let (ca, issuer) = match (&options.ca, &options.ca_key) {
        (Some(cert), Some(key)) => read(cert, key)?,
        _ => authority(&options.out)?,
    };
    let key = KeyPair::generate()?;
    let certificate = leaf(options)?.signed_by(&key, &issuer)?;
    write(&dir.join("key.pem"), &key.serialize_pem(), 0o600)?;
    write(&dir.join("cert.pem"), &certificate.pem(), 0o644)?;
    write(&dir.join("ca.pem"), &ca, 0o644)?;
    writeln!(
        std::io::stdout().lock(),
        "{} is valid for {} days; set CSTORE_TLS_DIR={} at {}",
        dir.join("cert.pem").display(),
        options.days,
        dir.display(),
        options.node
    )?;
    Ok(())
}

fn leaf(options: &Certs) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(options.host.clone())
        .context("--host takes names and addresses, separated by commas")?;
    params
        .distinguished_name
        .push(DnType::CommonName, options.node.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) =
        (now - CLOCK_SKEW, now + Duration::days(options.days.into()));
    Ok(params)
}

/// The CA of a folder: its certificate, and the hand that signs. Made when there is none.
fn authority(out: &Path) -> Result<(String, Issuer<'static, KeyPair>)> {
    let (cert_path, key_path) = (out.join("ca.pem"), out.join("ca-key.pem"));
    if cert_path.try_exists()? || key_path.try_exists()? {
        return read(&cert_path, &key_path);
    }
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "C-Store cluster CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (
        now - CLOCK_SKEW,
        now + Duration::days(365 * i64::from(CA_YEARS)),
    );
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?.pem();
    write(&key_path, &key.serialize_pem(), 0o600)?;
    write(&cert_path, &cert, 0o644)?;
    Ok((cert, Issuer::new(params, key)))
}

/// A CA that is there.
fn read(cert_path: &Path, key_path: &Path) -> Result<(String, Issuer<'static, KeyPair>)> {
    let text = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (cert, key) = (text(cert_path)?, text(key_path)?);
    let key = KeyPair::from_pem(&key).with_context(|| {
        format!(
            "{} is no key that can be used (PKCS#8 in PEM is: openssl pkcs8 -topk8 -nocrypt)",
            key_path.display()
        )
    })?;
    let issuer = Issuer::from_ca_cert_pem(&cert, key)
        .with_context(|| format!("{} is no certificate of a CA", cert_path.display()))?;
    Ok((cert, issuer))
}

/// Appears whole or not at all, and is never readable by more than it should be.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let draft = path.with_extension("new");
    let written = (|| {
        let _ = std::fs::remove_file(&draft);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    })();
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn options(out: &Path, node: &str) -> Certs {
        let host = vec!["127.0.0.1".to_owned(), "worker-1.local".to_owned()];
        Certs {
            out: out.to_path_buf(),
            node: node.to_owned(),
            host,
            days: 30,
            force: false,
            ca: None,
            ca_key: None,
        }
    }

    #[test]
    fn the_ca_is_made_once_and_nodes_get_what_the_mesh_can_use() {
        let dir = tempfile::tempdir().unwrap();
        run(&options(dir.path(), "worker-1")).unwrap();
        let ca = std::fs::read(dir.path().join("ca.pem")).unwrap();
        run(&options(dir.path(), "worker-2")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("ca.pem")).unwrap(), ca);
        for file in ["ca-key.pem", "worker-1/key.pem"] {
            let mode = std::fs::metadata(dir.path().join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        cstore_mesh::Tls::load(dir.path().join("worker-1"), true).unwrap();
        cstore_mesh::Tls::load(dir.path().join("worker-2"), true).unwrap();
    }

    #[test]
    fn a_ca_that_is_kept_elsewhere_signs_and_stays_there() {
        let (home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run(&options(home.path(), "first")).unwrap();
        let mut foreign = options(away.path(), "worker-1");
        (foreign.ca, foreign.ca_key) = (
            Some(home.path().join("ca.pem")),
            Some(home.path().join("ca-key.pem")),
        );
        run(&foreign).unwrap();
        assert_eq!(
            std::fs::read_dir(away.path()).unwrap().count(),
            1,
            "no CA is made beside it"
        );
        assert_eq!(
            std::fs::read(away.path().join("worker-1/ca.pem")).unwrap(),
            std::fs::read(home.path().join("ca.pem")).unwrap()
        );
        cstore_mesh::Tls::load(away.path().join("worker-1"), true).unwrap();
        std::fs::write(home.path().join("ca-key.pem"), "nonsense").unwrap();
        foreign.force = true;
        assert!(format!("{:#}", run(&foreign).unwrap_err()).contains("PKCS#8"));
    }

    #[test]
    fn nothing_is_replaced_without_force_and_bad_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut again = options(dir.path(), "a");
        run(&again).unwrap();
        assert!(run(&again).unwrap_err().to_string().contains("--force"));
        again.force = true;
        run(&again).unwrap();
        for bad in ["", "../a", ".hidden", "a/b"] {
            assert!(run(&options(dir.path(), bad)).is_err(), "{bad:?}");
        }
    }
}
