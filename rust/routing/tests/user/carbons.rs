//! XEP-0280 with every rule of its §6.

use crate::support::*;
use antiphon_routing::store::UserRecord;
use antiphon_routing::user::{Call, Switches};
use antiphon_xmpp::{Element, Stanza, StanzaCondition};

const ROMEO: &str = "romeo@montague.example/orchard";
const BODY: &str = "<body>hi</body>";
const RECEIPT: &str = "<received xmlns='urn:xmpp:receipts' id='m0'/>";
const STATE: &str = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";
const MARKER: &str = "<displayed xmlns='urn:xmpp:chat-markers:0' id='m0'/>";
const DIRECT: &str = "<x xmlns='jabber:x:conference' jid='room@chat.example'/>";
const MEDIATED: &str =
    "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@b.example'/></x>";
const MUC: &str = "<x xmlns='http://jabber.org/protocol/muc#user'/>";
const PRIVATE: &str = "<private xmlns='urn:xmpp:carbons:2'/>";
const NO_COPY: &str = "<no-copy xmlns='urn:xmpp:hints'/>";

/// Four sessions: 1 receives without carbons, 2 receives with, 3 is negative with, 4 is not
/// available with.
fn four() -> World {
    let mut world =
        World::with_sessions(UserRecord::default(), &[Some(1), Some(0), Some(-1), None]);
    for number in [2, 3, 4] {
        world.carbons(number);
    }
    world
}

/// The forwarded message of a copy, after checking the wrapper.
fn unwrap(copy: &Stanza, name: &str, session: u64) -> Element {
    assert_eq!(copy.from.as_ref().unwrap().as_str(), ME);
    assert_eq!(
        copy.to.as_ref().unwrap().as_str(),
        format!("{ME}/r{session}")
    );
    let wrapper = copy.child("urn:xmpp:carbons:2", name).unwrap();
    let forwarded = wrapper.child("urn:xmpp:forward:0", "forwarded").unwrap();
    let message = forwarded.child("jabber:client", "message").unwrap();
    assert_eq!(
        message.attr("type").unwrap_or(""),
        copy.type_str(),
        "the type is kept"
    );
    message.clone()
}

fn is_copy(stanza: &Stanza) -> bool {
    stanza.from.as_ref().is_some_and(|f| f.as_str() == ME) && stanza.has_ns("urn:xmpp:carbons:2")
}

/// Which sessions got the message itself, and which a copy.
fn receive(world: &mut World, stanza: Stanza) -> (Vec<u64>, Vec<u64>) {
    let out = world.receive(stanza);
    let (copies, originals): (Vec<_>, Vec<_>) = out.delivered.iter().partition(|(_, s)| is_copy(s));
    let numbers = |list: Vec<&(u64, Stanza)>| list.iter().map(|(n, _)| *n).collect();
    (numbers(originals), numbers(copies))
}

#[test]
fn a_message_to_one_session_is_copied_to_every_other_enabled_one() {
    for (to, copies) in [(1, vec![2, 3, 4]), (2, vec![3, 4]), (4, vec![2, 3])] {
        let stanza = message(ROMEO, &format!("{ME}/r{to}"), "chat", BODY);
        assert_eq!(receive(&mut four(), stanza), (vec![to], copies));
    }
}

#[test]
fn a_message_to_all_is_copied_only_to_those_that_did_not_get_it() {
    let stanza = message(ROMEO, ME, "chat", BODY);
    assert_eq!(receive(&mut four(), stanza), (vec![1, 2], vec![3, 4]));
}

#[test]
fn a_message_to_a_vanished_session_is_delivered_as_to_all_and_copied() {
    let stanza = message(ROMEO, &format!("{ME}/gone"), "chat", BODY);
    assert_eq!(receive(&mut four(), stanza), (vec![1, 2], vec![3, 4]));
}

#[test]
fn a_stored_message_is_copied_to_those_who_are_there_all_the_same() {
    let mut world = World::with_sessions(UserRecord::default(), &[Some(-1)]);
    world.carbons(1);
    let out = world.receive(message(ROMEO, ME, "chat", BODY));
    assert_eq!((out.writes.len(), out.sessions()), (1, vec![1]));
    unwrap(out.to(1)[0], "received", 1);
}

