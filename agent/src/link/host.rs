//! How a host is written: with brackets or without, where its port follows.

use std::net::Ipv6Addr;

/// As rumqttc wants it. It puts the port behind a colon, and takes the host, as it is, for the name in the certificate:
/// that name has no brackets.
pub(super) fn dialed(host: &str, tls: bool) -> String {
    match address(host) {
        Some(address) if !tls => format!("[{address}]"),
        Some(address) => address.to_string(),
        None => host.to_owned(),
    }
}

/// As it stands in a URL.
pub(super) fn in_url(host: &str) -> String {
    dialed(host, false)
}

/// Host and port as a person reads them.
pub(crate) fn shown(host: &str, port: u16) -> String {
    format!("{}:{port}", in_url(host))
}

/// The IPv6 address, with brackets or without.
fn address(host: &str) -> Option<Ipv6Addr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_may_be_written_with_brackets_and_without() {
        for host in ["::1", "[::1]"] {
            assert_eq!(dialed(host, false), "[::1]");
            assert_eq!(dialed(host, true), "::1");
            assert_eq!(shown(host, 1883), "[::1]:1883");
        }
    }

    #[test]
    fn a_name_and_an_ipv4_address_stay_as_they_are() {
        for host in ["broker.example", "127.0.0.1"] {
            assert_eq!((dialed(host, false), dialed(host, true)), (host.to_owned(), host.to_owned()));
            assert_eq!(shown(host, 8883), format!("{host}:8883"));
        }
    }
}
