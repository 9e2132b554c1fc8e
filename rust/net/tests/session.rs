//! A session and the connections that carry it, one after another.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use antiphon_net::gate::Gate;
use antiphon_net::session::{FIRST_GENERATION, QueueLimits, Session, UNSAVED_BYTES, Undelivered};
use antiphon_routing::SessionId;
use antiphon_xmpp::stanza::{Stanza, StanzaKind};
use antiphon_xmpp::stream::framing::{Framing, Outgoing};
use antiphon_xmpp::stream::{StreamCondition, sm};
use antiphon_xmpp::{Element, Jid};
use std::sync::Arc;
use std::task::Waker;

fn session(outgoing_bytes: usize, unacked: usize) -> Session {
    let limits = QueueLimits {
        outgoing_bytes,
        unacked: sm::QueueLimits {
            stanzas: unacked,
            bytes: 1_000_000,
        },
        held_stanzas: 3,
    };
    let id = SessionId { node: 0, number: 1 };
    Session::new(id, Jid::parse("a@b/c").unwrap(), Framing::Tcp, limits)
}

fn with_sm(outgoing_bytes: usize, unacked: usize) -> Session {
    let session = session(outgoing_bytes, unacked);
    session.enable_sm(Outgoing::new(Framing::Tcp));
    session
}

fn message(id: &str) -> Stanza {
    Stanza::new(StanzaKind::Message)
        .with_id(id)
        .with_child(&Element::new("jabber:client", "body").with_text("text"))
}

fn presence(from: &str) -> Stanza {
    Stanza::new(StanzaKind::Presence)
        .from(Jid::parse(from).unwrap())
        .with_id(from)
}

fn ids(sent: &[antiphon_net::session::Sent]) -> Vec<String> {
    sent.iter()
        .map(|s| s.stanza.id.as_deref().unwrap_or("").to_owned())
        .collect()
}

fn written(session: &Session, generation: u64) -> String {
    String::from_utf8(session.take(generation, Waker::noop()).out.bytes).unwrap()
}

#[test]
fn what_was_never_confirmed_comes_back_in_order_before_what_found_the_queue_full() {
    let session = with_sm(1_000_000, 3);
    for id in ["1", "2", "3"] {
        session.deliver(message(id), None, 0).unwrap();
    }
    let Err(Undelivered::Overflow(refused, before)) = session.deliver(message("4"), None, 0) else {
        panic!("there is no room");
    };
    assert_eq!(refused.id.as_deref(), Some("4"));
    assert_eq!(ids(&before), ["1", "2", "3"]);
    let taken = session.take(FIRST_GENERATION, Waker::noop());
    assert_eq!(
        taken.close.unwrap().condition,
        StreamCondition::ResourceConstraint
    );
    assert!(
        !String::from_utf8(taken.out.bytes)
            .unwrap()
            .contains("id='4'")
    );
    assert!(matches!(
        session.deliver(message("5"), None, 0),
        Err(Undelivered::Closed(_))
    ));
    assert!(session.finish(0).is_empty());
}

#[test]
fn what_the_connection_has_not_written_counts() {
    let session = session(1_000, 0);
    session.deliver(message("1"), None, 0).unwrap();
    session.set_unsent(2_000);
    assert!(session.is_behind());
    let refused = session.deliver(message("2"), None, 0);
    assert!(matches!(refused, Err(Undelivered::Overflow(..))));
}

#[test]
fn answers_that_nobody_reads_end_the_session() {
    let session = with_sm(200, 100);
    for _ in 0..1_000 {
        session.answer_ack_request();
    }
    let taken = session.take(FIRST_GENERATION, Waker::noop());
    assert!(taken.out.len() < 400);
    assert_eq!(
        taken.close.unwrap().condition,
        StreamCondition::ResourceConstraint
    );
}

#[test]
fn a_connection_that_cannot_write_takes_nothing_but_sees_the_end() {
    let session = session(1_000, 0);
    session.deliver(message("1"), None, 0).unwrap();
    session.close(StreamCondition::NotAuthorized.into());
    let looked = session.look(FIRST_GENERATION, Waker::noop());
    assert!(looked.out.is_empty());
    assert_eq!(
        looked.close.unwrap().condition,
        StreamCondition::NotAuthorized
    );
    assert!(written(&session, FIRST_GENERATION).contains("id='1'"));
    assert!(
        session
            .look(FIRST_GENERATION + 1, Waker::noop())
            .is_replaced
    );
}

