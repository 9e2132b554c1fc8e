//! Roster, subscription requests, block list, last activity: what the record of a user holds.

use super::*;
use antiphon_routing::store::{Request, RosterItem, Subscription};

fn item(contact: &str) -> RosterItem {
    RosterItem {
        jid: jid(contact),
        name: "Juliet".into(),
        groups: Box::new(["Friends".into(), "Lovers".into()]),
        subscription: Subscription {
            to: true,
            from: true,
            ..Subscription::default()
        },
    }
}

fn roster_put(owner: &Jid, version: u64, item: RosterItem) -> Write {
    Write::RosterPut {
        owner: owner.clone(),
        version,
        item,
    }
}

pub fn a_roster_item_comes_back_as_it_was_put<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    put(
        &*store,
        roster_put(&romeo, 41, item("juliet@capulet.example")),
    )
    .unwrap();
    let record = record(&*store, &romeo);
    assert_eq!(record.roster, [item("juliet@capulet.example")]);
    assert_eq!(record.roster_version, 41);
}

pub fn a_roster_item_is_replaced_as_a_whole<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    put(
        &*store,
        roster_put(&romeo, 1, item("juliet@capulet.example")),
    )
    .unwrap();
    let bare = RosterItem {
        name: "".into(),
        groups: Box::new([]),
        subscription: Subscription::default(),
        ..item("juliet@capulet.example")
    };
    put(&*store, roster_put(&romeo, 2, bare.clone())).unwrap();
    let record = record(&*store, &romeo);
    assert_eq!(record.roster, [bare]);
    assert_eq!(record.roster_version, 2);
}

pub fn a_removed_roster_item_is_gone<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    put(
        &*store,
        roster_put(&romeo, 1, item("juliet@capulet.example")),
    )
    .unwrap();
    put(
        &*store,
        roster_put(&romeo, 2, item("nurse@capulet.example")),
    )
    .unwrap();
    for version in [3, 4] {
        let remove = Write::RosterRemove {
            owner: romeo.clone(),
            version,
            jid: jid("juliet@capulet.example"),
        };
        put(&*store, remove).unwrap();
        let record = record(&*store, &romeo);
        assert_eq!(record.roster, [item("nurse@capulet.example")]);
        assert_eq!(record.roster_version, version);
    }
}

pub fn every_subscription_state_survives<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let expected: Vec<RosterItem> = (0..16u8)
        .map(|bits| RosterItem {
            subscription: Subscription {
                to: bits & 1 != 0,
                from: bits & 2 != 0,
                pending_out: bits & 4 != 0,
                approved: bits & 8 != 0,
            },
            ..item(&format!("c{bits:02}@capulet.example"))
        })
        .collect();
    for (item, version) in expected.iter().zip(1..) {
        queue(&*store, roster_put(&romeo, version, item.clone()));
    }
    assert_eq!(record(&*store, &romeo).roster, expected);
}

pub fn the_record_is_sorted_by_address<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let contacts = [
        "b@y.example",
        "é@x.example",
        "a@z.example",
        "x.example",
        "A@y.example",
    ];
    let mut sorted: Vec<Jid> = contacts.iter().map(|contact| jid(contact)).collect();
    sorted.sort();
    for contact in contacts {
        queue(&*store, roster_put(&romeo, 1, item(contact)));
        let request = Request {
            from: jid(contact),
            stanza: b"<p/>".as_slice().into(),
        };
        queue(
            &*store,
            Write::RequestPut {
                owner: romeo.clone(),
                request,
            },
        );
        queue(
            &*store,
            Write::BlockAdd {
                owner: romeo.clone(),
                jids: vec![jid(contact)],
            },
        );
    }
    let record = record(&*store, &romeo);
    assert!(record.roster.iter().map(|item| &item.jid).eq(&sorted));
    assert!(
        record
            .requests
            .iter()
            .map(|request| &request.from)
            .eq(&sorted)
    );
    assert_eq!(record.blocked, sorted);
}

