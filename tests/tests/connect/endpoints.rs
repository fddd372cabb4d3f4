//! Host, port, transport and TLS are four independent settings.

use std::sync::Arc;
use std::time::Duration;

use async_tungstenite::tokio::accept_hdr_async;
use iotdm_agent::config::Transport;
use iotdm_agent::link::LinkEvent;
use iotdm_agent::testing::TestSystem;
use iotdm_agent::{Agent, Broker, Config, Secret, State};
use iotdm_core::{Action, Context, Finished, Handler, Identity, MAX_PAYLOAD_BYTES, Refusal, Route};
use iotdm_tests::application::{Application, bench_request};
use iotdm_tests::within;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::front::{Front, HttpProxy, LOCALHOST, Speech, WebSocket, connect, server, with_protocol};

/// Answers with what it was asked.
struct Echo;

impl Action for Echo {
    const ROUTE: Route = Route::custom("bench", "echo");
    type Request = Map<String, Value>;
    type Reply = Finished<Map<String, Value>>;
}

struct Repeater;

impl Handler<Echo> for Repeater {
    async fn handle(
        &self,
        _: &Context,
        request: &Map<String, Value>,
    ) -> Result<Finished<Map<String, Value>>, Refusal> {
        Ok(Finished(request.clone()))
    }
}

/// A whole agent, and the platform's side of it.
pub(crate) struct Rig {
    pub(crate) application: Application,
    state: tokio::sync::watch::Receiver<State>,
    agent: JoinHandle<()>,
    _folder: TempDir,
}

impl Rig {
    pub(crate) async fn start(config: Config, broker_port: u16) -> Self {
        let application = Application::connect(broker_port).await;
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let agent = Agent::builder(config)
            .journal(folder.path().join("journal"))
            .system(Arc::new(TestSystem::new()))
            .on::<Echo>(Repeater)
            .build()
            .expect("the agent can be built");
        let state = agent.device().state();
        let agent = tokio::spawn(async move {
            agent.run_until(std::future::pending()).await.expect("the agent runs");
        });
        let mut rig = Self { application, state, agent, _folder: folder };
        rig.managed().await;
        rig
    }

    pub(crate) async fn managed(&mut self) {
        let mut state = self.state.clone();
        within("manage", async {
            loop {
                tokio::select! {
                    managed = state.wait_for(|state| *state == State::Managed) => {
                        break drop(managed.expect("the agent lives as long as the test"));
                    }
                    () = self.application.take() => {}
                }
            }
        })
        .await;
    }

