//! The agent's way in and out, step by step. How agents act together: [`crate::sim`].

use super::*;
use crate::member::tests::member;
use crate::planner::{Situation, plan};
use crate::talk::Signs;

fn config(id: &str) -> Config {
    Config {
        id: NodeId::new(id).unwrap(),
        zone: None,
        version: "0.1.0".into(),
        relay: "127.0.0.1:1".into(),
        control: "127.0.0.1:2".into(),
        timing: Timing::default(),
        policy: Policy::default(),
        etcd_loss: EtcdLoss::Freeze,
        shards: 8,
    }
}

fn stored(lease: Option<i64>, revision: i64, value: Vec<u8>) -> Stored {
    Stored {
        revision: Revision(revision),
        lease: lease.map(LeaseId),
        value,
    }
}

fn record(id: &str, life: u32, lease: i64) -> (String, Stored) {
    let bytes = member(id, life, MemberState::Up).to_bytes();
    (id.into(), stored(Some(lease), i64::from(life), bytes))
}

/// The map of these lives.
fn map(previous: Option<&ShardMap>, lives: &[(&str, u32)]) -> ShardMap {
    let members: Vec<Member> = lives
        .iter()
        .map(|(id, life)| member(id, *life, MemberState::Up))
        .collect();
    let situation = Situation {
        previous,
        members: &members,
        shards: 8,
        planner: Incarnation(1),
        settled: &|_, _| true,
    };
    plan(&situation, &Policy::default()).unwrap()
}

/// An agent with what it wanted last.
struct One {
    agent: Agent,
    now: u64,
    calls: Vec<(u64, Call)>,
    rest: Vec<Output>,
}

