//! Which image the platform speaks of.

use std::path::Path;

use iotdm_core::Firmware as Attribute;
use serde::{Deserialize, Serialize};

use super::options::{FirmwareOptions, Verification};
use super::verify::{ACCEPTED_FORMS, Verifier};

/// The image that `mgmt.firmware` describes, checked. Two images are the same when all of it is equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Image {
    pub(super) uri: String,
    pub(super) verifier: Option<Verifier>,
    pub(super) version: Option<String>,
}

impl Image {
    /// The error is a message for the platform.
    pub(super) fn described_by(firmware: &Attribute, options: &FirmwareOptions) -> Result<Self, String> {
        let uri = firmware.uri.as_deref().map(str::trim).filter(|uri| !uri.is_empty());
        let uri = uri.ok_or("uri: mgmt.firmware has none")?;
        check_uri(uri, options.allow_file_uris)?;
        let verifier = firmware.verifier.as_deref().map(str::trim).filter(|verifier| !verifier.is_empty());
        let verifier = verifier.map(str::parse::<Verifier>).transpose().map_err(|error| error.to_string())?;
        if verifier.is_none() && options.verification == Verification::Required {
            return Err(format!("verifier: this device takes no image without one; use {ACCEPTED_FORMS}"));
        }
        Ok(Self { uri: uri.to_owned(), verifier, version: firmware.version.clone() })
    }

    /// Where the image is, without what may be secret: a user's password, a signed query.
    pub(super) fn place(&self) -> String {
        let place = self.uri.split(['?', '#']).next().unwrap_or_default();
        match place.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = authority.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}/{path}")
            }
            None => place.to_owned(),
        }
    }
}

/// The path of a `file:` URI, as it stands: percent signs mean themselves.
pub(super) fn file_path(uri: &str) -> Option<&Path> {
    uri.strip_prefix("file://").map(Path::new).filter(|path| path.is_absolute())
}

fn check_uri(uri: &str, allow_file_uris: bool) -> Result<(), String> {
    if uri.len() > MAX_URI_BYTES {
        return Err(format!("uri: longer than {MAX_URI_BYTES} bytes"));
    }
    if uri.starts_with("file:") {
        return match (allow_file_uris, file_path(uri)) {
            (true, Some(_)) => Ok(()),
            (true, None) => Err("uri: expected file:// and an absolute path".into()),
            (false, _) => Err("uri: this device takes no file: URIs, only http: and https:".into()),
        };
    }
    let parsed: ureq::http::Uri = uri.parse().map_err(|error| format!("uri: {error}"))?;
    let has_host = parsed.host().is_some_and(|host| !host.is_empty());
    match parsed.scheme_str() {
        Some("http" | "https") if has_host => Ok(()),
        Some("http" | "https") => Err("uri: has no host".into()),
        _ => Err("uri: expected http:// or https://".into()),
    }
}

/// Longest address of an image, in bytes: signed addresses of object stores come to about two thousand.
const MAX_URI_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn described(uri: &str, verifier: Option<&str>, options: &FirmwareOptions) -> Result<Image, String> {
        let firmware =
            Attribute { uri: Some(uri.into()), verifier: verifier.map(Into::into), ..Attribute::default() };
        Image::described_by(&firmware, options)
    }

    fn lenient() -> FirmwareOptions {
        FirmwareOptions { verification: Verification::IfGiven, ..FirmwareOptions::new("/staging") }
    }

    #[test]
    fn an_address_needs_a_known_scheme_and_a_host() {
        for uri in ["http://h/x", "https://h", "HTTP://h:8080/x?y=z", "http://[::1]:80/x", " http://h/x "] {
            assert!(described(uri, None, &lenient()).is_ok(), "{uri}");
        }
        let long = format!("http://h/{}", "x".repeat(MAX_URI_BYTES));
        for uri in [
            "",
            "h/x",
            "/x",
            "ftp://h/x",
            "http://",
            "http:///x",
            "http://a b/",
            "file:///x",
            "http:x",
            &long,
        ] {
            let message = described(uri, None, &lenient()).unwrap_err();
            assert!(message.starts_with("uri: "), "{uri}: {message}");
        }
    }

    #[test]
    fn a_file_is_taken_only_where_it_is_allowed() {
        let allowing = FirmwareOptions { allow_file_uris: true, ..lenient() };
        assert!(described("file:///media/usb/image", None, &allowing).is_ok());
        for uri in ["file:image", "file://host/image", "file:/image"] {
            assert!(described(uri, None, &allowing).is_err(), "{uri}");
        }
    }

    #[test]
    fn without_a_verifier_an_image_is_refused_unless_the_policy_says_otherwise() {
        let strict = FirmwareOptions::new("/staging");
        for verifier in [None, Some(""), Some("crc:1")] {
            let message = described("http://h/x", verifier, &strict).unwrap_err();
            assert!(message.contains("sha256:"), "{message}");
        }
        assert!(described("http://h/x", Some(""), &lenient()).unwrap().verifier.is_none());
        // One that is given and cannot be used is refused by every policy: leaving it out would hide the mistake.
        assert!(described("http://h/x", Some("crc:1"), &lenient()).is_err());
    }

    #[test]
    fn a_log_line_shows_no_password_and_no_signature() {
        let image = described("https://me:secret@h:8/a/b?sig=secret#x", None, &lenient()).unwrap();
        assert_eq!(image.place(), "https://h:8/a/b");
    }
}
