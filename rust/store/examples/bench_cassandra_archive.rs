//! What archive, inbox and search cost in the Cassandra engine, and the servers.
//!
//! `cargo run --release -p antiphon-store --example bench_cassandra_archive -- fill|read POINT
//! KEYSPACE PID TEXTS [MESSAGES [USERS]]`
//!
//! `fill` makes the keyspace and writes so many messages (default 300,000) between 10,000 users, of
//! whom one has a third of all, each into both archives with inbox and search; `read` pages and
//! searches what `fill` left. TEXTS is a folder whose `.md` files give the sentences, or a file of
//! words; PID is the server's process, whose CPU is told beside ours (all threads, the load's own
//! taken off).
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

mod archive;

use antiphon_routing::store::Store;
use antiphon_store::cassandra::{Cassandra, CassandraConfig, MIGRATIONS, SCOPE, VERSION_TABLE};
use archive::questions::Bench;
use archive::world::{Texts, World, accounts};
use scylla::client::session_builder::SessionBuilder;
use std::path::Path;
use std::time::{Duration, Instant};

/// Until the inbox's rows and the last segments are written too.
const SETTLE: Duration = Duration::from_secs(13);

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, point, keyspace, server, texts, ..] = arguments.as_slice() else {
        println!("fill|read POINT KEYSPACE PID TEXTS [MESSAGES [USERS]]");
        return;
    };
    let number = |at: usize, default: usize| {
        let text = arguments.get(at);
        text.map_or(default, |text| text.parse().unwrap())
    };
    let (messages, count) = (number(5, 300_000), number(6, 10_000));
    if mode == "fill" {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(migrate(point, keyspace));
    }
    let store = Cassandra::open(CassandraConfig::new(vec![point.clone()], keyspace)).unwrap();
    let texts = Texts::read(Path::new(texts));
    let name = |n| format!("user{n:05}@bench.example");
    let world = World {
        heavy_one_in: 3,
        // Four months for a million.
        step_ms: 10_000,
        ..World::new(count, name, texts)
    };
    let bench = Bench {
        store: &store,
        world: &world,
        server: Some(server.parse().unwrap()),
    };
    if mode == "fill" {
        let begin = Instant::now();
        accounts(&store, &world.users);
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        println!("accounts   {rate:.0}/s");
        bench.fill(messages, || std::thread::sleep(SETTLE));
        let stats = store.stats();
        println!(
            "           {:.1} messages a batch",
            stats.committed as f64 / stats.batches as f64
        );
        bench.paced(messages);
    } else {
        bench.pages();
        bench.inbox();
        bench.searches();
    }
    store.close();
}

async fn migrate(point: &str, keyspace: &str) {
    let session = SessionBuilder::new()
        .known_node(point)
        .build()
        .await
        .unwrap();
    let run = async |statement: String| {
        session.query_unpaged(statement, ()).await.unwrap();
    };
    run(format!(
        "CREATE KEYSPACE {keyspace} WITH replication = \
         {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
    ))
    .await;
    run(format!("USE {keyspace}")).await;
    run(VERSION_TABLE.to_owned()).await;
    for migration in MIGRATIONS {
        for statement in migration.statements() {
            run(statement).await;
        }
        let (version, name, readers) = (migration.version, migration.name, migration.readers());
        run(format!(
            "INSERT INTO schema_version (scope, version, name, readers, applied_ms) \
             VALUES ('{SCOPE}', {version}, '{name}', {readers}, 0)"
        ))
        .await;
    }
}
