//! Sessions that go on under another name, and entities that go on elsewhere.

use crate::support::*;
use antiphon_routing::effect::Effects;
use antiphon_routing::session::SessionId;
use antiphon_routing::store::{OfflineRecord, UserRecord};
use antiphon_routing::user::{NEW_KEEPSAKE, Rebound};

const ROMEO: &str = "romeo@montague.example/orchard";

fn elsewhere(number: u64) -> SessionId {
    SessionId { node: 7, number }
}

fn chat(body: &str) -> antiphon_xmpp::Stanza {
    message(ROMEO, ME, "chat", &format!("<body>{body}</body>"))
}

/// As [`antiphon_routing::user::User::move_session`]; what came of it.
fn go(world: &mut World, from: u64, to: SessionId) -> (bool, Effects) {
    let mut fx = Effects::default();
    let policy = world.policy.clone();
    let is_moved = world.user.move_session(id(from), to, &policy, &mut fx);
    (is_moved, fx)
}

#[test]
fn a_session_that_goes_on_under_another_name_is_what_it_was_and_nobody_hears_of_it() {
    let record = record(&[("romeo@montague.example", "both")]);
    let mut world = World::with_sessions(record, &[Some(5), Some(1)]);
    world.carbons(1);
    world.carbons(2);
    let known = world.user.keepsake(id(1)).unwrap();
    let _ = world.user.take_changed().count();
    let (is_moved, fx) = go(&mut world, 1, elsewhere(40));
    assert!(is_moved && fx.local.is_empty() && fx.routes.is_empty());
    assert!(!world.user.has_session(id(1)) && world.user.has_session(elsewhere(40)));
    assert_eq!(world.user.keepsake(elsewhere(40)), Some(known));
    let changed: Vec<SessionId> = world.user.take_changed().collect();
    assert_eq!(changed, [elsewhere(40)]);
    // Messages and carbons find it as before.
    let full = jid(&format!("{ME}/r1"));
    assert_eq!(world.user.sessions()[0], (elsewhere(40), full));
    assert_eq!(world.receive(chat("to both")).sessions(), [40, 2]);
    // Again, and of one that is not known.
    assert!(go(&mut world, 1, elsewhere(40)).0);
    assert!(!go(&mut world, 3, elsewhere(41)).0);
}

#[test]
fn of_a_session_that_is_known_by_both_names_the_older_goes() {
    let mut world = World::with_sessions(UserRecord::default(), &[Some(1), Some(0)]);
    let (is_moved, fx) = go(&mut world, 1, id(2));
    assert!(is_moved && fx.local.is_empty() && fx.routes.is_empty());
    assert_eq!(world.user.sessions().len(), 1);
}

#[test]
fn offline_messages_are_read_on_for_a_session_that_moves_meanwhile() {
    let mut world = World::new(UserRecord {
        offline: 4,
        ..UserRecord::default()
    });
    let stored = |id: u64| OfflineRecord {
        id,
        at_ms: id * 1000,
        archived: None,
        stanza: chat(&format!("offline {id}")).to_bytes().into(),
    };
    world.bind(1);
    assert_eq!(world.available(1, 0).reads, [(1, 0)]);
    let page = world.loaded(1, vec![stored(1), stored(2)]);
    assert_eq!(page.reads, [(1, 2)]);
    assert!(world.receive(chat("live")).delivered.is_empty());
    let (_, fx) = go(&mut world, 1, id(9));
    assert_eq!(Out::of(fx).reads, [(9, 2)]);
    // The page of before finds nobody, that of now what waited.
    assert!(world.loaded(1, vec![stored(3), stored(4)]).is_empty());
    let page = world.loaded(9, vec![stored(3), stored(4)]);
    let ids: Vec<_> = page
        .offline
        .iter()
        .map(|(session, id, _)| (*session, *id))
        .collect();
    assert_eq!(ids, [(9, 3), (9, 4)]);
    assert_eq!(world.loaded(9, Vec::new()).sessions(), [9]);
}

#[test]
fn an_entity_elsewhere_knows_a_session_as_the_former_one_did() {
    let contacts = [("romeo@montague.example", "both")];
    let mut world = World::with_sessions(record(&contacts), &[Some(5)]);
    world.carbons(1);
    world.interested(1);
    world.send(1, "<presence to='nurse@capulet.example'/>");
    let (keepsake, full) = (world.user.keepsake(id(1)).unwrap(), world.user.sessions());
    let full = &full[0].1;
    let mut next = World::new(record(&contacts));
    let rebind = |next: &mut World, id, keepsake: &[u8]| next.user.rebind(id, full, keepsake);
    assert_eq!(rebind(&mut next, id(1), &keepsake), Ok(Rebound::Done));
    assert_eq!(rebind(&mut next, id(1), &keepsake), Ok(Rebound::Done));
    assert_eq!(next.user.keepsake(id(1)), Some(keepsake.clone()));
    assert_eq!(next.receive(chat("hello")).sessions(), [1]);
    // Who got directed presence hears of the end.
    let mut told = next.unbind(1).routed();
    told.sort();
    assert_eq!(told.len(), 2, "{told:?}");
    // Of two with one address the newer stays.
    rebind(&mut next, elsewhere(2), &keepsake).unwrap();
    let replaced = rebind(&mut next, id(1), &keepsake);
    assert_eq!(replaced, Ok(Rebound::Replaced(id(1))));
    let newest = SessionId { node: 9, number: 1 };
    let replaced = rebind(&mut next, newest, &keepsake);
    assert_eq!(replaced, Ok(Rebound::Replaced(elsewhere(2))));
    assert_eq!(next.user.sessions().len(), 1);
    for garbage in [&[][..], &keepsake[..keepsake.len() - 1], &[255; 40]] {
        assert!(rebind(&mut next, elsewhere(77), garbage).is_err());
    }
    let mut nobody = World::missing();
    assert_eq!(
        rebind(&mut nobody, id(1), &keepsake),
        Ok(Rebound::NoAccount)
    );
}

#[test]
fn nobody_is_told_of_a_session_before_there_is_more_to_it_than_its_address() {
    let mut world = World::with_sessions(UserRecord::default(), &[None]);
    let told = |world: &mut World| world.user.take_changed().collect::<Vec<SessionId>>();
    assert_eq!(world.user.keepsake(id(1)), Some(NEW_KEEPSAKE.to_vec()));
    assert_eq!(told(&mut world), []);
    assert!(!world.user.was_told(id(1)));
    world.send(1, "<presence/>");
    assert_eq!(told(&mut world), [id(1)]);
    assert_eq!(told(&mut world), []);
    // As it was at first; but by now somebody knows it otherwise.
    world.send(1, "<presence type='unavailable'/>");
    assert_eq!(world.user.keepsake(id(1)), Some(NEW_KEEPSAKE.to_vec()));
    assert_eq!(told(&mut world), [id(1)]);
    assert!(world.user.was_told(id(1)));
    // Unless its node knows not even that.
    let mut world = World::with_sessions(UserRecord::default(), &[None]);
    world.user.tell_again(id(1));
    assert_eq!(told(&mut world), [id(1)]);
    // Of one that is not here it is not known.
    assert!(world.user.was_told(id(9)));
}
