//! Accounts and their keys.

use super::*;
use antiphon_routing::store::{AccountSummary, MapKind, Request, RosterItem, Subscription};

pub fn a_new_account_can_be_read_back<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    assert_eq!(record(&*store, &romeo), UserRecord::default());
    assert_eq!(
        wait(store.credentials(&romeo)).unwrap(),
        Some(credentials(1))
    );
    let listed = wait(store.accounts("montague.example", None, 10)).unwrap();
    let expected = AccountSummary {
        jid: romeo,
        is_enabled: true,
        created_ms: place.now_ms(),
    };
    assert_eq!(listed, [expected]);
}

pub fn an_account_is_created_only_once<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let again = Write::AccountCreate {
        jid: romeo.clone(),
        credentials: credentials(9),
    };
    assert_eq!(put(&*store, again), Err(StoreError::Exists));
    assert_eq!(
        wait(store.credentials(&romeo)).unwrap(),
        Some(credentials(1))
    );
}

pub fn an_update_replaces_all_keys_and_the_state<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let mut changed = credentials(7);
    changed.keys.truncate(1);
    changed.is_enabled = false;
    let update = Write::AccountUpdate {
        jid: romeo.clone(),
        credentials: changed.clone(),
    };
    put(&*store, update).unwrap();
    assert_eq!(wait(store.credentials(&romeo)).unwrap(), Some(changed));
    assert!(!wait(store.accounts("montague.example", None, 10)).unwrap()[0].is_enabled);
}

pub fn an_update_of_a_missing_account_fails<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let nobody = jid("nobody@montague.example");
    let update = Write::AccountUpdate {
        jid: nobody.clone(),
        credentials: credentials(1),
    };
    assert_eq!(put(&*store, update), Err(StoreError::NoAccount));
    assert_eq!(wait(store.credentials(&nobody)).unwrap(), None);
}

pub fn a_put_creates_and_then_updates<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = jid("romeo@montague.example");
    for seed in [1, 2] {
        let import = Write::AccountPut {
            jid: romeo.clone(),
            credentials: credentials(seed),
        };
        put(&*store, import).unwrap();
        assert_eq!(
            wait(store.credentials(&romeo)).unwrap(),
            Some(credentials(seed))
        );
    }
    assert_eq!(wait(store.account_count("montague.example")).unwrap(), 1);
}

pub fn a_missing_account_has_neither_record_nor_keys<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    for nobody in ["nobody@montague.example", "montague.example"].map(jid) {
        assert_eq!(wait(store.user(&nobody)).unwrap(), None);
        assert_eq!(wait(store.credentials(&nobody)).unwrap(), None);
        assert_eq!(wait(store.offline(&nobody, 0, 10)).unwrap(), []);
        assert_eq!(
            wait(store.map_get(&nobody, MapKind::Vcard, "")).unwrap(),
            None
        );
        assert!(
            wait(store.map_keys(&nobody, MapKind::Feature, ""))
                .unwrap()
                .is_empty()
        );
    }
    assert_eq!(wait(store.account_count("nowhere.example")).unwrap(), 0);
}

pub fn a_resourcepart_does_not_matter<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let orchard = jid("romeo@montague.example/orchard");
    let seen = Write::LastSeen {
        owner: orchard.clone(),
        at_ms: 5,
        status: "away".into(),
    };
    put(&*store, seen).unwrap();
    assert_eq!(record(&*store, &romeo), record(&*store, &orchard));
    assert_eq!(record(&*store, &romeo).last_seen_ms, 5);
}

pub fn a_domain_is_no_account<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let domain = jid("montague.example");
    for write in [
        Write::AccountCreate {
            jid: domain.clone(),
            credentials: credentials(1),
        },
        Write::AccountPut {
            jid: domain.clone(),
            credentials: credentials(1),
        },
        Write::AccountDelete {
            jid: domain.clone(),
        },
        Write::LastSeen {
            owner: domain.clone(),
            at_ms: 1,
            status: String::new(),
        },
    ] {
        assert_eq!(put(&*store, write), Err(StoreError::NoAccount));
    }
    assert_eq!(wait(store.account_count("montague.example")).unwrap(), 0);
}

pub fn an_account_may_have_no_keys<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = jid("romeo@montague.example");
    let outside = Credentials {
        keys: Vec::new(),
        is_enabled: true,
    };
    put(
        &*store,
        Write::AccountPut {
            jid: romeo.clone(),
            credentials: outside.clone(),
        },
    )
    .unwrap();
    assert_eq!(wait(store.credentials(&romeo)).unwrap(), Some(outside));
}

