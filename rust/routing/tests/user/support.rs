//! One user with sessions, and what came out of the last turn.

use antiphon_routing::effect::{Effects, Local, Origin};
use antiphon_routing::session::SessionId;
use antiphon_routing::store::{OfflineRecord, RosterItem, Subscription, UserRecord, Write};
use antiphon_routing::user::{Call, CallAnswer, Policy, Switches, User};
use antiphon_xmpp::stream::StreamCondition;
use antiphon_xmpp::{Jid, Stanza, StanzaError};

pub const ME: &str = "juliet@capulet.example";

pub fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

pub fn id(number: u64) -> SessionId {
    SessionId { node: 0, number }
}

/// A stanza from its text; the content namespace is added.
pub fn stanza(xml: &str) -> Stanza {
    let end = xml.find([' ', '/', '>']).unwrap();
    let xml = format!("{} xmlns='jabber:client'{}", &xml[..end], &xml[end..]);
    Stanza::from_bytes(xml.as_bytes()).unwrap_or_else(|e| panic!("{xml}: {e:?}"))
}

pub fn message(from: &str, to: &str, type_: &str, content: &str) -> Stanza {
    let type_ = if type_.is_empty() {
        String::new()
    } else {
        format!(" type='{type_}'")
    };
    stanza(&format!(
        "<message from='{from}' to='{to}' id='m1'{type_}>{content}</message>"
    ))
}

pub fn presence(from: &str, to: &str, type_: &str) -> Stanza {
    let mut xml = format!("<presence from='{from}'");
    for (name, value) in [("to", to), ("type", type_)] {
        if !value.is_empty() {
            xml += &format!(" {name}='{value}'");
        }
    }
    stanza(&(xml + "/>"))
}

pub fn iq(from: &str, to: &str, type_: &str) -> Stanza {
    stanza(&format!(
        "<iq from='{from}' to='{to}' type='{type_}' id='i1'><query xmlns='some:ns'/></iq>"
    ))
}

/// A roster item; the subscription as in a state's name: `to`, `from`, `both`, `none`, with `+po`.
pub fn item(contact: &str, subscription: &str) -> RosterItem {
    let name = subscription.strip_suffix("+po");
    RosterItem {
        jid: jid(contact),
        name: "".into(),
        groups: Box::default(),
        subscription: Subscription {
            to: matches!(name.unwrap_or(subscription), "to" | "both"),
            from: matches!(name.unwrap_or(subscription), "from" | "both"),
            pending_out: name.is_some(),
            approved: false,
        },
    }
}

pub fn record(items: &[(&str, &str)]) -> UserRecord {
    let roster = items
        .iter()
        .map(|(contact, state)| item(contact, state))
        .collect();
    UserRecord {
        roster,
        roster_version: 7,
        ..UserRecord::default()
    }
}

/// What one turn wanted.
#[derive(Debug, Default)]
pub struct Out {
    pub delivered: Vec<(u64, Stanza)>,
    pub offline: Vec<(u64, u64, Stanza)>,
    pub routes: Vec<Stanza>,
    pub writes: Vec<Write>,
    pub refused: Vec<Stanza>,
    pub origins: Vec<Origin>,
    pub closed: Vec<(u64, StreamCondition)>,
    pub reads: Vec<(u64, u64)>,
    pub moved: usize,
}

impl Out {
    pub fn of(fx: Effects) -> Self {
        let mut out = Self {
            routes: fx.routes,
            ..Self::default()
        };
        for local in fx.local {
            match local {
                Local::Deliver {
                    session,
                    stanza,
                    offline: None,
                } => {
                    out.delivered.push((session.number, stanza));
                }
                Local::Deliver {
                    session,
                    stanza,
                    offline: Some(id),
                } => {
                    out.offline.push((session.number, id, stanza));
                }
                Local::Store {
                    write,
                    origin,
                    refused,
                } => {
                    out.writes.push(write);
                    out.origins.extend(origin);
                    out.refused.extend(refused.map(|r| *r));
                }
                Local::ReadOffline { session, after, .. } => {
                    out.reads.push((session.number, after))
                }
                Local::Close { session, condition } => out.closed.push((session.number, condition)),
                Local::InboxMoved { .. } => out.moved += 1,
                other => panic!("unexpected {other:?}"),
            }
        }
        out
    }

