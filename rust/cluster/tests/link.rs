//! Links over loopback: order, cuts, flow control, refusals, reloads.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

#[path = "etcd_kit/folder.rs"]
mod folder;
mod link_kit;

use antiphon_cluster::clock;
use antiphon_cluster::id::{Incarnation, NodeId};
use antiphon_cluster::link::{Class, LinkEvent, SendError, Taken, Target, Why};
use antiphon_cluster::relay::Outcome;
use antiphon_cluster::talk::Note;
use antiphon_cluster::tls::Files;
use bytes::Bytes;
use folder::Folder;
use link_kit::{Authority, Node, Plan, Proxy, number, send_for_sure, unit, wait};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Each with the others in its view.
fn join(nodes: &[&Node]) {
    let all: Vec<Target> = nodes.iter().map(|n| n.target.clone()).collect();
    for node in nodes {
        node.links.view(&all);
    }
    for one in nodes {
        for other in nodes.iter().filter(|n| n.life() != one.life()) {
            wait("links", || one.is_up(other));
        }
    }
}

fn pair(one: Plan, two: Plan) -> (Node, Node, Folder) {
    let folder = Folder::new("links");
    let authority = Authority::new("cluster");
    let one_files = authority.issue(&folder.0, one.name);
    let two_files = authority.issue(&folder.0, two.name);
    (one.start(one_files), two.start(two_files), folder)
}

#[test]
fn units_arrive_once_in_order_and_are_called_done() {
    let (a, b, _folder) = pair(Plan::new("a", 1), Plan::new("b", 2));
    join(&[&a, &b]);
    for n in 0..5_000 {
        send_for_sure(&a, b.life(), &unit(n, 100));
        send_for_sure(&b, a.life(), &unit(n, 10));
    }
    a.links
        .send_reserved(b.life(), Class::Bulk, unit(9, 1 << 20))
        .expect("queued");
    b.wait_for(5_001);
    a.wait_settled(5_001);
    b.wait_settled(5_000);
    let of = |node: &Node, class| -> Vec<u32> {
        let units = node.seen.units.lock().expect("units");
        units
            .iter()
            .filter(|(_, c, _)| *c == class)
            .map(|(_, _, u)| number(u))
            .collect()
    };
    assert_eq!(of(&b, Class::Stanza), (0..5_000).collect::<Vec<_>>());
    assert_eq!(of(&a, Class::Stanza), (0..5_000).collect::<Vec<_>>());
    assert_eq!(of(&b, Class::Bulk), [9]);
    let stats = a.links.stats();
    assert!(stats.iter().all(|s| s.queued_bytes == 0 && s.pending == 0));
    assert_eq!(
        a.links.send(Incarnation(77), Class::Stanza, unit(1, 4)),
        Err(SendError::Unknown)
    );
}

#[test]
fn three_nodes_speak_with_each_other() {
    let folder = Folder::new("links");
    let authority = Authority::new("cluster");
    let start = |name, life| Plan::new(name, life).start(authority.issue(&folder.0, name));
    let (a, b, c) = (start("a", 1), start("b", 2), start("c", 3));
    join(&[&a, &b, &c]);
    for n in 0..300 {
        for (from, to) in [(&a, &b), (&b, &c), (&c, &a)] {
            send_for_sure(from, to.life(), &unit(n, 50));
        }
    }
    for node in [&a, &b, &c] {
        node.wait_for(300);
        assert_eq!(node.numbers(), (0..300).collect::<Vec<_>>());
    }
}

