//! `[meter]`.

use super::*;

const FILE: &str = include_str!("../../../../../examples/meter.toml");

fn parse(text: &str) -> Result<(Config, Vec<Problem>), Problems> {
    Config::parse("meter.toml", text, Path::new("."))
}

#[test]
fn the_example_is_right() {
    let (config, warnings) = parse(FILE).expect("it is right");
    assert!(warnings.is_empty(), "{warnings:?}");
    let meter = config.meter.expect("it has a meter");
    assert_eq!(meter.partitions, 64);
    assert_eq!(meter.interval, Duration::from_millis(100));
    let bytes: Vec<u64> = meter.allowances.iter().map(|one| one.bytes).collect();
    assert_eq!(bytes, [10 << 30, 500_000_000_000]);
    assert_eq!(meter.allowances[1].period, Duration::from_secs(30 * 86_400));
    let runs = |name: &str| config.nodes[name].runs(Runs::Meter);
    assert!(runs("gw1") && !runs("r1"));
}

/// Broken in one place: what is said, and about which line.
#[test]
fn mistakes_are_told_with_their_line() {
    for (from, to, at, said) in [
        (
            "\"10 GiB\"",
            "\"10 gib\"",
            "\"10 gib\"",
            "meter.allowances[0].allowance: expected a number of bytes, found \"10 gib\"; help: \
             write a number with a unit, e.g. \"10 GiB\" or \"500 MB\"",
        ),
        (
            "\"30d\"",
            "\"400d\"",
            "\"400d\"",
            "meter.allowances[1].period: expected a time from 1s to 366d, found \"400d\"; help: \
             write a number with a unit, e.g. \"1d\", \"30d\", \"12h\"",
        ),
        (
            "\"10.0.7.0/24\"",
            "\"10.1.7.0/24\"",
            "\"10.1.7.0/24\"",
            "meter.allowances[1].prefix: 10.1.7.0/24 holds no subscriber; help: subscribers are \
             those of `meter.inside-prefixes`",
        ),
        (
            "inside-prefixes = [\"10.0.0.0/16\"]",
            "inside-prefixes = [\"10.0.0.0/8\"]",
            "[\"10.0.0.0/8\"]",
            "meter.inside-prefixes: 16777216 addresses, 1048576 can have accounts; help: meter \
             fewer: what lies in no prefix does not pass",
        ),
        (
            "partitions = 64",
            "partitions = 513",
            "513",
            "meter.partitions: expected an integer from 1 to 512, found 513",
        ),
        (
            "function = \"meter\"                          # the",
            "function = \"metre\" # the",
            "\"metre\"",
            "node.gw1.function: expected one of \"nat\", \"meter\", found \"metre\"; help: did you \
             mean \"meter\"?",
        ),
        (
            "outside = \"wan0\"\n",
            "outside = \"wan0\"\nworkers = 2\n",
            "2\n\n[node.gw2]",
            "node.gw1.workers: a meter has one worker: a subscriber's packets may come by any queue; \
             help: leave `workers` out; what passes in the kernel does so on all queues",
        ),
        (
            "outside = \"gw1\" }",
            "outside = \"gw2\" }",
            "{ inside = \"gw1\", outside = \"gw2\" }",
            "node.sw.pin: a subscriber's packets would be spread over several meters; help: pin \
             both directions to one instance, `pin = { inside = \"gw1\", outside = \"gw1\" }`: \
             another one takes over when it dies",
        ),
    ] {
        let text = FILE.replacen(from, to, 1);
        assert_ne!(text, FILE, "{from}");
        let before = &text[..text.find(at).expect("it is there")];
        let line = before.lines().count().max(1);
        let column = before
            .lines()
            .last()
            .map_or(1, |line| line.chars().count() + 1);
        let problems = parse(&text).expect_err(said).to_string();
        let wanted = format!("meter.toml:{line}:{column}: error: {said}");
        assert!(problems.contains(&wanted), "{wanted}\n{problems}");
    }
}

#[test]
fn a_meter_needs_its_section_and_the_section_a_meter() {
    let start = FILE.find("[meter]").expect("a section");
    let end = FILE
        .find("# A subscriber's packets must")
        .expect("what follows");
    let text = [&FILE[..start], &FILE[end..]].concat();
    let problems = parse(&text)
        .expect_err("there is nothing to count")
        .to_string();
    let said = "node.gw1.roles[0]: a meter needs somebody to count: there is no `[meter]`; help: add \
                `[meter]` with `inside-prefixes`";
    assert!(problems.contains(said), "{problems}");
    let text = GOOD.replace(
        "[nat]",
        "[meter]\ninside-prefixes = [\"10.0.0.0/16\"]\n[nat]",
    );
    let (_, warnings) = super::parse(&text).expect("it is allowed");
    assert_eq!(warnings[0].message, "no node is a meter");
}
