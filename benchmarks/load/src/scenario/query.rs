//! Questions for what a server keeps: pages of archives (XEP-0313), searches in them (XEP-0431),
//! inboxes (`erlang-solutions.com:xmpp:inbox:0`).
//!
//! Every client has one question on the way and asks the next when the answer is whole.

use super::mail::Mail;
use super::stamp::{self, Stamps, push_hex};
use crate::Failure;
use crate::crew::{Crew, events, said};
use crate::frame;
use crate::histogram::Histogram;
use crate::meter::{Meter, Report};
use crate::options::{Kind, Options};
use crate::pool::{Event, Handler, Pool};
use crate::session::{Session, Setup};
use crate::words::Words;
use memchr::memmem;
use mio::Events;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Longest time for the filling of the archives.
const FILLING: Duration = Duration::from_secs(300);
/// Longest wait for the answers that are under way at the end.
const DRAIN: Duration = Duration::from_secs(20);
/// What searches ask for, so that they cost what they cost a client that shows them.
const FOUND: usize = 20;
/// Kinds of searches.
const KINDS: [&str; 8] = [
    "rare",
    "common",
    "two common",
    "common and rare",
    "phrase",
    "prefix",
    "absent",
    "with",
];
/// Whom the first account of a filled store wrote with: rust/store/examples/archive/world.rs.
const FIRST_PEER: usize = 1;
const PEER_STEP: usize = 17;
const PEERS: usize = 500;

/// A client's question that is on the way.
#[derive(Default)]
struct Asked {
    number: u64,
    at_ns: u64,
    kind: usize,
    results: u64,
    /// Where the next page ends: the first id of the last one.
    before: String,
}

struct Query {
    crew: Crew,
    clock: Stamps,
    mail: Mail,
    asked: Vec<Asked>,
    number: u64,
    is_measured: bool,
    is_running: bool,
    /// Messages of each client still to be sent, and of all still to arrive (filling).
    unsent: Vec<usize>,
    coming: usize,
    answered: u64,
    results: u64,
    latency: Histogram,
    by_kind: Vec<Histogram>,
}

/// Runs the scenario.
///
/// # Errors
/// Any [`Failure`] of a connection, and the server's words for a question that it refuses.
pub fn run(options: &Options) -> Result<Value, Failure> {
    let Some(words) = &options.words else {
        return Err(Failure::Usage("--words is needed".to_owned()));
    };
    let words = Words::read(words)?;
    let mut pool = Pool::new(options)?;
    let mut events = events();
    let setup = Setup {
        presence: true,
        ..Setup::default()
    };
    let sessions = (0..options.connections)
        .map(|id| Session::new(id % options.users, format!("r{id}"), setup))
        .collect();
    let mut crew = Crew::new(options, sessions);
    crew.bring_up(&mut pool, &mut events)?;
    crew.rest(&mut pool, &mut events, Duration::from_millis(300))?;
    let mut query = Query::new(crew, words);
    query.fill(&mut pool, &mut events)?;
    query.is_running = true;
    for id in 0..options.connections {
        query.ask(&mut pool, id);
    }
    pool.run_for(&mut events, &mut query, options.warmup)?;
    let meter = Meter::start(options);
    let before = (query.answered, query.results);
    query.is_measured = true;
    pool.run_for(&mut events, &mut query, options.seconds)?;
    let window = meter.stop();
    let (answered, results) = (query.answered - before.0, query.results - before.1);
    // A slow answer must not be missing because the window ended.
    query.is_running = false;
    pool.run_until(&mut events, &mut query, DRAIN, |query| {
        query.asked.iter().all(|asked| asked.number == 0)
    })?;
    if answered == 0 {
        return Err(Failure::Stalled("no answer in the whole window".to_owned()));
    }
    let mut report = Report::new(name(options.kind), options);
    report.window(&window, answered);
    report.set("results", json!(results));
    report.set("results_each", json!(results / answered));
    report.latency(&query.latency);
    if options.kind == Kind::Search {
        report.set("p99_ms_by_kind", query.kinds());
    }
    query.crew.leave(&mut pool, &mut events);
    Ok(report.finish())
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Search => "search",
        Kind::Inbox => "inbox",
        _ => "mamq",
    }
}

