//! A small owned tree for stanza payloads and nonzas.

use super::chars::MAX_NAME_BYTES;
use std::borrow::Cow;

/// A name or namespace: most are constants.
pub type Text = Cow<'static, str>;

/// One attribute. `ns` is empty for an attribute without a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Namespace, empty for none.
    pub ns: Text,
    /// Local name.
    pub name: Text,
    /// Unescaped value.
    pub value: String,
}

/// A child of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Element),
    /// Unescaped character data.
    Text(String),
}

/// An element with its namespace resolved; prefixes are forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Local name.
    pub name: Text,
    /// Namespace, empty for none.
    pub ns: Text,
    /// Attributes without namespace declarations, in document order.
    pub attrs: Vec<Attr>,
    /// Children in document order; adjacent text is one node.
    pub children: Vec<Node>,
}

impl Element {
    /// An element without attributes and children.
    pub fn new(ns: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self {
            name: name.into(),
            ns: ns.into(),
            attrs: Vec::new(),
            children: Vec::new(),
        }
    }
    /// The same with an attribute.
    #[must_use]
    pub fn with_attr(mut self, name: impl Into<Text>, value: impl Into<String>) -> Self {
        self.set_attr(name, value);
        self
    }
    /// The same with one more child element.
    #[must_use]
    pub fn with_child(mut self, child: Element) -> Self {
        self.children.push(Node::Element(child));
        self
    }
    /// The same with more character data.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.children.push(Node::Text(text.into()));
        self
    }
    /// Whether name and namespace are these.
    #[must_use]
    pub fn is(&self, ns: &str, name: &str) -> bool {
        self.name == name && self.ns == ns
    }
    /// The value of an attribute without a namespace.
    #[must_use]
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs
            .iter()
            .find(|a| a.ns.is_empty() && a.name == name)
            .map(|a| a.value.as_str())
    }
    /// Sets or replaces an attribute without a namespace.
    pub fn set_attr(&mut self, name: impl Into<Text>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self
            .attrs
            .iter_mut()
            .find(|a| a.ns.is_empty() && a.name == name)
        {
            Some(attr) => attr.value = value,
            None => self.attrs.push(Attr {
                ns: Text::Borrowed(""),
                name,
                value,
            }),
        }
    }
    /// The child elements.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|c| match c {
            Node::Element(e) => Some(e),
            Node::Text(_) => None,
        })
    }
    /// The first child element with this namespace and name.
    #[must_use]
    pub fn child(&self, ns: &str, name: &str) -> Option<&Element> {
        self.elements().find(|e| e.is(ns, name))
    }
    /// The character data of this element itself, child elements left out.
    #[must_use]
    pub fn text(&self) -> String {
        self.children.iter().fold(String::new(), |mut all, c| {
            if let Node::Text(t) = c {
                all.push_str(t);
            }
            all
        })
    }
    /// The first child element with this namespace and name, to change it.
    pub fn child_mut(&mut self, ns: &str, name: &str) -> Option<&mut Element> {
        self.children.iter_mut().find_map(|c| match c {
            Node::Element(e) if e.is(ns, name) => Some(e),
            _ => None,
        })
    }
    /// Whether there is a child element with this namespace and name.
    #[must_use]
    pub fn has_child(&self, ns: &str, name: &str) -> bool {
        self.child(ns, name).is_some()
    }
    /// The first child element.
    #[must_use]
    pub fn first_element(&self) -> Option<&Element> {
        self.elements().next()
    }
    /// Appends a child element or character data.
    pub fn push(&mut self, child: impl Into<Node>) {
        self.children.push(child.into());
    }
    /// Takes the first child element with this namespace and name out.
    pub fn remove(&mut self, ns: &str, name: &str) -> Option<Element> {
        let index = self
            .children
            .iter()
            .position(|c| matches!(c, Node::Element(e) if e.is(ns, name)))?;
        match self.children.remove(index) {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        }
    }
    /// The value of an attribute with a namespace.
    #[must_use]
    pub fn attr_ns(&self, ns: &str, name: &str) -> Option<&str> {
        self.attrs
            .iter()
            .find(|a| a.ns == ns && a.name == name)
            .map(|a| a.value.as_str())
    }
    /// `xml:lang` of this element itself.
    #[must_use]
    pub fn lang(&self) -> Option<&str> {
        self.attr_ns(crate::ns::XML, "lang")
    }
    /// Sets or replaces an attribute with a namespace.
    pub fn set_attr_ns(
        &mut self,
        ns: impl Into<Text>,
        name: impl Into<Text>,
        value: impl Into<String>,
    ) {
        let (ns, name, value) = (ns.into(), name.into(), value.into());
        match self.attrs.iter_mut().find(|a| a.ns == ns && a.name == name) {
            Some(attr) => attr.value = value,
            None => self.attrs.push(Attr { ns, name, value }),
        }
    }
    /// The same with an attribute with a namespace.
    #[must_use]
    pub fn with_attr_ns(
        mut self,
        ns: impl Into<Text>,
        name: impl Into<Text>,
        value: impl Into<String>,
    ) -> Self {
        self.set_attr_ns(ns, name, value);
        self
    }
    /// Takes an attribute without a namespace out.
    pub fn remove_attr(&mut self, name: &str) -> Option<String> {
        let index = self
            .attrs
            .iter()
            .position(|a| a.ns.is_empty() && a.name == name)?;
        Some(self.attrs.remove(index).value)
    }
    /// Replaces all children by character data.
    pub fn set_text(&mut self, text: impl Into<String>) {
        self.children = vec![Node::Text(text.into())];
    }
    /// The element written where `default_ns` is the default namespace.
    #[must_use]
    pub fn to_bytes(&self, default_ns: &str) -> Vec<u8> {
        let mut out = Vec::new();
        super::writer::write_element(self, default_ns, &mut out);
        out
    }
    /// Whether all names are XML names that we would read ourselves, so that the tree can be
    /// written. A tree that was read always can; one made from names that come from elsewhere
    /// should be asked.
    #[must_use]
    pub fn has_valid_names(&self) -> bool {
        let is_name = |name: &str| name.len() <= MAX_NAME_BYTES && super::is_ncname(name);
        is_name(&self.name)
            && self
                .attrs
                .iter()
                .all(|a| is_name(&a.name) && (!a.ns.is_empty() || a.name != "xmlns"))
            && self.elements().all(Self::has_valid_names)
    }
}

impl<'a> IntoIterator for &'a Element {
    type Item = &'a Node;
    type IntoIter = std::slice::Iter<'a, Node>;
    fn into_iter(self) -> Self::IntoIter {
        self.children.iter()
    }
}

impl IntoIterator for Element {
    type Item = Node;
    type IntoIter = std::vec::IntoIter<Node>;
    fn into_iter(self) -> Self::IntoIter {
        self.children.into_iter()
    }
}

impl From<Element> for Node {
    fn from(element: Element) -> Self {
        Self::Element(element)
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl std::fmt::Display for Element {
    /// The element as XML that declares all it needs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes("")))
    }
}
