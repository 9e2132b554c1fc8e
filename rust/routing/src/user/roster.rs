//! The roster (RFC 6121 §2): items, version and pushes.

use super::{CallAnswer, Policy, Turn, User};
use crate::session::SessionId;
use crate::store::{RosterItem, Subscription, Write};
use antiphon_xmpp::{Element, Jid, Stanza, StanzaCondition, StanzaError, StanzaKind, ns};
use std::collections::HashSet;
use std::sync::Arc;

/// Longest `name` and longest group, bytes (RFC 6121 §2.3.3 leaves the numbers to the server).
const TEXT_BYTES: usize = 1023;
/// Most groups of one item, and their bytes: rosters stay in memory.
const GROUPS: usize = 100;
const GROUPS_BYTES: usize = 4096;

/// Group names of an item; contacts with the same groups share one.
type Groups = Option<Arc<[Box<str>]>>;

/// One roster item in its compact form.
#[derive(Debug)]
pub(super) struct Contact {
    pub jid: Jid,
    name: Box<str>,
    groups: Groups,
    pub subscription: Subscription,
}

impl Contact {
    fn item(&self) -> RosterItem {
        RosterItem {
            jid: self.jid.clone(),
            name: self.name.clone(),
            groups: self.groups.as_deref().unwrap_or_default().into(),
            subscription: self.subscription,
        }
    }
}

/// All items by address, and the version.
#[derive(Debug, Default)]
pub(super) struct Roster {
    contacts: Vec<Contact>,
    version: u64,
}

impl Roster {
    pub fn new(items: Vec<RosterItem>, version: u64) -> Self {
        let mut shared: HashSet<Arc<[Box<str>]>> = HashSet::new();
        let mut contacts = Vec::with_capacity(items.len());
        for item in items {
            let groups = (!item.groups.is_empty()).then(|| {
                shared.get(&*item.groups).cloned().unwrap_or_else(|| {
                    let groups: Arc<[Box<str>]> = item.groups.into();
                    shared.insert(Arc::clone(&groups));
                    groups
                })
            });
            let Subscription {
                to,
                from,
                pending_out,
                approved,
            } = item.subscription;
            // Asking for what one has is no state of RFC 6121 Appendix A.
            let subscription = Subscription {
                to,
                from,
                pending_out: pending_out && !to,
                approved,
            };
            contacts.push(Contact {
                jid: item.jid.bare(),
                name: item.name,
                groups,
                subscription,
            });
        }
        contacts.sort_unstable_by(|a, b| a.jid.as_str().cmp(b.jid.as_str()));
        contacts.dedup_by(|a, b| a.jid == b.jid);
        Self { contacts, version }
    }

    fn find(&self, contact: &Jid) -> Result<usize, usize> {
        self.contacts
            .binary_search_by(|c| c.jid.as_str().cmp(contact.bare_str()))
    }

    /// The item of a contact, by bare JID.
    pub fn get(&self, contact: &Jid) -> Option<&Contact> {
        self.find(contact).ok().map(|place| &self.contacts[place])
    }

    /// All items, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Contact> {
        self.contacts.iter()
    }

    pub fn is_full(&self, p: &Policy) -> bool {
        p.roster_items != 0 && self.contacts.len() >= p.roster_items
    }

    /// The version as clients see it.
    pub fn ver(&self) -> String {
        self.version.to_string()
    }

    /// Changes a subscription; makes the item where it needs one. Whether anything changed.
    pub fn set_subscription(&mut self, contact: &Jid, subscription: Subscription) -> bool {
        match self.find(contact) {
            Ok(place) => {
                let old = &mut self.contacts[place].subscription;
                let has_changed = *old != subscription;
                *old = subscription;
                has_changed
            }
            Err(_) if subscription == Subscription::default() => false,
            Err(place) => {
                let (name, groups) = (Box::default(), None);
                let item = Contact {
                    jid: contact.bare(),
                    name,
                    groups,
                    subscription,
                };
                self.insert(place, item);
                true
            }
        }
    }

    fn insert(&mut self, place: usize, contact: Contact) {
        // A few at a time: rosters are kept for long and grow seldom.
        if self.contacts.len() == self.contacts.capacity() {
            self.contacts.reserve_exact(4 + self.contacts.len() / 8);
        }
        self.contacts.insert(place, contact);
    }

    /// Sets name and groups; the subscription of an item stays.
    fn put(&mut self, item: RosterItem) {
        let groups = (!item.groups.is_empty()).then(|| {
            let same = self.contacts.iter().filter_map(|c| c.groups.as_ref());
            same.filter(|g| ***g == *item.groups)
                .map(Arc::clone)
                .next()
                .unwrap_or_else(|| item.groups.into())
        });
        match self.find(&item.jid) {
            Ok(place) => {
                let contact = &mut self.contacts[place];
                contact.name = item.name;
                contact.groups = groups;
            }
            Err(place) => {
                let subscription = Subscription::default();
                let jid = item.jid.bare();
                self.insert(
                    place,
                    Contact {
                        jid,
                        name: item.name,
                        groups,
                        subscription,
                    },
                );
            }
        }
    }

    /// Takes all items out.
    pub fn clear(&mut self) {
        self.contacts = Vec::new();
    }
}

/// What one gets who would put more into the roster than the operator allows. RFC 6121 §2.3.3
/// names no condition for it; type `wait` is right, since removing an item helps.
pub(super) fn full() -> StanzaError {
    StanzaError::new(StanzaCondition::ResourceConstraint).with_text("the roster is full")
}

