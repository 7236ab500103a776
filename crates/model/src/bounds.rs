//! How much may happen in a checked world.
use stateplane_group::Mutation;
use stateplane_wire::group::Body;

/// Which of the messages in flight may be delivered next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Any. One that is never delivered is lost.
    Any,
    /// The oldest of each link; that many may be lost in all.
    Fifo {
        /// Losses.
        drops: u8,
    },
}

/// What may happen, and how often, in all.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Replicas.
    pub replicas: u8,
    /// Operations of one client each.
    pub ops: u8,
    /// Repetitions of the first operation.
    pub repeats: u8,
    /// Which messages may be delivered.
    pub order: Order,
    /// Timers that may fire, by name, and how often; `None` as replica: any.
    pub timers: Vec<Timer>,
    /// The replica that loses its memory and starts again, at most once.
    pub crash: Option<u8>,
    /// How often the sequencer starts again.
    pub restarts: u8,
    /// Replies reach a real client core. Else it is only watched who could commit.
    pub clients: bool,
    /// Messages that are always lost.
    pub lost: fn(from: u8, to: u8, &Body) -> bool,
    /// The rule that is broken.
    pub mutation: Option<Mutation>,
}

/// A timer that may fire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timer {
    /// Its name.
    pub name: &'static str,
    /// Whose; `None`: anybody's.
    pub node: Option<u8>,
    /// How often.
    pub times: u8,
}

/// Any replica's timer of this name may fire so many times in all.
pub const fn any(name: &'static str, times: u8) -> Timer {
    Timer {
        name,
        node: None,
        times,
    }
}

/// One node's timer of this name may fire so many times.
pub const fn of(name: &'static str, node: u8, times: u8) -> Timer {
    Timer {
        name,
        node: Some(node),
        times,
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            replicas: 3,
            ops: 1,
            repeats: 0,
            order: Order::Any,
            timers: Vec::new(),
            crash: None,
            restarts: 0,
            clients: false,
            lost: |_, _, _| false,
            mutation: None,
        }
    }
}
