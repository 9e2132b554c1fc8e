//! Stream management (XEP-0198): whatever a client says and whenever the server gets round to its
//! stanzas, both sides' counts agree with a model that never wraps, the queue stays within its
//! limits, `h` covers what is handled and no more, and a resumption sends again what is missing.
//!
//! The input is a byte for the queue's limits, four for where the counts begin (they wrap at 2^32),
//! then a script: an operation's byte, and what it takes.
#![no_main]

use antiphon_xmpp::sasl::{Answer, Mechanism};
use antiphon_xmpp::stream::c2s::{Action, Channel, Config, HostConfig, Stream};
use antiphon_xmpp::stream::sm::{
    self, AckQueue, AckRequests, Inbound, QueueLimits, RequestPolicy, SmEnabled, SmFailed,
};
use antiphon_xmpp::stream::{Framing, Outgoing};
use antiphon_xmpp::xml::Limits;
use antiphon_xmpp::{Jid, StanzaCondition};
use libfuzzer_sys::fuzz_target;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

const LIMITS: Limits = Limits {
    stanza_bytes: 2048,
    depth: 16,
    elements: 64,
    attributes: 32,
};
const POLICY: RequestPolicy = RequestPolicy {
    stanzas: 5,
    bytes: 600,
};
const HEADER: &str = "<stream:stream to='example.com' version='1.0' xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams'>";
const AUTH: &str =
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>";
const BIND: &str = "<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
const ID: &str = "the-id";
/// More than this many operations teach nothing new.
const MAX_OPERATIONS: usize = 120;

fn config() -> Arc<Config> {
    let host = HostConfig {
        domain: Jid::parse("example.com").expect("valid"),
        mechanisms: vec![Mechanism::Plain],
        extra_features: Vec::new(),
        registration: false,
        is_sm_on: true,
        is_csi_on: true,
    };
    Arc::new(Config {
        hosts: vec![Arc::new(host)],
        limits_before_login: LIMITS,
        limits: LIMITS,
        auth_attempts: 3,
        allow_plaintext: true,
        starttls: false,
        sm_resume_seconds: 60,
        idle_seconds: 0,
        dummy_secret: Arc::from([7; 32].as_slice()),
        dummy_iterations: 4096,
    })
}

/// What the session keeps, beside what a naive count in 64 bits says that it must be.
struct Managed {
    queue: AckQueue<u64>,
    limits: QueueLimits,
    inbound: Inbound,
    requests: AckRequests,
    /// Number and size of what is not confirmed.
    pending: VecDeque<(u64, usize)>,
    acked: u64,
    /// Stanzas that came in, and those that are handled already, perhaps with gaps.
    received: u64,
    handled: BTreeSet<u64>,
    /// All up to here are handled.
    prefix: u64,
    told: u64,
    is_asking: bool,
    unasked: (u32, usize),
}

impl Managed {
    fn new(start: u32, limits: QueueLimits) -> Self {
        let is_fresh = start == 0;
        Self {
            queue: if is_fresh {
                AckQueue::new(limits)
            } else {
                AckQueue::starting_at(start, limits)
            },
            limits,
            inbound: if is_fresh {
                Inbound::new()
            } else {
                Inbound::starting_at(start)
            },
            requests: AckRequests::new(POLICY),
            pending: VecDeque::new(),
            acked: u64::from(start),
            received: u64::from(start),
            handled: BTreeSet::new(),
            prefix: u64::from(start),
            told: u64::from(start),
            is_asking: false,
            unasked: (0, 0),
        }
    }

    fn sent(&self) -> u64 {
        self.acked + self.pending.len() as u64
    }

