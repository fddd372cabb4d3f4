//! Where the broker is and how it is reached: four settings, each with a default that follows from the others.

use iotdm_agent::config::{ClientFiles, Proxy, TlsVersion};
use iotdm_agent::{Broker, Config, Tls, Transport};
use iotdm_core::Identity;

use super::super::broker::{self, TlsVersionName, TransportName};
use super::super::{file, references};
use super::Resolver;

impl Resolver<'_> {
    pub(super) fn broker(&mut self, broker: &broker::Broker, identity: &Identity) -> Broker {
        if broker.host.is_some() && broker.domain.is_some() {
            self.problem("broker.domain", "host is given too; keep one of the two");
        }
        let base = match &broker.domain {
            Some(domain) => Broker::of_maximo(&identity.org, &domain.0),
            None => Broker::of_watson(&identity.org),
        };
        let with_tls = broker.tls.unwrap_or(true);
        let tls = with_tls.then(|| self.tls(broker));
        if !with_tls {
            self.refuse_tls_keys(broker);
        }
        let transport = self.transport(broker);
        // Maximo has one port for both transports.
        let default_port =
            if broker.domain.is_some() && with_tls { base.port } else { transport.default_port(with_tls) };
        let port = broker.port.as_ref().map_or(default_port, |port| {
            u16::try_from(port.get()).expect("the range of a port ends at 65535")
        });
        let host = broker.host.as_ref().map_or(base.host, |host| host.0.clone());
        let proxy = self.broker_proxy(broker, &host);
        if proxy.is_some() && host.parse::<std::net::Ipv6Addr>().is_ok() {
            self.problem(
                "broker.host",
                "is an IPv6 address, which no proxy is asked for; write the broker's name",
            );
        }
        Broker {
            host,
            port,
            transport,
            proxy,
            tls,
            keep_alive: broker.keep_alive.as_ref().map_or(base.keep_alive, |time| time.get()),
            durable_session: broker.durable_session.unwrap_or(!identity.is_quickstart()),
            protocol: self.protocol(broker),
            user_name: None,
            topic_prefix: broker.topic_prefix.as_ref().map(|prefix| prefix.0.clone()),
        }
    }

    fn transport(&mut self, broker: &broker::Broker) -> Transport {
        match (broker.transport, &broker.path) {
            (TransportName::Tcp, None) => Transport::Tcp,
            (TransportName::Tcp, Some(_)) => {
                self.problem(
                    "broker.path",
                    "is of no use with transport = \"tcp\"; remove it, or set transport = \"websocket\"",
                );
                Transport::Tcp
            }
            (TransportName::WebSocket, None) => Transport::websocket(),
            (TransportName::WebSocket, Some(path)) => Transport::WebSocket { path: path.0.clone() },
        }
    }

    fn tls(&mut self, broker: &broker::Broker) -> Tls {
        if broker.insecure_skip_verify {
            if !broker.pins.is_empty() {
                self.problem(
                    "broker.insecure_skip_verify",
                    "takes everybody for the broker, and pins name its key; keep one of the two. For a broker with a \
                     certificate of its own making, name that certificate with ca_file",
                );
            }
            self.warnings.push(
                "broker.insecure_skip_verify is true: whoever answers for the broker gets the token and may command this \
                 device"
                    .into(),
            );
        }
        let ca_pem = self.authorities("broker.ca_file", broker.ca_file.as_ref());
        let (certificate, key) = (broker.client_certificate.as_ref(), broker.client_key.as_ref());
        let client_pem = self.client_pem("broker", certificate, key);
        let client_files = certificate.zip(key).map(|(certificate, key)| {
            let credentials = self.credentials();
            ClientFiles::new(self.path(certificate), self.path(key), move |certificate, key| {
                let chain = references::certificates(certificate)?;
                Ok((chain, references::private_key(key, credentials.as_deref())?))
            })
        });
        Tls {
            ca_pem,
            client_pem,
            client_files,
            version: broker.tls_version.map(|version| match version {
                TlsVersionName::Tls12 => TlsVersion::Tls12,
                TlsVersionName::Tls13 => TlsVersion::Tls13,
            }),
            pins: broker.pins.iter().map(|pin| pin.0).collect(),
            insecure_skip_verify: broker.insecure_skip_verify,
        }
    }

    fn refuse_tls_keys(&mut self, broker: &broker::Broker) {
        let keys = [
            ("broker.tls_version", broker.tls_version.is_some()),
            ("broker.ca_file", broker.ca_file.is_some()),
            ("broker.pins", !broker.pins.is_empty()),
            ("broker.insecure_skip_verify", broker.insecure_skip_verify),
            ("broker.client_certificate", broker.client_certificate.is_some()),
            ("broker.client_key", broker.client_key.is_some()),
        ];
        for (key, _) in keys.iter().filter(|(_, given)| *given) {
            self.problem(key, "is of no use with tls = false; remove it, or set tls = true");
        }
    }

    fn broker_proxy(&mut self, broker: &broker::Broker, host: &str) -> Option<Proxy> {
        let proxy = self.proxy(broker.http()).filter(|proxy| !proxy.spares(host))?;
        Some(Proxy {
            host: proxy.host().into(),
            port: proxy.port(),
            credentials: proxy
                .credentials()
                .map(|(user, password)| (user.into(), iotdm_agent::Secret::new(password))),
        })
    }

    /// What the trial organization does not have (`docs/protocol.md` §1.4).
    pub(super) fn refuse_for_quickstart(&mut self, file: &file::File) {
        let quickstart = "quickstart knows no devices and asks for no proof; remove it";
        let actions = &file.actions;
        let given = [
            ("auth.token_file", file.auth.token_file.is_some(), quickstart),
            ("auth.token_env", file.auth.token_env.is_some(), quickstart),
            ("broker.client_certificate", file.broker.client_certificate.is_some(), quickstart),
            ("broker.client_key", file.broker.client_key.is_some(), quickstart),
            (
                "broker.durable_session",
                file.broker.durable_session == Some(true),
                "quickstart keeps nothing for a device that is away; write false, or leave the key out",
            ),
            (
                "broker.session_expiry",
                file.broker.session_expiry.is_some(),
                "quickstart keeps nothing for a device that is away; remove it",
            ),
            ("gateway", file.gateway.is_some(), NO_MANAGEMENT),
            ("management.lifetime", file.management.lifetime.is_some(), NO_MANAGEMENT),
            ("device.location", file.device.location.is_some(), NO_MANAGEMENT),
            ("actions.reboot", actions.reboot.is_some(), NO_MANAGEMENT),
            ("actions.factory_reset", actions.factory_reset.is_some(), NO_MANAGEMENT),
            ("actions.firmware", actions.firmware.is_some(), NO_MANAGEMENT),
            ("actions.diagnostics", actions.diagnostics.is_some(), NO_MANAGEMENT),
            ("actions.script", !actions.script.is_empty(), NO_MANAGEMENT),
            ("actions.scripts_dir", actions.scripts_dir.is_some(), NO_MANAGEMENT),
            ("commands", !file.commands.is_empty(), NO_COMMANDS),
        ];
        for (key, _, message) in given.iter().filter(|(_, given, _)| *given) {
            self.problem(key, *message);
        }
    }

    /// What an operator may want, and should know of.
    pub(super) fn warn_of_exposure(&mut self, config: &Config) {
        let local = is_local(&config.broker.host);
        if config.broker.tls.is_none() && config.token.is_some() && !local {
            self.warnings.push(format!(
                "broker.tls is false: the token travels to {} for everybody to read",
                config.broker.host
            ));
        }
        if config.identity.is_quickstart() {
            self.warnings.push(
                "device.org is quickstart: this device is not managed, and what it sends anybody may read"
                    .into(),
            );
            return;
        }
        let has_certificate = config.broker.tls.as_ref().is_some_and(|tls| tls.client_pem.is_some());
        if config.token.is_none() && !has_certificate && !local {
            self.warnings
                .push("there is neither a token nor a client certificate: few brokers accept that".into());
        }
        if !config.broker.durable_session {
            self.warnings.push(
                "broker.durable_session is false: what the platform asks for while the device is away is lost".into(),
            );
        }
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

const NO_COMMANDS: &str =
    "quickstart has no commands; remove it, or write the id of an organization of your own as device.org";

const NO_MANAGEMENT: &str = "quickstart has no device management; remove it, or write the id of an organization of your own as device.org";
