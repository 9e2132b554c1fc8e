//! Addresses, elements and stanzas as Python sees them: frozen handles.

use crate::JidError;
use antiphon_routing::SessionId;
use antiphon_xmpp as xmpp;
use antiphon_xmpp::xml::Limits;
use pyo3::basic::CompareOp;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyMapping, PySequence, PyString};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

/// What `Element.parse` accepts: Python parses only what is small or its own.
const PARSE_LIMITS: Limits = Limits {
    stanza_bytes: 1024 * 1024,
    depth: 256,
    elements: 100_000,
    attributes: 256,
};

#[pyclass(frozen, module = "antiphon._core")]
#[derive(Clone)]
pub struct Jid(pub xmpp::Jid);

#[pymethods]
impl Jid {
    #[new]
    fn new(text: &str) -> PyResult<Self> {
        parse_jid(text).map(Self)
    }
    #[getter]
    fn local(&self) -> Option<&str> {
        self.0.local()
    }
    #[getter]
    fn domain(&self) -> &str {
        self.0.domain()
    }
    #[getter]
    fn resource(&self) -> Option<&str> {
        self.0.resource()
    }
    #[getter]
    fn bare(&self) -> Self {
        Self(self.0.bare())
    }
    #[getter]
    fn is_bare(&self) -> bool {
        self.0.is_bare()
    }
    fn with_resource(&self, resource: &str) -> PyResult<Self> {
        self.0
            .with_resource(resource)
            .map(Self)
            .map_err(|e| JidError::new_err(e.to_string()))
    }
    fn __str__(&self) -> &str {
        self.0.as_str()
    }
    fn __repr__(&self) -> String {
        format!("Jid({:?})", self.0.as_str())
    }
    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.as_str().hash(&mut hasher);
        hasher.finish()
    }
    fn __richcmp__(&self, other: &Bound<'_, PyAny>, op: CompareOp) -> PyResult<Py<PyAny>> {
        let py = other.py();
        let Ok(other) = other.cast::<Self>() else {
            return Ok(py.NotImplemented());
        };
        let is_so = op.matches(self.0.as_str().cmp(other.get().0.as_str()));
        Ok(is_so.into_pyobject(py)?.to_owned().into_any().unbind())
    }
}

pub fn parse_jid(text: &str) -> PyResult<xmpp::Jid> {
    xmpp::Jid::parse(text).map_err(|e| JidError::new_err(e.to_string()))
}

#[pyclass(frozen, module = "antiphon._core")]
#[derive(Clone)]
pub struct Element(pub Arc<xmpp::Element>);

fn add_children(element: &mut xmpp::Element, children: &Bound<'_, PyAny>) -> PyResult<()> {
    for child in children.cast::<PySequence>()?.try_iter()? {
        let child = child?;
        let node = match child.cast::<Element>() {
            Ok(child) => xmpp::Node::Element((*child.get().0).clone()),
            Err(_) => xmpp::Node::Text(child.cast::<PyString>()?.to_str()?.to_owned()),
        };
        check_text(&node)?;
        element.children.push(node);
    }
    Ok(())
}

/// XML 1.0 §2.2: what no document can hold must not reach the writer.
fn check_text(node: &xmpp::Node) -> PyResult<()> {
    match node {
        xmpp::Node::Text(text) => check_chars(text),
        xmpp::Node::Element(_) => Ok(()),
    }
}

fn check_chars(text: &str) -> PyResult<()> {
    if text.chars().all(xmpp::xml::is_char) {
        return Ok(());
    }
    Err(PyValueError::new_err("a character that XML cannot hold"))
}

