use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use tracing::{info, warn};

use crate::config::{ClientFiles, Tls};

use super::{TlsError, client_config};

/// TLS from one connection to the next: the device's certificate may be renewed in between. Everything else stays, and
/// with it the tickets that make the next handshake shorter.
pub(in crate::link) struct TlsClient {
    tls: Tls,
    config: Arc<ClientConfig>,
    /// The files as they were when they were last read and found good.
    seen: Option<[Stamp; 2]>,
    /// What was last wrong with them: it is said once, not at each attempt.
    complaint: Option<String>,
}

impl TlsClient {
    pub(in crate::link) fn new(tls: &Tls) -> Result<Self, TlsError> {
        let config = Arc::new(client_config(tls)?);
        Ok(Self { tls: tls.clone(), config, seen: None, complaint: None })
    }

    pub(in crate::link) fn settings(&self) -> &Tls {
        &self.tls
    }

    /// What to connect with now. A pair of files that cannot be used (one of them is written and the other is not yet, or
    /// its key has become readable by everybody) leaves the one before in use, and is looked at again next time.
    pub(in crate::link) fn current(&mut self) -> Arc<ClientConfig> {
        if let Some(files) = self.tls.client_files.clone() {
            match self.renew(&files) {
                Ok(()) => self.complaint = None,
                Err(reason) if self.complaint.as_deref() == Some(&*reason) => {}
                Err(reason) => {
                    warn!("the device's certificate stays as it was: {reason}");
                    self.complaint = Some(reason);
                }
            }
        }
        Arc::clone(&self.config)
    }

    fn renew(&mut self, files: &ClientFiles) -> Result<(), String> {
        // Taken before the files are read: what is written meanwhile is another change.
        let stamps = files.paths().map(stamp);
        let [Some(certificate), Some(key)] = stamps else {
            let missing = files.paths()[usize::from(stamps[0].is_some())];
            return Err(format!("{} cannot be looked at", missing.display()));
        };
        let found = Some([certificate, key]);
        if found == self.seen {
            return Ok(());
        }
        let pair = Some(files.read()?);
        if pair != self.tls.client_pem {
            let tls = Tls { client_pem: pair, ..self.tls.clone() };
            let config = client_config(&tls).map_err(|error| error.to_string())?;
            info!("the device's certificate was renewed: {}", files.paths()[0].display());
            (self.tls, self.config) = (tls, Arc::new(config));
        }
        self.seen = found;
        Ok(())
    }
}

/// What changes with a file's content: seconds and nanoseconds of its last change, its place on the disk, its length.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp(i64, i64, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp(metadata.mtime(), metadata.mtime_nsec(), metadata.ino(), metadata.len()))
}
