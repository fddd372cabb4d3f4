use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

/// Brings the bytes of an image here, from where and however a device gets them.
///
/// # Flow
/// One call is one attempt. It gives its sink one [`Piece::Start`], then [`Piece::Bytes`] in order, and returns `Ok`
/// when the source has ended by its own rules. Attempts, pauses, limits, storage and verification are the caller's.
///
/// # Assumptions
/// It runs on a thread that may block. It looks at [`FetchRequest::cancellation`] at least once a second and returns
/// [`FetchError::Stopped`] then, or when the sink says [`ControlFlow::Break`].
pub trait Fetcher: Send + Sync + 'static {
    /// One attempt.
    fn fetch(
        &self,
        request: &FetchRequest<'_>,
        sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), FetchError>;
}

/// What is to be fetched.
#[derive(Clone, Debug)]
pub struct FetchRequest<'a> {
    /// Where it is.
    pub uri: &'a str,
    /// What is here already; the source may start over all the same.
    pub resume: Option<Resume<'a>>,
    /// How long the source may be silent.
    pub stall_limit: Duration,
    /// Set when the attempt is to stop.
    pub cancellation: &'a CancellationToken,
}

/// The start of an image that is here already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume<'a> {
    /// How many bytes, at least one.
    pub from: u64,
    /// The source's name for exactly those bytes, as [`Piece::Start`] gave it.
    pub validator: &'a str,
}

/// What a fetcher gives its sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The source has answered; comes first, and once.
    Start {
        /// The offset of the first byte that follows: 0, or [`Resume::from`].
        from: u64,
        /// How long the whole image is, if the source tells.
        total: Option<u64>,
        /// A name for exactly these bytes, by which a later attempt may go on.
        validator: Option<String>,
    },
    /// What comes next.
    Bytes(&'a [u8]),
}

/// Why an attempt brought no complete image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The connection: not made, broken, silent, or refused for the moment. Another attempt may succeed.
    #[error("{0}")]
    Transport(String),
    /// The server's answer is an HTTP status other than success.
    #[error("the server answered {0}")]
    Status(u16),
    /// The server is busy and says when to ask again: 429 or 503 with `Retry-After`.
    #[error("the server answered {status} and asks for a pause of {} s", retry_after.as_secs())]
    Busy {
        /// The HTTP status.
        status: u16,
        /// The pause that it asks for. How much of it is given is the caller's.
        retry_after: Duration,
    },
    /// What is here does not fit what the source has: the next attempt starts from the first byte.
    #[error("{0}")]
    NotResumable(String),
    /// Nothing can be fetched from this address, also later.
    #[error("{0}")]
    Unusable(String),
    /// It was to stop.
    #[error("the attempt was stopped")]
    Stopped,
}

/// Copies a file. It never resumes: a local copy is made anew quickly.
pub(super) fn fetch_file(
    path: &Path,
    cancellation: &CancellationToken,
    sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<(), FetchError> {
    let unusable = |error: io::Error| FetchError::Unusable(format!("the file cannot be read: {error}"));
    let other = || FetchError::Unusable("the path is not a regular file".into());
    // A pipe would block for ever when it is opened, out of the token's reach, and a device begins something.
    if !fs::metadata(path).map_err(unusable)?.is_file() {
        return Err(other());
    }
    let no_wait = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags of open are an int in C");
    let mut file = File::options().read(true).custom_flags(no_wait).open(path).map_err(unusable)?;
    let metadata = file.metadata().map_err(unusable)?;
    // It was exchanged in between.
    if !metadata.is_file() {
        return Err(other());
    }
    let mut give = |piece: Piece<'_>| match sink(piece) {
        ControlFlow::Continue(()) if !cancellation.is_cancelled() => Ok(()),
        _ => Err(FetchError::Stopped),
    };
    give(Piece::Start { from: 0, total: Some(metadata.len()), validator: None })?;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => give(Piece::Bytes(&buffer[..count]))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unusable(error)),
        }
    }
}

/// Most bytes in one piece.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Opening a pipe that nobody writes to never ends, and no token reaches a thread that does.
    #[test]
    fn a_pipe_is_refused_before_it_is_opened() {
        let home = tempfile::tempdir().unwrap();
        let pipe = home.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let (done, result) = mpsc::channel();
        std::thread::spawn(move || {
            let fetched = fetch_file(&pipe, &CancellationToken::new(), &mut |_| ControlFlow::Continue(()));
            done.send(fetched).unwrap();
        });
        let fetched = result.recv_timeout(Duration::from_secs(60)).expect("it ends");
        assert_eq!(fetched, Err(FetchError::Unusable("the path is not a regular file".into())));
    }
}
