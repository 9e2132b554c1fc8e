//! The home of users and the sockets of sessions, as one process of the simulation has them.

use super::*;

impl Process {
    pub(super) fn judge_again(&mut self, env: &mut Env) {
        for shard in self.parking.shards() {
            for (head, packet, reply) in self.parking.take(shard) {
                self.judge(env, head, packet, reply);
            }
        }
    }

    pub(super) fn judge(&mut self, env: &mut Env, head: Head, packet: Packet, reply: Reply) {
        let Some(holdings) = &self.holdings else {
            return;
        };
        let standing = self.agent.standing(self.mono(env));
        let is_ready = standing.may_accept(self.mono(env));
        let verdict = holdings.judge(&head);
        env.note(|| format!("{} {verdict:?} for {packet:?} of {head:?}", self.me()));
        match holdings.judge(&head) {
            Verdict::Accept { since } if is_ready && !self.parking.has(head.shard) => {
                self.accept(env, (head, since), packet, reply);
            }
            Verdict::Accept { .. } | Verdict::Park(_) => {
                let full = self.parking.park(head.shard, 1, (head, packet, reply));
                if let Err(((_, _, reply), _)) = full {
                    self.reply(env, reply, Outcome::Refused);
                }
            }
            Verdict::Stale { epoch } | Verdict::Redirect { epoch } => {
                self.reply(env, reply, Outcome::Returned(epoch));
            }
            Verdict::Refuse => {}
        }
    }

    pub(super) fn accept(
        &mut self,
        env: &mut Env,
        at: (Head, Epoch),
        packet: Packet,
        reply: Reply,
    ) {
        let (head, since) = at;
        let me = self.me();
        if head.epoch < since {
            env.fail(format!("P2 {me} takes a stale frame: {head:?}"));
        }
        if !self.map().is_some_and(|map| map.knows(head.sender)) {
            env.fail(format!("K2 {me} hears who is out: {head:?}"));
        }
        match packet {
            Packet::Up(origin) => self.record(env, origin.0, origin, reply),
            Packet::On(origin) => self.record(env, origin.1, origin, reply),
            Packet::Bind(user, session) => {
                env.note(|| format!("{} binds {session} of {user}", self.me()));
                self.registry.entry(user).or_default().insert(session);
                self.reply(env, reply, Outcome::Done);
            }
            Packet::End(user, session) => {
                env.note(|| format!("{} ends {session} of {user}", self.me()));
                self.registry.entry(user).or_default().remove(&session);
                self.reply(env, reply, Outcome::Done);
            }
            _ => {}
        }
    }

    /// A message for one archive: the first time it is written, later it is only answered.
    pub(super) fn record(&mut self, env: &mut Env, user: User, origin: Origin, reply: Reply) {
        let is_sender = user == origin.0;
        let wall = self.wall(env);
        let entries = self.archives.entry(user).or_default();
        if let Some(entry) = entries.get_mut(&origin) {
            entry.replies.push(reply);
        } else {
            let id = self.clock.next(wall);
            let entry = Entry {
                id,
                committed: None,
                is_on: !is_sender,
                is_routed: false,
                is_new: true,
                replies: vec![reply],
            };
            entries.insert(origin, entry);
            let writer = self.writers.entry(user).or_default();
            writer.queue.push_back(Row { id, origin });
            self.write(env, user);
        }
        if is_sender {
            self.send_on(user, origin);
        }
        self.waiting.insert((user, origin));
        self.acknowledge(env);
    }

    pub(super) fn send_on(&mut self, user: User, origin: Origin) {
        let map = self.map();
        let entry = self
            .archives
            .get_mut(&user)
            .and_then(|e| e.get_mut(&origin));
        if let Some(entry) = entry.filter(|e| !e.is_routed && !e.is_on) {
            let lane = (origin.1, Some(user));
            let sent =
                self.router
                    .route(map.as_deref(), lane, 1, Packet::On(origin), &mut self.sends);
            entry.is_routed = sent.is_ok();
        }
    }

    pub(super) fn write(&mut self, env: &mut Env, user: User) {
        if let Some(writer) = self.writers.get_mut(&user)
            && !writer.is_busy
            && !writer.queue.is_empty()
        {
            writer.is_busy = true;
            let delay = env.rng.range(0, 10);
            env.at(delay, Event::To(self.pid, Msg::Flush(user)));
        }
    }

    /// The row leaves the process; it lands some time later, whatever becomes of the process.
    pub(super) fn flush(&mut self, env: &mut Env, user: User) {
        let row = self
            .writers
            .get_mut(&user)
            .and_then(|w| w.queue.pop_front());
        if let Some(row) = row {
            let delay = match env.rng.one_in(60) {
                true => env.rng.range(100, 4000),
                false => env.rng.range(1, 25),
            };
            let pid = self.pid;
            env.at(delay, Event::Land { pid, user, row });
        }
    }

