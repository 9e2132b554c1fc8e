//! RFC 6121 §2: get, set, remove, versions, pushes and limits.

use crate::support::*;
use antiphon_routing::store::{Request, RosterItem, Write};
use antiphon_routing::user::{Call, CallAnswer};
use antiphon_xmpp::Stanza;

fn get(world: &mut World, session: u64, ver: Option<&str>) -> CallAnswer {
    world
        .call(Call::RosterGet {
            session: Some(id(session)),
            ver: ver.map(Into::into),
        })
        .0
        .unwrap()
}

fn named(contact: &str, name: &str, groups: &[&str]) -> RosterItem {
    RosterItem {
        name: name.into(),
        groups: groups.iter().map(|g| (*g).into()).collect(),
        ..item(contact, "both")
    }
}

fn set(world: &mut World, item: RosterItem) -> Result<Out, String> {
    let (answer, out) = world.call(Call::RosterSet { item });
    answer
        .map(|_| out)
        .map_err(|e| e.condition.name().to_owned())
}

fn pushed(stanza: &Stanza) -> (String, antiphon_xmpp::Element) {
    assert_eq!(stanza.type_str(), "set");
    assert!(stanza.id.is_some());
    let query = stanza.child("jabber:iq:roster", "query").unwrap();
    let item = query.elements().next().unwrap().clone();
    (query.attr("ver").unwrap().to_owned(), item)
}

#[test]
fn a_client_with_the_current_version_gets_no_roster() {
    let mut world = World::with_sessions(record(&[("a@x.example", "both")]), &[None]);
    assert_eq!(get(&mut world, 1, Some("7")), CallAnswer::RosterUnchanged);
    for ver in [None, Some(""), Some("6"), Some("07"), Some("x")] {
        let CallAnswer::Roster { items, ver } = get(&mut world, 1, ver) else {
            panic!()
        };
        assert_eq!(
            (items, ver.as_str()),
            (vec![item("a@x.example", "both")], "7")
        );
    }
}

#[test]
fn a_set_is_written_and_pushed_to_every_interested_session_with_its_version() {
    let mut world = World::with_sessions(record(&[]), &[None, None, Some(0)]);
    get(&mut world, 1, None);
    get(&mut world, 2, None);
    let out = set(&mut world, named("a@x.example", "A", &["Work", "Friends"])).unwrap();
    assert_eq!(out.sessions(), [1, 2]);
    let (ver, element) = pushed(out.to(2)[0]);
    assert_eq!(ver, "8");
    assert_eq!(
        out.to(2)[0].to.as_ref().unwrap().as_str(),
        format!("{ME}/r2")
    );
    assert_eq!(element.attr("name"), Some("A"));
    assert_eq!(
        element.attr("subscription"),
        Some("none"),
        "a client has no say in it"
    );
    let groups: Vec<_> = element
        .elements()
        .map(antiphon_xmpp::Element::text)
        .collect();
    assert_eq!(groups, ["Friends", "Work"]);
    let Write::RosterPut { version, item, .. } = &out.writes[0] else {
        panic!()
    };
    assert_eq!((*version, &*item.name), (8, "A"));
    let out = set(&mut world, named("a@x.example", "", &[])).unwrap();
    let (ver, element) = pushed(out.to(1)[0]);
    assert_eq!(
        (ver.as_str(), element.attr("name"), element.children.len()),
        ("9", None, 0)
    );
}

#[test]
fn a_set_leaves_the_subscription_alone() {
    let mut world = World::with_sessions(record(&[("a@x.example", "from+po")]), &[None]);
    set(&mut world, named("a@x.example", "A", &["G"])).unwrap();
    let after = world.roster_item("a@x.example").unwrap();
    assert_eq!(
        after.subscription,
        item("a@x.example", "from+po").subscription
    );
    assert_eq!((&*after.name, &*after.groups[0]), ("A", "G"));
}

#[test]
fn a_full_jid_stands_for_the_contact() {
    let mut world = World::with_sessions(record(&[]), &[None]);
    set(&mut world, named("a@x.example/r", "A", &[])).unwrap();
    assert!(world.roster_item("a@x.example").is_some());
}

