//! The generic map.

use super::*;
use antiphon_routing::store::{MAP_KEY_BYTES, MAP_KEYS_PER_ACCOUNT, MAP_VALUE_BYTES, MapKind};

const KINDS: [MapKind; 3] = [MapKind::Private, MapKind::Vcard, MapKind::Feature];

fn set(owner: &Jid, kind: MapKind, key: &str, value: &[u8]) -> Write {
    Write::MapPut {
        owner: owner.clone(),
        kind,
        key: key.to_owned(),
        value: value.into(),
    }
}

fn get(store: &dyn Store, owner: &Jid, kind: MapKind, key: &str) -> Option<Vec<u8>> {
    wait(store.map_get(owner, kind, key))
        .unwrap()
        .map(Vec::from)
}

pub fn a_value_comes_back_and_is_replaced<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let large = vec![0xAB; MAP_VALUE_BYTES];
    for value in [b"one".as_slice(), b"\0\xff", &large, b"two"] {
        put(&*store, set(&romeo, MapKind::Vcard, "", value)).unwrap();
        assert_eq!(
            get(&*store, &romeo, MapKind::Vcard, "").as_deref(),
            Some(value)
        );
    }
}

pub fn an_empty_value_removes<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    put(&*store, set(&romeo, MapKind::Private, "{a}b", b"x")).unwrap();
    for _ in 0..2 {
        put(&*store, set(&romeo, MapKind::Private, "{a}b", b"")).unwrap();
        assert_eq!(get(&*store, &romeo, MapKind::Private, "{a}b"), None);
        assert!(
            wait(store.map_keys(&romeo, MapKind::Private, ""))
                .unwrap()
                .is_empty()
        );
    }
}

pub fn kinds_and_owners_are_apart<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let owners = ["romeo@a.example", "romeo@b.example"].map(|owner| create(&*store, owner));
    for (owner, o) in owners.iter().zip(0u8..) {
        for (kind, k) in KINDS.into_iter().zip(0u8..) {
            put(&*store, set(owner, kind, "key", &[1, o, k])).unwrap();
        }
    }
    for (owner, o) in owners.iter().zip(0u8..) {
        for (kind, k) in KINDS.into_iter().zip(0u8..) {
            assert_eq!(get(&*store, owner, kind, "key"), Some(vec![1, o, k]));
        }
    }
}

pub fn keys_are_listed_by_prefix<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let keys = [
        "push:b", "push:a", "push", "push:", "pusher", "Push:a", "pus", "push:é", "z",
    ];
    for key in keys {
        queue(&*store, set(&romeo, MapKind::Feature, key, b"v"));
    }
    let listed = |prefix| wait(store.map_keys(&romeo, MapKind::Feature, prefix)).unwrap();
    assert_eq!(listed("push:"), ["push:", "push:a", "push:b", "push:é"]);
    assert_eq!(listed("push:é"), ["push:é"]);
    assert!(listed("q").is_empty());
    let mut sorted = keys;
    sorted.sort_unstable();
    assert_eq!(listed(""), sorted);
    assert!(
        wait(store.map_keys(&romeo, MapKind::Private, ""))
            .unwrap()
            .is_empty()
    );
}

pub fn nasty_keys_are_only_keys<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    for key in NASTY {
        queue(&*store, set(&romeo, MapKind::Private, key, key.as_bytes()));
    }
    for key in NASTY {
        assert_eq!(
            get(&*store, &romeo, MapKind::Private, key).as_deref(),
            Some(key.as_bytes())
        );
        let listed = wait(store.map_keys(&romeo, MapKind::Private, key)).unwrap();
        let expected: Vec<&str> = {
            let mut with_prefix: Vec<&str> = NASTY.to_vec();
            with_prefix.retain(|other| other.starts_with(key));
            with_prefix.sort_unstable();
            with_prefix
        };
        assert_eq!(listed, expected);
    }
    assert_eq!(record(&*store, &romeo), UserRecord::default());
}

pub fn a_domain_has_a_map_of_its_own<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let domain = jid("montague.example");
    put(&*store, set(&domain, MapKind::Feature, "motd", b"")).unwrap();
    put(&*store, set(&domain, MapKind::Feature, "motd", b"hello")).unwrap();
    assert_eq!(
        get(&*store, &domain, MapKind::Feature, "motd"),
        Some(b"hello".to_vec())
    );
    assert_eq!(wait(store.user(&domain)).unwrap(), None);
    assert_eq!(wait(store.credentials(&domain)).unwrap(), None);
    assert_eq!(wait(store.account_count("montague.example")).unwrap(), 0);
    assert!(
        wait(store.accounts("montague.example", None, 10))
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        put(
            &*store,
            Write::AccountDelete {
                jid: domain.clone()
            }
        ),
        Err(StoreError::NoAccount)
    );
    put(&*store, set(&domain, MapKind::Feature, "motd", b"")).unwrap();
    assert_eq!(get(&*store, &domain, MapKind::Feature, "motd"), None);
}

pub fn too_many_keys_are_refused<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    for n in 0..MAP_KEYS_PER_ACCOUNT {
        queue(
            &*store,
            set(&romeo, MapKind::Private, &format!("{n:04}"), b"v"),
        );
    }
    let refused = put(&*store, set(&romeo, MapKind::Private, "one more", b"v"));
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    // What is there may change, another kind has its own room, and room comes back.
    put(&*store, set(&romeo, MapKind::Private, "0000", b"w")).unwrap();
    put(&*store, set(&romeo, MapKind::Feature, "one more", b"v")).unwrap();
    put(&*store, set(&romeo, MapKind::Private, "0000", b"")).unwrap();
    put(&*store, set(&romeo, MapKind::Private, "one more", b"v")).unwrap();
    let keys = wait(store.map_keys(&romeo, MapKind::Private, "")).unwrap();
    assert_eq!(keys.len(), MAP_KEYS_PER_ACCOUNT);
}

pub fn too_large_keys_and_values_are_refused<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let key = "k".repeat(MAP_KEY_BYTES);
    put(&*store, set(&romeo, MapKind::Private, &key, b"v")).unwrap();
    let value = vec![1; MAP_VALUE_BYTES + 1];
    for write in [
        set(&romeo, MapKind::Private, &format!("{key}k"), b"v"),
        set(&romeo, MapKind::Private, "k", &value),
    ] {
        assert!(matches!(put(&*store, write), Err(StoreError::Full(_))));
    }
    assert_eq!(
        wait(store.map_keys(&romeo, MapKind::Private, "")).unwrap(),
        [key]
    );
}
