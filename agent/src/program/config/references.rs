//! Files that the configuration names: read at start, bounded, and checked to hold what they should.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use iotdm_agent::Secret;
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Opens a regular file. A pipe or a device could block the start for ever.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, not a file"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    File::open(path)
}

/// A device token out of a file that nobody else may read. `credentials` is the folder that a service manager has
/// put it into and guards by an access list.
pub(super) fn token_file(path: &Path, credentials: Option<&OsStr>) -> Result<Secret, String> {
    let text = secret_text(path, credentials, MAX_TOKEN_BYTES, "the device's token")?;
    token(&text).map_err(|reason| format!("{} {reason}", path.display()))
}

/// A device token as it stands in a file or a variable; a line end after it does not belong to it.
pub(super) fn token(text: &str) -> Result<Secret, String> {
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() {
        return Err("is empty; it must hold the device's token".into());
    }
    if token.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err("holds more than one word; it must hold the device's token alone".into());
    }
    if token.len() as u64 > MAX_TOKEN_BYTES {
        return Err(format!("has more than {MAX_TOKEN_BYTES} bytes; it must hold the device's token alone"));
    }
    Ok(Secret::new(token))
}

/// A proxy's user and password out of a file that nobody else may read.
pub(super) fn proxy_credentials(path: &Path, credentials: Option<&OsStr>) -> Result<Secret, String> {
    let text = secret_text(path, credentials, MAX_TOKEN_BYTES, "the proxy's USER:PASSWORD")?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// Certificates of authorities in PEM, each one checked to be of use.
pub(super) fn authorities(path: &Path) -> Result<Vec<u8>, String> {
    let pem = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
        roots.add(certificate).map_err(|reason| damaged(path, &reason))?;
    }
    Ok(pem)
}

/// A chain of certificates in PEM.
pub(super) fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let content = "certificates in PEM";
    let file = open(path).map_err(|reason| unreadable(path, &reason, content))?;
    let pem = read(file, path, MAX_PEM_BYTES, content)?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate.map_err(|reason| match reason {
            // Its own text shows the marker as numbers.
            pem::Error::MissingSectionEnd { .. } => damaged(path, &"it ends within one"),
            other => damaged(path, &other),
        })?;
        count += 1;
    }
    match count {
        0 => Err(format!(
            "{} holds no certificate in PEM; convert a DER one with: openssl x509 -inform der -in <it> -out <new>",
            path.display()
        )),
        _ => Ok(pem),
    }
}

/// A private key in PEM that nobody else may read.
pub(super) fn private_key(path: &Path, credentials: Option<&OsStr>) -> Result<Secret, String> {
    let text = secret_text(path, credentials, MAX_PEM_BYTES, "a private key in PEM")?;
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(_) => Ok(Secret::new(text)),
        Err(_) => Err(format!(
            "{} holds no private key in PEM that is not encrypted; make one with: openssl pkey -in <it> -out <new>",
            path.display()
        )),
    }
}

fn damaged(path: &Path, reason: &dyn std::fmt::Display) -> String {
    format!("{} holds a damaged certificate ({reason}); fetch it anew", path.display())
}

fn secret_text(
    path: &Path,
    credentials: Option<&OsStr>,
    limit: u64,
    content: &str,
) -> Result<String, String> {
    let file = open(path).map_err(|reason| unreadable(path, &reason, content))?;
    refuse_shared(&file, path, credentials)?;
    String::from_utf8(read(file, path, limit, content)?)
        .map_err(|_| format!("{} is not text; it must hold {content}", path.display()))
}

/// Refuses a secret that others than its owner may read or change. What is looked at is what was opened: a link that is
/// turned meanwhile leads nowhere else.
fn refuse_shared(file: &File, path: &Path, credentials: Option<&OsStr>) -> Result<(), String> {
    let metadata =
        file.metadata().map_err(|reason| format!("{} cannot be looked at: {reason}", path.display()))?;
    let mode = metadata.permissions().mode();
    let guarded = credentials.is_some_and(|folder| path.starts_with(folder));
    let forbidden = if guarded { MODE_OF_OTHERS & !MODE_OF_CREDENTIALS } else { MODE_OF_OTHERS };
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(format!(
        "{0} is open to others than its owner (mode {1:04o}); run: chmod 600 {0}",
        path.display(),
        mode & 0o7777
    ))
}

fn unreadable(path: &Path, reason: &io::Error, content: &str) -> String {
    let help = match reason.kind() {
        io::ErrorKind::NotFound => format!("put {content} there, or name another file"),
        io::ErrorKind::PermissionDenied => "let the user that runs the agent own it".into(),
        _ => format!("name a file with {content}"),
    };
    format!("{} cannot be read: {reason}; {help}", path.display())
}

fn read(file: File, path: &Path, limit: u64, content: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let size =
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|reason| unreadable(path, &reason, content))?;
    if size as u64 > limit {
        return Err(format!(
            "{} has more than {limit} bytes; it must hold {content} and nothing more",
            path.display()
        ));
    }
    Ok(bytes)
}

/// The permission bits of everybody but the owner.
const MODE_OF_OTHERS: u32 = 0o077;

/// What systemd's access list for the service's user looks like among them.
const MODE_OF_CREDENTIALS: u32 = 0o040;

/// The platform's own tokens have 18 characters; a JSON web token has about a thousand.
const MAX_TOKEN_BYTES: u64 = 8 * 1024;

/// A whole system's collection of authorities has about 250 KiB.
const MAX_PEM_BYTES: u64 = 1024 * 1024;
