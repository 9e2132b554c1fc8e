//! Memberships over a real etcd and real links: joining, failing over, freezing, fencing.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

mod etcd_kit;
mod link_kit;

use antiphon_cluster::agent::{Config, EtcdLoss};
use antiphon_cluster::etcd::Client;
use antiphon_cluster::fence::Acknowledge;
use antiphon_cluster::id::{Epoch, Incarnation, NodeId, Shard, Timing};
use antiphon_cluster::log::Log;
use antiphon_cluster::map::ShardMap;
use antiphon_cluster::membership::{Events, JoinError, Membership, Options, Place, Stage, now};
use antiphon_cluster::planner::Policy;
use antiphon_cluster::talk::OutReason;
use antiphon_routing::home::{Home, Locator, SHARDS};
use etcd_kit::{Etcd, Folder};
use link_kit::{Authority, Node, Plan, Proxy, wait};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Half of the defaults where a test waits for it.
const TIMING: Timing = Timing {
    lease_ms: 5_000,
    margin_ms: 500,
    keepalive_ms: 1_000,
    call_ms: 1_000,
    ping_ms: 150,
    fresh_ms: 600,
    refused_ms: 300,
    freeze_ms: 2_000,
    gap_ms: 2_500,
};

/// Takes everything up at once, and remembers what it was told.
#[derive(Default)]
struct Recorder {
    me: AtomicU32,
    maps: Mutex<Vec<Arc<ShardMap>>>,
    out: Mutex<Option<(OutReason, Instant)>>,
}

impl Events for Recorder {
    fn joined(&self, me: Incarnation) {
        self.me.store(me.0, Ordering::SeqCst);
    }

    fn map(&self, map: &Arc<ShardMap>) {
        self.maps.lock().expect("maps").push(Arc::clone(map));
    }

    fn out(&self, reason: OutReason) {
        *self.out.lock().expect("out") = Some((reason, Instant::now()));
    }

    fn settled(&self) -> Vec<(Shard, Epoch)> {
        let me = Incarnation(self.me.load(Ordering::SeqCst));
        let maps = self.maps.lock().expect("maps");
        let Some(map) = maps.last() else {
            return Vec::new();
        };
        let slots = map.slots().iter().enumerate();
        slots
            .filter(|(_, slot)| slot.from.is_some() && map.incarnation(slot.owner) == me)
            .map(|(shard, slot)| (shard as Shard, slot.since))
            .collect()
    }
}

impl Recorder {
    fn is_out(&self) -> Option<OutReason> {
        self.out.lock().expect("out").map(|(reason, _)| reason)
    }
}

/// One node of a test.
struct Live {
    membership: Option<Membership>,
    node: Node,
    place: Place,
    told: Arc<Recorder>,
}

struct World {
    etcd: Etcd,
    folder: Folder,
    authority: Authority,
}

impl World {
    fn start(members: usize) -> Option<Self> {
        Some(Self {
            etcd: Etcd::start(members)?,
            folder: Folder::new("members"),
            authority: Authority::new("cluster"),
        })
    }

    fn links(&self, plan: Plan) -> Node {
        let files = self.authority.issue(&self.folder.0, plan.name);
        let node = plan.start(files);
        node.links.joined(Incarnation(0));
        node
    }

    fn join(&self, name: &'static str) -> Live {
        let node = self.links(Plan::new(name, 0));
        let relay = node.target.address.clone();
        join_with(node, &relay, self.etcd.endpoints())
    }

    fn client(&self) -> (tokio::runtime::Runtime, Client) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let client = runtime.block_on(self.etcd.client());
        (runtime, client)
    }
}

fn options(node: &Node, relay: &str, endpoints: Vec<String>) -> Options {
    Options {
        config: Config {
            id: node.target.node.clone(),
            zone: None,
            version: "0.0.test".to_owned(),
            relay: relay.to_owned(),
            control: String::new(),
            timing: TIMING,
            policy: Policy::default(),
            etcd_loss: EtcdLoss::Freeze,
            shards: SHARDS,
        },
        etcd: antiphon_cluster::etcd::Options {
            endpoints,
            ..Default::default()
        },
        prefix: "/antiphon".to_owned(),
        log: Arc::clone(&node.lines) as Arc<dyn Log>,
    }
}

/// A node that joins, its relay and etcd at these addresses.
fn join_with(node: Node, relay: &str, endpoints: Vec<String>) -> Live {
    let place = Place::default();
    let told = Arc::new(Recorder::default());
    let membership = Membership::start(
        options(&node, relay, endpoints),
        node.links.clone(),
        place.clone(),
        Arc::clone(&told) as Arc<dyn Events>,
    )
    .expect("options");
    membership.ready();
    Live {
        membership: Some(membership),
        node,
        place,
        told,
    }
}

