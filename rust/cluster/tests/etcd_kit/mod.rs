//! Real etcd processes for tests: started, killed, paused, thrown away.
#![allow(dead_code, reason = "each test file uses a part")]

mod folder;

use antiphon_cluster::etcd::{Client, Options};
pub use folder::Folder;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Where etcd's program is; `None`: `ANTIPHON_TEST_ETCD=none` says to go without these tests.
///
/// Panics with what to do when there is no etcd: a test that cannot run must not look passed.
pub fn program() -> Option<PathBuf> {
    match std::env::var("ANTIPHON_TEST_ETCD") {
        Ok(none) if none == "none" => return None,
        Ok(path) => return Some(PathBuf::from(path)),
        Err(_) => {}
    }
    let cache = std::env::var_os("ANTIPHON_CI_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache/antiphon-ci")));
    let cached = cache.map(|cache| cache.join("bin/etcd"));
    match cached.filter(|path| path.is_file()) {
        Some(path) => Some(path),
        None => panic!(
            "no etcd: run `tests/deps/go.sh etcd`, or name one with ANTIPHON_TEST_ETCD=PATH, or \
             go without with ANTIPHON_TEST_ETCD=none"
        ),
    }
}

/// A free port below the range that outgoing connections use.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 1_000) as u16 * 11;
    for _ in 0..2_000 {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// One etcd process; may be down.
pub struct Member {
    program: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
    pub endpoint: String,
}

impl Member {
    pub fn start(&mut self) {
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        self.child = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("running").id().to_string();
        let done = Command::new("kill").args([name, &pid]).status();
        assert!(done.expect("kill").success());
    }

    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.signal("-CONT");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An etcd cluster on loopback, gone with this value.
pub struct Etcd {
    pub members: Vec<Member>,
    pub folder: Folder,
}

impl Etcd {
    /// `None`: these tests are left out.
    pub fn start(count: usize) -> Option<Self> {
        Self::with(count, &[])
    }

    /// With more arguments for each.
    pub fn with(count: usize, more: &[String]) -> Option<Self> {
        let program = program()?;
        let folder = Folder::new("etcd");
        let scheme = if more.iter().any(|a| a == "--client-cert-auth") {
            "https"
        } else {
            "http"
        };
        let peers: Vec<String> = (0..count)
            .map(|_| format!("http://127.0.0.1:{}", port()))
            .collect();
        let all: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(at, peer)| format!("m{at}={peer}"))
            .collect();
        let members = peers.iter().enumerate().map(|(at, peer)| {
            let endpoint = format!("127.0.0.1:{}", port());
            let own = format!("{scheme}://{endpoint}");
            let pairs = [
                ("--name", format!("m{at}")),
                (
                    "--data-dir",
                    folder.0.join(format!("m{at}")).display().to_string(),
                ),
                ("--listen-client-urls", own.clone()),
                ("--advertise-client-urls", own),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer.clone()),
                ("--initial-cluster", all.join(",")),
                (
                    "--initial-cluster-token",
                    format!("t{}", std::process::id()),
                ),
                ("--log-level", "error".to_owned()),
            ];
            let mut arguments: Vec<String> = pairs
                .into_iter()
                .flat_map(|(name, value)| [name.to_owned(), value])
                .collect();
            arguments.extend(more.iter().cloned());
            let mut member = Member {
                program: program.clone(),
                arguments,
                child: None,
                endpoint,
            };
            member.start();
            member
        });
        Some(Self {
            members: members.collect(),
            folder,
        })
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| m.endpoint.clone()).collect()
    }

    pub fn options(&self) -> Options {
        Options {
            endpoints: self.endpoints(),
            ..Options::default()
        }
    }

    /// A client of it, once it answers.
    pub async fn client(&self) -> Client {
        let client = Client::new(self.options()).expect("options");
        ready(&client).await;
        client
    }
}

/// Waits until etcd answers.
pub async fn ready(client: &Client) {
    let until = Instant::now() + Duration::from_secs(40);
    loop {
        match client.get("/ready").await {
            Ok(_) => return,
            Err(error) if Instant::now() > until => panic!("etcd does not come up: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
