//! The endpoint's certificate, which may be renewed while the server runs.
//!
//! A connection keeps the certificate that it came under; the next one gets the new one. Files
//! that cannot be used change nothing.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{InconsistentKeys, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// Bytes of a file with a chain or a key; a long chain has a few thousand.
const TLS_FILE_BYTES_MAX: u64 = 1 << 20;
/// The permission of a file that lets anybody read it.
const READABLE_BY_OTHERS: u32 = 0o004;

/// Where the certificate and its key are, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate first, then those that lead to its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A certificate or a key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} `{path}`: {error}")]
    Unreadable {
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error("{what} `{path}` has more than {TLS_FILE_BYTES_MAX} bytes; name another file")]
    TooLarge { what: &'static str, path: PathBuf },
    #[error("{what} `{path}` cannot be used: {why}")]
    Unusable {
        what: &'static str,
        path: PathBuf,
        why: String,
    },
    #[error("the key `{key}` does not belong to the certificate `{certificate}`")]
    Mismatch { key: PathBuf, certificate: PathBuf },
}

impl TlsError {
    fn unusable(what: &'static str, path: &Path, why: &dyn Display) -> Self {
        Self::Unusable {
            what,
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}

const CERTIFICATE: &str = "the certificate";
const KEY: &str = "the key";

/// The certificate in force; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: TlsFiles,
    /// With it go the sessions that may be resumed, so a renewed certificate is always shown.
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let config = ArcSwap::from_pointee(read(&files)?);
        Ok(Self(Arc::new(Inner { files, config })))
    }

    /// Reads the files again, for connections that come from now on.
    ///
    /// # Errors
    /// Which file cannot be used, and why; the old certificate stays in force.
    pub fn renew(&self) -> Result<(), TlsError> {
        self.0.config.store(Arc::new(read(&self.0.files)?));
        Ok(())
    }

    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        &self.0.files
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.config.load_full())
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(default_provider());
    let certificate = certificate(files, &provider)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::unusable(CERTIFICATE, &files.certificate, &error))?;
    let resolver = SingleCertAndKey::from(certificate);
    let mut config = config
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The chain with its key, which fits.
fn certificate(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let unusable = |error: &dyn Display| TlsError::unusable(CERTIFICATE, &files.certificate, error);
    let pem = pem_of(CERTIFICATE, &files.certificate)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| unusable(&error))?;
    if chain.is_empty() {
        return Err(unusable(&"it has no PEM section `CERTIFICATE`"));
    }
    let key = key(&files.key, provider)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key that does not tell its public half has nothing against it.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch {
            key: files.key.clone(),
            certificate: files.certificate.clone(),
        }),
        Err(error) => Err(unusable(&error)),
    }
}

fn key(path: &Path, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, TlsError> {
    let unusable = |error: &dyn Display| TlsError::unusable(KEY, path, error);
    let key = match PrivateKeyDer::from_pem_slice(&pem_of(KEY, path)?) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => {
            return Err(unusable(
                &"it has no PEM section with a private key that is not encrypted",
            ));
        }
        Err(error) => return Err(unusable(&error)),
    };
    warn_of_permissions(path);
    let key = provider.key_provider.load_private_key(key);
    key.map_err(|error| unusable(&error))
}

fn pem_of(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(TLS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| TlsError::Unreadable {
        what,
        path: path.to_owned(),
        error,
    })?;
    if bytes.len() as u64 > TLS_FILE_BYTES_MAX {
        let path = path.to_owned();
        return Err(TlsError::TooLarge { what, path });
    }
    Ok(bytes)
}

fn warn_of_permissions(key: &Path) {
    let mode = std::fs::metadata(key).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & READABLE_BY_OTHERS != 0) {
        let key = key.display();
        tracing::warn!(%key, "every user of this machine can read the key; `chmod o-r` helps");
    }
}
