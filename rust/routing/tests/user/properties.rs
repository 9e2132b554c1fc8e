//! Random turns: nothing panics, and what must always hold does.

use crate::support::*;
use antiphon_routing::store::{OfflineRecord, RosterItem, UserRecord, Write};
use antiphon_routing::user::{Call, CallAnswer};
use antiphon_xmpp::stream::StreamCondition;
use std::collections::BTreeMap;

/// xorshift: the same turns every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.roll(list.len())]
    }
}

const OTHERS: [&str; 8] = [
    "a@x.example",
    "a@x.example/1",
    "b@x.example",
    "b@y.example/2",
    "x.example",
    ME,
    "juliet@capulet.example/r1",
    "juliet@capulet.example/gone",
];
const PRESENCE: [&str; 9] = [
    "",
    "unavailable",
    "probe",
    "error",
    "subscribe",
    "subscribed",
    "unsubscribe",
    "unsubscribed",
    "strange",
];
const MESSAGES: [&str; 6] = ["chat", "normal", "groupchat", "headline", "error", ""];
const CONTENT: [&str; 6] = [
    "<body>x</body>",
    "",
    "<active xmlns='http://jabber.org/protocol/chatstates'/>",
    "<body>x</body><no-store xmlns='urn:xmpp:hints'/>",
    "<delay xmlns='urn:xmpp:delay' from='capulet.example' stamp='x'/><body>y</body>",
    "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='b@y.example'/></x>",
];

/// What a store would hold after the writes.
#[derive(Default)]
struct Mirror {
    roster: BTreeMap<String, RosterItem>,
    version: u64,
    requests: BTreeMap<String, ()>,
    offline: BTreeMap<u64, Box<[u8]>>,
    next_id: u64,
    unsent: Vec<(u64, antiphon_xmpp::Stanza)>,
}

impl Mirror {
    fn apply(&mut self, out: &Out) {
        for write in &out.writes {
            match write.clone() {
                Write::RosterPut { version, item, .. } => {
                    assert_eq!(version, self.version + 1, "every change is one version");
                    self.version = version;
                    assert!(item.jid.is_bare());
                    assert!(!(item.subscription.to && item.subscription.pending_out));
                    self.roster.insert(item.jid.to_string(), item);
                }
                Write::RosterRemove { version, jid, .. } => {
                    assert_eq!(version, self.version + 1);
                    self.version = version;
                    assert!(self.roster.remove(jid.as_str()).is_some());
                }
                Write::RequestPut { request, .. } => {
                    let from = request.from.to_string();
                    assert!(
                        self.requests.insert(from, ()).is_none(),
                        "one for each contact"
                    );
                }
                Write::RequestDelete { from, .. } => {
                    assert!(self.requests.remove(from.as_str()).is_some());
                }
                Write::OfflineAppend { stanza, .. } => {
                    self.next_id += 1;
                    self.offline.insert(self.next_id, stanza);
                }
                Write::OfflineDelete { ids, .. } => {
                    self.offline.retain(|id, _| !ids.contains(id));
                }
                _ => {}
            }
        }
        for (_, stanza) in &out.delivered {
            if stanza.kind == antiphon_xmpp::StanzaKind::Message {
                self.unsent.push((1_000_000_000_500, stanza.clone()));
            }
        }
        for stanza in &out.routes {
            assert!(stanza.to.is_some() && stanza.from.is_some(), "{stanza:?}");
        }
    }
}

