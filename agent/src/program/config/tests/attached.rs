//! Gateways and their devices in the file.

use std::time::Duration;

use super::{Place, load, with_device};
use crate::program::check;

const TWO: &str = r#"
[gateway]
[[attached]]
type = "pump"
id = "p-1"
info.model = "P-9"
lifetime = "2h"
[attached.reboot]
command = ["/bin/true", "p-1"]
budget = "90s"
[[attached.script]]
bundle = "pump"
action = "flush"
program = "/bin/true"
args = ["p-1"]
[[attached]]
type = "pump"
id = "p-2"
"#;

fn problems(rest: &str) -> String {
    Place::with(&with_device(rest)).load().unwrap_err().to_string()
}

#[test]
fn check_names_each_attached_device_and_what_it_serves() {
    let said = check::describe("agent.toml".as_ref(), &load(TWO));
    for line in [
        "  speak for pump/p-1: reboot: `/bin/true` with 1 argument, within 90s; pump/flush: `/bin/true` with 1 argument \
         within 30s, 65536 bytes of each output\n",
        "  speak for pump/p-2: no actions\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn what_is_missing_or_too_much_in_a_gateways_sections_is_said_in_their_words() {
    for (rest, said) in [
        (
            "[gateway]\nenabled = true\n",
            "agent.toml:6:1: gateway.enabled: is not a known key; [gateway] has none",
        ),
        (
            "[gateway]\n[attached]\ntype = \"pump\"\nid = \"p-1\"\n",
            "agent.toml:6:1: attached: there may be several; write [[attached]], with two brackets on each side",
        ),
        (
            "[gateway]\n[[attached]]\nid = \"p-1\"\n",
            "agent.toml:6:1: attached[0].type: is missing; add the device type as it is registered, such as type = \"pump\"",
        ),
        (
            "[gateway]\n[[attached]]\ntype = \"pump\"\n",
            "agent.toml:6:1: attached[0].id: is missing; add the device's id as it is registered, such as id = \"p-1\"",
        ),
        (
            "[gateway]\n[[attached]]\ntype = \"pump\"\nid = \"p-1\"\n[attached.reboot]\n",
            "agent.toml:9:1: attached[0].reboot.command: is missing; add the program that restarts the device and ends \
             when it is back, and its arguments, such as command = [\"/usr/lib/iotdm-agent/restart-on-the-bus\", \"p-1\"]",
        ),
    ] {
        assert_eq!(problems(rest), said);
    }
}

#[test]
fn a_gateway_section_makes_the_device_a_gateway_and_its_devices_have_actions_of_their_own() {
    let settings = load(TWO);
    assert_eq!(settings.config.identity.client_id(), "g:abc123:lamp:lamp-17");
    let [first, second] = &settings.attached[..] else { panic!("{:?}", settings.attached) };
    assert_eq!((first.name.0.as_str(), first.name.1.as_str()), ("pump", "p-1"));
    assert_eq!(first.info.model.as_deref(), Some("P-9"));
    assert_eq!(first.lifetime, Some(Duration::from_secs(7200)));
    assert_eq!(first.reboot.as_ref().unwrap().budget, Duration::from_secs(90));
    assert_eq!(first.scripts.len(), 1);
    assert!(second.reboot.is_none() && second.scripts.is_empty());
}

#[test]
fn without_a_gateway_section_no_device_is_attached() {
    let text = problems("[[attached]]\ntype = \"pump\"\nid = \"p-1\"\n");
    assert!(text.contains("only a gateway speaks for other devices; write a [gateway] section"), "{text}");
}

#[test]
fn a_device_is_attached_once_and_is_not_the_gateway() {
    let twice = "[gateway]\n[[attached]]\ntype = \"pump\"\nid = \"p-1\"\n[[attached]]\ntype = \"pump\"\nid = \"p-1\"\n";
    let text = problems(twice);
    assert!(text.contains("attached[1].id") && text.contains("pump/p-1 is attached already"), "{text}");
    let text = problems("[gateway]\n[[attached]]\ntype = \"lamp\"\nid = \"lamp-17\"\n");
    assert!(text.contains("is the gateway itself"), "{text}");
}

#[test]
fn a_name_outside_the_grammar_is_pointed_at() {
    let text = problems("[gateway]\n[[attached]]\ntype = \"pump\"\nid = \"p 1\"\n");
    assert!(text.contains("attached[0].id") && text.contains("as character 2"), "{text}");
}