#[test]
fn held_back_stanzas_that_find_the_queue_full_are_not_lost() {
    let session = with_sm(1_000_000, 2);
    session.set_active(false, 0);
    for from in ["x@y/1", "x@y/2", "x@y/3"] {
        session.deliver(presence(from), None, 0).unwrap();
    }
    // The message takes them along; two fit.
    let Err(Undelivered::Overflow(refused, before)) = session.deliver(message("m"), None, 0) else {
        panic!("there is no room");
    };
    assert_eq!(refused.id.as_deref(), Some("m"));
    assert_eq!(ids(&before), ["x@y/1", "x@y/2", "x@y/3"]);
}

#[test]
fn a_record_is_confirmed_with_its_own_stanza_and_not_with_those_it_took_along() {
    let session = with_sm(1_000_000, 10);
    session.set_active(false, 0);
    session.deliver(presence("x@y/1"), None, 0).unwrap();
    session.deliver(message("m"), Some(77), 0).unwrap();
    assert_eq!(session.acked(1).unwrap(), []);
    assert_eq!(session.acked(2).unwrap(), [77]);
}

#[test]
fn a_connection_that_was_replaced_neither_leaves_nor_counts() {
    let session = with_sm(1_000, 10);
    session.deliver(message("1"), None, 0).unwrap();
    assert_eq!(session.received_by(FIRST_GENERATION), Some(1));
    let claim = session.detach(0).unwrap();
    assert!(session.is_claimed(claim));
    assert_eq!(session.received_by(FIRST_GENERATION), None);
    assert!(!session.leave(FIRST_GENERATION, 0));
    let now = session.attach(Framing::Tcp, Outgoing::new(Framing::Tcp));
    assert!(!session.is_claimed(claim));
    assert!(written(&session, now).contains("id='1'"));
    assert!(session.is_attached());
    assert!(session.leave(now, 0));
    assert!(!session.is_attached());
    assert_eq!(ids(&session.finish(0)), ["1"]);
    assert!(session.detach(0).is_none());
}

#[test]
fn of_two_that_take_the_session_the_later_has_it() {
    let session = with_sm(1_000, 10);
    let first = session.detach(0).unwrap();
    let second = session.detach(0).unwrap();
    assert!(!session.is_claimed(first));
    assert!(session.is_claimed(second));
}

#[test]
fn there_is_room_until_half_of_what_may_wait_does() {
    let session = with_sm(1_000, 8);
    assert_eq!(session.room(), Some((2, 250)));
    for id in ["1", "2", "3", "4", "5"] {
        session.deliver(message(id), None, 0).unwrap();
        written(&session, FIRST_GENERATION);
    }
    assert_eq!(session.room(), None);
    session.acked(5).unwrap();
    assert!(session.room().is_some());
    session.set_unsent(600);
    assert_eq!(session.room(), None);
}

#[test]
fn what_waits_for_a_commit_keeps_all_that_comes_later_behind_it() {
    let session = Arc::new(session(1_000_000, 100));
    let (first, second) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    assert!(
        session
            .deliver_behind(&first, message("1"), None, 0)
            .unwrap()
    );
    session.deliver(message("2"), None, 0).unwrap();
    assert!(
        session
            .deliver_behind(&second, message("3"), None, 0)
            .unwrap()
    );
    session.deliver(message("4"), None, 0).unwrap();
    assert_eq!(written(&session, FIRST_GENERATION), "");

    // Opened in the wrong order: nothing overtakes.
    assert_eq!(second.open().len(), 1);
    assert_eq!(session.let_pass(false), 0);
    for waiting in first.open() {
        assert_eq!(waiting.let_pass(false), 4);
    }
    let text = written(&session, FIRST_GENERATION);
    let at: Vec<_> = ["'1'", "'2'", "'3'", "'4'"]
        .iter()
        .map(|id| text.find(id).unwrap())
        .collect();
    assert!(at.is_sorted());
    assert!(
        !session
            .deliver_behind(&first, message("5"), None, 0)
            .unwrap()
    );
}

#[test]
fn a_slow_store_lets_everything_pass_at_once() {
    let session = Arc::new(session(1_000_000, 100));
    let gate = Arc::new(Gate::default());
    session
        .deliver_behind(&gate, message("1"), None, 0)
        .unwrap();
    session.deliver(message("2"), None, 0).unwrap();
    assert_eq!(session.let_pass(true), 2);
    assert!(written(&session, FIRST_GENERATION).contains("'2'"));
    assert!(!gate.is_open());
}

