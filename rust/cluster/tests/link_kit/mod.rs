//! Nodes that are nothing but links, with certificates and proxies between them.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod wall;

use antiphon_cluster::clock;
use antiphon_cluster::id::{Epoch, Incarnation, NodeId, Timing};
use antiphon_cluster::link::{
    Class, LinkEvent, Links, Options, Receiver, TUNNELS_MAX, Taken, Target,
};
use antiphon_cluster::log::{Fields, Level, Log};
use antiphon_cluster::member::PROTOCOL;
use antiphon_cluster::relay::Outcome;
use antiphon_cluster::tls::Files;
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Who signs certificates of nodes.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Files for a node in a folder; what was there is replaced.
    pub fn issue(&self, folder: &Path, name: &str) -> Files {
        self.issue_for(folder, name, &[name])
    }

    /// The same with other names or addresses in the certificate.
    pub fn issue_for(&self, folder: &Path, name: &str, bears: &[&str]) -> Files {
        let bears: Vec<String> = bears.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(bears).expect("params");
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let write = |file: &str, text: &str| -> PathBuf {
            let path = folder.join(format!("{name}-{file}"));
            std::fs::write(&path, text).expect("written");
            path
        };
        Files {
            ca: Some(write("ca.pem", &self.pem)),
            certificate: Some(write("cert.pem", &certificate.pem())),
            key: Some(write("key.pem", &key.serialize_pem())),
        }
    }
}

/// Lines of the log.
#[derive(Default)]
pub struct Lines(pub Mutex<Vec<String>>);

impl Log for Lines {
    fn log(&self, level: Level, event: &'static str, fields: Fields<'_>) {
        let fields: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let line = format!("{level:?} {event} {}", fields.join(" "));
        self.0.lock().expect("lines").push(line);
    }
}

impl Lines {
    pub fn has(&self, part: &str) -> bool {
        let lines = self.0.lock().expect("lines");
        lines.iter().any(|line| line.contains(part))
    }
}

type Answer = Box<dyn Fn(&Links, Incarnation, Class, u64, &Bytes) -> Taken + Send + Sync>;

/// What a node took and what it was told.
pub struct Seen {
    pub units: Mutex<Vec<(u32, Class, Bytes)>>,
    pub settled: Mutex<Vec<(u64, Outcome)>>,
    pub count: AtomicUsize,
    pub settled_count: AtomicUsize,
    answer: Answer,
    keeps: bool,
    links: OnceLock<Links>,
}

impl Receiver for Seen {
    fn receive(&self, from: Incarnation, class: Class, number: u64, unit: Bytes) -> Taken {
        let links = self.links.get().expect("set");
        let taken = (self.answer)(links, from, class, number, &unit);
        if self.keeps {
            self.units
                .lock()
                .expect("units")
                .push((from.0, class, unit));
        }
        self.count.fetch_add(1, Ordering::SeqCst);
        taken
    }

    fn settled(&self, _to: Incarnation, _class: Class, outcomes: &[(u64, Outcome)]) {
        if self.keeps {
            self.settled.lock().expect("settled").extend(outcomes);
        }
        self.settled_count
            .fetch_add(outcomes.len(), Ordering::SeqCst);
    }

    fn observed(&self, _from: Incarnation, _clock: u64, _epoch: Epoch) {}
}

/// A node on a runtime of its own.
pub struct Node {
    pub runtime: Option<Runtime>,
    pub links: Links,
    pub seen: Arc<Seen>,
    pub lines: Arc<Lines>,
    pub events: Arc<Mutex<Vec<LinkEvent>>>,
    pub target: Target,
}

/// How to make one.
pub struct Plan {
    pub name: &'static str,
    pub life: u32,
    pub cluster: &'static str,
    pub protocol: u16,
    pub wall_ms: fn() -> u64,
    pub window_bytes: u64,
    pub queue_bytes_max: usize,
    pub tunnels_max: usize,
    pub threads: usize,
    pub keeps: bool,
    pub answer: Answer,
}

impl Plan {
    pub fn new(name: &'static str, life: u32) -> Self {
        Self {
            name,
            life,
            cluster: "test",
            protocol: PROTOCOL,
            wall_ms: clock::wall_ms,
            window_bytes: 2 << 20,
            queue_bytes_max: 4 << 20,
            tunnels_max: TUNNELS_MAX,
            threads: 1,
            keeps: true,
            answer: Box::new(|_, _, _, _, _| Taken::Settled(Outcome::Done)),
        }
    }

