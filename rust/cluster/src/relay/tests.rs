//! Streams that break at any point, and two nodes that flood each other.

use super::*;
use proptest::prelude::*;

fn connect(from: &mut Outbound<u64>, to: &mut Inbound, connection: u64) -> Vec<(u64, Outcome)> {
    let words = to.connected(connection);
    from.connected(&words).unwrap()
}

#[test]
fn a_stanza_is_sent_received_and_called_done() {
    let (mut from, mut to) = (Outbound::new(100), Inbound::new(100));
    assert_eq!(from.frame(10), None);
    connect(&mut from, &mut to, 1);
    from.push(5, 7).unwrap();
    let frame = from.frame(10).unwrap();
    assert_eq!(to.receive(frame).unwrap(), [(1, 5, 7)]);
    let words = to.words(10).unwrap();
    assert_eq!(from.heard(&words).unwrap(), []);
    assert_eq!((from.queued_bytes(), from.pending()), (0, 1));
    to.take(5);
    to.outcome(1, Outcome::Done);
    let words = to.words(10).unwrap();
    assert_eq!(from.heard(&words).unwrap(), [(1, Outcome::Done)]);
    assert_eq!(from.heard(&words).unwrap(), [], "said twice counts once");
    assert_eq!(from.pending(), 0);
    // That it was seen is told, and then there is nothing to say.
    let frame = from.frame(10).unwrap();
    assert_eq!((frame.stanzas.len(), frame.seen), (0, 1));
    to.receive(frame).unwrap();
    assert_eq!((from.frame(10), to.words(10)), (None, None));
}

#[test]
fn without_room_nothing_is_sent_and_a_full_queue_refuses() {
    let (mut from, mut to) = (Outbound::new(30), Inbound::new(20));
    connect(&mut from, &mut to, 1);
    for n in 0..3 {
        from.push(10, n).unwrap();
    }
    assert_eq!(from.push(10, 3), Err(QueueFull));
    let frame = from.frame(1000).unwrap();
    assert_eq!(frame.stanzas.len(), 2);
    assert_eq!(to.receive(frame).unwrap().len(), 2);
    from.heard(&to.words(10).unwrap()).unwrap();
    assert_eq!(from.frame(1000), None);
    to.take(10);
    from.heard(&to.words(10).unwrap()).unwrap();
    assert_eq!(from.frame(1000).unwrap().stanzas.len(), 1);
}

#[test]
fn a_peer_that_breaks_the_rules_is_found() {
    let (mut from, mut to) = (Outbound::new(100), Inbound::new(20));
    connect(&mut from, &mut to, 1);
    let frame = |first, stanzas: &[usize], seen| Frame {
        connection: 1,
        first,
        stanzas: stanzas.iter().map(|bytes| (*bytes, 0_u64)).collect(),
        seen,
    };
    assert_eq!(to.receive(frame(2, &[1], 0)), Err(Breach::Gap));
    assert_eq!(to.receive(frame(1, &[15, 15], 0)), Err(Breach::Room));
    // Nothing of it counts as received.
    assert_eq!(to.words(1), None);
    assert_eq!(to.receive(frame(1, &[], 1)), Err(Breach::Unsent));
    let words = |received, first, outcomes: &[(u64, Outcome)]| Words {
        connection: 1,
        received,
        room: 100,
        first,
        outcomes: outcomes.to_vec(),
    };
    assert_eq!(from.heard(&words(1, 1, &[])), Err(Breach::Unsent));
    from.push(5, 7).unwrap();
    from.frame(10).unwrap();
    assert_eq!(
        from.heard(&words(0, 1, &[(1, Outcome::Done)])),
        Err(Breach::Unsent)
    );
    assert_eq!(from.heard(&words(1, 2, &[])), Err(Breach::Gap));
}

#[test]
fn a_frame_of_an_earlier_connection_is_dropped() {
    let (mut from, mut to) = (Outbound::new(100), Inbound::new(100));
    connect(&mut from, &mut to, 1);
    from.push(5, 7).unwrap();
    let late = from.frame(10).unwrap();
    from.disconnected();
    connect(&mut from, &mut to, 2);
    let again = from.frame(10).unwrap();
    assert_eq!(to.receive(again).unwrap(), [(1, 5, 7)]);
    assert_eq!(to.receive(late).unwrap(), []);
    assert_eq!(from.counts().again, 1);
}

#[test]
fn a_frame_that_comes_twice_is_taken_once() {
    let twice = |planted: Planted| {
        let (mut from, mut to) = (Outbound::new(100), Inbound::new(100));
        to.planted = planted;
        connect(&mut from, &mut to, 1);
        from.push(5, 7).unwrap();
        let frame = from.frame(10).unwrap();
        to.receive(frame.clone()).unwrap().len() + to.receive(frame).unwrap().len()
    };
    assert_eq!(twice(Planted::default()), 1);
    assert_eq!(
        twice(Planted::new(Some(Bug::SkipSeen))),
        2,
        "the check sees it"
    );
}

