//! The command line: one scenario and its options, everything bounded.

use crate::Failure;
use std::net::SocketAddr;
use std::time::Duration;

/// What `--help` prints.
pub const HELP: &str = "\
antiphon-load SCENARIO [--OPTION VALUE]...

A load generator for XMPP servers on loopback. Prints one JSON object: what was delivered, what the
server spent on it (/proc), what the generator itself spent.

scenarios
  login     logs in and out, --window logins under way at once; CPU per login
  msg       one-to-one messages between pairs of connections; closed loop, or open with --rate
  presence  broadcasts to --contacts contacts (the subscriptions are made first)
  idle      holds connections; memory of the server per connection
  resume    cuts connections and resumes their sessions (XEP-0198)
  mamq      pages of --page messages of every client's archive, backwards (XEP-0313), each client
            one at a time; first they exchange messages until each keeps --fill
  search    full-text searches, six kinds in turn (XEP-0431)
  inbox     whole inboxes (erlang-solutions.com:xmpp:inbox:0)
  soak      --busy sessions exchange --rate messages a second, the others are idle; a line of memory
            and latencies each five seconds; at the end the server is to be sent SIGTERM

options, with their defaults
  --address 127.0.0.1:5222   must be loopback; several with commas between them (nodes of one
                             cluster): connection i goes to number i mod their count, so that a
                             pair of msg stands on two nodes
  --domain localhost
  --tls none                 none | starttls | direct
  --mechanism SCRAM-SHA-256  SCRAM-SHA-256 | SCRAM-SHA-1 | PLAIN
  --users 200                accounts u0, u1, ...; connection i logs in as user i mod users
  --first 0                  number of the first of these accounts
  --password bench
  --connections 200          at most 19000
  --window 4                 messages in flight per connection (login, presence, resume: in all)
  --rate 0                   messages a second in all, at times fixed before; 0: closed loop
  --seconds 5                measured window, at most 7200; fractions are allowed
  --warmup 2                 seconds before it
  --body 100                 bytes of a message's body
  --sm 0                     stream management, an ack request each N stanzas; 0: off; 1: the
                             acknowledgements are timed (msg)
  --words none               a file of words, the commonest first: bodies are made of them (msg,
                             mamq) and looked for (search)
  --fill 0                   messages in the archive of each client before the first question (mamq)
  --page 50                  messages of a page (mamq)
  --carbons 0                1: every user has a second resource with carbons on
  --contacts 50              of a user, in a ring: the half before and the half after (presence)
  --gate 0                   1: reads a line before the logins and writes `ready` to standard
                             error after them, so that several runs can take turns (idle)
  --roster 0                 1: every client asks for its roster at login (idle)
  --busy 200                 sessions that exchange messages, in pairs (soak)
  --settle 25                seconds between the last login and the reading of memory (idle)
  --logins 32                logins under way at once before the scenario begins
  --pid 0                    process of the server, its children included; several: 12,34
  --database 0               process of its database, its children included; told apart
  --afterwards 0             1: what the server spends after the window, until it is idle, counts
                             too, for all messages since the window began (msg)
  --metrics none             IP:PORT of an HTTP listener; counters of the node go into the result
                             (msg): how much antiphon_crossings_total grew in the window

result (absent where it makes no sense)
  count, rate_per_s          things done in the window: messages that arrived, logins, resumptions,
                             deliveries of presence
  server_ms_per_1000         CPU of the server's processes for 1,000 of them; server_user_share of it
                             in user mode
  generator_us_each          CPU of this process for one
  other_cpu_s                CPU of everybody else on the machine in the window
  latency_ms                 p50, p99, p99_9, max: from the intended time of sending to arrival, or
                             from connecting to the end of the login
  database_ms_per_1000       CPU of the database
  ack_ms                     p50, p99, p99_9, max: from the intended time of sending to the
                             acknowledgement that covers it (--sm 1)
  results, results_each      messages in the answers (mamq, search, inbox)
  p99_ms_by_kind             of searches
  lost, errors               what never arrived, what came back
  memory_kib                 rss_each, pss_each, private_each: growth for each connection;
                             rss_before: the whole process after twenty throw-away logins
";

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Log in and out again.
    Login,
    /// One-to-one messages.
    Msg,
    /// Presence broadcasts.
    Presence,
    /// Connections that say nothing.
    Idle,
    /// Cut and resume.
    Resume,
    /// Idle and busy, for long.
    Soak,
    /// Pages of archives.
    Mamq,
    /// Searches in archives.
    Search,
    /// Inboxes.
    Inbox,
}

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    None,
    /// RFC 6120 §5.
    StartTls,
    /// XEP-0368.
    Direct,
}

/// SASL mechanism of the logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 7677.
    ScramSha256,
    /// RFC 5802.
    ScramSha1,
    /// RFC 4616.
    Plain,
}

impl Mechanism {
    /// As in the stream features.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::Plain => "PLAIN",
        }
    }
}