impl Query {
    fn new(crew: Crew, words: Words) -> Self {
        let connections = crew.options.connections;
        Self {
            clock: Stamps::new(),
            // A client alone has no partner, and nothing to fill.
            mail: Mail::new(
                &crew,
                connections * usize::from(crew.options.fill > 0),
                Some(words),
            ),
            asked: (0..connections).map(|_| Asked::default()).collect(),
            number: 0,
            is_measured: false,
            is_running: false,
            unsent: vec![crew.options.fill.div_ceil(2); connections],
            coming: 0,
            answered: 0,
            results: 0,
            latency: Histogram::default(),
            by_kind: KINDS.iter().map(|_| Histogram::default()).collect(),
            crew,
        }
    }

    /// Lets partners write to each other until each has `--fill` messages.
    fn fill(&mut self, pool: &mut Pool, events: &mut Events) -> Result<(), Failure> {
        if self.crew.options.fill == 0 {
            return Ok(());
        }
        self.coming = self.unsent.iter().sum();
        for _ in 0..self.crew.options.window {
            for id in 0..self.unsent.len() {
                self.send(pool, id);
            }
        }
        if !pool.run_until(events, self, FILLING, |query| query.coming == 0)? {
            return Err(Failure::Stalled(format!(
                "{} messages of the filling did not arrive",
                self.coming
            )));
        }
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, id: usize) {
        if self.unsent[id] == 0 {
            return;
        }
        self.unsent[id] -= 1;
        self.number += 1;
        if let Some(out) = pool.say(id) {
            self.mail
                .write(id, (&self.clock, self.number), self.number, out);
        }
    }

    fn ask(&mut self, pool: &mut Pool, id: usize) {
        self.number += 1;
        let (number, kind) = (self.number, usize::try_from(self.number).unwrap_or(0));
        let asked = &mut self.asked[id];
        asked.number = number;
        asked.kind = kind % KINDS.len();
        asked.results = 0;
        asked.at_ns = self.clock.now();
        let mut question = b"<iq type='set' id='q".to_vec();
        push_hex(number, &mut question);
        question.extend_from_slice(b"'>");
        match self.crew.options.kind {
            Kind::Inbox => {
                let text = "<inbox xmlns='erlang-solutions.com:xmpp:inbox:0' queryid='i'/>";
                question.extend_from_slice(text.as_bytes());
            }
            Kind::Search => {
                let (n, kind) = (kind / KINDS.len(), kind % KINDS.len());
                let terms = self.terms(n, KINDS[kind]);
                let with = self.with(n, KINDS[kind]);
                let text = format!(
                    "<query xmlns='urn:xmpp:mam:2' queryid='s'><x xmlns='jabber:x:data' \
                     type='submit'><field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2\
                     </value></field>{with}<field var='{{urn:xmpp:fulltext:0}}fulltext'><value>{terms}\
                     </value></field></x><set xmlns='http://jabber.org/protocol/rsm'>\
                     <max>{FOUND}</max><before/></set></query>"
                );
                question.extend_from_slice(text.as_bytes());
            }
            _ => {
                let text = format!(
                    "<query xmlns='urn:xmpp:mam:2' queryid='p'>\
                     <set xmlns='http://jabber.org/protocol/rsm'><max>{}</max>\
                     <before>{}</before></set></query>",
                    self.crew.options.page, self.asked[id].before
                );
                question.extend_from_slice(text.as_bytes());
            }
        }
        question.extend_from_slice(b"</iq>");
        if let Some(out) = pool.say(id) {
            out.append(&mut question);
        }
    }

    /// What the `n`th search of a kind looks for; another each time, as far as there are words.
    fn terms(&self, n: usize, kind: &str) -> String {
        let Some(words) = self.mail.words() else {
            return String::new();
        };
        let count = words.len();
        let rare = words.at(count / 3 + n * 53 % (count / 2).max(1));
        let common = |n: usize| words.at(n % 20);
        match kind {
            "rare" => rare.to_owned(),
            "common" | "with" => common(n).to_owned(),
            "two common" => format!("{} {}", common(n), words.at(20 + n % 30)),
            "common and rare" => format!("{} {rare}", common(n)),
            "phrase" => format!("\"{} {}\"", common(n), common(n + 3)),
            "prefix" => {
                let word = words.at(count / 20 + n * 7 % (count / 4).max(1));
                format!("{}*", word.chars().take(3).collect::<String>())
            }
            _ => format!("xqxq{n}"),
        }
    }

