//! The planner's promises, over many memberships.

use super::*;
use crate::id::Zone;
use crate::member::tests::member;
use antiphon_routing::home::SHARDS;
use proptest::prelude::*;

fn next(previous: Option<&ShardMap>, members: &[Member], shards: Shard) -> Option<ShardMap> {
    let situation = Situation {
        previous,
        members,
        shards,
        planner: Incarnation(1),
        settled: &|_, _| true,
    };
    plan(&situation, &Policy::default())
}

fn up(range: std::ops::RangeInclusive<u32>) -> Vec<Member> {
    let name = |n: u32| member(&format!("antiphon-{n}"), n, MemberState::Up);
    range.map(name).collect()
}

/// Steps until nothing changes any more, with every hand-over settled in between.
fn settle(mut map: ShardMap, members: &[Member]) -> (ShardMap, usize) {
    let shards = map.shards();
    for steps in 0..200 {
        match next(Some(&map), members, shards) {
            Some(after) => {
                assert_eq!(after.epoch, map.epoch.next());
                map = after;
            }
            None => return (map, steps),
        }
    }
    panic!("the planner never comes to an end");
}

fn owners(map: &ShardMap) -> Vec<Incarnation> {
    (0..map.shards()).map(|s| map.owner(s).unwrap()).collect()
}

fn moved(before: &ShardMap, after: &ShardMap) -> usize {
    let pairs = owners(before).into_iter().zip(owners(after));
    pairs.filter(|(a, b)| a != b).count()
}

#[test]
fn twenty_nodes_stay_below_the_cap_and_a_leave_moves_little_more_than_its_share() {
    let members = up(1..=20);
    let map = next(None, &members, SHARDS).unwrap();
    let cap = cap(SHARDS, 20, 105);
    let counts: Vec<usize> = members.iter().map(|m| map.count(m.incarnation)).collect();
    assert!(counts.iter().all(|c| *c <= cap), "{counts:?}");
    assert!(counts.iter().all(|c| *c >= 150), "{counts:?}");
    let (after, _) = settle(map.clone(), &members[1..]);
    let share = counts[0] as f64;
    assert!(
        (moved(&map, &after) as f64) < 1.6 * share,
        "{}",
        moved(&map, &after)
    );
    // And it gets back what it had.
    let (again, _) = settle(after, &members);
    assert_eq!(owners(&again), owners(&map));
}

#[test]
fn a_shard_of_a_dead_node_moves_at_once_and_unclean() {
    let map = next(None, &up(1..=3), SHARDS).unwrap();
    let after = next(Some(&map), &up(2..=3), SHARDS).unwrap();
    for shard in 0..SHARDS {
        let slot = after.slot(shard).unwrap();
        if map.owner(shard) == Some(Incarnation(1)) {
            assert_eq!((slot.from, slot.is_clean), (None, false));
            assert_eq!(slot.since, after.epoch);
        }
    }
}

#[test]
fn a_draining_node_gives_its_shards_away_in_steps() {
    let mut members = up(1..=3);
    let map = next(None, &members, SHARDS).unwrap();
    members[0].state = MemberState::Draining;
    let first = next(Some(&map), &members, SHARDS).unwrap();
    let leaving = first.slots.iter().filter(|s| s.from == Some(0)).count();
    assert_eq!(leaving, Policy::default().moves_in_flight);
    assert!(first.nodes[0].is_draining);
    assert!(first.slots.iter().all(|s| s.from.is_none() || s.is_clean));
    // Nothing settled: no further shard moves.
    let stuck = Situation {
        previous: Some(&first),
        members: &members,
        shards: SHARDS,
        planner: Incarnation(1),
        settled: &|_, _| false,
    };
    assert_eq!(plan(&stuck, &Policy::default()), None);
    assert_eq!(
        moving(&stuck, &Policy::default()),
        map.count(Incarnation(1))
    );
    let (last, _) = settle(first.clone(), &members);
    assert_eq!(last.count(Incarnation(1)), 0);
    let done = Situation {
        previous: Some(&last),
        ..stuck
    };
    assert_eq!(moving(&done, &Policy::default()), 0);
}

#[test]
fn a_joining_node_gets_nothing_but_belongs_to_the_view() {
    let mut members = up(1..=2);
    let map = next(None, &members, SHARDS).unwrap();
    members.push(member("new", 9, MemberState::Joining));
    let after = next(Some(&map), &members, SHARDS).unwrap();
    assert!(after.knows(Incarnation(9)));
    assert_eq!(moved(&map, &after), 0);
    assert_eq!(next(None, &members[2..], SHARDS), None);
}