pub fn a_request_is_kept_once_a_contact<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let request = |stanza: &[u8]| Request {
        from: jid("a@b.example"),
        stanza: stanza.into(),
    };
    for stanza in [b"first".as_slice(), b"second\0\xff"] {
        let put_request = Write::RequestPut {
            owner: romeo.clone(),
            request: request(stanza),
        };
        put(&*store, put_request).unwrap();
        assert_eq!(record(&*store, &romeo).requests, [request(stanza)]);
    }
    for _ in 0..2 {
        let forget = Write::RequestDelete {
            owner: romeo.clone(),
            from: jid("a@b.example"),
        };
        put(&*store, forget).unwrap();
        assert!(record(&*store, &romeo).requests.is_empty());
    }
}

pub fn the_block_list_takes_every_form_of_an_address<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    // XEP-0191 #blockmatch
    let forms = ["d.example", "d.example/r", "u@d.example", "u@d.example/R r"].map(jid);
    let add = Write::BlockAdd {
        owner: romeo.clone(),
        jids: forms.to_vec(),
    };
    put(&*store, add.clone()).unwrap();
    put(&*store, add).unwrap();
    assert_eq!(record(&*store, &romeo).blocked, forms);
    let take = vec![forms[1].clone(), jid("never@blocked.example")];
    put(
        &*store,
        Write::BlockRemove {
            owner: romeo.clone(),
            jids: take,
        },
    )
    .unwrap();
    let left = [forms[0].clone(), forms[2].clone(), forms[3].clone()];
    assert_eq!(record(&*store, &romeo).blocked, left);
    put(
        &*store,
        Write::BlockAdd {
            owner: romeo.clone(),
            jids: Vec::new(),
        },
    )
    .unwrap();
    assert_eq!(record(&*store, &romeo).blocked, left);
}

pub fn an_unblock_of_nothing_empties_the_list<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = ["romeo@a.example", "juliet@a.example"].map(|j| create(&*store, j));
    for owner in [&romeo, &juliet] {
        let jids = vec![jid("x.example"), jid("y.example")];
        put(
            &*store,
            Write::BlockAdd {
                owner: owner.clone(),
                jids,
            },
        )
        .unwrap();
    }
    put(
        &*store,
        Write::BlockRemove {
            owner: romeo.clone(),
            jids: Vec::new(),
        },
    )
    .unwrap();
    assert!(record(&*store, &romeo).blocked.is_empty());
    assert_eq!(record(&*store, &juliet).blocked.len(), 2);
}

pub fn the_last_activity_is_kept<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    for (at_ms, status) in [(1_800_000_000_000, "Heading home"), (1_800_000_000_001, "")] {
        let seen = Write::LastSeen {
            owner: romeo.clone(),
            at_ms,
            status: status.into(),
        };
        put(&*store, seen).unwrap();
        let record = record(&*store, &romeo);
        assert_eq!((record.last_seen_ms, &*record.last_status), (at_ms, status));
    }
}

pub fn nasty_texts_come_back_unchanged<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    for text in NASTY {
        let nasty = RosterItem {
            name: (*text).into(),
            groups: NASTY.iter().map(|group| (*group).into()).collect(),
            ..item("juliet@capulet.example")
        };
        put(&*store, roster_put(&romeo, 1, nasty.clone())).unwrap();
        let status = (*text).to_owned();
        put(
            &*store,
            Write::LastSeen {
                owner: romeo.clone(),
                at_ms: 1,
                status,
            },
        )
        .unwrap();
        let record = record(&*store, &romeo);
        assert_eq!(record.roster, [nasty]);
        assert_eq!(record.last_status, *text);
    }
}

pub fn a_large_roster_comes_back_whole<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    for n in 0..3000 {
        queue(
            &*store,
            roster_put(&romeo, n, item(&format!("c{n}@capulet.example"))),
        );
    }
    let record = record(&*store, &romeo);
    assert_eq!(record.roster.len(), 3000);
    assert_eq!(record.roster_version, 2999);
}
