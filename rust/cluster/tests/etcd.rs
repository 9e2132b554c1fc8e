//! The client of etcd against a real one, and against what only looks like one.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

mod etcd_kit;
mod link_kit;

use antiphon_cluster::clock;
use antiphon_cluster::etcd::{
    Answer, Change, Check, Client, EtcdError, Lease, LeaseClock, LeaseState, Op, Options, Update,
    Watch,
};
use antiphon_cluster::tls::Files;
use bytes::Bytes;
use etcd_kit::{Etcd, Folder, port, ready};
use link_kit::Authority;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(60);

fn put(key: &str, value: &str) -> Op {
    Op::Put {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease: 0,
    }
}

async fn put_for_sure(client: &Client, key: &str, value: &str) {
    let until = Instant::now() + LONG;
    while let Err(error) = client
        .put(key, Bytes::copy_from_slice(value.as_bytes()), 0)
        .await
    {
        assert!(Instant::now() < until, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The values of puts until one is `last`, whatever breaks between.
async fn values_until(watch: &mut Watch, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
    timeout(LONG, async {
        loop {
            match watch.next().await.expect("watch") {
                Update::Snapshot { kvs, .. } => seen.extend(kvs.iter().map(|kv| text(&kv.value))),
                Update::Changes(changes) => {
                    for change in changes {
                        if let Change::Put(kv) = change {
                            seen.push(text(&kv.value));
                        }
                    }
                }
                Update::Broken(_) | Update::Restored => {}
            }
            if seen.last().is_some_and(|value| value == last) {
                return;
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("not seen: {last}; seen: {seen:?}"));
    seen
}

fn numbers(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn keys_are_written_read_compared_and_deleted() {
    let Some(etcd) = Etcd::start(1) else { return };
    let client = etcd.client().await;
    let first = client.put("/k/a", "1".into(), 0).await.expect("put");
    assert_eq!(client.get("/k/none").await.expect("get").0, None);
    let (found, revision) = client.get("/k/a").await.expect("get");
    let found = found.expect("there");
    assert_eq!(
        (&found.value[..], found.create_revision),
        (&b"1"[..], first)
    );
    assert!(revision >= first);

    let swap = client
        .txn(
            vec![
                Check::Modified("/k/a".into(), first),
                Check::Absent("/k/b".into()),
            ],
            vec![
                put("/k/a", "2"),
                put("/k/b", "3"),
                Op::GetPrefix("/k/".into()),
            ],
            vec![],
        )
        .await
        .expect("txn");
    assert!(swap.succeeded);
    assert!(matches!(&swap.answers[2], Answer::Read(kvs) if kvs.len() == 2));

    let again = client
        .txn(
            vec![Check::Modified("/k/a".into(), first)],
            vec![put("/k/a", "4")],
            vec![Op::Get("/k/a".into())],
        )
        .await
        .expect("txn");
    assert!(!again.succeeded);
    assert!(matches!(&again.answers[0], Answer::Read(kvs) if &kvs[0].value[..] == b"2"));
    assert!(client.delete("/k/a").await.expect("delete"));
    assert!(!client.delete("/k/a").await.expect("delete"));
    let figures = client.metrics().figures();
    assert_eq!(
        figures.writes, 5,
        "two puts of which one in a txn, two txns, two deletes"
    );
    assert!(figures.contact_age_ms.is_some_and(|age| age < 5_000));
}

#[tokio::test]
async fn a_watch_sees_every_write_over_kill_and_restart_of_etcd() {
    let Some(mut etcd) = Etcd::start(1) else {
        return;
    };
    let client = etcd.client().await;
    let mut watch = Watch::follow(&client, "/w/");
    let clock = Arc::new(LeaseClock::default());
    let lease = Lease::start(&client, 5, Arc::clone(&clock))
        .await
        .expect("lease");
    client
        .put("/w/k", "0".into(), lease.id())
        .await
        .expect("put");
    assert_eq!(values_until(&mut watch, "0").await, ["0"]);
    etcd.members[0].kill();
    sleep(Duration::from_secs(3)).await;
    etcd.members[0].start();
    let writer = Client::new(etcd.options()).expect("options");
    ready(&writer).await;
    for n in 1..=21 {
        put_for_sure(&writer, "/w/n", &n.to_string()).await;
    }
    let seen = values_until(&mut watch, "21").await;
    assert_eq!(seen.len(), 21, "{seen:?}");
    assert_eq!(seen, numbers(1, 21));
    timeout(LONG, async {
        while !clock.holds() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the lease is renewed again");
    assert_eq!(
        client.get("/w/k").await.expect("get").0.map(|kv| kv.lease),
        Some(lease.id())
    );
}

#[tokio::test]
async fn a_stall_of_12_s_passes_the_local_deadline_in_time_and_is_survived() {
    let Some(etcd) = Etcd::start(1) else { return };
    let client = etcd.client().await;
    let mut watch = Watch::follow(&client, "/w/");
    let clock = Arc::new(LeaseClock::default());
    let lease = Lease::start(&client, 5, Arc::clone(&clock))
        .await
        .expect("lease");
    client
        .put("/w/k", "0".into(), lease.id())
        .await
        .expect("put");
    values_until(&mut watch, "0").await;
    let mut state = lease.state();
    etcd.members[0].pause();
    let paused = clock::now_ms();
    let begun = Instant::now();
    while clock.holds() {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "longer than the lease"
        );
        sleep(Duration::from_millis(5)).await;
    }
    assert!(
        clock::now_ms() - paused <= 4_000 + 50,
        "lease less margin, from the send time"
    );
    sleep(Duration::from_secs(12).saturating_sub(begun.elapsed())).await;
    etcd.members[0].go_on();
    // The lease ended on the server while it was stopped: measured, and shown here again.
    timeout(LONG, async {
        while *state.borrow_and_update() != LeaseState::Gone {
            state.changed().await.expect("keeper");
        }
    })
    .await
    .expect("gone");
    assert!(!clock.holds());
    put_for_sure(&client, "/w/n", "1").await;
    assert_eq!(values_until(&mut watch, "1").await, ["1"]);
}

/// A proxy whose connections can be cut and kept out.
struct Proxy {
    endpoint: String,
    open: tokio::sync::watch::Sender<bool>,
}

impl Proxy {
    async fn start(target: String) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port()))
            .await
            .expect("bind");
        let endpoint = listener.local_addr().expect("address").to_string();
        let (open, is_open) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (target, mut is_open) = (target.clone(), is_open.clone());
                tokio::spawn(async move {
                    if !*is_open.borrow_and_update() {
                        return;
                    }
                    let mut far = tokio::net::TcpStream::connect(target).await.expect("etcd");
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_open.changed() => {}
                    }
                });
            }
        });
        Self { endpoint, open }
    }

    fn cut(&self) {
        self.open.send_replace(false);
    }

    fn mend(&self) {
        self.open.send_replace(true);
    }
}

fn options(endpoint: &str) -> Options {
    Options {
        endpoints: vec![endpoint.to_owned()],
        ..Options::default()
    }
}

#[tokio::test]
async fn history_compacted_during_a_cut_gives_a_new_snapshot() {
    let Some(etcd) = Etcd::start(1) else { return };
    let writer = etcd.client().await;
    let proxy = Proxy::start(etcd.members[0].endpoint.clone()).await;
    let client = Client::new(options(&proxy.endpoint)).expect("options");
    let mut watch = Watch::follow(&client, "/w/");
    put_for_sure(&writer, "/w/a", "1").await;
    values_until(&mut watch, "1").await;
    proxy.cut();
    let mut last = 0;
    for n in 2..=9 {
        last = writer
            .put("/w/a", n.to_string().into(), 0)
            .await
            .expect("put");
    }
    writer.delete("/w/never").await.expect("delete");
    writer.compact(last).await.expect("compact");
    proxy.mend();
    let mut relisted = None;
    timeout(LONG, async {
        while relisted.is_none() {
            if let Update::Snapshot { kvs, revision } = watch.next().await.expect("watch") {
                relisted = Some((kvs, revision));
            }
        }
    })
    .await
    .expect("a snapshot");
    let (kvs, revision) = relisted.expect("set");
    assert_eq!(
        kvs.iter().map(|kv| &kv.value[..]).collect::<Vec<_>>(),
        [b"9"]
    );
    assert!(revision >= last);
    put_for_sure(&writer, "/w/a", "10").await;
    assert_eq!(values_until(&mut watch, "10").await, ["10"]);
    assert_eq!(client.metrics().figures().relists, 2);
}

#[tokio::test]
async fn a_watch_resumed_from_a_revision_survives_cuts_at_any_moment() {
    let Some(etcd) = Etcd::start(1) else { return };
    let writer = etcd.client().await;
    let from = writer.put("/w/n", "1".into(), 0).await.expect("put");
    for n in 2..=400 {
        put_for_sure(&writer, "/w/n", &n.to_string()).await;
    }
    let proxy = Proxy::start(etcd.members[0].endpoint.clone()).await;
    let client = Client::new(options(&proxy.endpoint)).expect("options");
    let mut watch = Watch::resume(&client, "/w/", from);
    // Cuts while history is replayed: between "created" and the events as well as between those.
    let cutter = tokio::spawn(async move {
        for wait_ms in [0, 1, 2, 3, 5, 8, 13, 21, 34, 55] {
            sleep(Duration::from_millis(wait_ms)).await;
            proxy.cut();
            proxy.mend();
        }
        for n in 401..=500 {
            put_for_sure(&writer, "/w/n", &n.to_string()).await;
            if n % 10 == 0 {
                proxy.cut();
                proxy.mend();
            }
        }
        proxy
    });
    assert_eq!(values_until(&mut watch, "500").await, numbers(1, 500));
    cutter.await.expect("cutter");
}

#[tokio::test]
async fn three_members_lose_their_leader_and_nothing_that_was_written() {
    let Some(mut etcd) = Etcd::start(3) else {
        return;
    };
    let client = etcd.client().await;
    let mut watch = Watch::follow(&client, "/w/");
    let clock = Arc::new(LeaseClock::default());
    let lease = Lease::start(&client, 10, Arc::clone(&clock))
        .await
        .expect("lease");
    client
        .put("/w/k", "0".into(), lease.id())
        .await
        .expect("put");
    values_until(&mut watch, "0").await;
    let mut written = Vec::new();
    let mut longest = Duration::ZERO;
    for n in 1..=60 {
        if n == 20 {
            // Not known which leads: every one of them, one after the other, is gone for a while.
            etcd.members[0].kill();
        }
        if n == 40 {
            etcd.members[0].start();
            sleep(Duration::from_secs(3)).await;
            etcd.members[1].kill();
        }
        let begun = Instant::now();
        put_for_sure(&client, "/w/n", &n.to_string()).await;
        longest = longest.max(begun.elapsed());
        written.push(n.to_string());
        assert!(clock.holds(), "the lease holds at {n}");
    }
    let mut seen = values_until(&mut watch, "60").await;
    // A put whose first answer was lost is written twice.
    seen.dedup();
    assert_eq!(seen, written);
    println!("longest write {longest:?}");
    assert!(longest < Duration::from_secs(9), "{longest:?}");
    assert!(client.get("/w/k").await.expect("get").0.is_some());
}

#[tokio::test]
async fn endpoints_that_are_all_wrong_fail_within_their_time_and_say_which() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("bind");
    let endpoints = vec![
        format!("127.0.0.1:{}", port()),
        silent.local_addr().expect("address").to_string(),
        "no-such-host.invalid:2379".to_owned(),
    ];
    let client = Client::new(Options {
        endpoints: endpoints.clone(),
        call_timeout: Duration::from_millis(500),
        ..Options::default()
    })
    .expect("options");
    let begun = Instant::now();
    let error = client.get("/k").await.expect_err("nobody there");
    assert!(begun.elapsed() < Duration::from_secs(6));
    assert!(error.is_outage(), "{error}");
    let error = client
        .put("/k", "".into(), 0)
        .await
        .expect_err("nobody there");
    assert!(
        matches!(error, EtcdError::Unknown { .. } | EtcdError::Unreachable(_)),
        "{error}"
    );
    let each = client.status().await;
    assert_eq!(each.len(), 3);
    for (endpoint, answer) in each {
        let error = answer.expect_err("no etcd").to_string();
        assert!(error.contains(&endpoint), "{error}");
    }
}

