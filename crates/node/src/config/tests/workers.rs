//! What a file says of the workers of an instance.

use super::*;
use crate::peers::Peers;

const GW1: &str = "control = \"10.9.0.11:7400\"\ninside = \"lan0\"\n";

/// The good file, with this about gw1.
fn with(line: &str) -> Result<(Config, Vec<Problem>), Problems> {
    parse(&GOOD.replace(GW1, &format!("{GW1}{line}\n")))
}

/// What is said about that.
fn said_of(line: &str) -> String {
    with(line).expect_err("it is wrong").to_string()
}

#[test]
fn an_instance_has_one_worker_unless_the_file_says_otherwise() {
    let (config, _) = parse(GOOD).expect("the file is right");
    let [only] = &config.nodes["gw1"].workers()[..] else {
        panic!("one worker");
    };
    let control = config.nodes["gw1"].control[&Role::Function];
    let wanted = Worker {
        name: "gw1".to_owned(),
        control: Some(control),
        cpu: None,
    };
    assert_eq!(only, &wanted);
    assert!(config.nodes["r1"].workers().is_empty());
}

#[test]
fn each_worker_is_a_client_of_the_store_with_a_name_and_a_port_of_its_own() {
    for (line, cpus) in [
        ("workers = 3", [None; 3]),
        ("workers = [4, 0, 2]", [Some(4), Some(0), Some(2)]),
    ] {
        let (config, warnings) = with(line).expect("the file is right");
        assert!(warnings.is_empty(), "{}", Plain(&warnings));
        let workers = config.nodes["gw1"].workers();
        let names: Vec<&str> = workers.iter().map(|worker| worker.name.as_str()).collect();
        assert_eq!(names, ["gw1", "gw1.2", "gw1.3"]);
        let ports = workers
            .iter()
            .map(|worker| worker.control.map(|at| at.port()));
        assert_eq!(ports.collect::<Vec<_>>(), [7400, 7401, 7402].map(Some));
        assert_eq!(
            workers.iter().map(|worker| worker.cpu).collect::<Vec<_>>(),
            cpus
        );
        let clients = Peers::new(&config, "r1", Role::Replica).clients();
        for name in names.into_iter().chain(["gw2"]) {
            assert!(clients.contains(&sender_id(name, Role::Function)), "{name}");
        }
        assert_eq!(clients.len(), 4);
    }
}

#[test]
fn what_several_workers_cannot_do_is_named_and_mended() {
    for (line, expected, help) in [
        ("workers = 0", "node.gw1.workers", "1 to 64"),
        (
            "workers = []",
            "expected 1 to 64 processors",
            "workers = [2, 3]",
        ),
        (
            "workers = [2, 2]",
            "processor 2 is listed twice",
            "leave one out",
        ),
        ("workers = [\"a\"]", "node.gw1.workers[0]", ""),
        (
            "workers = 2\ncpu = 1",
            "all 2 workers would share processor 1",
            "workers = [2, 3]",
        ),
    ] {
        let said = said_of(line);
        assert!(
            said.contains(expected) && said.contains(help),
            "{line}: {said}"
        );
    }
    let text = GOOD.replace(GW1, &format!("{GW1}workers = 2\n"));
    let said = parse(&text.replace("10.9.0.12:7400", "10.9.0.11:7401"));
    let said = said.expect_err("a port is needed twice").to_string();
    assert!(
        said.contains("10.9.0.11:7401 is already the address of"),
        "{said}"
    );
    let said = parse(&text.replace("10.9.0.11:7400", "10.9.0.11:65535"));
    let said = said
        .expect_err("there is no port behind the last")
        .to_string();
    assert!(said.contains("2 workers need as many ports"), "{said}");
    let said = parse(
        "[cluster]\nname = \"e\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n[node.a]\n\
         roles = [\"function\"]\ninside = \"a\"\noutside = \"b\"\nworkers = 2\n[nat]\n\
         inside-prefixes = [\"10.0.0.0/16\"]\noutside-addresses = [\"198.51.100.1\"]\n",
    );
    let said = said.expect_err("nothing to share").to_string();
    assert!(
        said.contains("each worker would keep a state of its own"),
        "{said}"
    );
}
