//! A gateway that counts and grants everything, a clock that stands still, sockets of loopback.

use antiphon_net::admission::LoginLimits;
use antiphon_net::client::ClientLimits;
use antiphon_net::gateway::{
    Count, Enabled, Ended, Flow, Gateway, HttpRequest, HttpResponse, Later, Peer, ResumeFailed,
};
use antiphon_net::listener::{
    ClientConfigs, Kind, ListenerConfig, Net, NetLimits, TlsMode, listen,
};
use antiphon_net::session::{QueueLimits, Session};
use antiphon_net::timers::Alarms;
use antiphon_net::tls::{CertificateFiles, TlsHosts, self_signed};
use antiphon_routing::SessionId;
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Answer, Mechanism, Query};
use antiphon_xmpp::stanza::{Stanza, StanzaCondition, StanzaError};
use antiphon_xmpp::stream::{Framing, StreamError, c2s, component, sm};
use antiphon_xmpp::xml::Limits;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const QUEUE: QueueLimits = QueueLimits {
    outgoing_bytes: 10_000,
    unacked: sm::QueueLimits {
        stanzas: 100,
        bytes: 10_000,
    },
    held_stanzas: 10,
};

/// What a node would be.
#[derive(Default)]
pub struct Fake {
    pub counts: Mutex<Vec<Count>>,
    pub is_stopping: AtomicBool,
    pub now_ms: AtomicU64,
    next: AtomicU64,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        let fake = Self::default();
        fake.now_ms.store(1_000_000, Ordering::SeqCst);
        Arc::new(fake)
    }

    pub fn counted(&self, what: Count) -> usize {
        self.counts.lock().iter().filter(|c| **c == what).count()
    }

    pub fn session(&self, jid: Jid, framing: Framing) -> Arc<Session> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let id = SessionId { node: 0, number };
        Arc::new(Session::new(id, jid, framing, QUEUE))
    }
}

fn later<T: Send + 'static>(value: T) -> Later<T> {
    Box::pin(async { value })
}

impl Gateway for Fake {
    fn auth(&self, _: Query, _: Peer) -> Later<Answer> {
        later(Answer::Verdict(Ok(())))
    }
    fn may_authenticate(&self, _: Peer) -> bool {
        true
    }
    fn auth_failed(&self, _: Peer) {}
    fn authenticated(&self, _: &Jid, _: Mechanism) {}
    fn bind(
        &self,
        account: Jid,
        _: Option<String>,
        framing: Framing,
    ) -> Later<Result<Arc<Session>, StanzaError>> {
        later(Ok(
            self.session(account.with_resource("r").unwrap(), framing)
        ))
    }
    fn stanza(&self, session: &Arc<Session>, stanza: Stanza, seq: u64) -> Flow {
        session.handled(seq);
        let _ = session.deliver(stanza, None, 0);
        Flow::Go
    }
    fn register(&self, iq: Stanza, _: Peer) -> Later<Stanza> {
        later(iq)
    }
    fn sm_enable(&self, _: &Arc<Session>, _: bool, _: Option<u32>) -> Enabled {
        Enabled {
            resume: None,
            location: None,
        }
    }
    fn sm_resume(
        &self,
        _: Jid,
        _: String,
        _: u32,
    ) -> Later<Result<(Arc<Session>, u32), ResumeFailed>> {
        later(Err(ResumeFailed::Failed {
            condition: StanzaCondition::ItemNotFound,
            h: None,
        }))
    }
    fn ended(&self, session: Arc<Session>, _: Ended) {
        session.finish(0);
    }
    fn offline_received(&self, _: &Jid, _: Vec<u64>) {}
    fn http(&self, request: HttpRequest) -> Later<HttpResponse> {
        later(HttpResponse {
            status: 200,
            headers: Vec::new(),
            body: format!("{} {}", request.method, request.path).into(),
        })
    }
    fn component_up(&self, domain: &Jid) -> Result<Arc<Session>, StreamError> {
        Ok(self.session(domain.clone(), Framing::Tcp))
    }
    fn component_stanza(&self, _: &Arc<Session>, _: Stanza) {}
    fn component_down(&self, _: &Arc<Session>) {}
    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }
    fn random(&self, out: &mut [u8]) {
        out.fill(7);
    }
    fn count(&self, what: Count) {
        self.counts.lock().push(what);
    }
}

