//! One client's login, without its socket: stream, TLS, SASL, bind, and what the run asks for.

use crate::Failure;
use crate::frame;
use crate::options::{Options, Security};
use crate::scram::{self, Exchange, KeyCache};
use memchr::memmem;
use std::fmt::Write as _;

/// What the caller has to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Wait for more.
    Wait,
    /// Begin TLS, then call [`Session::secured`].
    StartTls,
    /// The server's stream begins anew.
    Restart,
    /// The session is ready.
    Ready,
}

enum Step {
    /// The next features offer TLS.
    WantTls,
    Proceed,
    /// The next features offer SASL.
    WantSasl,
    Sasl(Option<Exchange>),
    /// The next features offer binding.
    WantBind,
    /// Answers still to come: bind, carbons, SM.
    Setup(u8),
    Ready,
}

/// What is asked of the server once the resource is bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// Available presence (RFC 6121 §4.2).
    pub presence: bool,
    /// XEP-0280 #enabling.
    pub carbons: bool,
    /// Asks for the roster (RFC 6121 §2.1.3), which a server may only then read.
    pub roster: bool,
    /// XEP-0198 #enable; true: resumable.
    pub sm: Option<bool>,
}

/// A session to be resumed (XEP-0198 #resumption).
#[derive(Debug, Clone)]
pub struct Resumption {
    pub id: String,
    /// Stanzas handled before the cut.
    pub handled: u32,
}

/// One client.
pub struct Session {
    /// Which account: see [`Options::account`].
    pub user: usize,
    resource: String,
    step: Step,
    setup: Setup,
    resumption: Option<Resumption>,
    /// Full JID once bound.
    pub jid: String,
    /// Stream management id, if resumable.
    pub sm_id: Option<String>,
    /// Stanzas handled since SM was enabled (XEP-0198 #acking).
    pub handled: u32,
    is_counting: bool,
    /// Contacts in the roster that has come.
    pub contacts: usize,
}

impl Session {
    /// A client that has not connected yet.
    pub fn new(user: usize, resource: String, setup: Setup) -> Self {
        Self {
            user,
            resource,
            step: Step::WantSasl,
            setup,
            resumption: None,
            jid: String::new(),
            sm_id: None,
            handled: 0,
            is_counting: false,
            contacts: 0,
        }
    }

    /// The same client connects again to resume what it had.
    pub fn resume(&mut self) {
        self.resumption = self.sm_id.clone().map(|id| Resumption {
            id,
            handled: self.handled,
        });
    }

    /// Whether the login is over.
    pub const fn is_ready(&self) -> bool {
        matches!(self.step, Step::Ready)
    }

    /// The connection stands (with direct TLS: the handshake may still run).
    pub fn connected(&mut self, options: &Options, out: &mut Vec<u8>) {
        self.step = match options.tls {
            Security::StartTls => Step::WantTls,
            _ => Step::WantSasl,
        };
        header(options, out);
    }

    /// TLS has begun after STARTTLS.
    pub fn secured(&mut self, options: &Options, out: &mut Vec<u8>) {
        self.step = Step::WantSasl;
        header(options, out);
    }

