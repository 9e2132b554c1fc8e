//! XEP-0313 #archives, XEP-0359, XEP-0441 and what the inbox is told.

use crate::support::*;
use antiphon_routing::archive::{
    ArchiveDefault, ArchiveId, ArchivePrefs, ArchiveRecord, ArchiveState, DOUBTFUL, Edit, Flags,
    InboxChange, InboxEffect, RESENT, Recent, Reference, id_hash,
};
use antiphon_routing::effect::Origin;
use antiphon_routing::store::{UserRecord, Write};
use antiphon_routing::user::{Call, CallAnswer, Switches};
use antiphon_xmpp::Stanza;

const ROMEO: &str = "romeo@montague.example/orchard";

fn on(record: UserRecord, priorities: &[Option<i8>]) -> World {
    let mut world = World::with_sessions(record, priorities);
    world.user.switch(Switches {
        is_archive_on: true,
        is_inbox_on: true,
        ..Switches::default()
    });
    world
}

fn archived(out: &Out) -> Vec<&ArchiveRecord> {
    let records = out.writes.iter().filter_map(|write| match write {
        Write::Archive { record, .. } => Some(&**record),
        _ => None,
    });
    records.collect()
}

fn chat(content: &str) -> Stanza {
    message(ROMEO, ME, "chat", content)
}

fn place(stanza: &Stanza) -> Option<ArchiveId> {
    let id = stanza.child("urn:xmpp:sid:0", "stanza-id")?;
    assert_eq!(id.attr("by"), Some(ME));
    ArchiveId::parse(id.attr("id")?, &jid(ME), 0)
}

#[test]
fn only_messages_worth_keeping_are_archived() {
    let hint = |name| format!("<{name} xmlns='urn:xmpp:hints'/>");
    let body = "<body>x</body>";
    let omemo = "<encrypted xmlns='eu.siacs.conversations.axolotl'/>";
    let whole = "<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reactions:0'/>";
    let quote = "<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'><body start='0' end='1'/></fallback>";
    // Content, then: C counts as unread, S may be searched, - is only kept, empty: is not.
    let rows: [(String, &str); 21] = [
        (body.into(), "CS"),
        (
            format!("{body}<replace xmlns='urn:xmpp:message-correct:0' id='1'/>"),
            "S",
        ),
        (format!("{body}{}", hint("no-copy")), "CS"),
        (format!("{body}{}", hint("no-store")), ""),
        (format!("{body}{}", hint("no-permanent-store")), ""),
        (
            "<active xmlns='http://jabber.org/protocol/chatstates'/>".into(),
            "",
        ),
        ("<request xmlns='urn:xmpp:receipts'/>".into(), ""),
        ("<markable xmlns='urn:xmpp:chat-markers:0'/>".into(), ""),
        (hint("store"), "-"),
        ("<received xmlns='urn:xmpp:receipts' id='1'/>".into(), "-"),
        (
            "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>".into(),
            "-",
        ),
        (format!("{body}{omemo}"), "C"),
        (omemo.into(), "C"),
        (
            format!("{body}<encryption xmlns='urn:xmpp:eme:0' namespace='x'/>"),
            "C",
        ),
        (format!("{body}<x xmlns='jabber:x:encrypted'>y</x>"), "C"),
        (
            format!("{body}<retract xmlns='urn:xmpp:message-retract:1' id='1'/>"),
            "-",
        ),
        (
            format!("{body}<reactions xmlns='urn:xmpp:reactions:0' id='1'/>{whole}"),
            "-",
        ),
        (format!("{body}{whole}"), "-"),
        (format!("{body}{quote}"), "CS"),
        ("<subject>x</subject>".into(), ""),
        (
            "<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>".into(),
            "-",
        ),
    ];
    for (content, expected) in &rows {
        let mut world = on(UserRecord::default(), &[Some(0)]);
        let out = world.receive(chat(content));
        let kept = archived(&out).first().map(|record| {
            let bits = [(Flags::COUNTS, "C"), (Flags::SEARCHABLE, "S")];
            let bits = bits.iter().filter(|(flag, _)| record.flags.has(*flag));
            let text: String = bits.map(|(_, name)| *name).collect();
            if text.is_empty() {
                "-".to_owned()
            } else {
                text
            }
        });
        assert_eq!(kept.unwrap_or_default(), *expected, "{content}");
        assert_eq!(out.delivered.len(), 1, "{content}");
        assert_eq!(
            place(&out.delivered[0].1).is_some(),
            !expected.is_empty(),
            "{content}"
        );
    }
    for type_ in ["headline", "error"] {
        let mut world = on(UserRecord::default(), &[Some(0)]);
        let out = world.receive(message(ROMEO, ME, type_, body));
        assert!(archived(&out).is_empty(), "{type_}");
    }
}