#[test]
fn what_still_waits_for_a_commit_comes_back_when_the_session_ends() {
    let session = Arc::new(with_sm(1_000_000, 100));
    let gate = Arc::new(Gate::default());
    session.deliver(message("1"), None, 0).unwrap();
    session
        .deliver_behind(&gate, message("2"), None, 0)
        .unwrap();
    session.detach(0).unwrap();
    session.deliver(message("3"), None, 0).unwrap();
    assert_eq!(ids(&session.finish(0)), ["1", "2", "3"]);
    assert_eq!(session.let_pass(true), 0);
}

#[test]
fn too_much_that_waits_for_a_commit_ends_the_session() {
    let session = Arc::new(session(2_000, 100));
    let gate = Arc::new(Gate::default());
    let mut count = 0;
    let refused = loop {
        match session.deliver_behind(&gate, message("x"), None, 0) {
            Ok(_) => count += 1,
            Err(Undelivered::Overflow(_, before)) => break before,
            Err(Undelivered::Closed(_)) => panic!("closed"),
        }
    };
    assert!(count > 1);
    assert_eq!(refused.len(), count);
    assert!(session.is_closed());
}

#[test]
fn an_acknowledgement_that_is_owed_comes_when_all_asked_for_is_saved() {
    let session = with_sm(1_000_000, 100);
    session.take(FIRST_GENERATION, Waker::noop());
    let (one, two) = (session.received(), session.received());
    session.expect(one, 2);
    session.handled(one);
    session.handled(two);
    session.answer_ack_request();
    assert!(written(&session, FIRST_GENERATION).contains("h='0'"));
    // What comes after the question does not delay its answer.
    let three = session.received();
    session.handled(one);
    assert_eq!(written(&session, FIRST_GENERATION), "");
    session.handled(one);
    assert!(written(&session, FIRST_GENERATION).contains("h='2'"));
    session.handled(three);
    assert_eq!(written(&session, FIRST_GENERATION), "");
}

#[test]
fn nothing_more_is_read_while_too_much_waits_to_be_saved() {
    let session = session(1_000_000, 100);
    session.saving(UNSAVED_BYTES);
    assert!(!session.is_saving());
    session.saving(1);
    assert!(session.is_saving());
    session.saved(1);
    assert!(!session.is_saving());
    session.pause(true);
    assert!(session.is_saving());
    session.pause(false);
    assert!(!session.is_saving());
}

#[test]
fn what_overflows_when_gates_open_comes_back_in_order() {
    for has_sm in [true, false] {
        let session = Arc::new(if has_sm {
            with_sm(1_000_000, 3)
        } else {
            session(3 * message("1").size() / 2, 1000)
        });
        let gate = Arc::new(Gate::default());
        for id in ["1", "2", "3", "4", "5", "6", "7"] {
            // Without stream management the bytes are the bound, of what waits as of the rest.
            let _ = session.deliver_behind(&gate, message(id), None, 0);
        }
        gate.open();
        session.let_pass(false);
        let back = ids(&session.take_unconfirmed());
        let mut sorted = back.clone();
        sorted.sort();
        assert_eq!(back, sorted, "with stream management: {has_sm}");
    }
}

fn arriving(number: u64) -> Arc<Session> {
    let of = session(1_000_000, 100);
    let limits = QueueLimits {
        outgoing_bytes: 1_000_000,
        unacked: sm::QueueLimits {
            stanzas: 3,
            bytes: 1_000_000,
        },
        held_stanzas: 3,
    };
    let id = SessionId { node: 2, number };
    Arc::new(Session::arriving(id, of.jid.clone(), limits))
}