    /// Which sessions got something, in order.
    pub fn sessions(&self) -> Vec<u64> {
        self.delivered.iter().map(|(session, _)| *session).collect()
    }

    /// The stanzas that a session got.
    pub fn to(&self, session: u64) -> Vec<&Stanza> {
        self.delivered
            .iter()
            .filter(|(s, _)| *s == session)
            .map(|(_, s)| s)
            .collect()
    }

    /// Routed stanzas as `type from > to`, without a type `available`, `normal` or the like: `-`.
    pub fn routed(&self) -> Vec<String> {
        self.routes.iter().map(line).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.delivered.is_empty()
            && self.offline.is_empty()
            && self.routes.is_empty()
            && self.writes.is_empty()
            && self.closed.is_empty()
            && self.reads.is_empty()
    }
}

/// `type from > to`.
pub fn line(stanza: &Stanza) -> String {
    let address = |jid: &Option<Jid>| jid.as_ref().map_or("-".to_owned(), Jid::to_string);
    let type_ = if stanza.type_str().is_empty() {
        "-"
    } else {
        stanza.type_str()
    };
    format!(
        "{type_} {} > {}",
        address(&stanza.from),
        address(&stanza.to)
    )
}

/// The defined condition of an error stanza.
pub fn condition(stanza: &Stanza) -> String {
    assert_eq!(stanza.type_str(), "error", "{stanza:?}");
    let error = stanza.child("jabber:client", "error").unwrap();
    let condition = error
        .elements()
        .find(|e| e.ns == "urn:ietf:params:xml:ns:xmpp-stanzas" && e.name != "text");
    condition.unwrap().name.to_string()
}

/// A session whose stanzas are not counted.
pub fn sender(number: u64) -> Origin {
    Origin {
        session: id(number),
        seq: 0,
    }
}

pub struct World {
    pub user: User,
    pub policy: Policy,
    pub now_ms: u64,
}

impl World {
    pub fn new(record: UserRecord) -> Self {
        let policy = Policy {
            domains: vec!["capulet.example".into()],
            ..Policy::default()
        };
        Self {
            user: User::new(jid(ME), Some(record)),
            policy,
            now_ms: 1_000_000_000_000,
        }
    }

    pub fn missing() -> Self {
        let mut world = Self::new(UserRecord::default());
        world.user = User::new(jid(ME), None);
        world
    }

    /// A user with sessions r1, r2, … of these priorities; `None`: not available.
    pub fn with_sessions(record: UserRecord, priorities: &[Option<i8>]) -> Self {
        let mut world = Self::new(record);
        for (priority, number) in priorities.iter().zip(1..) {
            world.bind(number);
            if let Some(priority) = priority {
                world.available(number, *priority);
            }
        }
        world.now_ms += 1_000;
        world
    }

    /// Turns offline messages off.
    pub fn without_offline(&mut self) {
        self.user.switch(Switches {
            is_offline_on: false,
            ..Switches::default()
        });
    }

    fn turn(&mut self, f: impl FnOnce(&mut User, u64, &Policy, &mut Effects)) -> Out {
        let mut fx = Effects::default();
        f(&mut self.user, self.now_ms, &self.policy, &mut fx);
        Out::of(fx)
    }

    pub fn bind(&mut self, number: u64) -> Out {
        self.bind_as(number, &format!("r{number}")).unwrap()
    }

