//! XEP-0191: kind × direction × form of address, pushes and presence.

use crate::support::*;
use antiphon_routing::store::Write;
use antiphon_routing::user::{Call, CallAnswer, Switches};
use antiphon_xmpp::StanzaCondition;

const FULL: &str = "romeo@montague.example/orchard";

/// Entries and the addresses they block (XEP-0191 #blockmatch).
const FORMS: [(&str, [(&str, bool); 6]); 4] = [
    (
        FULL,
        [
            (FULL, true),
            ("romeo@montague.example/home", false),
            ("romeo@montague.example", false),
            ("montague.example", false),
            ("montague.example/orchard", false),
            ("benvolio@montague.example/orchard", false),
        ],
    ),
    (
        "romeo@montague.example",
        [
            (FULL, true),
            ("romeo@montague.example/home", true),
            ("romeo@montague.example", true),
            ("montague.example", false),
            ("montague.example/orchard", false),
            ("benvolio@montague.example/orchard", false),
        ],
    ),
    (
        "montague.example/orchard",
        [
            (FULL, true),
            ("romeo@montague.example/home", false),
            ("romeo@montague.example", false),
            ("montague.example", false),
            ("montague.example/orchard", true),
            ("benvolio@montague.example/orchard", true),
        ],
    ),
    (
        "montague.example",
        [
            (FULL, true),
            ("romeo@montague.example/home", true),
            ("romeo@montague.example", true),
            ("montague.example", true),
            ("montague.example/orchard", true),
            ("benvolio@montague.example/orchard", true),
        ],
    ),
];

#[test]
fn every_kind_in_every_direction_obeys_every_form_of_address() {
    for (entry, addresses) in FORMS {
        for (other, is_blocked) in addresses {
            let mut world = World::with_sessions(record(&[]), &[Some(0)]);
            world.block(&[entry]);
            let case = format!("{entry} blocks {other}: {is_blocked}");
            assert_eq!(world.user.is_blocked(&jid(other)), is_blocked, "{case}");
            inbound(&mut world, other, is_blocked, &case);
            outbound(&mut world, other, is_blocked, &case);
        }
    }
}

fn inbound(world: &mut World, other: &str, is_blocked: bool, case: &str) {
    let me = format!("{ME}/r1");
    for type_ in ["chat", "normal", "groupchat", "headline"] {
        let out = world.receive(message(other, &me, type_, "<body>x</body>"));
        if is_blocked {
            assert!(out.delivered.is_empty() && out.writes.is_empty(), "{case}");
            assert_eq!(condition(&out.routes[0]), "service-unavailable", "{case}");
        } else {
            assert_eq!(out.sessions(), [1], "{case}");
        }
    }
    let error = world.receive(message(other, &me, "error", "<body>x</body>"));
    assert_eq!(error.is_empty(), is_blocked, "{case}");
    for type_ in ["", "unavailable", "error"] {
        assert_eq!(
            world.receive(presence(other, &me, type_)).is_empty(),
            is_blocked,
            "{case}"
        );
    }
    for type_ in ["probe", "subscribe", "of-the-future"] {
        assert_eq!(
            world.receive(presence(other, ME, type_)).is_empty(),
            is_blocked,
            "{case}"
        );
    }
    for type_ in ["get", "set"] {
        let out = world.receive(iq(other, &me, type_));
        if is_blocked {
            assert!(out.delivered.is_empty(), "{case}");
            assert_eq!(condition(&out.routes[0]), "service-unavailable", "{case}");
        } else {
            assert_eq!(out.sessions(), [1], "{case}");
        }
    }
    for type_ in ["result", "error"] {
        assert_eq!(
            world.receive(iq(other, &me, type_)).is_empty(),
            is_blocked,
            "{case}"
        );
    }
}

fn outbound(world: &mut World, other: &str, is_blocked: bool, case: &str) {
    for xml in [
        format!("<message to='{other}' type='chat' id='1'><body>x</body></message>"),
        format!("<presence to='{other}' id='1'/>"),
        format!("<presence to='{other}' id='1' type='probe'/>"),
        format!("<presence to='{other}' id='1' type='subscribe'/>"),
        format!("<iq to='{other}' id='1' type='get'><ping xmlns='urn:xmpp:ping'/></iq>"),
    ] {
        let out = world.send(1, &xml);
        assert_eq!(out.routes.is_empty(), is_blocked, "{case}: {xml}");
        if is_blocked {
            let answer = out.to(1)[0];
            assert_eq!(condition(answer), "not-acceptable", "{case}");
            assert_eq!(answer.from.as_ref().unwrap().as_str(), other, "{case}");
            let error = answer.child("jabber:client", "error").unwrap();
            assert_eq!(error.attr("type"), Some("cancel"), "{case}");
            assert!(
                error.child("urn:xmpp:blocking:errors", "blocked").is_some(),
                "{case}"
            );
        }
    }
    let out = world.send(1, &format!("<iq to='{other}' id='1' type='result'/>"));
    assert!(out.delivered.is_empty(), "no error to an answer");
    assert_eq!(out.routes.is_empty(), is_blocked, "{case}");
}

