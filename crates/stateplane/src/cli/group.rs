//! `stateplane group`: who belongs to the store group, and changes of that.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Where;
use super::admin::{self, Targets};
use crate::say::say;

const HELP: &str = "\
Examples:
  stateplane group show --config edge.toml
  stateplane group replace r2 r4 --config edge.toml     r2 is dead, r4 is spare
  stateplane group add r5 --config edge.toml --json

Nodes are named as in the configuration's `replicas` and `spares`. Any replica that runs on
this machine passes the change on to the leader. A change that was interrupted is taken up
again by the same command. Exit codes: 0 complete, 1 refused or not complete in time,
2 the configuration or the directory cannot be read.";

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(30);

/// `stateplane group …`
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// The members, the spare replicas and what is changing
    Show(Common),
    /// A spare replica becomes a member
    Add {
        /// Its node
        node: String,
        #[command(flatten)]
        common: Common,
    },
    /// A member leaves; it forgets everything and is spare from then on
    Remove {
        /// Its node
        node: String,
        #[command(flatten)]
        common: Common,
    },
    /// A spare replica takes a member's place
    Replace {
        /// The node that leaves
        node: String,
        /// The node that takes its place
        by: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args, Clone, Debug)]
struct Common {
    #[command(flatten)]
    place: Where,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "S", default_value_t = 30)]
    timeout_s: u64,
}

/// The change that was asked for.
#[derive(Clone, Debug, Default)]
struct Wish {
    out: Option<String>,
    into: Option<String>,
}

