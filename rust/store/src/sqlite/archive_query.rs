//! Reads of archives as statements. What is in `purge` is not seen, whether it still lies there or
//! not.

use super::archive::{PLACE, Place, archive_id, is_searchable, prefs_value};
use super::content::{Sides, unpack};
use super::query::{bad_column, list};
use super::search::{concerns, token, tokens};
use super::{from_sql, localpart, to_sql};
use crate::stanza::{bodies, is_with};
use antiphon_routing::archive::{
    ArchiveEnds, ArchiveFilter, ArchiveId, ArchivePage, ArchiveState, ArchivedMessage, Collection,
    Flags, RECENT_MAX, Recent, id_hash,
};
use antiphon_text::{Query, fts5};
use antiphon_xmpp::Jid;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Params};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

/// Rows of `search_log` that are looked through for a change of the owner's.
const LOG_ROWS: i64 = 128;

/// Messages that are looked at one by one for the beginning of a word, at most: 8 µs each.
const PROBES: usize = 1500;

/// So many are looked at whatever fits, by the characters of the shortest beginning: FTS5 reads
/// 20-50 ms for one of two letters, hardly anything for one of four.
const PROBES_AT_LEAST: [usize; 4] = [400, 400, 400, 200];

/// See [`PROBES_AT_LEAST`], for longer ones.
const PROBES_A_STEP: usize = 64;

/// Then, after each step, one in so many must have fitted, or the index is quicker: it takes
/// 0.6 µs for each message of all archives that has such a word.
const PROBES_A_HIT: usize = 60;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// One archive in one state of the file.
pub(super) struct Archive<'a> {
    db: &'a Connection,
    jid: &'a Jid,
    owner: i64,
    /// Below it everything is deleted.
    floor: i64,
    /// By conversation: below it everything is deleted.
    floors: HashMap<i64, i64>,
    /// Bare JIDs of conversations.
    peers: HashMap<i64, Box<str>>,
    /// Messages that fitted so far.
    hits: usize,
}

/// A filter, prepared.
struct Plan<'a> {
    /// Exclusive.
    after: i64,
    /// Exclusive.
    before: i64,
    conversation: Option<i64>,
    /// Only with exactly this full JID.
    full: Option<&'a Jid>,
    text: Option<Query>,
    without_groupchat: bool,
}

