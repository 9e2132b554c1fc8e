//! Addresses (RFC 7622): parsed and prepared once at the edge, then carried as a value.
//!
//! Also home of the two PRECIS profiles (RFC 8265) that addresses and passwords share:
//! [`prepare_username`] and [`prepare_opaque`].

use precis_core::profile::Rules;
use precis_core::{DerivedPropertyValue, FreeformClass, IdentifierClass, StringClass};
use precis_profiles::{OpaqueString, UsernameCaseMapped};
use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The longest a part may be after preparation, in bytes (RFC 7622 §3.2, §3.3, §3.4).
pub const MAX_PART_BYTES: usize = 1023;

/// The longest input that is prepared at all, in bytes. Width mapping and composition shrink a
/// text at most to a third, so nothing valid is lost, and a hostile attribute costs no work.
const MAX_INPUT_BYTES: usize = 4 * MAX_PART_BYTES;

/// The longest label of a domain name in its ASCII form, in bytes (RFC 5890 §2.3.1).
const MAX_LABEL_BYTES: usize = 63;

/// What stands in [`Jid::at`] where there is no localpart.
const NO_LOCAL: u16 = u16::MAX;

/// Why a text is no address. On a stream this is answered with `jid-malformed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JidError {
    /// The localpart is empty, longer than 1023 bytes after preparation, or not allowed.
    #[error("the part before the @ is not a valid localpart")]
    Local,
    /// The domainpart is missing, too long or not a domain name or IP literal.
    #[error("the domain is not valid")]
    Domain,
    /// The resourcepart is empty, longer than 1023 bytes after preparation, or not allowed.
    #[error("the part behind the / is not a valid resourcepart")]
    Resource,
}

/// Why a text cannot be prepared as a user name or a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrecisError {
    /// Nothing there, or nothing left after preparation.
    #[error("it is empty")]
    Empty,
    /// Longer than 1023 bytes (user name) or 4092 bytes (password).
    #[error("it is too long")]
    TooLong,
    /// It has a character that is not allowed, or not allowed in this place.
    #[error("it has a character that is not allowed")]
    Disallowed,
}

/// A prepared address: `[localpart@]domainpart[/resourcepart]`, valid by construction.
///
/// Cloning costs a reference count. Equality, order and hash are those of the prepared text, so a
/// map with `Jid` keys can be asked with a `&str` that is known to be prepared.
#[derive(Clone)]
pub struct Jid {
    text: Arc<str>,
    /// Where the `@` stands, `u16::MAX` without a localpart.
    at: u16,
    /// Where the `/` stands, `text.len()` without a resourcepart.
    slash: u16,
}

