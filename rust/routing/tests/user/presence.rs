//! RFC 6121 §4: initial and later presence, probes, directed presence, the end of a session.

use crate::support::*;
use antiphon_routing::store::{UserRecord, Write};

fn contacts() -> UserRecord {
    record(&[
        ("both@a.example", "both"),
        ("from@a.example", "from"),
        ("none@a.example", "none+po"),
        ("to@a.example", "to"),
    ])
}

#[test]
fn initial_presence_is_broadcast_and_asks_for_the_contacts() {
    let mut world = World::with_sessions(contacts(), &[Some(3), None]);
    let out = world.send(
        2,
        "<presence><show>away</show><priority>5</priority></presence>",
    );
    assert_eq!(
        out.routed(),
        [
            format!("- {ME}/r2 > both@a.example"),
            format!("- {ME}/r2 > from@a.example"),
            format!("probe {ME}/r2 > both@a.example"),
            format!("probe {ME}/r2 > to@a.example"),
        ]
    );
    let lines: Vec<_> = out.delivered.iter().map(|(n, s)| (*n, line(s))).collect();
    assert_eq!(
        lines,
        [
            (1, format!("- {ME}/r2 > {ME}/r1")),
            (2, format!("- {ME}/r2 > {ME}/r2")),
            (2, format!("- {ME}/r1 > {ME}/r2")),
        ]
    );
    let payloads =
        [&out.routes[0], &out.routes[1], out.to(1)[0]].map(|s| s.payload.content.as_ptr());
    assert!(payloads.iter().all(|p| *p == payloads[0]), "built once");
}

#[test]
fn later_presence_is_broadcast_without_probes() {
    let mut world = World::with_sessions(contacts(), &[Some(3), Some(1)]);
    let out = world.available(2, 7);
    assert_eq!(out.routes.len(), 2);
    assert_eq!(out.sessions(), [1, 2]);
}

#[test]
fn a_priority_is_an_integer_from_minus_128_to_127() {
    for (text, is_good) in [
        ("0", true),
        ("-128", true),
        ("127", true),
        (" 5 ", true),
        ("128", false),
        ("-129", false),
        ("", false),
        ("x", false),
        ("1.5", false),
    ] {
        let mut world = World::with_sessions(contacts(), &[None]);
        let out = world.send(
            1,
            &format!("<presence><priority>{text}</priority></presence>"),
        );
        assert_eq!(out.routes.is_empty(), !is_good, "{text:?}");
        if !is_good {
            assert_eq!(condition(out.to(1)[0]), "bad-request");
            assert_eq!(out.to(1)[0].from.as_ref().unwrap().as_str(), ME);
        }
    }
}

#[test]
fn unavailable_presence_goes_to_the_same_ones_and_to_the_sender() {
    let mut world = World::with_sessions(contacts(), &[Some(3), Some(1)]);
    let out = world.send(
        2,
        "<presence type='unavailable'><status>bye</status></presence>",
    );
    let routed = ["both", "from"].map(|c| format!("unavailable {ME}/r2 > {c}@a.example"));
    assert_eq!(out.routed(), routed);
    assert_eq!(out.sessions(), [1, 2]);
    assert!(out.routes[0].has("jabber:client", "status"));
    assert!(
        world.send(2, "<presence type='unavailable'/>").is_empty(),
        "only once"
    );
    assert!(world.unbind(2).is_empty());
}

#[test]
fn the_end_of_a_session_is_unavailable_presence() {
    let mut world = World::with_sessions(contacts(), &[Some(3), Some(1)]);
    let out = world.unbind(2);
    let routed = ["both", "from"].map(|c| format!("unavailable {ME}/r2 > {c}@a.example"));
    assert_eq!(out.routed(), routed);
    assert_eq!(out.sessions(), [1]);
    assert!(out.writes.is_empty());
    assert!(
        world.unbind(2).is_empty(),
        "an unknown session is no session"
    );
}

#[test]
fn the_last_session_leaves_its_time_and_status() {
    for (last_words, status) in [
        (
            Some("<presence type='unavailable'><status>to bed</status></presence>"),
            "to bed",
        ),
        (Some("<presence type='unavailable'/>"), ""),
        (None, ""),
    ] {
        let record = UserRecord {
            last_status: "old".into(),
            ..contacts()
        };
        let mut world = World::with_sessions(record, &[Some(0)]);
        if let Some(xml) = last_words {
            world.send(1, xml);
        }
        let out = world.unbind(1);
        let seen = out.writes.last().unwrap();
        let Write::LastSeen {
            at_ms,
            status: text,
            ..
        } = seen
        else {
            panic!()
        };
        assert_eq!((*at_ms, text.as_str()), (world.now_ms, status));
        assert!(world.user.is_idle());
    }
}

