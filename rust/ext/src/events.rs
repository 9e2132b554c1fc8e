//! Events as Python drains them: `(kind, ticket, a, b)`.

use crate::values::{Element, Jid, Stanza};
use antiphon_net::gateway;
use antiphon_node::bridge::Event;
use antiphon_node::value::Value;
use antiphon_routing::archive::ArchiveDefault;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use std::sync::Arc;

const EV_IQ: u8 = 1;
const EV_RESULT: u8 = 2;
const EV_FAILED: u8 = 3;
const EV_HTTP: u8 = 4;
const EV_LOG: u8 = 5;
const EV_CAPS: u8 = 6;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("EV_IQ", EV_IQ)?;
    m.add("EV_RESULT", EV_RESULT)?;
    m.add("EV_FAILED", EV_FAILED)?;
    m.add("EV_HTTP", EV_HTTP)?;
    m.add("EV_LOG", EV_LOG)?;
    m.add("EV_CAPS", EV_CAPS)
}

#[pyclass(frozen, module = "antiphon._core")]
pub struct HttpRequest(gateway::HttpRequest);

#[pymethods]
impl HttpRequest {
    #[getter]
    fn method(&self) -> &str {
        &self.0.method
    }
    #[getter]
    fn path(&self) -> &str {
        &self.0.path
    }
    #[getter]
    fn query(&self) -> &str {
        &self.0.query
    }
    #[getter]
    fn headers(&self) -> Vec<(String, String)> {
        self.0.headers.clone()
    }
    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.body)
    }
    #[getter]
    fn peer(&self) -> String {
        self.0.peer.ip().to_canonical().to_string()
    }
    #[getter]
    fn is_secure(&self) -> bool {
        self.0.is_secure
    }
}

pub fn event(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyTuple>> {
    let none = || py.None();
    match event {
        Event::Iq {
            ticket,
            stanza,
            session,
            address,
            handler,
        } => (
            EV_IQ,
            ticket,
            Stanza {
                stanza,
                session,
                address,
            },
            handler,
        )
            .into_pyobject(py),
        Event::Result(ticket, value) => {
            (EV_RESULT, ticket, convert(py, value)?, none()).into_pyobject(py)
        }
        Event::Failed(ticket, error) => {
            (EV_FAILED, ticket, error.condition.name(), error.text).into_pyobject(py)
        }
        Event::Http(ticket, request) => {
            (EV_HTTP, ticket, HttpRequest(*request), none()).into_pyobject(py)
        }
        Event::Log(level, event, fields) => {
            let dict = PyDict::new(py);
            for (name, value) in fields {
                dict.set_item(name, value)?;
            }
            (EV_LOG, level, event, dict).into_pyobject(py)
        }
        Event::Caps(stanza) => (EV_CAPS, 0, Stanza::plain(stanza), none()).into_pyobject(py),
    }
}

fn convert(py: Python<'_>, value: Value) -> PyResult<Py<PyAny>> {
    let element = |e| Element(Arc::new(e));
    Ok(match value {
        Value::None => py.None(),
        Value::Bool(flag) => flag.into_pyobject(py)?.to_owned().into_any().unbind(),
        Value::Int(number) => number.into_pyobject(py)?.into_any().unbind(),
        Value::Bytes(bytes) => PyBytes::new(py, &bytes).into_any().unbind(),
        Value::Texts(texts) => texts.into_pyobject(py)?.unbind(),
        Value::Jids(jids) => jids
            .into_iter()
            .map(Jid)
            .collect::<Vec<_>>()
            .into_pyobject(py)?
            .unbind(),
        Value::Element(e) => element(e).into_pyobject(py)?.into_any().unbind(),
        Value::Stanza(stanza) => Stanza::plain(stanza).into_pyobject(py)?.into_any().unbind(),
        Value::Activity(at_ms, status, is_online) => (at_ms, status, is_online)
            .into_pyobject(py)?
            .into_any()
            .unbind(),
        Value::Sessions(sessions) => {
            let sessions = sessions.into_iter();
            let rows: Vec<_> = sessions
                .map(|(jid, prio, presence, carbons)| {
                    (Jid(jid), prio, presence.map(element), carbons)
                })
                .collect();
            rows.into_pyobject(py)?.unbind()
        }
        Value::Accounts(accounts) => {
            let rows: Vec<_> = accounts
                .into_iter()
                .map(|(jid, enabled, created)| (Jid(jid), enabled, created))
                .collect();
            rows.into_pyobject(py)?.unbind()
        }
        other => convert_history(py, other)?,
    })
}

/// Answers of the archive and the inbox.
fn convert_history(py: Python<'_>, value: Value) -> PyResult<Py<PyAny>> {
    let jids = |jids: Vec<antiphon_xmpp::Jid>| jids.into_iter().map(Jid).collect::<Vec<_>>();
    let tuple = match value {
        Value::ArchivePage {
            first,
            last,
            count,
            is_complete,
            is_stable,
        } => (first, last, count, is_complete, is_stable).into_pyobject(py)?,
        Value::Rows { rows, is_complete } => {
            let rows = rows.into_iter();
            let rows: Vec<_> = rows
                .map(|row| (row.id, row.at_ms, row.is_out, Stanza::plain(row.stanza)))
                .collect();
            (rows, is_complete).into_pyobject(py)?
        }
        Value::Ends(first, last) => (first, last).into_pyobject(py)?,
        Value::Prefs(prefs) => {
            let default = match prefs.default {
                ArchiveDefault::Always => "always",
                ArchiveDefault::Roster => "roster",
                ArchiveDefault::Never => "never",
            };
            (default, jids(prefs.always), jids(prefs.never)).into_pyobject(py)?
        }
        Value::InboxPage {
            first,
            last,
            count,
            unread,
            active,
            is_complete,
        } => (first, last, count, unread, active, is_complete).into_pyobject(py)?,
        Value::InboxEntry {
            peer,
            last_id,
            at_ms,
            unread,
            in_box,
            muted_until_ms,
            message,
        } => {
            let message = message.map(|e| Element(Arc::new(e)));
            let peer = Jid(peer);
            (
                peer,
                last_id,
                at_ms,
                unread,
                in_box,
                muted_until_ms,
                message,
            )
                .into_pyobject(py)?
        }
        Value::Collections(found) => {
            let rows = found.into_iter();
            let rows: Vec<_> = rows.map(|(jid, id, ms)| (Jid(jid), id, ms)).collect();
            return Ok(rows.into_pyobject(py)?.unbind());
        }
        other => return convert_stats(py, other),
    };
    Ok(tuple.into_any().unbind())
}

fn convert_stats(py: Python<'_>, value: Value) -> PyResult<Py<PyAny>> {
    let Value::Stats(stats) = value else {
        return Ok(py.None());
    };
    let dict = PyDict::new(py);
    for (name, value) in stats {
        dict.set_item(name, value)?;
    }
    Ok(dict.into_any().unbind())
}
