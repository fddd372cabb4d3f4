//! Where a redirect leads, and whether it is followed.

use ureq::http::uri::Scheme;
use ureq::http::{HeaderValue, StatusCode, Uri};

use super::super::fetch::FetchError;

/// Whether an answer sends elsewhere (RFC 9110 §15.4).
pub(super) fn is_one(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The address that `Location` names, as seen from `base` (RFC 3986 §5.2).
///
/// Architecture invariant: from `https` it leads to `https` alone, hop by hop, so that also a chain that began with
/// `http` never leaves what it has gained.
pub(super) fn target(base: &Uri, location: &HeaderValue) -> Result<Uri, FetchError> {
    let location = location.to_str().map_err(|_| unusable())?.trim();
    // What follows the hash is the browser's.
    let location = location.split('#').next().unwrap_or_default();
    let target: Uri = absolute(base, location).parse().map_err(|_| unusable())?;
    let is_secure = |uri: &Uri| uri.scheme() == Some(&Scheme::HTTPS);
    let is_known = is_secure(&target) || target.scheme() == Some(&Scheme::HTTP);
    if !is_known || target.host().is_none_or(str::is_empty) {
        return Err(unusable());
    }
    if is_secure(base) && !is_secure(&target) {
        return Err(FetchError::Unusable("it leads from https to http".into()));
    }
    Ok(target)
}

/// What is said of an address that cannot be used: without the address, which may hold a password and a signature.
pub(super) fn unusable() -> FetchError {
    FetchError::Unusable("it leads to an address that cannot be used".into())
}

fn absolute(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or_default();
    let authority = base.authority().map_or("", |authority| authority.as_str());
    if has_scheme(location) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    }
}

/// RFC 3986 §3.1.
fn has_scheme(location: &str) -> bool {
    let Some((scheme, _)) = location.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(base: &str, location: &str) -> Result<String, FetchError> {
        let location = HeaderValue::from_str(location).unwrap();
        target(&base.parse().unwrap(), &location).map(|uri| uri.to_string())
    }

    #[test]
    fn a_location_is_read_as_seen_from_where_it_was_given() {
        for (location, expected) in [
            ("https://cdn/x?sig=1#top", "https://cdn/x?sig=1"),
            ("//cdn/x", "http://cdn/x"),
            ("/other", "http://me:pw@h:8/other"),
            ("other", "http://me:pw@h:8/a/other"),
            ("?v=2", "http://me:pw@h:8/a/b?v=2"),
            ("HTTP://cdn", "http://cdn/"),
        ] {
            assert_eq!(from("http://me:pw@h:8/a/b?v=1", location).as_deref(), Ok(expected), "{location}");
        }
    }

    #[test]
    fn nothing_leads_from_https_to_http_and_nowhere_but_to_a_host() {
        for location in ["http://h/x", "HTTP://h/x"] {
            let error = from("https://h/x", location).unwrap_err();
            assert_eq!(error, FetchError::Unusable("it leads from https to http".into()), "{location}");
        }
        for location in ["file:///x", "ftp://h/x", "javascript:x", "http://a b/", "///x"] {
            for base in ["http://h/x", "https://h/x"] {
                assert_eq!(from(base, location), Err(unusable()), "{location}");
            }
        }
        assert_eq!(from("https://h/a", "b").as_deref(), Ok("https://h/b"));
    }
}
