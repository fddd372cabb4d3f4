//! Where the device is, and which changes are notified.

use std::time::Duration;

use iotdm_agent::Threshold;
use iotdm_core::Location;

use super::{Place, load, with_device};

fn check(rest: &str, said: &str) {
    assert_eq!(Place::with(&with_device(rest)).load().map(|_| ()), Err(said.to_owned()), "{rest}");
}

#[test]
fn thresholds_are_read_in_every_form() {
    let settings = load(
        "[attributes.location]\nmin_metres = 25\nmin_interval = \"1m\"\n\
         [attributes.metadata]\nmin_change = { \"pole.height_m\" = 0.5, lux = 10 }\nignore = [\"at\"]\n\
         [attributes.level]\nmin_change = 2\n",
    );
    let minute = Duration::from_secs(60);
    assert_eq!(
        settings.thresholds.into_iter().collect::<Vec<_>>(),
        [
            ("level".to_owned(), Threshold::new().min_change(2.0)),
            ("location".to_owned(), Threshold::new().min_metres(25.0).min_interval(minute)),
            (
                "metadata".to_owned(),
                Threshold::new().min_change_of("pole.height_m", 0.5).min_change_of("lux", 10.0).ignore("at")
            ),
        ]
    );
}

#[test]
fn a_location_is_read() {
    let settings = load("[device.location]\nlatitude = 48.1374\nlongitude = 11\nelevation = 519.5\n");
    let location = Location { elevation: Some(519.5), ..Location::at(48.1374, 11.0) };
    assert_eq!(settings.location, Some(location));
    assert_eq!(load("").location, None);
}

#[test]
fn what_is_wrong_with_an_attribute_is_said_with_its_place() {
    check(
        "[device.location]\nlatitude = 91\nlongitude = 11\n",
        "agent.toml:5:1: device.location: latitude 91 is not within -90 to 90",
    );
    check(
        "[attributes.\"mgmt.firmware\"]\nmin_interval = \"1m\"\n",
        "agent.toml:5:2: attributes.mgmt.firmware: the platform waits for each step of a firmware request; it is always \
         notified at once",
    );
    check(
        "[attributes.level]\nmin_change = 0\n",
        "agent.toml:5:1: attributes.level: a least change is a number above 0; leave it out to be notified of every \
         change",
    );
    check(
        "[attributes.level]\nmin_metres = 5\n",
        "agent.toml:5:1: attributes.level: only location has a least change in metres",
    );
    check(
        "[attributes.level]\nmin_interval = \"2d\"\n",
        "agent.toml:6:16: attributes.level.min_interval: 2d is out of range; a time between notifications is 1s to 1d",
    );
}

#[test]
fn a_rule_of_an_attribute_that_this_agent_does_not_have_is_warned_of() {
    let warned = |name: &str| load(&format!("[attributes.{name}]\nmin_interval = \"1m\"\n")).warnings;
    let said =
        "attributes.locaton: is of no use; the attributes of this agent are deviceInfo, location, metadata";
    assert!(warned("locaton").contains(&said.to_owned()), "{:?}", warned("locaton"));
    for name in ["location", "metadata", "deviceInfo", "\"metadata.facts\""] {
        assert!(!warned(name).iter().any(|warning| warning.contains("attributes.")), "{name}");
    }
}