#[test]
fn the_account_and_its_server_cannot_be_blocked() {
    let mut world = World::with_sessions(record(&[]), &[Some(0), Some(0)]);
    world.block(&[ME, &format!("{ME}/r2"), "capulet.example"]);
    assert!(!world.user.is_blocked(&jid(ME)));
    assert!(!world.user.is_blocked(&jid(&format!("{ME}/r2"))));
    assert!(!world.user.is_blocked(&jid("capulet.example")));
    assert!(world.user.is_blocked(&jid("tybalt@capulet.example")));
    let out = world.send(
        1,
        "<iq to='capulet.example' id='1' type='get'><q xmlns='x'/></iq>",
    );
    assert_eq!(out.routes.len(), 1);
    let out = world.send(
        1,
        &format!("<message to='{ME}/r2'><body>x</body></message>"),
    );
    assert_eq!(out.routes.len(), 1);
}

#[test]
fn the_list_is_pushed_to_those_who_asked_for_it() {
    let mut world = World::with_sessions(record(&[]), &[Some(0), Some(0), None]);
    for number in [2, 3] {
        let (answer, _) = world.call(Call::BlockList {
            session: id(number),
        });
        assert_eq!(answer.unwrap(), CallAnswer::Jids(vec![]));
    }
    let out = world.block(&["a@x.example", "y.example"]);
    assert_eq!(out.sessions(), [2, 3]);
    let push = out.to(3)[0];
    assert_eq!(push.to.as_ref().unwrap().as_str(), format!("{ME}/r3"));
    assert_eq!(push.type_str(), "set");
    let block = push.child("urn:xmpp:blocking", "block").unwrap();
    let items: Vec<_> = block.elements().map(|e| e.attr("jid").unwrap()).collect();
    assert_eq!(items, ["a@x.example", "y.example"]);
    assert!(matches!(&out.writes[0], Write::BlockAdd { jids, .. } if jids.len() == 2));

    let (_, out) = world.call(Call::Unblock {
        jids: vec![jid("a@x.example")],
    });
    assert!(out.to(2)[0].has("urn:xmpp:blocking", "unblock"));
    assert!(matches!(&out.writes[0], Write::BlockRemove { jids, .. } if jids.len() == 1));
    let (answer, _) = world.call(Call::BlockList { session: id(2) });
    assert_eq!(answer.unwrap(), CallAnswer::Jids(vec![jid("y.example")]));

    // XEP-0191 #unblockall.
    let (_, out) = world.call(Call::Unblock { jids: vec![] });
    let unblock = out.to(2)[0].child("urn:xmpp:blocking", "unblock").unwrap();
    assert_eq!(unblock.elements().count(), 0);
    assert!(matches!(&out.writes[0], Write::BlockRemove { jids, .. } if jids.is_empty()));
    assert!(!world.user.is_blocked(&jid("y.example")));
}

#[test]
fn blocking_that_is_turned_off_blocks_nobody_and_keeps_the_list() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    world.block(&["a@x.example"]);
    let text = message("a@x.example/1", ME, "chat", "<body>x</body>");
    assert!(world.receive(text.clone()).delivered.is_empty());
    world.user.switch(Switches {
        is_blocking_on: false,
        ..Switches::default()
    });
    assert!(!world.user.is_blocked(&jid("a@x.example")));
    assert_eq!(world.receive(text.clone()).sessions(), [1]);
    let out = world.send(1, "<message to='a@x.example'/>");
    assert_eq!(out.routes.len(), 1);
    let jids = vec![jid("a@x.example")];
    for call in [
        Call::BlockList { session: id(1) },
        Call::Block { jids: jids.clone() },
        Call::Unblock { jids },
    ] {
        let (answer, out) = world.call(call);
        let condition = answer.unwrap_err().condition;
        assert_eq!(condition, StanzaCondition::ServiceUnavailable);
        assert!(out.is_empty());
    }
    world.user.switch(Switches::default());
    assert!(world.receive(text).delivered.is_empty());
}