impl<'a> Archive<'a> {
    /// `None`: there is no such account.
    fn open(db: &'a Connection, jid: &'a Jid) -> rusqlite::Result<Option<Self>> {
        let owner: Option<i64> = db
            .prepare_cached("SELECT id FROM owner WHERE domain = ?1 AND localpart = ?2")?
            .query_row((jid.domain(), localpart(jid)), |row| row.get(0))
            .optional()?;
        let Some(owner) = owner else {
            return Ok(None);
        };
        let jobs: Vec<(i64, i64)> = list(
            db,
            "SELECT conversation, before FROM purge WHERE owner = ?1",
            [owner],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let mut floors: HashMap<i64, i64> = jobs.into_iter().collect();
        Ok(Some(Self {
            db,
            jid,
            owner,
            floor: floors.remove(&0).unwrap_or(0),
            floors,
            peers: HashMap::new(),
            hits: 0,
        }))
    }

    fn is_deleted(&self, place: &Place) -> bool {
        let of_conversation = self.floors.get(&place.conversation);
        place.id < self.floor || of_conversation.is_some_and(|floor| place.id < *floor)
    }

    /// The number of a conversation.
    fn conversation(&self, with: &Jid) -> rusqlite::Result<Option<i64>> {
        self.db
            .prepare_cached("SELECT id FROM conversation WHERE owner = ?1 AND jid = ?2")?
            .query_row((self.owner, with.bare_str()), |row| row.get(0))
            .optional()
    }

    /// `None`: nothing can fit.
    fn plan<'f>(&self, filter: &'f ArchiveFilter) -> rusqlite::Result<Option<Plan<'f>>> {
        let mut conversation = None;
        if let Some(with) = &filter.with {
            conversation = self.conversation(with)?;
            if conversation.is_none() {
                return Ok(None);
            }
        }
        let text = match filter.text.as_deref().map(Query::parse) {
            Some(Ok(query)) => Some(query),
            // The caller has said no to it already.
            Some(Err(_)) => return Ok(None),
            None => None,
        };
        Ok(Some(Plan {
            after: filter
                .after
                .map_or(0, |id| to_sql(id.0))
                .max(self.floor - 1),
            before: filter.before.map_or(i64::MAX, |id| to_sql(id.0)),
            conversation,
            full: filter
                .with
                .as_ref()
                .filter(|with| with.resource().is_some()),
            text,
            without_groupchat: filter.without_groupchat,
        }))
    }

    /// Whether a place fits all that can be told without its stanza.
    fn fits(&self, plan: &Plan<'_>, place: &Place) -> bool {
        place.id > plan.after
            && place.id < plan.before
            && plan.conversation.is_none_or(|c| c == place.conversation)
            && !(plan.without_groupchat && place.flags.has(Flags::GROUPCHAT))
            && (plan.text.is_none() || is_searchable(place.flags))
            && !self.is_deleted(place)
    }

    /// The message at a place, if its stanza fits too.
    fn message(
        &mut self,
        plan: &Plan<'_>,
        place: &Place,
    ) -> rusqlite::Result<Option<ArchivedMessage>> {
        let stanza = self.stanza(place)?;
        if let Some(full) = plan.full
            && !is_with(&stanza, self.jid, place.flags, full)
        {
            return Ok(None);
        }
        if let Some(query) = &plan.text
            && !query.matches(&bodies(&stanza))
        {
            return Ok(None);
        }
        self.hits += 1;
        Ok(Some(ArchivedMessage {
            id: archive_id(place.id),
            flags: place.flags,
            stanza,
        }))
    }

    fn peer(&mut self, conversation: i64) -> rusqlite::Result<&str> {
        if !self.peers.contains_key(&conversation) {
            let jid: String = self
                .db
                .prepare_cached("SELECT jid FROM conversation WHERE id = ?1")?
                .query_row([conversation], |row| row.get(0))?;
            self.peers.insert(conversation, jid.into());
        }
        Ok(self.peers.get(&conversation).map_or("", |jid| jid))
    }

    /// The stanza at a place.
    fn stanza(&mut self, place: &Place) -> rusqlite::Result<Box<[u8]>> {
        let (db, jid) = (self.db, self.jid);
        let peer = self.peer(place.conversation)?;
        let sides = Sides::new(jid.bare_str(), peer, place.flags.has(Flags::OUT));
        db.prepare_cached("SELECT stanza FROM message WHERE key = ?1")?
            .query_row([place.key()], |row| {
                let stored = row.get_ref(0)?.as_blob()?;
                unpack(stored, sides).map_err(|error| bad_column(0, error))
            })
    }

    /// One place by its id.
    fn at(&self, id: i64) -> rusqlite::Result<Option<Place>> {
        self.db
            .prepare_cached(
                "SELECT a.id, a.conversation, a.flags, a.uid, a.content FROM archive AS a
                 WHERE a.owner = ?1 AND a.id = ?2",
            )?
            .query_row((self.owner, id), Place::read)
            .optional()
    }

    /// Hands the places that fit to `take`, in the order of ids, until it has enough.
    fn scan(
        &mut self,
        plan: &Plan<'_>,
        ids: Option<&[ArchiveId]>,
        is_from_end: bool,
        take: &mut Take<'_>,
    ) -> rusqlite::Result<()> {
        let order = if is_from_end { "DESC" } else { "ASC" };
        if let Some(ids) = ids {
            return self.scan_ids(plan, ids, is_from_end, take);
        }
        if let Some(query) = &plan.text {
            return self.scan_text(plan, query, is_from_end, take);
        }
        match plan.conversation {
            Some(conversation) => self.scan_rows(
                plan,
                &format!(
                    "SELECT {PLACE} FROM thread AS t
                     CROSS JOIN archive AS a ON a.owner = ?1 AND a.id = t.id
                     WHERE t.conversation = ?4 AND t.id > ?2 AND t.id < ?3 ORDER BY t.id {order}"
                ),
                (self.owner, plan.after, plan.before, conversation),
                take,
            ),
            None => self.scan_rows(
                plan,
                &format!(
                    "SELECT {PLACE} FROM archive AS a
                     WHERE a.owner = ?1 AND a.id > ?2 AND a.id < ?3 ORDER BY a.id {order}"
                ),
                (self.owner, plan.after, plan.before),
                take,
            ),
        }
    }

    fn scan_rows(
        &mut self,
        plan: &Plan<'_>,
        sql: &str,
        parameters: impl Params,
        take: &mut Take<'_>,
    ) -> rusqlite::Result<()> {
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query(parameters)?;
        while let Some(row) = rows.next()? {
            let place = Place::read(row)?;
            if self.fits(plan, &place) && take(self, &place)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_ids(
        &mut self,
        plan: &Plan<'_>,
        ids: &[ArchiveId],
        is_from_end: bool,
        take: &mut Take<'_>,
    ) -> rusqlite::Result<()> {
        let mut ids: Vec<i64> = ids.iter().map(|id| to_sql(id.0)).collect();
        ids.sort_unstable();
        ids.dedup();
        if is_from_end {
            ids.reverse();
        }
        for id in ids {
            let place = self.at(id)?.filter(|place| self.fits(plan, place));
            if let Some(place) = place
                && take(self, &place)?.is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// Documents are numbered as the messages, so the index gives them in order; those with
    /// numbers of their own are few, and all read first.
    ///
    /// For the beginning of a word FTS5 gathers every message of the whole index that has such a
    /// word, before it looks at the owner. So the first messages that have all else are looked at
    /// one by one: beginnings that many words have are found among them soon, and the index is
    /// only asked for those that few have.
    fn scan_text(
        &mut self,
        plan: &Plan<'_>,
        query: &Query,
        is_from_end: bool,
        take: &mut Take<'_>,
    ) -> rusqlite::Result<()> {
        let owner = self.jid.bare_str();
        let mut addresses = vec![token(owner)];
        if let Some(conversation) = plan.conversation {
            addresses = tokens(owner, self.peer(conversation)?).to_vec();
        }
        let expression = fts5::expression(query, &addresses, fts5::Detail::None);
        let exact = without_beginnings(&expression);
        let mut own = self.own_documents(plan, &exact)?;
        // The next one is the last of the list.
        own.sort_unstable_by_key(|place| place.id);
        if !is_from_end {
            own.reverse();
        }
        let mut scan = TextScan {
            after: plan.after.max(0),
            before: plan.before,
            is_from_end,
            own,
        };
        if exact.len() < expression.len() {
            let least = least_probes(&expression);
            let flow = self.scan_documents(plan, &exact, &mut scan, Some(least), take)?;
            if flow.is_break() {
                return Ok(());
            }
        }
        let flow = self.scan_documents(plan, &expression, &mut scan, None, take)?;
        debug_assert!(flow.is_break(), "a scan without a limit goes to its end");
        Ok(())
    }

    /// Hands over what the index has for an expression; a break: there is nothing more, or enough.
    /// Else `scan` says from where on to go on. `least`: only as long as that is quick, but so many
    /// in any case.
    fn scan_documents(
        &mut self,
        plan: &Plan<'_>,
        expression: &str,
        scan: &mut TextScan,
        least: Option<usize>,
        take: &mut Take<'_>,
    ) -> rusqlite::Result<ControlFlow<()>> {
        let is_from_end = scan.is_from_end;
        let order = if is_from_end { "DESC" } else { "ASC" };
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT rowid FROM search.body
             WHERE body MATCH ?1 AND rowid > ?2 AND rowid < ?3 ORDER BY rowid {order}"
        ))?;
        let mut rows = statement.query((expression, scan.after, scan.before))?;
        let (mut count, begin) = (0, self.hits);
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let is_before = |place: &Place| (place.id < id) != is_from_end;
            while scan.own.last().is_some_and(is_before) {
                let Some(place) = scan.own.pop() else { break };
                if take(self, &place)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            let place = self
                .at(id)?
                .filter(|place| place.document() == id && self.fits(plan, place));
            if let Some(place) = place
                && take(self, &place)?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
            if is_from_end {
                scan.before = id;
            } else {
                scan.after = id;
            }
            count += 1;
            let is_step = count % PROBES_A_STEP == 0;
            let is_rare = is_step && (self.hits - begin) * PROBES_A_HIT < count;
            if least.is_some_and(|least| count == PROBES || (count >= least && is_rare)) {
                return Ok(ControlFlow::Continue(()));
            }
        }
        while let Some(place) = scan.own.pop() {
            if take(self, &place)?.is_break() {
                break;
            }
        }
        Ok(ControlFlow::Break(()))
    }

    /// What fits of messages whose stanza only this archive has.
    fn own_documents(&self, plan: &Plan<'_>, expression: &str) -> rusqlite::Result<Vec<Place>> {
        let has_any = self
            .db
            .prepare_cached("SELECT 1 FROM archive WHERE owner = ?1 AND content IS NOT NULL")?
            .exists([self.owner])?;
        if !has_any {
            return Ok(Vec::new());
        }
        let places = list(
            self.db,
            "SELECT a.id, a.conversation, a.flags, a.uid, a.content
             FROM search.body AS b CROSS JOIN archive AS a
             ON a.owner = ?1 AND a.content = b.rowid AND a.content IS NOT NULL
             WHERE b.body MATCH ?2 AND b.rowid < 0",
            (self.owner, expression),
            Place::read,
        )?;
        Ok(places.into_iter().filter(|p| self.fits(plan, p)).collect())
    }

    /// Whether the index may lack something that concerns this archive.
    fn is_index_behind(&self) -> rusqlite::Result<bool> {
        let is_rebuilding = self
            .db
            .prepare_cached("SELECT 1 FROM search.state WHERE name = 'rebuild_owner'")?
            .exists([])?;
        if is_rebuilding {
            return Ok(true);
        }
        let token = token(self.jid.bare_str());
        let mut statement = self.db.prepare_cached(
            "SELECT entries FROM main.search_log
             WHERE seq > (SELECT value FROM search.state WHERE name = 'indexed')
             ORDER BY seq LIMIT ?1",
        )?;
        let mut rows = statement.query([LOG_ROWS])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += 1;
            if concerns(row.get_ref(0)?.as_blob()?, token) {
                return Ok(true);
            }
        }
        Ok(count == LOG_ROWS)
    }
}