    pub(super) fn committed(&mut self, env: &mut Env, user: User, row: Row) {
        let now = self.mono(env);
        if let Some(writer) = self.writers.get_mut(&user) {
            writer.is_busy = false;
        }
        self.write(env, user);
        if let Some(entry) = self
            .archives
            .get_mut(&user)
            .and_then(|e| e.get_mut(&row.origin))
            // Not a write of this process's own former time as owner: that one is dead by now.
            && entry.id == row.id
        {
            entry.committed = Some(now);
        }
        self.acknowledge(env);
        self.flushed(env);
    }

    /// Answers whatever may be answered now.
    pub(super) fn acknowledge(&mut self, env: &mut Env) {
        let now = self.mono(env);
        let standing = self.agent.standing(now);
        for (user, origin) in self.waiting.clone() {
            let entry = self.archives.get(&user).and_then(|e| e.get(&origin));
            let Some((entry, committed)) = entry.and_then(|e| Some((e, e.committed?))) else {
                continue;
            };
            if !entry.is_on || standing.acknowledge(committed, now) != Acknowledge::Now {
                continue;
            }
            self.waiting.remove(&(user, origin));
            let entry = self
                .archives
                .get_mut(&user)
                .and_then(|e| e.get_mut(&origin));
            let Some(entry) = entry else {
                continue;
            };
            let is_new = std::mem::take(&mut entry.is_new);
            let replies = std::mem::take(&mut entry.replies);
            let id = entry.id;
            self.check(env, user, origin);
            if is_new && user == origin.1 {
                self.deliver(env, user, origin, id);
            }
            for reply in replies {
                self.reply(env, reply, Outcome::Done);
            }
        }
    }

    /// P2 and K1: what is acknowledged lives in the archive, and nobody owned the shard since.
    pub(super) fn check(&self, env: &mut Env, user: User, origin: Origin) {
        let me = self.me();
        env.acknowledged += 1;
        let Some(landed) = env.store.landed(user, origin) else {
            env.fail(format!(
                "K1 lost: {me} acknowledges {origin:?} for {user}, which is dead"
            ));
            return;
        };
        let Some(since) = self.holdings.as_ref().and_then(|h| h.since(user)) else {
            env.fail(format!(
                "P2 {me} acknowledges for {user}, which it does not hold"
            ));
            return;
        };
        let later = (user, Epoch(since.0 + 1))..=(user, Epoch(u64::MAX));
        let other = env.taken.range(later).find(|(_, (_, at))| *at < landed);
        if let Some(((_, epoch), (who, at))) = other {
            let text = format!(
                "P2 two owners of {user}: {me} of {since} acknowledges what landed at {landed}, \
                 {who} of {epoch} has it since {at}"
            );
            env.fail(text);
        }
    }

    pub(super) fn deliver(&mut self, env: &mut Env, user: User, origin: Origin, id: ArchiveId) {
        let sessions = self.registry.get(&user).cloned().unwrap_or_default();
        if sessions.is_empty() {
            env.offline += 1;
            let truth = env.online.get(&user).copied();
            if let (Some(truth), Some(map)) = (truth, self.map())
                && map.knows(Incarnation(truth.session.node))
                && env.life(truth.pid) != crate::sim::env::Life::Dead
            {
                let me = self.me();
                env.fail(format!(
                    "K4 {me} decides that {user} is offline, who is online as {}",
                    truth.session
                ));
            }
        }
        for session in sessions {
            if session.node == self.me().0 {
                self.give(env, session.number, origin, id);
            } else {
                let sent = (self.epoch(), Packet::Deliver(session.number, origin, id));
                let out = self.outs.get_mut(&(Incarnation(session.node), STANZA));
                if let Some(out) = out {
                    let number = out.outbound.push_reserved(1, sent);
                    out.delivers.insert(number, user);
                }
            }
        }
    }

    /// The archives of a shard that comes: what is there counts as known; what still comes dies.
    pub(super) fn read(&mut self, env: &mut Env, (shard, since): (Shard, Epoch), is_clean: bool) {
        let is_current = self.map().and_then(|m| m.slot(shard).map(|s| s.since)) == Some(since);
        if !is_current {
            return;
        }
        let now = self.mono(env);
        let newest = env.store.newest(shard);
        self.clock.observe(newest);
        if !is_clean && !self.planted.has(Bug::SkipHeadStart) {
            let ahead = self.wall(env) + crate::HEAD_START_MS;
            self.clock.observe(ArchiveId::first_of(ahead));
        }
        if !is_clean && !self.planted.has(Bug::SkipTakeover) {
            let first = self.clock.next(self.wall(env));
            env.note(|| format!("{} kills in {shard} {newest:?} to {first:?}", self.me()));
            env.store.kill(shard, newest, first);
        }
        env.taken.insert((shard, since), (self.me(), env.now));
        let known = env.store.rows(shard).into_iter().map(|row| {
            let entry = Entry {
                id: row.id,
                committed: Some(now),
                is_on: shard != row.origin.0,
                is_routed: false,
                is_new: false,
                replies: Vec::new(),
            };
            (row.origin, entry)
        });
        self.archives.insert(shard, known.collect());
        let delay = env.rng.range(1, 40);
        env.at(delay, Event::To(self.pid, Msg::TakenUp(shard, since)));
    }

