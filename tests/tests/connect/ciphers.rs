//! The four cipher suites that the service lists (`docs/protocol.md` §1.2), each alone on an OpenSSL server.
//!
//!     cargo test -p iotdm-tests --test connect ciphers -- --ignored
//!
//! needs the program `openssl`.

#![expect(clippy::disallowed_methods, reason = "the server is a real program")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::front::{LOCALHOST, connect, trusting};

/// `openssl s_server`, ended when this is dropped. It ends a connection as soon as it has read a line of it.
struct OpenSsl(Child);

impl OpenSsl {
    fn start(port: u16, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let write = |name: &str, pem: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).expect("the temporary folder can be written");
            path
        };
        let (certificate, key) = (write("server.pem", LOCALHOST[0]), write("server.key", LOCALHOST[1]));
        let path = |path: &Path| path.to_str().expect("the path is text").to_owned();
        let mut server = Command::new("openssl")
            .args(["s_server", "-accept", &format!("127.0.0.1:{port}")])
            .args(["-cert", &path(&certificate), "-key", &path(&key)])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        let mut lines = BufReader::new(server.stdout.take().expect("the pipe was asked for")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.starts_with("ACCEPT"))), "it listens");
        // A full pipe would stop the server.
        std::thread::spawn(move || lines.for_each(drop));
        Self(server)
    }

    /// Sends what an MQTT broker would: CONNACK.
    fn say_connack(&mut self) {
        let input = self.0.stdin.as_mut().expect("the pipe was asked for");
        input
            .write_all(&[0x20, 2, 0, 0])
            .and_then(|()| input.flush())
            .expect("the server reads what is typed");
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn try_with(arguments: &[&str]) -> Result<(), String> {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port();
    let mut server = OpenSsl::start(port, arguments);
    server.say_connack();
    let mut config = iotdm_agent::testing::config();
    config.broker.host = "localhost".into();
    config.broker.port = port;
    config.broker.tls = Some(trusting());
    connect(&config).await.map(drop)
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn the_two_suites_with_forward_secrecy_connect() {
    for suite in ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"] {
        assert_eq!(try_with(&["-tls1_2", "-cipher", suite]).await, Ok(()), "{suite}");
    }
    assert_eq!(try_with(&["-tls1_3"]).await, Ok(()));
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn the_two_suites_without_it_fail_and_the_error_says_what_is_offered() {
    for suite in ["AES256-GCM-SHA384", "AES128-GCM-SHA256"] {
        let reason = try_with(&["-tls1_2", "-cipher", suite]).await.unwrap_err();
        assert!(reason.contains("HandshakeFailure"), "{suite}: {reason}");
        assert!(reason.contains("takes nothing of what this device offers"), "{suite}: {reason}");
        assert!(reason.contains("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"), "{suite}: {reason}");
        assert!(!reason.contains("TLS_RSA_WITH"), "{suite}: {reason}");
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn nothing_below_tls_1_2_connects() {
    for version in ["-tls1", "-tls1_1"] {
        let reason = try_with(&[version, "-cipher", "ALL:@SECLEVEL=0"]).await.unwrap_err();
        assert!(reason.contains("takes nothing of what this device offers"), "{version}: {reason}");
    }
}
