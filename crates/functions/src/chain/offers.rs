//! What a chain offers to the fast path: entries that do at once what its functions do one after the
//! other.
//!
//! ```text
//!   a function's offers          entries of the chain
//!   (stage 0, flow a) ─────┬──── (port, key 1): a, then b
//!   (stage 1, flow b) ─────┘┌─── (port, key 2): a, then c
//!   (stage 0, flow a) ──────┤
//!   (stage 1, flow c) ──────┘
//! ```
//!
//! An entry holds as long as all it was made of is on offer as it was: the first of these that is
//! withdrawn or becomes another takes it back. Which flows of the functions a key stands for never
//! changes while it is there: each function's flow follows from the packet and from what the
//! functions before it decided.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use hashbrown::HashMap;
use stateplane_base::Time;
use stateplane_flow::fast::{compose, has_room_for};
use stateplane_flow::{Endpoint, FlowKey, PortId, Protocol};

use super::walk::Steps;
use super::{STAGES_MAX, passing};
use crate::function::{Decision, Meter, Ownership, Token};
use crate::runtime::{Effect, Sight};
use crate::table::Keyed;

/// A decision of one function that a fast path may carry out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) decision: Decision,
    pub(super) ownership: Option<Ownership>,
    pub(super) meter: Option<Meter>,
}

/// What is known of an offer besides.
#[derive(Clone, Copy, Debug)]
struct Standing {
    offer: Offer,
    /// When entries that are gone saw its packets last.
    seen: Option<Time>,
}

/// What the fast path saw, at this moment. Nothing: it cannot be asked now.
#[derive(Clone, Copy)]
pub(super) struct Glimpse<'a> {
    pub(super) now: Time,
    pub(super) sight: Option<&'a dyn Sight>,
}

impl Glimpse<'_> {
    /// When the last packet of an entry passed, or later: nobody is taken for idle who is not.
    fn last_seen(&self, (port, key): Place) -> Option<Time> {
        match self.sight {
            Some(sight) => sight.last_seen(self.now, port, &key),
            None => Some(self.now),
        }
    }
}

impl Offer {
    /// Whether it does the same to packets, however long.
    fn does_as(&self, other: &Offer) -> bool {
        self.decision.action == other.decision.action
            && (self.ownership, self.meter) == (other.ownership, other.meter)
    }
}

/// The flow at each stage.
type Flows = [Option<FlowKey>; STAGES_MAX];

/// How the fast path knows an entry: by which port packets come, and what of them makes a flow there.
pub(super) type Place = (PortId, FlowKey);

/// An entry.
#[derive(Clone, Copy, Debug)]
struct Composite {
    flows: Flows,
    until: Time,
    /// The round in which it was offered.
    round: u32,
}

/// The first of all flows.
const FIRST: FlowKey = FlowKey {
    protocol: Protocol::IcmpEcho,
    source: Endpoint::ANY,
    destination: Endpoint::ANY,
};

/// The functions' offers, and the entries made of them.
pub(super) struct Offers {
    stages: Vec<HashMap<FlowKey, Standing, Keyed>>,
    composites: HashMap<Place, Composite, Keyed>,
    /// Which entries are made of a stage's flow.
    members: BTreeSet<(usize, FlowKey, Place)>,
    most: usize,
    /// Counts how often the fast path gave all entries up.
    round: u32,
    /// Entries offered or prolonged so far.
    pub(super) offered: u64,
}

impl Offers {
    pub(super) fn new(stages: usize, most: usize, hash_key: [u64; 2]) -> Self {
        let offers = || HashMap::with_hasher(Keyed(hash_key));
        Self {
            stages: (0..stages).map(|_| offers()).collect(),
            composites: HashMap::with_hasher(Keyed(hash_key)),
            members: BTreeSet::new(),
            most,
            round: 0,
            offered: 0,
        }
    }

    /// A function offers a decision, or prolongs it.
    pub(super) fn offer(
        &mut self,
        stage: usize,
        flow: FlowKey,
        offer: Offer,
        glimpse: Glimpse<'_>,
        effects: &mut VecDeque<Effect>,
    ) {
        let known = self.stages[stage].get_mut(&flow);
        let Some(known) = known else {
            let standing = Standing { offer, seen: None };
            self.stages[stage].insert(flow, standing);
            return;
        };
        let before = core::mem::replace(&mut known.offer, offer);
        match before.does_as(&offer) {
            true => self.prolong(stage, &flow, effects),
            false => self.take_back(stage, &flow, glimpse, effects),
        }
    }

    /// A function wants to see the packets of this flow.
    pub(super) fn withdraw(
        &mut self,
        stage: usize,
        flow: &FlowKey,
        glimpse: Glimpse<'_>,
        effects: &mut VecDeque<Effect>,
    ) {
        if self.stages[stage].remove(flow).is_some() {
            self.take_back(stage, flow, glimpse, effects);
        }
    }

    /// Whether the fast path was offered an entry for these packets, or there is no room for one.
    pub(super) fn is_done(&self, place: Place) -> bool {
        match self.composites.get(&place) {
            Some(known) => known.round == self.round,
            None => self.composites.len() >= self.most,
        }
    }

    /// A packet passed all stages: offers an entry, if each function has on offer what it did to this packet.
    /// What it did to it follows from the flows, and these from what was done before.
    pub(super) fn make(&mut self, place: Place, steps: &Steps, effects: &mut VecDeque<Effect>) {
        let same = |stage: usize| {
            steps[stage].as_ref().is_some_and(|(flow, action)| {
                let known = self.stages[stage].get(flow);
                let offered = known.map(|known| known.offer.decision.action);
                offered.is_some() && offered == *action
            })
        };
        if !(0..self.stages.len()).all(same) {
            return;
        }
        let flows = steps.map(|step| step.map(|(flow, _)| flow));
        let Some(whole) = self.whole(place.0, &flows) else {
            return;
        };
        if let Some(former) = self.composites.get(&place).copied()
            && former.flows != flows
        {
            self.unlink(place, &former.flows);
        }
        for (stage, flow) in members(&flows) {
            self.members.insert((stage, flow, place));
        }
        self.tell(place, flows, whole, effects);
    }

