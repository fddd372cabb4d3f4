//! Where secrets come from, and where they never go.

use super::{Place, load, with_device};
use crate::program::check;

fn token_of(place: &Place) -> Result<String, String> {
    place.load().map(|settings| settings.config.token.expect("the file names a token").expose().to_owned())
}

#[test]
fn a_token_comes_from_a_file_or_a_variable_without_its_line_end() {
    let place = Place::with(&with_device("[auth]\ntoken_file = \"token\"\n"));
    place.write("token", "t0k3n\r\n", 0o600);
    assert_eq!(token_of(&place).as_deref(), Ok("t0k3n"));

    let place =
        Place::with(&with_device("[auth]\ntoken_env = \"IOTDM_TOKEN\"\n")).variable("IOTDM_TOKEN", "t0k3n");
    assert_eq!(token_of(&place).as_deref(), Ok("t0k3n"));
}

#[test]
fn a_token_file_that_others_may_open_is_refused_with_the_command_that_mends_it() {
    for mode in [0o644, 0o640, 0o620, 0o604, 0o601] {
        let place = Place::with(&with_device("[auth]\ntoken_file = \"token\"\n"));
        place.write("token", "t0k3n", mode);
        assert_eq!(
            token_of(&place),
            Err(format!(
                "agent.toml:6:14: auth.token_file: token is open to others than its owner (mode {mode:04o}); \
                 run: chmod 600 token"
            ))
        );
    }
}

#[test]
fn a_token_that_would_travel_in_clear_is_warned_of_and_on_loopback_it_is_not() {
    for (host, warned) in [("broker.example", true), ("127.0.0.1", false), ("localhost", false)] {
        let text = format!("[auth]\ntoken_file = \"token\"\n[broker]\nhost = \"{host}\"\ntls = false\n");
        let place = Place::with(&with_device(&text));
        place.write("token", "t0k3n", 0o600);
        let warnings = place.load().unwrap().warnings;
        let told = warnings.iter().any(|warning| warning.contains("the token travels to"));
        assert_eq!(told, warned, "{host}: {warnings:?}");
    }
}

/// A link is as good or bad as what it leads to: secrets of containers are mounted as links.
#[test]
fn a_link_to_a_token_is_judged_by_the_file_it_leads_to() {
    for (mode, accepted) in [(0o600, true), (0o644, false)] {
        let place = Place::with(&with_device("[auth]\ntoken_file = \"link\"\n"));
        place.write("token", "t0k3n", mode);
        std::os::unix::fs::symlink(place.path("token"), place.path("link")).unwrap();
        let token = token_of(&place);
        assert_eq!(token.is_ok(), accepted, "{token:?}");
        assert!(accepted || token.unwrap_err().ends_with("run: chmod 600 link"));
    }
}

#[test]
fn a_token_is_never_read_from_a_pipe_or_a_device() {
    let place = Place::with(&with_device("[auth]\ntoken_file = \"/dev/zero\"\n"));
    let error = token_of(&place).unwrap_err();
    assert!(error.contains("it is not a regular file"), "{error}");
}

/// systemd gives the service's user its credentials by an access list, which shows as a group bit.
#[test]
fn a_credential_of_the_service_manager_may_be_readable_by_its_group() {
    for (mode, inside, accepted) in
        [(0o440, true, true), (0o444, true, false), (0o460, true, false), (0o440, false, false)]
    {
        let place = Place::with(&with_device("[auth]\ntoken_file = \"token\"\n"));
        place.write("token", "t0k3n", mode);
        let folder = if inside { place.folder.path().as_os_str().to_owned() } else { "".into() };
        let token = token_of(&place.variable("CREDENTIALS_DIRECTORY", folder));
        assert_eq!(token.is_ok(), accepted, "{mode:o} {inside}");
    }
}

