//! RFC 6121 §8.5: the delivery table, IQs, and what was not confirmed (XEP-0198).

use crate::support::*;
use antiphon_routing::effect::Origin;
use antiphon_routing::store::{UserRecord, Write};

const ROMEO: &str = "romeo@montague.example/orchard";
const TYPES: [&str; 4] = ["normal", "chat", "groupchat", "headline"];

/// What became of a message: the sessions that got it, `O` stored, `E` bounced, `S` nothing.
fn outcome(world: &mut World, to: &str, type_: &str) -> String {
    let out = world.receive(message(ROMEO, to, type_, "<body>hi</body>"));
    for (_, stanza) in &out.delivered {
        assert_eq!(
            stanza.to.as_ref().unwrap().as_str(),
            to,
            "`to` is never rewritten"
        );
    }
    let mut outcome: String = out.sessions().iter().map(u64::to_string).collect();
    for write in &out.writes {
        assert!(matches!(write, Write::OfflineAppend { .. }));
        outcome += "O";
    }
    for error in &out.routes {
        assert_eq!(condition(error), "service-unavailable");
        assert_eq!(error.to.as_ref().unwrap().as_str(), ROMEO);
        outcome += "E";
    }
    if outcome.is_empty() {
        "S".into()
    } else {
        outcome
    }
}

