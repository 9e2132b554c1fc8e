//! What the node and Python ask.

use crate::support::*;
use antiphon_routing::store::{Request, UserRecord};
use antiphon_routing::user::{Call, CallAnswer};
use antiphon_xmpp::stream::StreamCondition;

#[test]
fn those_with_a_subscription_and_the_user_may_see_presence() {
    let record = record(&[
        ("both@a.example", "both"),
        ("from@a.example", "from"),
        ("to@a.example", "to"),
        ("blocked@a.example", "both"),
    ]);
    let mut world = World::with_sessions(record, &[]);
    world.block(&["blocked@a.example"]);
    for (by, may) in [
        ("both@a.example/x", true),
        ("from@a.example", true),
        ("to@a.example", false),
        ("stranger@a.example", false),
        ("blocked@a.example", false),
        (ME, true),
        ("juliet@capulet.example/r9", true),
    ] {
        let (answer, _) = world.call(Call::MaySeePresence { by: jid(by) });
        assert_eq!(answer.unwrap(), CallAnswer::Flag(may), "{by}");
    }
    let (answer, _) = World::missing().call(Call::MaySeePresence { by: jid(ME) });
    assert_eq!(answer.unwrap(), CallAnswer::Flag(false));
}

#[test]
fn the_last_activity_is_that_of_the_last_session() {
    let record = UserRecord {
        last_seen_ms: 5,
        last_status: "gone".into(),
        ..UserRecord::default()
    };
    let mut world = World::with_sessions(record, &[]);
    let activity = |at_ms, status: &str, is_online| CallAnswer::Activity {
        at_ms,
        status: status.into(),
        is_online,
    };
    assert_eq!(
        world.call(Call::LastActivity).0.unwrap(),
        activity(5, "gone", false)
    );
    world.bind(1);
    assert_eq!(
        world.call(Call::LastActivity).0.unwrap(),
        activity(5, "gone", true)
    );
    world.available(1, 0);
    world.send(
        1,
        "<presence type='unavailable'><status>bed</status></presence>",
    );
    world.unbind(1);
    let now_ms = world.now_ms;
    assert_eq!(
        world.call(Call::LastActivity).0.unwrap(),
        activity(now_ms, "bed", false)
    );
}

#[test]
fn sessions_are_listed_with_their_presence() {
    let mut world = World::with_sessions(UserRecord::default(), &[Some(-3), None]);
    world.carbons(2);
    let CallAnswer::Sessions(sessions) = world.call(Call::Sessions).0.unwrap() else {
        panic!()
    };
    assert_eq!(sessions.len(), 2);
    assert_eq!(
        (sessions[0].session, sessions[0].priority),
        (id(1), Some(-3))
    );
    assert!(
        sessions[0]
            .presence
            .as_ref()
            .unwrap()
            .is("jabber:client", "presence")
    );
    assert_eq!(sessions[1].jid.resource(), Some("r2"));
    assert!(sessions[1].has_carbons && sessions[1].presence.is_none());
}

#[test]
fn a_kick_ends_one_or_all() {
    let mut world = World::with_sessions(UserRecord::default(), &[None, None]);
    let condition = StreamCondition::PolicyViolation;
    let kick = |resource: Option<&str>| Call::Kick {
        resource: resource.map(Into::into),
        condition,
    };
    assert_eq!(
        world.call(kick(None)).1.closed,
        [(1, condition), (2, condition)]
    );
    assert_eq!(world.call(kick(Some("r2"))).1.closed, [(2, condition)]);
    let (answer, _) = world.call(kick(Some("r3")));
    assert_eq!(answer.unwrap_err().condition.name(), "item-not-found");
}

#[test]
fn a_removed_account_takes_leave_of_everyone() {
    let mut record = record(&[
        ("both@a.example", "both"),
        ("from@a.example", "from"),
        ("po@a.example", "none+po"),
        ("none@a.example", "none"),
    ]);
    let stanza = presence("pi@a.example", ME, "subscribe").to_bytes().into();
    record.requests.push(Request {
        from: jid("pi@a.example"),
        stanza,
    });
    let mut world = World::with_sessions(record, &[Some(0)]);
    world.send(1, "<presence to='room@chat.example/me'/>");
    let (answer, out) = world.call(Call::Removed);
    answer.unwrap();
    assert_eq!(
        out.routed(),
        [
            format!("unsubscribe {ME} > both@a.example"),
            format!("unavailable {ME}/r1 > both@a.example"),
            format!("unsubscribed {ME} > both@a.example"),
            format!("unavailable {ME}/r1 > from@a.example"),
            format!("unsubscribed {ME} > from@a.example"),
            format!("unsubscribed {ME} > pi@a.example"),
            format!("unsubscribe {ME} > po@a.example"),
            format!("unavailable {ME}/r1 > room@chat.example/me"),
        ]
    );
    assert_eq!(out.closed, [(1, StreamCondition::NotAuthorized)]);
    assert!(out.writes.is_empty(), "the store removes all by itself");
    assert_eq!(world.call(Call::Exists).0.unwrap(), CallAnswer::Flag(false));
    assert!(world.unbind(1).is_empty());
    assert!(world.user.is_idle());
    assert!(world.bind_as(2, "r1").is_err());
}

#[test]
fn a_missing_account_has_nothing() {
    let mut world = World::missing();
    assert_eq!(world.call(Call::Exists).0.unwrap(), CallAnswer::Flag(false));
    assert_eq!(
        world.call(Call::Sessions).0.unwrap(),
        CallAnswer::Sessions(vec![])
    );
    for call in [
        Call::LastActivity,
        Call::Removed,
        Call::RosterRemove { jid: jid(ME) },
        Call::Block {
            jids: vec![jid("a@b.example")],
        },
        Call::RosterGet {
            session: Some(id(1)),
            ver: None,
        },
    ] {
        let (answer, out) = world.call(call);
        assert_eq!(answer.unwrap_err().condition.name(), "item-not-found");
        assert!(out.is_empty());
    }
    assert_eq!(
        World::new(UserRecord::default())
            .call(Call::Exists)
            .0
            .unwrap(),
        CallAnswer::Flag(true)
    );
}