    fn check(&self) {
        let bytes: usize = self.pending.iter().map(|(_, size)| size).sum();
        assert_eq!(self.queue.acked(), self.acked as u32);
        assert_eq!(self.queue.sent(), self.sent() as u32);
        assert_eq!(self.queue.len(), self.pending.len());
        assert_eq!(self.queue.is_empty(), self.pending.is_empty());
        assert_eq!(self.queue.bytes(), bytes);
        assert!(self.limits.stanzas == 0 || self.queue.len() <= self.limits.stanzas);
        assert!(self.limits.bytes == 0 || bytes <= self.limits.bytes || self.queue.len() == 1);
        let numbers = self.pending.iter().map(|(number, _)| number);
        assert!(self.queue.iter().eq(numbers));
        assert_eq!(self.inbound.h(), self.prefix as u32);
        assert_eq!(self.inbound.in_hand(), self.received - self.prefix);
        assert_eq!(self.inbound.untold(), self.prefix - self.told);
        assert_eq!(self.inbound.is_news(), self.prefix != self.told);
        assert_eq!(self.requests.is_open(), self.is_asking);
    }

    fn receive(&mut self) {
        self.received += 1;
        assert_eq!(self.inbound.received(), self.received);
    }

    fn handle(&mut self, number: u64) {
        self.inbound.handled(number);
        if number > self.prefix && number <= self.received {
            self.handled.insert(number);
        }
        while self.handled.remove(&(self.prefix + 1)) {
            self.prefix += 1;
        }
    }

    fn answer_request(&mut self, out: &mut Outgoing) {
        let h = self.inbound.tell();
        assert_eq!(h, self.prefix as u32);
        self.told = self.prefix;
        sm::write_ack(h, out);
        let text = format!("<a xmlns='urn:xmpp:sm:3' h='{h}'/>");
        assert!(out.bytes.ends_with(text.as_bytes()));
    }

    /// False if the queue is full, which ends the session.
    fn send(&mut self, size: usize) -> bool {
        let number = self.sent() + 1;
        let held: usize = self.pending.iter().map(|(_, size)| size).sum();
        let QueueLimits { stanzas, bytes } = self.limits;
        let is_full = (stanzas != 0 && self.pending.len() == stanzas)
            || (bytes != 0 && held > 0 && held + size > bytes);
        let pushed = self.queue.push(number, size);
        assert_eq!(pushed.is_err(), is_full);
        if is_full {
            return false;
        }
        self.pending.push_back((number, size));
        self.unasked = (self.unasked.0 + 1, self.unasked.1 + size);
        let is_due = self.unasked.0 >= POLICY.stanzas || self.unasked.1 >= POLICY.bytes;
        let asked = self.requests.on_sent(size);
        assert_eq!(asked, is_due && !self.is_asking);
        self.asked(asked);
        true
    }

    fn idle(&mut self) {
        let asked = self.requests.on_idle();
        assert_eq!(asked, self.unasked.0 > 0 && !self.is_asking);
        self.asked(asked);
    }

    fn asked(&mut self, asked: bool) {
        if asked {
            self.is_asking = true;
            self.unasked = (0, 0);
        }
    }

    /// What `<a/>` or `<resume/>` confirms; false if that was never sent.
    fn acknowledged(&mut self, h: u32) -> bool {
        let ahead = h.wrapping_sub(self.acked as u32);
        // The half behind us is old news (RFC 1982 has the same rule).
        let ahead = if ahead > u32::MAX / 2 { 0 } else { ahead } as usize;
        let confirmed = self.queue.on_ack(h).map(|all| all.collect::<Vec<_>>());
        if ahead > self.pending.len() {
            let error = confirmed.expect_err("confirms what was never sent");
            assert_eq!((error.h, error.sent), (h, self.sent() as u32));
            return false;
        }
        let expected: Vec<u64> = self.pending.drain(..ahead).map(|(n, _)| n).collect();
        assert_eq!(confirmed, Ok(expected));
        self.acked += ahead as u64;
        true
    }
}

/// The rest of the script.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        let bytes = self.take(4);
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(word)
    }
}

struct Driver {
    config: Arc<Config>,
    stream: Stream,
    out: Outgoing,
    sm: Option<Managed>,
    start: u32,
    limits: QueueLimits,
    is_over: bool,
}