#[test]
fn a_message_to_many_sessions_is_archived_once_and_says_where() {
    let mut world = on(UserRecord::default(), &[Some(0), Some(5), Some(-1)]);
    world.carbons(3);
    let out = world.receive(chat("<body>x</body>"));
    let records = archived(&out);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].peer.as_str(), "romeo@montague.example");
    assert_eq!(records[0].inbox, InboxEffect::Received);
    assert_eq!(records[0].uid, records[0].id);
    let stored = Stanza::from_bytes(&records[0].stanza).unwrap();
    assert!(!stored.has("urn:xmpp:sid:0", "stanza-id"));
    assert_eq!(out.sessions(), [3, 1, 2]);
    let carbon = out.to(3)[0].element();
    assert!(format!("{carbon:?}").contains(&records[0].id.text(&jid(ME), 0)));
    for session in [1, 2] {
        assert_eq!(place(out.to(session)[0]), Some(records[0].id));
    }
}

#[test]
fn what_is_sent_is_archived_under_the_uid_it_travels_with() {
    let mut world = on(UserRecord::default(), &[Some(0), Some(0)]);
    world.carbons(2);
    let out = world.send(
        1,
        "<message to='romeo@montague.example' type='chat' id='a'><body>x</body></message>",
    );
    let records = archived(&out);
    assert_eq!(records.len(), 1);
    assert!(records[0].flags.has(Flags::OUT));
    assert_eq!(records[0].mid, id_hash("a"));
    assert_eq!(records[0].inbox, InboxEffect::Sent);
    assert_eq!(out.routes[0].uid, records[0].uid.0);
    // Whoever gets it has no access to the sender's archive (XEP-0313 #archives_id).
    assert!(!out.routes[0].has("urn:xmpp:sid:0", "stanza-id"));
    let carbon = format!("{:?}", out.to(2)[0].element());
    assert!(carbon.contains(&records[0].id.text(&jid(ME), 0)));
}

#[test]
fn ids_grow_whatever_the_uids_are() {
    let mut world = on(UserRecord::default(), &[Some(0)]);
    let with_uid = |uid: ArchiveId| Stanza {
        uid: uid.0,
        ..chat("<body>x</body>")
    };
    let now = ArchiveId::first_of(world.now_ms);
    let mut last = ArchiveId::default();
    for uid in [
        ArchiveId(now.0 + 7),
        ArchiveId(now.0 + 3),
        ArchiveId(now.0 + 3),
        ArchiveId::default(),
    ] {
        let out = world.receive(with_uid(uid));
        let id = archived(&out)[0].id;
        assert!(id > last);
        assert_eq!(place(&out.delivered[0].1), Some(id));
        world.policy.clock.observe(id);
        last = id;
    }
}

