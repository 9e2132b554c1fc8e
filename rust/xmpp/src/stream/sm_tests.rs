use super::*;
use crate::stream::framing::Framing;
use proptest::prelude::*;

const NO_LIMITS: QueueLimits = QueueLimits {
    stanzas: 0,
    bytes: 0,
};

fn queue(count: u32) -> AckQueue<u32> {
    let mut queue = AckQueue::new(NO_LIMITS);
    for number in 1..=count {
        queue.push(number, 10).unwrap();
    }
    queue
}

#[test]
fn an_ack_confirms_the_oldest_stanzas_in_order() {
    let mut queue = queue(5);
    assert_eq!(queue.on_ack(2).unwrap().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(queue.on_ack(2).unwrap().count(), 0);
    assert_eq!(queue.iter().copied().collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!((queue.len(), queue.bytes(), queue.sent()), (3, 30, 5));
    assert_eq!(queue.on_ack(5).unwrap().count(), 3);
    assert!(queue.is_empty());
    assert_eq!(queue.bytes(), 0);
}

#[test]
fn an_ack_that_is_not_read_still_confirms() {
    let mut queue = queue(5);
    drop(queue.on_ack(4).unwrap());
    assert_eq!((queue.len(), queue.acked()), (1, 4));
}

#[test]
fn an_ack_of_more_than_was_sent_names_both_counts() {
    // XEP-0198 #errors, example 17.
    let mut queue = queue(8);
    let error = queue.on_ack(10).err().unwrap();
    assert_eq!(error, AckAhead { h: 10, sent: 8 });
    let error = error.stream_error();
    assert_eq!(error.condition, StreamCondition::UndefinedCondition);
    let app = error.app.unwrap();
    assert!(app.is(ns::SM, "handled-count-too-high"));
    assert_eq!(app.attr("h"), Some("10"));
    assert_eq!(app.attr("send-count"), Some("8"));
    assert_eq!(
        error.text.as_deref(),
        Some("You acknowledged 10 stanzas, but I only sent you 8 so far.")
    );
    assert_eq!(queue.len(), 8);
}

#[test]
fn an_older_count_confirms_nothing_and_harms_nothing() {
    let mut queue = queue(5);
    drop(queue.on_ack(4).unwrap());
    assert_eq!(queue.on_ack(1).unwrap().count(), 0);
    assert_eq!((queue.acked(), queue.len()), (4, 1));
}

#[test]
fn counts_wrap_at_two_to_the_thirty_two() {
    let mut queue = AckQueue::starting_at(u32::MAX - 1, NO_LIMITS);
    for number in 0..4 {
        queue.push(number, 1).unwrap();
    }
    assert_eq!(queue.sent(), 2);
    assert_eq!(queue.on_ack(u32::MAX).unwrap().collect::<Vec<_>>(), [0]);
    assert_eq!(queue.on_ack(0).unwrap().collect::<Vec<_>>(), [1]);
    assert!(queue.on_ack(3).is_err());
    assert_eq!(queue.on_ack(2).unwrap().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_full_queue_gives_the_stanza_back() {
    let mut queue = AckQueue::new(QueueLimits {
        stanzas: 2,
        bytes: 0,
    });
    queue.push("a", 1).unwrap();
    queue.push("b", 1).unwrap();
    assert_eq!(queue.push("c", 1), Err(QueueFull("c")));
    assert_eq!(queue.sent(), 2);
    let mut queue = AckQueue::new(QueueLimits {
        stanzas: 0,
        bytes: 100,
    });
    queue.push("large", 200).unwrap();
    assert_eq!(queue.push("next", 1), Err(QueueFull("next")));
    assert_eq!(queue.take().collect::<Vec<_>>(), ["large"]);
    assert_eq!((queue.bytes(), queue.len()), (0, 0));
}

#[test]
fn h_covers_only_the_prefix_without_a_gap() {
    let mut inbound = Inbound::new();
    let seqs: Vec<_> = (0..5).map(|_| inbound.received()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    inbound.handled(2);
    inbound.handled(4);
    assert_eq!((inbound.h(), inbound.is_news()), (0, false));
    inbound.handled(1);
    assert_eq!(
        (inbound.h(), inbound.is_news(), inbound.untold()),
        (2, true, 2)
    );
    assert_eq!(inbound.tell(), 2);
    assert!(!inbound.is_news());
    inbound.handled(3);
    assert_eq!((inbound.h(), inbound.in_hand()), (4, 1));
}

#[test]
fn numbers_out_of_range_change_nothing() {
    let mut inbound = Inbound::new();
    inbound.handled(1);
    inbound.handled(0);
    assert_eq!(inbound.h(), 0);
    let seq = inbound.received();
    inbound.handled(seq);
    inbound.handled(seq);
    assert_eq!(inbound.h(), 1);
}

#[test]
fn a_stanza_is_handled_when_all_that_it_waits_for_is_done() {
    let mut inbound = Inbound::new();
    let seqs: Vec<_> = (0..3).map(|_| inbound.received()).collect();
    assert_eq!(seqs, [1, 2, 3]);
    inbound.expect(1, 2);
    inbound.handled(1);
    inbound.handled(2);
    inbound.handled(1);
    assert_eq!((inbound.h(), inbound.in_hand()), (0, 3));
    inbound.handled(1);
    assert_eq!((inbound.h(), inbound.done()), (2, 2));
    inbound.handled(3);
    assert_eq!((inbound.h(), inbound.count()), (3, 3));
}

#[test]
fn what_is_handled_already_waits_for_nothing_more() {
    let mut inbound = Inbound::new();
    inbound.expect(1, 1);
    inbound.received();
    inbound.received();
    inbound.handled(2);
    inbound.expect(2, 1);
    inbound.handled(1);
    assert_eq!(inbound.h(), 2);
    inbound.expect(2, 1);
    assert_eq!(inbound.in_hand(), 0);
}

#[test]
fn inbound_h_wraps_to_zero() {
    let mut inbound = Inbound::starting_at(u32::MAX);
    let seq = inbound.received();
    inbound.handled(seq);
    assert_eq!(inbound.h(), 0);
    assert!(inbound.is_news());
}

#[test]
fn a_request_follows_a_number_of_stanzas_or_bytes() {
    let mut requests = AckRequests::new(RequestPolicy {
        stanzas: 3,
        bytes: 1000,
    });
    assert!(!requests.on_sent(10));
    assert!(!requests.on_sent(10));
    assert!(requests.on_sent(10));
    assert!(requests.is_open());
    requests.on_ack();
    assert!(requests.on_sent(5000));
}

#[test]
fn only_one_request_is_open_and_the_rest_is_asked_for_when_idle() {
    let mut requests = AckRequests::new(RequestPolicy {
        stanzas: 1,
        bytes: 0,
    });
    assert!(requests.on_sent(1));
    assert!(!requests.on_sent(1));
    assert!(!requests.on_idle());
    requests.on_ack();
    assert!(requests.on_idle());
    requests.on_ack();
    assert!(!requests.on_idle());
    requests.on_resumed(2);
    assert!(requests.on_idle());
}

#[test]
fn the_elements_are_those_of_the_examples() {
    // XEP-0198 #enable examples 3, 4 and 11.
    let mut enabled = SmEnabled {
        id: Some("some-long-sm-id".into()),
        max: Some(600),
        resume: true,
        location: Some("[2001:41D0:1:A49b::1]:9222".into()),
    };
    let element = enabled.element();
    assert!(element.is(ns::SM, "enabled"));
    assert_eq!(element.attr("id"), Some("some-long-sm-id"));
    assert_eq!(element.attr("resume"), Some("true"));
    assert_eq!(element.attr("max"), Some("600"));
    assert_eq!(element.attr("location"), Some("[2001:41D0:1:A49b::1]:9222"));
    enabled.resume = false;
    assert_eq!(enabled.element().attr("resume"), None);
    // Example 14.
    let failed = SmFailed {
        condition: StanzaCondition::ItemNotFound,
        h: Some(7),
    };
    let failed = failed.element();
    assert_eq!(failed.attr("h"), Some("7"));
    assert!(failed.child(ns::STANZA_ERRORS, "item-not-found").is_some());
    let mut out = Outgoing::new(Framing::Tcp);
    write_ack(2, &mut out);
    write_request(&mut out);
    assert_eq!(
        out.bytes,
        b"<a xmlns='urn:xmpp:sm:3' h='2'/><r xmlns='urn:xmpp:sm:3'/>"
    );
}

proptest! {
    #[test]
    fn any_order_of_handling_ends_with_everything_handled(order in Just((1..=200u64).collect::<Vec<_>>()).prop_shuffle()) {
        let mut inbound = Inbound::new();
        for _ in 0..200 { inbound.received(); }
        let mut done = [false; 200];
        for seq in order {
            inbound.handled(seq);
            done[seq as usize - 1] = true;
            let prefix = done.iter().take_while(|d| **d).count();
            prop_assert_eq!(inbound.h() as usize, prefix);
        }
        prop_assert_eq!(inbound.in_hand(), 0);
    }

    #[test]
    fn h_is_the_prefix_of_which_every_part_is_done(
        parts in prop::collection::vec(0u32..4, 1..100),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 500),
    ) {
        let mut inbound = Inbound::new();
        let mut left: Vec<u32> = Vec::new();
        for part in &parts {
            let seq = inbound.received();
            if *part > 0 { inbound.expect(seq, *part); }
            left.push(part + 1);
        }
        for pick in picks {
            let at = pick.index(left.len());
            if left[at] == 0 { continue; }
            inbound.handled(at as u64 + 1);
            left[at] -= 1;
            let prefix = left.iter().take_while(|n| **n == 0).count();
            prop_assert_eq!(inbound.h() as usize, prefix);
        }
    }

    #[test]
    fn no_ack_panics_or_loses_count(acked in any::<u32>(), count in 0usize..50, acks in prop::collection::vec(any::<u32>(), 0..20)) {
        let mut queue = AckQueue::starting_at(acked, NO_LIMITS);
        for n in 0..count { queue.push(n, 3).unwrap(); }
        let sent = queue.sent();
        let mut left = count;
        for h in acks.into_iter().chain((0..60).map(|n| acked.wrapping_add(n))) {
            if let Ok(confirmed) = queue.on_ack(h) { left -= confirmed.count(); }
            prop_assert_eq!(queue.len(), left);
            prop_assert_eq!(queue.bytes(), left * 3);
            prop_assert_eq!(queue.sent(), sent);
        }
        prop_assert_eq!(left, 0);
    }
}

#[test]
fn what_was_sent_before_a_session_was_taken_over_is_confirmed_as_if_it_never_had_been() {
    let limits = QueueLimits {
        stanzas: 2,
        bytes: 0,
    };
    let mut queue = AckQueue::starting_at(u32::MAX, limits);
    for number in 1..=3 {
        queue.restore(number, 10);
    }
    assert_eq!((queue.sent(), queue.len(), queue.bytes()), (2, 3, 30));
    assert_eq!(queue.push(4, 10), Err(QueueFull(4)));
    assert_eq!(queue.on_ack(1).unwrap().collect::<Vec<_>>(), [1, 2]);
    queue.push(4, 10).unwrap();
}
