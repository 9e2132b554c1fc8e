//! XEP-0160: what is stored, and in which order it comes back.

use crate::support::*;
use antiphon_routing::archive::ArchiveId;
use antiphon_routing::store::{OfflineRecord, UserRecord, Write};

const ROMEO: &str = "romeo@montague.example/orchard";

fn with_offline(count: u64) -> UserRecord {
    UserRecord {
        offline: count,
        ..UserRecord::default()
    }
}

fn chat(text: &str) -> antiphon_xmpp::Stanza {
    message(ROMEO, ME, "chat", &format!("<body>{text}</body>"))
}

fn stored(id: u64) -> OfflineRecord {
    let stanza = chat(&format!("offline {id}")).to_bytes().into();
    OfflineRecord {
        id,
        at_ms: id * 1000,
        archived: None,
        stanza,
    }
}

fn text(stanza: &antiphon_xmpp::Stanza) -> String {
    stanza
        .child("jabber:client", "body")
        .map(|b| b.text())
        .unwrap_or_default()
}

#[test]
fn only_what_says_something_is_stored() {
    let hint = |name| format!("<{name} xmlns='urn:xmpp:hints'/>");
    let state = "<active xmlns='http://jabber.org/protocol/chatstates'/>";
    let body = "<body>x</body>";
    // Content, then: O stored, S dropped, E answered with an error.
    let rows: [(String, &str); 17] = [
        (body.into(), "O"),
        (format!("{body}{state}"), "O"),
        (format!("{body}{}", hint("no-permanent-store")), "O"),
        (format!("{body}{}", hint("no-copy")), "O"),
        (format!("{body}{}", hint("no-store")), "E"),
        (format!("{body}{}{}", hint("store"), hint("no-store")), "E"),
        (state.into(), "S"),
        (
            format!("{state}<thread>t</thread>{}", hint("no-store")),
            "S",
        ),
        (format!("{state}{}", hint("store")), "O"),
        ("<received xmlns='urn:xmpp:receipts' id='1'/>".into(), "O"),
        ("<request xmlns='urn:xmpp:receipts'/>".into(), "S"),
        (
            "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>".into(),
            "O",
        ),
        ("<markable xmlns='urn:xmpp:chat-markers:0'/>".into(), "S"),
        ("<encrypted xmlns='urn:xmpp:omemo:2'/>".into(), "O"),
        ("<subject>s</subject>".into(), "O"),
        (
            "<reactions xmlns='urn:xmpp:reactions:0' id='1'/>".into(),
            "O",
        ),
        (String::new(), "S"),
    ];
    for (content, expected) in rows {
        for type_ in ["chat", "normal"] {
            let mut world = World::with_sessions(with_offline(0), &[]);
            let out = world.receive(message(ROMEO, ME, type_, &content));
            let got = match (&out.writes[..], &out.routes[..]) {
                ([Write::OfflineAppend { at_ms, .. }], []) => {
                    assert_eq!(*at_ms, world.now_ms);
                    "O"
                }
                ([], [error]) => {
                    assert_eq!(condition(error), "service-unavailable");
                    "E"
                }
                ([], []) => "S",
                other => panic!("{other:?}"),
            };
            assert_eq!(got, expected, "{content}");
        }
    }
}

#[test]
fn a_full_store_and_one_that_is_off_answer_the_sender() {
    let mut world = World::with_sessions(with_offline(0), &[]);
    world.policy.offline_messages = 2;
    assert_eq!(world.receive(chat("1")).writes.len(), 1);
    assert_eq!(world.receive(chat("2")).writes.len(), 1);
    let out = world.receive(chat("3"));
    assert_eq!(condition(&out.routes[0]), "service-unavailable");
    world.policy.offline_messages = 0;
    assert_eq!(world.receive(chat("3")).writes.len(), 1, "0: no limit");
    world.without_offline();
    assert_eq!(
        condition(&world.receive(chat("4")).routes[0]),
        "service-unavailable"
    );
}