/// Everything the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    pub kind: Kind,
    pub addresses: Vec<SocketAddr>,
    pub domain: String,
    pub tls: Security,
    pub mechanism: Mechanism,
    pub users: usize,
    pub first: usize,
    pub password: String,
    pub connections: usize,
    pub window: usize,
    pub rate: u64,
    pub seconds: Duration,
    pub warmup: Duration,
    pub body: usize,
    pub sm: u32,
    pub carbons: bool,
    pub afterwards: bool,
    pub contacts: usize,
    pub roster: bool,
    pub gate: bool,
    pub busy: usize,
    pub settle: Duration,
    pub logins: usize,
    pub pids: Vec<u32>,
    pub database: Vec<u32>,
    pub words: Option<String>,
    pub fill: usize,
    pub page: usize,
    pub metrics: Option<SocketAddr>,
}

/// Every socket is a descriptor, and machines allow some 20,000 of them.
const MAX_CONNECTIONS: u64 = 19_000;
/// A shorter window would be all edges.
const SHORTEST: Duration = Duration::from_millis(100);

impl Options {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// [`Failure::Usage`] with what is wrong, one line.
    pub fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let (kind, rest) = arguments
            .split_first()
            .ok_or_else(|| usage("no scenario"))?;
        let mut options = Self::defaults(match kind.as_str() {
            "login" => Kind::Login,
            "msg" => Kind::Msg,
            "presence" => Kind::Presence,
            "idle" => Kind::Idle,
            "resume" => Kind::Resume,
            "soak" => Kind::Soak,
            "mamq" => Kind::Mamq,
            "search" => Kind::Search,
            "inbox" => Kind::Inbox,
            other => return Err(usage(&format!("no scenario {other:?}"))),
        });
        for pair in rest.chunks(2) {
            let [name, value] = pair else {
                return Err(usage(&format!("{} needs a value", pair[0])));
            };
            options.set(name, value)?;
        }
        options.check()?;
        Ok(options)
    }

    fn defaults(kind: Kind) -> Self {
        Self {
            kind,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 5222))],
            domain: "localhost".to_owned(),
            tls: Security::None,
            mechanism: Mechanism::ScramSha256,
            users: 200,
            first: 0,
            password: "bench".to_owned(),
            connections: 200,
            window: 4,
            rate: 0,
            seconds: Duration::from_secs(5),
            warmup: Duration::from_secs(2),
            body: 100,
            sm: 0,
            carbons: false,
            afterwards: false,
            contacts: 50,
            roster: false,
            gate: false,
            busy: 200,
            settle: Duration::from_secs(25),
            logins: 32,
            pids: Vec::new(),
            database: Vec::new(),
            words: None,
            fill: 0,
            page: 50,
            metrics: None,
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        match name {
            "--address" => {
                let each = value.split(',').map(|one| address(name, one));
                self.addresses = each.collect::<Result<_, _>>()?;
            }
            "--metrics" => {
                self.metrics = (value != "none")
                    .then(|| address(name, value))
                    .transpose()?;
            }
            "--domain" => value.clone_into(&mut self.domain),
            "--tls" => {
                self.tls = match value {
                    "none" => Security::None,
                    "starttls" => Security::StartTls,
                    "direct" => Security::Direct,
                    _ => return Err(usage("--tls is none, starttls or direct")),
                }
            }
            "--mechanism" => {
                self.mechanism = match value {
                    "SCRAM-SHA-256" => Mechanism::ScramSha256,
                    "SCRAM-SHA-1" => Mechanism::ScramSha1,
                    "PLAIN" => Mechanism::Plain,
                    _ => return Err(usage("--mechanism is SCRAM-SHA-256, SCRAM-SHA-1 or PLAIN")),
                }
            }
            "--password" => value.clone_into(&mut self.password),
            "--users" => self.users = size(name, value, 1, 1_000_000)?,
            "--first" => self.first = size(name, value, 0, 1_000_000)?,
            "--connections" => self.connections = size(name, value, 1, MAX_CONNECTIONS)?,
            "--window" => self.window = size(name, value, 1, 10_000)?,
            "--rate" => self.rate = number(name, value, 0, 1_000_000)?,
            "--seconds" => self.seconds = seconds(name, value)?,
            "--warmup" => self.warmup = seconds(name, value)?,
            "--settle" => self.settle = seconds(name, value)?,
            "--body" => self.body = size(name, value, 32, 100_000)?,
            "--sm" => self.sm = u32::try_from(number(name, value, 0, 1000)?).unwrap_or(0),
            "--carbons" => self.carbons = number(name, value, 0, 1)? == 1,
            "--afterwards" => self.afterwards = number(name, value, 0, 1)? == 1,
            "--gate" => self.gate = number(name, value, 0, 1)? == 1,
            "--roster" => self.roster = number(name, value, 0, 1)? == 1,
            "--busy" => self.busy = size(name, value, 2, MAX_CONNECTIONS)?,
            "--contacts" => self.contacts = size(name, value, 2, 1000)?,
            "--logins" => self.logins = size(name, value, 1, 1000)?,
            "--words" => self.words = (value != "none").then(|| value.to_owned()),
            "--fill" => self.fill = size(name, value, 0, 1_000_000)?,
            "--page" => self.page = size(name, value, 1, 1000)?,
            "--pid" => self.pids.append(&mut processes(name, value)?),
            "--database" => self.database.append(&mut processes(name, value)?),
            other => return Err(usage(&format!("no option {other}"))),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        let mut addresses = self.addresses.iter().chain(&self.metrics);
        if addresses.any(|address| !address.ip().is_loopback()) {
            return Err(usage("--address, --metrics: only loopback is loaded"));
        }
        if self.seconds < SHORTEST {
            return Err(usage("--seconds: at least 0.1"));
        }
        let clean = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        if !clean(&self.domain) || self.password.contains(['\0', '<', '&']) {
            return Err(usage(
                "--domain and --password: letters, digits, - . _ only",
            ));
        }
        if (self.kind == Kind::Msg || self.fill > 0) && !self.connections.is_multiple_of(2) {
            return Err(usage("--connections: messages need pairs"));
        }
        if self.carbons && (self.connections > self.users || self.connections * 2 > 19_000) {
            return Err(usage(
                "--carbons: one user for each connection, at most 9500",
            ));
        }
        if self.kind == Kind::Presence && self.users <= self.contacts {
            return Err(usage("--contacts: fewer than --users"));
        }
        if self.kind == Kind::Soak
            && (!self.busy.is_multiple_of(2) || self.busy > self.connections || self.rate == 0)
        {
            return Err(usage(
                "--busy: pairs, at most --connections, with a --rate above 0",
            ));
        }
        if self.kind == Kind::Resume && self.connections < self.window {
            return Err(usage("--window: at most --connections"));
        }
        Ok(())
    }
}

