//! Sessions that go on under another name, and entities that go on elsewhere.

use crate::support::*;
use antiphon_routing::archive::{ArchiveId, ArchiveState, ArchivedMessage, Flags, Recent};
use antiphon_routing::effect::Effects;
use antiphon_routing::session::SessionId;
use antiphon_routing::store::{OfflineRecord, UserRecord};
use antiphon_routing::user::{NEW_KEEPSAKE, Rebound, Switches, note_handed};
use antiphon_xmpp::Stanza;

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

fn offline(id: u64) -> OfflineRecord {
    OfflineRecord {
        id,
        at_ms: id * 1000,
        archived: None,
        stanza: chat(&format!("offline {id}")).to_bytes().into(),
    }
}

fn archiving(archive: ArchiveState) -> World {
    let mut world = World::new(UserRecord {
        offline: 4,
        archive,
        ..UserRecord::default()
    });
    world.user.switch(Switches {
        is_archive_on: true,
        ..Switches::default()
    });
    world
}

fn bodies<'a>(stanzas: impl IntoIterator<Item = &'a Stanza>) -> Vec<String> {
    let body = |s: &Stanza| s.child("jabber:client", "body").map(|b| b.text());
    stanzas.into_iter().filter_map(body).collect()
}

/// A session that has been given two of its offline messages, and two live ones wait.
fn reading() -> (World, Vec<u8>) {
    let mut world = archiving(ArchiveState::default());
    world.bind(1);
    world.available(1, 0);
    let begun = world.user.keepsake(id(1)).unwrap();
    let _ = world.user.take_changed().count();
    world.loaded(1, vec![offline(3), offline(5)]);
    for body in ["live 1", "live 2"] {
        assert!(world.receive(chat(body)).delivered.is_empty());
    }
    (world, begun)
}

/// The next home of the session, and from where on it reads.
fn next_home(keepsake: &[u8], archive: ArchiveState) -> (World, Vec<(u64, u64)>) {
    let mut next = archiving(archive);
    let full = jid(&format!("{ME}/r1"));
    assert_eq!(next.user.rebind(id(1), &full, keepsake), Ok(Rebound::Done));
    let mut fx = Effects::default();
    next.user.read_on(id(1), &next.policy, &mut fx);
    (next, Out::of(fx).reads)
}

#[test]
fn offline_messages_are_read_on_where_an_entity_goes_with_what_waits_behind_them() {
    let (mut world, _) = reading();
    let (_, _, kept, told) = world.user.hand_over().remove(0);
    // What its node keeps has no messages in it.
    assert!(kept.len() < told.len());
    let (mut next, reads) = next_home(&told, ArchiveState::default());
    assert_eq!(reads, [(1, 5)]);
    assert!(next.receive(chat("live 3")).delivered.is_empty());
    let page = next.loaded(1, vec![offline(8)]);
    assert_eq!(page.offline.len(), 1);
    let end = next.loaded(1, Vec::new());
    assert_eq!(bodies(end.to(1)), ["live 1", "live 2", "live 3"]);
    // The node of its socket is told that it has them all; once more, nothing comes again.
    assert_eq!(next.user.take_changed().count(), 1);
    assert_eq!(next.available(1, 0).reads, [(1, 0)]);
    let again = next.loaded(1, vec![offline(3), offline(5), offline(8)]);
    assert!(again.offline.is_empty());
}

#[test]
fn offline_messages_that_only_a_dead_home_had_given_are_read_again() {
    let (mut world, begun) = reading();
    world.loaded(1, Vec::new());
    // Both the beginning and the end are news.
    assert_eq!(world.user.take_changed().count(), 1);
    let ended = world.user.keepsake(id(1)).unwrap();
    // What its node was told, what it has, and from where on it is read.
    let rows: [(&[u8], u64, Option<u64>); 6] = [
        (&begun, 0, Some(0)),
        (&begun, 3, Some(3)),
        (&begun, 5, Some(5)),
        (&ended, 0, Some(0)),
        (&ended, 3, Some(3)),
        (&ended, 5, None),
    ];
    for (keepsake, last, expected) in rows {
        let mut keepsake = keepsake.to_vec();
        note_handed(&mut keepsake, last);
        let (mut next, reads) = next_home(&keepsake, ArchiveState::default());
        let after = reads.iter().map(|(_, after)| *after).next();
        assert_eq!(after, expected, "{last}");
        // What it was given is not given again.
        if expected.is_none() {
            assert_eq!(next.available(1, 0).reads, [(1, 0)]);
            let page = next.loaded(1, vec![offline(3), offline(5)]);
            assert!(page.offline.is_empty());
        }
    }
}

