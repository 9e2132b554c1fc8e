//! Functions that need no node.

use crate::operations::scram_hash;
use antiphon_net::tls;
use antiphon_xmpp::jid::prepare_opaque;
use antiphon_xmpp::sasl::ScramKeys;
use antiphon_xmpp::stanza::StanzaCondition;
use antiphon_xmpp::stream::StreamCondition;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use toml_edit::{Document, Item, Value};

#[pyfunction]
pub fn toml_positions<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyDict>> {
    let document = Document::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        PyValueError::new_err(format!("line {}: {}", line(text, offset), error.message()))
    })?;
    let dict = PyDict::new(py);
    note_item(&dict, text, String::new(), document.as_item())?;
    Ok(dict)
}

fn line(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
        + 1
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn note_item(dict: &Bound<'_, PyDict>, text: &str, path: String, item: &Item) -> PyResult<()> {
    match item {
        Item::None => Ok(()),
        Item::Value(value) => note_value(dict, text, path, value),
        Item::Table(table) => {
            note(dict, text, &path, table.span())?;
            for (key, child) in table.iter() {
                let child_path = join(&path, key);
                let span = table.key(key).and_then(|k| k.span());
                note_item(dict, text, child_path.clone(), child)?;
                if !child.is_table() && !child.is_array_of_tables() {
                    note(dict, text, &child_path, span)?;
                }
            }
            Ok(())
        }
        Item::ArrayOfTables(tables) => {
            for (index, table) in tables.iter().enumerate() {
                let table_path = join(&path, &index.to_string());
                if index == 0 {
                    note(dict, text, &path, table.span())?;
                }
                note_item(dict, text, table_path, &Item::Table(table.clone()))?;
            }
            Ok(())
        }
    }
}

fn note_value(dict: &Bound<'_, PyDict>, text: &str, path: String, value: &Value) -> PyResult<()> {
    note(dict, text, &path, value.span())?;
    match value {
        Value::Array(array) => {
            for (index, child) in array.iter().enumerate() {
                note_value(dict, text, join(&path, &index.to_string()), child)?;
            }
        }
        Value::InlineTable(table) => {
            for (key, child) in table.iter() {
                note_value(dict, text, join(&path, key), child)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn note(
    dict: &Bound<'_, PyDict>,
    text: &str,
    path: &str,
    span: Option<std::ops::Range<usize>>,
) -> PyResult<()> {
    match span {
        Some(span) if !path.is_empty() => dict.set_item(path, line(text, span.start)),
        _ => Ok(()),
    }
}

#[pyfunction]
pub fn derive_keys<'py>(
    py: Python<'py>,
    password: &str,
    hash: &str,
    salt: Vec<u8>,
    iterations: u32,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let hash = scram_hash(hash)?;
    if iterations == 0 {
        return Err(PyValueError::new_err("at least one iteration"));
    }
    let password = prepare_opaque(password).map_err(|e| PyValueError::new_err(e.to_string()))?;
    let keys = py.detach(|| ScramKeys::derive(hash, &password, &salt, iterations));
    Ok((
        PyBytes::new(py, &keys.stored_key),
        PyBytes::new(py, &keys.server_key),
    ))
}

#[pyfunction]
pub fn self_signed(py: Python<'_>, domains: Vec<String>) -> PyResult<(String, String)> {
    py.detach(|| tls::self_signed(&domains))
        .map_err(PyValueError::new_err)
}

#[pyfunction]
pub fn certificate_names(pem: &str) -> PyResult<(Vec<String>, f64)> {
    let (names, end) = tls::certificate_names(pem).map_err(PyValueError::new_err)?;
    Ok((names, end as f64))
}

/// Names of all stanza and stream error conditions, for the parity test.
#[pyfunction]
pub fn conditions() -> (Vec<&'static str>, Vec<&'static str>) {
    let stanza = StanzaCondition::ALL.iter().map(|c| c.name()).collect();
    let stream = StreamCondition::ALL.iter().map(|c| c.name()).collect();
    (stanza, stream)
}