impl Jid {
    /// Parses and prepares an address (RFC 7622 §3). ASCII needs one allocation if it is in
    /// canonical form, two if it has to be put into lower case.
    ///
    /// # Errors
    /// [`JidError`] names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, JidError> {
        // RFC 7622 §3.2: first cut at the first slash, only then look for the at-sign, because
        // both characters may occur in a resourcepart.
        let (rest, resource) = match text.split_once('/') {
            Some((rest, resource)) => (rest, Some(resource)),
            None => (text, None),
        };
        let (local, domain) = match rest.split_once('@') {
            Some((local, domain)) => (Some(local), domain),
            None => (None, rest),
        };
        Self::build(local, domain, resource, Some(text))
    }

    /// Takes an address that another [`Jid`] was written as ([`Jid::as_str`]); it is cut, and not
    /// prepared again.
    ///
    /// # Errors
    /// [`JidError::Domain`]: it cannot have been one.
    pub fn prepared(text: &str) -> Result<Self, JidError> {
        if text.is_empty() || text.len() > 3 * MAX_PART_BYTES + 2 {
            return Err(JidError::Domain);
        }
        let bytes = text.as_bytes();
        let slash = memchr::memchr(b'/', bytes).unwrap_or(bytes.len());
        let at = memchr::memchr(b'@', &bytes[..slash]);
        Ok(Self {
            text: text.into(),
            at: at.map_or(NO_LOCAL, offset),
            slash: offset(slash),
        })
    }

    /// Builds an address from parts that still need preparation.
    ///
    /// # Errors
    /// [`JidError`] names the part that is wrong.
    pub fn from_parts(
        local: Option<&str>,
        domain: &str,
        resource: Option<&str>,
    ) -> Result<Self, JidError> {
        Self::build(local, domain, resource, None)
    }

    /// `whole` is the text the parts were cut from; it is taken as it is if nothing changed.
    fn build(
        local: Option<&str>,
        domain: &str,
        resource: Option<&str>,
        whole: Option<&str>,
    ) -> Result<Self, JidError> {
        let local = local.map(local_part).transpose()?;
        let domain = domain_part(domain)?;
        let resource = resource.map(resource_part).transpose()?;

        let at = local.as_ref().map(|l| l.len());
        let slash = at.map_or(0, |at| at + 1) + domain.len();
        let len = slash + resource.as_ref().map_or(0, |r| r.len() + 1);
        let is_changed = [local.as_ref(), Some(&domain), resource.as_ref()]
            .into_iter()
            .flatten()
            .any(|part| matches!(part, Cow::Owned(_)));
        let text: Arc<str> = match whole {
            Some(whole) if !is_changed && whole.len() == len => whole.into(),
            _ => {
                let mut text = String::with_capacity(len);
                if let Some(local) = &local {
                    text.push_str(local);
                    text.push('@');
                }
                text.push_str(&domain);
                if let Some(resource) = &resource {
                    text.push('/');
                    text.push_str(resource);
                }
                text.into()
            }
        };
        Ok(Self {
            text,
            at: at.map_or(NO_LOCAL, offset),
            slash: offset(slash),
        })
    }

    /// The localpart.
    #[must_use]
    pub fn local(&self) -> Option<&str> {
        (self.at != NO_LOCAL).then(|| &self.text[..usize::from(self.at)])
    }

    /// The domainpart.
    #[must_use]
    pub fn domain(&self) -> &str {
        let start = if self.at == NO_LOCAL {
            0
        } else {
            usize::from(self.at) + 1
        };
        &self.text[start..usize::from(self.slash)]
    }

    /// The resourcepart.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.text.get(usize::from(self.slash) + 1..)
    }

    /// The address without its resourcepart; a clone where there is none.
    #[must_use]
    pub fn bare(&self) -> Self {
        if self.is_bare() {
            return self.clone();
        }
        Self {
            text: self.bare_str().into(),
            at: self.at,
            slash: self.slash,
        }
    }

    /// The address of the domain alone; a clone where there is nothing else.
    #[must_use]
    pub fn domain_jid(&self) -> Self {
        if self.is_domain() {
            return self.clone();
        }
        let text: Arc<str> = self.domain().into();
        let slash = offset(text.len());
        Self {
            text,
            at: NO_LOCAL,
            slash,
        }
    }

    /// The text of the address without its resourcepart.
    #[must_use]
    pub fn bare_str(&self) -> &str {
        &self.text[..usize::from(self.slash)]
    }

    /// The whole prepared text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether there is no resourcepart.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        usize::from(self.slash) == self.text.len()
    }

    /// Whether there is neither a localpart nor a resourcepart.
    #[must_use]
    pub fn is_domain(&self) -> bool {
        self.at == NO_LOCAL && self.is_bare()
    }

    /// The same account with another resourcepart, which still needs preparation.
    ///
    /// # Errors
    /// [`JidError::Resource`].
    pub fn with_resource(&self, resource: &str) -> Result<Self, JidError> {
        let resource = resource_part(resource)?;
        let bare = self.bare_str();
        let mut text = String::with_capacity(bare.len() + 1 + resource.len());
        text.push_str(bare);
        text.push('/');
        text.push_str(&resource);
        Ok(Self {
            text: text.into(),
            at: self.at,
            slash: self.slash,
        })
    }
}

/// A place in the text of an address, which is at most `3 * 1023 + 2` bytes long.
fn offset(place: usize) -> u16 {
    debug_assert!(place <= 3 * MAX_PART_BYTES + 2);
    u16::try_from(place).unwrap_or(NO_LOCAL)
}

impl PartialEq for Jid {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.text, &other.text) || self.text == other.text
    }
}

impl Eq for Jid {}

