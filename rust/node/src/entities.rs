//! Entities in memory: found or read, used under their lock, forgotten.

#![allow(
    clippy::result_large_err,
    reason = "what is refused is given back, and boxing it would cost every stanza"
)]

use crate::mesh::Guard;
use crate::node::{Busy, Node, Routes, borrow_effects, return_effects};
use crate::shard::{self, Found, Slot, Touch, Waiting, enqueue};
use antiphon_routing::SessionId;
use antiphon_routing::effect::Effects;
use antiphon_routing::store::{StoreError, UserRecord};
use antiphon_routing::user::User;
use antiphon_xmpp::Jid;
use std::sync::Arc;

impl Node {
    /// Runs `job` with an entity, at once if it is in memory, else when it is read. `Err`: too many
    /// wait for it already.
    pub(crate) fn on_user<F>(self: &Arc<Self>, bare: &Jid, job: F) -> Result<(), Busy>
    where
        F: FnOnce(&Arc<Self>, Result<&mut User, &StoreError>, &mut Effects) + Send + 'static,
    {
        let mut routes = Routes::new();
        let result = self.with_user(bare, job, &mut routes);
        self.route_all(routes);
        result
    }

    /// As [`Node::on_user`]; what is to be routed further joins `routes` if the entity is there.
    pub(crate) fn with_user<F>(
        self: &Arc<Self>,
        bare: &Jid,
        job: F,
        routes: &mut Routes,
    ) -> Result<(), Busy>
    where
        F: FnOnce(&Arc<Self>, Result<&mut User, &StoreError>, &mut Effects) + Send + 'static,
    {
        self.with_user_holding(bare, None, job, routes)
    }

    /// As [`Node::with_user`]. While the entity is being read, `session` reads no further stanza:
    /// what it sent is handled in order (RFC 6120 §10.1), and an account that must be looked for
    /// answers no later than one that is in memory (§13.11).
    pub(crate) fn with_user_holding<F>(
        self: &Arc<Self>,
        bare: &Jid,
        session: Option<SessionId>,
        job: F,
        routes: &mut Routes,
    ) -> Result<(), Busy>
    where
        F: FnOnce(&Arc<Self>, Result<&mut User, &StoreError>, &mut Effects) + Send + 'static,
    {
        let guard = self.enter(bare.bare_str())?;
        self.with_user_kept(bare, session, (guard, job), routes)
    }

    /// As [`Node::with_user_holding`], with the entity's shard kept here.
    pub(crate) fn with_user_kept<F>(
        self: &Arc<Self>,
        bare: &Jid,
        session: Option<SessionId>,
        (guard, job): (Option<Guard>, F),
        routes: &mut Routes,
    ) -> Result<(), Busy>
    where
        F: FnOnce(&Arc<Self>, Result<&mut User, &StoreError>, &mut Effects) + Send + 'static,
    {
        let hash = shard::hash(bare.bare_str());
        let mut shard = self.shards.lock(hash);
        match shard.find(hash, bare.bare_str()) {
            Found::Live(user, touch) => {
                touch.use_of(user, self.now());
                let is_temporary = touch.is_temporary;
                let was_there = user.exists() || !user.is_idle();
                let mut fx = borrow_effects();
                job(self, Ok(user), &mut fx);
                self.carry(user, is_temporary, &mut fx);
                let is_forgotten = was_there && !user.exists() && user.is_idle();
                if is_forgotten || (is_temporary && user.is_idle()) {
                    shard.remove(hash, bare.bare_str());
                }
                drop(shard);
                routes.extend(fx.routes.drain(..));
                return_effects(fx);
                Ok(())
            }
            Found::Loading(waiting) => {
                enqueue(waiting, Box::new(keeping(guard, job))).map_err(|_| Busy)?;
                self.hold(session, &mut waiting.held);
                Ok(())
            }
            Found::Missing => {
                let mut waiting = Waiting::default();
                waiting.jobs.push_back(Box::new(keeping(guard, job)));
                self.hold(session, &mut waiting.held);
                shard.insert(hash, Slot::Loading(bare.bare(), waiting));
                drop(shard);
                self.load(bare.bare());
                Ok(())
            }
        }
    }

    /// As [`Node::with_user`]; before everything that waits for the entity.
    pub(crate) fn with_user_first<F>(self: &Arc<Self>, bare: &Jid, job: F, routes: &mut Routes)
    where
        F: FnOnce(&Arc<Self>, Result<&mut User, &StoreError>, &mut Effects) + Send + 'static,
    {
        let hash = shard::hash(bare.bare_str());
        let mut shard = self.shards.lock(hash);
        match shard.find(hash, bare.bare_str()) {
            Found::Loading(waiting) => waiting.first.push_back(Box::new(job)),
            Found::Missing => {
                let mut waiting = Waiting::default();
                waiting.first.push_back(Box::new(job));
                shard.insert(hash, Slot::Loading(bare.bare(), waiting));
                drop(shard);
                self.load(bare.bare());
            }
            Found::Live(..) => {
                drop(shard);
                let guard = self.keep_shard(bare.bare_str());
                // Refused only where the entity is not in memory.
                let _ = self.with_user_kept(bare, None, (guard, job), routes);
            }
        }
    }

