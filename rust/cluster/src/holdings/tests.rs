//! How shards come and go, and what becomes of stanzas meanwhile.

use super::*;
use crate::id::NodeId;
use crate::map::{MapNode, Slot};

const ME: Incarnation = Incarnation(2);

/// A map of one shard: nodes 1, 2 and 3 (those in `nodes`), owner, who releases, since.
fn map(epoch: u64, nodes: &[u32], owner: u32, from: Option<u32>, since: u64) -> Arc<ShardMap> {
    let at = |n: u32| nodes.iter().position(|one| *one == n).unwrap() as u16;
    let slot = Slot {
        owner: at(owner),
        from: from.map(at),
        shadow: None,
        since: Epoch(since),
        is_clean: from.is_some(),
    };
    let nodes = nodes.iter().map(|n| MapNode {
        id: NodeId::new(&format!("n{n}")).unwrap(),
        incarnation: Incarnation(*n),
        zone: None,
        is_draining: false,
    });
    Arc::new(ShardMap::new(Epoch(epoch), Incarnation(1), nodes.collect(), vec![slot]).unwrap())
}

fn head(epoch: u64, sender: u32) -> Head {
    Head {
        shard: 0,
        epoch: Epoch(epoch),
        sender: Incarnation(sender),
    }
}

fn step(act: impl FnOnce(&mut Vec<Effect>)) -> Vec<Effect> {
    let mut out = Vec::new();
    act(&mut out);
    out
}

fn serving() -> Holdings {
    let mut one = Holdings::new(ME, 1);
    step(|out| one.apply(map(1, &[1, 2, 3], 2, None, 1), out));
    step(|out| one.taken_up(0, Epoch(1), out));
    for by in [1, 2] {
        step(|out| one.reported((0, Epoch(1)), Incarnation(by), out));
    }
    assert_eq!(one.serving(0), None);
    let last = step(|out| one.reported((0, Epoch(1)), Incarnation(3), out));
    assert_eq!(
        last,
        [Effect::Serve {
            shard: 0,
            since: Epoch(1)
        }]
    );
    one
}

#[test]
fn a_shard_is_served_when_it_is_taken_up_and_all_have_reported() {
    let one = serving();
    assert_eq!(one.serving(0), Some(Epoch(1)));
    assert_eq!(one.judge(&head(1, 3)), Verdict::Accept { since: Epoch(1) });
}

#[test]
fn a_map_asks_every_node_for_a_report_to_the_home() {
    let mut one = Holdings::new(ME, 1);
    let out = step(|out| one.apply(map(4, &[1, 2], 1, None, 3), out));
    let report = Effect::Report {
        to: Incarnation(1),
        shard: 0,
        since: Epoch(3),
    };
    assert_eq!(out, [report]);
    // The same shard in a later map: nothing to say.
    assert_eq!(step(|out| one.apply(map(5, &[1, 2], 1, None, 3), out)), []);
}

#[test]
fn a_shard_of_a_living_owner_is_taken_up_only_when_he_released_it() {
    let mut one = Holdings::new(ME, 1);
    let out = step(|out| one.apply(map(5, &[1, 2], 2, Some(1), 5), out));
    assert!(!out.iter().any(|e| matches!(e, Effect::TakeUp { .. })));
    assert_eq!(one.judge(&head(5, 1)), Verdict::Park(Wait::Shard));
    // Of another time, by another node: nothing.
    assert_eq!(
        step(|out| one.released((0, Epoch(4)), Incarnation(1), true, out)),
        []
    );
    assert_eq!(
        step(|out| one.released((0, Epoch(5)), Incarnation(3), true, out)),
        []
    );
    let out = step(|out| one.released((0, Epoch(5)), Incarnation(1), true, out));
    assert_eq!(
        out,
        [Effect::TakeUp {
            shard: 0,
            since: Epoch(5),
            is_clean: true
        }]
    );
}

#[test]
fn an_owner_that_dies_before_it_released_makes_the_take_up_unclean() {
    let mut one = Holdings::new(ME, 1);
    step(|out| one.apply(map(5, &[1, 2], 2, Some(1), 5), out));
    let out = step(|out| one.apply(map(6, &[2], 2, None, 5), out));
    assert_eq!(
        out,
        [Effect::TakeUp {
            shard: 0,
            since: Epoch(5),
            is_clean: false
        }]
    );
}

#[test]
fn a_shard_goes_in_order() {
    let mut one = serving();
    let out = step(|out| one.apply(map(2, &[1, 2, 3], 1, Some(2), 2), out));
    assert_eq!(out[0], Effect::Release { shard: 0 });
    assert_eq!(
        one.judge(&head(1, 3)),
        Verdict::Redirect { epoch: Epoch(2) }
    );
    assert!(one.may_finish(0));
    let out = step(|out| one.flushed(0, out));
    let (to, since) = (Incarnation(1), Epoch(2));
    assert_eq!(
        out,
        [Effect::Released {
            to,
            shard: 0,
            since,
            is_clean: true
        }]
    );
    assert!(!one.may_finish(0));
    assert_eq!(step(|out| one.flushed(0, out)), []);
    // The new owner dies: the next one is told again.
    let out = step(|out| one.apply(map(3, &[2, 3], 3, Some(2), 3), out));
    let (to, since) = (Incarnation(3), Epoch(3));
    assert_eq!(
        out[0],
        Effect::Released {
            to,
            shard: 0,
            since,
            is_clean: true
        }
    );
}

#[test]
fn a_shard_that_was_elsewhere_in_between_starts_anew() {
    let mut one = serving();
    let out = step(|out| one.apply(map(5, &[1, 2, 3], 2, Some(1), 5), out));
    assert_eq!(out[0], Effect::Drop { shard: 0 });
    assert_eq!(one.serving(0), None);
    assert_eq!(one.judge(&head(4, 3)), Verdict::Stale { epoch: Epoch(5) });
}

#[test]
fn frames_are_judged_by_epoch_and_sender() {
    let mut one = serving();
    let table = [
        (1, 3, Verdict::Accept { since: Epoch(1) }),
        // Its map has not come here yet.
        (2, 3, Verdict::Park(Wait::Map)),
        (2, 9, Verdict::Park(Wait::Map)),
        // Out of the view.
        (1, 9, Verdict::Refuse),
    ];
    for (epoch, sender, verdict) in table {
        assert_eq!(one.judge(&head(epoch, sender)), verdict, "{epoch} {sender}");
    }
    // A join elsewhere makes nothing stale.
    step(|out| one.apply(map(2, &[1, 2, 3, 4], 2, None, 1), out));
    assert_eq!(one.judge(&head(1, 3)), Verdict::Accept { since: Epoch(1) });
    // The sender dies.
    step(|out| one.apply(map(3, &[1, 2, 4], 2, None, 1), out));
    assert_eq!(one.judge(&head(2, 3)), Verdict::Refuse);
}

#[test]
fn a_fenced_process_holds_nothing() {
    let mut one = serving();
    assert_eq!(step(|out| one.fence(out)), [Effect::Drop { shard: 0 }]);
    assert_eq!(one.judge(&head(1, 3)), Verdict::Refuse);
    assert_eq!(step(|out| one.apply(map(9, &[2], 2, None, 9), out)), []);
}

#[test]
fn an_older_map_changes_nothing() {
    let mut one = serving();
    assert_eq!(step(|out| one.apply(map(1, &[1, 3], 1, None, 1), out)), []);
    assert_eq!(one.serving(0), Some(Epoch(1)));
}