#[test]
fn forged_ids_of_this_archive_are_taken_away() {
    let mut world = on(UserRecord::default(), &[Some(0)]);
    let forged = format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{ME}' id='1'/>");
    let other = "<stanza-id xmlns='urn:xmpp:sid:0' by='room@chat.example' id='2'/>";
    let out = world.receive(chat(&format!("<body>x</body>{forged}{other}")));
    let got = format!("{:?}", out.delivered[0].1.element());
    assert!(!got.contains("\"1\"") && got.contains("room@chat.example"));
    let out = world.send(
        1,
        &format!("<message to='{ROMEO}'><body>x</body>{forged}</message>"),
    );
    assert!(!out.routes[0].has("urn:xmpp:sid:0", "stanza-id"));
}

#[test]
fn a_note_to_oneself_is_one_record_and_nothing_unread() {
    let mut world = on(UserRecord::default(), &[Some(0)]);
    let out = world.send(
        1,
        &format!("<message to='{ME}' type='chat'><body>x</body></message>"),
    );
    assert!(archived(&out).is_empty());
    let out = world.receive(out.routes[0].clone());
    let records = archived(&out);
    assert_eq!((records.len(), records[0].inbox), (1, InboxEffect::Sent));
    assert_eq!(records[0].peer.as_str(), ME);
}

#[test]
fn what_nobody_takes_waits_in_the_archive() {
    let mut world = on(UserRecord::default(), &[]);
    let out = world.receive(chat("<body>x</body>"));
    assert_eq!(archived(&out)[0].offline_at_ms, Some(world.now_ms));
    assert_eq!(out.writes.len(), 1);
    // A full store of offline messages is no reason to refuse what is archived.
    world.policy.offline_messages = 1;
    let out = world.receive(chat("<body>y</body>"));
    assert_eq!(archived(&out)[0].offline_at_ms, None);
    assert!(out.routes.is_empty());
    // What may not be archived is treated as ever.
    let out = world.receive(chat("<body>z</body><no-store xmlns='urn:xmpp:hints'/>"));
    assert_eq!(condition(&out.routes[0]), "service-unavailable");
    let (answer, out) = world.call(Call::ArchiveRead {
        from: ArchiveId(1),
        upto: ArchiveId::MAX,
    });
    answer.unwrap();
    assert!(matches!(out.writes[0], Write::OfflineSeen { .. }));
}

#[test]
fn who_speaks_an_old_dialect_is_told_places_as_it_has_them() {
    const TMP: &str = "urn:xmpp:mam:tmp";
    let mut world = on(UserRecord::default(), &[Some(0)]);
    let marked = |world: &mut World| {
        let forged = format!("<body>x</body><archived xmlns='{TMP}' by='{ME}' id='forged'/>");
        let out = world.receive(chat(&forged));
        let shown = out.to(1)[0].clone();
        let id = |ns, name| {
            shown
                .child(ns, name)
                .map(|e| e.attr("id").unwrap().to_owned())
        };
        (id("urn:xmpp:sid:0", "stanza-id"), id(TMP, "archived"))
    };
    let (place, archived) = marked(&mut world);
    assert!(place.is_some() && archived.is_none());
    world.call(Call::ArchiveOldDialect).0.unwrap();
    let (place, archived) = marked(&mut world);
    assert!(place.is_some() && archived == place);
}

#[test]
fn blocked_and_refused_messages_are_not_archived() {
    let mut world = on(UserRecord::default(), &[Some(0)]);
    world.block(&["romeo@montague.example"]);
    assert!(archived(&world.receive(chat("<body>x</body>"))).is_empty());
    let out = world.send(
        1,
        &format!("<message to='{ROMEO}'><body>x</body></message>"),
    );
    assert!(archived(&out).is_empty());
    let mut world = on(UserRecord::default(), &[Some(0)]);
    let out = world.receive(message(
        ROMEO,
        &format!("{ME}/gone"),
        "normal",
        "<body>x</body>",
    ));
    assert!(archived(&out).is_empty());
    assert!(archived(&World::missing().receive(chat("<body>x</body>"))).is_empty());
}