pub(super) fn run(args: &GroupArgs) -> ExitCode {
    let (common, wish) = match &args.what {
        What::Show(common) => (common, Wish::default()),
        What::Add { node, common } => (common, wish(None, Some(node))),
        What::Remove { node, common } => (common, wish(Some(node), None)),
        What::Replace { node, by, common } => (common, wish(Some(node), Some(by))),
    };
    let targets = match admin::targets(&common.place) {
        Ok(targets) => targets,
        Err(error) => return super::report_load(error),
    };
    let started = Instant::now();
    let done = match &args.what {
        What::Show(_) => look(&targets),
        _ => pursue(&targets, &wish, common),
    };
    match done {
        Ok(group) if common.json => {
            let mut value = group.as_json();
            value["took_ms"] = json!(started.elapsed().as_millis());
            say!("{value:#}");
        }
        Ok(group) => say!("{}", group.as_text()),
        Err(error) => {
            if common.json {
                say!("{:#}", json!({ "error": format!("{error:#}") }));
            }
            eprintln!("stateplane: error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn wish(out: Option<&String>, into: Option<&String>) -> Wish {
    Wish {
        out: out.cloned(),
        into: into.cloned(),
    }
}

/// What the newest member that answers says about the group.
#[derive(Clone, Debug)]
struct Group {
    view: u64,
    leader: Option<String>,
    members: Vec<String>,
    former: Vec<String>,
    spares: Vec<String>,
    /// Replicas that answered on this machine.
    here: Vec<String>,
    /// Those of them that are members in the newest view.
    working: Vec<String>,
    /// Members in that view as the leader, if it is here, sees it.
    present: Vec<String>,
    pending: Option<String>,
}

impl Group {
    fn complete(&self, wish: &Wish) -> bool {
        let has = |name: &String| self.members.contains(name);
        // Where neither the newcomer nor the leader runs, its membership must do.
        let seen = |name: &String| match &self.leader {
            Some(_) => self.present.contains(name),
            None => self.working.contains(name) || !self.here.contains(name),
        };
        let arrived = |name: &String| has(name) && seen(name);
        self.former.is_empty()
            && wish.out.as_ref().is_none_or(|name| !has(name))
            && wish.into.as_ref().is_none_or(arrived)
    }

    fn as_json(&self) -> Value {
        json!({
            "view": self.view,
            "leader": self.leader,
            "members": self.members,
            "former": self.former,
            "spares": self.spares,
            "working": self.working,
            "present": self.present,
            "pending": self.pending,
            "changing": !self.former.is_empty() || self.pending.is_some(),
        })
    }

    fn as_text(&self) -> String {
        let list = |names: &[String]| match names {
            [] => "none".to_owned(),
            names => names.join(" "),
        };
        let mut text = format!(
            "members  {}\nleader   {}\nspares   {}\nview     {}",
            list(&self.members),
            self.leader.as_deref().unwrap_or("not known here"),
            list(&self.spares),
            self.view
        );
        if !self.former.is_empty() {
            text += &format!("\nchanging from {}", list(&self.former));
        }
        if let Some(pending) = &self.pending {
            text += &format!("\npending  {pending}");
        }
        text
    }
}

/// Asks all replicas here.
fn look(targets: &Targets) -> Result<Group> {
    let answers: BTreeMap<String, Value> = admin::ask_all(targets, "/v1/group")?
        .into_iter()
        .filter_map(|(name, answer)| Some((name, answer.ok()?)))
        .collect();
    let newest = answers
        .values()
        .filter(|answer| answer["normal"] == true)
        .max_by_key(|answer| answer["view"].as_u64());
    let Some(newest) = newest else {
        bail!("no member of the group answers on this machine");
    };
    let names = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    };
    let view = newest["view"].as_u64().unwrap_or(0);
    let members = names(&newest["members"]);
    let in_view = |answer: &&Value| answer["normal"] == true && answer["view"] == newest["view"];
    let leader = answers
        .values()
        .filter(in_view)
        .find(|answer| answer["role"] == "leader");
    let name = |answer: &Value| answer["node"].as_str().map(str::to_owned);
    Ok(Group {
        view,
        leader: leader.and_then(name),
        former: names(&newest["former"]),
        spares: names(&newest["seats"])
            .into_iter()
            .filter(|seat| !members.contains(seat))
            .collect(),
        here: answers.keys().cloned().collect(),
        working: answers.values().filter(in_view).filter_map(name).collect(),
        present: leader.map_or_else(Vec::new, |leader| names(&leader["present"])),
        pending: leader.and_then(|l| l["pending"].as_str().map(str::to_owned)),
        members,
    })
}

/// Asks for the change until it is complete.
fn pursue(targets: &Targets, wish: &Wish, common: &Common) -> Result<Group> {
    let mut path = "/v1/group?".to_owned();
    for (key, name) in [("out", &wish.out), ("in", &wish.into)] {
        if let Some(name) = name {
            if !targets.contains_key(name) {
                bail!("there is no node \"{name}\"");
            }
            path += &format!("{key}={name}&");
        }
    }
    let limit = Instant::now() + Duration::from_secs(common.timeout_s);
    let mut progress = Progress::new(!common.json);
    let mut begun = false;
    loop {
        let group = look(targets);
        if let Ok(group) = &group {
            if begun && group.complete(wish) {
                return Ok(group.clone());
            }
            let settled = group.former.is_empty() && group.pending.is_none();
            let accepted = begun && !settled;
            let waits = begun && settled && arriving(group, wish);
            if !accepted && !waits {
                begun |= ask(targets, group, &path, begun, &mut progress)?;
            }
            progress.show(group);
        } else if !begun {
            group?;
        }
        if Instant::now() >= limit {
            bail!(
                "not complete after {} s; `stateplane group show` tells how far it is, and the \
                 same command goes on",
                common.timeout_s
            );
        }
        std::thread::sleep(PAUSE);
    }
}

/// Members are as wished; only the newcomer is not there yet.
fn arriving(group: &Group, wish: &Wish) -> bool {
    let has = |name: &String| group.members.contains(name);
    wish.out.as_ref().is_none_or(|name| !has(name)) && wish.into.as_ref().is_none_or(has)
}

/// Asks the leader, or any member; true if the change is on its way. Refusals that only
/// say that something is in flux count once it is.
fn ask(
    targets: &Targets,
    group: &Group,
    path: &str,
    begun: bool,
    progress: &mut Progress,
) -> Result<bool> {
    let Some(name) = group.leader.as_ref().or(group.working.first()) else {
        return Ok(false);
    };
    let answer = match admin::post(&targets[name], path) {
        Ok(answer) => answer,
        Err(error) if begun => {
            progress.say(&format!("{error:#}"));
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let answer = answer["answer"].as_str().unwrap_or_default();
    progress.say(answer);
    match answer {
        "accepted" | "hands-over" => Ok(true),
        "not-the-leader" => Ok(false),
        _ if begun => Ok(false),
        refusal => bail!("{}", explain(refusal)),
    }
}

/// A refusal, and what to do about it.
fn explain(refusal: &str) -> &str {
    match refusal {
        "in-progress" => "another change is in progress: wait until it is complete",
        "already-a-member" => "the node that is to join is a member already",
        "not-a-member" => "the node that is to leave is not a member",
        "not-heard" => {
            "the node that is to join is not heard: is it running, with this configuration?"
        }
        "no-majority" => {
            "too few members are heard: without a majority of those before the change, and of \
             those after it, the group would stand still"
        }
        "unknown-seat" => "the leader's configuration does not list that node: update it first",
        other => other,
    }
}

/// Says on stderr what changed.
struct Progress {
    told: Option<String>,
    loud: bool,
}

impl Progress {
    const fn new(loud: bool) -> Self {
        Self { told: None, loud }
    }

    fn say(&mut self, word: &str) {
        if self.loud && self.told.as_deref() != Some(word) {
            eprintln!("{word}");
            self.told = Some(word.to_owned());
        }
    }

    fn show(&mut self, group: &Group) {
        if let Some(pending) = &group.pending {
            self.say(&format!("{pending}: the newcomer gets the state"));
        } else if !group.former.is_empty() {
            self.say("majorities before and after the change are entering it");
        }
    }
}