/// Where a scan of documents is.
struct TextScan {
    /// Exclusive, as `before`.
    after: i64,
    before: i64,
    is_from_end: bool,
    /// What the index cannot give in order; the next one is the last.
    own: Vec<Place>,
}

/// The expression without the terms that are beginnings of words. The owner's is always left.
fn without_beginnings(expression: &str) -> String {
    // Words are in lower case and in quotes: this is never inside of one.
    let exact: Vec<&str> = expression
        .split(" AND ")
        .filter(|term| !term.ends_with('*'))
        .collect();
    exact.join(" AND ")
}

/// How many messages are looked at before the index is asked for the beginnings of words in an
/// expression.
fn least_probes(expression: &str) -> usize {
    let beginnings = expression.split(" AND ").filter_map(|term| {
        let term = term.strip_suffix("\"*")?;
        Some(term.strip_prefix('"').unwrap_or(term).chars().count())
    });
    let shortest = beginnings.min().unwrap_or(0);
    PROBES_AT_LEAST
        .get(shortest)
        .copied()
        .unwrap_or(PROBES_A_STEP)
}

/// Takes places in their order; a break ends the scan.
type Take<'t> = dyn FnMut(&mut Archive<'_>, &Place) -> rusqlite::Result<ControlFlow<()>> + 't;