    /// Asks with the largest request that there is, and for an answer that is nearly as large.
    pub(crate) async fn largest(&mut self, req_id: &str) {
        let pad = "x".repeat(MAX_PAYLOAD_BYTES - bench_request(req_id, "").len() - 100);
        self.application.bench("echo", req_id, &pad);
        let answer = within("answer", self.application.response(req_id)).await;
        assert_eq!(answer["rc"], 200);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

#[tokio::test]
async fn transport_tls_and_proxy_are_independent_and_each_way_serves_the_largest_request() {
    for websocket in [None, Some(WebSocket::default())] {
        for tls in [None, Some(server(LOCALHOST))] {
            for with_proxy in [false, true] {
                let way = (websocket.is_some(), tls.is_some(), with_proxy);
                let front = Front::start(Speech { tls: tls.clone(), websocket }).await;
                let proxy = HttpProxy::start(front.address, |_| "200 OK").await;
                let mut config = front.device(tls.is_some());
                if websocket.is_some() {
                    config.broker.transport = Transport::websocket();
                }
                config.broker.proxy = with_proxy.then(|| proxy.setting());
                let mut rig = Rig::start(config, front.broker.local_addr().port()).await;
                rig.largest("r1").await;
                assert_eq!(front.sights().len(), 1, "{way:?}: one connection was enough");
                assert_eq!(proxy.heads().len(), usize::from(with_proxy), "{way:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_websocket_carries_connect_in_a_binary_message_with_the_sub_protocol_mqtt_at_the_configured_path() {
    let front = Front::start(Speech { websocket: Some(WebSocket::default()), tls: None }).await;
    let mut config = front.device(false);
    config.broker.transport = Transport::WebSocket { path: "/broker/ws".into() };
    config.token = Some(Secret::new("t0k3n"));
    let _connection = connect(&config).await.unwrap();
    let sight = front.sights().remove(0);
    assert_eq!(sight.path, "/broker/ws");
    assert_eq!(sight.host_and_protocol, [format!("localhost:{}", front.address.port()), "mqtt".into()]);
    assert_eq!((sight.first[0], sight.other_messages), (0x10, 0));
    let text = String::from_utf8_lossy(&sight.first).into_owned();
    assert!(text.contains("d:org001:lamp:lamp1") && text.contains("use-token-auth"), "{text:?}");
}

#[tokio::test]
async fn packets_may_come_in_any_pieces_of_websocket_messages() {
    for piece in [1, 7, 1000] {
        let websocket = Some(WebSocket { piece, ..WebSocket::default() });
        let front = Front::start(Speech { websocket, tls: None }).await;
        let mut config = front.device(false);
        config.broker.transport = Transport::websocket();
        let mut rig = Rig::start(config, front.broker.local_addr().port()).await;
        rig.largest("r1").await;
    }
}

#[tokio::test]
async fn a_websocket_that_the_broker_closes_is_opened_again() {
    let front = Front::start(Speech { websocket: Some(WebSocket::default()), tls: None }).await;
    let mut config = front.device(false);
    config.broker.transport = Transport::websocket();
    let mut rig = Rig::start(config, front.broker.local_addr().port()).await;
    let mut state = rig.state.clone();
    front.broker.kill_connections();
    within("loss", state.wait_for(|state| *state == State::Disconnected)).await.unwrap();
    rig.application.subscribed(2).await;
    rig.managed().await;
    assert_eq!(front.sights().len(), 2);
}

#[tokio::test]
async fn a_server_that_is_no_mqtt_over_websocket_is_said() {
    let websocket = Some(WebSocket { names_protocol: false, ..WebSocket::default() });
    let front = Front::start(Speech { websocket, tls: None }).await;
    let mut config = front.device(false);
    config.broker.transport = Transport::websocket();
    let reason = connect(&config).await.unwrap_err();
    assert!(reason.contains("Server sent no subprotocol"), "{reason}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.broker.port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
    });
    let reason = connect(&config).await.unwrap_err();
    assert!(reason.contains("404 Not Found"), "{reason}");
}

#[tokio::test]
async fn a_port_without_websocket_or_without_tls_is_asked_about() {
    // An MQTT broker closes the connection of who speaks HTTP, and a web server tells who speaks TLS to speak HTTP.
    for (with_tls, answer, said) in [
        (false, &b""[..], "does a broker listen for WebSocket, without TLS, at port"),
        (true, b"HTTP/1.1 400 Bad Request\r\n\r\n", "is this port one without TLS?"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Front::start(Speech { websocket: None, tls: None }).await.device(with_tls);
        config.broker.transport = Transport::websocket();
        config.broker.port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer).await;
        });
        let reason = connect(&config).await.unwrap_err();
        assert!(reason.contains(said), "{reason}");
    }
}

#[tokio::test]
async fn a_certificate_is_told_of_in_the_same_words_over_a_websocket() {
    let front =
        Front::start(Speech { websocket: Some(WebSocket::default()), tls: Some(server(LOCALHOST)) }).await;
    let mut config = front.device(true);
    config.broker.transport = Transport::websocket();
    config.broker.tls.as_mut().unwrap().ca_pem = None;
    let reason = connect(&config).await.unwrap_err();
    assert!(reason.contains("that this device does not trust") && reason.contains("ca_file"), "{reason}");
}

/// Lets a WebSocket come about, and then sends these bytes.
async fn hostile(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("the device connects");
        let websocket = accept_hdr_async(&mut stream, with_protocol).await.expect("it is a WebSocket");
        drop(websocket);
        // CONNACK comes first: CONNECT is not worth reading.
        stream.write_all(&[0x82, 4, 0x20, 2, 0, 0]).await.expect("the device listens");
        stream.write_all(bytes).await.expect("the device listens");
        // Until the device has gone.
        while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
    });
    port
}

#[tokio::test(start_paused = true)]
async fn nothing_that_a_hostile_websocket_server_sends_does_more_than_end_the_connection() {
    let hostile_bytes: [(&str, &[u8]); 8] = [
        ("a frame of a terabyte", &[0x82, 0x7f, 0, 0, 1, 0, 0, 0, 0, 0]),
        ("a frame of 17 MiB", &[0x82, 0x7f, 0, 0, 0, 0, 1, 0x10, 0, 0]),
        ("a text", &[0x81, 1, b'x']),
        ("reserved bits", &[0xf2, 1, b'x']),
        ("an opcode that does not exist", &[0x83, 1, b'x']),
        ("a masked frame", &[0x82, 0x81, 1, 2, 3, 4, b'x']),
        ("a close, and the connection stays open", &[0x88, 0]),
        ("no MQTT", &[0x82, 4, 0xff, 0xff, 0xff, 0xff]),
    ];
    for (what, bytes) in hostile_bytes {
        let mut config = iotdm_agent::testing::config();
        config.broker.host = "127.0.0.1".into();
        config.broker.port = hostile(bytes).await;
        config.broker.transport = Transport::websocket();
        config.broker.keep_alive = Duration::from_secs(5);
        let mut connection = connect(&config).await.unwrap_or_else(|reason| panic!("{what}: {reason}"));
        let event = within(what, connection.next()).await;
        assert!(matches!(event, LinkEvent::Lost(..)), "{what}: {event:?}");
    }
}

#[test]
fn an_organization_has_its_endpoint_on_watson_and_on_maximo() {
    let org = Identity::device("abc123", "lamp", "1").unwrap().org;
    let broker = Broker::of_watson(&org);
    assert_eq!((&*broker.host, broker.port), ("abc123.messaging.internetofthings.ibmcloud.com", 8883));
    assert!(broker.tls.is_some());
    let broker = Broker::of_maximo(&org, "acme.example");
    assert_eq!((&*broker.host, broker.port), ("abc123.messaging.iot.acme.example", 443));
    assert!(broker.tls.is_some());
}
