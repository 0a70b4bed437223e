//! The certificate authorities that outgoing connections trust.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// The variables that OpenSSL reads, and many programs with it.
const FILE: &str = "SSL_CERT_FILE";
const FOLDERS: &str = "SSL_CERT_DIR";

/// Certificate authorities: the public ones, or instead those that `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` name, and more from a file.
#[derive(Debug, Clone)]
pub struct Authorities {
    is_public: bool,
    own: Vec<CertificateDer<'static>>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The file or one of the folders cannot be read, or holds no certificate.
    #[error("no certificate authority can be read from {place}: {reason}")]
    Unreadable {
        /// The file or variables.
        place: String,
        /// Why not.
        reason: String,
    },
    /// One of them is no certificate of an authority.
    #[error("{place} holds a certificate that cannot be used: {reason}")]
    Unusable {
        /// Where it is.
        place: String,
        /// Why not.
        reason: String,
    },
}

impl Authorities {
    /// Mozilla's list, as it was when this version was built.
    #[must_use]
    pub const fn public() -> Self {
        Self { is_public: true, own: Vec::new() }
    }

    /// The authorities that the environment names (or the public ones), and those in `more`, a file
    /// of PEM certificates.
    ///
    /// # Errors
    /// When a named file cannot be read, holds no certificate, or one that cannot be used. A
    /// process that went on would trust nobody, or the wrong authorities.
    pub fn read(more: Option<&Path>) -> Result<Self, AuthoritiesError> {
        let named = |name| env::var_os(name).filter(|value| !value.is_empty());
        Self::of(named(FILE).as_deref(), named(FOLDERS).as_deref(), more)
    }

    /// [`Authorities::read`], with these values of the variables.
    fn of(
        file: Option<&OsStr>,
        folders: Option<&OsStr>,
        more: Option<&Path>,
    ) -> Result<Self, AuthoritiesError> {
        let mut this = match named(file, folders)? {
            Some(own) => Self { is_public: false, own },
            None => Self::public(),
        };
        if let Some(file) = more {
            this.own.extend(certificates(file)?);
        }
        Ok(this)
    }

    /// Whether the public ones are among them.
    #[must_use]
    pub const fn is_public(&self) -> bool {
        self.is_public
    }

    /// Those that are not of the public list, as DER.
    pub fn own(&self) -> impl Iterator<Item = &[u8]> {
        self.own.iter().map(AsRef::as_ref)
    }

    /// All of them, for a TLS client.
    #[must_use]
    pub fn roots(&self) -> RootCertStore {
        let public = self.is_public.then_some(webpki_roots::TLS_SERVER_ROOTS);
        let mut roots = RootCertStore { roots: public.unwrap_or_default().to_vec() };
        // Each was checked when it was read.
        roots.add_parsable_certificates(self.own.iter().cloned());
        roots
    }
}

/// The certificates in a file of PEM.
///
/// # Errors
/// As [`Authorities::read`].
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, AuthoritiesError> {
    let place = file.display().to_string();
    let unreadable = |reason: String| AuthoritiesError::Unreadable { place: place.clone(), reason };
    let found =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| unreadable(error.to_string()))?;
    if found.is_empty() {
        return Err(unreadable("it holds no PEM certificate".to_owned()));
    }
    for certificate in &found {
        let added = RootCertStore::empty().add(certificate.clone());
        added.map_err(|error| AuthoritiesError::Unusable {
            place: place.clone(),
            reason: error.to_string(),
        })?;
    }
    Ok(found)
}

/// The authorities that the variables name, if they are set. A distribution's bundle may hold a
/// certificate that no program can read, which is skipped.
fn named(
    file: Option<&OsStr>,
    folders: Option<&OsStr>,
) -> Result<Option<Vec<CertificateDer<'static>>>, AuthoritiesError> {
    if file.is_none() && folders.is_none() {
        return Ok(None);
    }
    let mut found = Vec::new();
    let mut reasons = Vec::new();
    let folders: Vec<PathBuf> = folders.into_iter().flat_map(env::split_paths).collect();
    let files = file.map(Path::new);
    let loads = files
        .map(|file| (Some(file), None))
        .into_iter()
        .chain(folders.iter().map(|folder| (None, Some(folder.as_path()))));
    for (file, folder) in loads {
        let loaded = rustls_native_certs::load_certs_from_paths(file, folder);
        found.extend(loaded.certs);
        reasons.extend(loaded.errors.iter().map(ToString::to_string));
    }
    found.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    let place = || format!("{FILE} or {FOLDERS}");
    if found.is_empty() {
        return Err(AuthoritiesError::Unreadable {
            place: place(),
            reason: reasons.first().cloned().unwrap_or_else(|| "there is none".to_owned()),
        });
    }
    for reason in reasons {
        tracing::warn!(reason, "some certificates of {} cannot be read", place());
    }
    Ok(Some(found))
}

/// The authorities of the system (or instead those that the environment names) and those in `more`,
/// as PEM: for libraries that use the system's unless they are given a list.
///
/// # Errors
/// As [`Authorities::read`].
pub fn system_and(more: &Path) -> Result<String, AuthoritiesError> {
    let mut all = certificates(more)?;
    all.extend(rustls_native_certs::load_native_certs().certs);
    Ok(all.iter().map(|certificate| pem(certificate)).collect())
}

fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    // Lines of 64 characters (RFC 7468).
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use taskforge_testing::tls;

    use super::*;

    #[test]
    fn more_authorities_stand_beside_the_public_ones() {
        let public = Authorities::public().roots().len();
        let more = Authorities::of(None, None, Some(&tls::authority())).unwrap();
        assert!(public > 50 && more.is_public());
        assert_eq!(more.roots().len(), public + 1);
    }

    #[test]
    fn the_variables_take_the_place_of_the_public_ones() {
        let (file, folder) = (tls::authority(), tempfile::tempdir().unwrap());
        std::fs::copy(&file, folder.path().join("one.pem")).unwrap();
        let folder = folder.path().as_os_str().to_owned();
        for (file, folders) in [(Some(file.as_os_str()), None), (None, Some(folder.as_os_str()))] {
            let own = Authorities::of(file, folders, None).unwrap();
            assert!(!own.is_public() && own.roots().len() == 1);
        }
        // With nobody left to trust, a process does not go on.
        let nowhere = Authorities::of(Some(OsStr::new("/nowhere")), None, None).unwrap_err();
        assert!(nowhere.to_string().contains("/nowhere"), "{nowhere}");
    }

    #[test]
    fn a_file_that_gives_none_is_refused_by_name() {
        for file in ["/nowhere/ca.pem", "/dev/null", file!()] {
            let error = Authorities::read(Some(Path::new(file))).unwrap_err();
            assert!(error.to_string().contains(file), "{error}");
        }
        // A key is no certificate, and a certificate with one bit wrong is none either.
        assert!(certificates(&tls::key()).is_err());
    }

    #[test]
    fn what_is_written_as_pem_is_read_again() {
        let read = certificates(&tls::authority()).unwrap();
        let pem = system_and(&tls::authority()).unwrap();
        let again: Vec<_> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(again[..1], read[..]);
    }
}