#[test]
fn a_session_goes_on_elsewhere_with_what_was_not_confirmed_before_what_came_meanwhile() {
    let session = with_sm(1_000_000, 100);
    for (id, offline) in [("1", None), ("2", Some(7)), ("3", None), ("4", None)] {
        session.deliver(message(id), offline, 5).unwrap();
    }
    let seq = session.received();
    session.handled(seq);
    assert_eq!(session.acked(1).unwrap(), []);
    let carried = session.hand_over(None).unwrap();
    let taken = session.take(FIRST_GENERATION, Waker::noop());
    assert!(taken.is_replaced && taken.out.is_empty());
    assert_eq!((carried.handled, carried.acked), (1, 1));
    assert_eq!(ids(&carried.sent), ["2", "3", "4"]);
    assert!(session.is_closed() && session.hand_over(None).is_none());
    let new = arriving(9);
    assert!(new.is_arriving() && new.detach(0).is_none());
    new.deliver(message("5"), None, 6).unwrap();
    assert_eq!(new.let_pass(true), 0);
    // However many there are: they were within the limits where they come from.
    new.take_up(carried).unwrap();
    assert_eq!(new.inbound(), Some((1, true)));
    let generation = new.detach(0).unwrap();
    assert!(new.is_claimed(generation));
    assert_eq!(new.acked(2).unwrap(), [7]);
    assert_eq!(new.let_pass(false), 1);
    let generation = new.attach(Framing::Tcp, Outgoing::new(Framing::Tcp));
    let text = written(&new, generation);
    let places = ["id='3'", "id='4'", "id='5'"].map(|id| text.find(id).unwrap());
    assert!(places.is_sorted() && !text.contains("id='2'"), "{text}");
    assert_eq!(new.received(), 2);
}

#[test]
fn what_arrives_at_a_session_that_is_over_comes_back() {
    let session = with_sm(1_000_000, 100);
    session.deliver(message("1"), None, 0).unwrap();
    session.detach(0).unwrap();
    let carried = session.hand_over(None).unwrap();
    let new = arriving(9);
    new.deliver(message("2"), None, 0).unwrap();
    assert_eq!(ids(&new.finish(0)), ["2"]);
    let carried = new.take_up(carried).err().unwrap();
    assert_eq!(ids(&carried.sent), ["1"]);
}

#[test]
fn the_connection_of_a_session_that_is_given_away_is_told_that_the_node_goes_down() {
    let session = with_sm(1_000_000, 100);
    session.detach_leaving(0).unwrap();
    let taken = session.take(FIRST_GENERATION, Waker::noop());
    assert!(taken.is_replaced);
    let shutdown = taken.close.map(|error| error.condition);
    assert_eq!(shutdown, Some(StreamCondition::SystemShutdown));
    session.attach(Framing::Tcp, Outgoing::new(Framing::Tcp));
    let generation = session.attach(Framing::Tcp, Outgoing::new(Framing::Tcp));
    let taken = session.take(generation - 1, Waker::noop());
    assert!(taken.is_replaced && taken.close.is_none());
}

#[test]
fn what_waits_for_a_commit_waits_on_in_the_successor() {
    let old = Arc::new(session(1_000_000, 100));
    let gate = Arc::new(Gate::default());
    old.deliver(message("1"), None, 0).unwrap();
    old.deliver_behind(&gate, message("2"), None, 0).unwrap();
    old.deliver(message("3"), None, 0).unwrap();
    let id = SessionId { node: 0, number: 2 };
    let limits = QueueLimits {
        outgoing_bytes: 1_000_000,
        unacked: sm::QueueLimits {
            stanzas: 9,
            bytes: 1_000_000,
        },
        held_stanzas: 3,
    };
    let new = Session::new(id, old.jid.clone(), Framing::Tcp, limits);
    let new = Arc::new(new);
    new.inherit(&old);
    let (out, rest) = old.retire(Some(&new));
    let text = String::from_utf8(out.bytes).unwrap();
    assert!(text.contains("id='1'") && !text.contains("id='2'"));
    assert!(rest.is_empty() && !old.is_gated());
    // An answer that somebody owes the old one.
    old.deliver(message("4"), None, 0).unwrap();
    assert_eq!(written(&new, FIRST_GENERATION), "");
    for session in gate.open() {
        session.let_pass(false);
    }
    let text = written(&new, FIRST_GENERATION);
    let places = ["id='2'", "id='3'", "id='4'"].map(|id| text.find(id).unwrap());
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn a_session_that_ends_here_gives_all_that_it_has_at_once() {
    let session = Arc::new(session(1_000_000, 100));
    let gate = Arc::new(Gate::default());
    session.deliver(message("1"), None, 0).unwrap();
    let behind = session.deliver_behind(&gate, message("2"), Some(7), 0);
    assert!(matches!(behind, Ok(true)));
    let (out, rest) = session.retire(None);
    let text = String::from_utf8(out.bytes).unwrap();
    assert!(text.contains("id='1'") && !text.contains("id='2'"));
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].stanza.id.as_deref(), Some("2"));
    assert_eq!(rest[0].offline, Some(7));
    // It goes one way only.
    for session in gate.open() {
        assert_eq!(session.let_pass(false), 0);
    }
    assert!(session.deliver(message("3"), None, 0).is_err());
}