    pub fn bind_as(&mut self, number: u64, resource: &str) -> Result<Out, StanzaError> {
        let mut fx = Effects::default();
        let full = jid(&format!("{ME}/{resource}"));
        self.user.bind(id(number), &full, &self.policy, &mut fx)?;
        Ok(Out::of(fx))
    }

    pub fn unbind(&mut self, number: u64) -> Out {
        self.turn(|user, now, p, fx| user.unbind(id(number), now, p, fx))
    }

    /// What a session sends, its address added.
    pub fn send(&mut self, number: u64, xml: &str) -> Out {
        let stanza = stanza(xml).from(jid(&format!("{ME}/r{number}")));
        self.turn(|user, now, p, fx| user.outgoing(sender(number), stanza, now, p, fx))
    }

    /// As [`World::send`], on a stream whose stanzas are counted.
    pub fn send_counted(&mut self, number: u64, xml: &str) -> Out {
        let stanza = stanza(xml).from(jid(&format!("{ME}/r{number}")));
        let origin = Origin {
            seq: 1,
            ..sender(number)
        };
        self.turn(|user, now, p, fx| user.outgoing(origin, stanza, now, p, fx))
    }

    pub fn available(&mut self, number: u64, priority: i8) -> Out {
        self.send(
            number,
            &format!("<presence><priority>{priority}</priority></presence>"),
        )
    }

    pub fn receive(&mut self, stanza: Stanza) -> Out {
        self.receive_as(stanza, None)
    }

    pub fn receive_as(&mut self, stanza: Stanza, origin: Option<Origin>) -> Out {
        self.turn(|user, now, p, fx| user.incoming(stanza, origin, now, p, fx))
    }

    pub fn undelivered(&mut self, stanzas: Vec<(u64, Stanza)>) -> Out {
        self.turn(|user, now, p, fx| user.undelivered(stanzas, now, p, fx))
    }

    pub fn loaded(&mut self, number: u64, records: Vec<OfflineRecord>) -> Out {
        self.turn(|user, _, p, fx| user.offline_loaded(id(number), records, p, fx))
    }

    pub fn call(&mut self, call: Call) -> (Result<CallAnswer, StanzaError>, Out) {
        let mut answer = Ok(CallAnswer::Done);
        let out = self.turn(|user, now, p, fx| answer = user.call(call, now, p, fx));
        (answer, out)
    }

    pub fn carbons(&mut self, number: u64) {
        self.call(Call::Carbons {
            session: id(number),
            enabled: true,
        })
        .0
        .unwrap();
    }

    pub fn interested(&mut self, number: u64) {
        self.call(Call::RosterGet {
            session: Some(id(number)),
            ver: None,
        })
        .0
        .unwrap();
    }

    pub fn block(&mut self, jids: &[&str]) -> Out {
        let jids = jids.iter().map(|j| jid(j)).collect();
        let (answer, out) = self.call(Call::Block { jids });
        answer.unwrap();
        out
    }

    /// The roster item of a contact as the roster shows it.
    pub fn roster_item(&mut self, contact: &str) -> Option<RosterItem> {
        // A session of its own, so that asking does not make another one interested.
        let mut probe = User::new(jid(ME), None);
        std::mem::swap(&mut probe, &mut self.user);
        let mut fx = Effects::default();
        let p = Policy {
            sessions_per_user: 0,
            ..Policy::default()
        };
        let session = id(9_999);
        probe
            .bind(session, &jid(&format!("{ME}/asker")), &p, &mut fx)
            .unwrap();
        let answer = probe
            .call(
                Call::RosterGet {
                    session: Some(session),
                    ver: None,
                },
                0,
                &p,
                &mut fx,
            )
            .unwrap();
        let mut fx = Effects::default();
        probe.unbind(session, 0, &p, &mut fx);
        std::mem::swap(&mut probe, &mut self.user);
        let CallAnswer::Roster { items, .. } = answer else {
            panic!("{answer:?}")
        };
        items.into_iter().find(|i| i.jid.as_str() == contact)
    }
}