impl PartialEq<str> for Jid {
    fn eq(&self, other: &str) -> bool {
        &*self.text == other
    }
}

impl PartialEq<&str> for Jid {
    fn eq(&self, other: &&str) -> bool {
        &*self.text == *other
    }
}

impl PartialOrd for Jid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Jid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Jid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Borrow<str> for Jid {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for Jid {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jid({})", self.text)
    }
}

impl std::str::FromStr for Jid {
    type Err = JidError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

/// Prepares the user name of an account, which is the localpart of its address: the
/// `UsernameCaseMapped` profile (RFC 8265 §3.3) without the characters of RFC 7622 §3.3.1.
///
/// # Errors
/// [`PrecisError`]; at most 1023 bytes.
pub fn prepare_username(text: &str) -> Result<String, PrecisError> {
    username(text).map(Cow::into_owned)
}

/// Prepares a password, or any other text of the `OpaqueString` profile (RFC 8265 §4.2): case is
/// kept, every kind of space becomes U+0020, an empty text is refused.
///
/// # Errors
/// [`PrecisError`]; at most 4092 bytes.
pub fn prepare_opaque(text: &str) -> Result<String, PrecisError> {
    opaque(text).map(Cow::into_owned)
}

fn local_part(text: &str) -> Result<Cow<'_, str>, JidError> {
    username(text).map_err(|_| JidError::Local)
}

fn resource_part(text: &str) -> Result<Cow<'_, str>, JidError> {
    // RFC 7622 §3.5 lists a leading space as an error (example 18); erratum 4560 takes it back.
    match opaque(text) {
        Ok(resource) if resource.len() <= MAX_PART_BYTES => Ok(resource),
        _ => Err(JidError::Resource),
    }
}

fn username(text: &str) -> Result<Cow<'_, str>, PrecisError> {
    if text.is_empty() {
        return Err(PrecisError::Empty);
    }
    let is_canonical = |byte: u8| byte < 0x80 && is_local_byte(byte) && !byte.is_ascii_uppercase();
    if text.len() <= MAX_PART_BYTES && text.bytes().all(is_canonical) {
        return Ok(Cow::Borrowed(text));
    }
    let prepared = if text.is_ascii() {
        if text.len() > MAX_PART_BYTES {
            return Err(PrecisError::TooLong);
        }
        lower_ascii(text)
    } else {
        until_stable(text, enforce_username)?
    };
    if prepared.len() > MAX_PART_BYTES {
        return Err(PrecisError::TooLong);
    }
    // Checked on the outcome: a full-width `＠` is an `@` only now.
    if prepared.bytes().all(is_local_byte) {
        Ok(prepared)
    } else {
        Err(PrecisError::Disallowed)
    }
}

fn opaque(text: &str) -> Result<Cow<'_, str>, PrecisError> {
    if text.is_empty() {
        return Err(PrecisError::Empty);
    }
    if text.len() > MAX_INPUT_BYTES {
        return Err(PrecisError::TooLong);
    }
    // Of ASCII the profile refuses the controls only.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        Ok(Cow::Borrowed(text))
    } else if text.is_ascii() {
        Err(PrecisError::Disallowed)
    } else {
        until_stable(text, enforce_opaque)
    }
}

/// Whether a byte of a prepared localpart is none of those that RFC 7622 §3.3.1 excludes, no
/// space and no control. Bytes above ASCII have been judged by the profile.
fn is_local_byte(byte: u8) -> bool {
    match byte {
        b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@' => false,
        b'!'..=b'~' => true,
        _ => byte >= 0x80,
    }
}

fn lower_ascii(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// Applies a profile until its outcome stays the same, up to three times more, as RFC 8264 §7
/// asks: an address that changes when it is parsed again would not be equal to itself.
fn until_stable(
    text: &str,
    enforce: fn(&str) -> Result<String, PrecisError>,
) -> Result<Cow<'_, str>, PrecisError> {
    if text.len() > MAX_INPUT_BYTES {
        return Err(PrecisError::TooLong);
    }
    let mut last = Cow::Borrowed(text);
    for _ in 0..4 {
        let next = enforce(&last)?;
        if next == *last {
            return Ok(last);
        }
        last = Cow::Owned(next);
    }
    Err(PrecisError::Disallowed)
}