#[test]
fn the_copy_holds_the_message_as_it_is() {
    let content = "<body>Wh&lt;t</body><x xmlns='a' y='1'><z xmlns='b'/>t</x>";
    let original = message(ROMEO, &format!("{ME}/r1"), "chat", content);
    let out = four().receive(original.clone());
    let copy = out.to(2)[0];
    assert_eq!(unwrap(copy, "received", 2), original.element());
    let again = Stanza::from_bytes(&copy.to_bytes()).unwrap();
    assert_eq!(unwrap(&again, "received", 2), original.element());
    // XEP-0280 #inbound: serialised once.
    let payloads = [2, 3, 4].map(|n| out.to(n)[0].payload.content.as_ptr());
    assert!(payloads.iter().all(|p| *p == payloads[0]));
}

#[test]
fn the_rules_of_eligibility_hold_in_both_directions() {
    // Type, content, from and to (contact's side: full), received copied, sent copied.
    let rows: [(&str, String, bool, bool); 24] = [
        ("chat", BODY.into(), true, true),
        ("chat", "<unknown xmlns='x'/>".into(), true, true),
        ("chat", STATE.into(), true, true),
        ("normal", BODY.into(), true, true),
        ("", BODY.into(), true, true),
        ("normal", "<unknown xmlns='x'/>".into(), false, false),
        ("normal", RECEIPT.into(), true, true),
        ("normal", STATE.into(), true, true),
        ("normal", MARKER.into(), true, true),
        ("headline", BODY.into(), false, false),
        ("headline", MARKER.into(), true, true),
        ("groupchat", BODY.into(), false, false),
        ("groupchat", format!("{BODY}{MARKER}"), false, false),
        ("error", BODY.into(), true, true),
        ("error", RECEIPT.into(), true, true),
        ("error", "<unknown xmlns='x'/>".into(), false, false),
        ("normal", DIRECT.into(), true, true),
        ("normal", MEDIATED.into(), true, true),
        // Private messages in rooms: out yes, in no (XEP-0280 #recommended-rules).
        ("chat", format!("{BODY}{MUC}"), false, true),
        ("normal", MUC.into(), false, true),
        ("error", format!("{BODY}{MUC}"), false, true),
        ("chat", format!("{BODY}{PRIVATE}{NO_COPY}"), false, false),
        ("chat", format!("{BODY}{PRIVATE}"), false, false),
        ("chat", format!("{BODY}{NO_COPY}"), false, false),
    ];
    for (type_, content, received, sent) in rows {
        let case = format!("{type_:?} {content}");
        let stanza = message(ROMEO, &format!("{ME}/r1"), type_, &content);
        let (got, copies) = receive(&mut four(), stanza);
        assert_eq!(got, [1], "{case}");
        assert_eq!(
            copies.len(),
            if received { 3 } else { 0 },
            "received {case}"
        );
        let attr = if type_.is_empty() {
            String::new()
        } else {
            format!(" type='{type_}'")
        };
        let xml = format!("<message to='{ROMEO}' id='m1'{attr}>{content}</message>");
        let out = four().send(1, &xml);
        assert_eq!(out.delivered.len(), if sent { 3 } else { 0 }, "sent {case}");
        assert_eq!(out.routes.len(), 1, "{case}");
        assert_eq!(
            out.routes[0].payload.children.len(),
            stanza_children(&xml),
            "{case}"
        );
    }
}

/// `<private/>` and hints stay in the message (XEP-0280 #avoiding).
fn stanza_children(xml: &str) -> usize {
    stanza(xml).payload.children.len()
}

#[test]
fn the_room_itself_invites_from_its_bare_jid() {
    let to = format!("{ME}/r1");
    let stanza = message("room@chat.example", &to, "normal", MEDIATED);
    assert_eq!(receive(&mut four(), stanza).1, [2, 3, 4]);
    let stanza = message("room@chat.example", &to, "normal", MUC);
    assert_eq!(receive(&mut four(), stanza).1, []);
}

#[test]
fn no_copy_says_nothing_about_messages_to_the_bare_jid() {
    let stanza = message(ROMEO, ME, "chat", &format!("{BODY}{NO_COPY}"));
    assert_eq!(receive(&mut four(), stanza), (vec![1, 2], vec![3, 4]));
    let stanza = message(ROMEO, ME, "chat", &format!("{BODY}{PRIVATE}"));
    assert_eq!(receive(&mut four(), stanza), (vec![1, 2], vec![]));
}