#[test]
fn a_token_file_that_holds_no_token_is_refused() {
    for (content, message) in [
        (&b""[..], "token is empty; it must hold the device's token"),
        (b"\n", "token is empty; it must hold the device's token"),
        (b"one two", "token holds more than one word; it must hold the device's token alone"),
        (b"one\ntwo\n", "token holds more than one word; it must hold the device's token alone"),
        (b"\xff\xfe", "token is not text; it must hold the device's token"),
        (&[b'x'; 9000], "token has more than 8192 bytes; it must hold the device's token and nothing more"),
    ] {
        let place = Place::with(&with_device("[auth]\ntoken_file = \"token\"\n"));
        place.write("token", content, 0o600);
        assert_eq!(token_of(&place), Err(format!("agent.toml:6:14: auth.token_file: {message}")));
    }
}

#[test]
fn no_secret_shows_in_debug_or_in_check() {
    let place = Place::with(&with_device(
        "[auth]\ntoken_file = \"token\"\n\
         [broker]\nclient_certificate = \"c.pem\"\nclient_key = \"k.pem\"\n\
         [[actions.script]]\nbundle = \"b\"\naction = \"a\"\nprogram = \"sh\"\n\
         args = [\"s3cr3t-arg\"]\nenv = { KEY = \"s3cr3t-env\" }\n\
         [actions.reboot]\ncommand = [\"sh\", \"s3cr3t-word\"]\n",
    ));
    place.write("token", "s3cr3t-token", 0o600);
    place.write("c.pem", super::sample::CERTIFICATE, 0o644);
    place.write("k.pem", super::sample::KEY, 0o600);
    let settings = place.load().unwrap();
    let key = settings.config.broker.tls.as_ref().and_then(|tls| tls.client_pem.as_ref()).unwrap().1.clone();
    assert_eq!(key.expose(), super::sample::KEY);
    let shown =
        format!("{settings:?} {settings:#?}") + &check::describe(&place.path("agent.toml"), &settings);
    for secret in ["s3cr3t", "PRIVATE KEY", "c2VjcmV0"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

/// Whoever mixes the keys up must not find the token in a log afterwards.
#[test]
fn no_secret_in_the_wrong_place_shows_in_an_error() {
    for text in [
        "[auth]\ntoken = \"s3cr3tValue\"",
        "[auth]\ntoken_env = \"s3cr3tValue\"",
        "[auth]\ntokn_file = \"s3cr3tValue\"",
        "[auth]\npassword = \"s3cr3tValue\"",
        "[auth]\ntoken = \"s3cr3tValue",
        "[auth]\ntoken = s3cr3tValue",
        "[auth]\ntoken_file = [\"s3cr3tValue\"]",
        "[auth]\ntoken_file = \"s3cr3tValue\\nmore\"",
        "[broker]\nclient_key = \"\"\"\n-----BEGIN PRIVATE KEY-----\ns3cr3tValue\n\"\"\"",
    ] {
        let error = Place::with(&with_device(text)).load().unwrap_err();
        assert!(!error.contains("s3cr3tValue"), "{error}");
    }
    let error = Place::with("auth = \"s3cr3tValue\"\n").load().unwrap_err();
    assert!(!error.contains("s3cr3tValue"), "{error}");
}

#[test]
fn check_says_what_would_run() {
    let settings =
        load("[actions.reboot]\ncommand = [\"systemctl\", \"reboot\"]\nlate = { refuse_after = \"15m\" }\n");
    let text = check::describe("agent.toml".as_ref(), &settings);
    for line in [
        "agent.toml is good. `iotdm-agent run` would\n",
        "  connect   to abc123.messaging.internetofthings.ibmcloud.com:8883 as d:abc123:lamp:lamp-17, TLS verified by \
         the system's authorities, without a token\n",
        "  manage    for 1h at a time\n",
        "  serve     reboot: `systemctl` with 1 argument, within 5m, refused when older than 15m\n",
        "  refuse    factory reset, firmware with 501: not enabled\n",
        "warning: there is neither a token nor a client certificate: few brokers accept that\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