/// See [`antiphon_routing::store::Store::archive_page`].
pub(super) fn page(
    db: &Connection,
    jid: &Jid,
    filter: &ArchiveFilter,
    is_from_end: bool,
    limit: usize,
) -> rusqlite::Result<ArchivePage> {
    let mut page = ArchivePage {
        is_complete: true,
        ..ArchivePage::default()
    };
    let db = db.unchecked_transaction()?;
    let Some(mut archive) = Archive::open(&db, jid)? else {
        return Ok(page);
    };
    if filter.text.is_some() {
        page.is_unstable = archive.is_index_behind()?;
    }
    let Some(plan) = archive.plan(filter)? else {
        return Ok(page);
    };
    let mut take = |archive: &mut Archive<'_>, place: &Place| {
        let Some(message) = archive.message(&plan, place)? else {
            return Ok(ControlFlow::Continue(()));
        };
        if page.messages.len() == limit {
            page.is_complete = false;
            return Ok(ControlFlow::Break(()));
        }
        page.messages.push(message);
        Ok(ControlFlow::Continue(()))
    };
    archive.scan(&plan, filter.ids.as_deref(), is_from_end, &mut take)?;
    if is_from_end {
        page.messages.reverse();
    }
    Ok(page)
}

/// See [`antiphon_routing::store::Store::archive_count`].
pub(super) fn count(
    db: &Connection,
    jid: &Jid,
    filter: &ArchiveFilter,
    most: u64,
) -> rusqlite::Result<Option<u64>> {
    let db = db.unchecked_transaction()?;
    let Some(archive) = Archive::open(&db, jid)? else {
        return Ok(Some(0));
    };
    let is_full = filter.with.as_ref().is_some_and(|w| w.resource().is_some());
    // By reading, or while some of what lies there is deleted.
    if filter.text.is_some() || filter.ids.is_some() || is_full || !archive.floors.is_empty() {
        return Ok(None);
    }
    let Some(plan) = archive.plan(filter)? else {
        return Ok(Some(0));
    };
    let hidden = if plan.without_groupchat {
        Flags::GROUPCHAT.0
    } else {
        0
    };
    let limit = to_sql(most.saturating_add(1));
    let count: i64 = match plan.conversation {
        Some(conversation) => db
            .prepare_cached(
                "SELECT COUNT(*) FROM (SELECT 1 FROM thread
                 WHERE conversation = ?1 AND id > ?2 AND id < ?3 AND flags & ?4 = 0 LIMIT ?5)",
            )?
            .query_row(
                (conversation, plan.after, plan.before, hidden, limit),
                |row| row.get(0),
            )?,
        None => db
            .prepare_cached(
                "SELECT COUNT(*) FROM (SELECT 1 FROM archive
                 WHERE owner = ?1 AND id > ?2 AND id < ?3 AND flags & ?4 = 0 LIMIT ?5)",
            )?
            .query_row(
                (archive.owner, plan.after, plan.before, hidden, limit),
                |row| row.get(0),
            )?,
    };
    Ok(Some(from_sql(count)).filter(|count| *count <= most))
}