#[test]
fn preferences_say_whose_messages_are_kept() {
    let mut world = on(record(&[("romeo@montague.example", "both")]), &[Some(0)]);
    let prefs = |default, always: &[&str], never: &[&str]| ArchivePrefs {
        default,
        always: always.iter().map(|j| jid(j)).collect(),
        never: never.iter().map(|j| jid(j)).collect(),
    };
    let romeo = "romeo@montague.example";
    let other = "nurse@capulet.example/x";
    let rows = [
        (prefs(ArchiveDefault::Always, &[], &[]), true, true),
        (prefs(ArchiveDefault::Never, &[], &[]), false, false),
        (prefs(ArchiveDefault::Roster, &[], &[]), true, false),
        (prefs(ArchiveDefault::Never, &[romeo], &[]), true, false),
        (prefs(ArchiveDefault::Always, &[], &[romeo]), false, true),
        (
            prefs(ArchiveDefault::Always, &[ROMEO], &[romeo]),
            true,
            true,
        ),
        (
            prefs(ArchiveDefault::Never, &[romeo, other], &[ROMEO]),
            false,
            true,
        ),
    ];
    for (prefs, keeps_romeo, keeps_other) in rows {
        let (answer, out) = world.call(Call::ArchivePrefsSet {
            prefs: prefs.clone(),
        });
        answer.unwrap();
        assert!(matches!(out.writes[0], Write::ArchivePrefs { .. }));
        let is_kept = |world: &mut World, from| {
            let kept = world.receive(message(from, ME, "chat", "<body>x</body>"));
            let sent = world.send(1, &format!("<message to='{from}'><body>x</body></message>"));
            assert_eq!(archived(&kept).len(), archived(&sent).len());
            !archived(&kept).is_empty()
        };
        assert_eq!(is_kept(&mut world, ROMEO), keeps_romeo, "{prefs:?}");
        assert_eq!(is_kept(&mut world, other), keeps_other, "{prefs:?}");
    }
    let many = (0..1001).map(|n| jid(&format!("u{n}@x.example"))).collect();
    let prefs = ArchivePrefs {
        default: ArchiveDefault::Always,
        always: many,
        never: Vec::new(),
    };
    assert!(world.call(Call::ArchivePrefsSet { prefs }).0.is_err());
    world.user.switch(Switches::default());
    assert!(world.call(Call::ArchivePrefs).0.is_err());
}

#[test]
fn markers_corrections_and_retractions_name_what_they_change() {
    let mut world = on(UserRecord::default(), &[Some(0)]);
    let marker = format!(
        "<message to='{ROMEO}'><displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/></message>"
    );
    let out = world.send(1, &marker);
    let read = |upto| Write::InboxRead {
        owner: jid(ME),
        peer: jid("romeo@montague.example"),
        upto,
    };
    assert_eq!(out.writes[0], read(Reference::Mid(id_hash("m1"))));
    let id = ArchiveId::first_of(77);
    let out = world.send(1, &marker.replace("m1", &id.text(&jid(ME), 0)));
    assert_eq!(out.writes[0], read(Reference::Id(id)));
    // The other side's markers and receipts say nothing about this inbox.
    let out = world.receive(chat("<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>"));
    assert_eq!(out.writes.len(), 1);
    assert_eq!(archived(&out)[0].inbox, InboxEffect::None);

    let out = world.receive(chat(
        "<body>x</body><replace xmlns='urn:xmpp:message-correct:0' id='m1'/>",
    ));
    assert!(matches!(
        &out.writes[1],
        Write::ArchiveEdit { is_out: false, edit: Edit::Supersede, target: Reference::Mid(mid), .. }
            if *mid == id_hash("m1")
    ));
    let out = world.send(1, &format!("<message id='r' to='{ROMEO}'><retract xmlns='urn:xmpp:message-retract:1' id='m1'/></message>"));
    assert!(matches!(
        &out.writes[1],
        Write::ArchiveEdit { is_out: true, edit: Edit::Retract { id: Some(id), .. }, .. } if &**id == "r"
    ));
}