impl One {
    fn new() -> Self {
        Self {
            agent: Agent::new(config("a")),
            now: 100_000,
            calls: Vec::new(),
            rest: Vec::new(),
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.agent.step(Mono(self.now), input, &mut out);
        for output in out {
            match output {
                Output::Call(number, call) => self.calls.push((number, call)),
                other => self.rest.push(other),
            }
        }
    }

    fn tick(&mut self, ms: u64) {
        self.now += ms;
        self.step(Input::Tick(&[]));
    }

    /// Answers the one call that waits.
    fn answer(&mut self, answer: Answer) -> Call {
        let (number, call) = self.calls.pop().expect("a call");
        self.step(Input::Answer(number, Some(answer)));
        call
    }

    /// In, as the third life, with two others.
    fn joined() -> Self {
        let mut one = Self::new();
        one.tick(0);
        let listed = Listed {
            counter: 2,
            nodes: vec![record("b", 1, 11), record("c", 2, 12)],
            leader: Some(stored(Some(11), 5, b"1".to_vec())),
            map: None,
        };
        one.answer(Answer::Listed(listed));
        one.tick(1);
        one.answer(Answer::Granted(LeaseId(13)));
        // Another joined since; it is the third all the same.
        one.step(Input::Change(Change::Counter(4)));
        match one.answer(Answer::Txn(true)) {
            Call::Create { member, .. } => assert_eq!(member.incarnation, Incarnation(3)),
            other => panic!("{other:?}"),
        }
        assert_eq!(one.agent.incarnation(), Incarnation(3));
        one.step(Input::Ready);
        let (key, own) = record("a", 3, 13);
        one.step(Input::Change(Change::Node(key, Some(own))));
        let first = map(None, &[("a", 3), ("b", 1), ("c", 2)]);
        let bytes = stored(None, 9, first.to_bytes());
        one.step(Input::Change(Change::Map(Some(bytes))));
        one.rest.clear();
        one.calls.clear();
        one
    }

    fn is_out(&self) -> Option<OutReason> {
        self.rest.iter().find_map(|output| match output {
            Output::Out(reason) => Some(*reason),
            _ => None,
        })
    }
}

#[test]
fn a_name_that_is_taken_waits_for_the_end_of_its_lease() {
    let mut one = One::new();
    one.tick(0);
    let nodes = vec![record("a", 1, 11)];
    one.answer(Answer::Listed(Listed {
        counter: 1,
        nodes,
        ..Listed::default()
    }));
    assert_eq!(one.rest, [Output::Alert(Alert::NameTaken)]);
    one.tick(100);
    assert!(one.calls.is_empty());
    one.tick(600);
    assert_eq!(one.calls[0].1, Call::List);
}

#[test]
fn without_an_answer_before_the_deadline_it_is_out_and_says_so() {
    let mut one = One::joined();
    for _ in 0..178 {
        one.tick(50);
        one.calls.clear();
    }
    assert_eq!(one.is_out(), None);
    // A map may come, however silent the others are.
    assert_eq!(one.agent.cut_off(Mono(one.now)), []);
    one.tick(150);
    assert_eq!(one.is_out(), Some(OutReason::LeasePassed));
    let stopped = Output::Note(Incarnation(1), Note::Stopped);
    assert!(one.rest.contains(&stopped));
    assert_eq!(one.agent.standing(Mono(one.now)), Standing::default());
}

#[test]
fn when_most_say_that_etcd_is_gone_it_goes_on_for_a_while() {
    let mut one = One::joined();
    for _ in 0..400 {
        one.tick(50);
        one.calls.clear();
        let asked: Vec<(Incarnation, u64)> = one
            .rest
            .drain(..)
            .filter_map(|output| match output {
                Output::Note(to, Note::IsEtcdGone { ask }) => Some((to, ask)),
                Output::Out(reason) => panic!("{reason:?}"),
                _ => None,
            })
            .collect();
        for (to, ask) in asked.into_iter().filter(|(to, _)| *to == Incarnation(1)) {
            let epoch = Epoch(1);
            let is_gone = true;
            one.step(Input::Note(
                to,
                Note::EtcdGone {
                    ask,
                    is_gone,
                    epoch,
                },
            ));
        }
    }
    assert!(one.agent.is_frozen(Mono(one.now)));
    // Whoever is silent meanwhile cannot be replaced.
    let (sent, epoch) = (Mono(one.now), Epoch(1));
    one.step(Input::Note(Incarnation(1), Note::Pong { sent, epoch }));
    assert_eq!(one.agent.cut_off(sent), [Incarnation(2)]);
    // They do not answer any more.
    for _ in 0..70 {
        one.tick(50);
    }
    assert_eq!(one.is_out(), Some(OutReason::LeasePassed));
}

#[test]
fn a_lease_that_was_lost_in_a_stall_is_taken_again_with_the_same_life() {
    let mut one = One::joined();
    one.tick(2_100);
    let keepalive = one
        .calls
        .iter()
        .position(|(_, call)| matches!(call, Call::Keepalive { .. }));
    let (number, _) = one.calls.swap_remove(keepalive.expect("a keepalive"));
    one.calls.clear();
    one.step(Input::Change(Change::Node("a".into(), None)));
    one.step(Input::Answer(number, Some(Answer::Alive(false))));
    assert!(!one.agent.standing(Mono(one.now)).may_accept(Mono(one.now)));
    one.answer(Answer::Granted(LeaseId(77)));
    match one.answer(Answer::Txn(true)) {
        Call::Recreate { member, map, .. } => {
            assert_eq!((member.incarnation, map), (Incarnation(3), Revision(9)));
        }
        other => panic!("{other:?}"),
    }
    assert!(one.agent.is_in() && one.agent.standing(Mono(one.now)).valid_until > Mono(one.now));
}

#[test]
fn a_map_without_it_is_the_end() {
    let mut one = One::joined();
    let first = map(None, &[("a", 3), ("b", 1), ("c", 2)]);
    let second = map(Some(&first), &[("b", 1), ("c", 2)]);
    one.step(Input::Note(Incarnation(1), Note::Map(second.into())));
    assert_eq!(one.is_out(), Some(OutReason::LeftOut));
}

#[test]
fn garbage_leads_to_an_alert_and_no_decision() {
    let mut one = One::joined();
    let before = one.agent.epoch();
    let bad = |value: &[u8]| Some(stored(None, 20, value.to_vec()));
    one.step(Input::Change(Change::Map(bad(b"nonsense"))));
    one.step(Input::Change(Change::Node("b".into(), bad(b"{}"))));
    one.step(Input::Change(Change::Leader(bad(b"me"))));
    assert_eq!(one.rest.len(), 3);
    assert!(one.rest.iter().all(|o| matches!(o, Output::Alert(_))));
    assert_eq!(one.agent.epoch(), before);
    assert!(one.agent.is_in());
    // A map of the past: etcd came from a backup.
    let first = map(None, &[("a", 3), ("b", 1), ("c", 2)]);
    let second = map(Some(&first), &[("a", 3), ("c", 2)]);
    one.step(Input::Note(Incarnation(1), Note::Map(second.into())));
    one.rest.clear();
    one.step(Input::Change(Change::Map(bad(&first.to_bytes()))));
    assert_eq!(one.rest, [Output::Alert(Alert::OldMap(Epoch(1)))]);
    assert_eq!(one.agent.epoch(), Epoch(2));
    // And everything is read again after a while.
    one.tick(4_600);
    assert!(one.calls.iter().any(|(_, call)| *call == Call::List));
}

#[test]
fn a_leader_that_is_none_of_the_members_is_read_again() {
    let mut one = One::joined();
    let leader = |lease, text: &str| {
        let bytes = text.as_bytes().to_vec();
        Input::Change(Change::Leader(Some(stored(Some(lease), 20, bytes))))
    };
    one.step(leader(11, "1"));
    assert_eq!(one.agent.relist, None);
    // Half of a number, and the number of another.
    for (lease, text) in [(11, "12"), (11, "2")] {
        one.agent.relist = None;
        one.step(leader(lease, text));
        assert!(one.agent.relist.is_some(), "{text}");
    }
    one.tick(4_600);
    assert!(one.calls.iter().any(|(_, call)| *call == Call::List));
}

#[test]
fn one_that_has_to_be_quiet_lets_others_lead_first() {
    let mut one = One::joined();
    one.step(Input::Change(Change::Leader(None)));
    let campaigns = |one: &One| {
        let is_one = |call: &Call| matches!(call, Call::Campaign { .. });
        one.calls.iter().any(|(_, call)| is_one(call))
    };
    one.tick(600);
    assert!(!campaigns(&one));
    one.tick(700);
    assert!(campaigns(&one));
}

#[test]
fn a_drain_that_is_taken_back_makes_it_one_of_the_others_again() {
    let mut one = One::joined();
    let declared = |one: &mut One| {
        one.tick(200);
        let states = one.calls.drain(..).filter_map(|(number, call)| match call {
            Call::Update { member, .. } => Some((number, member.state)),
            _ => None,
        });
        let states: Vec<(u64, MemberState)> = states.collect();
        for (number, _) in &states {
            one.step(Input::Answer(*number, Some(Answer::Txn(true))));
        }
        states.last().map(|(_, state)| *state)
    };
    let seen = |one: &mut One, state| {
        let bytes = member("a", 3, state).to_bytes();
        let own = stored(Some(13), 30, bytes);
        one.step(Input::Change(Change::Node("a".into(), Some(own))));
    };
    one.step(Input::Stay);
    assert_eq!(declared(&mut one), None);
    one.step(Input::Drain);
    assert_eq!(declared(&mut one), Some(MemberState::Draining));
    seen(&mut one, MemberState::Draining);
    one.step(Input::Stay);
    assert_eq!(declared(&mut one), Some(MemberState::Up));
}

#[test]
fn only_who_plans_tells_what_there_is_to_move() {
    let mut one = One::joined();
    assert_eq!(one.agent.outlook(Mono(one.now)), None);
    one.step(Input::Change(Change::Leader(Some(stored(
        Some(13),
        20,
        b"3".to_vec(),
    )))));
    let outlook = one.agent.outlook(Mono(one.now)).unwrap();
    assert_eq!(outlook.moving, 0);
    assert_eq!(outlook.shares.1, 3);
    assert!(
        outlook.is_waiting,
        "it has been in contact for a moment only"
    );
}

#[test]
fn it_tells_how_others_look_from_here() {
    let mut one = One::joined();
    let signs = |one: &mut One| {
        let (ask, target) = (9, Incarnation(2));
        one.rest.clear();
        one.step(Input::Note(Incarnation(1), Note::Doubt { ask, target }));
        match one.rest.pop() {
            Some(Output::Note(_, Note::Heard { signs, .. })) => signs,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(signs(&mut one), Signs::Silent);
    // Its port refuses, but it was never heard: that is no death.
    one.step(Input::Port(Incarnation(2), true));
    one.now += 700;
    assert_eq!(signs(&mut one), Signs::Silent);
    one.step(Input::Port(Incarnation(2), false));
    let ping = Note::Ping {
        sent: Mono(1),
        epoch: Epoch(1),
    };
    one.step(Input::Note(Incarnation(2), ping));
    assert_eq!(signs(&mut one), Signs::Hears);
    one.step(Input::Port(Incarnation(2), true));
    one.now += 700;
    assert_eq!(signs(&mut one), Signs::Refused);
}