fn turn(
    world: &mut World,
    mirror: &mut Mirror,
    live: &mut Vec<u64>,
    dice: &mut Dice,
    n: u64,
) -> Out {
    let other = dice.pick(&OTHERS);
    let session = live.get(dice.roll(live.len().max(1))).copied().unwrap_or(0);
    match dice.roll(14) {
        0 => {
            let resource = format!("r{}", dice.roll(3));
            match world.bind_as(n, &resource) {
                Ok(out) => {
                    live.retain(|s| !out.closed.iter().any(|(closed, _)| closed == s));
                    live.push(n);
                    out
                }
                Err(_) => Out::default(),
            }
        }
        1 => {
            live.retain(|s| *s != session);
            let out = world.unbind(session);
            mirror.apply(&out);
            let stanzas = std::mem::take(&mut mirror.unsent);
            world.undelivered(stanzas)
        }
        2 | 3 => {
            let priority = dice.roll(5) as i8 - 2;
            world.available(session, priority)
        }
        4 => world.send(session, "<presence type='unavailable'/>"),
        5 => world.send(
            session,
            &format!(
                "<presence to='{other}' type='{}'/>",
                dice.pick(&PRESENCE[1..])
            ),
        ),
        6 => world.receive(presence(other, ME, dice.pick(&PRESENCE))),
        7 => {
            let (type_, content) = (dice.pick(&MESSAGES), dice.pick(&CONTENT));
            world.receive(message(other, dice.pick(&OTHERS[5..]), type_, content))
        }
        8 => {
            let content = dice.pick(&CONTENT);
            world.send(
                session,
                &format!("<message to='{other}' type='chat'>{content}</message>"),
            )
        }
        9 => {
            let kind = dice.pick(&["get", "set", "result", "error"]);
            world.receive(iq(other, dice.pick(&OTHERS[5..]), kind))
        }
        10 => {
            let after = dice.roll(3) as u64;
            let page = mirror.offline.range(after..).take(dice.roll(3));
            let page = page.map(|(id, stanza)| OfflineRecord {
                id: *id,
                at_ms: 9,
                archived: None,
                stanza: stanza.clone(),
            });
            world.loaded(session, page.collect())
        }
        _ => {
            let call = random_call(other, session, dice);
            world.call(call).1
        }
    }
}

fn random_call(other: &str, session: u64, dice: &mut Dice) -> Call {
    match dice.roll(9) {
        0 => Call::RosterGet {
            session: Some(id(session)),
            ver: Some(dice.roll(50).to_string()),
        },
        1 => Call::RosterSet {
            item: item(other, "none"),
        },
        2 => Call::RosterRemove { jid: jid(other) },
        3 => Call::Block {
            jids: vec![jid(other)],
        },
        4 => Call::Unblock {
            jids: if dice.roll(2) == 0 {
                vec![]
            } else {
                vec![jid(other)]
            },
        },
        5 => Call::Carbons {
            session: id(session),
            enabled: dice.roll(2) == 0,
        },
        6 => Call::BlockList {
            session: id(session),
        },
        7 => Call::Kick {
            resource: None,
            condition: StreamCondition::Reset,
        },
        _ => Call::MaySeePresence { by: jid(other) },
    }
}

#[test]
fn random_turns_never_panic_and_the_store_mirrors_the_roster() {
    for seed in 1..=60 {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15u64.wrapping_mul(seed));
        let mut world = World::new(UserRecord::default());
        world.policy.sessions_per_user = 3;
        world.policy.roster_items = 2;
        world.policy.directed_presence = 2;
        world.policy.offline_messages = 5;
        world.policy.blocked_items = 2;
        world.policy.subscription_requests = 1;
        let (mut mirror, mut live) = (Mirror::default(), Vec::new());
        for n in 1..=400 {
            world.now_ms += 7_000;
            let out = turn(&mut world, &mut mirror, &mut live, &mut dice, n);
            mirror.apply(&out);
            for (session, _) in &out.delivered {
                assert!(live.contains(session), "nothing to a session that is gone");
            }
            assert!(mirror.roster.len() <= 2 && mirror.requests.len() <= 1);
        }
        for session in live {
            world.unbind(session);
        }
        assert!(world.user.is_idle());
        world.bind(1_000);
        let call = Call::RosterGet {
            session: Some(id(1_000)),
            ver: None,
        };
        let CallAnswer::Roster { items, ver } = world.call(call).0.unwrap() else {
            panic!()
        };
        assert_eq!(ver, mirror.version.to_string());
        let stored: Vec<RosterItem> = mirror.roster.into_values().collect();
        assert_eq!(items, stored);
    }
}
