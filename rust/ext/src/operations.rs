//! The operations of `ACT_CALL`, from Python's arguments.

use crate::values::{Jid, parse_jid};
use antiphon_node::calls::{OPERATIONS, Operation};
use antiphon_node::history::{ArchiveQuery, InboxForm, InboxQuery, PageForm, PageQuery};
use antiphon_routing::SessionId;
use antiphon_routing::archive::{ArchiveDefault, ArchivePrefs, InboxChange, InboxFilter};
use antiphon_routing::store::MapKind;
use antiphon_xmpp as xmpp;
use antiphon_xmpp::sasl::{ScramHash, ScramKeys};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

pub fn names(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    PyTuple::new(py, OPERATIONS)
}

/// Hash, iterations, salt, StoredKey, ServerKey.
type KeyRow = (String, u32, Vec<u8>, Vec<u8>, Vec<u8>);

struct Arguments<'a, 'py> {
    name: &'a str,
    args: &'a Bound<'py, PyTuple>,
    next: usize,
}

impl<'py> Arguments<'_, 'py> {
    fn raw(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let item = self.args.get_item(self.next);
        self.next += 1;
        item.map_err(|_| {
            PyTypeError::new_err(format!("{}: argument {} is missing", self.name, self.next))
        })
    }
    fn jid(&mut self) -> PyResult<xmpp::Jid> {
        let raw = self.raw()?;
        match raw.cast::<Jid>() {
            Ok(jid) => Ok(jid.get().0.clone()),
            Err(_) => parse_jid(&raw.extract::<String>()?),
        }
    }
    /// An account: whatever resource was named is left out.
    fn owner(&mut self) -> PyResult<xmpp::Jid> {
        Ok(self.jid()?.bare())
    }
    fn jids(&mut self) -> PyResult<Vec<xmpp::Jid>> {
        let raw = self.raw()?;
        raw.cast::<PyList>()?
            .iter()
            .map(|item| Ok(item.cast::<Jid>()?.get().0.clone()))
            .collect()
    }
    fn text(&mut self) -> PyResult<String> {
        self.raw()?.extract()
    }
    fn maybe(&mut self) -> PyResult<Option<String>> {
        self.raw()?.extract()
    }
    fn texts(&mut self) -> PyResult<Vec<String>> {
        self.raw()?.extract()
    }
    fn flag(&mut self) -> PyResult<bool> {
        self.raw()?.extract()
    }
    fn count(&mut self) -> PyResult<usize> {
        self.raw()?.extract()
    }
    fn maybe_flag(&mut self) -> PyResult<Option<bool>> {
        self.raw()?.extract()
    }
    fn maybe_count(&mut self) -> PyResult<Option<u64>> {
        self.raw()?.extract()
    }
    fn maybe_texts(&mut self) -> PyResult<Option<Vec<String>>> {
        self.raw()?.extract()
    }
    fn maybe_jid(&mut self) -> PyResult<Option<xmpp::Jid>> {
        let raw = self.raw()?;
        if raw.is_none() {
            return Ok(None);
        }
        Ok(Some(raw.cast::<Jid>()?.get().0.clone()))
    }
    /// The fields of a struct: a tuple in their order.
    fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Arguments<'_, 'py>) -> PyResult<T>,
    ) -> PyResult<T> {
        let raw = self.raw()?;
        read(&mut Arguments {
            name: self.name,
            args: raw.cast()?,
            next: 0,
        })
    }
    fn archive_query(&mut self) -> PyResult<ArchiveQuery> {
        self.nested(|a| {
            Ok(ArchiveQuery {
                with: a.maybe_jid()?,
                start_ms: a.maybe_count()?,
                end_ms: a.maybe_count()?,
                after_id: a.maybe()?,
                before_id: a.maybe()?,
                ids: a.maybe_texts()?,
                text: a.maybe()?,
                without_groupchat: a.flag()?,
            })
        })
    }
    fn page(&mut self) -> PyResult<PageQuery> {
        self.nested(|a| {
            Ok(PageQuery {
                after: a.maybe()?,
                before: a.maybe()?,
                is_from_end: a.flag()?,
                max: a.count()?,
            })
        })
    }
    fn inbox_query(&mut self) -> PyResult<InboxQuery> {
        let filter = self.nested(|a| {
            Ok(InboxFilter {
                start_ms: a.maybe_count()?,
                end_ms: a.maybe_count()?,
                is_unread_only: a.flag()?,
                in_box: a.maybe()?,
            })
        })?;
        let is_ascending = self.flag()?;
        let page = self.page()?;
        Ok(InboxQuery {
            filter,
            is_ascending,
            after: page.after,
            before: page.before,
            is_from_end: page.is_from_end,
            max: page.max,
        })
    }
    fn inbox_form(&mut self) -> PyResult<InboxForm> {
        let name = self.text()?;
        let form = InboxForm::parse(&name);
        form.ok_or_else(|| PyValueError::new_err(format!("unknown form of an inbox {name:?}")))
    }
    fn inbox_change(&mut self) -> PyResult<InboxChange> {
        Ok(InboxChange {
            in_box: self.maybe()?.map(String::into_boxed_str),
            muted_until_ms: self.maybe_count()?,
            is_read: self.maybe_flag()?,
        })
    }
    fn archive_prefs(&mut self) -> PyResult<ArchivePrefs> {
        Ok(ArchivePrefs {
            default: archive_default(&self.text()?)?,
            always: self.jids()?,
            never: self.jids()?,
        })
    }
    fn bytes(&mut self) -> PyResult<Vec<u8>> {
        self.raw()?.extract()
    }
    fn session(&mut self) -> PyResult<SessionId> {
        let (node, number) = self.raw()?.extract()?;
        Ok(SessionId { node, number })
    }
    fn maybe_session(&mut self) -> PyResult<Option<SessionId>> {
        let found: Option<(u32, u64)> = self.raw()?.extract()?;
        Ok(found.map(|(node, number)| SessionId { node, number }))
    }
    fn kind(&mut self) -> PyResult<MapKind> {
        match self.text()?.as_str() {
            "private" => Ok(MapKind::Private),
            "vcard" => Ok(MapKind::Vcard),
            "feature" => Ok(MapKind::Feature),
            other => Err(PyValueError::new_err(format!(
                "unknown kind of value {other:?}"
            ))),
        }
    }
    fn keys(&mut self) -> PyResult<Vec<ScramKeys>> {
        let rows: Vec<KeyRow> = self.raw()?.extract()?;
        rows.into_iter().map(|row| scram_keys(&row)).collect()
    }
}

