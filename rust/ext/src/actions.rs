//! Actions as Python submits them: tuples that start with their kind.

use crate::operations;
use crate::values::{Element, Stanza};
use antiphon_net::gateway::HttpResponse;
use antiphon_node::node::Node;
use antiphon_xmpp::stanza::{ErrorType, StanzaCondition, StanzaError};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::sync::Arc;

const ACT_REPLY: u8 = 1;
const ACT_FAIL: u8 = 2;
const ACT_SEND: u8 = 3;
const ACT_CALL: u8 = 4;
const ACT_HTTP: u8 = 5;
const ACT_REQUEST: u8 = 6;
const ACT_CAPS: u8 = 7;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("ACT_REPLY", ACT_REPLY)?;
    m.add("ACT_FAIL", ACT_FAIL)?;
    m.add("ACT_SEND", ACT_SEND)?;
    m.add("ACT_CALL", ACT_CALL)?;
    m.add("ACT_HTTP", ACT_HTTP)?;
    m.add("ACT_REQUEST", ACT_REQUEST)?;
    m.add("ACT_CAPS", ACT_CAPS)
}

/// Carries one action out.
pub fn carry_out(node: &Arc<Node>, action: &Bound<'_, PyTuple>) -> PyResult<()> {
    let kind: u8 = action.get_item(0)?.extract()?;
    match kind {
        ACT_REPLY => {
            let ticket = action.get_item(1)?.extract()?;
            let payload = action.get_item(2)?;
            let payload = if payload.is_none() {
                None
            } else {
                Some(payload.cast::<Element>()?.get().0.clone())
            };
            node.reply(ticket, payload.as_deref());
        }
        ACT_FAIL => node.fail(action.get_item(1)?.extract()?, &stanza_error(action)?),
        ACT_SEND => node.send(addressed(&action.get_item(1)?)?),
        ACT_CALL => {
            let name: String = action.get_item(2)?.extract()?;
            let args = action.get_item(3)?;
            node.call(
                action.get_item(1)?.extract()?,
                operations::decode(&name, args.cast()?)?,
            );
        }
        ACT_HTTP => {
            let (_, ticket, status, headers, body): (u8, u64, u16, Vec<(String, String)>, Vec<u8>) =
                action.extract()?;
            node.respond(
                ticket,
                HttpResponse {
                    status,
                    headers,
                    body: body.into(),
                },
            );
        }
        ACT_REQUEST => {
            let timeout_s: f64 = action.get_item(3)?.extract()?;
            let timeout_ms = (timeout_s.clamp(0.0, 3600.0) * 1000.0) as u64;
            node.request(
                action.get_item(1)?.extract()?,
                addressed(&action.get_item(2)?)?,
                timeout_ms,
            );
        }
        ACT_CAPS => {
            let (_, hash, ver): (u8, String, String) = action.extract()?;
            node.learn_caps(&hash, &ver);
        }
        other => return Err(PyValueError::new_err(format!("unknown action {other}"))),
    }
    Ok(())
}

fn addressed(value: &Bound<'_, PyAny>) -> PyResult<antiphon_xmpp::Stanza> {
    let stanza = value.cast::<Stanza>()?.get().stanza.clone();
    if stanza.from.is_none() || stanza.to.is_none() {
        return Err(PyValueError::new_err("the stanza needs frm and to"));
    }
    Ok(stanza)
}

fn stanza_error(action: &Bound<'_, PyTuple>) -> PyResult<StanzaError> {
    let name: String = action.get_item(2)?.extract()?;
    let condition = StanzaCondition::from_name(&name)
        .ok_or_else(|| PyValueError::new_err(format!("unknown stanza error condition {name:?}")))?;
    let mut error = StanzaError::new(condition);
    if let Some(type_) = action.get_item(3)?.extract::<Option<String>>()? {
        error.type_ = match type_.as_str() {
            "auth" => ErrorType::Auth,
            "cancel" => ErrorType::Cancel,
            "continue" => ErrorType::Continue,
            "modify" => ErrorType::Modify,
            "wait" => ErrorType::Wait,
            other => {
                return Err(PyValueError::new_err(format!(
                    "unknown stanza error type {other:?}"
                )));
            }
        };
    }
    error.text = action.get_item(4)?.extract()?;
    let app = action.get_item(5)?;
    if !app.is_none() {
        let element = app
            .cast::<Element>()
            .map_err(|_| PyTypeError::new_err("the application condition must be an Element"))?;
        error.app = Some(Box::new((*element.get().0).clone()));
    }
    Ok(error)
}
