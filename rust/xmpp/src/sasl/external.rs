//! EXTERNAL (RFC 4422 appendix A) with client certificates (XEP-0178 §2
//! "Client-to-Server Recommendation").

use super::exchange::Claim;
use super::{Failure, Query};
use crate::jid::Jid;

/// Picks the account among the addresses of the verified certificate.
///
/// Without an authorization identity the certificate must name exactly one account of this host;
/// with one it must name that account. `=` is what XMPP writes for an empty one, and is understood
/// decoded or not.
pub(super) fn read(message: &[u8], host: &Jid, certificate: &[String]) -> Claim {
    let authzid = std::str::from_utf8(message).map_err(|_| Failure::MalformedRequest)?;
    if authzid.contains('\0') {
        return Err(Failure::MalformedRequest);
    }
    let mut accounts: Vec<Jid> = certificate
        .iter()
        .filter_map(|address| Jid::parse(address).ok())
        .filter(|jid| jid.is_bare() && jid.local().is_some() && jid.domain() == host.domain())
        .collect();
    accounts.sort_unstable();
    accounts.dedup();

    let account = if matches!(authzid, "" | "=") {
        match accounts.as_slice() {
            [account] => account.clone(),
            [] => return Err(Failure::NotAuthorized),
            _ => return Err(Failure::InvalidAuthzid),
        }
    } else {
        Jid::parse(authzid)
            .ok()
            .filter(|wanted| accounts.contains(wanted))
            .ok_or(Failure::InvalidAuthzid)?
    };
    Ok((account.clone(), Query::Account(account)))
}
