//! RFC 6121 §3 and Appendix A, every row.

use crate::support::*;
use antiphon_routing::store::{Request, UserRecord, Write};

const ROMEO: &str = "romeo@montague.example";
const STATES: [&str; 9] = [
    "none",
    "none+po",
    "none+pi",
    "none+po+pi",
    "to",
    "to+pi",
    "from",
    "from+po",
    "both",
];
const VERBS: [&str; 4] = ["subscribe", "unsubscribe", "subscribed", "unsubscribed"];

/// Appendix A.2: `route` or `-`, and the state behind it. Pre-approvals have tests of their own.
const OUTBOUND: [[&str; 4]; 9] = [
    ["route none+po", "route none", "- none", "- none"],
    ["route none+po", "route none", "- none+po", "- none+po"],
    [
        "route none+po+pi",
        "route none+pi",
        "route from",
        "route none",
    ],
    [
        "route none+po+pi",
        "route none+pi",
        "route from+po",
        "route none+po",
    ],
    ["route to", "route none", "- to", "- to"],
    ["route to+pi", "route none+pi", "route both", "route to"],
    ["route from+po", "route from", "- from", "route none"],
    ["route from+po", "route from", "- from+po", "route none+po"],
    ["route both", "route from", "- both", "route to"],
];

/// Appendix A.3: `deliver`, `-` or `reply`, and the state behind it.
const INBOUND: [[&str; 4]; 9] = [
    ["deliver none+pi", "- none", "- none", "- none"],
    [
        "deliver none+po+pi",
        "- none+po",
        "deliver to",
        "deliver none",
    ],
    ["- none+pi", "deliver none", "- none+pi", "- none+pi"],
    [
        "- none+po+pi",
        "deliver none+po",
        "deliver to+pi",
        "deliver none+pi",
    ],
    ["deliver to+pi", "- to", "- to", "deliver none"],
    ["- to+pi", "deliver to", "- to+pi", "deliver none+pi"],
    ["reply from", "deliver none", "- from", "- from"],
    [
        "reply from+po",
        "deliver none+po",
        "deliver both",
        "deliver from",
    ],
    ["reply both", "deliver to", "- both", "deliver from"],
];

fn record_in(state: &str) -> UserRecord {
    let visible = state.strip_suffix("+pi").unwrap_or(state);
    let mut record = record(&[(ROMEO, visible)]);
    if state.ends_with("+pi") {
        let stanza = presence(ROMEO, ME, "subscribe").to_bytes().into();
        record.requests.push(Request {
            from: jid(ROMEO),
            stanza,
        });
    }
    record
}

/// The contact's state, from the roster and from what a new session is asked.
fn state(world: &mut World) -> String {
    let s = world
        .roster_item(ROMEO)
        .map(|i| i.subscription)
        .unwrap_or_default();
    let mut state = match (s.to, s.from) {
        (false, false) => "none",
        (true, false) => "to",
        (false, true) => "from",
        (true, true) => "both",
    }
    .to_owned();
    if s.pending_out {
        state += "+po";
    }
    let asked = {
        world.bind(77);
        let out = world.available(77, 0);
        world.unbind(77);
        out.to(77).iter().any(|s| s.type_str() == "subscribe")
    };
    if asked {
        state += "+pi";
    }
    state
}

/// Session 1 is available and interested, session 2 only interested, session 3 only available.
fn world_in(state: &str) -> World {
    let mut world = World::with_sessions(record_in(state), &[Some(0), None, Some(-1)]);
    world.interested(1);
    world.interested(2);
    world
}

