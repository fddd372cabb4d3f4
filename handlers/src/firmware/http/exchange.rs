//! One request and its answer, on a thread that may block.

use std::io::{self, Read};
use std::sync::mpsc::SyncSender;

use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::super::fetch::{FetchError, PIECE_BYTES, Resume};
use super::{redirect, retry_after};
use crate::http;

/// What is asked of the server.
pub(super) struct Exchange {
    pub(super) agent: Agent,
    pub(super) uri: String,
    pub(super) resume: Option<(u64, String)>,
}

/// What its thread tells.
pub(super) enum Event {
    Start { from: u64, total: Option<u64>, validator: Option<String> },
    Bytes(Vec<u8>),
    End(Result<(), FetchError>),
}

impl Exchange {
    pub(super) fn run(&self, events: &SyncSender<Event>) {
        let result = self.answer().and_then(|response| self.pass_on(response, events));
        // Nobody listens any more when the attempt was stopped.
        let _ = events.send(Event::End(result));
    }

    /// The answer behind all redirects.
    fn answer(&self) -> Result<Response<Body>, FetchError> {
        let mut uri: Uri = self.uri.parse().map_err(|_| redirect::unusable())?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.request(&uri)?;
            if !redirect::is_one(response.status()) {
                return Ok(response);
            }
            let Some(location) = response.headers().get(header::LOCATION) else { return Ok(response) };
            uri = redirect::target(&uri, location)?;
        }
        Err(FetchError::Unusable("too many redirects".into()))
    }

    fn request(&self, uri: &Uri) -> Result<Response<Body>, FetchError> {
        // A byte range speaks of the encoded form: the plain one is asked for.
        let mut request = self.agent.get(uri).header(header::ACCEPT_ENCODING, "identity");
        if let Some((from, validator)) = &self.resume {
            request = request
                .header(header::RANGE, format!("bytes={from}-"))
                .header(header::IF_RANGE, validator.as_str());
        }
        request.call().map_err(|error| classify(&error))
    }

    fn pass_on(&self, response: Response<Body>, events: &SyncSender<Event>) -> Result<(), FetchError> {
        let resume = self.resume.as_ref().map(|(from, validator)| Resume { from: *from, validator });
        let start = start_of(response.status(), response.headers(), resume)?;
        let send = |event| events.send(event).map_err(|_| FetchError::Stopped);
        send(start)?;
        let mut body = response.into_body().into_reader();
        loop {
            let mut bytes = vec![0; PIECE_BYTES];
            match body.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    bytes.truncate(count);
                    send(Event::Bytes(bytes))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FetchError::Transport(error.to_string())),
            }
        }
    }
}

/// What an answer means: 200 is the whole image, 206 the rest of it, and only if it begins where the part ends.
fn start_of(
    status: StatusCode,
    headers: &HeaderMap,
    resume: Option<Resume<'_>>,
) -> Result<Event, FetchError> {
    let validator = validator_of(headers);
    match (status, resume) {
        (StatusCode::OK, _) => {
            let total = text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
            Ok(Event::Start { from: 0, total, validator })
        }
        (StatusCode::PARTIAL_CONTENT, Some(resume)) => {
            let (from, total) = text(headers, header::CONTENT_RANGE)
                .and_then(parse_content_range)
                .ok_or_else(|| FetchError::NotResumable("the server's range cannot be read".into()))?;
            // Servers exist that send a range and do not look at If-Range.
            let other = validator.as_deref().is_some_and(|validator| validator != resume.validator);
            if from != resume.from || other {
                return Err(FetchError::NotResumable("the server's range is not the one asked for".into()));
            }
            Ok(Event::Start { from, total, validator: Some(resume.validator.to_owned()) })
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
            Err(FetchError::NotResumable("the server's image is shorter than what is here".into()))
        }
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => {
            let status = status.as_u16();
            Err(retry_after::of(headers)
                .map_or(FetchError::Status(status), |retry_after| FetchError::Busy { status, retry_after }))
        }
        _ => Err(FetchError::Status(status.as_u16())),
    }
}

/// A weak entity tag names no bytes, and `If-Range` may not carry it (RFC 9110 §13.1.5).
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, header::ETAG).filter(|tag| tag.starts_with('"'));
    tag.or_else(|| text(headers, header::LAST_MODIFIED)).map(str::to_owned)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `bytes 5-9/10` is (5, 10), `bytes 5-9/*` is (5, unknown).
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (from, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((from.parse().ok()?, total))
}

fn classify(error: &ureq::Error) -> FetchError {
    http::reason(error).map_or_else(redirect::unusable, FetchError::Transport)
}

/// Redirects that are followed: object stores and mirrors use one or two.
const MAX_REDIRECTS: u32 = 5;