/// See [`antiphon_routing::store::Store::archive_known`].
pub(super) fn known(
    db: &Connection,
    jid: &Jid,
    ids: Vec<ArchiveId>,
) -> rusqlite::Result<Vec<ArchiveId>> {
    let db = db.unchecked_transaction()?;
    let Some(archive) = Archive::open(&db, jid)? else {
        return Ok(Vec::new());
    };
    let mut known = Vec::with_capacity(ids.len());
    for id in ids {
        let place = archive.at(to_sql(id.0))?;
        if place.is_some_and(|place| !archive.is_deleted(&place)) {
            known.push(id);
        }
    }
    Ok(known)
}

/// See [`antiphon_routing::store::Store::archive_ends`].
pub(super) fn ends(db: &Connection, jid: &Jid) -> rusqlite::Result<Option<ArchiveEnds>> {
    let db = db.unchecked_transaction()?;
    let Some(mut archive) = Archive::open(&db, jid)? else {
        return Ok(None);
    };
    let filter = ArchiveFilter::default();
    let Some(plan) = archive.plan(&filter)? else {
        return Ok(None);
    };
    let mut end = |is_from_end| -> rusqlite::Result<Option<ArchiveId>> {
        let mut found = None;
        let mut take = |_: &mut Archive<'_>, place: &Place| {
            found = Some(archive_id(place.id));
            Ok(ControlFlow::Break(()))
        };
        archive.scan(&plan, None, is_from_end, &mut take)?;
        Ok(found)
    };
    let (first, last) = (end(false)?, end(true)?);
    Ok(first
        .zip(last)
        .map(|(first, last)| ArchiveEnds { first, last }))
}

