//! What the operator's programs do at commands of applications.

use std::fs;

use crate::harness::{Place, World, lamp, until, within};

#[tokio::test]
async fn a_command_of_an_application_reaches_the_operators_program_and_a_failure_reaches_the_platform() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[commands.colour]\nrun = [\"sh\", \"./colour\"]\n\
         [commands.others]\nid = \"+\"\nformat = \"+\"\nacknowledge = \"handled\"\nrun = [\"sh\", \"./others\"]\n",
    );
    let folder = place.path(".").display().to_string();
    let program = |name: &str, rest: &str| {
        place.write(
            name,
            &format!("cat > {folder}/{name}.part\n{rest}mv {folder}/{name}.part {folder}/{name}.got\n"),
        );
    };
    program("colour", "");
    program(
        "others",
        &format!("echo \" $IOTDM_COMMAND_ID $IOTDM_COMMAND_FORMAT\" >> {folder}/others.part\n"),
    );
    fs::write(
        place.path("agent.toml"),
        fs::read_to_string(place.path("agent.toml")).unwrap().replace("./", &format!("{folder}/")),
    )
    .unwrap();
    let agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;

    world.platform.command(&lamp(), "colour", "json", "{\"name\":\"red\"}").unwrap();
    world.platform.command(&lamp(), "door", "text", "open").unwrap();
    until(|| place.path("colour.got").exists() && place.path("others.got").exists()).await;
    assert_eq!(fs::read_to_string(place.path("colour.got")).unwrap(), "{\"name\":\"red\"}");
    assert_eq!(fs::read_to_string(place.path("others.got")).unwrap(), "open door text\n");

    place.write("colour", "echo the bus is stuck >&2; exit 3");
    world.platform.command(&lamp(), "colour", "json", "{}").unwrap();
    let told = || {
        let device = world.platform.device(&lamp()).expect("it is managed");
        device.log.iter().any(|entry| entry.message.contains("the script failed with exit status 3"))
    };
    until(told).await;
    agent.stop().await.check(0, "");

    let checked = place.start(&["check"]).ended().await.answer;
    let told = "command colour in format json: `sh` with 1 argument within 30s";
    assert!(checked.contains(told), "{checked}");
}