#[test]
fn outbound_stanzas_follow_every_row_of_the_table() {
    for (row, before) in OUTBOUND.iter().zip(STATES) {
        for (expected, verb) in row.iter().zip(VERBS) {
            let mut world = world_in(before);
            let visible_before = world.roster_item(ROMEO).unwrap().subscription;
            let out = world.send(
                1,
                &format!("<presence to='{ROMEO}/orchard' type='{verb}'/>"),
            );
            let case = format!("{before}: {verb}");
            let (what, after) = expected.split_once(' ').unwrap();
            let line = format!("{verb} {ME} > {ROMEO}");
            let passed = out.routed().iter().filter(|r| **r == line).count();
            assert_eq!(passed, usize::from(what == "route"), "{case}");
            assert_eq!(state(&mut world), after, "{case}");
            // A change that the roster shows is written and pushed to all interested sessions.
            let visible = world.roster_item(ROMEO).unwrap().subscription;
            let has_changed = visible != visible_before;
            let puts = out
                .writes
                .iter()
                .filter(|w| matches!(w, Write::RosterPut { .. }))
                .count();
            assert_eq!(puts, usize::from(has_changed), "{case}: {:?}", out.writes);
            let pushed = if has_changed { vec![1, 2] } else { vec![] };
            assert_eq!(out.sessions(), pushed, "{case}");
            let forgotten = before.ends_with("+pi") && !after.ends_with("+pi");
            let deletes = |w: &Write| matches!(w, Write::RequestDelete { .. });
            assert_eq!(out.writes.iter().any(deletes), forgotten, "{case}");
        }
    }
}

#[test]
fn inbound_stanzas_follow_every_row_of_the_table() {
    for (row, before) in INBOUND.iter().zip(STATES) {
        for (expected, verb) in row.iter().zip(VERBS) {
            let mut world = world_in(before);
            let visible_before = world.roster_item(ROMEO).unwrap().subscription;
            let out = world.receive(presence(&format!("{ROMEO}/orchard"), ME, verb));
            let case = format!("{before}: {verb}");
            let (what, after) = expected.split_once(' ').unwrap();
            let notices: Vec<_> = out
                .delivered
                .iter()
                .filter(|(_, s)| s.type_str() == verb)
                .collect();
            let line = format!("{verb} {ROMEO} > {ME}");
            assert!(
                notices.iter().all(|(_, s)| crate::support::line(s) == line),
                "{case}"
            );
            let told: Vec<u64> = notices.iter().map(|(session, _)| *session).collect();
            let expected_told = match (what, verb) {
                // RFC 6121 §3.1.3: a request for all that are available, the rest for all that
                // follow the roster.
                ("deliver", "subscribe") => vec![1, 3],
                ("deliver", _) => vec![1, 2],
                _ => vec![],
            };
            assert_eq!(told, expected_told, "{case}");
            let reply = format!("subscribed {ME} > {ROMEO}");
            assert_eq!(out.routed().contains(&reply), what == "reply", "{case}");
            let is_kept = out
                .writes
                .iter()
                .any(|w| matches!(w, Write::RequestPut { .. }));
            assert_eq!(is_kept, what == "deliver" && verb == "subscribe", "{case}");
            assert_eq!(state(&mut world), after, "{case}");
            let has_changed = world.roster_item(ROMEO).unwrap().subscription != visible_before;
            let pushes = out
                .delivered
                .iter()
                .filter(|(_, s)| s.type_str() == "set")
                .count();
            assert_eq!(pushes, if has_changed { 2 } else { 0 }, "{case}");
            if has_changed {
                // RFC 6121 §3.1.6: the notice first.
                assert_eq!(out.delivered[0].1.type_str(), verb, "{case}");
            }
        }
    }
}

#[test]
fn a_request_makes_an_item_that_is_pushed_and_stamped_with_the_bare_jid() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    world.interested(1);
    let out = world.send(
        1,
        &format!("<presence to='{ROMEO}/x' type='subscribe' id='s'/>"),
    );
    assert_eq!(out.routed(), [format!("subscribe {ME} > {ROMEO}")]);
    let push = out.to(1)[0].child("jabber:iq:roster", "query").unwrap();
    assert_eq!(push.attr("ver"), Some("8"));
    let item = push.elements().next().unwrap();
    assert_eq!(item.attr("jid"), Some(ROMEO));
    assert_eq!(item.attr("subscription"), Some("none"));
    assert_eq!(item.attr("ask"), Some("subscribe"));
}

