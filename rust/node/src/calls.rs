//! What Python may ask of the node: reads of the store, and changes of an entity in its order.

use crate::history::{ArchiveQuery, InboxForm, InboxQuery, PageForm, PageQuery};
use crate::node::{Node, store_error};
use crate::shard;
use crate::value::Value;
use antiphon_routing::SessionId;
use antiphon_routing::archive::{ArchivePrefs, InboxChange};
use antiphon_routing::effect::Effects;
use antiphon_routing::store::{MapKind, RosterItem, Store, StoreError, Subscription, Write};
use antiphon_routing::user::{Call, CallAnswer, User};
use antiphon_xmpp::sasl::{Credentials, ScramKeys};
use antiphon_xmpp::stanza::{StanzaCondition, StanzaError};
use antiphon_xmpp::stream::StreamCondition;
use antiphon_xmpp::{Element, Jid, ns};
use std::sync::Arc;
use tokio::sync::oneshot;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident { $($field:ident: $type:ty),* } = $name:literal;)*) => {
        /// An operation with its arguments.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "the arguments are documented in python/antiphon/storage/api.py")]
        pub enum Operation { $($(#[$doc])* $variant { $($field: $type),* },)* }

        /// The names that Python uses.
        pub const OPERATIONS: &[&str] = &[$($name),*];
    };
}

operations! {
    /// The roster for a session that becomes interested.
    RosterGet { owner: Jid, session: Option<SessionId>, ver: Option<String> } = "roster.get";
    /// Adds or changes an item.
    RosterSet { owner: Jid, jid: Jid, name: String, groups: Vec<String> } = "roster.set";
    /// Removes an item.
    RosterRemove { owner: Jid, jid: Jid } = "roster.remove";
    /// The block list for a session that will get pushes.
    BlockList { owner: Jid, session: SessionId } = "block.list";
    /// Blocks.
    BlockAdd { owner: Jid, jids: Vec<Jid> } = "block.add";
    /// Unblocks; none: all.
    BlockRemove { owner: Jid, jids: Vec<Jid> } = "block.remove";
    /// Carbons on or off.
    CarbonsSet { owner: Jid, session: SessionId, enabled: bool } = "carbons.set";
    /// Whether an address sees the user's presence.
    MaySee { owner: Jid, by: Jid } = "presence.may_see";
    /// Last activity.
    Activity { owner: Jid } = "activity.last";
    /// Sessions of a user.
    SessionsList { owner: Jid } = "sessions.list";
    /// Sessions of a domain by full JID.
    SessionsAll { domain: String, after: Option<String>, limit: usize } = "sessions.all";
    /// How many sessions a domain or the node has.
    SessionsCount { domain: Option<String> } = "sessions.count";
    /// Ends sessions.
    Kick { owner: Jid, resource: Option<String>, condition: String } = "sessions.kick";
    /// Whether an account exists.
    AccountExists { jid: Jid } = "account.exists";
    /// A new account.
    AccountCreate { jid: Jid, password: String } = "account.create";
    /// A new password.
    AccountPassword { jid: Jid, password: String } = "account.password";
    /// Creates or updates.
    AccountPut { jid: Jid, password: String } = "account.put";
    /// Creates or updates from keys.
    AccountPutKeys { jid: Jid, keys: Vec<ScramKeys> } = "account.put_keys";
    /// Removes everything.
    AccountDelete { jid: Jid } = "account.delete";
    /// Enables or disables.
    AccountEnable { jid: Jid, enabled: bool } = "account.enable";
    /// None, or whether it is enabled.
    AccountState { jid: Jid } = "account.state";
    /// Accounts of a domain.
    AccountList { domain: String, after: Option<String>, limit: usize } = "account.list";
    /// How many.
    AccountCount { domain: String } = "account.count";
    /// Whether this is the password.
    AccountVerify { jid: Jid, password: String } = "account.verify";
    /// A value of the generic map.
    MapGet { owner: Jid, kind: MapKind, key: String } = "map.get";
    /// Sets or removes one.
    MapPut { owner: Jid, kind: MapKind, key: String, value: Vec<u8> } = "map.put";
    /// Keys with a prefix.
    MapKeys { owner: Jid, kind: MapKind, prefix: String } = "map.keys";
    /// Offline messages that wait.
    OfflineCount { owner: Jid } = "offline.count";
    /// Numbers of the node.
    Stats {} = "node.stats";
    /// Messages of an archive, put on a session's queue.
    ArchivePage {
        owner: Jid, session: SessionId, query: ArchiveQuery, page: PageQuery, form: PageForm
    } = "archive.page";
    /// Messages of an archive, as values.
    ArchiveRows { owner: Jid, query: ArchiveQuery, page: PageQuery } = "archive.rows";
    /// How many messages a query finds.
    ArchiveCount { owner: Jid, query: ArchiveQuery, most: u64 } = "archive.count";
    /// The first and the last message.
    ArchiveEnds { owner: Jid } = "archive.ends";
    /// Conversations by day.
    ArchiveCollections { owner: Jid, query: ArchiveQuery, max: usize } = "archive.collections";
    /// Deletes messages.
    ArchivePurge { owner: Jid, peer: Option<Jid>, before_ms: Option<u64> } = "archive.purge";
    /// The preferences.
    ArchivePrefsGet { owner: Jid } = "archive.prefs_get";
    /// Sets them.
    ArchivePrefsSet { owner: Jid, prefs: ArchivePrefs } = "archive.prefs_set";
    /// Conversations, put on a session's queue.
    InboxPage {
        owner: Jid, session: SessionId, query_id: Option<String>, query: InboxQuery, form: InboxForm
    } = "inbox.page";
    /// One conversation.
    InboxEntry { owner: Jid, peer: Jid } = "inbox.entry";
    /// Changes one.
    InboxSet { owner: Jid, peer: Jid, change: InboxChange } = "inbox.set";
    /// Deletes what is in the bin.
    InboxEmptyBin { owner: Jid } = "inbox.empty_bin";
}

pub(crate) type Answered = Result<Value, StanzaError>;

impl Node {
    /// Carries out an operation; the outcome comes as an event with this ticket.
    pub fn call(self: &Arc<Self>, ticket: u64, operation: Operation) {
        let node = Arc::clone(self);
        self.runtime.spawn(async move {
            let result = node.perform(operation).await;
            node.bridge.complete(ticket, result);
        });
    }

    async fn perform(self: &Arc<Self>, operation: Operation) -> Answered {
        use Operation as O;
        match operation {
            O::SessionsAll { .. } | O::SessionsCount { .. } | O::Stats {} => {
                Ok(self.look(operation))
            }
            O::RosterGet { .. }
            | O::RosterSet { .. }
            | O::RosterRemove { .. }
            | O::BlockList { .. }
            | O::BlockAdd { .. }
            | O::BlockRemove { .. }
            | O::CarbonsSet { .. }
            | O::MaySee { .. }
            | O::Activity { .. }
            | O::SessionsList { .. }
            | O::Kick { .. }
            | O::AccountExists { .. } => self.perform_on_entity(operation).await,
            O::MapGet { .. } | O::MapPut { .. } | O::MapKeys { .. } | O::OfflineCount { .. } => {
                self.perform_on_store(operation).await
            }
            O::ArchivePage { .. }
            | O::ArchiveRows { .. }
            | O::ArchiveCount { .. }
            | O::ArchiveEnds { .. }
            | O::ArchiveCollections { .. }
            | O::ArchivePurge { .. }
            | O::ArchivePrefsGet { .. }
            | O::ArchivePrefsSet { .. } => self.perform_on_archive(operation).await,
            O::InboxPage { .. }
            | O::InboxEntry { .. }
            | O::InboxSet { .. }
            | O::InboxEmptyBin { .. } => self.perform_on_inbox(operation).await,
            _ => self.perform_on_account(operation).await,
        }
    }

    async fn perform_on_archive(self: &Arc<Self>, operation: Operation) -> Answered {
        use Operation as O;
        match operation {
            O::ArchivePage {
                owner,
                session,
                query,
                page,
                form,
            } => self.archive_page(owner, session, query, page, form).await,
            O::ArchiveRows { owner, query, page } => self.archive_rows(owner, query, page).await,
            O::ArchiveCount { owner, query, most } => self.archive_count(owner, query, most).await,
            O::ArchiveEnds { owner } => self.archive_ends(owner).await,
            O::ArchiveCollections { owner, query, max } => {
                self.archive_collections(owner, query, max).await
            }
            O::ArchivePurge {
                owner,
                peer,
                before_ms,
            } => self.archive_purge(owner, peer, before_ms).await,
            O::ArchivePrefsGet { owner } => self.archive_prefs(owner, None).await,
            O::ArchivePrefsSet { owner, prefs } => self.archive_prefs(owner, Some(prefs)).await,
            _ => Err(StanzaCondition::InternalServerError.into()),
        }
    }

    async fn perform_on_inbox(self: &Arc<Self>, operation: Operation) -> Answered {
        use Operation as O;
        match operation {
            O::InboxPage {
                owner,
                session,
                query_id,
                query,
                form,
            } => self.inbox_page(owner, session, query_id, query, form).await,
            O::InboxEntry { owner, peer } => self.inbox_entry(owner, peer).await,
            O::InboxSet {
                owner,
                peer,
                change,
            } => self.inbox_set(owner, peer, change).await,
            O::InboxEmptyBin { owner } => self.inbox_empty_bin(owner).await,
            _ => Err(StanzaCondition::InternalServerError.into()),
        }
    }

    async fn perform_on_entity(self: &Arc<Self>, operation: Operation) -> Answered {
        use Operation as O;
        let (owner, call) = match operation {
            O::RosterGet {
                owner,
                session,
                ver,
            } => (owner, Call::RosterGet { session, ver }),
            O::RosterSet {
                owner,
                jid,
                name,
                groups,
            } => (
                owner,
                Call::RosterSet {
                    item: item(jid, name, groups),
                },
            ),
            O::RosterRemove { owner, jid } => (owner, Call::RosterRemove { jid }),
            O::BlockList { owner, session } => (owner, Call::BlockList { session }),
            O::BlockAdd { owner, jids } => (owner, Call::Block { jids }),
            O::BlockRemove { owner, jids } => (owner, Call::Unblock { jids }),
            O::CarbonsSet {
                owner,
                session,
                enabled,
            } => (owner, Call::Carbons { session, enabled }),
            O::MaySee { owner, by } => (owner, Call::MaySeePresence { by }),
            O::Activity { owner } => (owner, Call::LastActivity),
            O::SessionsList { owner } => (owner, Call::Sessions),
            O::AccountExists { jid } => (jid, Call::Exists),
            O::Kick {
                owner,
                resource,
                condition,
            } => return self.kick(owner, resource, &condition).await,
            _ => return Err(StanzaCondition::InternalServerError.into()),
        };
        self.entity(owner, call).await.map(value)
    }

    /// How many sessions were ended.
    async fn kick(
        self: &Arc<Self>,
        owner: Jid,
        resource: Option<String>,
        condition: &str,
    ) -> Answered {
        let found = StreamCondition::ALL.iter().find(|c| c.name() == condition);
        let condition = *found.ok_or(StanzaCondition::BadRequest)?;
        let sessions = match self.entity(owner.clone(), Call::Sessions).await? {
            CallAnswer::Sessions(sessions) => sessions,
            _ => Vec::new(),
        };
        let is_meant = |jid: &Jid| resource.is_none() || jid.resource() == resource.as_deref();
        let count = sessions.iter().filter(|s| is_meant(&s.jid)).count();
        if count > 0 {
            let call = Call::Kick {
                resource,
                condition,
            };
            self.entity(owner, call).await?;
        }
        Ok(Value::Int(count as u64))
    }

    /// Runs a call in an entity's order.
    pub(crate) async fn entity(
        self: &Arc<Self>,
        owner: Jid,
        call: Call,
    ) -> Result<CallAnswer, StanzaError> {
        let (answer, receiver) = oneshot::channel();
        let job =
            move |node: &Arc<Self>, user: Result<&mut User, &StoreError>, fx: &mut Effects| {
                let result = match user {
                    Ok(user) => user.call(call, node.now(), &node.live.load().policy, fx),
                    Err(error) => Err(store_error(error)),
                };
                // Whoever asked waits, or is gone with the node.
                let _ = answer.send(result);
            };
        self.on_user(&owner, job)?;
        receiver
            .await
            .unwrap_or(Err(StanzaCondition::InternalServerError.into()))
    }

    async fn perform_on_store(self: &Arc<Self>, operation: Operation) -> Answered {
        use Operation as O;
        let result = match operation {
            O::MapGet { owner, kind, key } => {
                let found = self.store.map_get(&owner, kind, &key).await;
                found.map(|v| v.map_or(Value::None, |bytes| Value::Bytes(bytes.into_vec())))
            }
            O::MapKeys {
                owner,
                kind,
                prefix,
            } => self
                .store
                .map_keys(&owner, kind, &prefix)
                .await
                .map(Value::Texts),
            O::OfflineCount { owner } => {
                let record = self.store.user(&owner).await;
                record.map(|r| Value::Int(r.map_or(0, |r| r.offline)))
            }
            O::MapPut {
                owner,
                kind,
                key,
                value,
            } => {
                let write = Write::MapPut {
                    owner,
                    kind,
                    key,
                    value: value.into(),
                };
                return self.commit(write).await.map(|()| Value::None);
            }
            _ => return Err(StanzaCondition::InternalServerError.into()),
        };
        result.map_err(|error| store_error(&error))
    }

    async fn perform_on_account(self: &Arc<Self>, operation: Operation) -> Answered {
        use Operation as O;
        match operation {
            O::AccountCreate { jid, password } => {
                let credentials = self.derive(password).await?;
                self.store_account(Write::AccountCreate { jid, credentials })
                    .await
            }
            O::AccountPassword { jid, password } => {
                let mut credentials = self.derive(password).await?;
                credentials.is_enabled = self
                    .stored(&jid)
                    .await?
                    .ok_or(StanzaCondition::ItemNotFound)?
                    .is_enabled;
                self.store_account(Write::AccountUpdate { jid, credentials })
                    .await
            }
            O::AccountPut { jid, password } => {
                let mut credentials = self.derive(password).await?;
                credentials.is_enabled = self.stored(&jid).await?.is_none_or(|c| c.is_enabled);
                self.store_account(Write::AccountPut { jid, credentials })
                    .await
            }
            O::AccountPutKeys { jid, keys } => {
                let is_enabled = self.stored(&jid).await?.is_none_or(|c| c.is_enabled);
                self.store_account(Write::AccountPut {
                    jid,
                    credentials: Credentials { keys, is_enabled },
                })
                .await
            }
            O::AccountEnable { jid, enabled } => {
                let stored = self.stored(&jid).await?;
                let mut credentials = stored.ok_or(StanzaCondition::ItemNotFound)?;
                credentials.is_enabled = enabled;
                self.store_account(Write::AccountUpdate { jid, credentials })
                    .await
            }
            O::AccountDelete { jid } => self.delete_account(jid).await,
            O::AccountState { jid } => Ok(self
                .stored(&jid)
                .await?
                .map_or(Value::None, |c| Value::Bool(c.is_enabled))),
            O::AccountVerify { jid, password } => Arc::clone(self)
                .verify(jid, password)
                .await
                .map(Value::Bool),
            O::AccountCount { domain } => self
                .store
                .account_count(&domain)
                .await
                .map(Value::Int)
                .map_err(|e| store_error(&e)),
            O::AccountList {
                domain,
                after,
                limit,
            } => {
                let found = self
                    .store
                    .accounts(&domain, after.as_deref(), limit.clamp(1, 1000))
                    .await;
                let accounts = found.map_err(|e| store_error(&e))?;
                Ok(Value::Accounts(
                    accounts
                        .into_iter()
                        .map(|a| (a.jid, a.is_enabled, a.created_ms))
                        .collect(),
                ))
            }
            _ => Err(StanzaCondition::InternalServerError.into()),
        }
    }

    async fn stored(&self, jid: &Jid) -> Result<Option<Credentials>, StanzaError> {
        self.store
            .credentials(jid)
            .await
            .map_err(|error| store_error(&error))
    }

    async fn store_account(self: &Arc<Self>, write: Write) -> Answered {
        let account = write.owner().bare();
        let result = self.commit(write).await;
        // Also where it failed: that may be only what we were told.
        let hash = shard::hash(account.as_str());
        self.shards.lock(hash).renew(hash, account.as_str());
        self.tell_account(&account);
        result.map(|()| Value::None)
    }

    /// Contacts hear of it first, then everything of the account goes.
    async fn delete_account(self: &Arc<Self>, jid: Jid) -> Answered {
        if self.stored(&jid).await?.is_none() {
            return Err(StanzaCondition::ItemNotFound.into());
        }
        self.entity(jid.clone(), Call::Removed).await?;
        self.store_account(Write::AccountDelete { jid }).await
    }

    fn look(&self, operation: Operation) -> Value {
        match operation {
            Operation::SessionsAll {
                domain,
                after,
                limit,
            } => {
                let all = self.sessions.all().into_iter().map(|s| s.jid.clone());
                let mut jids: Vec<Jid> = all
                    .filter(|jid| {
                        jid.domain() == domain && after.as_deref().is_none_or(|a| jid.as_str() > a)
                    })
                    .collect();
                jids.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
                jids.truncate(limit.clamp(1, 1000));
                Value::Jids(jids)
            }
            Operation::SessionsCount { domain: None } => Value::Int(self.sessions.len() as u64),
            Operation::SessionsCount {
                domain: Some(domain),
            } => Value::Int(
                self.sessions
                    .all()
                    .iter()
                    .filter(|s| s.jid.domain() == domain)
                    .count() as u64,
            ),
            _ => {
                let (received, delivered) = self.metrics.stanzas();
                Value::Stats(vec![
                    ("uptime_s", self.started.elapsed().as_secs()),
                    ("sessions", self.sessions.len() as u64),
                    ("stanzas_received", received),
                    ("stanzas_delivered", delivered),
                    ("crossings", self.bridge.crossings()),
                ])
            }
        }
    }
}

fn item(jid: Jid, name: String, groups: Vec<String>) -> RosterItem {
    let mut groups: Vec<Box<str>> = groups.into_iter().map(String::into_boxed_str).collect();
    groups.sort_unstable();
    groups.dedup();
    RosterItem {
        jid,
        name: name.into(),
        groups: groups.into(),
        subscription: Subscription::default(),
    }
}

fn value(answer: CallAnswer) -> Value {
    match answer {
        CallAnswer::Done | CallAnswer::RosterUnchanged | CallAnswer::ArchivePrefs(_) => Value::None,
        CallAnswer::Flag(flag) => Value::Bool(flag),
        CallAnswer::Roster { items, ver } => Value::Element(roster(&items, ver)),
        CallAnswer::Jids(jids) => Value::Jids(jids),
        CallAnswer::Activity {
            at_ms,
            status,
            is_online,
        } => Value::Activity(at_ms, status, is_online),
        CallAnswer::Sessions(sessions) => Value::Sessions(
            sessions
                .into_iter()
                .map(|s| (s.jid, s.priority, s.presence, s.has_carbons))
                .collect(),
        ),
    }
}

/// RFC 6121 §2.1: the whole roster as a client gets it.
fn roster(items: &[RosterItem], ver: String) -> Element {
    let query = Element::new(ns::ROSTER, "query").with_attr("ver", ver);
    items.iter().fold(query, |query, item| {
        query.with_child(antiphon_routing::user::item_element(item))
    })
}