async fn answering(reply: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint = listener.local_addr().expect("address").to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut some = [0; 1024];
                let _ = socket.read(&mut some).await;
                let _ = socket.write_all(reply).await;
                sleep(Duration::from_millis(200)).await;
            });
        }
    });
    endpoint
}

#[tokio::test]
async fn what_answers_garbage_leads_to_an_error_and_to_no_decision() {
    let web: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let noise: &[u8] = &[0xfe; 600];
    // An HTTP/2 peer that answers a page: SETTINGS, then HEADERS with :status 200 on stream 1.
    let page: &[u8] = &[
        0, 0, 0, 4, 0, 0, 0, 0, 0, // SETTINGS
        0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88, // HEADERS, END_STREAM | END_HEADERS
    ];
    for reply in [web, noise, page] {
        let endpoint = answering(reply).await;
        let client = Client::new(options(&endpoint)).expect("options");
        let error = client.get_prefix("/").await.expect_err("garbage");
        assert!(matches!(error, EtcdError::NotEtcd { .. }), "{error:?}");
        let mut watch = Watch::follow(&client, "/");
        match timeout(LONG, watch.next()).await.expect("told") {
            Some(Update::Broken(_)) => {}
            other => panic!("{other:?}"),
        }
        let clock = Arc::new(LeaseClock::default());
        let lease = Lease::start(&client, 5, Arc::clone(&clock)).await;
        assert!(lease.is_err() && !clock.holds());
    }
}