#[test]
fn a_message_sent_again_on_another_stream_is_archived_once() {
    let mut world = on(UserRecord::default(), &[Some(0), Some(0)]);
    let send = |world: &mut World, session, id: &str| {
        world.send_counted(
            session,
            &format!("<message id='{id}' to='{ROMEO}' type='chat'><body>x</body></message>"),
        )
    };
    let first = send(&mut world, 1, "a");
    assert_eq!(first.origins.len(), 1);
    let uid = first.routes[0].uid;
    // On the same stream it is another message, as clients without much sense send them.
    assert_eq!(archived(&send(&mut world, 1, "a")).len(), 1);
    let uid_2 = world.policy.clock.next(0).0 - 1;
    let again = send(&mut world, 2, "a");
    assert!(archived(&again).is_empty());
    assert!(again.routes[0].uid == uid_2 | RESENT || again.routes[0].uid == uid | RESENT);
    assert_eq!(archived(&send(&mut world, 2, "b")).len(), 1);
    // Ended in order: nothing is sent again.
    assert!(world.user.may_be_resent());
    world.user.confirmed(id(1));
    assert_eq!(archived(&send(&mut world, 2, "a")).len(), 1);
}

#[test]
fn all_that_a_session_had_unsaved_is_known_when_it_is_sent_again() {
    let mut world = on(UserRecord::default(), &[Some(0), Some(0), Some(0)]);
    world.now_ms = 1_000_000;
    let text =
        |n| format!("<message id='m{n}' to='{ROMEO}' type='chat'><body>{n}</body></message>");
    for n in 0..400 {
        assert_eq!(archived(&world.send_counted(1, &text(n))).len(), 1);
    }
    // Another one has its own, between.
    for n in 0..400 {
        let out = world.send_counted(2, &text(n));
        assert!(archived(&out).is_empty(), "{n}");
        let own = format!("own{n}");
        world.send_counted(3, &text(1000 + n).replace("m1", &own));
    }
    world.user.confirmed(id(1));
    world.user.confirmed(id(3));
    assert!(!world.user.may_be_resent());
    assert_eq!(archived(&world.send_counted(2, &text(7))).len(), 1);
    assert!(archived(&world.send_counted(1, &text(7))).is_empty());
}

#[test]
fn what_a_dead_process_archived_is_known() {
    let uid = ArchiveId::first_of(999_999_999_000);
    let origin = "<origin-id xmlns='urn:xmpp:sid:0' id='o1'/>";
    let text = format!("<message id='a' to='{ROMEO}' type='chat'><body>x</body>{origin}</message>");
    let dup = archived(&on(UserRecord::default(), &[Some(0)]).send(1, &text))[0].dup;
    let recent = |dup, is_out| Recent {
        id: uid,
        uid,
        dup,
        is_out,
        has_waited: false,
    };
    let archive = ArchiveState {
        newest: uid,
        recent: vec![recent(dup, true)],
        ..ArchiveState::default()
    };
    let mut world = on(
        UserRecord {
            archive: archive.clone(),
            ..UserRecord::default()
        },
        &[Some(0)],
    );
    let out = world.send(1, &text.replace("'a'", "'b'"));
    assert!(archived(&out).is_empty());
    assert_eq!(out.routes[0].uid, uid.0 | RESENT);
    // The recipient's side knows it by its uid, and passes it on under its old id.
    let archive = ArchiveState {
        recent: vec![recent(0, false)],
        ..archive
    };
    let mut world = on(
        UserRecord {
            archive,
            ..UserRecord::default()
        },
        &[Some(0)],
    );
    let out = world.receive(Stanza {
        uid: uid.0 | RESENT,
        ..chat("<body>x</body>")
    });
    assert!(archived(&out).is_empty());
    assert_eq!(place(&out.delivered[0].1), Some(uid));
}

