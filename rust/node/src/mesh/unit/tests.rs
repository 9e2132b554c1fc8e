use super::*;
use antiphon_xmpp::StanzaKind;

fn jid() -> Jid {
    Jid::parse("juliet@example.org/balcony").unwrap()
}

fn stanza() -> Stanza {
    Stanza::new(StanzaKind::Message).from(jid()).with_id("1")
}

const SESSION: u64 = 77;
const ID: ResumeId = [7; 16];

#[test]
fn every_kind_for_a_home_comes_out_as_it_went_in() {
    let units = [
        Unit::Stanza {
            session: SESSION,
            seq: 300,
            stanza: stanza(),
        },
        Unit::Route { stanza: stanza() },
        Unit::Bind {
            session: SESSION,
            jid: jid(),
            is_temporary: true,
            knows_new: true,
        },
        Unit::End {
            session: SESSION,
            jid: jid(),
            is_confirmed: false,
            stanzas: vec![(5, stanza()), (6, stanza())],
        },
        Unit::Received {
            owner: jid(),
            ids: vec![1, 1 << 40],
        },
        Unit::Leg {
            session: SESSION,
            seq: 4,
            stanza: stanza(),
        },
        Unit::Resume {
            session: SESSION,
            account: jid(),
            id: ID,
        },
        Unit::Move {
            session: SESSION,
            jid: jid(),
            to: SessionId { node: 3, number: 9 },
        },
    ];
    for unit in units {
        let bytes = unit.pack_for(4095);
        assert_eq!(head_of(&bytes), Some((4095, 0)));
        let again = of_generation(&bytes, 77);
        assert_eq!(head_of(&again), Some((4095, 77)));
        assert_eq!(Unit::unpack(&again), Ok(unit));
    }
}

#[test]
fn a_login_by_an_earlier_version_knows_nothing_of_a_new_session() {
    let unit = Unit::Bind {
        session: SESSION,
        jid: jid(),
        is_temporary: false,
        knows_new: true,
    };
    let mut bytes = unit.pack_for(1).to_vec();
    bytes.pop();
    let unpacked = Unit::unpack(&bytes);
    assert!(
        matches!(
            unpacked,
            Ok(Unit::Bind {
                knows_new: false,
                ..
            })
        ),
        "{unpacked:?}"
    );
}

#[test]
fn every_kind_for_a_node_comes_out_as_it_went_in() {
    let session = SESSION;
    let refused = StanzaError::from(StanzaCondition::ResourceConstraint).with_text("too many");
    let units = [
        Unit::Deliver {
            session,
            packed: &[1, 2, 3],
        },
        Unit::Close {
            session,
            condition: StreamCondition::Conflict,
            text: Some("taken"),
        },
        Unit::Close {
            session,
            condition: StreamCondition::SystemShutdown,
            text: None,
        },
        Unit::Bound {
            session,
            refused: None,
        },
        Unit::Bound {
            session,
            refused: Some(refused),
        },
        Unit::Keep {
            session,
            keepsake: &[9],
        },
        Unit::Flush,
        Unit::Ready { shards: vec![3, 9] },
        Unit::Answer { stanza: stanza() },
        Unit::Component {
            domain: jid(),
            is_up: true,
        },
        Unit::ToComponent { stanza: stanza() },
        Unit::Account { jid: jid() },
        Unit::Shadow {
            session,
            jid: jid(),
            keepsake: &[7],
        },
        Unit::ShadowEnd {
            session,
            jid: jid(),
        },
    ];
    for unit in units {
        let bytes = unit.pack();
        assert_eq!(head_of(&bytes), None);
        assert_eq!(Unit::unpack(&bytes), Ok(unit));
    }
}

#[test]
fn every_kind_about_a_session_that_moves_comes_out_as_it_went_in() {
    let session = SESSION;
    let units = [
        Unit::Fetch {
            account: jid(),
            id: ID,
            to: SessionId { node: 3, number: 9 },
            is_pushed: true,
        },
        Unit::Asked {
            session,
            nodes: vec![2, 70_000],
        },
        Unit::Fetched { session, h: None },
        Unit::Fetched {
            session,
            h: Some(0),
        },
        Unit::Fetched {
            session,
            h: Some(u32::MAX),
        },
        Unit::Coming {
            session,
            jid: jid(),
        },
        Unit::Moved {
            session,
            is_moved: true,
        },
        Unit::State {
            session,
            is_last: false,
            part: &[1, 2, 3],
        },
        Unit::Take {
            account: jid(),
            id: ID,
        },
    ];
    for unit in units {
        let bytes = unit.pack();
        assert_eq!(head_of(&bytes), None);
        assert_eq!(Unit::unpack(&bytes), Ok(unit));
    }
}

#[test]
fn every_kind_of_a_hand_over_comes_out_as_it_went_in() {
    let id = SessionId { node: 3, number: 4 };
    let known = || Known {
        id,
        jid: jid(),
        keepsake: vec![1, 2],
        last: 9,
    };
    let origin = Origin {
        session: id,
        seq: 12,
    };
    let leg = Leg {
        origin,
        stanza: stanza(),
    };
    let units = [
        Unit::Report {
            shards: vec![(1, 2), (3, 4)],
            sessions: vec![known(), known()],
            is_last: true,
        },
        Unit::Handed {
            shard: 7,
            since: 8,
            sessions: vec![known()],
            legs: vec![leg],
            ended: vec![origin],
        },
        Unit::Released {
            shard: 7,
            since: 8,
            is_clean: true,
            dirty: 5,
            clock: 1 << 50,
            died_ms: 1 << 40,
        },
    ];
    for unit in units {
        assert_eq!(Unit::unpack(&unit.pack()), Ok(unit));
    }
}

#[test]
fn garbage_is_no_unit() {
    for garbage in [
        &[][..],
        &[255],
        &[1],
        &[20, 0, 0, 1, 0, 0, 0, 0],
        &[HANDED, 1, 1, 0xff],
    ] {
        assert_eq!(Unit::unpack(garbage), Err(Unreadable));
    }
}

#[test]
fn a_home_of_an_earlier_version_does_not_say_what_has_ended() {
    let unit = Unit::Handed {
        shard: 7,
        since: 8,
        sessions: Vec::new(),
        legs: Vec::new(),
        ended: Vec::new(),
    };
    let mut bytes = unit.pack().to_vec();
    // How many there are.
    assert_eq!(bytes.pop(), Some(0));
    assert_eq!(Unit::unpack(&bytes), Ok(unit));
}
