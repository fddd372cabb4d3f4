//! Texts about where images come from and who signs them.

use iotdm_handlers::firmware::PublicKey;
use iotdm_handlers::http::{Proxy, ProxyError};

use super::variable_name;

/// Where the proxy comes from.
#[derive(Clone, Debug)]
pub(in crate::program::config) enum ProxyChoice {
    Environment,
    Address(Proxy),
}

pub(super) fn proxy(text: &str) -> Result<ProxyChoice, String> {
    if text == "environment" {
        return Ok(ProxyChoice::Environment);
    }
    // It may hold a password: it is not repeated here.
    Proxy::new(text).map(ProxyChoice::Address).map_err(|error| match error {
        ProxyError::CredentialsInAddress => format!(
            "{error}; write \"http://HOST:PORT\", and put USER:PASSWORD into a file with mode 0600 that \
             proxy_credentials_file names"
        ),
        _ => {
            "is no proxy; write \"http://HOST:PORT\", or \"environment\" to take https_proxy, http_proxy or \
              all_proxy"
                .into()
        }
    })
}

pub(super) fn credentials_variable(text: &str) -> Result<String, String> {
    variable_name(text).map_err(|_| {
        "is not the name of an environment variable; write a name of A-Z, 0-9 and _, such as \"IOTDM_PROXY\", and \
         put USER:PASSWORD into that variable"
            .into()
    })
}

pub(super) fn public_key(text: &str) -> Result<PublicKey, String> {
    text.parse().map_err(|_| {
        "is no public key of minisign; write the 56 characters that begin with RW, from the second line of its .pub \
         file"
            .into()
    })
}
