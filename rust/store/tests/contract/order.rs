//! Order, bounds, groups, durability.

use super::*;
use antiphon_routing::store::MapKind;

fn append(owner: &Jid, text: &str) -> Write {
    Write::OfflineAppend {
        owner: owner.clone(),
        at_ms: 1,
        stanza: text.as_bytes().into(),
    }
}

fn texts(store: &dyn Store, owner: &Jid) -> Vec<String> {
    let mut after = 0;
    let mut texts = Vec::new();
    loop {
        let page = wait(store.offline(owner, after, 1000)).unwrap();
        let Some(last) = page.last() else {
            return texts;
        };
        after = last.id;
        texts.extend(
            page.iter()
                .map(|r| String::from_utf8_lossy(&r.stanza).into_owned()),
        );
    }
}

pub fn a_read_sees_what_was_queued_before_it<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let stalled = Stalled::new(&*store, append(&romeo, "first"));
    let before = store.user(&romeo);
    queue(&*store, append(&romeo, "second"));
    let seen = Write::LastSeen {
        owner: romeo.clone(),
        at_ms: 77,
        status: "bye".into(),
    };
    queue(&*store, seen);
    let after = store.user(&romeo);
    let offline = store.offline(&romeo, 0, 10);
    let map = Write::MapPut {
        owner: romeo.clone(),
        kind: MapKind::Vcard,
        key: String::new(),
        value: b"v".as_slice().into(),
    };
    queue(&*store, map);
    let value = store.map_get(&romeo, MapKind::Vcard, "");
    let keys = store.map_keys(&romeo, MapKind::Vcard, "");
    queue(
        &*store,
        Write::AccountUpdate {
            jid: romeo.clone(),
            credentials: credentials(9),
        },
    );
    let credentials_after = store.credentials(&romeo);
    drop(stalled);
    assert!(wait(before).unwrap().unwrap().offline >= 1);
    let after = wait(after).unwrap().unwrap();
    assert_eq!((after.offline, after.last_seen_ms), (2, 77));
    assert_eq!(wait(offline).unwrap().len(), 2);
    assert_eq!(wait(value).unwrap().as_deref(), Some(b"v".as_slice()));
    assert_eq!(wait(keys).unwrap(), [""]);
    assert_eq!(wait(credentials_after).unwrap(), Some(credentials(9)));
}

pub fn a_read_of_another_owner_does_not_wait_for_ever<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let juliet = create(&*store, "juliet@capulet.example");
    let stalled = Stalled::new(&*store, append(&romeo, "first"));
    queue(&*store, append(&romeo, "second"));
    // The engine stands still, and yet:
    assert_eq!(record(&*store, &juliet), UserRecord::default());
    drop(stalled);
}

pub fn callbacks_come_in_the_order_of_the_writes<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let nobody = jid("nobody@montague.example");
    let owners = [(nobody, Err(StoreError::NoAccount)), (romeo, Ok(()))];
    let (tellers, tells): (Vec<_>, Vec<_>) = owners.iter().map(|_| channel()).unzip();
    let turns = || (0..2000).map(|n| (n, usize::from(n % 7 != 0)));
    for (n, whose) in turns() {
        let told = tellers[whose].clone();
        let done: Done = Box::new(move |outcome| drop(told.send((n, outcome))));
        store.write(append(&owners[whose].0, "x"), done);
    }
    for (n, whose) in turns() {
        let outcome = tells[whose].recv_timeout(PATIENCE).unwrap();
        assert_eq!(outcome, (n, owners[whose].1.clone()));
    }
}

