//! The proxy between a device and the servers it uses.

use std::fmt;

use ureq::ProxyProtocol;

/// An HTTP proxy. Every address is reached by its CONNECT, those of `http:` too, so that it never sees a request's
/// path; what is fetched by `https:` it cannot read at all.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    credentials: Option<(String, String)>,
    /// Hosts that are reached without it.
    except: Vec<String>,
}

/// Why a proxy cannot be used. No text of it holds what was given: that may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// Not `http://host:port`.
    #[error("the proxy's address has to be http://HOST:PORT")]
    Address,
    /// The address has a user in it.
    #[error(
        "the proxy's user and password do not belong into its address, where logs and colleagues read it"
    )]
    CredentialsInAddress,
    /// Not `user:password`.
    #[error("the proxy's credentials have to be USER:PASSWORD on one line")]
    Credentials,
    /// A host that is to be reached without the proxy is none.
    #[error("a host without the proxy is NAME, .DOMAIN (all below it), or *")]
    Exception,
}

impl Proxy {
    /// The proxy at `http://host:port`; without a port it is 80.
    ///
    /// # Errors
    /// [`ProxyError::Address`] and [`ProxyError::CredentialsInAddress`].
    pub fn new(address: &str) -> Result<Self, ProxyError> {
        match Self::with_any_address(address)? {
            Self { credentials: Some(_), .. } => Err(ProxyError::CredentialsInAddress),
            proxy => Ok(proxy),
        }
    }

    /// With `user:password`, which the proxy asks for by Basic authentication.
    ///
    /// # Errors
    /// [`ProxyError::Credentials`].
    pub fn with_credentials(self, credentials: &str) -> Result<Self, ProxyError> {
        let (user, password) = credentials.split_once(':').ok_or(ProxyError::Credentials)?;
        if user.is_empty() || credentials.contains(char::is_control) {
            return Err(ProxyError::Credentials);
        }
        Ok(Self { credentials: Some((user.into(), password.into())), ..self })
    }

    /// Hosts that are reached directly: a name, `.domain` for all below it, or `*`.
    ///
    /// # Errors
    /// [`ProxyError::Exception`].
    pub fn except<'a>(self, hosts: impl IntoIterator<Item = &'a str>) -> Result<Self, ProxyError> {
        let mut except = self.except;
        for host in hosts {
            let name = host.trim_start_matches("*.").trim_start_matches('.');
            let is_name =
                !name.is_empty() && !name.contains(|c: char| c == '*' || c.is_whitespace() || c == '/');
            if host != "*" && !is_name {
                return Err(ProxyError::Exception);
            }
            except.push(host.to_ascii_lowercase());
        }
        Ok(Self { except, ..self })
    }

    /// The proxy that the environment names: the first of `https_proxy`, `http_proxy` and `all_proxy`, in small or
    /// capital letters, with the hosts of `no_proxy`. It may hold a user and a password.
    ///
    /// # Errors
    /// As [`new`](Self::new): a proxy that is named and cannot be used is no reason to go without it.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ProxyError> {
        let either = |name: &str| {
            let value = variable(name).or_else(|| variable(&name.to_ascii_uppercase()));
            value.filter(|value| !value.is_empty())
        };
        let Some(address) = ["https_proxy", "http_proxy", "all_proxy"].into_iter().find_map(either) else {
            return Ok(None);
        };
        let except = either("no_proxy").unwrap_or_default();
        let hosts = except.split(',').map(str::trim).filter(|host| !host.is_empty());
        Self::with_any_address(&address)?.except(hosts).map(Some)
    }

    /// The host and its port, as a log line may show them.
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The proxy's host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The proxy's TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// User and password, for who makes the connection.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        self.credentials.as_ref().map(|(user, password)| (&**user, &**password))
    }

    /// Whether a host is reached without it.
    pub fn spares(&self, host: &str) -> bool {
        let uri = format!("http://{host}/").parse();
        uri.is_ok_and(|uri| self.connector().is_no_proxy(&uri))
    }

    fn with_any_address(address: &str) -> Result<Self, ProxyError> {
        let parsed = ureq::Proxy::new(address).map_err(|_| ProxyError::Address)?;
        let rest = parsed.uri().path();
        if parsed.protocol() != ProxyProtocol::Http || parsed.host().is_empty() || !matches!(rest, "" | "/") {
            return Err(ProxyError::Address);
        }
        let password = parsed.password().unwrap_or_default();
        Ok(Self {
            host: parsed.host().into(),
            port: parsed.port(),
            credentials: parsed.username().map(|user| (user.into(), password.into())),
            except: Vec::new(),
        })
    }

    /// As ureq wants it.
    pub(super) fn connector(&self) -> ureq::Proxy {
        let mut proxy = ureq::Proxy::builder(ProxyProtocol::Http).host(&self.host).port(self.port);
        if let Some((user, password)) = &self.credentials {
            proxy = proxy.username(user).password(password);
        }
        let proxy = self.except.iter().fold(proxy, |proxy, host| proxy.no_proxy(host));
        proxy.build().expect("host and port are those of an address that was parsed")
    }
}