#[test]
fn what_only_the_recipients_archive_had_is_known_there() {
    let first = on(UserRecord::default(), &[Some(0)]).receive(chat("<body>x</body>"));
    let uid = ArchiveId::first_of(999_999_999_000);
    let archive = ArchiveState {
        newest: uid,
        recent: vec![Recent {
            id: uid,
            uid,
            dup: archived(&first)[0].dup,
            is_out: false,
            has_waited: false,
        }],
        ..ArchiveState::default()
    };
    let record = || UserRecord {
        archive: archive.clone(),
        ..UserRecord::default()
    };
    // The sender's archive, which lost it, gave it another uid.
    let again = |content| Stanza {
        uid: uid.0 + 5,
        ..chat(content)
    };
    let out = on(record(), &[Some(0)]).receive(again("<body>x</body>"));
    assert!(archived(&out).is_empty());
    assert_eq!(place(&out.delivered[0].1), Some(uid));
    // Another's, or with another content, it is another message.
    let other = Stanza {
        uid: uid.0 + 5,
        ..message("bo@montague.example", ME, "chat", "<body>x</body>")
    };
    for stanza in [again("<body>y</body>"), other] {
        let out = on(record(), &[Some(0)]).receive(stanza);
        assert_eq!(archived(&out).len(), 1);
    }
}

#[test]
fn what_a_dead_home_stored_for_nobody_waits_once() {
    let uid = ArchiveId::first_of(999_999_999_000);
    let again = |bits| Stanza {
        uid: uid.0 | bits,
        ..chat("<body>x</body>")
    };
    let taken_up = |has_waited| {
        let recent = Recent {
            id: uid,
            uid,
            dup: 0,
            is_out: false,
            has_waited,
        };
        let archive = ArchiveState {
            newest: uid,
            recent: vec![recent],
            ..ArchiveState::default()
        };
        let record = UserRecord {
            archive,
            ..UserRecord::default()
        };
        let world = on(record, &[]);
        world.policy.clock.take_lane(0);
        world
    };
    let waits = |out: &Out| {
        let mut appended = out.writes.iter().filter_map(|write| match write {
            Write::OfflineAppend { stanza, .. } => Some(Stanza::from_bytes(stanza).unwrap()),
            _ => None,
        });
        assert!(archived(out).is_empty());
        appended.next()
    };
    // Nobody says that it waits: it does from now on, under its old id, and counts to its sender.
    let mut world = taken_up(false);
    let out = world.receive(again(DOUBTFUL));
    assert_eq!(waits(&out).and_then(|s| place(&s)), Some(uid));
    assert!(waits(&world.receive(again(0))).is_none());
    // One that came and was called done is only sent again.
    assert!(waits(&taken_up(false).receive(again(RESENT))).is_none());
    // The former home has said that it waits.
    assert!(waits(&taken_up(true).receive(again(0))).is_none());
}

#[test]
fn a_record_says_that_its_message_waits() {
    let flags = |priorities: &[Option<i8>]| {
        let out = on(UserRecord::default(), priorities).receive(chat("<body>x</body>"));
        archived(&out)[0].flags
    };
    assert!(flags(&[]).has(Flags::WAITED));
    assert!(!flags(&[Some(0)]).has(Flags::WAITED));
}

/// One node of a cluster, and the messages that come from another.
fn in_a_cluster() -> World {
    let world = on(UserRecord::default(), &[Some(0)]);
    world.policy.clock.take_lane(0);
    world
}

fn at(ms: u64, bits: u64, id: &str) -> Stanza {
    let mut stanza = chat("<body>x</body>");
    stanza.id = Some(id.into());
    stanza.uid = (ArchiveId::first_of(ms).0 + 1) | bits;
    stanza
}