    /// The field that names whom the messages were exchanged with, if this kind has one.
    fn with(&self, n: usize, kind: &str) -> String {
        if kind != "with" {
            return String::new();
        }
        let peer = self
            .crew
            .options
            .account(FIRST_PEER + n % PEERS * PEER_STEP);
        let domain = &self.crew.options.domain;
        format!("<field var='with'><value>{peer}@{domain}</value></field>")
    }

    fn on_answer(&mut self, pool: &mut Pool, id: usize, stanza: &[u8]) -> Result<(), Failure> {
        if frame::attribute(stanza, "type") == Some(b"error") {
            return Err(Failure::Stream(
                String::from_utf8_lossy(stanza).into_owned(),
            ));
        }
        let asked = &mut self.asked[id];
        let took = self.clock.now().saturating_sub(asked.at_ns);
        self.answered += 1;
        self.results += asked.results;
        if self.is_measured {
            self.latency.record(took);
            self.by_kind[asked.kind].record(took);
        }
        asked.number = 0;
        asked.before = match first(stanza) {
            Some(first) if asked.results > 0 && !is_complete(stanza) => first,
            _ => String::new(),
        };
        if self.is_running {
            self.ask(pool, id);
        }
        Ok(())
    }

    fn is_answer(&self, id: usize, stanza: &[u8]) -> bool {
        let mut wanted = b"q".to_vec();
        push_hex(self.asked[id].number, &mut wanted);
        frame::attribute(stanza, "id") == Some(&wanted)
    }

    fn kinds(&self) -> Value {
        let asked = KINDS.iter().zip(&self.by_kind);
        let of = |(name, found): (&&str, &Histogram)| {
            ((*name).to_owned(), json!(found.quantile_ms(0.99)))
        };
        Value::Object(
            asked
                .filter(|(_, found)| found.count() > 0)
                .map(of)
                .collect::<Map<_, _>>(),
        )
    }
}

/// The id of a page's first message (XEP-0059), as written.
fn first(stanza: &[u8]) -> Option<String> {
    let at = memmem::find(stanza, b"<first")?;
    let text = frame::text(&stanza[at..])?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn is_complete(stanza: &[u8]) -> bool {
    [&b"complete='true'"[..], b"complete=\"true\""]
        .iter()
        .any(|mark| memmem::find(stanza, mark).is_some())
}

impl Handler for Query {
    fn on(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<(), Failure> {
        let Some(stanza) = said(event)? else {
            return Ok(());
        };
        if !self.crew.courtesy(pool, id, stanza)? {
            return Ok(());
        }
        match frame::name(stanza) {
            b"iq" if self.asked[id].number != 0 && self.is_answer(id, stanza) => {
                self.on_answer(pool, id, stanza)?;
            }
            b"message" if self.asked[id].number != 0 => self.asked[id].results += 1,
            b"message" if frame::attribute(stanza, "type") == Some(b"error") => {
                return Err(Failure::Stream(
                    String::from_utf8_lossy(stanza).into_owned(),
                ));
            }
            b"message" if self.clock.find(stanza).is_some() => {
                self.coming = self.coming.saturating_sub(1);
                self.send(pool, id);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A stamp is an id here, and must not be longer than one.
const _: () = assert!(stamp::SIZE <= 36);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_ends_where_this_one_began() {
        let fin = b"<iq type='result'><fin xmlns='urn:xmpp:mam:2'><set xmlns='r'>\
            <first index='3'>a-1</first><last>b-2</last></set></fin></iq>";
        assert_eq!(first(fin).as_deref(), Some("a-1"));
        assert!(!is_complete(fin));
        let last = b"<iq type='result'><fin xmlns='urn:xmpp:mam:2' complete='true'/></iq>";
        assert_eq!((first(last), is_complete(last)), (None, true));
    }
}