#[test]
fn messages_come_back_in_order_stamped_and_before_what_came_meanwhile() {
    let mut world = World::with_sessions(with_offline(3), &[None]);
    let out = world.available(1, 0);
    assert_eq!(out.reads, [(1, 0)]);
    assert!(world.receive(chat("live 1")).is_empty(), "waits");
    let out = world.loaded(1, vec![stored(1), stored(2)]);
    assert_eq!(out.reads, [(1, 2)]);
    let got: Vec<_> = out
        .offline
        .iter()
        .map(|(s, id, stanza)| (*s, *id, text(stanza)))
        .collect();
    assert_eq!(
        got,
        [(1, 1, "offline 1".into()), (1, 2, "offline 2".to_owned())]
    );
    let delay = out.offline[1].2.child("urn:xmpp:delay", "delay").unwrap();
    assert_eq!(delay.attr("stamp"), Some("1970-01-01T00:00:02.000Z"));
    assert_eq!(delay.attr("from"), Some("capulet.example"));
    assert!(
        world
            .receive(message(
                ROMEO,
                &format!("{ME}/r1"),
                "chat",
                "<body>live 2</body>"
            ))
            .is_empty()
    );
    assert_eq!(
        world.receive(presence(ROMEO, ME, "")).sessions(),
        [1],
        "only messages wait"
    );
    assert_eq!(world.loaded(1, vec![stored(3)]).reads, [(1, 3)]);
    let out = world.loaded(1, vec![]);
    assert_eq!(
        out.to(1).into_iter().map(text).collect::<Vec<_>>(),
        ["live 1", "live 2"]
    );
    assert!(out.to(1).iter().all(|s| !s.has_ns("urn:xmpp:delay")));
    assert!(out.reads.is_empty());
    assert_eq!(world.receive(chat("live 3")).sessions(), [1]);
    assert!(world.available(1, 3).reads.is_empty(), "once");
}

#[test]
fn a_negative_priority_gets_none_until_it_is_no_longer_negative() {
    let mut world = World::with_sessions(with_offline(1), &[None]);
    assert!(world.available(1, -1).reads.is_empty());
    assert_eq!(world.available(1, 0).reads, [(1, 0)]);
}

#[test]
fn only_the_session_that_comes_online_gets_them() {
    let mut world = World::with_sessions(with_offline(1), &[None, None]);
    assert_eq!(world.available(1, 0).reads, [(1, 0)]);
    assert!(world.available(2, 9).reads.is_empty());
    let out = world.receive(chat("live"));
    assert_eq!(out.sessions(), [2], "the first waits for its turn");
    assert_eq!(world.loaded(1, vec![stored(1)]).offline.len(), 1);
    assert_eq!(world.loaded(1, vec![]).sessions(), [1]);
    world.bind(3);
    assert!(world.available(3, 0).reads.is_empty());
}

#[test]
fn what_a_session_did_not_confirm_is_read_for_the_next_one() {
    let mut world = World::with_sessions(with_offline(2), &[None]);
    world.available(1, 0);
    world.loaded(1, vec![stored(1), stored(2)]);
    world.loaded(1, vec![]);
    // While it lives, another one does not get them, even if it has to look.
    world.unbind(1);
    world.bind(2);
    assert_eq!(world.available(2, 0).reads, [(2, 0)]);
    let out = world.loaded(2, vec![stored(2)]);
    assert_eq!(out.offline[0].1, 2);
    world.loaded(2, vec![]);
    world.bind(3);
    assert!(world.available(3, 0).reads.is_empty());
    let out = world.unbind(2);
    assert_eq!(out.reads, [(3, 0)], "at once for one that is there");
    assert!(world.loaded(3, vec![]).is_empty());
}

#[test]
fn a_record_that_a_live_session_has_is_not_handed_out_again() {
    let mut world = World::with_sessions(with_offline(2), &[None, None]);
    world.available(1, 0);
    world.loaded(1, vec![stored(1), stored(2)]);
    // The session goes away for a moment and comes back, its confirmations still on their way.
    world.send(1, "<presence type='unavailable'/>");
    world.receive(chat("3"));
    assert_eq!(world.available(1, 0).reads, [(1, 0)]);
    let out = world.loaded(1, vec![stored(1), stored(2), stored(3)]);
    assert_eq!(
        out.offline.iter().map(|(_, id, _)| *id).collect::<Vec<_>>(),
        [3]
    );
}

#[test]
fn a_session_that_goes_away_during_the_read_leaves_everything_to_the_next() {
    for how in ["unavailable", "negative", "end"] {
        let mut world = World::with_sessions(with_offline(1), &[None]);
        world.available(1, 0);
        world.receive(chat("held"));
        let out = match how {
            "unavailable" => world.send(1, "<presence type='unavailable'/>"),
            "negative" => world.available(1, -1),
            _ => world.unbind(1),
        };
        let stored_at = out.writes.iter().filter_map(|w| match w {
            Write::OfflineAppend { at_ms, .. } => Some(*at_ms),
            _ => None,
        });
        assert_eq!(stored_at.collect::<Vec<_>>(), [world.now_ms], "{how}");
        assert!(
            world.loaded(1, vec![stored(1)]).is_empty(),
            "{how}: too late"
        );
        world.bind(2);
        assert_eq!(world.available(2, 0).reads, [(2, 0)], "{how}");
    }
}