#[test]
fn when_all_drain_the_shards_stay() {
    let mut members = up(1..=2);
    let map = next(None, &members, SHARDS).unwrap();
    members
        .iter_mut()
        .for_each(|m| m.state = MemberState::Draining);
    let after = next(Some(&map), &members, SHARDS).unwrap();
    assert_eq!(moved(&map, &after), 0);
}

#[test]
fn the_one_who_must_release_is_named_until_he_did_or_died() {
    let mut members = up(1..=3);
    let map = next(None, &members, 64).unwrap();
    members[0].state = MemberState::Draining;
    let unsettled = |previous: &ShardMap, members: &[Member]| {
        let situation = Situation {
            previous: Some(previous),
            members,
            shards: 64,
            planner: Incarnation(1),
            settled: &|_, _| false,
        };
        plan(&situation, &Policy::default())
    };
    let moving = unsettled(&map, &members).unwrap();
    let shard = (0..64)
        .find(|s| moving.slot(*s).unwrap().from == Some(0))
        .unwrap();
    let target = moving.owner(shard).unwrap();
    // The new owner dies before it served: the third waits for the first all the same.
    let without: Vec<Member> = members
        .iter()
        .filter(|m| m.incarnation != target)
        .cloned()
        .collect();
    let third = unsettled(&moving, &without).unwrap();
    let slot = third.slot(shard).unwrap();
    assert_eq!(third.incarnation(slot.from.unwrap()), Incarnation(1));
    assert!(!slot.is_clean, "nobody knows what the dead one wrote");
    // The first dies, too.
    let last = unsettled(&third, &without[1..]).unwrap();
    assert_eq!(last.slot(shard).unwrap().from, None);
    assert!(!last.slot(shard).unwrap().is_clean);
}

#[test]
fn a_shadow_stands_in_another_zone_where_there_is_one() {
    let mut members = up(1..=4);
    for (at, member) in members.iter_mut().enumerate() {
        member.zone = Some(Zone::new(if at < 3 { "x" } else { "y" }).unwrap());
    }
    let map = next(None, &members, SHARDS).unwrap();
    for slot in map.slots() {
        let (owner, shadow) = (usize::from(slot.owner), usize::from(slot.shadow.unwrap()));
        assert_ne!(map.nodes[owner].zone, map.nodes[shadow].zone);
    }
    assert_eq!(
        next(None, &members[..1], SHARDS).unwrap().slots[0].shadow,
        None
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes and goes: every shard has an owner of the view, nobody is above the cap in
    /// the end, the order of the members does not matter, a plan of nothing new changes nothing.
    #[test]
    fn every_history_ends_balanced(
        steps in prop::collection::vec(prop::collection::btree_map(1_u32..9, 0_u8..3, 1..8), 1..6),
        seed in any::<u64>(),
    ) {
        let shards = 128;
        let mut map: Option<ShardMap> = None;
        for (at, step) in steps.iter().enumerate() {
            let members: Vec<Member> = step.iter().map(|(n, choice)| {
                let state = [MemberState::Up, MemberState::Joining, MemberState::Draining];
                // A life of its own for some in every step.
                let life = n * 100 + (seed >> (n + at as u32)) as u32 % 2;
                member(&format!("n{n}"), life, state[usize::from(*choice)])
            }).collect();
            let mut turned = members.clone();
            turned.reverse();
            prop_assert_eq!(
                next(map.as_ref(), &members, shards),
                next(map.as_ref(), &turned, shards)
            );
            if let Some(after) = next(map.as_ref(), &members, shards) {
                let (settled, _) = settle(after, &members);
                let takers: Vec<&Member> = match members.iter().any(|m| m.state == MemberState::Up) {
                    true => members.iter().filter(|m| m.state == MemberState::Up).collect(),
                    false => members.iter().filter(|m| m.state == MemberState::Draining).collect(),
                };
                let cap = cap(shards, takers.len(), 105);
                for one in &members {
                    let most = if takers.contains(&one) { cap } else { 0 };
                    prop_assert!(settled.count(one.incarnation) <= most);
                }
                prop_assert!(!settled.is_moving());
                map = Some(settled);
            }
        }
    }

    /// A join and a leave move at most the share of one node and a little for the cap.
    #[test]
    fn few_shards_move(nodes in 2_u32..30) {
        let shards = 2048;
        let members = up(1..=nodes);
        let map = next(None, &members, shards).unwrap();
        let more = up(1..=nodes + 1);
        let (joined, _) = settle(map.clone(), &more);
        let share = f64::from(shards) / f64::from(nodes + 1);
        prop_assert!((moved(&map, &joined) as f64) < 1.7 * share + 8.0);
        let (left, _) = settle(joined, &members);
        prop_assert_eq!(owners(&left), owners(&map));
    }
}