impl Live {
    fn me(&self) -> u32 {
        self.place.incarnation()
    }

    fn owned(&self) -> usize {
        (0..SHARDS)
            .filter(|s| self.place.home(*s) == Home::Here)
            .count()
    }

    fn stage(&self) -> Stage {
        let membership = self.membership.as_ref().expect("running");
        membership.stage().borrow().clone()
    }

    fn is_sure(&self) -> bool {
        self.place.acknowledge(now()) == Acknowledge::Now
    }

    /// As kill -9 does it: nothing is said to anybody.
    fn kill(&mut self) {
        self.node.stop();
        self.membership = None;
    }
}

/// Waits until all see one map in which they share all shards evenly, with no move under way.
fn settle(nodes: &[&Live]) {
    let begun = Instant::now();
    wait("one map for all", || {
        if begun.elapsed() > Duration::from_secs(55) {
            let lines = nodes.iter().map(|n| &n.node.lines.0);
            panic!("not settled: {:#?}", lines.collect::<Vec<_>>());
        }
        let epoch = nodes[0].place.view().epoch();
        let share = usize::from(SHARDS) / nodes.len();
        nodes.iter().all(|n| {
            let view = n.place.view();
            let is_settled = view.map().is_some_and(|map| {
                map.nodes().len() == nodes.len() && map.slots().iter().all(|s| s.from.is_none())
            });
            view.epoch() == epoch && is_settled && n.owned() > share * 9 / 10 && n.is_sure()
        })
    });
    let owned: usize = nodes.iter().map(|n| n.owned()).sum();
    assert_eq!(owned, usize::from(SHARDS));
}

#[test]
fn nodes_join_share_the_shards_fail_over_drain_and_leave() {
    let Some(world) = World::start(1) else { return };
    let (mut a, b, c) = (world.join("a"), world.join("b"), world.join("c"));
    settle(&[&a, &b, &c]);
    for shard in 0..SHARDS {
        let home = |n: &Live| match n.place.home(shard) {
            Home::Here => n.me(),
            Home::Node(life) => life,
            Home::Unknown => panic!("nobody owns {shard}"),
        };
        assert!(home(&a) == home(&b) && home(&b) == home(&c));
    }
    // Nothing is written while nothing happens.
    let writes = |n: &Live| {
        let status = n.membership.as_ref().expect("running").status();
        status.etcd.writes
    };
    std::thread::sleep(Duration::from_secs(1));
    let before = writes(&a) + writes(&b) + writes(&c);
    std::thread::sleep(Duration::from_millis(TIMING.lease_ms + 500));
    assert_eq!(writes(&a) + writes(&b) + writes(&c), before);
    let status = b.membership.as_ref().expect("running").status();
    assert_eq!((status.members.len(), status.links_up), (3, 2));

    let gone = a.me();
    a.kill();
    let killed = Instant::now();
    settle(&[&b, &c]);
    let took = killed.elapsed();
    println!("fail-over after {took:?}");
    assert!(
        took < Duration::from_secs(4),
        "sooner than a lease: {took:?}"
    );
    assert!((0..SHARDS).all(|s| b.place.home(s) != Home::Node(gone)));

    // The same name comes back as another life.
    let a = world.join("a");
    settle(&[&a, &b, &c]);
    assert!(a.me() > gone);
    let membership = c.membership.as_ref().expect("running");
    membership.drain();
    wait("c holds nothing", || c.owned() == 0);
    membership.leave();
    wait("c left", || c.told.is_out() == Some(OutReason::Left));
    settle(&[&a, &b]);
    assert!(!c.is_sure());
    let maps = a.told.maps.lock().expect("maps");
    assert!(maps.windows(2).all(|two| two[0].epoch() < two[1].epoch()));
}

