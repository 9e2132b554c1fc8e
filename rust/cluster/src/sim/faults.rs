//! What goes wrong, and how long.

use super::env::{Cut, Life};
use super::etcd::Status;
use super::process::{Msg, Pid};
use super::{Event, HEALED_MS, World};
use crate::agent::EtcdLoss;

/// Something that is wrong until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Paused(Pid),
    Killed(Pid),
    Cut(Pid, Pid),
    /// From all others.
    Alone(Pid),
    /// From all others and etcd.
    Lost(Pid),
    /// From etcd.
    WithoutEtcd(Pid),
    EtcdStalled,
    EtcdDown,
    Lossy,
    Garbling,
    Leaving(Pid),
}

impl World {
    fn running(&self) -> Vec<Pid> {
        let all = 0..self.processes.len();
        all.filter(|pid| self.env.life(*pid) == Life::Running)
            .filter(|pid| self.processes[*pid].as_ref().is_some_and(|p| !p.is_out))
            .collect()
    }

    /// Whether it may happen now. A view that is frozen by the word of most does not hold against
    /// an etcd that only a minority without links to them reaches: both parts serve, and what keeps
    /// an acknowledgement true then is the store's word (`doubt` in rust/store), which is not part of
    /// this. Histories with that policy do not cut etcd from some and links at the same time.
    fn may(&self, fault: Fault) -> bool {
        let has = |test: fn(&Fault) -> bool| self.faults.iter().any(test);
        let is_freezing = self.loss == EtcdLoss::Freeze;
        match fault {
            Fault::Cut(..) | Fault::Alone(_) => {
                !is_freezing || !has(|f| matches!(f, Fault::WithoutEtcd(_) | Fault::Lost(_)))
            }
            Fault::WithoutEtcd(_) | Fault::Lost(_) => {
                let is_cut = |f: &Fault| {
                    matches!(f, Fault::Cut(..) | Fault::Alone(_) | Fault::Lost(_))
                        || matches!(
                            f,
                            Fault::Killed(_) | Fault::Paused(_) | Fault::WithoutEtcd(_)
                        )
                };
                !is_freezing || (!has(is_cut) && self.running().len() >= 3)
            }
            Fault::Killed(_) | Fault::Paused(_) => {
                let is_lost = |f: &Fault| matches!(f, Fault::Lost(_) | Fault::WithoutEtcd(_));
                !is_freezing || !has(is_lost)
            }
            Fault::EtcdStalled | Fault::EtcdDown => {
                !has(|f| matches!(f, Fault::EtcdStalled | Fault::EtcdDown))
                    && (!is_freezing
                        || !has(|f| matches!(f, Fault::Lost(_) | Fault::WithoutEtcd(_))))
            }
            Fault::Lossy | Fault::Garbling | Fault::Leaving(_) => true,
        }
    }

    pub(super) fn fault(&mut self) {
        let rng = &mut self.env.rng;
        let next = match self.family {
            super::Family::Refused => rng.range(4_000, 16_000),
            _ => rng.range(800, 6_000),
        };
        let kind = match self.family {
            super::Family::All => rng.range(0, 12),
            super::Family::EtcdAlone => rng.range(8, 9),
            super::Family::Few => [0, 6, 6, 10][rng.range(0, 3) as usize],
            super::Family::Refused => 5,
            super::Family::Moving => [2, 4, 4, 2, 12][rng.range(0, 4) as usize],
        };
        let (low, high) = [(100, 2_000), (500, 6_000), (4_000, 22_000)][rng.range(0, 2) as usize];
        let lasts = match self.family {
            super::Family::Few => rng.range(12_000, 40_000),
            _ => rng.range(low, high),
        };
        // The promise of E1 is about one outage at a time.
        let next = match self.family {
            super::Family::EtcdAlone => next + lasts + 6_000,
            _ => next,
        };
        if self.env.now + next < HEALED_MS {
            self.env.at(next, Event::Fault);
        }
        let lasts = lasts.min(HEALED_MS.saturating_sub(self.env.now)).max(1);
        let running = self.running();
        if running.is_empty() {
            return;
        }
        let one = running[self.env.rng.next() as usize % running.len()];
        let other = running[self.env.rng.next() as usize % running.len()];
        let fault = match kind {
            0 | 1 => Fault::Paused(one),
            2 | 3 => Fault::Killed(one),
            4 if one != other => Fault::Cut(one.min(other), one.max(other)),
            5 => Fault::Alone(one),
            6 => Fault::Lost(one),
            7 => Fault::WithoutEtcd(one),
            8 => Fault::EtcdStalled,
            9 => Fault::EtcdDown,
            10 => Fault::Lossy,
            11 => Fault::Garbling,
            _ => Fault::Leaving(one),
        };
        if self.faults.contains(&fault) || !self.may(fault) {
            return;
        }
        self.env.note(|| format!("{fault:?} for {lasts}"));
        self.faults.insert(fault);
        self.env.at(lasts, Event::Heal(fault));
        self.lasted = lasts;
        self.begin(fault);
    }