    /// A first-level element of the stream, until the session is ready.
    ///
    /// # Errors
    /// [`Failure::Login`] with what the server said.
    pub fn on_login(
        &mut self,
        stanza: &[u8],
        (options, cache): (&Options, &mut KeyCache),
        out: &mut Vec<u8>,
    ) -> Result<Progress, Failure> {
        let name = frame::name(stanza);
        match (&mut self.step, name) {
            (Step::WantTls, b"features") => {
                out.extend_from_slice(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
                self.step = Step::Proceed;
            }
            (Step::Proceed, b"proceed") => return Ok(Progress::StartTls),
            (Step::WantSasl, b"features") => self.authenticate(stanza, options, out)?,
            (Step::Sasl(Some(exchange)), b"challenge") => {
                let content = frame::text(stanza).unwrap_or_default();
                let answer = exchange.respond(content, &options.password, cache)?;
                element(out, "response", "", &answer);
            }
            (Step::Sasl(exchange), b"success") => {
                let content = frame::text(stanza).unwrap_or_default();
                if exchange.as_ref().is_some_and(|e| !e.is_proof(content)) {
                    return Err(Failure::Login("the server's proof is wrong".to_owned()));
                }
                self.step = Step::WantBind;
                header(options, out);
                return Ok(Progress::Restart);
            }
            (Step::WantBind, b"features") => self.bind(out),
            (Step::Setup(_), _) => return self.on_setup(stanza, name, out),
            _ => return Err(unexpected(stanza)),
        }
        Ok(Progress::Wait)
    }

    fn authenticate(
        &mut self,
        features: &[u8],
        options: &Options,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let name = options.mechanism.name();
        if memmem::find(features, format!(">{name}<").as_bytes()).is_none() {
            return Err(Failure::Login(format!("{name} is not offered")));
        }
        let user = options.account(self.user);
        let (exchange, content) = if name == "PLAIN" {
            (None, scram::plain(&user, &options.password))
        } else {
            let (exchange, content) = Exchange::begin(options.mechanism, &user)?;
            (Some(exchange), content)
        };
        element(out, "auth", &format!(" mechanism='{name}'"), &content);
        self.step = Step::Sasl(exchange);
        Ok(())
    }

    fn bind(&mut self, out: &mut Vec<u8>) {
        if let Some(Resumption { id, handled }) = &self.resumption {
            let text = format!(
                "<resume xmlns='urn:xmpp:sm:3' h='{handled}' previd='{}'/>",
                escaped(id)
            );
            out.extend_from_slice(text.as_bytes());
        } else {
            let text = format!(
                "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                 <resource>{}</resource></bind></iq>",
                self.resource
            );
            out.extend_from_slice(text.as_bytes());
        }
        self.step = Step::Setup(1);
    }

    fn on_setup(
        &mut self,
        stanza: &[u8],
        name: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress, Failure> {
        let id = frame::attribute(stanza, "id").unwrap_or_default();
        let is_result = frame::attribute(stanza, "type") == Some(b"result");
        let is_answer = match name {
            b"iq" if id == b"bind" && is_result => {
                self.bound(stanza)?;
                self.ask(out);
                return Ok(self.progress(out));
            }
            b"iq" if id == b"carbons" && is_result => {
                self.count();
                true
            }
            b"iq" if id == b"roster" && is_result => {
                self.contacts = memmem::find_iter(stanza, b"<item ").count();
                self.count();
                true
            }
            b"enabled" => {
                self.is_counting = true;
                self.sm_id = (!id.is_empty()).then(|| unescaped(id));
                true
            }
            b"resumed" => true,
            b"failed" => return Err(unexpected(stanza)),
            b"iq" if matches!(id, b"bind" | b"carbons" | b"roster") => {
                return Err(unexpected(stanza));
            }
            // Presence of others, requests of the server: as in any session.
            _ => {
                self.on_stanza(stanza, out)?;
                false
            }
        };
        if is_answer && let Step::Setup(left) = &mut self.step {
            *left -= 1;
        }
        Ok(self.progress(out))
    }

    fn bound(&mut self, stanza: &[u8]) -> Result<(), Failure> {
        let jid = memmem::find(stanza, b"<jid>").and_then(|at| frame::text(&stanza[at..]));
        let jid = jid.ok_or_else(|| unexpected(stanza))?;
        self.jid = String::from_utf8_lossy(jid).into_owned();
        Ok(())
    }

    /// Sends the requests that follow the binding.
    fn ask(&mut self, out: &mut Vec<u8>) {
        let mut answers = 0;
        if let Some(is_resumable) = self.setup.sm {
            let resume = if is_resumable { " resume='true'" } else { "" };
            out.extend_from_slice(format!("<enable xmlns='urn:xmpp:sm:3'{resume}/>").as_bytes());
            answers += 1;
        }
        if self.setup.carbons {
            out.extend_from_slice(
                b"<iq type='set' id='carbons'><enable xmlns='urn:xmpp:carbons:2'/></iq>",
            );
            answers += 1;
        }
        if self.setup.roster {
            out.extend_from_slice(
                b"<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>",
            );
            answers += 1;
        }
        self.step = Step::Setup(answers);
    }

    fn progress(&mut self, out: &mut Vec<u8>) -> Progress {
        if !matches!(self.step, Step::Setup(0)) {
            return Progress::Wait;
        }
        if self.setup.presence && self.resumption.is_none() {
            out.extend_from_slice(b"<presence/>");
        }
        self.step = Step::Ready;
        Progress::Ready
    }

    /// What every client does with every element: counts it, and answers the server's requests.
    /// False if the element was such a request.
    ///
    /// # Errors
    /// [`Failure::Stream`] for a stream error.
    pub fn on_stanza(&mut self, stanza: &[u8], out: &mut Vec<u8>) -> Result<bool, Failure> {
        match frame::name(stanza) {
            b"r" => {
                let answer = format!("<a xmlns='urn:xmpp:sm:3' h='{}'/>", self.handled);
                out.extend_from_slice(answer.as_bytes());
                return Ok(false);
            }
            b"a" => return Ok(false),
            b"error" => return Err(Failure::Stream(lossy(stanza))),
            b"iq" => {
                self.count();
                if frame::attribute(stanza, "type") == Some(b"get") {
                    self.answer(stanza, out);
                    return Ok(false);
                }
            }
            b"message" | b"presence" => self.count(),
            _ => {}
        }
        Ok(true)
    }

    fn count(&mut self) {
        self.handled = self.handled.wrapping_add(u32::from(self.is_counting));
    }

    /// XEP-0199 #c2s; other requests of a server get the same empty result.
    fn answer(&self, stanza: &[u8], out: &mut Vec<u8>) {
        let id = lossy(frame::attribute(stanza, "id").unwrap_or_default());
        let mut text = format!("<iq type='result' id='{id}'");
        if let Some(from) = frame::attribute(stanza, "from") {
            let _ = write!(text, " to='{}'", lossy(from));
        }
        text.push_str("/>");
        out.extend_from_slice(text.as_bytes());
    }
}

fn header(options: &Options, out: &mut Vec<u8>) {
    let text = format!(
        "<?xml version='1.0'?><stream:stream to='{}' version='1.0' xml:lang='en' \
         xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>",
        options.domain
    );
    out.extend_from_slice(text.as_bytes());
}

fn element(out: &mut Vec<u8>, name: &str, attributes: &str, content: &str) {
    let text =
        format!("<{name} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'{attributes}>{content}</{name}>");
    out.extend_from_slice(text.as_bytes());
}

fn unexpected(stanza: &[u8]) -> Failure {
    Failure::Login(lossy(stanza))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const ENTITIES: [(&str, &str); 5] = [
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&apos;", "'"),
    ("&quot;", "\""),
    ("&amp;", "&"),
];

fn unescaped(value: &[u8]) -> String {
    ENTITIES.iter().fold(lossy(value), |text, (entity, char)| {
        text.replace(entity, char)
    })
}

fn escaped(value: &str) -> String {
    let ampersands = value.replace('&', "&amp;");
    ENTITIES[..4]
        .iter()
        .fold(ampersands, |text, (entity, char)| {
            text.replace(char, entity)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Options::parse(&words).unwrap()
    }

    #[test]
    fn a_login_by_plain_after_starttls_with_carbons_goes_through_its_steps() {
        let options = options("msg --tls starttls --mechanism PLAIN");
        let mut cache = KeyCache::default();
        let setup = Setup {
            presence: true,
            carbons: true,
            roster: true,
            sm: Some(true),
        };
        let mut session = Session::new(7, "r".to_owned(), setup);
        let mut out = Vec::new();
        session.connected(&options, &mut out);
        let mut feed = |session: &mut Session, xml: &str| {
            let mut out = Vec::new();
            let progress = session.on_login(xml.as_bytes(), (&options, &mut cache), &mut out);
            (progress.unwrap(), String::from_utf8(out).unwrap())
        };
        assert!(
            feed(&mut session, "<stream:features/>")
                .1
                .starts_with("<starttls")
        );
        assert_eq!(feed(&mut session, "<proceed/>").0, Progress::StartTls);
        session.secured(&options, &mut out);
        let features = "<features><mechanism>PLAIN</mechanism></features>";
        assert!(feed(&mut session, features).1.contains(">AHU3AGJlbmNo<"));
        assert!(feed(&mut session, "<success/>").1.starts_with("<?xml"));
        assert!(feed(&mut session, "<features/>").1.contains("<resource>r<"));
        let bound = "<iq id='bind' type='result'><bind><jid>u7@localhost/r</jid></bind></iq>";
        let (_, asked) = feed(&mut session, bound);
        assert!(asked.contains("carbons:2") && asked.contains("sm:3"));
        assert!(asked.contains("jabber:iq:roster"));
        assert_eq!(
            feed(&mut session, "<enabled id='a&amp;b'/>").0,
            Progress::Wait
        );
        assert_eq!(
            feed(&mut session, "<iq id='carbons' type='result'/>").0,
            Progress::Wait
        );
        let roster =
            "<iq id='roster' type='result'><query><item jid='a'/><item jid='b'/></query></iq>";
        let last = feed(&mut session, roster);
        assert_eq!(session.contacts, 2);
        assert_eq!(last, (Progress::Ready, "<presence/>".to_owned()));
        assert_eq!(
            (session.jid.as_str(), session.sm_id.as_deref()),
            ("u7@localhost/r", Some("a&b"))
        );
        let ping = "<iq type='get' id='p' from='localhost'/>";
        assert!(!session.on_stanza(ping.as_bytes(), &mut out).unwrap());
        assert!(session.on_stanza(b"<message/>", &mut out).unwrap());
        assert!(!session.on_stanza(b"<r/>", &mut out).unwrap());
        assert!(out.ends_with(b"<a xmlns='urn:xmpp:sm:3' h='4'/>"));
    }

    #[test]
    fn what_the_server_refuses_is_reported_in_its_words() {
        let options = options("msg");
        let mut cache = KeyCache::default();
        let mut session = Session::new(0, "r".to_owned(), Setup::default());
        let mut out = Vec::new();
        session.connected(&options, &mut out);
        let error = session.on_login(b"<failure><x/></failure>", (&options, &mut cache), &mut out);
        assert_eq!(
            error.unwrap_err().to_string(),
            "login: <failure><x/></failure>"
        );
        assert_eq!(escaped(&unescaped(b"a&lt;&amp;b")), "a&lt;&amp;b");
    }
}
