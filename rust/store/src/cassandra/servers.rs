//! Requests to the servers, repeated until they succeed, fail for good or have waited too long.
//!
//! Every write brings its own timestamps, so repeating one whose outcome is unknown (XEP-0198 knows
//! no third state either) changes nothing.

use super::clock::Clock;
use super::error::{Failure, Verdict, one_line, verdict};
use super::gate::{Gatekeeper, Leave, Pass};
use super::group::{Alone, Group, Turn};
use super::health::Health;
use super::statements::Statements;
use parking_lot::Mutex;
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryRowsResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Delay before the second attempt; doubles.
const FIRST_DELAY: Duration = Duration::from_millis(30);

/// Longest delay while others' requests succeed.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// Further delay while nobody's does; ends when one succeeds.
const OUTAGE_DELAY: Duration = Duration::from_secs(3);

/// Attempts after which a request that may itself be at fault is given up.
const DOUBTFUL_ATTEMPTS: u32 = 6;

/// A request that has failed for this long, while others succeed, is reported.
const STUCK: Duration = Duration::from_secs(5);

/// When one asks again who is told to wait, first and at the latest: many may wait.
const ASK_AGAIN: Duration = Duration::from_millis(20);
const ASK_LATEST: Duration = Duration::from_millis(300);

/// The values of a statement, as they go to the servers: each a length and its bytes.
#[derive(Debug, Clone)]
pub(super) struct Cells(Result<Vec<u8>, SerializationError>);

impl Cells {
    fn new(statement: &PreparedStatement, values: &impl SerializeRow, bytes: usize) -> Self {
        let columns = statement.get_variable_col_specs();
        let context = RowSerializationContext::from_specs(columns.as_slice());
        let mut cells = Vec::with_capacity(bytes);
        let written = values.serialize(&context, &mut RowWriter::new(&mut cells));
        Self(written.map(|()| cells))
    }
}

impl SerializeRow for Cells {
    fn serialize(
        &self,
        _: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        let mut rest = self.0.as_ref().map_err(Clone::clone)?.as_slice();
        while let Some((length, after)) = rest.split_first_chunk() {
            let cell = writer.make_cell_writer();
            // What is negative is no length (CQL protocol v4 §3, [value]).
            match i32::from_be_bytes(*length) {
                -2 => drop(cell.set_unset()),
                length => match usize::try_from(length)
                    .ok()
                    .and_then(|n| after.split_at_checked(n))
                {
                    Some((value, after)) => {
                        cell.set_value(value).map_err(SerializationError::new)?;
                        rest = after;
                        continue;
                    }
                    None => drop(cell.set_null()),
                },
            }
            rest = after;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.as_ref().is_ok_and(Vec::is_empty)
    }
}

/// One changed row: a statement of [`Statements`] marked as a write, its timestamp among the values.
pub(super) struct Row<'a> {
    statement: &'a PreparedStatement,
    cells: Cells,
    /// About how large it is on the wire.
    pub(super) bytes: usize,
}

impl<'a> Row<'a> {
    pub(super) fn new(
        statement: &'a PreparedStatement,
        values: impl SerializeRow,
        bytes: usize,
    ) -> Self {
        // Names, numbers and the framing of each.
        let bytes = bytes + 64;
        Self {
            statement,
            cells: Cells::new(statement, &values, bytes),
            bytes,
        }
    }

    /// The same, to be kept.
    pub(super) fn owned(&self) -> (PreparedStatement, Cells) {
        (self.statement.clone(), self.cells.clone())
    }
}

/// The session and all that its requests share.
#[derive(Debug)]
pub(super) struct Servers {
    session: Arc<Session>,
    group: Arc<Group>,
    pub(super) statements: Statements,
    pub(super) clock: Clock,
    pub(super) health: Health,
    pub(super) gate: Gatekeeper,
    /// Requests on their way at a time.
    permits: Semaphore,
    recovered: Notify,
    /// When nothing waits any longer, whatever it was promised.
    closing: Mutex<Option<Instant>>,
}

/// How long a request is repeated, and how often it was.
struct Attempts {
    begin: Instant,
    deadline: Instant,
    number: u32,
}

