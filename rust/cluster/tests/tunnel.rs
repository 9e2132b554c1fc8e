//! Links whose straight way is cut, over a third node.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

#[path = "etcd_kit/folder.rs"]
mod folder;
mod link_kit;

use antiphon_cluster::link::{Class, Target};
use antiphon_cluster::tls::Files;
use folder::Folder;
use link_kit::wall::Wall;
use link_kit::{Authority, Node, Plan, send_for_sure, unit, wait};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

fn named(third: &str) -> [Option<String>; 2] {
    [Some(third.to_owned()), Some(third.to_owned())]
}

/// Nodes that all have each other in their views, each reached at another address by some.
struct Net {
    authority: Authority,
    folder: Folder,
}

impl Net {
    fn new() -> Self {
        Self {
            authority: Authority::new("cluster"),
            folder: Folder::new("tunnel"),
        }
    }

    fn files(&self, name: &str) -> Files {
        self.authority.issue(&self.folder.0, name)
    }

    fn start(&self, name: &'static str, life: u32) -> Node {
        Plan::new(name, life).start(self.files(name))
    }
}

/// The same node behind a wall.
fn behind(wall: &Wall, node: &Node) -> Target {
    Target {
        address: wall.address.clone(),
        ..node.target.clone()
    }
}

fn are_up(nodes: &[&Node]) {
    for one in nodes {
        for other in nodes.iter().filter(|n| n.life() != one.life()) {
            wait("links", || one.is_up(other));
        }
    }
}

#[test]
fn a_cut_link_goes_over_a_third_node_and_straight_again_in_order() {
    let net = Net::new();
    let (a, b, h) = (net.start("a", 1), net.start("b", 2), net.start("h", 3));
    let (to_h, to_a) = (
        Wall::start(h.target.address.clone()),
        Wall::start(a.target.address.clone()),
    );
    a.links.view(&[b.target.clone(), behind(&to_h, &h)]);
    h.links.view(&[b.target.clone(), behind(&to_a, &a)]);
    b.links.view(&[a.target.clone(), h.target.clone()]);
    are_up(&[&a, &b, &h]);
    let is_over = AtomicBool::new(false);
    let sent = [AtomicU32::new(0), AtomicU32::new(0)];
    std::thread::scope(|scope| {
        for ((from, to), sent) in [(&a, &h), (&h, &a)].into_iter().zip(&sent) {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    let n = sent.load(Ordering::SeqCst);
                    send_for_sure(from, to.life(), &unit(n, 300));
                    sent.store(n + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
        }
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(200));
            to_h.close();
            to_a.close();
            wait("a goes over b", || a.via(&h) == named("b"));
            wait("h goes over b", || h.via(&a) == named("b"));
            assert_eq!(b.links.tunnels(), 4, "each class, each way");
            // What was sent until now arrives while the straight way is still cut.
            let [by_a, by_h] = [&sent[0], &sent[1]].map(|n| n.load(Ordering::SeqCst) as usize);
            h.wait_for(by_a);
            a.wait_for(by_h);
            assert_eq!((a.via(&h), h.via(&a)), (named("b"), named("b")));
            to_h.open();
            to_a.open();
            for (one, other) in [(&a, &h), (&h, &a)] {
                wait("straight again", || one.via(other) == [None, None]);
                assert!(one.is_up(other));
            }
            wait("the tunnels end", || b.links.tunnels() == 0);
        }
        is_over.store(true, Ordering::SeqCst);
    });
    for ((from, to), sent) in [(&a, &h), (&h, &a)].into_iter().zip(&sent) {
        let sent = sent.load(Ordering::SeqCst);
        to.wait_for(sent as usize);
        from.wait_settled(sent as usize);
        assert_eq!(to.numbers(), (0..sent).collect::<Vec<_>>());
        let settled = from.seen.settled.lock().expect("settled").clone();
        let numbers: Vec<u64> = settled.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, (1..=u64::from(sent)).collect::<Vec<_>>());
        assert!(from.lines.has("Info link opened over a third node peer="));
        assert!(from.lines.has("Info link is direct again peer="));
        assert!(!from.saw_refusal(), "no evidence of a death");
    }
}