impl fmt::Debug for Proxy {
    // Neither user nor password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("place", &self.place())
            .field("has_credentials", &self.credentials.is_some())
            .field("except", &self.except)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_with_a_host_and_nothing_secret() {
        assert_eq!(Proxy::new("http://proxy:3128").unwrap().place(), "proxy:3128");
        assert_eq!(Proxy::new("http://[::1]").unwrap().place(), "[::1]:80");
        for address in
            ["", "no address", "https://p:1", "socks5://p:1", "http://", "http://p:1/path", "ftp://p"]
        {
            assert_eq!(Proxy::new(address), Err(ProxyError::Address), "{address}");
        }
        for address in ["http://me:s3cr3t@p:1", "http://me@p:1"] {
            let error = Proxy::new(address).unwrap_err();
            assert_eq!(error, ProxyError::CredentialsInAddress);
            assert!(!error.to_string().contains("s3cr3t"));
        }
    }

    #[test]
    fn credentials_are_a_user_and_a_password_and_nobody_sees_them() {
        let proxy = Proxy::new("http://p:1").unwrap();
        for credentials in ["", "me", ":pw", "me:p\nw", "me:pw\r"] {
            assert_eq!(proxy.clone().with_credentials(credentials), Err(ProxyError::Credentials));
        }
        let proxy = proxy.with_credentials("m@e:s3cr3t:/@%").unwrap();
        let connector = proxy.connector();
        assert_eq!((connector.username(), connector.password()), (Some("m@e"), Some("s3cr3t:/@%")));
        let shown = format!("{proxy:?}");
        assert!(!shown.contains("s3cr3t") && !shown.contains("m@e"), "{shown}");
    }

    #[test]
    fn hosts_can_be_left_out_by_name_and_by_domain() {
        let proxy = Proxy::new("http://p:1").unwrap().except(["images.local", ".acme.example"]).unwrap();
        let connector = proxy.connector();
        for (uri, direct) in
            [("http://images.local/x", true), ("http://a.acme.example/", true), ("http://other/", false)]
        {
            assert_eq!(connector.is_no_proxy(&uri.parse().unwrap()), direct, "{uri}");
            assert_eq!(proxy.spares(uri.split('/').nth(2).unwrap()), direct, "{uri}");
        }
        for host in ["", ".", "a b", "*a", "http://h"] {
            let result = Proxy::new("http://p:1").unwrap().except([host]);
            assert_eq!(result, Err(ProxyError::Exception), "{host}");
        }
    }

    #[test]
    fn the_environments_proxy_is_taken_only_whole() {
        let read = |variables: &'static [(&'static str, &'static str)]| {
            Proxy::from_environment(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(read(&[("no_proxy", "*")]), Ok(None));
        assert_eq!(read(&[("HTTP_PROXY", "")]), Ok(None));
        let proxy = read(&[("HTTP_PROXY", "http://me:pw@p:3128/"), ("NO_PROXY", "a, .b")]).unwrap().unwrap();
        assert_eq!((proxy.place().as_str(), proxy.except.len()), ("p:3128", 2));
        assert!(proxy.credentials.is_some());
        let proxy = read(&[("all_proxy", "http://third"), ("https_proxy", "http://first")]).unwrap().unwrap();
        assert_eq!(proxy.place(), "first:80");
        assert_eq!(read(&[("https_proxy", "socks5://p:1")]), Err(ProxyError::Address));
    }
}