#[test]
fn what_a_session_sends_is_copied_to_the_other_enabled_ones() {
    for (sender, copies) in [(1, vec![2, 3, 4]), (2, vec![3, 4]), (4, vec![2, 3])] {
        let out = four().send(
            sender,
            "<message to='a@b.example' type='chat'><body>x</body></message>",
        );
        assert_eq!(out.sessions(), copies);
        for number in copies {
            let inner = unwrap(out.to(number)[0], "sent", number);
            assert_eq!(inner.attr("from"), Some(&*format!("{ME}/r{sender}")));
            assert_eq!(inner.attr("to"), Some("a@b.example"));
        }
        assert_eq!(out.routes.len(), 1);
    }
}

#[test]
fn a_message_to_oneself_reaches_every_session_once() {
    let mut world = four();
    let out = world.send(
        2,
        &format!("<message to='{ME}' type='chat'><body>x</body></message>"),
    );
    assert!(out.delivered.is_empty());
    let (got, copies) = receive(&mut world, out.routes[0].clone());
    assert_eq!((got, copies), (vec![1, 2], vec![3, 4]));

    let out = world.send(
        2,
        &format!("<message to='{ME}/r1' type='chat'><body>x</body></message>"),
    );
    assert!(out.delivered.is_empty());
    let (got, copies) = receive(&mut world, out.routes[0].clone());
    assert_eq!((got, copies), (vec![1], vec![3, 4]), "not to the sender");
}

#[test]
fn a_copy_from_outside_is_plain_content() {
    // XEP-0280 #inbound, example 11.
    let attack = "<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>\
         <message xmlns='jabber:client' from='juliet@capulet.example/balcony' to='x@y.example' \
         type='chat'><body>Thou shall meet me tonite</body></message></forwarded></received>";
    let out = four().receive(message("tybalt@capulet.example/home", ME, "chat", attack));
    let got = out.to(1)[0];
    assert_eq!(
        got.from.as_ref().unwrap().as_str(),
        "tybalt@capulet.example/home"
    );
    assert!(!got.has("jabber:client", "body"));
    for number in [3, 4] {
        let inner = unwrap(out.to(number)[0], "received", number);
        assert_eq!(inner.attr("from"), Some("tybalt@capulet.example/home"));
    }
}

#[test]
fn a_blocked_or_bounced_message_is_not_copied() {
    let mut world = four();
    world.block(&["romeo@montague.example"]);
    let out = world.receive(message(ROMEO, &format!("{ME}/r1"), "chat", BODY));
    assert!(out.delivered.is_empty());
    let out = world.send(
        1,
        &format!("<message to='{ROMEO}' type='chat'>{BODY}</message>"),
    );
    assert_eq!(out.sessions(), [1], "the error only");

    let mut world = World::with_sessions(UserRecord::default(), &[None]);
    world.carbons(1);
    world.without_offline();
    let out = world.receive(message(ROMEO, ME, "chat", BODY));
    assert!(out.delivered.is_empty());
    assert_eq!(condition(&out.routes[0]), "service-unavailable");
}

#[test]
fn carbons_that_are_turned_off_are_neither_made_nor_enabled() {
    let mut world = four();
    world.user.switch(Switches {
        is_carbons_on: false,
        ..Switches::default()
    });
    let text = message(ROMEO, &format!("{ME}/r1"), "chat", BODY);
    assert_eq!(world.receive(text.clone()).sessions(), [1]);
    let (answer, _) = world.call(Call::Carbons {
        session: id(2),
        enabled: true,
    });
    let condition = answer.unwrap_err().condition;
    assert_eq!(condition, StanzaCondition::ServiceUnavailable);
    // Turned on again they wait to be asked for: the session may not know that they were off.
    world.user.switch(Switches::default());
    assert_eq!(world.receive(text.clone()).sessions(), [1]);
    world.carbons(2);
    assert_eq!(world.receive(text).sessions(), [2, 1]);
}

#[test]
fn carbons_go_on_and_off_as_often_as_one_likes() {
    let mut world = four();
    let set = |world: &mut World, enabled| {
        world
            .call(Call::Carbons {
                session: id(2),
                enabled,
            })
            .0
            .unwrap();
        let stanza = message(ROMEO, &format!("{ME}/r1"), "chat", BODY);
        receive(world, stanza).1.contains(&2)
    };
    assert!(set(&mut world, true));
    assert!(!set(&mut world, false));
    assert!(!set(&mut world, false));
    assert!(set(&mut world, true));
    assert!(
        world
            .call(Call::Carbons {
                session: id(99),
                enabled: true
            })
            .0
            .is_err()
    );
}