/// `UsernameCaseMapped`, rule by rule. The class is asked before the normal form is made, as
/// RFC 8265 §3.3.2 says, so that an Ohm sign is refused and not turned into an omega.
fn enforce_username(text: &str) -> Result<String, PrecisError> {
    let profile = UsernameCaseMapped::new();
    let enforce = || {
        let text = profile.width_mapping_rule(text)?;
        Current(IdentifierClass::default()).allows(&text)?;
        let text = profile.case_mapping_rule(text)?;
        let text = profile.normalization_rule(text)?;
        profile.directionality_rule(text)
    };
    not_empty(enforce())
}

/// `OpaqueString` (RFC 8265 §4.2.2), rule by rule.
fn enforce_opaque(text: &str) -> Result<String, PrecisError> {
    let profile = OpaqueString::new();
    let enforce = || {
        Current(FreeformClass::default()).allows(text)?;
        let text = profile.additional_mapping_rule(text)?;
        profile.normalization_rule(text)
    };
    not_empty(enforce())
}

fn not_empty(outcome: Result<Cow<'_, str>, precis_core::Error>) -> Result<String, PrecisError> {
    match outcome {
        Ok(text) if text.is_empty() => Err(PrecisError::Empty),
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(PrecisError::Disallowed),
    }
}

/// A PRECIS string class that also knows the characters of today's Unicode.
///
/// The class underneath follows the IANA table, which ends with Unicode 6.3 (2013): without this,
/// a nickname with a newer emoji would be no resourcepart. RFC 8264 §8 derives the property of a
/// code point from the Unicode version at hand; this does the same for those that the table takes
/// for unassigned. None of them is an exception, a join control or an old Hangul letter.
struct Current<C>(C);

impl<C: StringClass> StringClass for Current<C> {
    fn get_value_from_char(&self, c: char) -> DerivedPropertyValue {
        match self.0.get_value_from_char(c) {
            DerivedPropertyValue::Unassigned => self.newer(c),
            value => value,
        }
    }

    fn get_value_from_codepoint(&self, cp: u32) -> DerivedPropertyValue {
        match char::from_u32(cp) {
            Some(c) => self.get_value_from_char(c),
            None => DerivedPropertyValue::Disallowed,
        }
    }
}

impl<C: StringClass> Current<C> {
    /// RFC 8264 §8 for a code point that was assigned after Unicode 6.3.
    fn newer(&self, c: char) -> DerivedPropertyValue {
        use GeneralCategory as G;
        // What this class says to a compatibility character, a symbol and so on is the same for
        // all of them (RFC 8264 §4.2.1 and §4.3.1), so any old one can be asked: U+2460 ①.
        let by_class = || self.0.get_value_from_char('\u{2460}');
        // U+180F is the one newer Default_Ignorable_Code_Point with a letter's category.
        if c == '\u{180F}' {
            return DerivedPropertyValue::Disallowed;
        }
        let category = c.general_category();
        if category == G::Unassigned {
            return DerivedPropertyValue::Unassigned;
        }
        if !unicode_normalization::is_nfkc(c.encode_utf8(&mut [0; 4])) {
            return by_class();
        }
        match category {
            G::LowercaseLetter
            | G::UppercaseLetter
            | G::OtherLetter
            | G::DecimalNumber
            | G::ModifierLetter
            | G::NonspacingMark
            | G::SpacingMark => DerivedPropertyValue::PValid,
            G::TitlecaseLetter
            | G::LetterNumber
            | G::OtherNumber
            | G::EnclosingMark
            | G::SpaceSeparator
            | G::MathSymbol
            | G::CurrencySymbol
            | G::ModifierSymbol
            | G::OtherSymbol
            | G::ConnectorPunctuation
            | G::DashPunctuation
            | G::OpenPunctuation
            | G::ClosePunctuation
            | G::InitialPunctuation
            | G::FinalPunctuation
            | G::OtherPunctuation => by_class(),
            _ => DerivedPropertyValue::Disallowed,
        }
    }
}