#[test]
fn a_link_that_is_cut_one_way_goes_over_a_third_node_that_way() {
    let net = Net::new();
    let (a, b, h) = (net.start("a", 1), net.start("b", 2), net.start("h", 3));
    let to_h = Wall::start(h.target.address.clone());
    // From the very beginning, with what a node sends before a link ever stood.
    to_h.close();
    b.links.view(&[a.target.clone(), h.target.clone()]);
    h.links.view(&[a.target.clone(), b.target.clone()]);
    a.links.view(&[b.target.clone(), behind(&to_h, &h)]);
    for n in 0..200 {
        send_for_sure(&a, h.life(), &unit(n, 2_000));
    }
    a.links
        .send_reserved(h.life(), Class::Bulk, unit(200, 1 << 20))
        .expect("queued");
    h.wait_for(201);
    a.wait_settled(201);
    assert_eq!(a.via(&h), named("b"));
    assert_eq!(h.via(&a), [None, None]);
    assert!(!a.lines.has("link is direct again"));
}

#[test]
fn when_the_third_node_ends_the_link_goes_over_another() {
    let net = Net::new();
    let (a, h) = (net.start("a", 1), net.start("h", 4));
    let mut thirds = vec![net.start("b", 2), net.start("c", 3)];
    let to_h = Wall::start(h.target.address.clone());
    to_h.close();
    let near: Vec<Target> = thirds.iter().map(|n| n.target.clone()).collect();
    let with = |more: &[Target]| [near.as_slice(), more].concat();
    a.links.view(&with(&[behind(&to_h, &h)]));
    h.links.view(&with(std::slice::from_ref(&a.target)));
    for third in &thirds {
        third
            .links
            .view(&with(&[a.target.clone(), h.target.clone()]));
    }
    for n in 0..100 {
        send_for_sure(&a, h.life(), &unit(n, 300));
    }
    h.wait_for(100);
    let [first, bulk] = a.via(&h);
    wait("both classes", || a.is_up(&h));
    let first = first.expect("over one of them");
    println!("over {first}, bulk over {bulk:?}");
    let at = thirds.iter().position(|n| n.target.node.as_str() == first);
    let mut gone = thirds.remove(at.expect("one of them"));
    gone.stop();
    for n in 100..200 {
        send_for_sure(&a, h.life(), &unit(n, 300));
    }
    h.wait_for(200);
    a.wait_settled(200);
    assert_eq!(h.numbers(), (0..200).collect::<Vec<_>>());
    wait("the other", || {
        a.via(&h) == named(thirds[0].target.node.as_str())
    });
}

#[test]
fn nobody_is_a_way_to_what_is_not_in_its_view() {
    let net = Net::new();
    let (a, b, h) = (net.start("a", 1), net.start("b", 2), net.start("h", 3));
    let to_h = Wall::start(h.target.address.clone());
    to_h.close();
    a.links.view(&[b.target.clone(), behind(&to_h, &h)]);
    // It dials b, who knows it from that alone.
    h.links.view(&[a.target.clone(), b.target.clone()]);
    b.links.view(std::slice::from_ref(&a.target));
    wait("b says no", || {
        a.lines.has("no way over a third node peer=h via=b")
            && b.lines.has("tunnel refused peer=a to=h")
    });
    assert!(a.lines.has("it is not in the view here"), "{:?}", a.lines.0);
    assert!(!a.is_up(&h));
    // Nor for one who is not in it.
    b.links.view(&[a.target.clone(), h.target.clone()]);
    wait("over b", || a.via(&h) == named("b"));
    b.links.view(std::slice::from_ref(&h.target));
    wait("the tunnels end", || b.links.tunnels() == 0);
}