pub fn a_full_queue_answers_busy_at_once<P: Place>() {
    let place = P::new();
    let store = place.open(8);
    let romeo = create(&*store, "romeo@montague.example");
    let stalled = Stalled::new(&*store, append(&romeo, "first"));
    let (told, tell) = channel();
    for n in 0..8 {
        store.write(append(&romeo, &n.to_string()), tell_into(&told));
    }
    assert!(tell.try_recv().is_err(), "eight are accepted and wait");
    store.write(append(&romeo, "too many"), tell_into(&told));
    assert_eq!(tell.try_recv(), Ok(Err(StoreError::Busy)));
    // Reads are bounded too: they wait for the writes.
    let reads: Vec<_> = (0..9).map(|_| store.user(&romeo)).collect();
    drop(stalled);
    let answers: Vec<_> = reads.into_iter().map(wait).collect();
    assert!(answers[..8].iter().all(Result::is_ok));
    assert_eq!(answers[8], Err(StoreError::Busy));
    for _ in 0..8 {
        assert_eq!(tell.recv_timeout(PATIENCE).unwrap(), Ok(()));
    }
    put(&*store, append(&romeo, "room again")).unwrap();
    let expected = [
        "first",
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "room again",
    ];
    assert_eq!(texts(&*store, &romeo), expected);
}

pub fn what_was_accepted_before_busy_is_committed<P: Place>() {
    let place = P::new();
    let store = place.open(16);
    let romeo = create(&*store, "romeo@montague.example");
    let (told, tell) = channel();
    for n in 0..5000 {
        let told = told.clone();
        let note: Done = Box::new(move |outcome| drop(told.send((n, outcome))));
        store.write(append(&romeo, &n.to_string()), note);
    }
    let told = |_| tell.recv_timeout(PATIENCE).unwrap();
    let mut outcomes: Vec<(u32, Result<(), StoreError>)> = (0..5000).map(told).collect();
    let stored = texts(&*store, &romeo);
    outcomes.sort_by_key(|(n, _)| *n);
    assert!(outcomes.iter().map(|(n, _)| *n).eq(0..5000));
    let accepted = outcomes.iter().filter(|(_, outcome)| outcome.is_ok());
    let accepted: Vec<String> = accepted.map(|(n, _)| n.to_string()).collect();
    assert_eq!(stored, accepted);
    assert!(
        outcomes
            .iter()
            .all(|(_, o)| matches!(o, Ok(()) | Err(StoreError::Busy)))
    );
}

pub fn a_group_with_failing_writes_commits_the_others<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let stalled = Stalled::new(&*store, append(&romeo, "first"));
    let mut tells = Vec::new();
    let nobody = jid("nobody@montague.example");
    let tybalt = jid("tybalt@montague.example");
    for write in [
        append(&romeo, "second"),
        append(&nobody, "lost"),
        Write::AccountCreate {
            jid: romeo.clone(),
            credentials: credentials(5),
        },
        Write::AccountCreate {
            jid: tybalt.clone(),
            credentials: credentials(6),
        },
        append(&tybalt, "in the group that made it"),
        Write::AccountDelete { jid: nobody },
        Write::AccountDelete {
            jid: tybalt.clone(),
        },
        append(&tybalt, "too late"),
        append(&romeo, "third"),
    ] {
        let (told, tell) = channel();
        store.write(write, tell_into(&told));
        tells.push(tell);
    }
    drop(stalled);
    use StoreError::{Exists, NoAccount};
    let expected = [
        Ok(()),
        Err(NoAccount),
        Err(Exists),
        Ok(()),
        Ok(()),
        Err(NoAccount),
        Ok(()),
        Err(NoAccount),
        Ok(()),
    ];
    for (tell, expected) in tells.iter().zip(expected) {
        assert_eq!(tell.recv_timeout(PATIENCE).unwrap(), expected);
    }
    assert_eq!(texts(&*store, &romeo), ["first", "second", "third"]);
    assert_eq!(
        wait(store.credentials(&romeo)).unwrap(),
        Some(credentials(1))
    );
    assert_eq!(wait(store.user(&tybalt)).unwrap(), None);
}

pub fn a_panicking_callback_harms_nobody<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    store.write(
        append(&romeo, "one"),
        Box::new(|_| panic!("a callee's fault, as the test wants")),
    );
    put(&*store, append(&romeo, "two")).unwrap();
    assert_eq!(texts(&*store, &romeo), ["one", "two"]);
}

