//! `function = [...]`.

use super::*;

const FILE: &str = include_str!("../../../../../examples/chain.toml");
const CHAIN: &str = "function = [\"meter\", \"nat\"]\ncontrol = \"10.9.0.11:7400\"\n";

fn with(function: &str) -> Result<(Config, Vec<Problem>), Problems> {
    let line = format!("function = {function}\ncontrol = \"10.9.0.11:7400\"\n");
    let text = FILE.replacen(CHAIN, &line, 1);
    Config::parse("chain.toml", &text, Path::new("."))
}

#[test]
fn the_example_is_right() {
    let (config, warnings) = with("[\"meter\", \"nat\"]").expect("it is right");
    assert!(warnings.is_empty(), "{}", Plain(&warnings));
    let runs = |name: &str| {
        let function = config.nodes[name].function.as_ref();
        function.expect("a function").runs.clone()
    };
    assert_eq!(runs("gw1"), [Runs::Meter, Runs::Nat]);
    assert_eq!(runs("gw2"), runs("gw1"));
}

#[test]
fn one_function_may_be_listed_alone() {
    for (function, wanted) in [("[\"nat\"]", Runs::Nat), ("\"meter\"", Runs::Meter)] {
        let (config, _) = with(function).expect("it is right");
        let function = config.nodes["gw1"].function.as_ref();
        assert_eq!(function.expect("a function").runs, [wanted]);
    }
}

/// Broken in one place: what is said, and about which line.
#[test]
fn mistakes_are_told_with_their_line() {
    let line = FILE[..FILE.find(CHAIN).expect("it is there")]
        .lines()
        .count()
        + 1;
    for (function, column, said) in [
        (
            "[]",
            12,
            "node.gw1.function: expected at least one function; help: write `function = \"nat\"`, or \
             several from inside to outside, `function = [\"meter\", \"nat\"]`",
        ),
        (
            "[\"nat\", \"meter\", \"nat\"]",
            29,
            "node.gw1.function[2]: \"nat\" is listed twice; help: an instance runs each function once: \
             leave one out",
        ),
        (
            "[\"meter\", \"nta\"]",
            22,
            "node.gw1.function[1]: expected one of \"nat\", \"meter\", found \"nta\"; help: did you mean \
             \"nat\"?",
        ),
        (
            "[\"nat\", \"meter\"]",
            12,
            "node.gw1.function: outside of the NAT nobody has an address that the meter counts; help: \
             write `[\"meter\", \"nat\"]` to count subscribers, or name those of \
             `nat.outside-addresses` in `meter.inside-prefixes`",
        ),
        (
            "[\"meter\", \"nat\"]\nworkers = 2",
            11,
            "node.gw1.workers: a meter has one worker: a subscriber's packets may come by any queue; \
             help: leave `workers` out; what passes in the kernel does so on all queues",
        ),
    ] {
        let problems = with(function).expect_err(said).to_string();
        let line = line + function.lines().count() - 1;
        let wanted = format!("chain.toml:{line}:{column}: error: {said}");
        assert!(problems.contains(&wanted), "{wanted}\n{problems}");
    }
}

#[test]
fn functions_behind_one_another_have_somebody_in_common() {
    let nat = "[nat]\ninside-prefixes = [\"10.0.0.0/16\"]";
    let text = FILE.replacen(nat, "[nat]\ninside-prefixes = [\"10.7.0.0/16\"]", 1);
    let problems = Config::parse("chain.toml", &text, Path::new(".")).expect_err("nobody");
    let said = "node.gw1.function: no address that the NAT translates is one that the meter counts; \
                help: inside of the NAT subscribers have addresses of `nat.inside-prefixes`: name \
                these in `meter.inside-prefixes`, too";
    assert!(problems.to_string().contains(said), "{problems}");
    // Counted by the addresses that the NAT gives them.
    let outside = "[meter]\ninside-prefixes = [\"198.51.100.0/28\"]";
    let text = FILE
        .replacen("[meter]\ninside-prefixes = [\"10.0.0.0/16\"]", outside, 1)
        .replace(
            "{ prefix = \"10.0.0.0/16\"",
            "{ prefix = \"198.51.100.0/28\"",
        )
        .replace("[\"meter\", \"nat\"]", "[\"nat\", \"meter\"]");
    Config::parse("chain.toml", &text, Path::new(".")).expect("it is right");
}

#[test]
fn a_chain_needs_the_sections_of_its_functions() {
    let start = FILE.find("[nat]").expect("a section");
    let end = FILE.find("# A meter's packets must").expect("what follows");
    let text = [&FILE[..start], &FILE[end..]].concat();
    let problems = Config::parse("chain.toml", &text, Path::new(".")).expect_err("no NAT");
    let said = "node.gw1.roles[0]: a function needs something to do: there is no `[nat]`; help: add \
                `[nat]` with `inside-prefixes` and `outside-addresses`";
    assert!(problems.to_string().contains(said), "{problems}");
}
