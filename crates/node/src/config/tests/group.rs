//! What a file says of its group.

use stateplane_group::Limits as GroupLimits;
use stateplane_state::Limits;

use super::*;
use crate::peers::Peers;
use crate::store;

#[test]
fn a_group_member_needs_a_group() {
    let group =
        "[state]\nbackend = \"group\"\nsequencer = \"seq\"\nreplicas = [\"r1\", \"r2\", \"r3\"]\n";
    let said = said(group, "");
    assert_eq!(said.lines().count(), 5, "{said}");
    assert!(
        said.contains("node.seq.roles[0]: the embedded state needs no sequencer"),
        "{said}"
    );
    assert!(
        said.contains("warning: node.sw.instances: each instance keeps its own"),
        "{said}"
    );
}

#[test]
fn a_group_whose_leader_orders_has_no_sequencer() {
    let vr = |more: &str| format!("sequencer = \"seq\"\nprotocol = \"vr\"\n{more}");
    let both = said("sequencer = \"seq\"\n", &vr(""));
    assert!(
        both.contains("state.sequencer: with \"vr\" the leader orders"),
        "{both}"
    );
    assert!(
        both.contains("node.seq.roles[0]: a group with `protocol = \"vr\"` needs no sequencer"),
        "{both}"
    );
    let odd = said("sequencer = \"seq\"\n", "sequencer = \"seq\"\nbatch = 8\n");
    assert!(
        odd.contains("state.batch: only a leader that orders batches"),
        "{odd}"
    );

    let seq = "[node.seq]\nroles = [\"sequencer\"]\ncontrol = \"10.9.0.5:7400\"\n";
    let text = GOOD.replace(seq, "");
    let text = text.replace("sequencer = \"seq\"\n", "protocol = \"vr\"\n");
    let (config, warnings) = parse(&text).expect("a group without a sequencer");
    assert!(warnings.is_empty());
    assert!(matches!(
        config.state,
        State::Group { protocol: Protocol::Vr { batch: 64 }, ref sequencers, .. } if sequencers.is_empty()
    ));
}

#[test]
fn a_durable_group_has_a_directory() {
    let said = |keys: &str| {
        let text = GOOD.replace(
            "sequencer = \"seq\"\n",
            &format!("sequencer = \"seq\"\n{keys}"),
        );
        parse(&text).map(|(config, _)| match config.state {
            State::Group { disk, .. } => disk,
            State::Embedded => None,
        })
    };
    let dir = |path: &str| Some(Path::new(path).to_owned());
    assert_eq!(
        said("durable = true\n").expect("right"),
        dir("/var/lib/stateplane")
    );
    assert_eq!(
        said("durable = true\ndir = \"/d\"\n").expect("right"),
        dir("/d")
    );
    assert_eq!(said("durable = false\n").expect("right"), None);
    for wrong in [
        "dir = \"/d\"\n",
        "durable = 1\n",
        "durable = true\ndir = 1\n",
    ] {
        let problems = said(wrong).expect_err("wrong").to_string();
        assert!(problems.contains("state.d"), "{problems}");
    }
}

#[test]
fn the_longest_operation_may_be_longer() {
    let said = |keys: &str| {
        let text = GOOD.replace(
            "sequencer = \"seq\"\n",
            &format!("sequencer = \"seq\"\n{keys}"),
        );
        parse(&text).map(|(config, _)| {
            (
                store::limits(&config),
                Peers::new(&config, "seq", Role::Sequencer),
            )
        })
    };
    let (limits, peers) = said("longest-mib = 16\n").expect("right");
    let longest = 16 << 20;
    assert_eq!((limits.op_bytes, limits.reply_bytes), (longest, longest));
    assert!(limits.value_bytes >= longest / 4 && limits.value_bytes < longest);
    assert_eq!(peers.group_config().limits.operation, longest);
    let (usual, peers) = said("").expect("right");
    assert_eq!(usual, Limits::default());
    assert_eq!(peers.group_config().limits, GroupLimits::default());
    for wrong in ["0", "65", "\"4\""] {
        let problems = said(&format!("longest-mib = {wrong}\n"))
            .map(|_| ())
            .expect_err("wrong");
        assert!(problems.to_string().contains("state.longest-mib"));
    }
}

#[test]
fn a_sequencer_may_stamp_in_the_network() {
    let said = |keys: &str| {
        let roles = "roles = [\"sequencer\"]\n";
        assert!(GOOD.contains(roles));
        let text = GOOD.replacen(roles, &format!("{roles}{keys}"), 1);
        parse(&text).map(|(config, _)| config.node("seq").expect("declared").stamping.clone())
    };
    let at = || "eth0".to_owned();
    for (keys, meant) in [
        ("", Stamping::Auto(None)),
        ("mode = \"auto\"\n", Stamping::Auto(None)),
        ("interface = \"eth0\"\n", Stamping::Auto(Some(at()))),
        (
            "mode = \"auto\"\ninterface = \"eth0\"\n",
            Stamping::Auto(Some(at())),
        ),
        ("mode = \"user-space\"\n", Stamping::UserSpace),
        (
            "mode = \"xdp\"\ninterface = \"eth0\"\n",
            Stamping::Xdp(at()),
        ),
    ] {
        assert_eq!(said(keys).expect("right"), meant, "{keys}");
    }
    for wrong in [
        "mode = \"xdp\"\n",
        "mode = \"user-space\"\ninterface = \"eth0\"\n",
        "interface = \"no such name\"\n",
        "mode = \"switch\"\n",
    ] {
        let problems = said(wrong).expect_err("wrong").to_string();
        assert!(problems.contains("node.seq"), "{problems}");
    }
}

#[test]
fn standby_sequencers_are_listed_once_and_exist() {
    let with = |line: &str, more: &str| {
        let text = GOOD.replace("sequencer = \"seq\"", line) + more;
        parse(&text).map_or_else(
            |problems| problems.to_string(),
            |(config, warnings)| format!("{:?} {}", config.state, Plain(&warnings)),
        )
    };
    let second = "\n[node.seq2]\nroles = [\"sequencer\"]\ncontrol = \"10.9.0.99:7400\"\n";
    let good = with("sequencers = [\"seq\", \"seq2\"]", second);
    assert!(good.contains("sequencers: [\"seq\", \"seq2\"]"), "{good}");
    for (line, more, said) in [
        (
            "sequencers = [\"seq\", \"seq\"]",
            "",
            "state.sequencers[1]: \"seq\" is listed twice",
        ),
        (
            "sequencers = [\"seq\", \"r1\"]",
            "",
            "state.sequencers[1]: node \"r1\" does not have the role sequencer",
        ),
        (
            "sequencers = []",
            "",
            "state.sequencers: expected 1 to 16 sequencers, found 0",
        ),
        (
            "sequencer = \"seq\"\nsequencers = [\"seq\"]",
            "",
            "`sequencer` and `sequencers` say the same twice",
        ),
        (
            "sequencers = [\"seq\"]",
            second,
            "\"seq2\" is a sequencer that `state.sequencers` does not name",
        ),
    ] {
        let problems = with(line, more);
        assert!(problems.contains(said), "{line}: {problems}");
    }
}
