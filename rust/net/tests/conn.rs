//! Connections with a driver that does what the test says.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use antiphon_net::conn::{Conn, Driver, Step};
use antiphon_net::gateway::Count;
use antiphon_net::listener::{Kind, TlsMode};
use antiphon_net::transport::Transport;
use antiphon_net::ws;
use antiphon_xmpp::stream::c2s::Channel;
use antiphon_xmpp::stream::framing::{Framing, Outgoing};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;
use std::time::Duration;
use support::{World, eventually, opened, read_all, read_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a test sees of its driver.
#[derive(Default)]
struct Seen {
    backlog: AtomicUsize,
    fed: AtomicUsize,
    polls: AtomicUsize,
    is_lost: AtomicBool,
    is_aborted: AtomicBool,
    is_dropped: AtomicBool,
    /// Takes no more.
    is_full: AtomicBool,
}

/// Obeys words: `panic`, `flood`, `close`, `tls`, `panic twice`; echoes all else.
struct Puppet {
    seen: Arc<Seen>,
    input: Vec<u8>,
    out: Outgoing,
    is_over: bool,
    panics_again: bool,
}

impl Driver for Puppet {
    fn feed(&mut self, bytes: &[u8]) {
        self.seen.fed.fetch_add(bytes.len(), Ordering::SeqCst);
        self.input.extend_from_slice(bytes);
    }

    fn poll(&mut self, _: &mut Context<'_>, _: u64) -> Step {
        self.seen.polls.fetch_add(1, Ordering::SeqCst);
        let input = std::mem::take(&mut self.input);
        let word = String::from_utf8_lossy(&input).into_owned();
        match word.trim() {
            "panic" => panic!("the driver panics, as told"),
            "panic twice" => {
                self.panics_again = true;
                panic!("the driver panics, as told")
            }
            "flood" => self.out.raw(&vec![b'x'; 20_000_000]),
            "close" => {
                self.is_over = true;
                self.out.raw(b"<end/>");
            }
            "tls" => {
                self.out.raw(b"<proceed/>");
                return Step::StartTls("a.example".to_owned());
            }
            "" => {}
            word => self.out.raw(format!("echo {word}").as_bytes()),
        }
        if self.is_over {
            Step::Close
        } else {
            Step::Idle
        }
    }

    fn backlog(&mut self, bytes: usize) {
        self.seen.backlog.store(bytes, Ordering::SeqCst);
    }

    fn take_out(&mut self) -> Outgoing {
        let framing = self.out.framing();
        std::mem::replace(&mut self.out, Outgoing::new(framing))
    }

    fn flushed(&mut self) {}

    fn tls_started(&mut self, _: Channel) {
        self.out.raw(b"<secure/>");
    }

    fn is_logged_in(&self) -> bool {
        true
    }

    fn wants_read(&self) -> bool {
        !self.seen.is_full.load(Ordering::SeqCst)
    }

    fn lost(&mut self) {
        self.seen.is_lost.store(true, Ordering::SeqCst);
    }

    fn due_ms(&self) -> u64 {
        1_000_000 + 60_000
    }

    fn abort(&mut self) {
        self.seen.is_aborted.store(true, Ordering::SeqCst);
        if self.panics_again {
            panic!("the driver panics in its abort, as told");
        }
        self.out.raw(b"<internal-server-error/>");
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.seen.is_dropped.store(true, Ordering::SeqCst);
    }
}

/// A connection with a puppet at the server's end.
async fn puppet(world: &World, framing: Framing) -> (TcpStream, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (io, _) = listener.accept().await.unwrap();
    let seen = Arc::new(Seen::default());
    let driver = Puppet {
        seen: Arc::clone(&seen),
        input: Vec::new(),
        out: Outgoing::new(framing),
        is_over: false,
        panics_again: false,
    };
    let ws = (framing == Framing::WebSocket).then(|| ws::Decoder::new(10_000));
    tokio::spawn(Conn::new(
        Transport::plain(io),
        ws,
        driver,
        world.net.shared(),
    ));
    (peer, seen)
}

#[tokio::test]
async fn a_panic_ends_its_stream_with_an_error_and_no_other() {
    let world = World::new(0);
    let (mut other, _) = puppet(&world, Framing::Tcp).await;
    let (mut peer, seen) = puppet(&world, Framing::Tcp).await;
    peer.write_all(b"panic").await.unwrap();
    assert_eq!(read_all(&mut peer).await, b"<internal-server-error/>");
    drop(peer);
    assert!(seen.is_aborted.load(Ordering::SeqCst));
    eventually(|| seen.is_dropped.load(Ordering::SeqCst)).await;
    assert_eq!(world.fake.counted(Count::Panicked), 1);
    other.write_all(b"still here").await.unwrap();
    read_until(&mut other, "echo still here").await;
}

#[tokio::test]
async fn nothing_follows_the_end_of_a_stream_whose_client_acknowledges_last() {
    let world = World::new(0);
    let address = world.listen(Kind::C2s, TlsMode::None).await;
    let mut io = opened(address).await;
    let sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
    let auth = format!("<auth {sasl} mechanism='PLAIN'>AHUAcA==</auth>");
    io.write_all(auth.as_bytes()).await.unwrap();
    read_until(&mut io, "<success").await;
    io.write_all(support::HEADER.as_bytes()).await.unwrap();
    read_until(&mut io, "</stream:features>").await;
    let bind = "<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
    io.write_all(bind.as_bytes()).await.unwrap();
    read_until(&mut io, "</iq>").await;
    io.write_all(b"<enable xmlns='urn:xmpp:sm:3'/>")
        .await
        .unwrap();
    read_until(&mut io, "<enabled").await;
    io.write_all(b"<message id='first'/>").await.unwrap();
    read_until(&mut io, "<r xmlns='urn:xmpp:sm:3'/>").await;
    // Nothing asks for its acknowledgement while another is due, and it has none when all ends.
    io.write_all(b"<message id='second'/>").await.unwrap();
    read_until(&mut io, "second").await;
    io.write_all(b"<a xmlns='urn:xmpp:sm:3' h='1'/></stream:stream>")
        .await
        .unwrap();
    let end = read_all(&mut io).await;
    assert!(
        end.ends_with(b"</stream:stream>"),
        "{}",
        String::from_utf8_lossy(&end)
    );
}

#[tokio::test]
async fn a_panic_while_ending_after_one_ends_the_connection() {
    let world = World::new(0);
    let (mut peer, seen) = puppet(&world, Framing::Tcp).await;
    peer.write_all(b"panic twice").await.unwrap();
    assert_eq!(read_all(&mut peer).await, b"");
    assert!(seen.is_dropped.load(Ordering::SeqCst));
    assert_eq!(world.alarms.len(), 0);
}

#[tokio::test]
async fn a_panic_behind_a_websocket_ends_it_with_a_close_frame() {
    let world = World::new(0);
    let (mut peer, _) = puppet(&world, Framing::WebSocket).await;
    peer.write_all(&masked(b"panic")).await.unwrap();
    let all = read_all(&mut peer).await;
    let error = b"<internal-server-error/>";
    assert_eq!(&all[2..2 + error.len()], error);
    assert_eq!(&all[2 + error.len()..], ws::close_frame(1000));
}

/// A text frame of a client.
fn masked(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(text);
    frame
}

#[tokio::test]
async fn the_driver_is_told_of_its_backlog_and_of_its_end() {
    let world = World::new(0);
    let (mut peer, seen) = puppet(&world, Framing::Tcp).await;
    peer.write_all(b"flood").await.unwrap();
    eventually(|| seen.backlog.load(Ordering::SeqCst) > 0).await;
    let mut left = 20_000_000;
    let mut buf = vec![0; 1 << 20];
    while left > 0 {
        left -= peer.read(&mut buf).await.unwrap();
    }
    eventually(|| seen.backlog.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_closing_stream_waits_a_bounded_time_for_a_peer_that_does_not_read() {
    let world = World::new(0);
    let (mut peer, seen) = puppet(&world, Framing::Tcp).await;
    peer.write_all(b"flood").await.unwrap();
    eventually(|| seen.backlog.load(Ordering::SeqCst) > 0).await;
    peer.write_all(b"close").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.pass(2_000);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!seen.is_dropped.load(Ordering::SeqCst));
    world.pass(1_001);
    eventually(|| seen.is_dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_closed_stream_waits_a_bounded_time_for_its_peer_to_close() {
    let world = World::new(0);
    let (mut peer, seen) = puppet(&world, Framing::Tcp).await;
    peer.write_all(b"close").await.unwrap();
    assert_eq!(read_all(&mut peer).await, b"<end/>");
    let fed = seen.fed.load(Ordering::SeqCst);
    peer.write_all(b"too late").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(seen.fed.load(Ordering::SeqCst), fed);
    assert!(!seen.is_dropped.load(Ordering::SeqCst));
    world.pass(3_001);
    eventually(|| seen.is_dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_lost_connection_is_reported() {
    let world = World::new(0);
    let (peer, seen) = puppet(&world, Framing::Tcp).await;
    drop(peer);
    eventually(|| seen.is_lost.load(Ordering::SeqCst)).await;
    eventually(|| seen.is_dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn frames_that_a_full_driver_left_are_fed_when_it_takes_more() {
    let world = World::new(0);
    let (mut peer, seen) = puppet(&world, Framing::WebSocket).await;
    seen.is_full.store(true, Ordering::SeqCst);
    peer.write_all(&[masked(b"one"), masked(b"two")].concat())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(seen.fed.load(Ordering::SeqCst), 0);
    seen.is_full.store(false, Ordering::SeqCst);
    // Woken by anything but the socket, as by a rate limit that lets go.
    world.pass(100_000);
    eventually(|| seen.fed.load(Ordering::SeqCst) == 6).await;
}

#[tokio::test]
async fn pongs_for_a_peer_that_does_not_read_are_bounded() {
    let world = World::new(0);
    let (mut peer, seen) = puppet(&world, Framing::WebSocket).await;
    let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    ping.extend_from_slice(&[b'p'; 125]);
    let batch = ping.repeat(1000);
    let mut written = 0;
    while written < 100_000_000 {
        let writing = peer.write_all(&batch);
        match tokio::time::timeout(Duration::from_millis(500), writing).await {
            Ok(done) => done.unwrap(),
            Err(_) => break,
        }
        written += batch.len();
    }
    assert!(written < 100_000_000, "it reads on and on");
    assert!(seen.backlog.load(Ordering::SeqCst) < 200_000);
}

// -- TLS within the stream (RFC 6120 §5.4) ----------------------------------------------------

#[tokio::test]
async fn a_handshake_that_is_none_ends_the_connection_with_an_alert() {
    let world = World::new(0);
    let (mut peer, seen) = puppet(&world, Framing::Tcp).await;
    peer.write_all(b"tls").await.unwrap();
    read_until(&mut peer, "<proceed/>").await;
    peer.write_all(b"<stream:stream this is no ClientHello>")
        .await
        .unwrap();
    let alert = read_all(&mut peer).await;
    assert_eq!(alert.first(), Some(&21), "an alert record");
    assert!(seen.is_lost.load(Ordering::SeqCst));
    assert_eq!(world.fake.counted(Count::TlsFailed), 1);
}

#[tokio::test]
async fn a_handshake_that_never_comes_ends_at_the_deadline() {
    let world = World::new(0);
    let (mut peer, seen) = puppet(&world, Framing::Tcp).await;
    peer.write_all(b"tls").await.unwrap();
    read_until(&mut peer, "<proceed/>").await;
    world.pass(59_000);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!seen.is_dropped.load(Ordering::SeqCst));
    world.pass(1_000);
    assert_eq!(read_all(&mut peer).await, b"");
    assert!(seen.is_dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_handshake() {
    let world = World::new(0);
    let (mut peer, seen) = puppet(&world, Framing::Tcp).await;
    peer.write_all(b"tls").await.unwrap();
    read_until(&mut peer, "<proceed/>").await;
    world.fake.is_stopping.store(true, Ordering::SeqCst);
    world.alarms.sweep(u64::MAX);
    assert_eq!(read_all(&mut peer).await, b"");
    eventually(|| seen.is_dropped.load(Ordering::SeqCst)).await;
}

// -- listeners --------------------------------------------------------------------------------

#[tokio::test]
async fn a_stop_tells_those_who_have_not_logged_in() {
    let world = World::new(0);
    let address = world.listen(Kind::C2s, TlsMode::Starttls).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut peer = opened(address).await;
    eventually(|| world.alarms.len() == 2).await;
    world.fake.is_stopping.store(true, Ordering::SeqCst);
    for io in [&mut silent, &mut peer] {
        let end = async {
            loop {
                world.alarms.sweep(u64::MAX);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let text = tokio::select! {
            text = read_all(io) => String::from_utf8(text).unwrap(),
            () = end => unreachable!(),
        };
        assert!(text.contains("system-shutdown"), "{text}");
    }
}

#[tokio::test]
async fn a_connection_too_many_learns_why_even_if_it_spoke_first() {
    let world = World::new(1);
    let address = world.listen(Kind::C2s, TlsMode::Starttls).await;
    let kept = opened(address).await;
    for _ in 0..20 {
        let mut extra = TcpStream::connect(address).await.unwrap();
        let _ = extra.write_all(support::HEADER.as_bytes()).await;
        let text = String::from_utf8(read_all(&mut extra).await).unwrap();
        assert!(text.contains("policy-violation"), "{text}");
    }
    assert_eq!(world.fake.counted(Count::Refused), 20);
    drop(kept);
    eventually(|| world.alarms.is_empty()).await;
    opened(address).await;
}

#[tokio::test]
async fn a_direct_handshake_that_is_none_gets_an_alert_and_makes_room() {
    let world = World::new(1);
    let address = world.listen(Kind::C2s, TlsMode::Direct).await;
    for round in 1..=2 {
        let mut peer = TcpStream::connect(address).await.unwrap();
        peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(read_all(&mut peer).await.first(), Some(&21));
        drop(peer);
        eventually(|| world.fake.counted(Count::TlsFailed) == round).await;
        eventually(|| world.fake.counted(Count::Ended) == round).await;
    }
}

#[tokio::test]
async fn a_listener_that_stopped_takes_nobody() {
    let world = World::new(0);
    let address = world.listen(Kind::C2s, TlsMode::None).await;
    let mut before = opened(address).await;
    world.net.stop_accepting();
    let mut is_closed = false;
    for _ in 0..100 {
        is_closed = TcpStream::connect(address).await.is_err();
        if is_closed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_closed);
    before.write_all(b"</stream:stream>").await.unwrap();
    assert_eq!(read_all(&mut before).await, b"</stream:stream>");
}

/// Status line of the answer.
async fn answer(world: &World, request: &str) -> String {
    let address = world.listen(Kind::Http, TlsMode::None).await;
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(request.as_bytes()).await.unwrap();
    let text = read_until(&mut io, "\r\n\r\n").await;
    text.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn an_upgrade_must_be_whole() {
    let world = World::new(0);
    let whole = [
        "Host: x",
        "Connection: keep-alive, Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol: chat, xmpp",
    ];
    let request =
        |line: &str, headers: &[&str]| format!("{line}\r\n{}\r\n\r\n", headers.join("\r\n"));
    let get = "GET /ws HTTP/1.1";
    assert!(answer(&world, &request(get, &whole)).await.contains("101"));
    for (absent, status) in [(1, "426"), (2, "426"), (3, "426"), (4, "400"), (5, "400")] {
        let mut headers = whole.to_vec();
        headers.remove(absent);
        let line = answer(&world, &request(get, &headers)).await;
        assert!(line.contains(status), "without {}: {line}", whole[absent]);
    }
    for (at, wrong, status) in [
        (3, "Sec-WebSocket-Version: 8", "426"),
        (4, "Sec-WebSocket-Key: short", "400"),
        (5, "Sec-WebSocket-Protocol: chat", "400"),
    ] {
        let mut headers = whole.to_vec();
        headers[at] = wrong;
        let line = answer(&world, &request(get, &headers)).await;
        assert!(line.contains(status), "{wrong}: {line}");
    }
    let post = request("POST /ws HTTP/1.1", &whole);
    assert!(answer(&world, &post).await.contains("426"));
    let elsewhere = request("GET /wsx HTTP/1.1", &whole);
    assert!(answer(&world, &elsewhere).await.contains("404"));
    assert!(
        answer(&world, "GET /livez/x HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .contains("200")
    );
    let large = format!(
        "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n{:101}",
        ""
    );
    assert!(answer(&world, &large).await.contains("413"));
    assert!(answer(&world, "nonsense\r\n\r\n").await.contains("400"));
}