impl Options {
    /// The localpart of a client's account.
    pub fn account(&self, user: usize) -> String {
        format!("u{}", self.first + user)
    }
}

fn usage(text: &str) -> Failure {
    Failure::Usage(text.to_owned())
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64, Failure> {
    value
        .parse()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| usage(&format!("{name}: a number from {least} to {most}")))
}

fn size(name: &str, value: &str, least: u64, most: u64) -> Result<usize, Failure> {
    number(name, value, least, most).map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// Numbers of processes with commas between them; 0 is none.
fn processes(name: &str, value: &str) -> Result<Vec<u32>, Failure> {
    let mut pids = Vec::new();
    for pid in value.split(',') {
        let pid = number(name, pid, 0, 4_194_304)?;
        pids.extend(u32::try_from(pid).ok().filter(|&pid| pid > 0));
    }
    Ok(pids)
}

fn seconds(name: &str, value: &str) -> Result<Duration, Failure> {
    value
        .parse::<f64>()
        .ok()
        .filter(|seconds| (0.0..=7200.0).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| usage(&format!("{name}: seconds from 0 to 7200")))
}

fn address(name: &str, value: &str) -> Result<SocketAddr, Failure> {
    value
        .parse()
        .map_err(|_| usage(&format!("{name}: {value:?} is not IP:PORT")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Failure> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn options_have_defaults_and_are_set_by_name() {
        assert!(parse("msg --afterwards 1").unwrap().afterwards);
        let pages = parse("mamq --fill 10 --page 20 --words w --database 3").unwrap();
        assert_eq!((pages.fill, pages.page), (10, 20));
        assert_eq!(
            (pages.words.as_deref(), pages.database),
            (Some("w"), vec![3])
        );
        let options = parse("msg --rate 1000 --tls direct --pid 12,34 --first 7").unwrap();
        assert_eq!((options.rate, options.connections), (1000, 200));
        assert_eq!((options.first, options.metrics), (7, None));
        let several = parse("msg --address 127.0.0.2:1,127.0.0.3:2").unwrap();
        assert_eq!(several.addresses.len(), 2);
        let idle = parse("idle --roster 1 --settle 0.5 --metrics 127.0.0.1:80").unwrap();
        assert!(idle.roster && idle.metrics.is_some());
        assert_eq!(idle.settle, Duration::from_millis(500));
        assert_eq!(
            (options.tls, options.pids),
            (Security::Direct, vec![12, 34])
        );
    }

    #[test]
    fn what_would_load_another_machine_or_is_out_of_bounds_is_refused() {
        for line in [
            "msg --address 192.0.2.1:5222",
            "msg --address 127.0.0.1:5222,192.0.2.1:5222",
            "msg --address 127.0.0.1:5222,",
            "msg --connections 20000",
            "msg --connections 3",
            "msg --seconds 7201",
            "msg --seconds 0",
            "msg --seconds NaN",
            "msg --warmup -1",
            "msg --metrics 192.0.2.1:80",
            "msg --rate",
            "flood",
        ] {
            assert!(matches!(parse(line), Err(Failure::Usage(_))), "{line}");
        }
    }
}