impl Driver {
    fn new(start: u32, limits: QueueLimits) -> Self {
        let config = config();
        let mut driver = Self {
            stream: Stream::new(Arc::clone(&config), Framing::Tcp, Channel::default()),
            config,
            out: Outgoing::default(),
            sm: None,
            start,
            limits,
            is_over: false,
        };
        driver.log_in();
        driver.feed(BIND);
        assert!(driver.stream.session().is_some());
        driver
    }

    fn log_in(&mut self) {
        for element in [HEADER, AUTH, HEADER] {
            self.feed(element);
        }
        assert!(self.stream.account().is_some());
    }

    fn feed(&mut self, xml: &str) {
        self.feed_bytes(xml.as_bytes());
    }

    fn feed_bytes(&mut self, bytes: &[u8]) {
        self.stream.feed(bytes);
        let mut random = |bytes: &mut [u8]| bytes.fill(9);
        while let Some(action) = self.stream.poll(&mut random, &mut self.out) {
            assert!(!self.is_over, "something follows the end");
            self.carry_out(action);
        }
        assert!(std::str::from_utf8(&self.out.bytes).is_ok());
        self.out.clear();
    }

    fn carry_out(&mut self, action: Action) {
        let Self { stream, out, .. } = self;
        match action {
            Action::Auth(_) => stream.auth_answer(Answer::Verdict(Ok(()))),
            Action::Bind { account, .. } => {
                let jid = account.with_resource("r").expect("valid");
                stream.bound(Ok(jid), out);
            }
            Action::SmEnable { resume, max } => {
                assert!(self.sm.is_none(), "enabled twice");
                let enabled = SmEnabled {
                    id: resume.then(|| ID.to_owned()),
                    max,
                    resume,
                    location: None,
                };
                stream.sm_enabled(Ok(enabled), out);
                self.sm = Some(Managed::new(self.start, self.limits));
            }
            Action::SmResume { previd, h, .. } => self.resume(&previd, h),
            Action::SmAck(h) => {
                let sm = self
                    .sm
                    .as_mut()
                    .expect("nothing is acknowledged before <enable/>");
                let open_before = sm.queue.len();
                if sm.acknowledged(h) {
                    sm.requests.on_ack();
                    sm.is_asking = false;
                    assert!(sm.queue.len() <= open_before);
                } else {
                    assert_eq!(sm.queue.len(), open_before);
                    self.too_high(h);
                }
            }
            Action::SmRequest => {
                let sm = self.sm.as_mut().expect("nothing is asked before <enable/>");
                sm.answer_request(out);
            }
            Action::Stanza(_) => {
                if let Some(sm) = &mut self.sm {
                    sm.receive();
                }
            }
            Action::Answer(_) => {
                if let Some(sm) = &mut self.sm {
                    sm.receive();
                    sm.handle(sm.received);
                }
            }
            Action::Close(_) => self.is_over = true,
            Action::StartTls(_)
            | Action::Register(_)
            | Action::Authenticated(..)
            | Action::Csi(_) => {}
        }
    }

    /// XEP-0198 #errors: more was confirmed than was sent.
    fn too_high(&mut self, h: u32) {
        let sm = self.sm.as_ref().expect("enabled");
        let error = sm::AckAhead {
            h,
            sent: sm.queue.sent(),
        };
        self.out.clear();
        self.stream.close(Some(error.stream_error()), &mut self.out);
        let said = String::from_utf8_lossy(&self.out.bytes).into_owned();
        assert!(said.contains("handled-count-too-high"));
        self.is_over = true;
    }

    fn resume(&mut self, previd: &str, h: u32) {
        let out = &mut self.out;
        let Some(managed) = self.sm.as_mut().filter(|_| previd == ID) else {
            let failed = SmFailed::from(StanzaCondition::ItemNotFound);
            self.stream.sm_resumed(Err(failed), out);
            return;
        };
        if !managed.acknowledged(h) {
            self.too_high(h);
            return;
        }
        let ours = managed.inbound.tell();
        managed.told = managed.prefix;
        out.clear();
        let jid = Jid::parse("a@example.com/r").expect("valid");
        self.stream.sm_resumed(Ok((jid, ours)), out);
        let said = String::from_utf8_lossy(&out.bytes).into_owned();
        assert!(
            said.contains("<resumed") && said.contains(&format!("'{ours}'")),
            "{said}"
        );
        let again = managed.queue.len() as u32;
        managed.requests.on_resumed(again);
        managed.is_asking = false;
        managed.unasked = (again, 0);
    }