#[test]
fn what_changes_nothing_is_not_written() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    world.block(&["a@x.example"]);
    assert!(world.block(&["a@x.example"]).writes.is_empty());
    let (_, out) = world.call(Call::Unblock {
        jids: vec![jid("b@x.example")],
    });
    assert!(out.writes.is_empty());
    assert!(
        world.user.is_blocked(&jid("a@x.example")),
        "an empty write would mean all"
    );
    assert!(world.call(Call::Unblock { jids: vec![] }).1.writes.len() == 1);
    assert!(
        world
            .call(Call::Unblock { jids: vec![] })
            .1
            .writes
            .is_empty()
    );
}

#[test]
fn bad_and_too_long_lists_are_refused() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    world.policy.blocked_items = 2;
    let (answer, _) = world.call(Call::Block { jids: vec![] });
    assert_eq!(answer.unwrap_err().condition, StanzaCondition::BadRequest);
    world.block(&["a@x.example", "b@x.example", "a@x.example"]);
    let (answer, out) = world.call(Call::Block {
        jids: vec![jid("c@x.example")],
    });
    assert_eq!(
        answer.unwrap_err().condition,
        StanzaCondition::ResourceConstraint
    );
    assert!(out.is_empty());
    assert!(!world.user.is_blocked(&jid("c@x.example")));
    world.block(&["a@x.example"]);
}

#[test]
fn the_user_goes_away_for_a_blocked_contact_and_comes_back() {
    let items = [
        ("both@a.example", "both"),
        ("from@a.example", "from"),
        ("to@a.example", "to"),
    ];
    let mut world = World::with_sessions(record(&items), &[Some(0), Some(-1), None]);
    let out = world.block(&["both@a.example", "to@a.example", "stranger@a.example"]);
    let gone = |to| ["r1", "r2"].map(|r| format!("unavailable {ME}/{r} > {to}"));
    let back = |to| ["r1", "r2"].map(|r| format!("- {ME}/{r} > {to}"));
    assert_eq!(out.routed(), gone("both@a.example"));
    // A domain over a contact that is blocked already.
    let out = world.block(&["a.example"]);
    assert_eq!(out.routed(), gone("from@a.example"));
    let (_, out) = world.call(Call::Unblock {
        jids: vec![jid("both@a.example")],
    });
    assert!(out.routes.is_empty(), "the domain still blocks it");
    let (_, out) = world.call(Call::Unblock {
        jids: vec![jid("a.example")],
    });
    let mut expected = back("both@a.example").to_vec();
    expected.push(format!("probe {ME} > both@a.example"));
    expected.extend(back("from@a.example"));
    assert_eq!(out.routed(), expected, "to@a.example is blocked still");
    let (_, out) = world.call(Call::Unblock { jids: vec![] });
    assert_eq!(out.routed(), [format!("probe {ME} > to@a.example")]);
}

#[test]
fn a_blocked_resource_of_a_contact_is_hidden_from_alone() {
    let mut world = World::with_sessions(record(&[("both@a.example", "both")]), &[Some(0)]);
    let out = world.block(&["both@a.example/x"]);
    assert_eq!(
        out.routed(),
        [format!("unavailable {ME}/r1 > both@a.example/x")]
    );
    let (_, out) = world.call(Call::Unblock {
        jids: vec![jid("both@a.example/x")],
    });
    assert_eq!(out.routed(), [format!("- {ME}/r1 > both@a.example/x")]);
}

#[test]
fn directed_presence_is_taken_back_from_a_blocked_address() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    world.send(1, "<presence to='room@chat.example/nick'/>");
    let out = world.block(&["chat.example"]);
    assert_eq!(
        out.routed(),
        [format!("unavailable {ME}/r1 > room@chat.example/nick")]
    );
    assert!(world.unbind(1).routes.is_empty());
}

#[test]
fn presence_is_not_broadcast_to_the_blocked_and_they_are_not_probed() {
    let mut world = World::with_sessions(record(&[("both@a.example", "both")]), &[]);
    world.block(&["both@a.example"]);
    world.bind(1);
    assert!(world.available(1, 0).routes.is_empty());
    assert!(world.available(1, 1).routes.is_empty());
    assert!(
        world
            .send(1, "<presence type='unavailable'/>")
            .routes
            .is_empty()
    );
    world.available(1, 0);
    assert!(world.unbind(1).routes.is_empty());
}

#[test]
fn a_room_does_not_pass_on_the_invitation_of_a_blocked_address() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    world.block(&["romeo@montague.example"]);
    let invite =
        format!("<x xmlns='http://jabber.org/protocol/muc#user'><invite from='{FULL}'/></x>");
    let out = world.receive(message("room@chat.example", ME, "", &invite));
    assert!(out.delivered.is_empty());
    let other = invite.replace("romeo@", "benvolio@");
    assert_eq!(
        world
            .receive(message("room@chat.example", ME, "", &other))
            .sessions(),
        [1]
    );
}