#[test]
fn what_a_dead_home_has_passed_on_goes_to_the_record_that_there_is() {
    let mut world = in_a_cluster();
    world.now_ms = 1_000_000;
    let first = archived(&world.receive(at(1_000_000, 0, "a")))[0].clone();
    let last = archived(&world.receive(at(1_000_001, 0, "b")))[0].id;
    world.policy.clock.observe(last);
    // From the sender's next home, which gave it another uid, and knows it when it comes again.
    for bits in [DOUBTFUL, RESENT] {
        let out = world.receive(at(1_005_000, bits, "a"));
        let again = archived(&out)[0].clone();
        // The store drops it by its uid. If it has refused the first, this is not put before others.
        assert_eq!(again.uid, first.uid);
        assert!(again.id > last);
        assert_eq!(place(&out.delivered[0].1), Some(first.id));
    }
    // Another id is another message, and so is the same one later or where nobody died.
    for other in [
        at(1_005_000, DOUBTFUL, "d"),
        at(1_070_000, DOUBTFUL, "a"),
        at(1_006_000, 0, "a"),
    ] {
        let uid = other.uid & !DOUBTFUL;
        assert_eq!(archived(&world.receive(other))[0].uid.0, uid);
    }
}

#[test]
fn all_that_came_in_the_minute_before_a_death_is_known() {
    let mut world = in_a_cluster();
    world.now_ms = 1_000_000;
    let first = archived(&world.receive(at(1_000_000, 0, "first")))[0].uid;
    for n in 0..1000 {
        world.now_ms += 30;
        world.receive(at(world.now_ms, 0, &format!("n{n}")));
    }
    let again = world.receive(at(world.now_ms + 1, DOUBTFUL, "first"));
    assert_eq!(archived(&again)[0].uid, first);
    // What is older gives way.
    world.now_ms += 61_000;
    world.receive(at(world.now_ms, 0, "late"));
    let uid = at(world.now_ms + 1, DOUBTFUL, "n5");
    let origin = |stanza: Stanza, id: &str| {
        let mut other = chat(&format!(
            "<body>x</body><origin-id xmlns='urn:xmpp:sid:0' id='{id}'/>"
        ));
        other.uid = stanza.uid;
        other
    };
    let forgotten = uid.uid & !DOUBTFUL;
    assert_eq!(archived(&world.receive(uid))[0].uid.0, forgotten);
    // By an origin-id it is known for as long as it is remembered.
    let marked = archived(&world.receive(origin(at(world.now_ms + 2, 0, ""), "o")))[0].uid;
    world.now_ms += 300_000;
    let again = world.receive(origin(at(world.now_ms, DOUBTFUL, ""), "o"));
    assert_eq!(archived(&again)[0].uid, marked);
}

#[test]
fn a_conversation_put_away_comes_back_with_a_notice() {
    let filed = vec![id_hash("romeo@montague.example")];
    let archive = ArchiveState {
        filed,
        ..ArchiveState::default()
    };
    let mut world = on(
        UserRecord {
            archive,
            ..UserRecord::default()
        },
        &[Some(0)],
    );
    assert_eq!(world.receive(chat("<body>x</body>")).moved, 1);
    assert_eq!(world.receive(chat("<body>x</body>")).moved, 0);
    let change = InboxChange {
        in_box: Some("archive".into()),
        ..InboxChange::default()
    };
    let (answer, out) = world.call(Call::InboxSet {
        peer: jid(ROMEO),
        change,
    });
    assert_eq!(answer.unwrap(), CallAnswer::Done);
    assert!(matches!(&out.writes[0], Write::InboxSet { peer, .. } if peer.is_bare()));
    // What counts for nothing leaves it where it is.
    assert_eq!(
        world
            .receive(chat("<received xmlns='urn:xmpp:receipts' id='1'/>"))
            .moved,
        0
    );
    assert_eq!(world.receive(chat("<body>x</body>")).moved, 1);
}

#[test]
fn each_record_carries_the_stanza_that_waits_for_it() {
    let mut world = on(UserRecord::default(), &[Some(0)]);
    let origin = Origin {
        session: id(44),
        seq: 3,
    };
    let out = world.receive_as(chat("<body>x</body>"), Some(origin));
    assert_eq!(out.origins, [origin]);
    assert_eq!(out.refused.len(), 1);
}
