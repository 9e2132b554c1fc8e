//! The key of the archives' ids: made once, the same for all nodes and for ever.

use crate::live::{ConfigError, Live};
use antiphon_routing::store::{MapKind, Store, StoreError, Write};
use antiphon_xmpp::Jid;
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where it is kept: among the features' values of a domain.
const KEY: &str = "archive:id-key";

fn failed(error: &StoreError) -> ConfigError {
    ConfigError::Document(format!("the key of the archives cannot be read: {error}"))
}

async fn read(store: &Arc<dyn Store>, domain: &Jid) -> Result<Option<u64>, ConfigError> {
    let found = store.map_get(domain, MapKind::Feature, KEY).await;
    let found = found.map_err(|error| failed(&error))?;
    Ok(found.and_then(|bytes| <[u8; 8]>::try_from(&*bytes).ok().map(u64::from_be_bytes)))
}

async fn write(store: &Arc<dyn Store>, domain: &Jid, key: u64) -> Result<(), ConfigError> {
    let (done, receiver) = oneshot::channel();
    let write = Write::MapPut {
        owner: domain.clone(),
        kind: MapKind::Feature,
        key: KEY.to_owned(),
        value: key.to_be_bytes().into(),
    };
    let report = move |result| {
        // Whoever started the node may have given up.
        let _ = done.send(result);
    };
    store.write(write, Box::new(report));
    let result = receiver.await.unwrap_or(Err(StoreError::Closed));
    result.map_err(|error| failed(&error))
}

/// Reads the key, or makes it. It is looked for at every domain and kept at the first, so that it
/// stays when domains come and go.
///
/// # Errors
/// [`ConfigError`]: the store does not answer.
pub(crate) async fn archive_key(store: &Arc<dyn Store>, live: &Live) -> Result<u64, ConfigError> {
    let domains = live.policy.domains.iter();
    let domains: Vec<Jid> = domains.filter_map(|d| Jid::parse(d).ok()).collect();
    let mut found = None;
    for (at, domain) in domains.iter().enumerate() {
        found = read(store, domain).await?;
        if let Some(key) = found {
            if at == 0 {
                return Ok(key);
            }
            break;
        }
    }
    let key = match found {
        Some(key) => key,
        None => {
            let mut bytes = [0; 8];
            let made = SystemRandom::new().fill(&mut bytes);
            made.map_err(|_| std::io::Error::other("the system has no randomness"))?;
            u64::from_be_bytes(bytes)
        }
    };
    let Some(first) = domains.first() else {
        return Ok(key);
    };
    let value = key.to_be_bytes().into();
    match store.map_claim(first, MapKind::Feature, KEY, value) {
        Some(claiming) => claiming.await.map_err(|error| failed(&error))?,
        None => write(store, first, key).await?,
    }
    // Another node may have made one at the same time: there is one that counts.
    Ok(read(store, first).await?.unwrap_or(key))
}
