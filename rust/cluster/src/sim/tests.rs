//! Histories without a failure, and planted mistakes that are found.

use super::*;

/// Runs histories of a family with a mistake until one fails.
fn find(bug: Bug, family: Family, most: u64) -> Failure {
    find_from(0, bug, family, most)
}

/// As [`find`], from this seed on: for what is rare.
fn find_from(first: u64, bug: Bug, family: Family, most: u64) -> Failure {
    let of_family = (first..).filter(|seed| Family::of(*seed) == family);
    for seed in of_family.take(most as usize) {
        let options = Options {
            seed,
            bug: Some(bug),
            is_tracing: false,
        };
        if let Err(failure) = run(&options).result {
            return failure;
        }
    }
    panic!("{bug:?} is not found");
}

#[test]
fn two_hundred_histories_hold_every_invariant() {
    for seed in 0..200 {
        let options = Options {
            seed,
            ..Options::default()
        };
        if let Err(failure) = run(&options).result {
            panic!("seed {seed}: {failure}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let options = Options {
        seed: 3,
        bug: None,
        is_tracing: true,
    };
    assert_eq!(run(&options).trace, run(&options).trace);
}

#[test]
fn an_owner_that_ignores_its_deadline_is_found() {
    find(Bug::IgnoreDeadline, Family::Few, 200);
}

#[test]
fn an_owner_that_ignores_its_links_is_found() {
    find(Bug::IgnoreLinks, Family::Refused, 200);
}

#[test]
fn a_stale_frame_that_is_taken_is_found() {
    let failure = find_from(500, Bug::SkipEpoch, Family::Moving, 200);
    assert!(failure.what.starts_with("P2"), "{failure}");
}

#[test]
fn a_frame_of_the_dead_that_is_taken_is_found() {
    find(Bug::SkipIncarnation, Family::All, 100);
}

#[test]
fn a_shard_that_is_served_before_all_have_reported_is_found() {
    let failure = find(Bug::ServeUnreported, Family::All, 50);
    assert!(failure.what.starts_with("K4"), "{failure}");
}

#[test]
fn a_take_up_that_lets_late_writes_live_is_found() {
    find(Bug::SkipTakeover, Family::All, 100);
}

#[test]
fn ids_without_a_head_start_are_found() {
    find(Bug::SkipHeadStart, Family::Refused, 200);
}

#[test]
fn a_release_with_writes_under_way_is_found() {
    find(Bug::ReleaseUnflushed, Family::All, 50);
}

#[test]
fn a_router_that_does_not_settle_is_found() {
    let failure = find(Bug::SkipSettling, Family::All, 100);
    assert!(failure.what.starts_with("K4"), "{failure}");
}

#[test]
fn a_planner_that_plans_at_once_after_an_outage_is_found() {
    let failure = find(Bug::SkipQuiet, Family::EtcdAlone, 100);
    assert!(failure.what.starts_with("E1"), "{failure}");
}