fn archive_default(name: &str) -> PyResult<ArchiveDefault> {
    match name {
        "always" => Ok(ArchiveDefault::Always),
        "roster" => Ok(ArchiveDefault::Roster),
        "never" => Ok(ArchiveDefault::Never),
        other => Err(PyValueError::new_err(format!(
            "unknown default of the archive {other:?}"
        ))),
    }
}

fn scram_keys(row: &KeyRow) -> PyResult<ScramKeys> {
    let (name, iterations, salt, stored_key, server_key) = row;
    let hash = scram_hash(name)?;
    if stored_key.len() != hash.output_bytes() || server_key.len() != hash.output_bytes() {
        return Err(PyValueError::new_err(format!(
            "keys for {name} are {} bytes long",
            hash.output_bytes()
        )));
    }
    Ok(ScramKeys {
        hash,
        iterations: *iterations,
        salt: salt.as_slice().into(),
        stored_key: stored_key.as_slice().into(),
        server_key: server_key.as_slice().into(),
    })
}

pub fn scram_hash(name: &str) -> PyResult<ScramHash> {
    match name.to_ascii_lowercase().as_str() {
        "sha-1" => Ok(ScramHash::Sha1),
        "sha-256" => Ok(ScramHash::Sha256),
        "sha-512" => Ok(ScramHash::Sha512),
        _ => Err(PyValueError::new_err(format!(
            "unknown hash {name:?}: sha-1, sha-256 or sha-512"
        ))),
    }
}

/// The operation of this name.
pub fn decode(name: &str, args: &Bound<'_, PyTuple>) -> PyResult<Operation> {
    let a = &mut Arguments {
        name,
        args,
        next: 0,
    };
    let operation = match name.split_once('.') {
        Some(("account", _)) => account(name, a)?,
        Some(("archive", _)) => archive(name, a)?,
        Some(("inbox", _)) => inbox(name, a)?,
        Some(("roster" | "block" | "carbons" | "presence" | "activity", _)) => entity(name, a)?,
        _ => other(name, a)?,
    };
    operation.ok_or_else(|| PyValueError::new_err(format!("unknown operation {name:?}")))
}

fn account(name: &str, a: &mut Arguments<'_, '_>) -> PyResult<Option<Operation>> {
    Ok(Some(match name {
        "account.exists" => Operation::AccountExists { jid: a.owner()? },
        "account.create" => Operation::AccountCreate {
            jid: a.owner()?,
            password: a.text()?,
        },
        "account.password" => Operation::AccountPassword {
            jid: a.owner()?,
            password: a.text()?,
        },
        "account.put" => Operation::AccountPut {
            jid: a.owner()?,
            password: a.text()?,
        },
        "account.put_keys" => Operation::AccountPutKeys {
            jid: a.owner()?,
            keys: a.keys()?,
        },
        "account.delete" => Operation::AccountDelete { jid: a.owner()? },
        "account.enable" => Operation::AccountEnable {
            jid: a.owner()?,
            enabled: a.flag()?,
        },
        "account.state" => Operation::AccountState { jid: a.owner()? },
        "account.list" => Operation::AccountList {
            domain: a.text()?,
            after: a.maybe()?,
            limit: a.count()?,
        },
        "account.count" => Operation::AccountCount { domain: a.text()? },
        "account.verify" => Operation::AccountVerify {
            jid: a.owner()?,
            password: a.text()?,
        },
        _ => return Ok(None),
    }))
}