#[tokio::test]
async fn two_etcd_clusters_in_one_configuration_are_noticed() {
    let Some(mut one) = Etcd::start(1) else {
        return;
    };
    let token = ["--initial-cluster-token".to_owned(), "another".to_owned()];
    let Some(two) = Etcd::with(1, &token) else {
        return;
    };
    ready(&one.client().await).await;
    ready(&two.client().await).await;
    let client = Client::new(Options {
        endpoints: [one.endpoints(), two.endpoints()].concat(),
        ..Options::default()
    })
    .expect("options");
    client.put("/k", "of one".into(), 0).await.expect("put");
    one.members[0].kill();
    let error = client.get("/k").await.expect_err("another cluster");
    assert!(error.to_string().contains("belongs to cluster"), "{error}");
}

#[tokio::test]
async fn a_revoked_lease_is_gone_at_once_and_its_keys_with_it() {
    let Some(etcd) = Etcd::start(1) else { return };
    let client = etcd.client().await;
    let clock = Arc::new(LeaseClock::default());
    let lease = Lease::start(&client, 10, Arc::clone(&clock))
        .await
        .expect("lease");
    client.put("/k", "".into(), lease.id()).await.expect("put");
    let mut watch = Watch::follow(&client, "/k");
    assert!(matches!(watch.next().await, Some(Update::Snapshot { kvs, .. }) if kvs.len() == 1));
    client.revoke(lease.id()).await.expect("revoke");
    client.revoke(lease.id()).await.expect("twice is no error");
    match timeout(LONG, watch.next()).await.expect("told") {
        Some(Update::Changes(changes)) => {
            assert!(matches!(&changes[..], [Change::Deleted { key, .. }] if &key[..] == b"/k"));
        }
        other => panic!("{other:?}"),
    }
    let mut state = lease.state();
    lease.confirm_soon();
    timeout(LONG, async {
        while *state.borrow_and_update() != LeaseState::Gone {
            state.changed().await.expect("keeper");
        }
    })
    .await
    .expect("gone");
    assert!(!clock.holds());
    let late = client.put("/k", "".into(), lease.id()).await;
    assert_eq!(late.expect_err("no lease"), EtcdError::LeaseGone);
}