#[test]
fn a_node_carries_so_many_tunnels_and_no_more() {
    let net = Net::new();
    let mut plan = Plan::new("b", 2);
    plan.tunnels_max = 1;
    let (a, b, h) = (
        net.start("a", 1),
        plan.start(net.files("b")),
        net.start("h", 3),
    );
    let to_h = Wall::start(h.target.address.clone());
    to_h.close();
    a.links.view(&[b.target.clone(), behind(&to_h, &h)]);
    h.links.view(&[a.target.clone(), b.target.clone()]);
    b.links.view(&[a.target.clone(), h.target.clone()]);
    wait("one of two classes", || {
        a.via(&h).iter().flatten().count() == 1
    });
    wait("the other hears why", || {
        a.lines.has("too many tunnels go over this node")
    });
    assert_eq!(b.links.tunnels(), 1);
    assert_eq!(a.via(&h).iter().flatten().count(), 1);
}

#[test]
fn a_foreign_certificate_is_refused_through_a_tunnel_as_well() {
    let net = Net::new();
    let other = Authority::new("other");
    let both = |files: &Files, more: &Files| {
        let ca = files.ca.clone().expect("set");
        let more = std::fs::read(more.ca.as_ref().expect("set")).expect("read");
        let own = std::fs::read(&ca).expect("read");
        std::fs::write(&ca, [own, more].concat()).expect("written");
    };
    // b and a trust both authorities, h its own alone, which has not signed a's certificate.
    let (a_files, b_files, h_files) = (
        other.issue(&net.folder.0, "a"),
        net.files("b"),
        net.files("h"),
    );
    both(&b_files, &a_files);
    both(&a_files, &h_files);
    let a = Plan::new("a", 1).start(a_files);
    let b = Plan::new("b", 2).start(b_files);
    let h = Plan::new("h", 3).start(h_files);
    let to_h = Wall::start(h.target.address.clone());
    to_h.close();
    a.links.view(&[b.target.clone(), behind(&to_h, &h)]);
    h.links.view(std::slice::from_ref(&b.target));
    b.links.view(&[a.target.clone(), h.target.clone()]);
    wait("a is told", || a.lines.has("link refused peer=h"));
    wait("h says why", || h.lines.has("link refused peer=?"));
    assert!(b.lines.has("tunnel opened peer=a to=h"));
    assert_eq!(a.via(&h), [None, None]);
    assert!(!a.is_up(&h) && !a.saw_refusal());
}

#[test]
fn the_end_of_a_peer_behind_a_tunnel_is_seen_and_no_evidence_of_its_death() {
    let net = Net::new();
    let (a, b, mut h) = (net.start("a", 1), net.start("b", 2), net.start("h", 3));
    let to_h = Wall::start(h.target.address.clone());
    to_h.close();
    a.links.view(&[b.target.clone(), behind(&to_h, &h)]);
    h.links.view(&[a.target.clone(), b.target.clone()]);
    b.links.view(&[a.target.clone(), h.target.clone()]);
    wait("over b", || a.via(&h) == named("b"));
    h.stop();
    wait("b finds its port refused", || b.saw_refusal());
    wait("a finds its link broken", || {
        !a.links.is_up(h.life(), Class::Stanza)
    });
    // Long enough for it to ask b again.
    std::thread::sleep(Duration::from_secs(4));
    assert!(!a.saw_refusal());
    assert_eq!(b.links.tunnels(), 0);
}

#[test]
fn a_peer_whose_port_opens_and_that_says_nothing_is_waited_for() {
    let net = Net::new();
    let (a, b, h) = (net.start("a", 1), net.start("b", 2), net.start("h", 3));
    let to_h = Wall::start(h.target.address.clone());
    a.links.view(&[b.target.clone(), behind(&to_h, &h)]);
    h.links.view(&[a.target.clone(), b.target.clone()]);
    b.links.view(&[a.target.clone(), h.target.clone()]);
    are_up(&[&a, &b, &h]);
    to_h.stall();
    send_for_sure(&a, h.life(), &unit(0, 300));
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(b.links.tunnels(), 0);
    assert!(!b.lines.has("tunnel"));
    to_h.open();
    h.wait_for(1);
    assert_eq!(a.via(&h), [None, None]);
}
