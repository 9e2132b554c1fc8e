//! PLAIN (RFC 4616). Whether it may be used at all is settled by [`super::offered`].

use super::exchange::{Claim, account_of, check_authzid};
use super::{Failure, Query};
use crate::jid::{Jid, prepare_opaque};

/// Reads `[authzid] NUL authcid NUL passwd` (RFC 4616 §2).
pub(super) fn read(message: &[u8], host: &Jid) -> Claim {
    let message = std::str::from_utf8(message).map_err(|_| Failure::MalformedRequest)?;
    let mut parts = message.split('\0');
    let (Some(authzid), Some(name), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Failure::MalformedRequest);
    };
    if name.is_empty() || password.is_empty() {
        return Err(Failure::MalformedRequest);
    }
    let account = account_of(name, host)?;
    if !authzid.is_empty() {
        check_authzid(authzid, &account)?;
    }
    // No stored password contains what cannot be prepared.
    let password = prepare_opaque(password).map_err(|_| Failure::NotAuthorized)?;
    let query = Query::Password {
        account: account.clone(),
        password,
    };
    Ok((account, query))
}