/// A request to etcd's JSON gateway, for what the client does not do.
async fn gateway(endpoint: &str, path: &str, body: &str) {
    let mut socket = tokio::net::TcpStream::connect(endpoint)
        .await
        .expect("etcd");
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
}

#[tokio::test]
async fn a_user_logs_in_and_again_when_the_token_has_run_out() {
    let ttl = ["--auth-token-ttl".to_owned(), "1".to_owned()];
    let Some(etcd) = Etcd::with(1, &ttl) else {
        return;
    };
    ready(&etcd.client().await).await;
    let endpoint = etcd.endpoints()[0].clone();
    for (path, body) in [
        (
            "/v3/auth/user/add",
            r#"{"name":"root","password":"secret"}"#,
        ),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        gateway(&endpoint, path, body).await;
    }
    let with = |user: Option<&str>, password: Option<&str>| {
        Client::new(Options {
            user: user.map(str::to_owned),
            password: password.map(str::to_owned),
            ..etcd.options()
        })
        .expect("options")
    };
    for (user, password) in [
        (None, None),
        (Some("root"), Some("wrong")),
        (Some("who"), Some("?")),
    ] {
        let error = with(user, password).put("/k", "".into(), 0).await;
        let error = error.expect_err("not allowed");
        assert!(matches!(error, EtcdError::Auth(_)), "{user:?}: {error:?}");
        assert!(error.to_string().contains("cluster.etcd.user"));
    }
    let client = with(Some("root"), Some("secret"));
    let mut watch = Watch::follow(&client, "/k");
    assert!(matches!(watch.next().await, Some(Update::Snapshot { .. })));
    let clock = Arc::new(LeaseClock::default());
    let lease = Lease::start(&client, 5, Arc::clone(&clock))
        .await
        .expect("lease");
    client.put("/k", "1".into(), lease.id()).await.expect("put");
    assert_eq!(values_until(&mut watch, "1").await, ["1"]);
    // Longer than the token lives without being used.
    sleep(Duration::from_secs(3)).await;
    client
        .put("/k", "2".into(), lease.id())
        .await
        .expect("a new token");
    assert_eq!(values_until(&mut watch, "2").await, ["2"]);
    assert!(clock.holds());
    drop(lease);
    let other = client.grant(20).await.expect("lease");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(client.keep_alive(other).await, Ok(20));
    assert!(!format!("{client:?}").contains("secret"));
}