/// Listeners around a [`Fake`].
pub struct World {
    pub fake: Arc<Fake>,
    pub net: Arc<Net>,
    pub alarms: Arc<Alarms>,
}

fn certificates() -> TlsHosts {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let name = format!("antiphon-net-{}-{number}", std::process::id());
    let folder: PathBuf = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = self_signed(&["a.example".to_owned()]).unwrap();
    let files = CertificateFiles {
        domain: "a.example".to_owned(),
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&files.certificate, certificate).unwrap();
    std::fs::write(&files.key, key).unwrap();
    let hosts = TlsHosts::load(&[files], None).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    hosts
}

impl World {
    /// `connections`: of one address.
    pub fn new(connections: u32) -> Self {
        let fake = Fake::new();
        let limits = Limits {
            stanza_bytes: 10_000,
            depth: 10,
            elements: 100,
            attributes: 10,
        };
        let stream = |starttls| {
            Arc::new(c2s::Config {
                hosts: vec![Arc::new(c2s::HostConfig {
                    domain: Jid::parse("a.example").unwrap(),
                    mechanisms: vec![Mechanism::Plain],
                    extra_features: Vec::new(),
                    registration: false,
                    is_sm_on: true,
                    is_csi_on: true,
                })],
                limits_before_login: limits,
                limits,
                auth_attempts: 3,
                allow_plaintext: true,
                starttls,
                sm_resume_seconds: 60,
                idle_seconds: 60,
                dummy_secret: Arc::from([1; 32].as_slice()),
                dummy_iterations: 4096,
            })
        };
        let components = component::Config {
            components: Vec::new(),
            domain: Jid::parse("a.example").unwrap(),
            limits_before_login: limits,
            limits,
        };
        let net_limits = NetLimits {
            connections_per_address: connections,
            client: Arc::new(ClientLimits {
                login_seconds: 30,
                stanzas_per_second: 0,
                burst_stanzas: 0,
                bytes_per_second: 0,
                burst_bytes: 0,
                ping_seconds: 0,
                ping_timeout_seconds: 0,
                read_ahead: 100_000,
            }),
            http_body_bytes: 100,
            logins: LoginLimits {
                at_once: 2,
                connections: 0,
            },
        };
        let alarms = Arc::new(Alarms::default());
        let configs = ClientConfigs {
            starttls: stream(true),
            other: stream(false),
        };
        let gateway: Arc<dyn Gateway> = fake.clone();
        let net = Net::new(
            gateway,
            Arc::clone(&alarms),
            certificates(),
            configs,
            components,
            net_limits,
        );
        Self {
            fake,
            net: Arc::new(net),
            alarms,
        }
    }

    pub async fn listen(&self, kind: Kind, tls: TlsMode) -> SocketAddr {
        let config = ListenerConfig {
            kind,
            address: "127.0.0.1:0".parse().unwrap(),
            tls,
            paths: vec!["/ws".to_owned(), "/livez".to_owned()],
        };
        listen(Arc::clone(&self.net), config).await.unwrap()
    }

    /// Lets time pass for whoever has set an alarm.
    pub fn pass(&self, ms: u64) {
        let now_ms = self.fake.now_ms.fetch_add(ms, Ordering::SeqCst) + ms;
        self.alarms.sweep(now_ms);
    }
}

/// Until the peer closes; fails after ten seconds.
pub async fn read_all(io: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let reading = async {
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = io.read(&mut buf).await {
            all.extend_from_slice(&buf[..n]);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("the connection does not end");
    all
}

/// Until that has come.
pub async fn read_until(io: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let reading = async {
        let mut buf = [0; 4096];
        loop {
            let n = io.read(&mut buf).await.unwrap();
            assert!(n > 0, "closed; got {}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&buf[..n]);
            if String::from_utf8_lossy(&all).contains(text) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("it does not come");
    String::from_utf8(all).unwrap()
}

pub const HEADER: &str = "<stream:stream xmlns='jabber:client' version='1.0' to='a.example' \
     xmlns:stream='http://etherx.jabber.org/streams'>";

/// A stream up to its features.
pub async fn opened(address: SocketAddr) -> TcpStream {
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(HEADER.as_bytes()).await.unwrap();
    read_until(&mut io, "</stream:features>").await;
    io
}

/// Waits until it holds.
pub async fn eventually(mut test: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if test() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never holds");
}