/// See [`antiphon_routing::store::Store::archive_collections`].
pub(super) fn collections(
    db: &Connection,
    jid: &Jid,
    filter: &ArchiveFilter,
    limit: usize,
) -> rusqlite::Result<Vec<Collection>> {
    let db = db.unchecked_transaction()?;
    let Some(mut archive) = Archive::open(&db, jid)? else {
        return Ok(Vec::new());
    };
    let Some(mut plan) = archive.plan(filter)? else {
        return Ok(Vec::new());
    };
    // From the beginning of the day, whose first message may lie before what is asked for.
    let after = plan.after;
    let day_of = |id: i64| archive_id(id).ms() / DAY_MS;
    let day_begin = to_sql(ArchiveId::first_of(day_of(after) * DAY_MS).0);
    plan.after = (day_begin - 1).max(archive.floor - 1).min(after);
    let (mut day, mut seen) = (0, HashSet::new());
    let mut firsts = Vec::new();
    let mut take = |archive: &mut Archive<'_>, place: &Place| {
        if plan.full.is_some() && archive.message(&plan, place)?.is_none() {
            return Ok(ControlFlow::Continue(()));
        }
        if day_of(place.id) != day {
            day = day_of(place.id);
            seen.clear();
        }
        if seen.insert(place.conversation) && place.id > after {
            firsts.push((place.conversation, place.id));
            if firsts.len() == limit {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    };
    archive.scan(&plan, None, false, &mut take)?;
    let mut collections = Vec::with_capacity(firsts.len());
    for (conversation, first) in firsts {
        let peer = archive.peer(conversation)?;
        collections.push(Collection {
            peer: Jid::parse(peer).map_err(|error| bad_column(0, error))?,
            first: archive_id(first),
        });
    }
    Ok(collections)
}

/// What an entity must know of its archive. After an unclean end the messages that were sent in
/// the last day before it are told too.
pub(super) fn state(
    db: &Connection,
    owner: i64,
    unclean: Option<i64>,
) -> rusqlite::Result<ArchiveState> {
    let newest: i64 = db
        .prepare_cached(
            "SELECT MAX(COALESCE((SELECT MAX(id) FROM archive WHERE owner = ?1), 0),
                        COALESCE((SELECT newest FROM archive_owner WHERE owner = ?1), 0))",
        )?
        .query_row([owner], |row| row.get(0))?;
    let prefs: Option<String> = db
        .prepare_cached("SELECT prefs FROM archive_owner WHERE owner = ?1")?
        .query_row([owner], |row| row.get(0))
        .optional()?
        .flatten();
    let prefs = prefs.as_deref().map(prefs_value).transpose();
    let mut filed = list(
        db,
        "SELECT jid FROM conversation WHERE owner = ?1 AND box = 'archive'",
        [owner],
        |row| Ok(id_hash(&row.get::<_, String>(0)?)),
    )?;
    filed.sort_unstable();
    Ok(ArchiveState {
        newest: archive_id(newest),
        prefs: prefs.map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into())
        })?,
        recent: match unclean {
            Some(upto) => recent(db, owner, upto.min(newest))?,
            None => Vec::new(),
        },
        filed,
    })
}

/// The newest messages that the owner sent and that can be known again, oldest first.
fn recent(db: &Connection, owner: i64, upto: i64) -> rusqlite::Result<Vec<Recent>> {
    let day = to_sql(ArchiveId::first_of(DAY_MS).0);
    let mut recent = list(
        db,
        "SELECT id, COALESCE(uid, id), dup, flags FROM archive
         WHERE owner = ?1 AND id > ?2 AND id <= ?3 AND dup IS NOT NULL
         ORDER BY id DESC LIMIT ?4",
        (owner, upto.saturating_sub(day), upto, RECENT_MAX as i64),
        |row| {
            let flags = Flags(row.get(3)?);
            Ok(Recent {
                id: archive_id(row.get(0)?),
                uid: archive_id(row.get(1)?),
                dup: row.get::<_, i64>(2)?.cast_unsigned(),
                is_out: flags.has(Flags::OUT),
                has_waited: flags.has(Flags::WAITED),
            })
        },
    )?;
    recent.reverse();
    Ok(recent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn what_is_left_without_beginnings_of_words_is_an_expression() {
        for (text, exact) in [
            (
                "one \"two AND three\"",
                "\"§1\" AND \"one\" AND \"two\" AND \"and\" AND \"three\"",
            ),
            ("inv* one", "\"§1\" AND \"one\""),
            ("\"one tw\"*", "\"§1\" AND \"one\""),
            ("inv*", "\"§1\""),
        ] {
            let query = Query::parse(text).unwrap();
            let expression = fts5::expression(&query, &[1], fts5::Detail::None);
            assert_eq!(without_beginnings(&expression), exact, "{expression}");
        }
    }

    #[test]
    fn short_beginnings_of_words_are_looked_for_the_longest() {
        for (text, least) in [
            ("ab*", 400),
            ("one abcdef* ab*", 400),
            ("abc*", 200),
            ("über*", PROBES_A_STEP),
            ("机", 400),
        ] {
            let query = Query::parse(text).unwrap();
            let expression = fts5::expression(&query, &[1], fts5::Detail::None);
            assert_eq!(least_probes(&expression), least, "{expression}");
        }
    }
}