pub fn concurrent_writers_keep_their_own_order<P: Place>() {
    const EACH: usize = 500;
    let place = P::new();
    let store = place.open(ROOM);
    let shared = create(&*store, "shared@a.example");
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (store, shared) = (Arc::clone(&store), shared.clone());
            scope.spawn(move || {
                let own = create(&*store, &format!("writer{writer}@a.example"));
                for n in 0..EACH {
                    queue(&*store, append(&own, &n.to_string()));
                    queue(&*store, append(&shared, &format!("{writer} {n}")));
                    if n % 50 == 0 {
                        assert_eq!(texts(&*store, &own).len(), n + 1);
                    }
                }
            });
        }
    });
    for writer in 0..8 {
        let own = texts(&*store, &jid(&format!("writer{writer}@a.example")));
        assert!(
            own.iter()
                .eq(&(0..EACH).map(|n| n.to_string()).collect::<Vec<_>>())
        );
        let prefix = format!("{writer} ");
        let all = texts(&*store, &shared);
        let of_this: Vec<_> = all
            .iter()
            .filter_map(|text| text.strip_prefix(&prefix))
            .collect();
        assert_eq!(of_this, own);
    }
}

pub fn everything_is_there_after_reopening<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    queue(&*store, append(&romeo, "kept"));
    let seen = Write::LastSeen {
        owner: romeo.clone(),
        at_ms: 9,
        status: "bye".into(),
    };
    put(&*store, seen).unwrap();
    let (before, texts_before) = (record(&*store, &romeo), texts(&*store, &romeo));
    store.close();
    for _ in 0..3 {
        let store = place.open(ROOM);
        assert_eq!(record(&*store, &romeo), before);
        assert_eq!(texts(&*store, &romeo), texts_before);
        assert_eq!(
            wait(store.credentials(&romeo)).unwrap(),
            Some(credentials(1))
        );
        store.close();
    }
}

pub fn close_commits_what_is_queued<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let (told, tell) = channel();
    for n in 0..3000 {
        store.write(append(&romeo, &n.to_string()), tell_into(&told));
    }
    let read = store.user(&romeo);
    store.close();
    for _ in 0..3000 {
        // Told before `close` returned.
        assert_eq!(tell.try_recv(), Ok(Ok(())));
    }
    assert_eq!(wait(read).unwrap().unwrap().offline, 3000);
    assert_eq!(texts(&*place.open(ROOM), &romeo).len(), 3000);
}

pub fn after_close_everything_is_closed<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    store.close();
    assert_eq!(
        put(&*store, append(&romeo, "late")),
        Err(StoreError::Closed)
    );
    assert_eq!(wait(store.user(&romeo)), Err(StoreError::Closed));
    assert_eq!(wait(store.credentials(&romeo)), Err(StoreError::Closed));
    assert_eq!(wait(store.offline(&romeo, 0, 10)), Err(StoreError::Closed));
    assert_eq!(
        wait(store.accounts("a.example", None, 10)),
        Err(StoreError::Closed)
    );
    assert_eq!(
        wait(store.account_count("a.example")),
        Err(StoreError::Closed)
    );
    assert_eq!(
        wait(store.map_get(&romeo, MapKind::Vcard, "")),
        Err(StoreError::Closed)
    );
    assert_eq!(
        wait(store.map_keys(&romeo, MapKind::Vcard, "")),
        Err(StoreError::Closed)
    );
}

pub fn a_second_close_does_nothing<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    create(&*store, "romeo@montague.example");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| store.close());
        }
    });
    store.close();
    // Not in the way of the next one.
    place.open(ROOM).close();
}

pub fn a_dropped_read_harms_nobody<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    for n in 0..200 {
        queue(&*store, append(&romeo, &n.to_string()));
        drop(store.user(&romeo));
    }
    assert_eq!(record(&*store, &romeo).offline, 200);
}

pub fn the_last_handle_may_go_in_a_callback<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, "romeo@montague.example");
    let (told, tell) = channel();
    let handle = Arc::clone(&store);
    let (gone, wait_gone) = channel::<()>();
    let done: Done = Box::new(move |outcome| {
        let _ = wait_gone.recv();
        drop(handle);
        told.send(outcome).unwrap();
    });
    store.write(append(&romeo, "x"), done);
    drop(store);
    drop(gone);
    assert_eq!(tell.recv_timeout(PATIENCE).unwrap(), Ok(()));
}