#[test]
fn a_long_status_is_cut_at_a_character() {
    let mut world = World::with_sessions(contacts(), &[Some(0)]);
    let status = format!("x{}", "é".repeat(1000));
    world.send(
        1,
        &format!("<presence type='unavailable'><status>{status}</status></presence>"),
    );
    let out = world.unbind(1);
    let Write::LastSeen { status: kept, .. } = &out.writes[0] else {
        panic!()
    };
    assert_eq!(kept.len(), 1023);
    assert!(status.starts_with(kept.as_str()));
}

#[test]
fn directed_presence_is_remembered_until_it_is_taken_back() {
    let mut world = World::with_sessions(contacts(), &[Some(0)]);
    let room = "room@chat.example/juliet";
    assert_eq!(
        world
            .send(1, &format!("<presence to='{room}'/>"))
            .routes
            .len(),
        1
    );
    world.send(1, "<presence to='other@x.example'/>");
    world.send(1, "<presence to='other@x.example' type='unavailable'/>");
    let later = world.available(1, 1);
    assert_eq!(later.routes.len(), 2, "broadcasts are for subscribers");
    let out = world.unbind(1);
    let told: Vec<_> = out
        .routed()
        .into_iter()
        .filter(|l| !l.contains("@a.example"))
        .collect();
    assert_eq!(told, [format!("unavailable {ME}/r1 > {room}")]);
}

#[test]
fn directed_presence_of_a_session_that_is_not_available_is_taken_back_too() {
    let mut world = World::with_sessions(contacts(), &[None]);
    world.send(1, "<presence to='room@chat.example/juliet'/>");
    world.send(1, "<presence to='both@a.example'/>");
    let out = world.unbind(1);
    assert_eq!(
        out.routed(),
        [
            format!("unavailable {ME}/r1 > both@a.example"),
            format!("unavailable {ME}/r1 > room@chat.example/juliet"),
        ]
    );
}

#[test]
fn a_subscriber_is_told_once() {
    let mut world = World::with_sessions(record(&[("both@a.example", "both")]), &[None]);
    world.send(1, "<presence to='both@a.example/x'/>");
    world.available(1, 0);
    world.send(1, "<presence to='both@a.example/y'/>");
    assert_eq!(
        world.unbind(1).routed(),
        [format!("unavailable {ME}/r1 > both@a.example")]
    );
}

#[test]
fn too_many_directed_presences_are_refused() {
    let mut world = World::with_sessions(contacts(), &[Some(0)]);
    world.policy.directed_presence = 2;
    world.send(1, "<presence to='a@x.example'/>");
    world.send(1, "<presence to='b@x.example'/>");
    let out = world.send(1, "<presence to='c@x.example'/>");
    assert!(out.routes.is_empty());
    assert_eq!(condition(out.to(1)[0]), "resource-constraint");
    assert_eq!(
        world.send(1, "<presence to='a@x.example'/>").routes.len(),
        1,
        "known already"
    );
    world.send(1, "<presence to='a@x.example' type='unavailable'/>");
    assert_eq!(
        world.send(1, "<presence to='c@x.example'/>").routes.len(),
        1
    );
}

#[test]
fn a_probe_is_answered_with_the_latest_presence_of_every_available_session() {
    let mut world = World::with_sessions(contacts(), &[Some(3), Some(-2), None]);
    world.send(1, "<presence><show>dnd</show></presence>");
    for from in [
        "both@a.example",
        "from@a.example/x",
        ME,
        &format!("{ME}/r3"),
    ] {
        let out = world.receive(presence(from, ME, "probe"));
        let expected = ["r1", "r2"].map(|r| format!("- {ME}/{r} > {from}"));
        assert_eq!(out.routed(), expected);
        assert!(out.routes[0].has("jabber:client", "show"));
        assert!(!out.routes[0].has_ns("urn:xmpp:delay"), "fresh");
    }
}

#[test]
fn an_old_presence_is_stamped_with_its_time() {
    let mut world = World::with_sessions(contacts(), &[Some(0)]);
    world.now_ms += 3_600_000;
    let answers = [0, 1].map(|_| world.receive(presence("both@a.example", ME, "probe")));
    for out in &answers {
        let delay = out.routes[0].child("urn:xmpp:delay", "delay").unwrap();
        assert_eq!(delay.attr("stamp"), Some("2001-09-09T01:46:40.000Z"));
        assert_eq!(delay.attr("from"), Some(&*format!("{ME}/r1")));
        assert_eq!(out.routes[0].payload.children.len(), 2);
    }
}