#[tokio::test]
async fn etcd_is_reached_by_mutual_tls_and_by_nothing_less() {
    let folder = Folder::new("etcd-tls");
    let authority = Authority::new("etcd");
    let server = authority.issue_for(&folder.0, "server", &["127.0.0.1", "localhost"]);
    let path =
        |file: &Option<std::path::PathBuf>| file.as_ref().expect("set").display().to_string();
    let arguments = [
        format!("--cert-file={}", path(&server.certificate)),
        format!("--key-file={}", path(&server.key)),
        format!("--trusted-ca-file={}", path(&server.ca)),
        "--client-cert-auth".to_owned(),
    ];
    let Some(etcd) = Etcd::with(1, &arguments) else {
        return;
    };
    let tls = authority.issue(&folder.0, "client");
    let with = |tls: Files| {
        Client::new(Options {
            tls,
            ..etcd.options()
        })
        .expect("options")
    };
    let client = with(tls.clone());
    ready(&client).await;
    let mut watch = Watch::follow(&client, "/k");
    assert!(matches!(watch.next().await, Some(Update::Snapshot { .. })));
    client.put("/k", "1".into(), 0).await.expect("put");
    assert_eq!(values_until(&mut watch, "1").await, ["1"]);

    // Certificates of another authority in the same files: the next connection shows them.
    let good = |file: &Option<std::path::PathBuf>| std::fs::read(file.as_ref().expect("set"));
    let kept = [&tls.ca, &tls.certificate, &tls.key].map(|file| good(file).expect("read"));
    Authority::new("later").issue(&folder.0, "client");
    client.reload().expect("reloaded");
    client.get("/k").await.expect("what stands goes on");
    ready_to_fail(&with(tls.clone())).await;
    for (file, text) in [&tls.ca, &tls.certificate, &tls.key].into_iter().zip(kept) {
        std::fs::write(file.as_ref().expect("set"), text).expect("written");
    }
    client.reload().expect("reloaded");

    let anonymous = Files {
        ca: tls.ca.clone(),
        ..Files::default()
    };
    let others = Authority::new("others").issue(&folder.0, "stranger");
    for bad in [anonymous, others, Files::default()] {
        let error = with(bad.clone()).get("/k").await.expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(&etcd.endpoints()[0]), "{bad:?}: {text}");
    }
    let half = Client::new(Options {
        tls: Files {
            key: None,
            ..tls.clone()
        },
        ..etcd.options()
    });
    assert!(
        half.expect_err("half")
            .to_string()
            .contains("belong together")
    );
    let missing = Client::new(Options {
        tls: Files {
            ca: Some("/nowhere/ca.pem".into()),
            ..tls
        },
        ..etcd.options()
    });
    assert!(
        missing
            .expect_err("missing")
            .to_string()
            .contains("/nowhere/ca.pem")
    );
}

async fn ready_to_fail(client: &Client) {
    let error = client.get("/k").await.expect_err("another authority");
    assert!(error.to_string().contains("TLS"), "{error}");
}
