//! What a measured window cost whom.

use crate::histogram::Histogram;
use crate::options::{Options, Security};
use crate::proc::{Cpu, Memory, Spent, family};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// A window that has begun.
pub struct Meter {
    pids: Vec<u32>,
    databases: Vec<u32>,
    server: Cpu,
    database: Cpu,
    generator: Cpu,
    at: Instant,
}

/// A window that is over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    pub seconds: f64,
    pub server: Spent,
    /// Of its own database, if it has one apart.
    pub database: Option<Spent>,
    pub generator: Spent,
}

impl Meter {
    /// Begins now.
    pub fn start(options: &Options) -> Self {
        let (pids, databases) = (family(&options.pids), family(&options.database));
        Self {
            server: Cpu::of(&pids),
            database: Cpu::of(&databases),
            generator: Cpu::of(&[std::process::id()]),
            at: Instant::now(),
            pids,
            databases,
        }
    }

    /// What was spent so far.
    pub fn stop(&self) -> Window {
        let seconds = self.at.elapsed().as_secs_f64();
        Window {
            seconds,
            server: Cpu::of(&self.pids).since(&self.server),
            database: (!self.databases.is_empty())
                .then(|| Cpu::of(&self.databases).since(&self.database)),
            generator: Cpu::of(&[std::process::id()]).since(&self.generator),
        }
    }
}

/// The result of a run, in the making.
pub struct Report(Map<String, Value>);

impl Report {
    /// Begins with what was asked for.
    pub fn new(scenario: &str, options: &Options) -> Self {
        let tls = match options.tls {
            Security::None => "none",
            Security::StartTls => "starttls",
            Security::Direct => "direct",
        };
        let mut report = Self(Map::new());
        report.set("scenario", json!(scenario));
        report.set(
            "options",
            json!({
                "tls": tls, "mechanism": options.mechanism.name(), "users": options.users,
                "connections": options.connections, "window": options.window, "rate": options.rate,
                "body": options.body, "sm": options.sm, "carbons": options.carbons,
                "contacts": options.contacts,
            }),
        );
        report
    }

    /// Adds a value.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// Adds what a window cost for `count` things done in it.
    #[allow(
        clippy::cast_precision_loss,
        reason = "counts of a run are far below 2^52"
    )]
    pub fn window(&mut self, window: &Window, count: u64) {
        let per = |seconds: f64, unit: f64| {
            if count == 0 {
                Value::Null
            } else {
                json!(round(seconds * unit / count as f64))
            }
        };
        let database_s = window.database.map_or(0.0, |spent| spent.total_s);
        let others = window.server.total_s + window.generator.total_s + database_s;
        self.set("count", json!(count));
        self.set("seconds", json!(round(window.seconds)));
        self.set(
            "rate_per_s",
            json!(round(count as f64 / window.seconds.max(1e-9))),
        );
        self.set("server_cpu_s", json!(round(window.server.total_s)));
        self.set("server_cpu_coarse_s", json!(round(window.server.coarse_s)));
        self.set("server_user_share", json!(round(window.server.user_share)));
        self.costs(window, count);
        self.set("generator_cpu_s", json!(round(window.generator.total_s)));
        self.set("generator_us_each", per(window.generator.total_s, 1e6));
        self.set(
            "other_cpu_s",
            json!(round((window.server.machine_s - others).max(0.0))),
        );
    }

    /// Adds what a window cost the server and its database, in place of what was said before.
    #[allow(
        clippy::cast_precision_loss,
        reason = "counts of a run are far below 2^52"
    )]
    pub fn costs(&mut self, window: &Window, count: u64) {
        let per = |spent: &Spent| {
            if count == 0 {
                Value::Null
            } else {
                json!(round(spent.total_s * 1e6 / count as f64))
            }
        };
        self.set("server_ms_per_1000", per(&window.server));
        if let Some(database) = &window.database {
            self.set("database_ms_per_1000", per(database));
        }
    }

    /// Adds how much counters of the node grew.
    pub fn counters(&mut self, grown: Option<u64>) {
        if let Some(grown) = grown {
            self.set("crossings", json!(grown));
        }
    }

    /// Adds latencies, if there are some.
    pub fn latency(&mut self, histogram: &Histogram) {
        self.times("latency_ms", histogram);
    }

    /// Adds other times than latencies, if there are some.
    pub fn times(&mut self, name: &str, histogram: &Histogram) {
        if histogram.count() == 0 {
            return;
        }
        self.set(
            name,
            json!({
                "count": histogram.count(),
                "p50": round(histogram.quantile_ms(0.5)),
                "p99": round(histogram.quantile_ms(0.99)),
                "p99_9": round(histogram.quantile_ms(0.999)),
                "max": round(histogram.max_ms()),
            }),
        );
    }

    /// Adds how memory grew between two moments, for each of `connections`.
    #[allow(
        clippy::cast_precision_loss,
        reason = "KiB of a process are far below 2^52"
    )]
    pub fn memory(&mut self, (before, after): (Memory, Memory), connections: usize) {
        let each = |before: u64, after: u64| {
            json!(round((after as f64 - before as f64) / connections as f64))
        };
        self.set(
            "memory_kib",
            json!({
                "rss_before": before.rss, "rss_after": after.rss,
                "rss_each": each(before.rss, after.rss),
                "pss_each": each(before.pss, after.pss),
                "private_each": each(before.private, after.private),
            }),
        );
    }

    /// The whole, on one line when printed.
    pub fn finish(self) -> Value {
        Value::Object(self.0)
    }
}

/// Six digits behind the point: microseconds of seconds.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