const REQUEST: u64 = 0;
const REPLY: u64 = 1;

/// Two nodes flood each other with requests, whose replies find the queues full. How many of 1,000
/// stanzas got an outcome.
fn flood(planted: Planted) -> usize {
    let mut out = [Outbound::new(50), Outbound::new(50)];
    let mut inn = [Inbound::new(20), Inbound::new(20)];
    let mut waiting: [VecDeque<(u64, usize, u64)>; 2] = [VecDeque::new(), VecDeque::new()];
    for side in 0..2 {
        let words = inn[1 - side].connected(1);
        out[side].connected(&words).unwrap();
    }
    let (mut said, mut started) = (0, 0);
    for _ in 0..4000 {
        for side in 0..2 {
            let other = 1 - side;
            for out in &mut out {
                while started < 1000 && out.push(10, REQUEST).is_ok() {
                    started += 1;
                }
            }
            if let Some(frame) = out[side].frame(30) {
                waiting[other].extend(inn[other].receive(frame).unwrap());
            }
            while let Some((number, bytes, stanza)) = waiting[other].front().copied() {
                let is_full = stanza == REQUEST && out[other].push(10, REPLY).is_err();
                if is_full && planted.has(Bug::ReaderWaits) {
                    break;
                }
                waiting[other].pop_front();
                inn[other].take(bytes);
                let outcome = if is_full {
                    Outcome::Refused
                } else {
                    Outcome::Done
                };
                inn[other].outcome(number, outcome);
            }
            if let Some(words) = inn[other].words(3) {
                said += out[side].heard(&words).unwrap().len();
            }
        }
    }
    said
}

#[test]
fn two_nodes_that_flood_each_other_never_wait_for_ever() {
    assert!(flood(Planted::default()) >= 1000);
}

#[test]
fn a_reader_that_waits_for_its_own_queue_would_be_found() {
    assert!(flood(Planted::new(Some(Bug::ReaderWaits))) < 1000);
}

#[derive(Debug, Clone)]
enum Act {
    Push(usize),
    Frame { is_lost: bool },
    Words { is_lost: bool },
    Take,
    Break,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1_usize..12).prop_map(Act::Push),
        4 => any::<bool>().prop_map(|is_lost| Act::Frame { is_lost }),
        4 => any::<bool>().prop_map(|is_lost| Act::Words { is_lost }),
        3 => Just(Act::Take),
        2 => Just(Act::Break),
    ]
}

proptest! {
    /// Wherever it breaks: every stanza comes once, in order, and is called done once.
    #[test]
    fn nothing_is_lost_doubled_or_reordered(acts in prop::collection::vec(act(), 0..120)) {
        let (mut from, mut to) = (Outbound::new(60), Inbound::new(30));
        let (mut sent, mut got, mut done) = (0_u64, Vec::new(), Vec::new());
        let (mut taking, mut connection) = (VecDeque::new(), 0);
        let rest = [Act::Break, Act::Frame { is_lost: false }, Act::Take, Act::Take,
            Act::Words { is_lost: false }];
        let rest = rest.iter().cycle().take(1500).cloned();
        for act in acts.into_iter().chain(rest) {
            let mut is_broken = false;
            match act {
                Act::Push(bytes) => {
                    if from.push(bytes, sent).is_ok() {
                        sent += 1;
                    }
                }
                Act::Frame { is_lost } => {
                    if let Some(frame) = from.frame(20) {
                        // What is lost breaks the connection, as with TCP.
                        is_broken = is_lost;
                        if !is_lost {
                            for (number, bytes, stanza) in to.receive(frame).unwrap() {
                                got.push(stanza);
                                taking.push_back((number, bytes));
                            }
                        }
                    }
                }
                Act::Words { is_lost } => {
                    if let Some(words) = to.words(2) {
                        is_broken = is_lost;
                        if !is_lost {
                            done.extend(from.heard(&words).unwrap());
                        }
                    }
                }
                Act::Take => {
                    if let Some((number, bytes)) = taking.pop_front() {
                        to.take(bytes);
                        to.outcome(number, Outcome::Done);
                    }
                }
                Act::Break => is_broken = true,
            }
            if is_broken {
                from.disconnected();
                connection += 1;
                let words = to.connected(connection);
                done.extend(from.connected(&words).unwrap());
            }
        }
        prop_assert_eq!(got, (0..sent).collect::<Vec<_>>());
        let done: Vec<u64> = done.into_iter().map(|(number, _)| number).collect();
        prop_assert_eq!(done, (1..=sent).collect::<Vec<_>>());
    }
}
