//! What an online user costs. In a process of its own: it looks at resident memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that panics has failed"
)]

use antiphon_routing::effect::{Effects, Origin};
use antiphon_routing::session::SessionId;
use antiphon_routing::store::{RosterItem, Subscription, UserRecord};
use antiphon_routing::user::{Policy, User};
use antiphon_xmpp::{Jid, Stanza};

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Bytes for each of many online users with so many contacts.
fn bytes_per_user(contacts: usize) -> usize {
    let p = Policy::default();
    let mut users = Vec::with_capacity(4_000);
    let presence = "<presence xmlns='jabber:client'><priority>1</priority><c xmlns='http://jabber.org/protocol/caps' \
         hash='sha-1' node='https://client.example' ver='QgayPKawpkPSDYmwT/WM94uAlu0='/></presence>";
    let before = resident();
    for n in 0..4_000u64 {
        let roster = (0..contacts).map(|c| RosterItem {
            jid: jid(&format!("contact{c}of{n}@montague.example")),
            name: format!("Contact {c}").into(),
            groups: [["Friends", "Family", "Work"][c % 3].into()].into(),
            subscription: Subscription {
                to: true,
                from: true,
                ..Subscription::default()
            },
        });
        let record = UserRecord {
            roster: roster.collect(),
            ..UserRecord::default()
        };
        let me = jid(&format!("user{n}@capulet.example"));
        let full = jid(&format!("user{n}@capulet.example/phone-{n}"));
        let mut user = User::new(me, Some(record));
        let mut fx = Effects::default();
        let id = SessionId { node: 0, number: n };
        user.bind(id, &full, &p, &mut fx).unwrap();
        let stanza = Stanza::from_bytes(presence.as_bytes()).unwrap().from(full);
        let sender = Origin {
            session: id,
            seq: 0,
        };
        user.outgoing(sender, stanza, 1, &p, &mut fx);
        users.push(user);
    }
    let used = resident().saturating_sub(before);
    assert_eq!(users.len(), 4_000);
    used / users.len()
}

#[test]
#[cfg(target_os = "linux")]
fn an_online_user_is_small() {
    let (without, with) = (bytes_per_user(0), bytes_per_user(50));
    println!("{without} bytes without a roster, {with} with 50 contacts");
    // Half of it without a roster is the presence with its capabilities.
    assert!(without < 1_500, "{without}");
    assert!(with < 10_240, "{with}");
}