/// Prepares a domainpart (RFC 7622 §3.2): a domain name of LDH labels and U-labels in lower case,
/// an IPv4 address, or an IPv6 address in brackets. A-labels become U-labels, one final dot goes.
fn domain_part(text: &str) -> Result<Cow<'_, str>, JidError> {
    if text.is_empty() || text.len() > MAX_INPUT_BYTES {
        return Err(JidError::Domain);
    }
    if text.len() <= MAX_PART_BYTES && is_plain_domain(text.as_bytes()) {
        return Ok(Cow::Borrowed(text));
    }
    if text.starts_with('[') {
        return ip_literal(text).map(Cow::Owned).ok_or(JidError::Domain);
    }
    let prepared = if text.is_ascii() && !has_a_label(text) {
        let text = text.strip_suffix('.').unwrap_or(text);
        if !text.split('.').all(is_ldh_label) {
            return Err(JidError::Domain);
        }
        lower_ascii(text)
    } else {
        Cow::Owned(international_domain(text).ok_or(JidError::Domain)?)
    };
    if prepared.len() > MAX_PART_BYTES {
        return Err(JidError::Domain);
    }
    Ok(prepared)
}

/// Whether this is a canonical domain name at first sight: lower case, digits, dots and hyphens,
/// none of the latter where it could have a meaning. `false` means that it takes a closer look.
fn is_plain_domain(bytes: &[u8]) -> bool {
    let mut label_bytes = 0;
    let mut last = b'.';
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => label_bytes += 1,
            b'-' if label_bytes != 0 && label_bytes != 3 => label_bytes += 1,
            b'.' if label_bytes != 0 && last != b'-' => label_bytes = 0,
            _ => return false,
        }
        if label_bytes > MAX_LABEL_BYTES {
            return false;
        }
        last = byte;
    }
    label_bytes != 0 && last != b'-'
}

fn has_a_label(ascii: &str) -> bool {
    ascii.split('.').any(|label| {
        label
            .get(..4)
            .is_some_and(|p| p.eq_ignore_ascii_case("xn--"))
    })
}

/// A label of ASCII letters, digits and inner hyphens that claims no special meaning with two
/// hyphens in the third and fourth place (NR-LDH label, RFC 5890 §2.3.1).
fn is_ldh_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= MAX_LABEL_BYTES
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
        && bytes.get(2..4) != Some(b"--")
}

/// Case, width and normal form by UTS #46 without its transitional mappings, which would join
/// what IDNA2008 keeps apart (`ß`, final sigma); then each label is judged by the derivation that
/// IDNA2008 and the PRECIS IdentifierClass share (RFC 5892 §3, RFC 8264 §8), since UTS #46 lets
/// symbols pass. Only the blocks of RFC 5892 §2.4 have no counterpart there.
fn international_domain(text: &str) -> Option<String> {
    use idna::uts46::{AsciiDenyList, Hyphens, Uts46};
    let (name, outcome) =
        Uts46::new().to_unicode(text.as_bytes(), AsciiDenyList::STD3, Hyphens::Check);
    outcome.ok()?;
    // Only now: UTS #46 has turned the ideographic full stops into dots.
    let name = name.strip_suffix('.').unwrap_or(&name);
    let is_valid = name.split('.').all(|label| {
        if label.is_ascii() {
            return is_ldh_label(label);
        }
        let ascii_bytes = idna::punycode::encode_str(label).map_or(usize::MAX, |p| p.len());
        ascii_bytes <= MAX_LABEL_BYTES - "xn--".len()
            && !label.contains(is_in_ignorable_block)
            && Current(IdentifierClass::default()).allows(label).is_ok()
    });
    is_valid.then(|| name.to_owned())
}

/// IgnorableBlocks (RFC 5892 §2.4): marks for symbols, musical notation.
fn is_in_ignorable_block(c: char) -> bool {
    matches!(c, '\u{20D0}'..='\u{20FF}' | '\u{1D100}'..='\u{1D24F}')
}

/// An IPv6 literal in its one canonical spelling (RFC 5952), so that equal addresses are equal.
fn ip_literal(text: &str) -> Option<String> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let address: core::net::Ipv6Addr = inner.parse().ok()?;
    Some(format!("[{address}]"))
}

#[cfg(test)]
mod tests;
