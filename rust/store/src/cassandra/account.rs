//! Accounts: the one place with lightweight transactions, since a name must be given only once.
//!
//! The account's row in `entity` decides; the row in `account_index` is written before it is made
//! and removed after it is gone, so that no account is missing from the listings, whenever a node
//! dies. What is in doubt there is looked up when it is listed.

use super::engine::Engine;
use super::error::Failure;
use super::gate::Pass;
use super::owners::Known;
use super::purge;
use super::query::{self, Account};
use super::servers::{ConditionAttempts, Row, Servers};
use super::{bucket, to_cql};
use antiphon_routing::store::{StoreError, Write};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Credentials, ScramHash};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use tokio::time::Instant;
use uuid::Uuid;

/// Keys as the column holds them, by the name of the hash.
type Scram<'a> = BTreeMap<&'a str, (i32, &'a [u8], &'a [u8], &'a [u8])>;

/// Carries out a change of an account.
///
/// # Errors
/// `Exists`, `NoAccount`, or the engine's.
pub(super) async fn change(
    engine: &Engine,
    deadline: Instant,
    write: &Write,
    known: &mut Known,
) -> Result<(), StoreError> {
    let servers = &engine.servers;
    // A domain is no account.
    let Some(local) = write.owner().local() else {
        return Err(StoreError::NoAccount);
    };
    let change = Change {
        servers,
        deadline,
        jid: write.owner(),
        local,
    };
    let is_new = match write {
        Write::AccountCreate { credentials, .. } => {
            change.create(credentials, (engine.clock)()).await?
        }
        Write::AccountUpdate { credentials, .. } => {
            if !change.update(credentials).await? {
                return Err(StoreError::NoAccount);
            }
            known.exists = true;
            return Ok(());
        }
        Write::AccountPut { credentials, .. } => change.put(credentials, (engine.clock)()).await?,
        _ => {
            *known = Known::default();
            engine.owners.deleted();
            let slot = engine.archives.slot(write.owner().bare_str());
            let mut archive = slot.state.lock().await;
            (*archive, _) = (None, slot.forget());
            let outcome = change.delete().await;
            drop(archive);
            engine.owners.deleted();
            outcome?;
            engine.counted.changed(write.owner().domain(), -1);
            return Ok(());
        }
    };
    known.exists = true;
    if is_new {
        engine.counted.changed(write.owner().domain(), 1);
    }
    Ok(())
}

struct Change<'a> {
    servers: &'a Servers,
    deadline: Instant,
    jid: &'a Jid,
    local: &'a str,
}