fn entity(name: &str, a: &mut Arguments<'_, '_>) -> PyResult<Option<Operation>> {
    Ok(Some(match name {
        "roster.get" => Operation::RosterGet {
            owner: a.owner()?,
            session: a.maybe_session()?,
            ver: a.maybe()?,
        },
        "roster.set" => Operation::RosterSet {
            owner: a.owner()?,
            jid: a.jid()?,
            name: a.text()?,
            groups: a.texts()?,
        },
        "roster.remove" => Operation::RosterRemove {
            owner: a.owner()?,
            jid: a.jid()?,
        },
        "block.list" => Operation::BlockList {
            owner: a.owner()?,
            session: a.session()?,
        },
        "block.add" => Operation::BlockAdd {
            owner: a.owner()?,
            jids: a.jids()?,
        },
        "block.remove" => Operation::BlockRemove {
            owner: a.owner()?,
            jids: a.jids()?,
        },
        "carbons.set" => Operation::CarbonsSet {
            owner: a.owner()?,
            session: a.session()?,
            enabled: a.flag()?,
        },
        "presence.may_see" => Operation::MaySee {
            owner: a.owner()?,
            by: a.jid()?,
        },
        "activity.last" => Operation::Activity { owner: a.owner()? },
        _ => return Ok(None),
    }))
}

fn archive(name: &str, a: &mut Arguments<'_, '_>) -> PyResult<Option<Operation>> {
    Ok(Some(match name {
        "archive.page" => Operation::ArchivePage {
            owner: a.owner()?,
            session: a.session()?,
            query: a.archive_query()?,
            page: a.page()?,
            form: a.nested(|a| {
                Ok(PageForm {
                    ns: a.text()?,
                    query_id: a.maybe()?,
                    is_flipped: a.flag()?,
                    wants_count: a.flag()?,
                })
            })?,
        },
        "archive.rows" => Operation::ArchiveRows {
            owner: a.owner()?,
            query: a.archive_query()?,
            page: a.page()?,
        },
        "archive.count" => Operation::ArchiveCount {
            owner: a.owner()?,
            query: a.archive_query()?,
            most: a.raw()?.extract()?,
        },
        "archive.ends" => Operation::ArchiveEnds { owner: a.owner()? },
        "archive.collections" => Operation::ArchiveCollections {
            owner: a.owner()?,
            query: a.archive_query()?,
            max: a.count()?,
        },
        "archive.purge" => Operation::ArchivePurge {
            owner: a.owner()?,
            peer: a.maybe_jid()?,
            before_ms: a.maybe_count()?,
        },
        "archive.prefs_get" => Operation::ArchivePrefsGet { owner: a.owner()? },
        "archive.prefs_set" => Operation::ArchivePrefsSet {
            owner: a.owner()?,
            prefs: a.archive_prefs()?,
        },
        _ => return Ok(None),
    }))
}

fn inbox(name: &str, a: &mut Arguments<'_, '_>) -> PyResult<Option<Operation>> {
    Ok(Some(match name {
        "inbox.page" => Operation::InboxPage {
            owner: a.owner()?,
            session: a.session()?,
            query_id: a.maybe()?,
            query: a.inbox_query()?,
            form: a.inbox_form()?,
        },
        "inbox.entry" => Operation::InboxEntry {
            owner: a.owner()?,
            peer: a.jid()?,
        },
        "inbox.set" => Operation::InboxSet {
            owner: a.owner()?,
            peer: a.jid()?,
            change: a.inbox_change()?,
        },
        "inbox.empty_bin" => Operation::InboxEmptyBin { owner: a.owner()? },
        _ => return Ok(None),
    }))
}

fn other(name: &str, a: &mut Arguments<'_, '_>) -> PyResult<Option<Operation>> {
    Ok(Some(match name {
        "sessions.list" => Operation::SessionsList { owner: a.owner()? },
        "sessions.all" => Operation::SessionsAll {
            domain: a.text()?,
            after: a.maybe()?,
            limit: a.count()?,
        },
        "sessions.count" => Operation::SessionsCount { domain: a.maybe()? },
        "sessions.kick" => Operation::Kick {
            owner: a.owner()?,
            resource: a.maybe()?,
            condition: a.text()?,
        },
        "map.get" => Operation::MapGet {
            owner: a.owner()?,
            kind: a.kind()?,
            key: a.text()?,
        },
        "map.put" => Operation::MapPut {
            owner: a.owner()?,
            kind: a.kind()?,
            key: a.text()?,
            value: a.bytes()?,
        },
        "map.keys" => Operation::MapKeys {
            owner: a.owner()?,
            kind: a.kind()?,
            prefix: a.text()?,
        },
        "offline.count" => Operation::OfflineCount { owner: a.owner()? },
        "node.stats" => Operation::Stats {},
        _ => return Ok(None),
    }))
}
