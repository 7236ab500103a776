//! Faults as they strike the world and as they pass.
use crate::chaos::{Blow, Sight, Strike};
use crate::plan::Fault;
use crate::tape::{Choice, Of};
use crate::world::{Event, Phase, World};

impl World<'_> {
    /// Lets chaos strike and plans the next time.
    pub(crate) fn strike(&mut self) -> Result<(), String> {
        if self.phase != Phase::Faulty {
            return Ok(());
        }
        let serial = self.chaos.turn();
        if let Some(wait) = self.chaos.pause() {
            self.agenda.add(self.now + wait, Event::Strike);
        }
        let choice = Choice {
            of: Of::Strike,
            serial,
        };
        if !self.tape.keeps(choice) {
            return Ok(());
        }
        self.tape.note(choice, true);
        let blows = self.chaos.strike(&self.sight());
        for blow in blows {
            let Blow {
                delay,
                strike,
                lasts,
            } = blow;
            self.agenda
                .add(self.now + delay, Event::Blow(strike, lasts));
        }
        Ok(())
    }

    /// A strike hits, unless things have changed since it was decided.
    pub(crate) fn hit(&mut self, strike: Strike, lasts: u64) -> Result<(), String> {
        let sight = self.sight();
        let allowed = match &strike {
            Strike::Crash(node) if self.nodes[*node].is_durable() => {
                self.nodes[*node].role.is_some()
            }
            Strike::Rot(node) | Strike::Crash(node) => {
                sight.spare > 0 && sight.sound.contains(node) && self.nodes[*node].role.is_some()
            }
            Strike::CrashSequencer(node) => sight.stamping.contains(node),
            Strike::Reconfigure(_) => sight.leader.is_some_and(|node| !self.nodes[node].is_deaf()),
            _ => true,
        };
        if self.phase != Phase::Faulty || !allowed {
            return Ok(());
        }
        self.say(|| format!("STRIKE {strike:?} for {} us", lasts / 1_000));
        match &strike {
            Strike::Cut(links) => {
                self.mark("strike-cut");
                for (from, to) in links {
                    self.network.block(*from, *to, true);
                }
            }
            Strike::Crash(node) => {
                self.mark("strike-crash");
                if sight.leader == Some(*node) {
                    self.mark("strike-crash-leader");
                }
                self.crash(*node);
                let members = self.watch.members();
                let down = |seat: &&usize| self.nodes[**seat].role.is_none();
                if members.iter().filter(down).count() > members.len() / 2 {
                    self.mark("strike-crash-beyond-f");
                }
            }
            Strike::Rot(node) => {
                self.crash(*node);
                self.rot(*node);
            }
            Strike::CrashSequencer(node) => {
                self.mark("strike-crash-sequencer");
                self.gather_marks(*node);
                self.nodes[*node].stop();
            }
            Strike::Pause(node) => {
                self.mark("strike-pause");
                self.nodes[*node].paused = true;
            }
            Strike::RestartClient(node) => {
                self.mark("strike-restart-client");
                self.abandon(*node);
                self.start(*node)?;
            }
            Strike::Clog(links) => {
                self.mark("strike-clog");
                for (from, to) in links {
                    self.network.clog(*from, *to, self.now + lasts);
                }
            }
            Strike::Reconfigure(change) => {
                self.mark("strike-reconfigure");
                let leader = sight.leader.expect("only a leader is asked");
                self.watch.expect(self.now, *change);
                self.nodes[leader].reconfigure(self.now, *change);
                self.settle_accounts(leader)?;
            }
            Strike::Leap(node, own, day) => {
                self.mark("strike-leap");
                self.leapt += own;
                self.nodes[*node].leap(*own, *day);
                self.plan_wake(*node);
            }
        }
        self.agenda.add(self.now + lasts, Event::Lift(strike));
        Ok(())
    }

    /// Ends a strike. After the general healing there is nothing left to end.
    pub(crate) fn lift(&mut self, strike: &Strike) -> Result<(), String> {
        if self.phase != Phase::Faulty {
            return Ok(());
        }
        self.say(|| format!("LIFT {strike:?}"));
        match strike {
            Strike::Cut(links) => {
                for (from, to) in links {
                    self.network.block(*from, *to, false);
                }
                Ok(())
            }
            Strike::Crash(node) | Strike::Rot(node) if self.nodes[*node].role.is_none() => {
                self.start(*node)
            }
            Strike::Crash(_) | Strike::Rot(_) => Ok(()),
            Strike::CrashSequencer(node) if self.nodes[*node].role.is_none() => self.start(*node),
            Strike::CrashSequencer(_) => Ok(()),
            Strike::Pause(node) => self.resume(*node),
            Strike::RestartClient(_)
            | Strike::Clog(_)
            | Strike::Leap(..)
            | Strike::Reconfigure(_) => Ok(()),
        }
    }

    /// Ends all faults. With [`Fault::Grave`], replicas that are down stay
    /// down: the group must do without them.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.say(|| "HEAL".to_owned());
        self.phase = Phase::Healing;
        self.healed = self.now;
        self.network.heal();
        let grave = self.plan.faults.has(Fault::Grave);
        // The dead count among those the group can do without, whatever their disks hold.
        let mut spare = self.sight().spare;
        for node in 0..self.nodes.len() {
            let dead = self.nodes[node].role.is_none();
            let needed = dead && self.nodes[node].remembers();
            // One sequencer must be left.
            let last = self.layout.sequences(node) && self.sight().stamping.is_empty();
            if dead && grave && !last && (!needed || spare > 0) {
                spare -= usize::from(needed);
                self.mark("left-in-grave");
            } else if dead {
                self.start(node)?;
            }
            self.resume(node)?;
        }
        Ok(())
    }

    fn sight(&self) -> Sight {
        let layout = self.layout;
        let replicas = layout.replicas;
        let group = &self.nodes[..replicas];
        let sound: Vec<usize> = (0..replicas).filter(|i| group[*i].remembers()).collect();
        Sight {
            layout,
            leader: self.leader(),
            spare: self.watch.spare(self.now, group),
            members: self.watch.members(),
            sound,
            durable: self.plan.durable(),
            stamping: (0..layout.sequencers)
                .map(|number| layout.sequencer(number))
                .filter(|node| self.nodes[*node].role.is_some())
                .collect(),
        }
    }
}
