use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Brings a compressed log to where a request says.
///
/// # Assumptions
/// It runs on a thread that may block. It looks at [`Put::cancellation`] at least once a second and returns
/// [`UploadError::Stopped`] then. It follows no redirect: only the address itself was allowed.
pub trait Uploader: Send + Sync + 'static {
    /// One attempt; `Ok` when the server has it.
    ///
    /// # Errors
    /// [`UploadError`]; none repeats the address.
    fn put(&self, put: &Put<'_>) -> Result<(), UploadError>;
}

/// What is to be sent.
#[derive(Clone)]
pub struct Put<'a> {
    /// Where to; its host is an allowed one. It may be signed: it belongs in no log.
    pub url: &'a str,
    /// What.
    pub body: &'a Arc<[u8]>,
    /// How long the attempt may take.
    pub time_limit: Duration,
    /// Set when the attempt is to stop.
    pub cancellation: &'a CancellationToken,
}

impl fmt::Debug for Put<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Put").field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// Why an attempt brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The connection: not made, broken, or too slow. Another attempt may succeed.
    #[error("{0}")]
    Transport(String),
    /// The server's answer is an HTTP status other than success.
    #[error("the server answered {0}")]
    Status(u16),
    /// Nothing can be sent to this address, also later.
    #[error("{0}")]
    Unusable(String),
    /// It was to stop.
    #[error("the attempt was stopped")]
    Stopped,
}

impl UploadError {
    /// Whether another attempt may succeed: the connection, an overloaded server, one that restarts.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            Self::Status(status) => matches!(status, 408 | 429 | 500..=599),
            Self::Unusable(_) | Self::Stopped => false,
        }
    }
}