#[test]
fn a_keepsake_of_an_earlier_version_says_less() {
    let (mut world, begun) = reading();
    // Without the three numbers at its end, and what says that they are there.
    let mut old = begun[..begun.len() - 3].to_vec();
    old[0] &= 0b1111;
    let (mut next, reads) = next_home(&old, ArchiveState::default());
    assert!(reads.is_empty());
    assert_eq!(next.user.missed_behind(id(1), 0), None);
    assert_eq!(next.receive(chat("hello")).sessions(), [1]);
    // Its node is of this one.
    note_handed(&mut old, 5);
    let (mut next, reads) = next_home(&old, ArchiveState::default());
    assert!(reads.is_empty());
    next.available(1, 0);
    let page = next.loaded(1, vec![offline(3), offline(5), offline(8)]);
    assert_eq!(page.offline.len(), 1);
    let full = jid(&format!("{ME}/r1"));
    let told = world.user.hand_over().remove(0).3;
    for cut in [begun.len() - 1, told.len() - 1] {
        let garbage = &told[..cut];
        assert!(world.user.rebind(id(7), &full, garbage).is_err());
    }
}

#[test]
fn what_a_dead_home_had_stored_comes_behind_the_offline_messages() {
    let (world, begun) = reading();
    let newest = world.user.newest();
    let archive = ArchiveState {
        newest,
        ..ArchiveState::default()
    };
    let mut keepsake = begun.clone();
    note_handed(&mut keepsake, 3);
    let (mut next, reads) = next_home(&keepsake, archive.clone());
    assert_eq!(reads, [(1, 3)]);
    assert_eq!(next.user.missed_behind(id(1), 0), Some(ArchiveId(0)));
    let message = |n: u64, flags, to: &str| ArchivedMessage {
        id: ArchiveId(newest.0 - 10 + n),
        flags,
        stanza: message(ROMEO, to, "chat", &format!("<body>{n}</body>"))
            .to_bytes()
            .into(),
    };
    let plain = Flags::default();
    let messages = vec![
        message(1, Flags::OUT, ME),
        message(2, Flags::WAITED, ME),
        message(3, plain, ME),
        message(4, plain, &format!("{ME}/r2")),
        message(5, plain, &format!("{ME}/r1")),
    ];
    let mut fx = Effects::default();
    next.user.catch_up(id(1), messages, &next.policy, &mut fx);
    assert!(Out::of(fx).is_empty());
    next.receive(chat("live"));
    let end = next.loaded(1, Vec::new());
    assert_eq!(bodies(end.to(1)), ["3", "5", "live"]);
    // Where it is handed over, nothing is missed; nor by one that nobody can reach.
    let (mut world, _) = reading();
    let told = world.user.hand_over().remove(0).3;
    let (next, _) = next_home(&told, archive.clone());
    assert_eq!(next.user.missed_behind(id(1), 0), None);
    let mut world = archiving(archive.clone());
    world.bind(1);
    world.available(1, -1);
    let (next, _) = next_home(&world.user.keepsake(id(1)).unwrap(), archive);
    assert_eq!(next.user.missed_behind(id(1), 0), None);
}

#[test]
fn a_session_that_was_given_nothing_yet_misses_what_came_since_it_was_there() {
    let uid = |n: u64| ArchiveId::first_of(1_000_000 + n);
    let recent = |n| Recent {
        id: ArchiveId(uid(n).0 + 1),
        uid: uid(n),
        dup: n,
        is_out: false,
        has_waited: false,
    };
    let at = |n| ArchiveState {
        newest: recent(n).id,
        recent: (1..=n).map(recent).collect(),
        ..ArchiveState::default()
    };
    let mut world = archiving(at(2));
    world.bind(1);
    world.available(1, 0);
    world.loaded(1, Vec::new());
    let keepsake = world.user.keepsake(id(1)).unwrap();
    let missed = |newest, last| {
        let (next, _) = next_home(&keepsake, at(newest));
        next.user.missed_behind(id(1), last)
    };
    // By the archive's newest, and the uid of what it was given last.
    assert_eq!(missed(2, 0), None);
    assert_eq!(missed(3, 0), Some(recent(2).id));
    assert_eq!(missed(5, uid(4).0), Some(recent(4).id));
    assert_eq!(missed(5, uid(5).0), None);
    // From before it was there; what waited came as offline messages.
    assert_eq!(missed(5, uid(1).0), Some(recent(2).id));
    // Too long ago for anybody to know.
    assert_eq!(missed(5, uid(9).0), None);
    // One that goes on elsewhere takes along what it was given.
    world.receive(chat("live"));
    world.user.has_all(id(1));
    let newest = world.user.newest();
    let (next, _) = next_home(
        &world.user.keepsake(id(1)).unwrap(),
        ArchiveState {
            newest,
            ..ArchiveState::default()
        },
    );
    assert_eq!(next.user.missed_behind(id(1), 0), None);
}