#[test]
fn cuts_lose_nothing_double_nothing_and_reorder_nothing() {
    let (a, b, _folder) = pair(Plan::new("a", 1), Plan::new("b", 2));
    let proxy = Proxy::start(b.target.address.clone());
    let through = Target {
        address: proxy.address.clone(),
        ..b.target.clone()
    };
    b.links.view(std::slice::from_ref(&a.target));
    a.links.view(&[through]);
    let sender = std::thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            for _ in 0..30 {
                std::thread::sleep(Duration::from_millis(40));
                proxy.cut();
            }
        });
        for n in 0..20_000 {
            send_for_sure(&a, b.life(), &unit(n, 200));
            if n % 1_000 == 0 {
                // Cut in the middle of a burst, as well as in silence.
                std::thread::sleep(Duration::from_millis(60));
                if n % 2_000 == 0 {
                    proxy.cut();
                }
            }
        }
        cutter.join().expect("cutter");
        20_000
    });
    b.wait_for(sender);
    a.wait_settled(sender);
    assert_eq!(b.numbers(), (0..20_000).collect::<Vec<_>>());
    let settled = a.seen.settled.lock().expect("settled").clone();
    let numbers: Vec<u64> = settled.iter().map(|(n, _)| *n).collect();
    assert_eq!(numbers, (1..=20_000).collect::<Vec<_>>());
    let stats = a.links.stats();
    let stanzas = stats
        .iter()
        .find(|s| s.class == Class::Stanza)
        .expect("there");
    assert!(stanzas.resets >= 3, "{stanzas:?}");
}

