use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::http::header;

use super::put::{Put, UploadError, Uploader};
use crate::http::{self, HttpClient};

/// Sends by HTTP and HTTPS: one `PUT` with `Content-Type: application/gzip`. No redirect is followed.
#[derive(Clone, Debug, Default)]
pub struct HttpUploader {
    client: HttpClient,
}

impl HttpUploader {
    /// Trusts what the system trusts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reaches servers as this client says.
    pub fn with_client(client: HttpClient) -> Self {
        Self { client }
    }
}

impl Uploader for HttpUploader {
    /// The transfer runs on a thread of its own, so that this one can look at its token whatever the transfer waits
    /// for. Stopping it closes the socket; only a name that is still being looked up keeps that thread, for the
    /// attempt's limit at most.
    fn put(&self, put: &Put<'_>) -> Result<(), UploadError> {
        let agent = self.client.config().timeout_global(Some(put.time_limit)).build().new_agent();
        let (transfer, url, body) = (agent.clone(), put.url.to_owned(), put.body.clone());
        let (sender, receiver) = sync_channel(1);
        thread::Builder::new()
            .name("log-upload".into())
            .spawn(move || {
                // Nobody listens any more when the attempt was stopped.
                let _ = sender.send(send(&transfer, &url, &body));
            })
            .map_err(|error| UploadError::Transport(format!("no thread for the transfer: {error}")))?;
        let result = loop {
            if put.cancellation.is_cancelled() {
                break Err(UploadError::Stopped);
            }
            match receiver.recv_timeout(CANCELLATION_INTERVAL) {
                Ok(result) => break result,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(UploadError::Transport("the transfer's thread ended".into()));
                }
            }
        };
        agent.shutdown();
        result
    }
}

fn send(agent: &Agent, url: &str, body: &[u8]) -> Result<(), UploadError> {
    let request = agent.put(url).header(header::CONTENT_TYPE, "application/gzip");
    // With the length known: object stores take no chunks.
    let response = request.send(body).map_err(|error| classify(&error))?;
    let status = response.status();
    if status.is_success() { Ok(()) } else { Err(UploadError::Status(status.as_u16())) }
}

fn classify(error: &ureq::Error) -> UploadError {
    http::reason(error)
        .map_or_else(|| UploadError::Unusable("the address cannot be used".into()), UploadError::Transport)
}

/// How often the token is looked at while the transfer waits. The contract of blocking work is once a second.
const CANCELLATION_INTERVAL: Duration = Duration::from_millis(200);