#[test]
fn an_approval_shows_the_contact_every_available_session() {
    let mut world = world_in("none+pi");
    let out = world.send(2, &format!("<presence to='{ROMEO}' type='subscribed'/>"));
    assert_eq!(
        out.routed(),
        [
            format!("subscribed {ME} > {ROMEO}"),
            format!("- {ME}/r1 > {ROMEO}"),
            format!("- {ME}/r3 > {ROMEO}"),
        ]
    );
}

#[test]
fn a_cancelled_subscription_hides_every_session_before_the_notice() {
    let mut world = world_in("both");
    let out = world.send(1, &format!("<presence to='{ROMEO}' type='unsubscribed'/>"));
    let gone = ["r1", "r3"].map(|r| format!("unavailable {ME}/{r} > {ROMEO}"));
    let notice = format!("unsubscribed {ME} > {ROMEO}");
    assert_eq!(out.routed(), [gone[0].clone(), gone[1].clone(), notice]);

    let mut world = world_in("both");
    let out = world.receive(presence(ROMEO, ME, "unsubscribe"));
    assert_eq!(out.routed(), gone);
}

#[test]
fn a_contact_that_asks_again_gets_the_answer_and_the_presence() {
    let mut world = world_in("from");
    let out = world.receive(presence(ROMEO, ME, "subscribe"));
    assert_eq!(
        out.routed(),
        [
            format!("subscribed {ME} > {ROMEO}"),
            format!("- {ME}/r1 > {ROMEO}"),
            format!("- {ME}/r3 > {ROMEO}"),
        ]
    );
    assert!(out.delivered.is_empty() && out.writes.is_empty());
}

#[test]
fn a_pre_approved_request_is_answered_and_only_the_push_tells() {
    for (before, after) in [("none", "from"), ("none+po", "from+po"), ("to", "both")] {
        let mut world = world_in(before);
        let out = world.send(1, &format!("<presence to='{ROMEO}' type='subscribed'/>"));
        assert!(out.routes.is_empty(), "RFC 6121 §3.4.2: not routed");
        assert!(world.roster_item(ROMEO).unwrap().subscription.approved);
        assert_eq!(out.sessions(), [1, 2]);
        let out = world.receive(presence(ROMEO, ME, "subscribe"));
        assert_eq!(out.routed()[0], format!("subscribed {ME} > {ROMEO}"));
        assert_eq!(out.routes.len(), 3);
        assert!(out.delivered.iter().all(|(_, s)| s.type_str() == "set"));
        assert_eq!(state(&mut world), after);
    }
}

#[test]
fn a_pre_approval_makes_an_item_and_unsubscribed_takes_it_back() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    world.send(1, &format!("<presence to='{ROMEO}' type='subscribed'/>"));
    assert!(world.roster_item(ROMEO).unwrap().subscription.approved);
    let again = world.send(1, &format!("<presence to='{ROMEO}' type='subscribed'/>"));
    assert!(again.is_empty());
    let out = world.send(1, &format!("<presence to='{ROMEO}' type='unsubscribed'/>"));
    assert!(out.routes.is_empty());
    assert!(!world.roster_item(ROMEO).unwrap().subscription.approved);
    let out = world.receive(presence(ROMEO, ME, "subscribe"));
    assert_eq!(out.sessions(), [1]);
}

#[test]
fn who_is_subscribed_already_needs_no_pre_approval() {
    for before in ["from", "from+po", "both"] {
        let mut world = world_in(before);
        let out = world.send(1, &format!("<presence to='{ROMEO}' type='subscribed'/>"));
        assert!(out.is_empty(), "{before}");
    }
}