    pub fn start(self, files: Files) -> Node {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.threads)
            .enable_all()
            .build()
            .expect("runtime");
        let lines = Arc::new(Lines::default());
        let seen = Arc::new(Seen {
            units: Mutex::default(),
            settled: Mutex::default(),
            count: AtomicUsize::new(0),
            settled_count: AtomicUsize::new(0),
            answer: self.answer,
            keeps: self.keeps,
            links: OnceLock::new(),
        });
        let node = NodeId::new(self.name).expect("name");
        let options = Options {
            cluster: self.cluster.to_owned(),
            node: node.clone(),
            version: "0.0.test".to_owned(),
            tls: files,
            queue_bytes_max: self.queue_bytes_max,
            window_bytes: self.window_bytes,
            tunnels_max: self.tunnels_max,
            timing: Timing::default(),
            protocol: self.protocol,
            wall_ms: self.wall_ms,
            log: Arc::clone(&lines) as Arc<dyn Log>,
        };
        let links = Links::new(
            options,
            Arc::clone(&seen) as Arc<dyn Receiver>,
            runtime.handle().clone(),
        )
        .expect("certificates");
        let _ = seen.links.set(links.clone());
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&events);
        links.observe(move |event| log.lock().expect("events").push(event));
        links.joined(Incarnation(self.life));
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        links.listen(listener);
        Node {
            runtime: Some(runtime),
            links,
            seen,
            lines,
            events,
            target: Target {
                node,
                incarnation: Incarnation(self.life),
                address,
            },
        }
    }
}

impl Node {
    pub fn life(&self) -> Incarnation {
        self.target.incarnation
    }

    /// Waits until so many units were taken.
    pub fn wait_for(&self, count: usize) {
        wait(&format!("{count} units"), || {
            self.seen.count.load(Ordering::SeqCst) >= count
        });
    }

    pub fn wait_settled(&self, count: usize) {
        wait(&format!("{count} outcomes"), || {
            self.seen.settled_count.load(Ordering::SeqCst) >= count
        });
    }

    pub fn numbers(&self) -> Vec<u32> {
        let units = self.seen.units.lock().expect("units");
        units.iter().map(|(_, _, unit)| number(unit)).collect()
    }

    pub fn is_up(&self, to: &Node) -> bool {
        let stats = self.links.stats();
        stats
            .iter()
            .filter(|s| s.incarnation == to.life() && s.is_up)
            .count()
            == 2
    }

    /// Over whom its links to another go: stanzas, bulk.
    pub fn via(&self, to: &Node) -> [Option<String>; 2] {
        let stats = self.links.stats();
        [Class::Stanza, Class::Bulk].map(|class| {
            let found = stats
                .iter()
                .find(|s| s.incarnation == to.life() && s.class == class);
            let via = found.and_then(|s| s.via.as_ref());
            via.map(ToString::to_string)
        })
    }

    /// Whether its port was ever called refused.
    pub fn saw_refusal(&self) -> bool {
        let events = self.events.lock().expect("events");
        let is_refusal = |e: &LinkEvent| {
            matches!(
                e,
                LinkEvent::Port {
                    is_refused: true,
                    ..
                }
            )
        };
        events.iter().any(is_refusal)
    }

    /// Everything of it is gone, as with a process.
    pub fn stop(&mut self) {
        self.links.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn number(unit: &[u8]) -> u32 {
    u32::from_be_bytes(unit[..4].try_into().expect("four bytes"))
}

pub fn unit(number: u32, size: usize) -> Bytes {
    let mut bytes = vec![0x61; size.max(4)];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

pub fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends, waiting while there is no room.
pub fn send_for_sure(from: &Node, to: Incarnation, unit: &Bytes) {
    wait("room", || {
        match from.links.send(to, Class::Stanza, unit.clone()) {
            Ok(_) => true,
            Err(antiphon_cluster::link::SendError::Full(_)) => false,
            Err(error) => panic!("{error}"),
        }
    });
}

/// A runtime of one thread.
fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime")
}

/// Stands between two nodes and resets connections when told.
pub struct Proxy {
    pub address: String,
    cut: tokio::sync::watch::Sender<u32>,
    is_shut: Arc<AtomicBool>,
    _runtime: Runtime,
}

impl Proxy {
    pub fn start(target: String) -> Self {
        let runtime = one_thread();
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let (cut, is_cut) = tokio::sync::watch::channel(0);
        let is_shut = Arc::new(AtomicBool::new(false));
        let shut = Arc::clone(&is_shut);
        runtime.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if shut.load(Ordering::SeqCst) {
                    continue;
                }
                let (target, mut is_cut) = (target.clone(), is_cut.clone());
                is_cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_cut.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            cut,
            is_shut,
            _runtime: runtime,
        }
    }

    /// Cuts, and lets nobody through any more.
    pub fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }
}