    fn begin(&mut self, fault: Fault) {
        let all = 0..self.processes.len();
        match fault {
            Fault::Paused(pid) => {
                self.env.lives.insert(pid, Life::Paused);
            }
            Fault::Killed(pid) => self.kill(pid),
            Fault::Cut(a, b) => self.cut(a, b, Cut::Silent),
            Fault::Alone(pid) => {
                for other in all.filter(|other| *other != pid) {
                    self.cut(pid, other, Cut::Refused);
                }
            }
            Fault::Lost(pid) => {
                self.env.etcd_cuts.insert(pid);
                for other in all.filter(|other| *other != pid) {
                    self.cut(pid, other, Cut::Silent);
                }
            }
            Fault::WithoutEtcd(pid) => {
                self.env.etcd_cuts.insert(pid);
            }
            Fault::EtcdStalled => self.etcd.status = Status::Stalled,
            Fault::EtcdDown => self.etcd.status = Status::Down,
            Fault::Lossy => self.env.is_lossy = true,
            Fault::Garbling => self.is_garbling = true,
            Fault::Leaving(pid) => self.to(pid, Msg::Drain),
        }
    }

    fn kill(&mut self, pid: Pid) {
        self.env.lives.insert(pid, Life::Dead);
        let Some(process) = &self.processes[pid] else {
            return;
        };
        let me = process.agent.incarnation();
        self.env.online.retain(|_, truth| truth.pid != pid);
        for client in self.clients.values_mut() {
            if client.connection.is_some_and(|(of, _)| of == pid) {
                client.connection = None;
            }
        }
        for other in 0..self.processes.len() {
            if self.env.cut(pid, other).is_none() {
                for wire in [0, 1] {
                    self.env.at(3, Event::To(other, Msg::Broken(me, wire)));
                }
            }
        }
    }

    fn cut(&mut self, a: Pid, b: Pid, how: Cut) {
        self.env.cuts.insert((a.min(b), a.max(b)), how);
        for (one, other) in [(a, b), (b, a)] {
            let Some(process) = &self.processes[other] else {
                continue;
            };
            let me = process.agent.incarnation();
            for wire in [0, 1] {
                let delay = self.env.rng.range(1, 1_500);
                self.env.at(delay, Event::To(one, Msg::Broken(me, wire)));
            }
        }
    }

    pub(super) fn heal(&mut self, fault: Fault) {
        self.faults.remove(&fault);
        self.env.note(|| format!("healed {fault:?}"));
        match fault {
            Fault::Paused(pid) => self.thaw(pid),
            Fault::Killed(pid) => self.env.at(1, Event::Restart(pid)),
            Fault::Cut(a, b) => {
                self.env.cuts.remove(&(a.min(b), a.max(b)));
            }
            Fault::Alone(pid) | Fault::Lost(pid) => {
                self.env.cuts.retain(|(a, b), _| *a != pid && *b != pid);
                if matches!(fault, Fault::Lost(_)) {
                    self.env.etcd_cuts.remove(&pid);
                }
            }
            Fault::WithoutEtcd(pid) => {
                self.env.etcd_cuts.remove(&pid);
            }
            Fault::EtcdStalled => {
                self.etcd.status = Status::Up;
                self.back_one_by_one();
                let is_expired_first = self.env.rng.one_in(2);
                let calls = std::mem::take(&mut self.stalled);
                if !is_expired_first {
                    // Keepalives that came meanwhile are seen before time is.
                    for (pid, number, call) in calls.clone() {
                        if let crate::talk::Call::Keepalive { .. } = call {
                            let answer = self.etcd.apply(self.env.now, call);
                            let upto = self.log.len();
                            let event = Event::Answer {
                                pid,
                                number,
                                answer,
                                upto,
                            };
                            self.env.at(3, event);
                        }
                    }
                }
                self.etcd.expire(self.env.now);
                self.published();
                for (pid, number, call) in calls {
                    self.carry_out(pid, number, call);
                }
            }
            Fault::EtcdDown => {
                self.etcd.back(self.env.now);
                self.back_one_by_one();
            }
            Fault::Lossy => self.env.is_lossy = false,
            Fault::Garbling => self.is_garbling = false,
            Fault::Leaving(pid) => {
                if self.env.life(pid) == Life::Running {
                    self.to(pid, Msg::Leave);
                }
            }
        }
    }

    /// Not everybody reaches etcd again at once.
    fn back_one_by_one(&mut self) {
        if self.family != super::Family::EtcdAlone || self.lasted < 5_000 {
            return;
        }
        for pid in self.running() {
            if self.env.rng.one_in(3) {
                self.env.etcd_cuts.insert(pid);
                let lasts = self.env.rng.range(50, 2_500);
                self.env.at(lasts, Event::Heal(Fault::WithoutEtcd(pid)));
            }
        }
    }

    fn thaw(&mut self, pid: Pid) {
        if self.env.life(pid) != Life::Paused {
            return;
        }
        self.env.lives.insert(pid, Life::Running);
        for msg in self.inboxes.remove(&pid).unwrap_or_default() {
            self.to(pid, msg);
        }
    }
}
