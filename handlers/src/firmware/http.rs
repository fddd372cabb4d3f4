use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use ureq::Agent;

use super::fetch::{FetchError, FetchRequest, Fetcher, Piece};
use crate::http::HttpClient;
use exchange::{Event, Exchange};

mod exchange;
mod redirect;
mod retry_after;

/// Fetches by HTTP and HTTPS.
///
/// A broken transfer is resumed with `Range` and `If-Range`; a server that does not know them sends everything again.
/// At most five redirects are followed, and one that leads from `https` to `http` is not.
#[derive(Clone, Debug, Default)]
pub struct HttpFetcher {
    client: HttpClient,
}

impl HttpFetcher {
    /// Trusts what the system trusts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reaches servers as this client says.
    pub fn with_client(client: HttpClient) -> Self {
        Self { client }
    }

    fn agent(&self, request: &FetchRequest<'_>) -> Agent {
        // `Exchange` follows redirects, and looks at each one.
        self.client
            .config()
            .timeout_resolve(Some(RESOLVE_LIMIT))
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_per_read(Some(request.stall_limit))
            .timeout_per_write(Some(request.stall_limit))
            .timeout_recv_response(Some(request.stall_limit))
            .build()
            .new_agent()
    }
}

impl Fetcher for HttpFetcher {
    /// The transfer runs on a thread of its own, so that this one can look at its token whatever the transfer waits
    /// for: a name, a connection, a handshake, an answer or the next byte. Stopping it closes the socket; only a name
    /// or a connection that is still being waited for keeps that thread, for its own limit at most.
    fn fetch(
        &self,
        request: &FetchRequest<'_>,
        sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let agent = self.agent(request);
        let exchange = Exchange {
            agent: agent.clone(),
            uri: request.uri.to_owned(),
            resume: request.resume.map(|resume| (resume.from, resume.validator.to_owned())),
        };
        let (sender, receiver) = sync_channel(EVENTS_AHEAD);
        thread::Builder::new()
            .name("firmware-fetch".into())
            .spawn(move || exchange.run(&sender))
            .map_err(|error| FetchError::Transport(format!("no thread for the transfer: {error}")))?;
        let result = forward(&receiver, request, sink);
        agent.shutdown();
        result
    }
}

fn forward(
    receiver: &Receiver<Event>,
    request: &FetchRequest<'_>,
    sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<(), FetchError> {
    loop {
        if request.cancellation.is_cancelled() {
            return Err(FetchError::Stopped);
        }
        let flow = match receiver.recv_timeout(CANCELLATION_INTERVAL) {
            Ok(Event::Start { from, total, validator }) => sink(Piece::Start { from, total, validator }),
            Ok(Event::Bytes(bytes)) => sink(Piece::Bytes(&bytes)),
            Ok(Event::End(result)) => return result,
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(FetchError::Transport("the transfer's thread ended".into()));
            }
        };
        if flow.is_break() {
            return Err(FetchError::Stopped);
        }
    }
}

/// How long a name may take to be resolved.
const RESOLVE_LIMIT: Duration = Duration::from_secs(15);

/// How long a connection and its handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How often the token is looked at while nothing arrives. The contract of blocking work is once a second.
const CANCELLATION_INTERVAL: Duration = Duration::from_millis(200);

/// Pieces that may be read ahead of the disk.
const EVENTS_AHEAD: usize = 2;

#[cfg(test)]
mod tests;
