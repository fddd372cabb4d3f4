//! An HTTP proxy between a device and its broker.

use iotdm_agent::Secret;
use iotdm_agent::config::{Proxy, Transport};

use crate::front::{Front, HttpProxy, LOCALHOST, Speech, WebSocket, connect, server};

/// `lamp-17:s3cr3t` in base64.
const BASIC: &str = "Basic bGFtcC0xNzpzM2NyM3Q=";

const TOKEN: &str = "t0k3n";

#[tokio::test]
async fn a_proxy_hears_the_brokers_name_and_nothing_else_of_the_device() {
    for websocket in [None, Some(WebSocket::default())] {
        let front = Front::start(Speech { tls: Some(server(LOCALHOST)), websocket }).await;
        let proxy = HttpProxy::start(front.address, |_| "200 Connection established").await;
        let mut config = front.device(true);
        config.token = Some(Secret::new(TOKEN));
        config.broker.proxy = Some(proxy.setting());
        if websocket.is_some() {
            config.broker.transport = Transport::websocket();
        }
        let _connection = connect(&config).await.unwrap();
        let heads = proxy.heads();
        assert!(heads[0].starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", config.broker.port)));
        assert!(!heads[0].contains("Proxy-Authorization") && !heads[0].contains(TOKEN), "{heads:?}");
        assert_eq!(front.sights()[0].server_name.as_deref(), Some("localhost"));
    }
}

#[tokio::test]
async fn a_proxy_that_asks_gets_its_user_and_password_and_one_that_does_not_get_them_is_said() {
    let front = Front::start(Speech::default()).await;
    let proxy = HttpProxy::start(front.address, |head| {
        if head.contains(BASIC) { "200 OK" } else { "407 Proxy Authentication Required" }
    })
    .await;
    let mut config = front.device(false);
    config.broker.proxy = Some(proxy.setting());
    let reason = connect(&config).await.unwrap_err();
    assert!(reason.contains("407") && reason.contains("proxy_credentials_file"), "{reason}");
    let wrong = Some(("lamp-17".into(), Secret::new("wr0ng")));
    config.broker.proxy = Some(Proxy { credentials: wrong, ..proxy.setting() });
    let reason = connect(&config).await.unwrap_err();
    assert!(reason.contains("407") && !reason.contains("wr0ng"), "{reason}");
    let right = Some(("lamp-17".into(), Secret::new("s3cr3t")));
    config.broker.proxy = Some(Proxy { credentials: right, ..proxy.setting() });
    connect(&config).await.unwrap();
    assert!(!format!("{config:?}").contains("s3cr3t"));
}

#[tokio::test]
async fn a_proxy_that_refuses_or_is_not_there_is_a_connection_that_failed() {
    let front = Front::start(Speech::default()).await;
    let proxy = HttpProxy::start(front.address, |_| "403 Forbidden").await;
    let mut config = front.device(false);
    config.broker.proxy = Some(proxy.setting());
    let reason = connect(&config).await.unwrap_err();
    assert!(reason.contains("Proxy") && reason.contains("403"), "{reason}");
    drop(proxy);
    let reason = connect(&config).await.unwrap_err();
    assert!(reason.contains("Proxy"), "{reason}");
    assert!(front.sights().is_empty(), "nothing goes around the proxy");
}