impl Change<'_> {
    fn owner(&self) -> &str {
        self.jid.bare_str()
    }

    async fn look(&self) -> Result<Option<Account>, Failure> {
        query::account(self.servers, self.deadline, self.owner()).await
    }

    /// `true`: made.
    async fn create(&self, credentials: &Credentials, now_ms: u64) -> Result<bool, StoreError> {
        let creation = new_creation(self.servers.clock.next());
        self.index_mark().await?;
        let mut attempts = ConditionAttempts::new(self.deadline);
        loop {
            let values = (
                creation,
                to_cql(now_ms),
                credentials.is_enabled,
                scram(credentials),
                self.owner(),
            );
            let statement = &self.servers.statements.account_create;
            match self
                .servers
                .condition(&mut attempts, statement, values)
                .await?
            {
                Some(true) => break,
                // Also when an earlier attempt of ours was applied and its answer lost.
                Some(false) | None => match self.look().await? {
                    Some(account) if account.creation == creation => break,
                    Some(_) => return Err(StoreError::Exists),
                    None => {}
                },
            }
        }
        self.index_put(now_ms, credentials.is_enabled).await?;
        Ok(true)
    }

    /// `false`: there is no such account.
    async fn update(&self, credentials: &Credentials) -> Result<bool, StoreError> {
        let mut attempts = ConditionAttempts::new(self.deadline);
        loop {
            let Some(account) = self.look().await? else {
                return Ok(false);
            };
            let values = (
                credentials.is_enabled,
                scram(credentials),
                self.owner(),
                account.creation,
            );
            let statement = &self.servers.statements.account_update;
            // Repeating it does no harm.
            if self
                .servers
                .condition(&mut attempts, statement, values)
                .await?
                == Some(true)
            {
                self.index_put(account.created_ms, credentials.is_enabled)
                    .await?;
                return Ok(true);
            }
        }
    }

    /// `true`: made; `false`: updated.
    async fn put(&self, credentials: &Credentials, now_ms: u64) -> Result<bool, StoreError> {
        loop {
            if self.update(credentials).await? {
                return Ok(false);
            }
            match self.create(credentials, now_ms).await {
                // Somebody was quicker.
                Err(StoreError::Exists) => {}
                outcome => return outcome,
            }
        }
    }

    /// The account's row goes last: what fails on the way can be asked for again.
    async fn delete(&self) -> Result<(), StoreError> {
        let Some(account) = self.look().await? else {
            return Err(StoreError::NoAccount);
        };
        self.index_doubt().await?;
        purge::delete_all(self.servers, self.deadline, self.owner()).await?;
        self.purge().await?;
        let mut attempts = ConditionAttempts::new(self.deadline);
        loop {
            let statement = &self.servers.statements.account_delete;
            let values = (self.owner(), account.creation);
            let applied = self
                .servers
                .condition(&mut attempts, statement, values)
                .await?;
            if applied == Some(true) {
                break;
            }
            match self.look().await? {
                Some(other) if other.creation == account.creation => {}
                // An earlier attempt was applied. An account made since is another's.
                _ => break,
            }
        }
        let key = self.index_key();
        let values = (self.now(), key.0, key.1, key.2);
        self.one(&self.servers.statements.index_delete, values)
            .await?;
        Ok(())
    }

    /// Everything of the owner but the account's row, as one mutation: all tables have the same
    /// partition key.
    async fn purge(&self) -> Result<(), Failure> {
        let statements = &self.servers.statements;
        let at = [
            &statements.purge_entity,
            &statements.purge_offline,
            &statements.purge_map,
        ];
        let rows =
            at.map(|statement| Row::new(statement, (self.now(), self.owner()), self.owner().len()));
        self.servers.write(self.deadline, Pass::Free, &rows).await
    }

    fn now(&self) -> i64 {
        self.servers.clock.next()
    }

    fn index_key(&self) -> (&str, i16, &str) {
        (self.jid.domain(), bucket(self.local), self.local)
    }

    async fn index_mark(&self) -> Result<(), Failure> {
        let key = self.index_key();
        let values = (key.0, key.1, key.2, self.now());
        self.one(&self.servers.statements.index_mark, values).await
    }

    async fn index_put(&self, created_ms: u64, is_enabled: bool) -> Result<(), Failure> {
        let key = self.index_key();
        let created_ms = to_cql(created_ms);
        let values = (key.0, key.1, key.2, created_ms, is_enabled, self.now());
        self.one(&self.servers.statements.index_put, values).await
    }

    async fn index_doubt(&self) -> Result<(), Failure> {
        let key = self.index_key();
        let values = (self.now(), key.0, key.1, key.2);
        self.one(&self.servers.statements.index_doubt, values).await
    }

    async fn one(
        &self,
        statement: &scylla::statement::prepared::PreparedStatement,
        values: impl scylla::serialize::row::SerializeRow + Send + Sync,
    ) -> Result<(), Failure> {
        let row = Row::new(statement, values, 0);
        self.servers.write(self.deadline, Pass::Free, &[row]).await
    }
}

/// Names one making of an account; no two are the same.
fn new_creation(timestamp: i64) -> Uuid {
    let random = RandomState::new().hash_one(timestamp);
    Uuid::from_u64_pair(timestamp.unsigned_abs(), random)
}

fn scram(credentials: &Credentials) -> Scram<'_> {
    // At most one set a hash: of two, the later one counts.
    let keys = credentials.keys.iter().map(|keys| {
        let rounds = i32::try_from(keys.iterations).unwrap_or(i32::MAX);
        let secrets = (rounds, &*keys.salt, &*keys.stored_key, &*keys.server_key);
        (hash_name(keys.hash), secrets)
    });
    keys.collect()
}

/// How the column names a hash.
pub(super) fn hash_name(hash: ScramHash) -> &'static str {
    match hash {
        ScramHash::Sha1 => "SHA-1",
        ScramHash::Sha256 => "SHA-256",
        ScramHash::Sha512 => "SHA-512",
    }
}