    // --- the socket ----------------------------------------------------------------------------

    pub(super) fn route(&mut self, shard: Shard, packet: Packet) -> bool {
        let map = self.map();
        let lane = (shard, None);
        let sent = self
            .router
            .route(map.as_deref(), lane, 1, packet, &mut self.sends);
        sent.is_ok()
    }

    pub(super) fn open(&mut self, env: &mut Env, user: User, number: u64) {
        if !self.is_ready() {
            env.at(1, Event::Client(user, number, ToClient::Closed));
            return;
        }
        let sent = VecDeque::new();
        let last = ArchiveId(0);
        self.sessions.insert(number, Session { user, sent, last });
        let node = self.me().0;
        self.route(user, Packet::Bind(user, SessionId { node, number }));
    }

    pub(super) fn stanza(&mut self, env: &mut Env, number: u64, origin: Origin) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        session.sent.push_back((origin, false));
        if !self.route(origin.0, Packet::Up(origin)) {
            self.handled(env, origin, false);
        }
    }

    pub(super) fn close(&mut self, env: &mut Env, number: u64) {
        if let Some(session) = self.sessions.remove(&number) {
            let node = self.me().0;
            end(env, session.user, number);
            let packet = Packet::End(session.user, SessionId { node, number });
            self.route(session.user, packet);
        }
    }

    /// A message for a session of this node. What a former home sent over a slower link and a new
    /// one has overtaken is left out: the client finds it in the archive, in its place.
    pub(super) fn give(&mut self, env: &mut Env, number: u64, origin: Origin, id: ArchiveId) {
        if let Some(session) = self.sessions.get_mut(&number)
            && session.last < id
        {
            session.last = id;
            self.tell(env, number, ToClient::Message(origin));
        }
    }

    pub(super) fn tell(&mut self, env: &mut Env, number: u64, what: ToClient) {
        if let Some(session) = self.sessions.get(&number) {
            env.at(1, Event::Client(session.user, number, what));
        }
    }

    pub(super) fn outcome(&mut self, env: &mut Env, ticket: Ticket, outcome: Outcome) {
        let map = self.map();
        if let Outcome::Returned(epoch) = outcome {
            self.router
                .returned(map.as_deref(), ticket, epoch, &mut self.sends);
            return;
        }
        let packet = self.router.done(map.as_deref(), ticket, &mut self.sends);
        let is_done = outcome == Outcome::Done;
        match packet {
            Some(Packet::Up(origin)) => self.handled(env, origin, is_done),
            Some(Packet::On(origin)) => self.was_on(env, origin, is_done),
            Some(Packet::Bind(user, session))
                if is_done && self.sessions.contains_key(&session.number) =>
            {
                let pid = self.pid;
                env.online.insert(user, Truth { session, pid });
                env.at(1, Event::Client(user, session.number, ToClient::Bound));
            }
            _ => {}
        }
    }

    pub(super) fn was_on(&mut self, env: &mut Env, origin: Origin, is_done: bool) {
        let entries = self.archives.get_mut(&origin.0);
        let Some(entry) = entries.and_then(|e| e.get_mut(&origin)) else {
            return;
        };
        entry.is_routed = false;
        if is_done {
            entry.is_on = true;
        } else {
            let replies = std::mem::take(&mut entry.replies);
            for reply in replies {
                self.reply(env, reply, Outcome::Refused);
            }
        }
        self.acknowledge(env);
    }

    /// A stanza of a session is handled; `h` is a prefix.
    pub(super) fn handled(&mut self, env: &mut Env, origin: Origin, is_done: bool) {
        let mut told = Vec::new();
        for (number, session) in &mut self.sessions {
            if session.user != origin.0 {
                continue;
            }
            for (one, is_handled) in &mut session.sent {
                *is_handled |= *one == origin;
            }
            if !is_done && session.sent.iter().any(|(one, _)| *one == origin) {
                told.push((*number, ToClient::Failed(origin)));
            }
            while session.sent.front().is_some_and(|(_, is)| *is) {
                if let Some((origin, _)) = session.sent.pop_front() {
                    told.push((*number, ToClient::Acked(origin)));
                }
            }
        }
        for (number, what) in told {
            self.tell(env, number, what);
        }
    }

    /// As time passes: what waited for the lease.
    pub(in crate::sim) fn again(&mut self, env: &mut Env) {
        if self.is_out || self.holdings.is_none() {
            return;
        }
        self.acknowledge(env);
        self.flushed(env);
        self.judge_again(env);
        self.work(env);
        self.pump(env);
    }
}