#[test]
fn what_may_wait_goes_with_others_in_order_and_soon_by_itself() {
    let mut plan = Plan::new("b", 2);
    plan.answer = Box::new(|_, _, _, _, _| Taken::Quiet(Outcome::Done));
    let (a, b, _folder) = pair(Plan::new("a", 1), plan);
    join(&[&a, &b]);
    for n in 0..2_000 {
        let unit = unit(n, 50);
        let sent = match n % 500 {
            250 => a.links.send(b.life(), Class::Stanza, unit),
            _ => a.links.send_soon(b.life(), Class::Stanza, unit),
        };
        sent.expect("room");
        if n % 20 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    b.wait_for(2_000);
    a.wait_settled(2_000);
    assert_eq!(b.numbers(), (0..2_000).collect::<Vec<_>>());
    let stats = a.links.stats();
    let frames = stats.iter().find(|s| s.class == Class::Stanza);
    let frames = frames.expect("there").sent.frames;
    assert!(frames < 200, "{frames} frames for 2,000 units");
}

#[test]
fn a_slow_receiver_bounds_what_the_sender_keeps() {
    let held: Arc<Mutex<Vec<u64>>> = Arc::default();
    let mut slow = Plan::new("b", 2);
    slow.window_bytes = 64 << 10;
    let list = Arc::clone(&held);
    slow.answer = Box::new(move |_, _, _, number, _| {
        list.lock().expect("held").push(number);
        Taken::Held
    });
    let mut quick = Plan::new("a", 1);
    quick.queue_bytes_max = 256 << 10;
    let (a, b, _folder) = pair(quick, slow);
    join(&[&a, &b]);
    let mut sent = 0;
    let mut refused = 0;
    for n in 0..20_000 {
        match a.links.send(b.life(), Class::Stanza, unit(n, 500)) {
            Ok(_) => sent += 1,
            Err(SendError::Full(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        refused > 0 && sent < 2_000,
        "{sent} sent, {refused} refused"
    );
    std::thread::sleep(Duration::from_millis(300));
    let taken = b.seen.count.load(Ordering::SeqCst);
    assert!(taken * 532 <= 64 << 10, "{taken} units within the window");
    let queued: usize = a.links.stats().iter().map(|s| s.queued_bytes).sum();
    assert!(queued <= (256 << 10) + 600, "{queued}");
    // It goes on as fast as the receiver does.
    wait("all settled", || {
        for number in held.lock().expect("held").drain(..) {
            b.links.done(a.life(), Class::Stanza, number, Outcome::Done);
        }
        a.seen.settled_count.load(Ordering::SeqCst) == sent
    });
    assert_eq!(b.seen.count.load(Ordering::SeqCst), sent);
}

#[test]
fn two_nodes_that_flood_each_other_both_get_through() {
    let flooding = |name, life| {
        let mut plan = Plan::new(name, life);
        plan.window_bytes = 32 << 10;
        plan.queue_bytes_max = 64 << 10;
        plan.keeps = false;
        // Each stanza makes a reply, whose room was reserved with it.
        plan.answer = Box::new(|links, from, class, _, unit| {
            if number(unit) < 1 << 30 {
                let reply = super_unit(number(unit));
                links.send_reserved(from, class, reply).expect("reserved");
            }
            Taken::Settled(Outcome::Done)
        });
        plan
    };
    fn super_unit(n: u32) -> Bytes {
        unit(n | 1 << 30, 300)
    }
    let (a, b, _folder) = pair(flooding("a", 1), flooding("b", 2));
    join(&[&a, &b]);
    std::thread::scope(|scope| {
        for (from, to) in [(&a, &b), (&b, &a)] {
            scope.spawn(move || {
                for n in 0..15_000 {
                    send_for_sure(from, to.life(), &unit(n, 300));
                }
            });
        }
    });
    for node in [&a, &b] {
        node.wait_for(30_000);
        node.wait_settled(30_000);
    }
}

#[test]
fn a_node_that_ends_is_seen_at_once_and_its_port_refuses() {
    let (a, mut b, _folder) = pair(Plan::new("a", 1), Plan::new("b", 2));
    join(&[&a, &b]);
    b.stop();
    let begun = Instant::now();
    wait("its port refuses", || {
        let events = a.events.lock().expect("events");
        let is_down = events
            .iter()
            .any(|e| matches!(e, LinkEvent::Down { peer, .. } if *peer == Incarnation(2)));
        let refuses = events.iter().any(|e| {
            matches!(
                e,
                LinkEvent::Port {
                    is_refused: true,
                    ..
                }
            )
        });
        is_down && refuses
    });
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    // Out of the view: nothing of it is kept.
    a.links.view(&[]);
    assert!(a.links.stats().is_empty());
}

#[test]
fn notes_reach_the_peer_under_the_name_of_its_link() {
    let (a, b, _folder) = pair(Plan::new("a", 1), Plan::new("b", 2));
    join(&[&a, &b]);
    a.links.note(b.life(), &Note::IsEtcdGone { ask: 5 });
    a.links.note(Incarnation(9), &Note::Stopped);
    wait("the note", || {
        let events = b.events.lock().expect("events");
        events.contains(&LinkEvent::Note {
            from: Incarnation(1),
            note: Note::IsEtcdGone { ask: 5 },
        })
    });
}

fn ahead() -> u64 {
    clock::wall_ms() + 800
}

fn behind() -> u64 {
    clock::wall_ms() - 800
}

/// A node that is refused, and refuses: both say why.
fn refused(odd: Plan, why: Why, part: &str) {
    let (a, b, _folder) = pair(Plan::new("a", 1), odd);
    a.links.view(std::slice::from_ref(&b.target));
    b.links.view(std::slice::from_ref(&a.target));
    for node in [&a, &b] {
        wait(&format!("{} says {part:?}", node.target.node), || {
            let lines = node.lines.0.lock().expect("lines");
            lines
                .iter()
                .any(|l| l.starts_with("Warning link refused") && l.contains(part))
        });
        let events = node.events.lock().expect("events");
        assert!(
            events
                .iter()
                .any(|e| matches!(e, LinkEvent::Refused { refusal, .. } if refusal.reason == why)),
            "{events:?}"
        );
        assert!(
            !events.iter().any(|e| matches!(e, LinkEvent::Up { .. })),
            "{events:?}"
        );
    }
    assert!(a.links.refused() > 0 && b.links.refused() > 0);
}

#[test]
fn another_cluster_is_refused_on_both_sides() {
    let mut odd = Plan::new("b", 2);
    odd.cluster = "other";
    refused(odd, Why::Cluster, "\"other\"");
}

#[test]
fn a_version_that_is_no_neighbour_is_refused_on_both_sides() {
    let mut odd = Plan::new("b", 2);
    odd.protocol += 2;
    refused(odd, Why::Protocol, "of the protocol");
}

#[test]
fn a_clock_that_is_off_is_refused_on_both_sides() {
    for wall in [ahead as fn() -> u64, behind] {
        let mut odd = Plan::new("b", 2);
        odd.wall_ms = wall;
        refused(odd, Why::Clock, "the clock of node");
    }
}

#[test]
fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let folder = Folder::new("links");
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let a = Plan::new("a", 1).start(ours.issue(&folder.0, "a"));
    let b = Plan::new("b", 2).start(theirs.issue(&folder.0, "b"));
    a.links.view(std::slice::from_ref(&b.target));
    b.links.view(std::slice::from_ref(&a.target));
    for node in [&a, &b] {
        wait("refused", || node.lines.has("link refused"));
        assert!(node.lines.has("TLS"), "{:?}", node.lines.0);
    }
}

#[test]
fn a_certificate_of_another_node_is_refused_on_both_sides() {
    let folder = Folder::new("links");
    let authority = Authority::new("cluster");
    let a = Plan::new("a", 1).start(authority.issue(&folder.0, "a"));
    // What listens at b's address is c, with a good certificate of its own.
    let c = Plan::new("c", 2).start(authority.issue(&folder.0, "c"));
    let mistaken = Target {
        node: NodeId::new("b").expect("name"),
        ..c.target.clone()
    };
    a.links.view(&[mistaken]);
    wait("a says why", || a.lines.has("link refused"));
    wait("c says why", || c.lines.has("link refused"));
    assert!(a.lines.has("peer=b"));
}

#[test]
fn an_earlier_life_of_a_node_is_refused() {
    let folder = Folder::new("links");
    let authority = Authority::new("cluster");
    let a = Plan::new("a", 1).start(authority.issue(&folder.0, "a"));
    let old = Plan::new("b", 2).start(authority.issue(&folder.0, "b"));
    let new = Plan::new("b", 3).start(authority.issue(&folder.0, "b"));
    a.links.view(std::slice::from_ref(&new.target));
    new.links.view(std::slice::from_ref(&a.target));
    wait("the new life is heard", || {
        a.links.stats().iter().any(|s| s.is_heard)
    });
    old.links.view(std::slice::from_ref(&a.target));
    wait("the old life is told", || old.lines.has("is over"));
    assert!(a.lines.has("life 2 of node b is over"));
}

#[test]
fn certificates_are_replaced_while_links_run() {
    let folder = Folder::new("links");
    let first = Authority::new("first");
    let a = Plan::new("a", 1).start(first.issue(&folder.0, "a"));
    let b = Plan::new("b", 2).start(first.issue(&folder.0, "b"));
    let proxy = Proxy::start(b.target.address.clone());
    let through = Target {
        address: proxy.address.clone(),
        ..b.target.clone()
    };
    b.links.view(std::slice::from_ref(&a.target));
    a.links.view(&[through]);
    wait("up", || a.is_up(&b));
    send_for_sure(&a, b.life(), &unit(1, 4));
    b.wait_for(1);
    // Another authority altogether, in the same files; a bad file first, which changes nothing.
    let second = Authority::new("second");
    let files = second.issue(&folder.0, "a");
    let key = files.key.clone().expect("key");
    let good = std::fs::read(&key).expect("key");
    std::fs::write(&key, b"no key").expect("written");
    let error = a.links.reload().expect_err("a bad key").to_string();
    assert!(error.contains("a-key.pem"), "{error}");
    std::fs::write(&key, good).expect("written");
    second.issue(&folder.0, "b");
    a.links.reload().expect("reloaded");
    b.links.reload().expect("reloaded");
    // What stands goes on; what is dialled anew shows the new ones.
    send_for_sure(&a, b.life(), &unit(2, 4));
    b.wait_for(2);
    proxy.cut();
    send_for_sure(&a, b.life(), &unit(3, 4));
    b.wait_for(3);
    assert_eq!(b.numbers(), [1, 2, 3]);
    let stats = a.links.stats();
    assert!(stats.iter().any(|s| s.resets > 0), "{stats:?}");
}

#[test]
fn a_certificate_without_the_nodes_name_is_refused_at_the_start() {
    let folder = Folder::new("links");
    let files = Authority::new("cluster").issue(&folder.0, "x");
    let result = std::panic::catch_unwind(|| Plan::new("a", 1).start(files));
    let message = result.err().and_then(|e| e.downcast::<String>().ok());
    assert!(message.is_some_and(|m| m.contains("does not name this node")));
}

#[test]
fn a_probe_tells_who_is_there_and_what_time_it_is() {
    let mut early = Plan::new("b", 2);
    early.wall_ms = ahead;
    let (a, b, _folder) = pair(Plan::new("a", 1), early);
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let ask = |name: &str, address: &str| {
        let node = NodeId::new(name).expect("name");
        runtime.block_on(a.links.probe(&node, address, Duration::from_secs(3)))
    };
    let found = ask("b", &b.target.address).expect("there");
    assert_eq!(
        (found.node.as_str(), found.incarnation),
        ("b", Incarnation(2))
    );
    assert!((600..=800).contains(&found.skew_ms), "{found:?}");
    assert_eq!(
        ask("c", &b.target.address).expect_err("not c").reason,
        Why::Certificate
    );
    assert_eq!(
        ask("b", "127.0.0.1:1").expect_err("nobody").reason,
        Why::Silent
    );
}

#[test]
fn a_stopped_peer_holds_nobody_up() {
    // c never reads: a's links to b must not notice.
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    let folder = Folder::new("links");
    let authority = Authority::new("cluster");
    let mut plan = Plan::new("c", 3);
    plan.answer = Box::new(|_, _, _, _, _| {
        TAKEN.fetch_add(1, Ordering::SeqCst);
        Taken::Held
    });
    let c = plan.start(authority.issue(&folder.0, "c"));
    let a = Plan::new("a", 1).start(authority.issue(&folder.0, "a"));
    let b = Plan::new("b", 2).start(authority.issue(&folder.0, "b"));
    join(&[&a, &b, &c]);
    while a
        .links
        .send(c.life(), Class::Stanza, unit(0, 5_000))
        .is_ok()
    {}
    for n in 0..2_000 {
        send_for_sure(&a, b.life(), &unit(n, 200));
    }
    b.wait_for(2_000);
    assert!(TAKEN.load(Ordering::SeqCst) < 2_000);
}

/// A client of TLS that believes this authority and shows these files, if any.
fn connector(ca: &std::path::Path, files: Option<&Files>) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(ca).expect("ca");
    roots.add(ca).expect("added");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match files {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let certificate = files.certificate.as_ref().expect("set");
            let certificate = CertificateDer::from_pem_file(certificate).expect("read");
            let key = PrivateKeyDer::from_pem_file(files.key.as_ref().expect("set"));
            builder
                .with_client_auth_cert(vec![certificate], key.expect("read"))
                .expect("certificate")
        }
    };
    Arc::new(config).into()
}

#[test]
fn strangers_at_the_port_change_nothing() {
    let folder = Folder::new("links");
    let authority = Authority::new("cluster");
    let a_files = authority.issue(&folder.0, "a");
    let ca = a_files.ca.clone().expect("set");
    let a = Plan::new("a", 1).start(a_files);
    let b = Plan::new("b", 2).start(authority.issue(&folder.0, "b"));
    let known = authority.issue(&folder.0, "x");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let address = a.target.address.clone();
    runtime.block_on(async {
        let noise: [&[u8]; 3] = [b"GET / HTTP/1.1\r\n\r\n", &[0; 4096], b"\x16\x03\x01"];
        for bytes in noise.iter().cycle().take(60) {
            let mut socket = TcpStream::connect(&address).await.expect("open");
            let _ = socket.write_all(bytes).await;
        }
        for files in [None, Some(&known)] {
            for bytes in noise {
                let socket = TcpStream::connect(&address).await.expect("open");
                let name = ServerName::try_from("a").expect("name");
                let tls = connector(&ca, files).connect(name, socket).await;
                let mut tls = tls.expect("the server's side is good");
                let _ = tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
                let _ = tls.write_all(bytes).await;
                let mut answer = Vec::new();
                let ended = tls.read_to_end(&mut answer);
                let ended = tokio::time::timeout(Duration::from_secs(3), ended).await;
                if files.is_none() {
                    assert!(
                        ended.expect("at once").is_err(),
                        "no certificate, no service"
                    );
                }
            }
        }
    });
    assert!(a.lines.has("link refused peer=?"));
    join(&[&a, &b]);
    send_for_sure(&b, a.life(), &unit(1, 4));
    a.wait_for(1);
    assert_eq!(a.links.stats().len(), 2, "nobody but b is known");
}