#[test]
fn a_probe_of_one_who_is_away_gets_unavailable() {
    let mut world = World::with_sessions(contacts(), &[None]);
    let out = world.receive(presence("both@a.example/x", ME, "probe"));
    assert_eq!(
        out.routed(),
        [format!("unavailable {ME} > both@a.example/x")]
    );
}

#[test]
fn a_probe_of_a_stranger_looks_the_same_with_and_without_an_account() {
    for other in ["to@a.example/x", "none@a.example/x", "stranger@a.example/x"] {
        let mut world = World::with_sessions(contacts(), &[Some(0)]);
        let with = world.receive(presence(other, ME, "probe"));
        let without = World::missing().receive(presence(other, ME, "probe"));
        let bare = other.strip_suffix("/x").unwrap();
        assert_eq!(with.routed(), [format!("unsubscribed {ME} > {bare}")]);
        assert_eq!(with.routes, without.routes);
        assert!(with.writes.is_empty());
    }
}

#[test]
fn one_who_got_directed_presence_may_ask_for_that_session() {
    let mut world = World::with_sessions(contacts(), &[Some(0), Some(0)]);
    world.send(2, "<presence to='friend@x.example/y'/>");
    let out = world.receive(presence("friend@x.example/y", ME, "probe"));
    assert_eq!(out.routed(), [format!("- {ME}/r2 > friend@x.example/y")]);
}

#[test]
fn presence_to_the_user_reaches_available_sessions_or_the_one_named() {
    let mut world = World::with_sessions(contacts(), &[Some(0), Some(-1), None]);
    for type_ in ["", "unavailable", "error"] {
        assert_eq!(
            world
                .receive(presence("both@a.example/x", ME, type_))
                .sessions(),
            [1, 2]
        );
        for number in [1, 3] {
            let out = world.receive(presence("x@y.example/z", &format!("{ME}/r{number}"), type_));
            assert_eq!(out.sessions(), [number]);
        }
        assert!(
            world
                .receive(presence("both@a.example/x", &format!("{ME}/gone"), type_))
                .is_empty()
        );
    }
    let out = world.receive(presence("both@a.example/x", ME, "strange"));
    assert_eq!(condition(&out.routes[0]), "bad-request");
    for type_ in ["", "unavailable", "error", "strange"] {
        assert!(
            World::missing()
                .receive(presence("a@b.example", ME, type_))
                .is_empty()
        );
    }
}

#[test]
fn presence_of_an_unknown_type_is_a_bad_request() {
    let mut world = World::with_sessions(contacts(), &[Some(0)]);
    for xml in [
        "<presence type='strange'/>",
        "<presence to='a@b.example' type='strange'/>",
    ] {
        let out = world.send(1, xml);
        assert_eq!(condition(out.to(1)[0]), "bad-request");
        assert!(out.routes.is_empty());
    }
}

#[test]
fn probes_of_a_client_are_passed_on_and_errors_of_a_client_too() {
    let mut world = World::with_sessions(contacts(), &[Some(0)]);
    assert_eq!(
        world
            .send(1, "<presence type='probe' to='a@b.example'/>")
            .routes
            .len(),
        1
    );
    assert_eq!(
        world
            .send(1, "<presence type='error' to='a@b.example'/>")
            .routes
            .len(),
        1
    );
    assert!(world.send(1, "<presence type='probe'/>").is_empty());
    assert!(world.send(1, "<presence type='error'/>").is_empty());
}

#[test]
fn a_resource_in_use_ends_the_older_session() {
    let mut world = World::with_sessions(contacts(), &[Some(0), Some(0)]);
    world.policy.sessions_per_user = 2;
    let out = world.bind_as(11, "r1").unwrap();
    assert_eq!(
        out.closed,
        [(1, antiphon_xmpp::stream::StreamCondition::Conflict)]
    );
    assert_eq!(out.sessions(), [2], "its unavailable presence");
    assert!(world.unbind(1).is_empty(), "gone already");
    assert!(!world.user.is_idle());
    let error = world.bind_as(12, "new").unwrap_err();
    assert_eq!(error.condition.name(), "resource-constraint");
    let error = World::missing().bind_as(1, "r1").unwrap_err();
    assert_eq!(error.condition.name(), "item-not-found");
}
