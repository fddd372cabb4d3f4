//! What of the way to the broker can be checked before it is gone.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::config::{Config, Transport};

use super::BuildError;

pub(super) fn check(config: &Config) -> Result<(), BuildError> {
    let broker = &config.broker;
    if broker.keep_alive < Duration::from_secs(5) || broker.keep_alive.as_secs() > u16::MAX.into() {
        return Err(BuildError::Range("the keep-alive is 5 seconds to 18 hours"));
    }
    if let Transport::WebSocket { path } = &broker.transport
        && !path.starts_with('/')
    {
        return Err(BuildError::Range("the path of a WebSocket begins with /"));
    }
    if broker.proxy.is_some() && broker.host.parse::<Ipv6Addr>().is_ok() {
        return Err(BuildError::Range("no proxy is asked for an IPv6 address: give the broker's name"));
    }
    if config.identity.is_quickstart() {
        let has_certificate = broker.tls.as_ref().is_some_and(|tls| tls.client_pem.is_some());
        if config.token.is_some() || has_certificate {
            return Err(BuildError::Range(
                "the quickstart organization asks for no proof: leave token and client certificate out",
            ));
        }
        if broker.durable_session {
            return Err(BuildError::Range(
                "the quickstart organization keeps no session: set durable_session to false",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use iotdm_core::Identity;

    use super::*;
    use crate::config::{Proxy, Secret, Tls};

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Config), part: &str) {
        let mut config = crate::testing::config();
        change(&mut config);
        let error = check(&config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    fn quickstart(config: &mut Config) {
        config.identity = Identity::device("quickstart", "lamp", "1").unwrap();
        config.broker.durable_session = false;
    }

    #[test]
    fn quickstart_takes_no_token_no_certificate_and_no_durable_session() {
        let mut config = crate::testing::config();
        quickstart(&mut config);
        check(&config).unwrap();
        let with = |change: fn(&mut Config)| {
            move |config: &mut Config| {
                quickstart(config);
                change(config);
            }
        };
        refused(with(|config| config.token = Some(Secret::new("t"))), "asks for no proof");
        refused(
            with(|config| {
                let client_pem = Some((Vec::new(), Secret::new("k")));
                config.broker.tls = Some(Tls { client_pem, ..Tls::default() });
            }),
            "asks for no proof",
        );
        refused(with(|config| config.broker.durable_session = true), "keeps no session");
    }

    #[test]
    fn a_path_begins_with_a_slash_and_a_proxy_is_asked_for_names() {
        refused(
            |config| config.broker.transport = Transport::WebSocket { path: "mqtt".into() },
            "begins with /",
        );
        refused(
            |config| {
                config.broker.host = "::1".into();
                config.broker.proxy = Some(Proxy { host: "p".into(), port: 1, credentials: None });
            },
            "IPv6",
        );
        refused(|config| config.broker.keep_alive = Duration::from_secs(4), "keep-alive");
    }
}