impl Servers {
    pub(super) fn new(
        session: Session,
        statements: Statements,
        health: Health,
        in_flight: usize,
    ) -> Self {
        let session = Arc::new(session);
        Self {
            group: Group::new(Arc::clone(&session)),
            session,
            statements,
            clock: Clock::default(),
            health,
            gate: Gatekeeper::default(),
            permits: Semaphore::new(in_flight.max(1)),
            recovered: Notify::new(),
            closing: Mutex::default(),
        }
    }

    /// From now on requests are repeated until this moment at most.
    pub(super) fn close_by(&self, deadline: Instant) {
        self.closing.lock().get_or_insert(deadline);
        self.recovered.notify_waiters();
    }

    /// Writes rows of one partition, all or none of them.
    pub(super) async fn write(
        &self,
        deadline: Instant,
        pass: Pass<'_>,
        rows: &[Row<'_>],
    ) -> Result<(), Failure> {
        if rows.is_empty() {
            return Ok(());
        }
        self.may_send(deadline, pass).await?;
        self.gate.sends(pass);
        // While requests fail, each has its own attempts.
        let turn = if self.health.is_failing() {
            None
        } else {
            self.group.enter(rows)
        };
        let place = match turn {
            Some(Turn::Together(done)) => {
                if done.await.unwrap_or(false) {
                    self.succeeded();
                    return Ok(());
                }
                None
            }
            Some(Turn::Alone(place)) => Some(place),
            None => None,
        };
        self.write_alone(deadline, rows, place).await
    }

    /// Waits until rows that have their timestamps may be sent.
    ///
    /// # Errors
    /// They may not.
    async fn may_send(&self, deadline: Instant, pass: Pass<'_>) -> Result<(), Failure> {
        let mut delay = ASK_AGAIN;
        loop {
            match self.gate.leave(pass) {
                Leave::Yes(_) | Leave::Doubted(_) => return Ok(()),
                Leave::No => return Err(Failure::Away),
                Leave::Wait(_) => {}
            }
            let closing = *self.closing.lock();
            if Instant::now() >= closing.map_or(deadline, |at| at.min(deadline)) {
                return Err(Failure::Away);
            }
            sleep(spread(delay)).await;
            delay = (delay * 2).min(ASK_LATEST);
        }
    }

    async fn write_alone(
        &self,
        deadline: Instant,
        rows: &[Row<'_>],
        mut place: Option<Alone>,
    ) -> Result<(), Failure> {
        let statements = rows
            .iter()
            .map(|row| BatchStatement::PreparedStatement(row.statement.clone()));
        // Of one partition, a batch is one mutation: no batch log, and none of it without the rest.
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements.collect());
        batch.set_is_idempotent(true);
        let cells: Vec<&Cells> = rows.iter().map(|row| &row.cells).collect();
        let mut attempts = Attempts::new(deadline);
        loop {
            let permit = self.permit(&attempts).await?;
            let outcome = self.session.batch(&batch, &cells).await;
            drop(permit);
            let place = place.take();
            match outcome {
                Ok(_) => {
                    self.succeeded();
                    return Ok(());
                }
                Err(error) => {
                    if let Some(place) = place {
                        place.failed();
                    }
                    self.pause(&mut attempts, &error).await?;
                }
            }
        }
    }

    /// One page of an answer.
    async fn page(
        &self,
        deadline: Instant,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        page: PagingState,
    ) -> Result<(Option<QueryRowsResult>, PagingStateResponse), Failure> {
        let mut attempts = Attempts::new(deadline);
        loop {
            let permit = self.permit(&attempts).await?;
            let outcome = self
                .session
                .execute_single_page(statement, &values, page.clone())
                .await;
            drop(permit);
            match outcome {
                Ok((result, next)) => {
                    self.succeeded();
                    let rows = if result.is_rows() {
                        Some(result.into_rows_result().map_err(Failure::answer)?)
                    } else {
                        None
                    };
                    return Ok((rows, next));
                }
                Err(error) => self.pause(&mut attempts, &error).await?,
            }
        }
    }

    /// The rows of an answer that fits one page.
    pub(super) async fn rows(
        &self,
        deadline: Instant,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryRowsResult, Failure> {
        let start = PagingState::start();
        let (rows, _) = self.page(deadline, statement, values, start).await?;
        rows.ok_or_else(|| Failure::answer("no rows where some were asked for"))
    }

    /// All pages of an answer, as long as `take` wants more.
    pub(super) async fn pages(
        &self,
        deadline: Instant,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        mut take: impl FnMut(&QueryRowsResult) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let mut page = PagingState::start();
        loop {
            let (rows, next) = self.page(deadline, statement, &values, page).await?;
            if let Some(rows) = rows
                && take(&rows)?.is_break()
            {
                return Ok(());
            }
            match next.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue(next) => page = next,
            }
        }
    }

    /// One attempt at a lightweight transaction: whether it was applied. `None`: its outcome is
    /// unknown, and the caller must look before it tries again.
    pub(super) async fn condition(
        &self,
        attempts: &mut ConditionAttempts,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<bool>, Failure> {
        let permit = self.permit(&attempts.0).await?;
        let outcome = self.session.execute_unpaged(statement, &values).await;
        drop(permit);
        match outcome {
            Ok(result) => {
                self.succeeded();
                let rows = result.into_rows_result().map_err(Failure::answer)?;
                let row: scylla::value::Row = rows.first_row().map_err(Failure::answer)?;
                let first = row.columns.into_iter().next().flatten();
                match first.and_then(|value| value.as_boolean()) {
                    Some(is_applied) => Ok(Some(is_applied)),
                    None => Err(Failure::answer("a condition without an outcome")),
                }
            }
            Err(error) => {
                self.pause(&mut attempts.0, &error).await?;
                Ok(None)
            }
        }
    }

    async fn permit(
        &self,
        attempts: &Attempts,
    ) -> Result<Option<tokio::sync::SemaphorePermit<'_>>, Failure> {
        // The semaphore is never closed; without a permit the bound is lost, not the request.
        match timeout_at(self.deadline(attempts), self.permits.acquire()).await {
            Ok(permit) => Ok(permit.ok()),
            // The first attempt is always made.
            Err(_) if attempts.number == 0 => Ok(None),
            Err(_) => Err(Failure::Away),
        }
    }

    fn deadline(&self, attempts: &Attempts) -> Instant {
        let closing = *self.closing.lock();
        closing.map_or(attempts.deadline, |at| at.min(attempts.deadline))
    }

    fn succeeded(&self) {
        if self.health.succeeded() {
            self.recovered.notify_waiters();
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// There should be none.
    async fn pause(&self, attempts: &mut Attempts, error: &ExecutionError) -> Result<(), Failure> {
        attempts.number += 1;
        match verdict(error) {
            Verdict::Refused => return Err(Failure::Engine(one_line(error))),
            Verdict::TooLarge => return Err(Failure::TooLarge),
            Verdict::Doubtful if attempts.number >= DOUBTFUL_ATTEMPTS => {
                return Err(Failure::Engine(one_line(error)));
            }
            Verdict::Doubtful | Verdict::Away => {}
        }
        self.health.failed(&|| one_line(error));
        if attempts.begin.elapsed() >= STUCK {
            self.health.stuck(&|| one_line(error));
        }
        let deadline = self.deadline(attempts);
        let now = Instant::now();
        if now >= deadline {
            return Err(Failure::Away);
        }
        let doubled = FIRST_DELAY * 2u32.saturating_pow(attempts.number.min(16) - 1);
        let delay = doubled.min(LONGEST_DELAY).min(deadline - now);
        sleep(spread(delay)).await;
        if delay == LONGEST_DELAY && self.health.is_down() {
            let rest = spread(OUTAGE_DELAY).min(deadline.saturating_duration_since(Instant::now()));
            let _ = timeout(rest, self.recovered.notified()).await;
        }
        Ok(())
    }
}

/// The attempts at a lightweight transaction.
pub(super) struct ConditionAttempts(Attempts);

impl ConditionAttempts {
    pub(super) fn new(deadline: Instant) -> Self {
        Self(Attempts::new(deadline))
    }
}

impl Attempts {
    fn new(deadline: Instant) -> Self {
        Self {
            begin: Instant::now(),
            deadline,
            number: 0,
        }
    }
}

/// Between half of a delay and all of it, so that those who failed together do not return together.
fn spread(delay: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    delay.mul_f64(0.5 + f64::from(nanos % 1_000_003) / 2_000_006.0)
}
