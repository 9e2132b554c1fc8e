//! What a turn of the user entity costs: from a stanza to the effects that the node carries out.
//!
//! `cargo run --release -p antiphon-routing --example bench_user`; `make micro` runs it too. One line
//! each, separated by tabs: what, CPU ns of this thread a turn, turns/s of a core, allocations. The
//! stanza's own copy, which the reader would have made, is taken out of both.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a program that takes the time, prints figures and may fail"
)]

use antiphon_routing::effect::{Effects, Origin};
use antiphon_routing::session::SessionId;
use antiphon_routing::store::{RosterItem, Subscription, UserRecord};
use antiphon_routing::user::{Call, Policy, User};
use antiphon_xmpp::{Jid, Stanza};
use std::hint::black_box;

const TURNS: usize = 200_000;
const REPETITIONS: usize = 5;
const CONTACTS: usize = 50;
/// Friday, 2026-01-02.
const NOW_MS: u64 = 1_767_312_000_000;

fn jid(text: &str) -> Jid {
    Jid::parse(text).expect("a good address")
}

fn stanza(xml: &str) -> Stanza {
    Stanza::from_bytes(xml.as_bytes()).expect("a good stanza")
}

fn origin(number: u64) -> Origin {
    let session = SessionId { node: 0, number };
    Origin { session, seq: 0 }
}

/// A user with a roster of 50 and so many available sessions, all with carbons.
fn user(policy: &Policy, sessions: u64) -> User {
    let roster = (0..CONTACTS).map(|n| RosterItem {
        jid: jid(&format!("friend{n}@example.org")),
        name: "".into(),
        groups: Box::default(),
        subscription: Subscription {
            to: true,
            from: true,
            pending_out: false,
            approved: false,
        },
    });
    let record = UserRecord {
        roster: roster.collect(),
        roster_version: 1,
        ..UserRecord::default()
    };
    let mut user = User::new(jid("juliet@example.org"), Some(record));
    let mut fx = Effects::default();
    for number in 1..=sessions {
        let full = jid(&format!("juliet@example.org/r{number}"));
        let session = origin(number).session;
        user.bind(session, &full, policy, &mut fx)
            .expect("room for a session");
        let presence = stanza("<presence xmlns='jabber:client'/>").from(full);
        user.outgoing(origin(number), presence, NOW_MS, policy, &mut fx);
        let carbons = Call::Carbons {
            session,
            enabled: true,
        };
        let _ = user.call(carbons, NOW_MS, policy, &mut fx);
    }
    user
}

/// Runs turns with copies of the stanza, and then only makes the copies.
fn report(what: &str, like: &Stanza, mut turn: impl FnMut(Stanza)) {
    let copy = || drop(black_box(like.clone()));
    let mut whole = || turn(black_box(like.clone()));
    whole();
    let allocated = allocation_counter::measure(&mut whole).count_total as f64
        - allocation_counter::measure(copy).count_total as f64;
    let ns = best_ns(&mut whole) - best_ns(&mut { copy });
    println!("{what}\t{ns:.0}\t{:.1} M/s\t{allocated:.0}", 1e3 / ns);
}

fn best_ns(run: &mut dyn FnMut()) -> f64 {
    (0..REPETITIONS)
        .map(|_| {
            let start = cpu_ns();
            for _ in 0..TURNS {
                run();
            }
            (cpu_ns() - start) / TURNS as f64
        })
        .fold(f64::MAX, f64::min)
}

/// CPU time of this thread (Linux).
fn cpu_ns() -> f64 {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}

fn main() {
    let policy = Policy {
        domains: vec!["example.org".to_owned()],
        ..Policy::default()
    };
    let message = |from: &str, to: &str| {
        stanza(&format!(
            "<message xmlns='jabber:client' from='{from}' to='{to}' type='chat' id='m1'>\
             <body>Wherefore art thou?</body></message>"
        ))
    };
    let (romeo, juliet) = ("romeo@example.org/o", "juliet@example.org/r1");
    let mut fx = Effects::default();
    for (sessions, to, what) in [
        (1, juliet, "message to a full address, one session"),
        (
            1,
            "juliet@example.org",
            "message to a bare address, one session",
        ),
        (2, juliet, "message to a full address, a carbon copy"),
    ] {
        let mut user = user(&policy, sessions);
        report(what, &message(romeo, to), |stanza| {
            fx.clear();
            user.incoming(stanza, None, NOW_MS, &policy, &mut fx);
            black_box(&fx);
        });
    }
    for (sessions, what) in [(1, "message sent"), (2, "message sent, a carbon copy")] {
        let mut user = user(&policy, sessions);
        report(what, &message(juliet, romeo), |stanza| {
            fx.clear();
            user.outgoing(origin(1), stanza, NOW_MS, &policy, &mut fx);
            black_box(&fx);
        });
    }
    let mut user = user(&policy, 1);
    let presence = stanza("<presence xmlns='jabber:client'><show>away</show></presence>");
    let presence = presence.from(jid(juliet));
    report("presence sent to 50 contacts", &presence, |stanza| {
        fx.clear();
        user.outgoing(origin(1), stanza, NOW_MS, &policy, &mut fx);
        assert!(fx.routes.len() >= CONTACTS);
        black_box(&fx);
    });
}
