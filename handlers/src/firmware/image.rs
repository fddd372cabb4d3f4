//! Which image the platform speaks of.

use std::path::Path;

use iotdm_core::{Firmware as Attribute, UpdateStatus};
use serde::{Deserialize, Serialize};

use super::options::{FirmwareOptions, Verification};
use super::state::Fault;
use super::verify::{ACCEPTED_FORMS, MINISIGN_COMMAND, Verifier};

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
        Self::judge(firmware, options).map_err(|fault| fault.reason)
    }

    /// [`described_by`](Self::described_by), with what a download that has begun ends with.
    pub(super) fn judge(firmware: &Attribute, options: &FirmwareOptions) -> Result<Self, Fault> {
        let uri = firmware.uri.as_deref().map(str::trim).filter(|uri| !uri.is_empty());
        let uri = uri.ok_or_else(|| "uri: mgmt.firmware has none".to_owned());
        let uri = uri.and_then(|uri| check_uri(uri, options.allow_file_uris).map(|()| uri.to_owned()));
        let uri = uri.map_err(|reason| Fault::new(UpdateStatus::InvalidUri, reason))?;
        let verifier = verifier(firmware, options)
            .map_err(|reason| Fault::new(UpdateStatus::VerificationFailed, reason))?;
        Ok(Self { uri, verifier, version: firmware.version.clone() })
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

fn verifier(firmware: &Attribute, options: &FirmwareOptions) -> Result<Option<Verifier>, String> {
    let text = firmware.verifier.as_deref().map(str::trim).filter(|verifier| !verifier.is_empty());
    let verifier = text.map(str::parse::<Verifier>).transpose().map_err(|error| error.to_string())?;
    let problem = match (&verifier, options.verification) {
        (Some(Verifier::Minisign(_)), _) if options.public_keys.is_empty() => {
            "this device has no public key to check a signature with".to_owned()
        }
        (Some(Verifier::Minisign(signature)), _) if !signature.is_known_to(&options.public_keys) => {
            let known: Vec<String> = options.public_keys.iter().map(|key| key.id()).collect();
            format!("signed by key {}; this device knows {}", signature.key_id(), known.join(", "))
        }
        (Some(Verifier::Minisign(_)), _) => return Ok(verifier),
        (_, Verification::Signed) => {
            format!("this device takes only signed images; make the signature with: {MINISIGN_COMMAND}")
        }
        (None, Verification::Required) => {
            format!("this device takes no image without one; use {ACCEPTED_FORMS}")
        }
        (Some(_), _) | (None, Verification::IfGiven) => return Ok(verifier),
    };
    Err(format!("verifier: {problem}"))
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
    use super::super::verify::signed::{KEY, OTHER_KEY, signed as signed_by_key, signed_as_legacy};
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
    fn where_signatures_are_required_only_one_by_a_known_key_is_taken() {
        let key = |text: &str| vec![text.parse().unwrap()];
        let signed = |keys| FirmwareOptions {
            verification: Verification::Signed,
            public_keys: keys,
            ..FirmwareOptions::new("/staging")
        };
        let checksum = "a".repeat(64);
        for (verifier, keys, reason) in [
            (None, key(KEY), "takes only signed images; make the signature with: minisign -S -m IMAGE"),
            (Some(checksum.clone()), key(KEY), "takes only signed images"),
            (Some(signed_as_legacy()), key(KEY), "the whole image in memory"),
            (
                Some(signed_by_key()),
                key(OTHER_KEY),
                "signed by key 46ACB296E4172022; this device knows DA0FCAD8539B474D",
            ),
        ] {
            let message = described("http://h/x", verifier.as_deref(), &signed(keys)).unwrap_err();
            assert!(message.starts_with("verifier: ") && message.contains(reason), "{message}");
        }
        assert!(described("http://h/x", Some(&signed_by_key()), &signed(key(KEY))).is_ok());
        // Beside keys a checksum is enough where the policy says so; a signature never goes unchecked.
        let either = FirmwareOptions { public_keys: key(KEY), ..FirmwareOptions::new("/staging") };
        assert!(described("http://h/x", Some(&checksum), &either).is_ok());
        let message = described("http://h/x", Some(&signed_by_key()), &lenient()).unwrap_err();
        assert!(message.contains("no public key"), "{message}");
    }

    #[test]
    fn a_log_line_shows_no_password_and_no_signature() {
        let image = described("https://me:secret@h:8/a/b?sig=secret#x", None, &lenient()).unwrap();
        assert_eq!(image.place(), "https://h:8/a/b");
    }
}