#[pymethods]
impl Element {
    #[new]
    #[pyo3(signature = (name, ns, attrs = None, children = None))]
    fn new(
        name: String,
        ns: String,
        attrs: Option<&Bound<'_, PyMapping>>,
        children: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        if !xmpp::xml::is_ncname(&name) {
            return Err(PyValueError::new_err(format!(
                "not an element name: {name:?}"
            )));
        }
        check_chars(&ns)?;
        let mut element = xmpp::Element::new(ns, name);
        if let Some(attrs) = attrs {
            for pair in attrs.items()?.iter() {
                let (key, value): (String, String) = pair.extract()?;
                if !xmpp::xml::is_ncname(&key) {
                    return Err(PyValueError::new_err(format!(
                        "not an attribute name: {key:?}"
                    )));
                }
                check_chars(&value)?;
                element.set_attr(key, value);
            }
        }
        if let Some(children) = children {
            add_children(&mut element, children)?;
        }
        Ok(Self(Arc::new(element)))
    }
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }
    #[getter]
    fn ns(&self) -> &str {
        &self.0.ns
    }
    #[getter]
    fn attrs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for attr in self.0.attrs.iter().filter(|a| a.ns.is_empty()) {
            dict.set_item(&*attr.name, &attr.value)?;
        }
        Ok(dict)
    }
    #[getter]
    fn text(&self) -> String {
        self.0.text()
    }
    #[getter]
    fn children<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let children: Vec<Self> = self
            .0
            .elements()
            .map(|e| Self(Arc::new(e.clone())))
            .collect();
        PyList::new(py, children)
    }
    #[pyo3(signature = (name, default = None))]
    fn get(&self, name: &str, default: Option<String>) -> Option<String> {
        self.0.attr(name).map(str::to_owned).or(default)
    }
    fn find(&self, ns: &str, name: &str) -> Option<Self> {
        self.0.child(ns, name).map(|e| Self(Arc::new(e.clone())))
    }
    fn with_children(&self, children: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut element = (*self.0).clone();
        add_children(&mut element, children)?;
        Ok(Self(Arc::new(element)))
    }
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut out = Vec::new();
        xmpp::xml::writer::write_element(&self.0, "", &mut out);
        PyBytes::new(py, &out)
    }
    #[staticmethod]
    #[pyo3(signature = (xml, default_ns = ""))]
    fn parse(xml: &[u8], default_ns: &str) -> PyResult<Self> {
        let text = std::str::from_utf8(xml).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let parsed = xmpp::xml::reader::parse_element(text, default_ns, PARSE_LIMITS);
        parsed
            .map(|e| Self(Arc::new(e)))
            .map_err(|e| PyValueError::new_err(e.to_string()))
    }
    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other
            .cast::<Self>()
            .is_ok_and(|other| other.get().0 == self.0)
    }
    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (
            &*self.0.ns,
            &*self.0.name,
            self.0.attrs.len(),
            self.0.children.len(),
        )
            .hash(&mut hasher);
        hasher.finish()
    }
    fn __repr__(&self) -> String {
        let mut out = Vec::new();
        xmpp::xml::writer::write_element(&self.0, "", &mut out);
        format!("Element({})", String::from_utf8_lossy(&out))
    }
}

#[pyclass(frozen, module = "antiphon._core")]
#[derive(Clone)]
pub struct Stanza {
    pub stanza: xmpp::Stanza,
    pub session: Option<SessionId>,
    pub address: Option<IpAddr>,
}

impl Stanza {
    pub fn plain(stanza: xmpp::Stanza) -> Self {
        Self {
            stanza,
            session: None,
            address: None,
        }
    }
}

#[pymethods]
impl Stanza {
    #[new]
    #[pyo3(signature = (kind, *, r#type = None, id = None, frm = None, to = None, children = None))]
    fn new(
        kind: &str,
        r#type: Option<&str>,
        id: Option<&str>,
        frm: Option<&Bound<'_, Jid>>,
        to: Option<&Bound<'_, Jid>>,
        children: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let kind = match kind {
            "message" => xmpp::StanzaKind::Message,
            "presence" => xmpp::StanzaKind::Presence,
            "iq" => xmpp::StanzaKind::Iq,
            other => return Err(PyValueError::new_err(format!("not a stanza: {other:?}"))),
        };
        let mut stanza = xmpp::Stanza::new(kind);
        for text in [r#type, id].into_iter().flatten() {
            check_chars(text)?;
        }
        stanza.type_ = r#type.map(Into::into);
        stanza.id = id.map(Into::into);
        stanza.from = frm.map(|jid| jid.get().0.clone());
        stanza.to = to.map(|jid| jid.get().0.clone());
        if let Some(children) = children {
            for child in children.cast::<PySequence>()?.try_iter()? {
                stanza = stanza.with_child(&child?.cast::<Element>()?.get().0);
            }
        }
        Ok(Self::plain(stanza))
    }
    #[getter]
    fn kind(&self) -> &'static str {
        self.stanza.kind.name()
    }
    #[getter]
    fn r#type(&self) -> Option<&str> {
        self.stanza.type_.as_deref()
    }
    #[getter]
    fn id(&self) -> Option<&str> {
        self.stanza.id.as_deref()
    }
    #[getter]
    fn frm(&self) -> Option<Jid> {
        self.stanza.from.clone().map(Jid)
    }
    #[getter]
    fn to(&self) -> Option<Jid> {
        self.stanza.to.clone().map(Jid)
    }
    #[getter]
    fn lang(&self) -> Option<&str> {
        self.stanza.lang.as_deref()
    }
    #[getter]
    fn payload(&self) -> Option<Element> {
        self.stanza.first_child().map(|e| Element(Arc::new(e)))
    }
    #[getter]
    fn element(&self) -> Element {
        Element(Arc::new(self.stanza.element()))
    }
    #[getter]
    fn session(&self) -> Option<(u32, u64)> {
        self.session.map(|s| (s.node, s.number))
    }
    #[getter]
    fn address(&self) -> Option<String> {
        self.address.map(|a| a.to_canonical().to_string())
    }
    fn __repr__(&self) -> String {
        format!("Stanza({:?})", self.stanza)
    }
}