pub fn accounts_are_listed_by_localpart_in_pages<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let mut names: Vec<String> = (0..25).map(|n| format!("user{n}")).collect();
    names.extend(["ä", "z", "0", "日本"].map(str::to_owned));
    for name in &names {
        let account = jid(&format!("{name}@capulet.example"));
        queue(
            &*store,
            Write::AccountCreate {
                jid: account,
                credentials: credentials(1),
            },
        );
    }
    names.sort();
    let mut seen: Vec<String> = Vec::new();
    loop {
        let after = seen.last().cloned();
        let page = wait(store.accounts("capulet.example", after.as_deref(), 10)).unwrap();
        assert!(page.len() <= 10);
        if page.is_empty() {
            break;
        }
        seen.extend(
            page.iter()
                .map(|account| account.jid.local().unwrap().to_owned()),
        );
    }
    assert_eq!(seen, names);
    assert_eq!(
        wait(store.account_count("capulet.example")).unwrap(),
        names.len() as u64
    );
}

pub fn domains_do_not_see_each_others_accounts<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    create(&*store, "romeo@montague.example");
    create(&*store, "romeo@capulet.example");
    create(&*store, "romeo@sub.montague.example");
    for domain in [
        "montague.example",
        "capulet.example",
        "sub.montague.example",
    ] {
        assert_eq!(wait(store.account_count(domain)).unwrap(), 1);
        let listed = wait(store.accounts(domain, None, 10)).unwrap();
        assert_eq!(listed[0].jid.domain(), domain);
    }
    put(
        &*store,
        Write::AccountDelete {
            jid: jid("romeo@capulet.example"),
        },
    )
    .unwrap();
    assert!(
        wait(store.user(&jid("romeo@montague.example")))
            .unwrap()
            .is_some()
    );
}

pub fn a_listing_sees_what_is_queued<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    for n in 1..=50u64 {
        let account = jid(&format!("u{n}@capulet.example"));
        queue(
            &*store,
            Write::AccountCreate {
                jid: account,
                credentials: credentials(1),
            },
        );
        assert_eq!(wait(store.account_count("capulet.example")).unwrap(), n);
    }
}

/// One write of each kind that stores something of an account.
fn one_of_each(owner: &Jid) -> Vec<Write> {
    let other = jid("nurse@capulet.example");
    let map = |kind| Write::MapPut {
        owner: owner.clone(),
        kind,
        key: String::new(),
        value: b"<v/>".as_slice().into(),
    };
    let (owner, version) = (owner.clone(), 3);
    vec![
        Write::RosterPut {
            owner: owner.clone(),
            version,
            item: RosterItem {
                jid: other.clone(),
                name: "Nurse".into(),
                groups: Box::new(["Servants".into()]),
                subscription: Subscription {
                    to: true,
                    ..Subscription::default()
                },
            },
        },
        Write::RequestPut {
            owner: owner.clone(),
            request: Request {
                from: other.clone(),
                stanza: b"<p/>".as_slice().into(),
            },
        },
        Write::BlockAdd {
            owner: owner.clone(),
            jids: vec![other],
        },
        Write::OfflineAppend {
            owner: owner.clone(),
            at_ms: 1,
            stanza: b"x".as_slice().into(),
        },
        Write::LastSeen {
            owner,
            at_ms: 1,
            status: "gone".into(),
        },
        map(MapKind::Private),
        map(MapKind::Vcard),
        map(MapKind::Feature),
    ]
}

pub fn deletion_removes_everything_of_the_account<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let juliet = create(&*store, "juliet@capulet.example");
    let romeo = create(&*store, "romeo@capulet.example");
    for write in one_of_each(&juliet).into_iter().chain(one_of_each(&romeo)) {
        put(&*store, write).unwrap();
    }
    let untouched = record(&*store, &romeo);
    put(
        &*store,
        Write::AccountDelete {
            jid: juliet.clone(),
        },
    )
    .unwrap();

    assert_eq!(wait(store.user(&juliet)).unwrap(), None);
    assert_eq!(wait(store.credentials(&juliet)).unwrap(), None);
    // A new account of the same name begins empty.
    create(&*store, "juliet@capulet.example");
    assert_eq!(record(&*store, &juliet), UserRecord::default());
    assert_eq!(wait(store.offline(&juliet, 0, 10)).unwrap(), []);
    for kind in [MapKind::Private, MapKind::Vcard, MapKind::Feature] {
        assert_eq!(wait(store.map_get(&juliet, kind, "")).unwrap(), None);
        assert!(wait(store.map_keys(&juliet, kind, "")).unwrap().is_empty());
    }
    assert_eq!(record(&*store, &romeo), untouched);
    assert_eq!(wait(store.offline(&romeo, 0, 10)).unwrap().len(), 1);
}

pub fn deletion_of_a_missing_account_fails<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    put(&*store, Write::AccountDelete { jid: romeo.clone() }).unwrap();
    assert_eq!(
        put(&*store, Write::AccountDelete { jid: romeo }),
        Err(StoreError::NoAccount)
    );
}

pub fn writes_about_a_missing_account_fail_and_leave_nothing<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    put(&*store, Write::AccountDelete { jid: romeo.clone() }).unwrap();
    for write in one_of_each(&romeo) {
        assert_eq!(
            put(&*store, write.clone()),
            Err(StoreError::NoAccount),
            "{write:?}"
        );
    }
    create(&*store, "romeo@montague.example");
    assert_eq!(record(&*store, &romeo), UserRecord::default());
}
