//! Offline messages.

use super::*;
use antiphon_routing::store::OfflineRecord;

fn append(owner: &Jid, at_ms: u64, stanza: &[u8]) -> Write {
    Write::OfflineAppend {
        owner: owner.clone(),
        at_ms,
        stanza: stanza.into(),
    }
}

fn all(store: &dyn Store, owner: &Jid) -> Vec<OfflineRecord> {
    let mut records: Vec<OfflineRecord> = Vec::new();
    loop {
        let after = records.last().map_or(0, |record| record.id);
        let page = wait(store.offline(owner, after, 100)).unwrap();
        if page.is_empty() {
            return records;
        }
        records.extend(page);
    }
}

pub fn messages_come_back_in_the_order_of_arrival<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let owners = ["romeo@a.example", "juliet@a.example"].map(|owner| create(&*store, owner));
    for n in 0..50u64 {
        for owner in &owners {
            // A clock that goes back must not change the order.
            queue(&*store, append(owner, 1000 - n, n.to_string().as_bytes()));
        }
    }
    for owner in &owners {
        let records = all(&*store, owner);
        let texts: Vec<_> = records
            .iter()
            .map(|r| String::from_utf8_lossy(&r.stanza))
            .collect();
        assert!(
            texts
                .iter()
                .zip(0..50)
                .all(|(text, n)| **text == n.to_string()),
            "{texts:?}"
        );
        assert!(records.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(
            records
                .iter()
                .zip(0..50)
                .all(|(record, n)| record.at_ms == 1000 - n)
        );
        assert!(records[0].id > 0);
        assert_eq!(record(&*store, owner).offline, 50);
    }
}

pub fn messages_are_read_in_pages<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    for n in 0..25u8 {
        queue(&*store, append(&romeo, 1, &[n]));
    }
    let first = wait(store.offline(&romeo, 0, 10)).unwrap();
    let second = wait(store.offline(&romeo, first[9].id, 10)).unwrap();
    let third = wait(store.offline(&romeo, second[9].id, 10)).unwrap();
    assert_eq!([first.len(), second.len(), third.len()], [10, 10, 5]);
    let stanzas: Vec<u8> = [first, second, third]
        .concat()
        .iter()
        .map(|r| r.stanza[0])
        .collect();
    assert_eq!(stanzas, (0..25).collect::<Vec<u8>>());
    assert_eq!(wait(store.offline(&romeo, u64::MAX, 10)).unwrap(), []);
}

pub fn only_the_named_messages_are_deleted<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    for n in 0..5u8 {
        queue(&*store, append(&romeo, 1, &[n]));
    }
    let ids: Vec<u64> = all(&*store, &romeo)
        .iter()
        .map(|record| record.id)
        .collect();
    let delete = |ids: Vec<u64>| Write::OfflineDelete {
        owner: romeo.clone(),
        ids,
    };
    put(&*store, delete(vec![ids[3], ids[0], ids[0], 0, u64::MAX])).unwrap();
    let left: Vec<u64> = all(&*store, &romeo)
        .iter()
        .map(|record| record.id)
        .collect();
    assert_eq!(left, [ids[1], ids[2], ids[4]]);
    put(&*store, delete(vec![])).unwrap();
    assert_eq!(record(&*store, &romeo).offline, 3);
    put(&*store, delete(left)).unwrap();
    assert_eq!(record(&*store, &romeo).offline, 0);
}

pub fn another_users_messages_cannot_be_deleted<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = ["romeo@a.example", "juliet@a.example"].map(|j| create(&*store, j));
    put(&*store, append(&romeo, 1, b"x")).unwrap();
    let id = all(&*store, &romeo)[0].id;
    put(
        &*store,
        Write::OfflineDelete {
            owner: juliet,
            ids: vec![id],
        },
    )
    .unwrap();
    assert_eq!(record(&*store, &romeo).offline, 1);
}

pub fn ids_grow_and_are_never_used_again<P: Place>() {
    let place = P::new();
    let mut newest = 0;
    for _ in 0..3 {
        let store = place.open(ROOM);
        let romeo = jid("romeo@montague.example");
        let account = Write::AccountPut {
            jid: romeo.clone(),
            credentials: credentials(1),
        };
        put(&*store, account).unwrap();
        for _ in 0..3 {
            put(&*store, append(&romeo, 1, b"x")).unwrap();
            let records = all(&*store, &romeo);
            assert_eq!(records.len(), 1);
            assert!(records[0].id > newest);
            newest = records[0].id;
            let ids = vec![newest];
            put(
                &*store,
                Write::OfflineDelete {
                    owner: romeo.clone(),
                    ids,
                },
            )
            .unwrap();
        }
        store.close();
    }
}

pub fn ids_are_not_used_again_by_a_new_account_of_the_name<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let mut newest = 0;
    for _ in 0..3 {
        let romeo = create(&*store, "romeo@montague.example");
        put(&*store, append(&romeo, 1, b"x")).unwrap();
        let id = all(&*store, &romeo)[0].id;
        assert!(id > newest);
        newest = id;
        put(&*store, Write::AccountDelete { jid: romeo }).unwrap();
    }
}

pub fn any_bytes_are_kept<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let every_byte: Vec<u8> = (0..=255).collect();
    put(&*store, append(&romeo, 0, &every_byte)).unwrap();
    put(&*store, append(&romeo, 1, b"")).unwrap();
    let records = all(&*store, &romeo);
    assert_eq!(*records[0].stanza, *every_byte);
    assert!(records[1].stanza.is_empty());
}

pub fn a_message_of_a_megabyte_is_kept<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let large: Vec<u8> = (0..1024 * 1024u32).map(|n| (n % 251) as u8).collect();
    for _ in 0..5 {
        queue(&*store, append(&romeo, 1, &large));
    }
    let records = all(&*store, &romeo);
    assert_eq!(records.len(), 5);
    assert!(records.iter().all(|record| *record.stanza == *large));
}

pub fn limits_out_of_range_are_moved_into_it<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    for _ in 0..1100 {
        queue(&*store, append(&romeo, 1, b"x"));
    }
    assert_eq!(wait(store.offline(&romeo, 0, 0)).unwrap().len(), 1);
    assert_eq!(
        wait(store.offline(&romeo, 0, usize::MAX)).unwrap().len(),
        1000
    );
    assert_eq!(
        wait(store.accounts("montague.example", None, 0))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        wait(store.accounts("montague.example", None, usize::MAX))
            .unwrap()
            .len(),
        1
    );
}
