//! Runs the checker and says what it found.
use crate::bounds::Bounds;
use crate::group::Group;
use stateright::{Checker, HasDiscoveries, Model};
use std::cell::Cell;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Once;
use std::time::{Duration, Instant};

/// How much work a check may be.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Threads; with one, traces are the shortest there are.
    pub threads: usize,
    /// States after which it gives up.
    pub states: NonZeroUsize,
    /// Time after which it gives up.
    pub time: Duration,
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of which bounds.
    pub name: String,
    /// States reached, counting every way to reach one.
    pub states: usize,
    /// Different ones.
    pub unique: usize,
    /// Steps of the longest course.
    pub depth: usize,
    /// All states within the bounds were reached.
    pub exhausted: bool,
    /// What was reached of what should be.
    pub reached: Vec<&'static str>,
    /// The broken invariant and how, and the steps to it.
    pub broken: Option<(String, Vec<String>)>,
    /// How long it took.
    pub time: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exhausted = if self.exhausted { "yes" } else { "no" };
        write!(
            f,
            "{:<28} {:>10} states {:>9} unique, depth {:>3}, exhausted {exhausted}, {:>6.1} s, reached {:?}",
            self.name,
            self.states,
            self.unique,
            self.depth,
            self.time.as_secs_f64(),
            self.reached,
        )?;
        if let Some((how, trace)) = &self.broken {
            write!(f, "\n  BROKEN after {} steps: {how}", trace.len())?;
            for step in trace {
                write!(f, "\n    {step}")?;
            }
        }
        Ok(())
    }
}

/// What a checked world tells of itself.
pub(crate) trait World:
    Model<State: Hash + Clone + PartialEq + Send + Sync + 'static, Action: Clone + PartialEq>
    + Clone
    + Send
    + Sync
    + 'static
{
    /// The names of what must always hold.
    const INVARIANTS: &'static [&'static str];

    /// The broken invariant, and how.
    fn broken(state: &Self::State) -> Option<(&'static str, String)>;

    /// One step of a trace for people.
    fn tell(&self, state: &Self::State, action: &Self::Action) -> String;
}

/// Tries every course of a store group within the bounds.
pub fn check(name: &str, bounds: &Bounds, effort: Effort) -> Outcome {
    explore(name, &Group::new(bounds.clone()), effort)
}

/// Tries every course of a world.
pub(crate) fn explore<W: World>(name: &str, world: &W, effort: Effort) -> Outcome {
    hush();
    let started = Instant::now();
    let checker = world
        .clone()
        .checker()
        .threads(effort.threads)
        .target_state_count(effort.states.get())
        .timeout(effort.time)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let time = started.elapsed();
    let discoveries = checker.discoveries();
    let shortest = W::INVARIANTS
        .iter()
        .filter_map(|name| discoveries.get(name))
        .min_by_key(|path| (*path).clone().into_actions().len());
    let broken = shortest.map(|path| {
        let how = W::broken(path.last_state());
        let (invariant, how) = how.expect("the path ends where an invariant breaks");
        let steps = path.clone().into_vec();
        let trace = steps
            .iter()
            .filter_map(|(state, action)| Some(world.tell(state, action.as_ref()?)))
            .collect();
        (format!("{invariant}: {how}"), trace)
    });
    let mut reached: Vec<&'static str> = discoveries
        .keys()
        .copied()
        .filter(|name| !W::INVARIANTS.contains(name))
        .collect();
    reached.sort_unstable();
    CHECKING.set(false);
    let states = checker.state_count();
    Outcome {
        name: name.to_owned(),
        states,
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhausted: broken.is_none() && states < effort.states.get() && time < effort.time,
        reached,
        broken,
        time,
    }
}

thread_local! {
    static CHECKING: Cell<bool> = const { Cell::new(false) };
}

/// Assertions that break in a checked core are findings, not news for the terminal.
fn hush() {
    static HOOK: Once = Once::new();
    CHECKING.set(true);
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let checker = thread.name().is_some_and(|n| n.starts_with("checker-"));
            if !CHECKING.get() && !checker {
                before(info);
            }
        }));
    });
}
