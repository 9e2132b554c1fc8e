//! What a message and an idle session cost, counted and not timed: a node as it runs, real sockets,
//! an allocator that counts. The client's side allocates nothing while it is looked at.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

use antiphon_counting::Counting;
use antiphon_node::Core;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

#[global_allocator]
static COUNTING: Counting = Counting::new();

/// One test at a time: the allocator counts for all threads.
static ALONE: Mutex<()> = Mutex::new(());

const DOMAIN: &str = "capulet.example";
const TIMEOUT: Duration = Duration::from_secs(20);
/// What is left to finish after the last answer: the runtime puts tasks away.
const SETTLE: Duration = Duration::from_millis(1_500);

/// A running node in a folder of its own.
struct World {
    core: Core,
    folder: PathBuf,
    address: SocketAddr,
}

impl World {
    fn new(name: &str) -> Self {
        let name = format!("antiphon-counting-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let core = Core::new(&config(&folder)).unwrap();
        core.start().unwrap();
        let address = core.addresses()[0].1.parse().unwrap();
        Self {
            core,
            folder,
            address,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.core.stop(Duration::from_secs(5));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn config(folder: &std::path::Path) -> String {
    let data = folder.join("data").display().to_string();
    serde_json::json!({
        "node_name": "test", "data_dir": data, "log_level": 30, "worker_threads": 1,
        "hosts": [{
            "domain": DOMAIN, "certificate": null, "key": null,
            "extra_features": "", "registration": false,
        }],
        "listeners": [{"kind": "c2s", "address": "127.0.0.1:0", "tls": "none"}],
        "auth": {
            "mechanisms": ["ANONYMOUS"],
            "scram_iterations": 4096, "client_ca": null, "allow_plaintext": true,
        },
        "storage": {"backend": "sqlite"},
        "components": [],
        "limits": {
            "connections_per_address": 0, "connections_before_login": 0,
            "logins_per_worker": 0, "stanza_bytes": 262_144,
            "stanza_bytes_before_login": 65_536, "stanza_depth": 64, "stanza_elements": 10_000,
            "stanza_attributes": 100, "login_seconds": 60, "idle_seconds": 300,
            "auth_attempts": 5, "auth_failures_per_minute": 0, "sessions_per_user": 20,
            "roster_items": 2000, "blocked_items": 1000, "offline_messages": 1000,
            "sm_queue_stanzas": 1000, "sm_resume_seconds": 600, "stanzas_per_second": 1_000_000,
            "burst_stanzas": 1_000_000, "bytes_per_second": 100_000_000,
            "burst_bytes": 100_000_000, "outgoing_bytes": 1_000_000,
            "registrations_per_hour": 0, "http_body_bytes": 100_000,
        },
        "handlers": [],
        "modules": {
            "offline": true, "carbons": true, "blocking": true, "csi": true, "sm": true,
            "ping": true, "caps": true,
        },
    })
    .to_string()
}

/// An anonymous session; reads and writes without allocating.
struct Client {
    io: TcpStream,
    jid: String,
}

impl Client {
    /// Connects, logs in, binds, announces itself.
    fn online(address: SocketAddr, sm: bool) -> Self {
        let io = TcpStream::connect(address).unwrap();
        io.set_nodelay(true).unwrap();
        io.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut client = Self {
            io,
            jid: String::new(),
        };
        let header = format!(
            "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
             to='{DOMAIN}' version='1.0'>"
        );
        client.ask(&header, "</stream:features>");
        let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'/>";
        client.ask(auth, "<success");
        client.ask(&header, "</stream:features>");
        let bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
        let bound = client.ask(bind, "</iq>");
        let (_, jid) = bound.split_once("<jid>").unwrap();
        client.jid = jid.split('<').next().unwrap().to_owned();
        if sm {
            client.ask("<enable xmlns='urn:xmpp:sm:3' resume='true'/>", "<enabled");
        }
        // Its own presence comes back (RFC 6121 §4.2.2).
        client.ask("<presence><priority>1</priority></presence>", "</presence>");
        client
    }

    fn ask(&mut self, text: &str, until: &str) -> String {
        self.io.write_all(text.as_bytes()).unwrap();
        let mut seen = String::new();
        let mut scratch = [0; 4096];
        while !seen.contains(until) {
            let n = self.io.read(&mut scratch).unwrap();
            assert!(n > 0, "the node closed the stream: {seen}");
            seen.push_str(std::str::from_utf8(&scratch[..n]).unwrap());
        }
        seen
    }

    /// Reads messages to the end of the last of so many.
    fn take(&mut self, count: usize) {
        const END: &[u8] = b"</message>";
        let mut scratch = [0; 65_536];
        let (mut held, mut seen) = (0, 0);
        loop {
            let n = self.io.read(&mut scratch[held..]).unwrap();
            assert!(n > 0, "the node closed the stream");
            held += n;
            let text = &scratch[..held];
            seen += text.windows(END.len()).filter(|w| *w == END).count();
            if seen >= count && text.ends_with(END) {
                return;
            }
            // The last bytes may be the first of an end tag.
            let kept = held.min(END.len() - 1);
            scratch.copy_within(held - kept..held, 0);
            held = kept;
        }
    }
}

/// Allocations for each of many messages that come so many at a time.
fn allocations_per_message(name: &str, at_once: usize) -> f64 {
    let world = World::new(name);
    let mut romeo = Client::online(world.address, false);
    let mut juliet = Client::online(world.address, false);
    let message = format!(
        "<message to='{}' type='chat' id='m1'><body>{}</body></message>",
        juliet.jid,
        "x".repeat(100)
    )
    .repeat(at_once);
    let mut run = |rounds: usize| {
        for _ in 0..rounds {
            romeo.io.write_all(message.as_bytes()).unwrap();
            juliet.take(at_once);
        }
    };
    run(500);
    let before = COUNTING.allocations();
    run(1_000);
    (COUNTING.allocations() - before) as f64 / (1_000 * at_once) as f64
}

#[test]
fn a_message_alone_takes_at_most_the_allocations_allowed() {
    let _alone = ALONE.lock();
    let each = allocations_per_message("alone", 1);
    println!("{each} allocations for a message that comes alone");
    assert!(each <= ALONE_AT_MOST, "{each}");
}

#[test]
fn a_message_among_others_takes_at_most_three_allocations() {
    let _alone = ALONE.lock();
    let each = allocations_per_message("among", 50);
    println!("{each} allocations for a message among others");
    assert!(each <= 3.05, "{each}");
}

/// Allocations for a message that finds every buffer empty.
const ALONE_AT_MOST: f64 = 3.05;

/// What each of many idle sessions holds: bytes, blocks.
fn held_by_a_session(name: &str, sm: bool) -> (isize, isize) {
    const SESSIONS: isize = 200;
    let world = World::new(name);
    let mut clients = Vec::with_capacity(2 * SESSIONS as usize);
    // What the first ones leave behind stays: tables, buffers of threads.
    for _ in 0..SESSIONS {
        clients.push(Client::online(world.address, sm));
    }
    std::thread::sleep(SETTLE);
    let before = (COUNTING.bytes(), COUNTING.live());
    for _ in 0..SESSIONS {
        clients.push(Client::online(world.address, sm));
    }
    std::thread::sleep(SETTLE);
    let after = (COUNTING.bytes(), COUNTING.live());
    // A client here holds its address.
    let own: usize = clients
        .iter()
        .skip(SESSIONS as usize)
        .map(|c| c.jid.capacity())
        .sum();
    let bytes = (after.0 - before.0 - own as isize) / SESSIONS;
    (bytes, (after.1 - before.1) / SESSIONS - 1)
}

#[test]
fn an_idle_session_holds_no_buffer() {
    let _alone = ALONE.lock();
    for (name, sm, limit) in [("idle", false, 3_584), ("idle-sm", true, 4_608)] {
        let (bytes, blocks) = held_by_a_session(name, sm);
        println!("{name}: {bytes} bytes in {blocks} blocks");
        // A read buffer alone would be 4 KiB and more.
        assert!(bytes <= limit, "{name}: {bytes}");
        assert!(blocks <= 32, "{name}: {blocks}");
    }
}

#[test]
fn idle_sessions_do_nothing() {
    let _alone = ALONE.lock();
    let world = World::new("nothing");
    let clients: Vec<_> = (0..200)
        .map(|_| Client::online(world.address, false))
        .collect();
    std::thread::sleep(SETTLE);
    let before = COUNTING.allocations();
    std::thread::sleep(Duration::from_secs(2));
    let made = COUNTING.allocations() - before;
    println!(
        "{made} allocations in two seconds of {} idle sessions",
        clients.len()
    );
    // Four ticks of the node; a timer or a look at each session would show as many as there are.
    assert!(made < clients.len() / 2, "{made}");
}