    /// The connection breaks; the client logs in again and asks for its session.
    fn reconnect(&mut self, h: u32, previd: &str) {
        self.stream = Stream::new(Arc::clone(&self.config), Framing::Tcp, Channel::default());
        self.log_in();
        self.feed(&format!(
            "<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='{h}'/>"
        ));
        if !self.is_over && self.stream.session().is_none() {
            // Not resumed: a session of its own, the old one ends with all its unconfirmed stanzas.
            if let Some(mut old) = self.sm.take() {
                let numbers: Vec<u64> = old.pending.drain(..).map(|(n, _)| n).collect();
                assert_eq!(old.queue.take().collect::<Vec<_>>(), numbers);
                old.check();
            }
            self.feed(BIND);
        }
    }

    fn step(&mut self, operation: u8, script: &mut Script<'_>) {
        match operation & 15 {
            0 => self.feed("<message to='b@example.com'><body>x</body></message>"),
            1 => self.feed("<r xmlns='urn:xmpp:sm:3'/>"),
            2 => {
                let resume = operation & 16 != 0;
                self.feed(&format!(
                    "<enable xmlns='urn:xmpp:sm:3' resume='{resume}'/>"
                ));
            }
            3 => {
                let h = script.word();
                self.feed(&format!("<a xmlns='urn:xmpp:sm:3' h='{h}'/>"));
            }
            4 => {
                let h = String::from_utf8_lossy(script.take(usize::from(operation >> 4)));
                let h = h.replace(['\'', '<', '&'], "");
                self.feed(&format!("<a xmlns='urn:xmpp:sm:3' h='{h}'/>"));
            }
            5 => {
                let count = script.byte().unwrap_or(0);
                let bytes = script.take(usize::from(count));
                self.feed_bytes(bytes);
            }
            6 => self.feed(&format!(
                "<resume xmlns='urn:xmpp:sm:3' previd='{ID}' h='0'/>"
            )),
            7 => self.reconnect(
                script.word(),
                if operation & 16 == 0 { ID } else { "other" },
            ),
            _ => self.managed_step(operation, script),
        }
    }

    fn managed_step(&mut self, operation: u8, script: &mut Script<'_>) {
        let Some(sm) = &mut self.sm else {
            return;
        };
        let argument = u64::from(operation >> 4);
        match operation & 15 {
            8 => sm.handle(sm.prefix + 1 + argument),
            9 => sm.handle(u64::from(script.word()) << (argument * 2)),
            10 => {
                if !sm.send(usize::from(script.byte().unwrap_or(0)) + 1) {
                    self.is_over = true;
                }
            }
            11 => sm.idle(),
            12 => sm.queue.shrink(),
            13 => {
                // A client that has handled all but the last few.
                let h = sm.sent().saturating_sub(argument) as u32;
                self.feed(&format!("<a xmlns='urn:xmpp:sm:3' h='{h}'/>"));
            }
            14 => {
                let h = sm.sent().saturating_sub(argument) as u32;
                self.reconnect(h, ID);
            }
            _ => {
                // A whole batch comes in and is handled from its end.
                for _ in 0..argument {
                    sm.receive();
                }
                for number in (sm.prefix + 1..=sm.received).rev() {
                    sm.handle(number);
                }
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let Some(choice) = script.byte() else {
        return;
    };
    let limits = QueueLimits {
        stanzas: usize::from(choice & 15) * 2,
        bytes: usize::from(choice >> 4) * 100,
    };
    let mut driver = Driver::new(script.word(), limits);
    for _ in 0..MAX_OPERATIONS {
        let Some(operation) = script.byte() else {
            return;
        };
        driver.step(operation, &mut script);
        if let Some(sm) = &driver.sm {
            sm.check();
        }
        if driver.is_over {
            return;
        }
    }
});
