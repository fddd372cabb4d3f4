//! mosquitto's own TLS and WebSocket.
//!
//!     cargo test -p iotdm-tests --test connect mosquitto -- --ignored

use iotdm_agent::config::Transport;
use iotdm_tests::mosquitto::Mosquitto;

use crate::endpoints::Rig;
use crate::front::{LOCALHOST, trusting};

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn mosquitto_serves_the_largest_request_over_tls_and_over_both_kinds_of_websocket() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = ["server.pem", "server.key"].map(|name| folder.path().join(name));
    std::fs::write(&certificate, LOCALHOST[0]).unwrap();
    std::fs::write(&key, LOCALHOST[1]).unwrap();
    let tls = format!("certfile {}\nkeyfile {}\n", certificate.display(), key.display());
    for (websocket, with_tls) in [(false, true), (true, false), (true, true)] {
        let protocol = if websocket { "protocol websockets\n" } else { "" };
        let options = format!("{protocol}{}", if with_tls { &tls } else { "" });
        let broker = Mosquitto::with_listener(&options);
        let mut config = iotdm_agent::testing::config();
        config.broker.host = "localhost".into();
        config.broker.port = broker.second_port();
        config.broker.tls = with_tls.then(trusting);
        if websocket {
            config.broker.transport = Transport::websocket();
        }
        let mut rig = Rig::start(config, broker.port()).await;
        rig.largest("r1").await;
    }
}