    /// Runs `job` with an entity that is in memory: the way of nearly every stanza, without an
    /// allocation.
    pub(crate) fn with_live_user<R>(
        self: &Arc<Self>,
        bare: &Jid,
        routes: &mut Routes,
        job: impl FnOnce(&mut User, &mut Effects) -> R,
    ) -> Option<R> {
        let hash = shard::hash(bare.bare_str());
        let mut shard = self.shards.lock(hash);
        let Found::Live(user, touch) = shard.find(hash, bare.bare_str()) else {
            return None;
        };
        touch.use_of(user, self.now());
        let is_temporary = touch.is_temporary;
        let mut fx = borrow_effects();
        let result = job(user, &mut fx);
        self.carry(user, is_temporary, &mut fx);
        drop(shard);
        routes.extend(fx.routes.drain(..));
        return_effects(fx);
        Some(result)
    }

    fn load(self: &Arc<Self>, bare: Jid) {
        let node = Arc::clone(self);
        let guard = self.keep_shard(bare.as_str());
        self.runtime.spawn(async move {
            let record = node.read_user(&bare).await;
            if let Err(error) = &record {
                node.log_store_error("entity not read", error);
            }
            node.loaded(&bare, record);
            drop(guard);
        });
    }

    /// Runs everything that waited, in order, and keeps the entity, also where there is no such
    /// account: who writes to nobody again reads nothing.
    fn loaded(self: &Arc<Self>, bare: &Jid, record: Result<Option<UserRecord>, StoreError>) {
        let hash = shard::hash(bare.as_str());
        let mut routes = Routes::new();
        let mut shard = self.shards.lock(hash);
        let Some(Slot::Loading(_, mut waiting)) = shard.remove(hash, bare.as_str()) else {
            return;
        };
        if std::mem::take(&mut waiting.is_outdated) && matches!(record, Ok(None)) {
            shard.insert(hash, Slot::Loading(bare.clone(), waiting));
            drop(shard);
            return self.load(bare.clone());
        }
        let Waiting {
            first, jobs, held, ..
        } = waiting;
        let jobs = first.into_iter().chain(jobs);
        let mut fx = borrow_effects();
        match record {
            Ok(record) => {
                let mut user = Box::new(User::new(bare.clone(), record));
                self.live.load().policy.clock.observe(user.newest());
                user.switch(self.live.load().switches(bare.domain()));
                let was_there = user.exists();
                for job in jobs {
                    job(self, Ok(&mut user), &mut fx);
                    self.carry(&mut user, false, &mut fx);
                    routes.extend(fx.routes.drain(..));
                }
                let is_kept = user.exists() || !user.is_idle() || !was_there;
                if is_kept && !self.is_away(bare.as_str()) {
                    let touch = Touch {
                        at_s: self.now() / 1000,
                        is_temporary: false,
                    };
                    shard.insert(hash, Slot::Live(user, touch));
                }
            }
            Err(error) => {
                for job in jobs {
                    job(self, Err(&error), &mut fx);
                    routes.extend(fx.routes.drain(..));
                }
            }
        }
        drop(shard);
        return_effects(fx);
        self.route_all(routes);
        for session in held {
            self.release(session);
        }
    }

    fn hold(&self, session: Option<SessionId>, held: &mut Vec<SessionId>) {
        if let Some(found) = session.and_then(|id| self.session(id)) {
            found.hold();
            held.push(found.id);
        }
    }

    /// Enters the entity of an anonymous user.
    pub(crate) fn make_temporary(&self, bare: &Jid) {
        let hash = shard::hash(bare.as_str());
        let mut user = Box::new(User::new(bare.clone(), Some(Default::default())));
        let touch = Touch {
            at_s: self.now() / 1000,
            is_temporary: true,
        };
        let mut shard = self.shards.lock(hash);
        user.switch(self.live.load().switches_of(bare.domain(), true));
        shard.insert(hash, Slot::Live(user, touch));
    }
}

/// A job that keeps its entity's shard here until it has run.
fn keeping<F>(
    guard: Option<Guard>,
    job: F,
) -> impl FnOnce(&Arc<Node>, Result<&mut User, &StoreError>, &mut Effects) + Send + 'static
where
    F: FnOnce(&Arc<Node>, Result<&mut User, &StoreError>, &mut Effects) + Send + 'static,
{
    move |node, user, fx| {
        job(node, user, fx);
        drop(guard);
    }
}