#[test]
fn an_etcd_that_is_stopped_and_then_killed_for_longer_than_a_lease_changes_nothing() {
    let Some(mut world) = World::start(1) else {
        return;
    };
    let nodes = [world.join("a"), world.join("b"), world.join("c")];
    settle(&nodes.each_ref());
    std::thread::sleep(Duration::from_secs(2));
    let epoch = nodes[0].place.view().epoch();
    let lives = nodes.each_ref().map(Live::me);
    let doubts = Arc::new(AtomicU32::new(0));
    let still = |seconds: u64| {
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            for node in &nodes {
                assert_eq!(node.told.is_out(), None, "{:?}", node.node.lines.0);
                if !node.is_sure() {
                    doubts.fetch_add(1, Ordering::SeqCst);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    world.etcd.members[0].pause();
    still(7);
    world.etcd.members[0].go_on();
    still(4);
    assert_eq!(
        nodes.each_ref().map(Live::me),
        lives,
        "the first lives go on"
    );
    world.etcd.members[0].kill();
    still(8);
    world.etcd.members[0].start();
    still(5);
    for node in &nodes {
        let view = node.place.view();
        assert!(
            view.epoch().0 <= epoch.0 + 1,
            "{} after {epoch}",
            view.epoch()
        );
        assert_eq!(view.map().expect("map").nodes().len(), 3);
        assert!(node.node.lines.has("etcd does not answer"));
        assert!(node.node.lines.has("etcd answers again"));
    }
    println!(
        "moments without standing: {}",
        doubts.load(Ordering::SeqCst)
    );
    assert!(nodes.iter().all(Live::is_sure));
}

#[test]
fn three_members_of_etcd_stop_one_after_the_other_and_no_node_notices() {
    let Some(world) = World::start(3) else { return };
    let nodes = [world.join("a"), world.join("b")];
    settle(&nodes.each_ref());
    let lives = nodes.each_ref().map(Live::me);
    let mut doubts = 0;
    for member in &world.etcd.members {
        member.pause();
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            for node in &nodes {
                assert_eq!(node.told.is_out(), None, "{:?}", node.node.lines.0);
                doubts += usize::from(!node.is_sure());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        member.go_on();
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("moments without standing: {doubts}");
    assert_eq!(nodes.each_ref().map(Live::me), lives);
    settle(&nodes.each_ref());
}

#[test]
fn a_node_cut_off_from_etcd_and_peers_stops_owning_and_the_others_go_on() {
    let Some(world) = World::start(1) else { return };
    let a = world.join("a");
    let b = world.join("b");
    // c reaches etcd, and is reached, through proxies; its own links are closed by hand.
    let node = world.links(Plan::new("c", 0));
    let to_c = Proxy::start(node.target.address.clone());
    let to_etcd = Proxy::start(world.etcd.endpoints()[0].clone());
    let relay = to_c.address.clone();
    let endpoints = vec![to_etcd.address.clone()];
    let c = join_with(node, &relay, endpoints);
    settle(&[&a, &b, &c]);
    let cut = Instant::now();
    to_c.shut();
    to_etcd.shut();
    c.node.links.close();
    wait("c is out", || c.told.is_out().is_some());
    assert!(
        cut.elapsed() < Duration::from_secs(6),
        "{:?}",
        cut.elapsed()
    );
    assert_eq!(c.told.is_out(), Some(OutReason::LeasePassed));
    assert_eq!(c.owned(), 0);
    assert_eq!(c.place.acknowledge(now()), Acknowledge::Barred);
    settle(&[&a, &b]);
    assert!(a.told.is_out().is_none() && b.told.is_out().is_none());
}

#[test]
fn a_name_that_a_living_process_has_is_refused() {
    let Some(world) = World::start(1) else { return };
    let a = world.join("a");
    settle(&[&a]);
    let twin = world.join("a");
    wait("refused", || matches!(twin.stage(), Stage::Failed(_)));
    match twin.stage() {
        Stage::Failed(JoinError::NameTaken { name, address }) => {
            assert_eq!((name.as_str(), &address), ("a", &a.node.target.address));
        }
        other => panic!("{other:?}"),
    }
    assert!(twin.node.lines.has("belongs to a living process"));
    assert!(a.is_sure());
}

fn ahead() -> u64 {
    antiphon_cluster::clock::wall_ms() + 700
}

#[test]
fn a_clock_that_is_off_keeps_a_node_out() {
    let Some(world) = World::start(1) else { return };
    let a = world.join("a");
    settle(&[&a]);
    let mut plan = Plan::new("b", 0);
    plan.wall_ms = ahead;
    let node = world.links(plan);
    let relay = node.target.address.clone();
    let b = join_with(node, &relay, world.etcd.endpoints());
    wait("refused", || {
        matches!(b.stage(), Stage::Failed(JoinError::Clock(_)))
    });
    assert!(b.node.lines.has("the clock of this machine is off"));
    wait("a says it, too", || {
        a.node.lines.has("its clock is") && a.node.lines.has("ahead of this one's")
    });
    assert!(a.node.links.refused() > 0);
}

/// Waits until a node has failed for good and a word of the reason is in its log.
fn failed(node: &Live, part: &str) -> JoinError {
    wait(part, || {
        matches!(node.stage(), Stage::Failed(_)) && node.node.lines.has(part)
    });
    match node.stage() {
        Stage::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_of_another_cluster_is_kept_out_and_both_say_why() {
    let Some(world) = World::start(1) else { return };
    let a = world.join("a");
    settle(&[&a]);
    let mut plan = Plan::new("b", 0);
    plan.cluster = "another";
    let node = world.links(plan);
    let relay = node.target.address.clone();
    let b = join_with(node, &relay, world.etcd.endpoints());
    assert!(matches!(failed(&b, "another"), JoinError::Refused { .. }));
    assert!(a.node.lines.has("another"), "{:?}", a.node.lines.0);
    assert!(a.node.links.refused() > 0);
}

/// A node whose certificate is signed by one authority, and which believes another.
fn odd(world: &World, signed: &Authority, believed: &Authority) -> Live {
    let mut files = signed.issue(&world.folder.0, "z");
    files.ca = believed.issue(&world.folder.0, "other").ca;
    let node = Plan::new("z", 0).start(files);
    node.links.joined(Incarnation(0));
    let relay = node.target.address.clone();
    join_with(node, &relay, world.etcd.endpoints())
}

#[test]
fn a_node_whose_certificate_is_of_another_authority_is_kept_out() {
    let Some(world) = World::start(1) else { return };
    let (a, b) = (world.join("a"), world.join("b"));
    settle(&[&a, &b]);
    let epoch = a.place.view().epoch();
    let stranger = Authority::new("somebody else");
    // Not believed, not believing, and neither.
    for (signed, believed) in [
        (&stranger, &world.authority),
        (&world.authority, &stranger),
        (&stranger, &stranger),
    ] {
        let refused = a.node.links.refused();
        let z = odd(&world, signed, believed);
        assert!(matches!(
            failed(&z, "cluster.tls.ca"),
            JoinError::Certificate { .. }
        ));
        wait("they count it", || a.node.links.refused() > refused);
        assert_eq!(z.me(), 0);
    }
    assert!(a.node.lines.has("TLS"), "{:?}", a.node.lines.0);
    assert_eq!(a.place.view().epoch(), epoch);
}

#[test]
fn nodes_that_start_at_once_and_do_not_trust_each_other_do_not_serve_together() {
    let Some(world) = World::start(1) else { return };
    let stranger = Authority::new("somebody else");
    let a = world.join("a");
    let z = odd(&world, &stranger, &stranger);
    let is_failed = |node: &Live| matches!(node.stage(), Stage::Failed(_));
    wait("one stays out", || is_failed(&a) || is_failed(&z));
    std::thread::sleep(Duration::from_secs(1));
    let owning = [&a, &z].into_iter().filter(|n| n.owned() > 0).count();
    assert!(owning <= 1);
}

#[test]
fn a_node_that_reaches_no_member_waits_until_their_leases_have_ended() {
    let Some(world) = World::start(1) else { return };
    let mut a = world.join("a");
    settle(&[&a]);
    a.kill();
    let killed = Instant::now();
    let b = world.join("b");
    wait("it says what it waits for", || {
        matches!(b.stage(), Stage::Joining(Some(_)))
    });
    assert!(b.node.lines.has("none of the members in etcd answers"));
    assert_eq!(b.me(), 0);
    wait("in", || b.owned() == usize::from(SHARDS));
    let took = killed.elapsed();
    println!("waited {took:?}");
    assert!(took > Duration::from_secs(2), "{took:?}");
}

#[test]
fn garbage_in_etcd_leads_to_alerts_and_to_no_decision() {
    let Some(world) = World::start(1) else { return };
    let (a, b) = (world.join("a"), world.join("b"));
    settle(&[&a, &b]);
    let epoch = a.place.view().epoch();
    let (runtime, client) = world.client();
    for (key, value) in [
        ("/antiphon/map", "no map"),
        ("/antiphon/nodes/x", "{}"),
        ("/antiphon/unknown", "?"),
    ] {
        let put = client.put(key, value.into(), 0);
        runtime.block_on(put).expect("put");
    }
    for node in [&a, &b] {
        wait("alerts", || {
            node.node.lines.has("the map in etcd is not used")
                && node
                    .node
                    .lines
                    .has("a record of a node in etcd is not used")
        });
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(a.is_sure() && b.is_sure());
    assert_eq!(a.place.view().epoch(), epoch);
    assert_eq!(a.owned() + b.owned(), usize::from(SHARDS));
}

#[test]
fn a_node_waits_for_etcd_and_joins_when_it_comes() {
    let Some(mut world) = World::start(1) else {
        return;
    };
    world.etcd.members[0].kill();
    let a = world.join("a");
    wait("it says what it waits for", || {
        matches!(a.stage(), Stage::Joining(Some(_)))
    });
    assert!(a.node.lines.has("cluster waits for etcd"));
    world.etcd.members[0].start();
    settle(&[&a]);
    assert_eq!(a.owned(), usize::from(SHARDS));
    let name = NodeId::new("a").expect("name");
    assert!(
        a.place
            .view()
            .map()
            .expect("map")
            .nodes()
            .iter()
            .any(|n| n.id == name)
    );
}

/// The body of the process that is stopped and killed: joins as `c`, and says each 10 ms whether
/// it would acknowledge. Does nothing unless it is started by the tests below.
#[test]
fn the_process_that_is_stopped_and_killed() {
    let Ok(endpoint) = std::env::var("ANTIPHON_TEST_CHILD_ETCD") else {
        return;
    };
    let folder = std::env::var("ANTIPHON_TEST_CHILD_FOLDER").expect("folder");
    let file = |name: &str| Some(std::path::Path::new(&folder).join(name));
    let files = antiphon_cluster::tls::Files {
        ca: file("c-ca.pem"),
        certificate: file("c-cert.pem"),
        key: file("c-key.pem"),
    };
    let node = Plan::new("c", 0).start(files);
    node.links.joined(Incarnation(0));
    let relay = node.target.address.clone();
    let c = join_with(node, &relay, vec![endpoint]);
    loop {
        println!("life {} owned {} sure {}", c.me(), c.owned(), c.is_sure());
        if let Some(reason) = c.told.is_out() {
            println!("out {reason:?}");
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process of its own that runs the test above.
struct Other {
    child: std::process::Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Other {
    fn start(world: &World) -> Self {
        world.authority.issue(&world.folder.0, "c");
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args([
                "--exact",
                "the_process_that_is_stopped_and_killed",
                "--nocapture",
            ])
            .env("ANTIPHON_TEST_CHILD_ETCD", &world.etcd.endpoints()[0])
            .env("ANTIPHON_TEST_CHILD_FOLDER", &world.folder.0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                kept.lock().expect("lines").push(line);
            }
        });
        Self { child, lines }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args([name, &pid]).status();
        assert!(done.expect("kill").success());
    }

    fn count(&self) -> usize {
        self.lines.lock().expect("lines").len()
    }

    fn has_since(&self, from: usize, part: &str) -> bool {
        let lines = self.lines.lock().expect("lines");
        lines[from..].iter().any(|line| line.contains(part))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two nodes here and one in a process of its own share everything.
fn with_other(world: &World) -> (Live, Live, Other) {
    let (a, b) = (world.join("a"), world.join("b"));
    settle(&[&a, &b]);
    let other = Other::start(world);
    wait("three share", || {
        a.owned() < 1_500 && b.owned() < 1_500 && a.place.view().epoch() == b.place.view().epoch()
    });
    wait("the other is sure", || other.has_since(0, "sure true"));
    (a, b, other)
}

#[test]
fn a_process_that_was_stopped_for_longer_than_its_lease_acknowledges_nothing_when_it_goes_on() {
    let Some(world) = World::start(1) else { return };
    let (a, b, other) = with_other(&world);
    other.signal("-STOP");
    std::thread::sleep(Duration::from_millis(300));
    let before = other.count();
    let stopped = Instant::now();
    wait("the others take over", || {
        a.owned() + b.owned() == usize::from(SHARDS)
    });
    let took = stopped.elapsed();
    assert!(
        took > Duration::from_secs(3),
        "not before its lease ends: {took:?}"
    );
    std::thread::sleep(Duration::from_secs(7).saturating_sub(stopped.elapsed()));
    other.signal("-CONT");
    wait("it sees that it is out", || other.has_since(before, "out "));
    // The one line that was on its way out when it was stopped does not count.
    assert!(
        !other.has_since(before + 1, "sure true"),
        "{:?}",
        other.lines
    );
    assert!(a.is_sure() && b.is_sure());
    settle(&[&a, &b]);
}

#[test]
fn a_process_killed_by_sigkill_is_taken_over_in_about_a_second() {
    let Some(world) = World::start(1) else { return };
    // Right behind the change of the view that brought it in.
    let (a, b, mut other) = with_other(&world);
    other.child.kill().expect("killed");
    let killed = Instant::now();
    wait("the others take over", || {
        a.owned() + b.owned() == usize::from(SHARDS)
    });
    let took = killed.elapsed();
    println!("taken over after {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(a.node.lines.has("is revoked") || b.node.lines.has("is revoked"));
}