#[test]
fn a_request_comes_again_with_its_payload_at_every_initial_presence_until_answered() {
    let mut world = World::with_sessions(record(&[]), &[]);
    let request = stanza(&format!(
        "<presence from='{ROMEO}' to='{ME}' type='subscribe'><status>It is I</status></presence>"
    ));
    assert!(world.receive(request.clone()).delivered.is_empty());
    for number in [1, 2] {
        world.bind(number);
        let out = world.available(number, -5);
        let asked = out.to(number)[1..].to_vec();
        let asked: Vec<_> = asked
            .into_iter()
            .filter(|s| s.type_str() == "subscribe")
            .collect();
        assert_eq!(asked.len(), 1);
        assert_eq!(
            asked[0].child("jabber:client", "status").unwrap().text(),
            "It is I"
        );
        let later = world.available(number, 3);
        assert!(!later.to(number).iter().any(|s| s.type_str() == "subscribe"));
    }
    world.send(2, &format!("<presence to='{ROMEO}' type='unsubscribed'/>"));
    world.bind(3);
    assert!(
        !world
            .available(3, 0)
            .to(3)
            .iter()
            .any(|s| s.type_str() == "subscribe")
    );
}

#[test]
fn requests_beyond_the_limit_are_dropped_in_silence() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    world.policy.subscription_requests = 2;
    for (n, taken) in [(1, true), (2, true), (3, false)] {
        let out = world.receive(presence(&format!("u{n}@x.example"), ME, "subscribe"));
        assert_eq!(!out.is_empty(), taken);
        assert!(out.routes.is_empty());
    }
}

#[test]
fn a_large_request_is_kept_without_its_payload() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    let status = "x".repeat(5000);
    let out = world.receive(stanza(&format!(
        "<presence from='{ROMEO}' to='{ME}' type='subscribe'><status>{status}</status></presence>"
    )));
    assert!(out.to(1)[0].has("jabber:client", "status"));
    let Write::RequestPut { request, .. } = &out.writes[0] else {
        panic!()
    };
    assert!(request.stanza.len() < 200);
}

#[test]
fn only_a_request_may_name_a_resource_that_is_not_there() {
    for (verb, before) in [
        ("subscribe", "none"),
        ("unsubscribed", "to"),
        ("unsubscribe", "from"),
    ] {
        let mut world = world_in(before);
        let out = world.receive(presence(ROMEO, &format!("{ME}/gone"), verb));
        assert_eq!(!out.is_empty(), verb == "subscribe", "{verb}");
        let out = world.receive(presence(ROMEO, &format!("{ME}/r1"), verb));
        assert_eq!(out.is_empty(), verb == "subscribe", "{verb}");
    }
}

#[test]
fn a_full_roster_refuses_a_new_contact_by_presence() {
    let mut world = world_in("both");
    world.policy.roster_items = 1;
    for verb in ["subscribe", "subscribed"] {
        let out = world.send(1, &format!("<presence to='new@x.example' type='{verb}'/>"));
        assert_eq!(condition(out.to(1)[0]), "resource-constraint");
        assert!(out.routes.is_empty() && out.writes.is_empty());
    }
    let out = world.send(1, &format!("<presence to='{ROMEO}' type='subscribe'/>"));
    assert_eq!(out.routes.len(), 1);
}

#[test]
fn one_does_not_subscribe_to_oneself() {
    let mut world = world_in("none");
    for verb in VERBS {
        assert!(
            world
                .send(1, &format!("<presence to='{ME}' type='{verb}'/>"))
                .is_empty()
        );
        assert!(
            world
                .send(1, &format!("<presence type='{verb}'/>"))
                .is_empty()
        );
        assert!(world.receive(presence(ME, ME, verb)).is_empty());
    }
}

#[test]
fn a_missing_account_stays_silent() {
    let mut world = World::missing();
    for verb in VERBS {
        assert!(world.receive(presence(ROMEO, ME, verb)).is_empty());
    }
}