/// Condition, sessions, address; normal, chat, groupchat, headline.
type Row<'a> = (&'a str, &'a [Option<i8>], &'a str, [&'a str; 4]);

#[test]
fn messages_follow_every_row_of_the_table() {
    let (bare, gone) = (ME.to_owned(), format!("{ME}/gone"));
    let r1 = format!("{ME}/r1");
    let rows: [Row; 13] = [
        ("no session", &[], &bare, ["O", "O", "E", "S"]),
        ("no session, full", &[], &gone, ["E", "O", "E", "S"]),
        ("not available", &[None], &bare, ["O", "O", "E", "S"]),
        ("not available, match", &[None], &r1, ["1", "1", "1", "1"]),
        (
            "not available, no match",
            &[None],
            &gone,
            ["E", "O", "E", "S"],
        ),
        ("negative", &[Some(-1)], &bare, ["O", "O", "E", "S"]),
        ("negative, match", &[Some(-1)], &r1, ["1", "1", "1", "1"]),
        (
            "negative, no match",
            &[Some(-1)],
            &gone,
            ["E", "O", "E", "S"],
        ),
        ("one", &[Some(0)], &bare, ["1", "1", "E", "1"]),
        ("one, no match", &[Some(0)], &gone, ["E", "1", "E", "S"]),
        (
            "several",
            &[Some(0), Some(5), Some(-1), None],
            &bare,
            ["12", "12", "E", "12"],
        ),
        (
            "several, match",
            &[Some(0), Some(5)],
            &r1,
            ["1", "1", "1", "1"],
        ),
        (
            "several, no match",
            &[Some(0), Some(5)],
            &gone,
            ["E", "12", "E", "S"],
        ),
    ];
    for (name, priorities, to, expected) in rows {
        for (type_, expected) in TYPES.iter().zip(expected) {
            let mut world = World::with_sessions(UserRecord::default(), priorities);
            assert_eq!(outcome(&mut world, to, type_), expected, "{name}: {type_}");
        }
        let mut world = World::with_sessions(UserRecord::default(), priorities);
        let expected_error = if name.ends_with(", match") { "1" } else { "S" };
        assert_eq!(
            outcome(&mut world, to, "error"),
            expected_error,
            "{name}: error"
        );
        for type_ in ["", "of the future"] {
            let mut world = World::with_sessions(UserRecord::default(), priorities);
            assert_eq!(
                outcome(&mut world, to, type_),
                expected[0],
                "{name}: {type_:?} is normal"
            );
        }
    }
}

#[test]
fn a_missing_account_answers_as_one_that_keeps_nothing() {
    for to in [ME.to_owned(), format!("{ME}/r1")] {
        for (type_, expected) in TYPES.iter().zip(["E", "E", "E", "S"]) {
            assert_eq!(
                outcome(&mut World::missing(), &to, type_),
                expected,
                "{to} {type_}"
            );
            let mut idle = World::with_sessions(UserRecord::default(), &[]);
            idle.without_offline();
            assert_eq!(outcome(&mut idle, &to, type_), expected, "{to} {type_}");
        }
        assert_eq!(outcome(&mut World::missing(), &to, "error"), "S");
        let state = "<active xmlns='http://jabber.org/protocol/chatstates'/>";
        let out = World::missing().receive(message(ROMEO, &to, "chat", state));
        assert!(out.is_empty());
    }
}

#[test]
fn iqs_reach_the_session_they_name_and_nobody_else() {
    for (to, type_, expected) in [
        ("r1", "get", "1"),
        ("r1", "set", "1"),
        ("r1", "result", "1"),
        ("r1", "error", "1"),
        ("gone", "get", "E"),
        ("gone", "set", "E"),
        ("gone", "result", "S"),
        ("gone", "error", "S"),
        ("", "result", "S"),
        ("", "error", "S"),
        ("", "get", "E"),
    ] {
        let mut world = World::with_sessions(UserRecord::default(), &[None]);
        let to = if to.is_empty() {
            ME.to_owned()
        } else {
            format!("{ME}/{to}")
        };
        let out = world.receive(iq(ROMEO, &to, type_));
        let got = match (&out.sessions()[..], &out.routes[..]) {
            ([1], []) => "1",
            ([], [error]) => {
                assert_eq!(condition(error), "service-unavailable");
                "E"
            }
            ([], []) => "S",
            other => panic!("{other:?}"),
        };
        assert_eq!(got, expected, "{to} {type_}");
    }
    let out = World::missing().receive(iq(ROMEO, &format!("{ME}/r1"), "get"));
    assert_eq!(condition(&out.routes[0]), "service-unavailable");
}

#[test]
fn what_a_session_sends_goes_to_the_router_with_an_address() {
    let mut world = World::with_sessions(UserRecord::default(), &[Some(0)]);
    let out = world.send(1, "<message><body>to myself</body></message>");
    assert_eq!(out.routed(), [format!("- {ME}/r1 > {ME}")]);
    let out = world.send(
        1,
        "<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>",
    );
    assert_eq!(out.routed(), [format!("get {ME}/r1 > {ME}")]);
    let out = world.send(
        1,
        "<iq type='get' id='1' to='far.example'><ping xmlns='urn:xmpp:ping'/></iq>",
    );
    assert_eq!(out.routed(), [format!("get {ME}/r1 > far.example")]);
    let out = world.send(
        1,
        "<message to='b@far.example' type='chat'><body>x</body></message>",
    );
    assert_eq!(out.routed(), [format!("chat {ME}/r1 > b@far.example")]);
}

#[test]
fn a_stranger_to_the_entity_sends_nothing() {
    let mut world = World::with_sessions(UserRecord::default(), &[Some(0)]);
    let out = world.send(5, "<message to='b@far.example'><body>x</body></message>");
    assert!(out.is_empty());
}

#[test]
fn a_delay_in_the_name_of_this_server_is_taken_away() {
    let mut world = World::with_sessions(UserRecord::default(), &[Some(0)]);
    let forged = "<body>x</body><delay xmlns='urn:xmpp:delay' from='Capulet.example' \
         stamp='2002-09-10T23:08:25Z'/>";
    let honest = "<delay xmlns='urn:xmpp:delay' from='montague.example' \
         stamp='2002-09-10T23:08:25Z'/>";
    let out = world.receive(message(ROMEO, ME, "chat", &format!("{forged}{honest}")));
    let got = out.to(1)[0];
    assert_eq!(got.payload.children.len(), 2);
    let delay = got.child("urn:xmpp:delay", "delay").unwrap();
    assert_eq!(delay.attr("from"), Some("montague.example"));
}

fn chat(to: &str) -> antiphon_xmpp::Stanza {
    message(ROMEO, to, "chat", "<body>unconfirmed</body>")
}

#[test]
fn an_unconfirmed_message_is_stored_with_its_first_time_when_nobody_is_left() {
    for to in [ME.to_owned(), format!("{ME}/r1")] {
        for type_ in ["chat", "normal"] {
            let mut world = World::with_sessions(UserRecord::default(), &[Some(0)]);
            world.unbind(1);
            let stanza = message(ROMEO, &to, type_, "<body>unconfirmed</body>");
            let out = world.undelivered(vec![(123, stanza.clone())]);
            assert!(out.routes.is_empty());
            let Write::OfflineAppend {
                at_ms,
                stanza: bytes,
                ..
            } = &out.writes[0]
            else {
                panic!()
            };
            assert_eq!(*at_ms, 123);
            assert_eq!(
                **bytes,
                stanza.to_bytes()[..],
                "the stamp is added when it is read"
            );
        }
    }
}

#[test]
fn an_unconfirmed_message_goes_to_another_session_with_its_first_time() {
    let mut world = World::with_sessions(UserRecord::default(), &[Some(0), Some(0), Some(-1)]);
    let at_ms = world.now_ms;
    world.unbind(1);
    let out = world.undelivered(vec![(at_ms, chat(&format!("{ME}/r1")))]);
    assert_eq!(out.sessions(), [2]);
    let delay = out.to(2)[0].child("urn:xmpp:delay", "delay").unwrap();
    assert_eq!(delay.attr("from"), Some("capulet.example"));
    assert_eq!(delay.attr("stamp"), Some("2001-09-09T01:46:41.000Z"));
}

#[test]
fn a_message_that_another_session_got_as_well_is_not_repeated() {
    let mut world = World::with_sessions(UserRecord::default(), &[Some(0), Some(0)]);
    let at_ms = world.now_ms;
    world.unbind(1);
    assert!(
        world.undelivered(vec![(at_ms, chat(ME))]).is_empty(),
        "forked to both"
    );

    // A session that came later did not get it.
    let mut world = World::with_sessions(UserRecord::default(), &[Some(0)]);
    let at_ms = world.now_ms;
    world.now_ms += 1;
    world.bind(2);
    world.available(2, 0);
    world.unbind(1);
    assert_eq!(world.undelivered(vec![(at_ms, chat(ME))]).sessions(), [2]);

    // A carbon copy counts as received, whatever the priority.
    let mut world = World::with_sessions(UserRecord::default(), &[Some(0), Some(-1)]);
    world.carbons(2);
    let at_ms = world.now_ms + 1;
    world.unbind(1);
    assert!(
        world
            .undelivered(vec![(at_ms, chat(&format!("{ME}/r1")))])
            .is_empty()
    );
}

#[test]
fn an_unconfirmed_message_finds_the_resource_that_has_come_back() {
    let mut world = World::with_sessions(UserRecord::default(), &[Some(0), Some(0)]);
    let at_ms = world.now_ms;
    let out = world.bind_as(11, "r1").unwrap();
    assert_eq!(out.closed[0].0, 1);
    let out = world.undelivered(vec![(at_ms, chat(&format!("{ME}/r1")))]);
    assert_eq!(out.sessions(), [11]);
}

#[test]
fn unconfirmed_stanzas_of_other_kinds_are_answered_or_dropped() {
    let mut world = World::with_sessions(UserRecord::default(), &[]);
    let full = format!("{ME}/r1");
    let body = "<body>x</body>";
    let dropped = vec![
        (1, presence(ROMEO, ME, "")),
        (1, presence(ROMEO, ME, "subscribe")),
        (1, iq(ROMEO, &full, "result")),
        (1, iq(ME, &full, "set")),
        (1, message(ROMEO, &full, "error", body)),
        (1, message(ROMEO, &full, "groupchat", body)),
        (1, message(ROMEO, &full, "headline", body)),
        (
            1,
            message(ME, &full, "chat", "<received xmlns='urn:xmpp:carbons:2'/>"),
        ),
        (
            1,
            message(
                ROMEO,
                &full,
                "chat",
                "<gone xmlns='http://jabber.org/protocol/chatstates'/>",
            ),
        ),
    ];
    assert!(world.undelivered(dropped).is_empty());
    let out = world.undelivered(vec![
        (1, iq(ROMEO, &full, "get")),
        (1, iq(ROMEO, &full, "set")),
    ]);
    assert_eq!(
        out.routes.iter().map(condition).collect::<Vec<_>>(),
        ["service-unavailable"; 2]
    );
    let no_store = "<body>x</body><no-store xmlns='urn:xmpp:hints'/>";
    let out = world.undelivered(vec![(1, message(ROMEO, &full, "chat", no_store))]);
    assert_eq!(condition(&out.routes[0]), "service-unavailable");
}

#[test]
fn the_commit_of_an_offline_message_belongs_to_its_sender() {
    let mut world = World::with_sessions(UserRecord::default(), &[]);
    let origin = Origin {
        session: id(44),
        seq: 3,
    };
    let out = world.receive_as(chat(ME), Some(origin));
    assert_eq!(out.origins, [origin]);
    assert_eq!(out.refused[0].from.as_ref().unwrap().as_str(), ROMEO);
}