/// RFC 6121 §2.3.3. Python has checked the form of the request; this is what an item must be
/// whoever asks.
fn check(item: &RosterItem) -> Result<(), StanzaError> {
    let not_acceptable =
        |text| Err(StanzaError::from(StanzaCondition::NotAcceptable).with_text(text));
    if item.name.len() > TEXT_BYTES {
        return not_acceptable("the name is too long");
    }
    if item
        .groups
        .iter()
        .any(|g| g.is_empty() || g.len() > TEXT_BYTES)
    {
        return not_acceptable("a group is empty or too long");
    }
    let groups_bytes: usize = item.groups.iter().map(|g| g.len()).sum();
    if item.groups.len() > GROUPS || groups_bytes > GROUPS_BYTES {
        return not_acceptable("too many groups");
    }
    let mut seen = HashSet::new();
    if !item.groups.iter().all(|g| seen.insert(g)) {
        return Err(StanzaError::from(StanzaCondition::BadRequest).with_text("a group twice"));
    }
    Ok(())
}

/// `<item/>` as in a push. RFC 6121 §2.1.2.
pub fn item_element(item: &RosterItem) -> Element {
    let Subscription {
        to,
        from,
        pending_out,
        approved,
    } = item.subscription;
    let subscription = match (to, from) {
        (false, false) => "none",
        (true, false) => "to",
        (false, true) => "from",
        (true, true) => "both",
    };
    let mut element = Element::new(ns::ROSTER, "item").with_attr("jid", item.jid.as_str());
    if !item.name.is_empty() {
        element.set_attr("name", &*item.name);
    }
    element.set_attr("subscription", subscription);
    if pending_out {
        element.set_attr("ask", "subscribe");
    }
    if approved {
        element.set_attr("approved", "true");
    }
    item.groups.iter().fold(element, |element, group| {
        element.with_child(Element::new(ns::ROSTER, "group").with_text(&**group))
    })
}

impl User {
    /// RFC 6121 §2.1.3 and §2.6.2. From now on the session gets pushes. Every client with another
    /// version gets the whole roster.
    pub(super) fn roster_get(
        &mut self,
        session: Option<SessionId>,
        ver: Option<&str>,
    ) -> Result<CallAnswer, StanzaError> {
        if let Some(session) = session {
            let at = self.index(session).ok_or(StanzaCondition::ItemNotFound)?;
            self.sessions[at].is_interested = true;
            self.note_change(at);
        }
        let current = self.roster.ver();
        if ver == Some(current.as_str()) {
            return Ok(CallAnswer::RosterUnchanged);
        }
        let items = self.roster.iter().map(Contact::item).collect();
        Ok(CallAnswer::Roster {
            items,
            ver: current,
        })
    }

    /// RFC 6121 §2.3 and §2.4: name and groups. What the client says about the subscription is not
    /// its to say; a full JID is cut, since items stand for contacts.
    pub(super) fn roster_set(
        &mut self,
        mut item: RosterItem,
        t: &mut Turn,
    ) -> Result<CallAnswer, StanzaError> {
        check(&item)?;
        item.jid = item.jid.bare();
        if item.jid == self.jid {
            return Err(StanzaCondition::NotAllowed.into());
        }
        if self.roster.get(&item.jid).is_none() && self.roster.is_full(t.policy) {
            return Err(full());
        }
        item.groups.sort_unstable();
        let contact = item.jid.clone();
        self.roster.put(item);
        self.save_and_push(&contact, t);
        Ok(CallAnswer::Done)
    }

    /// RFC 6121 §2.5: ends the subscriptions both ways and denies a request that waits.
    pub(super) fn roster_remove(
        &mut self,
        contact: &Jid,
        t: &mut Turn,
    ) -> Result<CallAnswer, StanzaError> {
        let place = self
            .roster
            .find(contact)
            .map_err(|_| StanzaCondition::ItemNotFound)?;
        let contact = contact.bare();
        self.part_from(&contact, t);
        self.roster.contacts.remove(place);
        self.drop_request(&contact, t);
        self.roster.version += 1;
        let (owner, version) = (self.jid.clone(), self.roster.version);
        let jid = contact.clone();
        let write = Write::RosterRemove {
            owner,
            version,
            jid,
        };
        t.fx.store_for(t.origin, write);
        let item = Element::new(ns::ROSTER, "item")
            .with_attr("jid", contact.as_str())
            .with_attr("subscription", "remove");
        self.push_item(item, t);
        Ok(CallAnswer::Done)
    }

    /// A new version of the roster: the item as it stands goes to the store and to every
    /// interested session.
    pub(super) fn save_and_push(&mut self, contact: &Jid, t: &mut Turn) {
        let Some(item) = self.roster.get(contact).map(Contact::item) else {
            return;
        };
        self.roster.version += 1;
        let (owner, version) = (self.jid.clone(), self.roster.version);
        let interested = self.sessions.iter().any(|s| s.is_interested);
        let element = interested.then(|| item_element(&item));
        let write = Write::RosterPut {
            owner,
            version,
            item,
        };
        // Before the push, which waits for it: nobody sees what a crash may undo.
        t.fx.store_for(t.origin, write);
        if let Some(element) = element {
            self.push_item(element, t);
        }
    }

    /// RFC 6121 §2.1.6. Serialised once for all sessions.
    fn push_item(&self, item: Element, t: &mut Turn) {
        let ver = self.roster.ver();
        let id = format!("roster-{ver}");
        let query = Element::new(ns::ROSTER, "query")
            .with_attr("ver", ver)
            .with_child(item);
        let push = Stanza::new(StanzaKind::Iq)
            .from(self.jid.clone())
            .with_type("set")
            .with_id(&id)
            .with_child(&query);
        for session in self.sessions.iter().filter(|s| s.is_interested) {
            t.fx.deliver(session.id, push.clone().to(session.jid.clone()));
        }
    }
}
