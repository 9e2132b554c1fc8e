//! Documents and queries for SQLite's FTS5.
//!
//! The table's tokenizer is `ascii`: it cuts at ASCII characters that are no letter or digit, and
//! all that is not ASCII belongs to a token. So the spaces of [`document`] are the only cuts.
//!
//! Documents carry their owners as tokens: FTS5 intersects them with the words inside its index,
//! where a join afterwards would read every message of all users with a word. Words cannot forge
//! an owner: `§` is never part of one.
//!
//! In scripts without spaces each character is indexed together with the next, since one alone is
//! in too many messages: `新手机` becomes `新手 手机 机`. There is still one token for each
//! character, so phrases work across scripts.

use crate::fold::Folded;
use crate::query::{Atom, Query};
use crate::token::Kind;
use std::fmt::Write as _;

/// How the FTS5 table has been declared, by its option `detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// `detail=full`: what the index finds are exactly the texts that [`Query::matches`] accepts.
    Full,
    /// `detail=none` or `column`: smaller, knows no phrases. What the index finds includes all
    /// answers, but is to be verified with [`Query::matches`].
    None,
}

/// The text to put into the FTS5 table: the owners, then the words of `text`.
///
/// Owners are numbers of the caller, for instance row ids of accounts and rooms. A text without
/// words gives the owners alone.
#[must_use]
pub fn document(text: &str, owners: &[u64]) -> String {
    let folded = Folded::new(text);
    let mut out = String::with_capacity(folded.as_str().len() * 5 / 4 + owners.len() * 10);
    for &owner in owners {
        push_owner(owner, &mut out);
        out.push(' ');
    }
    let mut tokens = folded.tokens().peekable();
    while let Some(token) = tokens.next() {
        out.push_str(token.text);
        if token.kind == Kind::Dense {
            let next = tokens.peek().filter(|next| next.kind == Kind::Dense);
            out.push_str(next.map_or("", |next| next.text));
        }
        out.push(' ');
    }
    out.truncate(out.trim_end_matches(' ').len());
    out
}

/// The right side of `MATCH` for documents that have all of `owners` and all terms of `query`.
///
/// Made of quoted strings, `AND` and `*` alone, so always right in syntax.
#[must_use]
pub fn expression(query: &Query, owners: &[u64], detail: Detail) -> String {
    let mut out = String::with_capacity(64);
    for &owner in owners {
        and(&mut out);
        out.push('"');
        push_owner(owner, &mut out);
        out.push('"');
    }
    for term in query.terms() {
        and(&mut out);
        push_term(term, detail, &mut out);
    }
    out
}

fn and(out: &mut String) {
    if !out.is_empty() {
        out.push_str(" AND ");
    }
}

/// `§` and the number in lower-case hexadecimal digits.
fn push_owner(owner: u64, out: &mut String) {
    // Writing to a string does not fail.
    let _ = write!(out, "§{owner:x}");
}

fn push_term(term: &[Atom], detail: Detail, out: &mut String) {
    let separator = match detail {
        Detail::Full => " ",
        Detail::None => "\" AND \"",
    };
    out.push('"');
    let mut is_prefix = false;
    for (at, atom) in term.iter().enumerate() {
        let is_dense = |other: Option<&Atom>| other.is_some_and(|one| one.kind == Kind::Dense);
        let next = term.get(at + 1);
        let mut second = "";
        if atom.kind == Kind::Dense {
            let after_dense = is_dense(at.checked_sub(1).and_then(|before| term.get(before)));
            match next {
                // The token of the character before has this one in it.
                None if after_dense => break,
                // In a document the next character may be part of the token, or not.
                None => is_prefix = true,
                Some(next) if next.kind == Kind::Dense => second = &next.text,
                Some(_) => {}
            }
        }
        if at > 0 {
            out.push_str(separator);
        }
        out.push_str(&atom.text);
        out.push_str(second);
        is_prefix |= atom.is_prefix;
    }
    out.push('"');
    if is_prefix {
        out.push('*');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_owners_and_words() {
        assert_eq!(document("Hello, Wörld!", &[1, 255]), "§1 §ff hello world");
        assert_eq!(document("新手机 X1", &[]), "新手 手机 机 x1");
        assert_eq!(document("?!", &[7]), "§7");
        assert_eq!(document("§1 \"§2\"", &[3]), "§3 1 2");
    }

    #[test]
    fn an_expression_has_no_syntax_of_the_user() {
        for (text, full, none) in [
            (
                "NOT a:b",
                "\"not\" AND \"a b\"",
                "\"not\" AND \"a\" AND \"b\"",
            ),
            ("inv*", "\"inv\"*", "\"inv\"*"),
            ("新手机", "\"新手 手机\"", "\"新手\" AND \"手机\""),
            ("机", "\"机\"*", "\"机\"*"),
            ("x机", "\"x 机\"*", "\"x\" AND \"机\"*"),
            ("机x", "\"机 x\"", "\"机\" AND \"x\""),
            (
                "手机xy*",
                "\"手机 机 xy\"*",
                "\"手机\" AND \"机\" AND \"xy\"*",
            ),
        ] {
            let query = Query::parse(text).unwrap();
            let owner = "\"§a\" AND ";
            assert_eq!(
                expression(&query, &[10], Detail::Full),
                format!("{owner}{full}")
            );
            assert_eq!(
                expression(&query, &[10], Detail::None),
                format!("{owner}{none}")
            );
        }
    }
}
