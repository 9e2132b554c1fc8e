//! What a unit costs on a link between two nodes over loopback and TLS, both sides together.
//!
//! `cargo run --release -p antiphon-cluster --example link_cost` prints, for units of 300 bytes:
//! units a second and CPU microseconds a unit (user and system, sender and receiver, one process),
//! as fast as it goes (frames of up to 64 KiB) and with one unit under way at a time.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement, not a part of the product"
)]

#[path = "../tests/etcd_kit/folder.rs"]
mod folder;
#[path = "../tests/link_kit/mod.rs"]
mod link_kit;

use antiphon_cluster::link::Class;
use link_kit::{Authority, Node, Plan, unit, wait};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// User and system time of this process, microseconds.
fn cpu_us() -> u64 {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    usage.tv_sec.unsigned_abs() * 1_000_000 + usage.tv_nsec.unsigned_abs() / 1000
}

fn report(what: &str, units: u64, begun: Instant, cpu_before: u64) {
    let wall = begun.elapsed();
    let cpu = cpu_us() - cpu_before;
    println!(
        "{what}: {:.0} units/s, {:.2} us of CPU a unit",
        units as f64 / wall.as_secs_f64(),
        cpu as f64 / units as f64
    );
}

fn settled(node: &Node) -> u64 {
    node.seen.settled_count.load(Ordering::SeqCst) as u64
}

fn main() {
    let folder = folder::Folder::new("link-cost");
    let authority = Authority::new("cluster");
    let start = |name, life| {
        let mut plan = Plan::new(name, life);
        plan.keeps = false;
        plan.start(authority.issue(&folder.0, name))
    };
    let (a, b) = (start("a", 1), start("b", 2));
    a.links.view(std::slice::from_ref(&b.target));
    b.links.view(std::slice::from_ref(&a.target));
    wait("links", || a.is_up(&b) && b.is_up(&a));
    let one = unit(7, 300);

    let cpu = cpu_us();
    std::thread::sleep(Duration::from_secs(2));
    println!("idle: {} us of CPU a second", (cpu_us() - cpu) / 2);

    // As fast as it goes, twice: the first warms up.
    for (name, units) in [("warm-up", 100_000_u64), ("full", 1_000_000)] {
        let (begun, cpu, before) = (Instant::now(), cpu_us(), settled(&a));
        let mut sent = 0;
        while sent < units {
            match a.links.send(b.life(), Class::Stanza, one.clone()) {
                Ok(_) => sent += 1,
                Err(_) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
        wait("all settled", || settled(&a) - before == units);
        report(name, units, begun, cpu);
        let stats = a.links.stats();
        let link = stats.iter().find(|s| s.class == Class::Stanza);
        let counts = link.expect("there").sent;
        println!(
            "  {:.1} units a frame so far",
            counts.stanzas as f64 / counts.frames as f64
        );
    }

    // One at a time, as at low load: each has a frame and an answer of its own. A pause between two
    // costs a little, too, and is measured alone.
    let units = 5_000;
    let pause = || std::thread::sleep(Duration::from_millis(1));
    let (begun, cpu) = (Instant::now(), cpu_us());
    (0..units).for_each(|_| pause());
    report("pauses alone (and idling)", units, begun, cpu);
    for (what, each) in [("one at a time", 1_u64), ("ten at a time", 10)] {
        let (begun, cpu, before) = (Instant::now(), cpu_us(), settled(&a));
        for _ in 0..units {
            for _ in 0..each {
                let sent = a.links.send(b.life(), Class::Stanza, one.clone());
                sent.unwrap_or_else(|error| panic!("{error}"));
            }
            pause();
        }
        wait("all settled", || settled(&a) - before == units * each);
        report(what, units * each, begun, cpu);
    }
}