#[test]
fn too_many_live_messages_go_past_the_read_and_none_is_lost() {
    let mut world = World::with_sessions(with_offline(1), &[None]);
    world.available(1, 0);
    let mut got = 0;
    for n in 0..1000 {
        got += world.receive(chat(&n.to_string())).delivered.len();
    }
    assert_eq!(got, 1000);
    assert_eq!(world.loaded(1, vec![stored(1)]).offline.len(), 1);
    assert!(world.loaded(1, vec![]).is_empty());
}

#[test]
fn held_messages_are_bounded_in_bytes_too() {
    let mut world = World::with_sessions(with_offline(1), &[None]);
    world.available(1, 0);
    let large = "x".repeat(300_000);
    let counts = [1, 2, 3, 4].map(|_| world.receive(chat(&large)).delivered.len());
    assert_eq!(counts, [0, 0, 0, 4]);
}

#[test]
fn broken_and_blocked_records_are_deleted_and_not_delivered() {
    let mut world = World::with_sessions(with_offline(3), &[None]);
    world.block(&["romeo@montague.example"]);
    world.available(1, 0);
    let broken = OfflineRecord {
        id: 2,
        at_ms: 0,
        archived: None,
        stanza: b"<broken".as_slice().into(),
    };
    let mut fine = stored(3);
    fine.stanza = message("a@b.example", ME, "chat", "<body>x</body>")
        .to_bytes()
        .into();
    let out = world.loaded(1, vec![stored(1), broken, fine]);
    assert_eq!(
        out.offline.iter().map(|(_, id, _)| *id).collect::<Vec<_>>(),
        [3]
    );
    assert!(matches!(&out.writes[0], Write::OfflineDelete { ids, .. } if *ids == [1, 2]));
}

#[test]
fn a_message_that_was_stamped_before_is_not_stamped_again() {
    let mut world = World::with_sessions(with_offline(1), &[None]);
    world.available(1, 0);
    let content = "<body>x</body><delay xmlns='urn:xmpp:delay' from='capulet.example' \
         stamp='2002-09-10T23:08:25Z'/>";
    let stanza = message(ROMEO, ME, "chat", content).to_bytes().into();
    let out = world.loaded(
        1,
        vec![OfflineRecord {
            id: 1,
            at_ms: 5,
            archived: None,
            stanza,
        }],
    );
    assert_eq!(out.offline[0].2.payload.children.len(), 2);
}

#[test]
fn a_message_that_is_archived_too_comes_with_its_place() {
    let mut world = World::with_sessions(with_offline(2), &[None]);
    world.available(1, 0);
    let id = ArchiveId::first_of(1_767_225_600_123);
    let archived = OfflineRecord {
        archived: Some(id),
        ..stored(2)
    };
    let out = world.loaded(1, vec![stored(1), archived]);
    assert!(!out.offline[0].2.has("urn:xmpp:sid:0", "stanza-id"));
    let place = out.offline[1].2.child("urn:xmpp:sid:0", "stanza-id");
    let place = place.expect("its place");
    assert_eq!(place.attr("by"), Some(ME));
    let text = id.text(&jid(ME), world.policy.archive_key);
    assert_eq!(place.attr("id"), Some(&*text));
}

#[test]
fn the_count_goes_down_as_messages_are_handed_out() {
    let mut world = World::with_sessions(with_offline(2), &[None]);
    world.policy.offline_messages = 2;
    world.available(1, 0);
    world.loaded(1, vec![stored(1), stored(2)]);
    world.loaded(1, vec![]);
    world.unbind(1);
    assert_eq!(world.receive(chat("x")).writes.len(), 1);
}

#[test]
fn a_read_that_failed_or_was_lost_is_made_up_for() {
    let mut world = World::with_sessions(with_offline(2), &[None]);
    world.available(1, 0);
    // Failed: handed over as an empty page.
    assert!(world.loaded(1, vec![]).is_empty());
    assert_eq!(world.available(1, 1).reads, [(1, 0)]);
    assert_eq!(world.loaded(1, vec![stored(1)]).reads, [(1, 1)]);
    // Lost: the next presence asks behind what the session has.
    assert_eq!(world.available(1, 2).reads, [(1, 1)]);
    world.loaded(1, vec![stored(2)]);
    world.loaded(1, vec![]);
    assert!(world.available(1, 3).reads.is_empty());
}