    /// The fast path gave all entries up, but knows still what they saw: each is offered again when
    /// its next packet passes here.
    pub(super) fn begin_round(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// When the fast path saw a packet of a stage's flow last.
    pub(super) fn last_seen(
        &self,
        stage: usize,
        flow: &FlowKey,
        now: Time,
        sight: &dyn Sight,
    ) -> Option<Time> {
        let gone = self.stages[stage].get(flow).and_then(|known| known.seen);
        let entries = self.made_of(stage, flow);
        let seen = entries.filter_map(|(port, key)| sight.last_seen(now, port, &key));
        seen.chain(gone).max()
    }

    /// Asserts the invariants. `knows`: whether a stage has this flow in its table, so that offers are
    /// bounded as flows are.
    pub(super) fn check(&self, knows: impl Fn(usize, &FlowKey) -> bool) {
        for (stage, offers) in self.stages.iter().enumerate() {
            let all = offers.keys().all(|flow| knows(stage, flow));
            assert!(all, "what is on offer is known");
        }
        assert!(self.composites.len() <= self.most, "entries are bounded");
        let parts = self.stages.len() * self.composites.len();
        assert_eq!(
            self.members.len(),
            parts,
            "each entry is found by its parts"
        );
        for (place, composite) in &self.composites {
            for (stage, flow) in members(&composite.flows) {
                assert!(self.stages[stage].contains_key(&flow), "all is on offer");
                assert!(self.members.contains(&(stage, flow, *place)));
            }
        }
    }

    /// The entries that are made of a stage's flow.
    fn made_of(&self, stage: usize, flow: &FlowKey) -> impl Iterator<Item = Place> {
        let from = (stage, *flow, (PortId(0), FIRST));
        let flow = *flow;
        self.members
            .range(from..)
            .take_while(move |(at, of, _)| (*at, *of) == (stage, flow))
            .map(|(_, _, place)| *place)
    }

    fn prolong(&mut self, stage: usize, flow: &FlowKey, effects: &mut VecDeque<Effect>) {
        let places: Vec<Place> = self.made_of(stage, flow).collect();
        for place in places {
            let Some(known) = self.composites.get(&place).copied() else {
                continue;
            };
            let Some(whole) = self.whole(place.0, &known.flows) else {
                continue;
            };
            // Mostly another stage's decision ends sooner.
            if whole.decision.valid_until != known.until {
                self.tell(place, known.flows, whole, effects);
            }
        }
    }

    fn take_back(
        &mut self,
        stage: usize,
        flow: &FlowKey,
        glimpse: Glimpse<'_>,
        effects: &mut VecDeque<Effect>,
    ) {
        let places: Vec<Place> = self.made_of(stage, flow).collect();
        for place in places {
            let Some(gone) = self.composites.remove(&place) else {
                continue;
            };
            self.unlink(place, &gone.flows);
            // The others still want to know.
            let seen = glimpse.last_seen(place);
            for (stage, flow) in members(&gone.flows) {
                if let Some(known) = self.stages[stage].get_mut(&flow) {
                    known.seen = known.seen.max(seen);
                }
            }
            let (port, flow) = place;
            effects.push_back(Effect::Withdraw { port, flow });
        }
    }

    fn unlink(&mut self, place: Place, flows: &Flows) {
        for (stage, flow) in members(flows) {
            self.members.remove(&(stage, flow, place));
        }
    }

    /// What packets that come by `port` undergo at all stages together, if one entry can do it: of the
    /// functions only one has leases and meters that the fast path knows.
    fn whole(&self, port: PortId, flows: &Flows) -> Option<Offer> {
        let protocol = members(flows).next()?.1.protocol;
        let (mut until, mut ownership, mut meter) = (Time::MAX, None, None);
        let mut actions = [None; STAGES_MAX];
        for (action, stage) in actions.iter_mut().zip(passing(self.stages.len(), port)) {
            let offer = self.stages[stage].get(flows[stage].as_ref()?)?.offer;
            *action = Some(offer.decision.action);
            until = until.min(offer.decision.valid_until);
            ownership = ownership.or(offer.ownership);
            meter = meter.or(offer.meter);
        }
        let actions = actions.into_iter().flatten();
        let action = compose(protocol.into(), actions).ok()?;
        (meter.is_none() || has_room_for(&action)).then_some(Offer {
            decision: Decision {
                action,
                valid_until: until,
                token: Token::default(),
            },
            ownership,
            meter,
        })
    }

    fn tell(&mut self, place: Place, flows: Flows, whole: Offer, effects: &mut VecDeque<Effect>) {
        let (until, round) = (whole.decision.valid_until, self.round);
        let composite = Composite {
            flows,
            until,
            round,
        };
        self.composites.insert(place, composite);
        self.offered += 1;
        let (port, flow) = place;
        effects.push_back(Effect::Offload {
            port,
            flow,
            decision: whole.decision,
            ownership: whole.ownership,
            meter: whole.meter,
        });
    }
}

fn members(flows: &Flows) -> impl Iterator<Item = (usize, FlowKey)> {
    let flows = flows.iter().enumerate();
    flows.filter_map(|(stage, flow)| Some((stage, (*flow)?)))
}