#[test]
fn bad_items_get_the_errors_of_the_rfc() {
    let mut world = World::with_sessions(record(&[("a@x.example", "none")]), &[None]);
    let long = "x".repeat(1024);
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let fat: Vec<String> = (0..5).map(|n| format!("{n}{}", "x".repeat(1000))).collect();
    let fat: Vec<&str> = fat.iter().map(String::as_str).collect();
    for (item, error) in [
        (named("a@x.example", &long, &[]), "not-acceptable"),
        (named("a@x.example", "", &[&long]), "not-acceptable"),
        (named("a@x.example", "", &[""]), "not-acceptable"),
        (named("a@x.example", "", &many), "not-acceptable"),
        (named("a@x.example", "", &fat), "not-acceptable"),
        (named("a@x.example", "", &["b", "a", "b"]), "bad-request"),
        (named(ME, "", &[]), "not-allowed"),
    ] {
        assert_eq!(set(&mut world, item).unwrap_err(), error);
    }
    world.policy.roster_items = 1;
    assert_eq!(
        set(&mut world, named("b@x.example", "", &[])).unwrap_err(),
        "resource-constraint"
    );
    set(&mut world, named("a@x.example", "still", &[])).unwrap();
    assert_eq!(get(&mut world, 1, Some("8")), CallAnswer::RosterUnchanged);
}

#[test]
fn a_removal_ends_what_there_was_between_the_two() {
    let contact = "a@x.example";
    for (state, has_request, expected) in [
        ("none", false, &[][..]),
        ("none+po", false, &["unsubscribe"]),
        ("none", true, &["unsubscribed"]),
        ("to", false, &["unsubscribe"]),
        ("to", true, &["unsubscribe", "unsubscribed"]),
        ("from", false, &["unavailable", "unsubscribed"]),
        (
            "from+po",
            false,
            &["unsubscribe", "unavailable", "unsubscribed"],
        ),
        (
            "both",
            false,
            &["unsubscribe", "unavailable", "unsubscribed"],
        ),
    ] {
        let mut record = record(&[(contact, state)]);
        if has_request {
            let stanza = presence(contact, ME, "subscribe").to_bytes().into();
            record.requests.push(Request {
                from: jid(contact),
                stanza,
            });
        }
        let mut world = World::with_sessions(record, &[Some(0)]);
        get(&mut world, 1, None);
        let (answer, out) = world.call(Call::RosterRemove { jid: jid(contact) });
        assert_eq!(answer.unwrap(), CallAnswer::Done);
        let types: Vec<_> = out.routes.iter().map(Stanza::type_str).collect();
        assert_eq!(types, expected, "{state}");
        let (ver, element) = pushed(out.to(1)[0]);
        assert_eq!(
            (ver.as_str(), element.attr("subscription")),
            ("8", Some("remove"))
        );
        let removed = out
            .writes
            .iter()
            .any(|w| matches!(w, Write::RosterRemove { version: 8, .. }));
        assert!(removed);
        let forgotten = out
            .writes
            .iter()
            .any(|w| matches!(w, Write::RequestDelete { .. }));
        assert_eq!(forgotten, has_request);
        assert!(world.roster_item(contact).is_none());
        let (answer, _) = world.call(Call::RosterRemove { jid: jid(contact) });
        assert_eq!(answer.unwrap_err().condition.name(), "item-not-found");
    }
}

#[test]
fn a_removed_contact_that_is_blocked_hears_nothing() {
    let mut world = World::with_sessions(record(&[("a@x.example", "both")]), &[Some(0)]);
    world.block(&["a@x.example"]);
    let (_, out) = world.call(Call::RosterRemove {
        jid: jid("a@x.example"),
    });
    assert!(out.routes.is_empty());
}

#[test]
fn one_who_only_asks_is_not_in_the_roster() {
    let mut world = World::with_sessions(record(&[]), &[Some(0)]);
    get(&mut world, 1, None);
    let out = world.receive(presence("a@x.example", ME, "subscribe"));
    assert!(
        out.to(1).iter().all(|s| s.type_str() == "subscribe"),
        "no push"
    );
    let CallAnswer::Roster { items, ver } = get(&mut world, 1, None) else {
        panic!()
    };
    assert_eq!((items.len(), ver.as_str()), (0, "7"));
    let (answer, _) = world.call(Call::RosterRemove {
        jid: jid("a@x.example"),
    });
    assert_eq!(answer.unwrap_err().condition.name(), "item-not-found");
}

#[test]
fn a_session_that_is_not_there_gets_no_roster() {
    let mut world = World::with_sessions(record(&[]), &[None]);
    let (answer, _) = world.call(Call::RosterGet {
        session: Some(id(9)),
        ver: None,
    });
    assert_eq!(answer.unwrap_err().condition.name(), "item-not-found");
}
