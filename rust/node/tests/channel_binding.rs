//! SCRAM with channel binding (RFC 5802 §6, RFC 9266, RFC 5929 §4, XEP-0440) against a TLS client
//! that knows its own keying material: a node as it runs, real sockets, rustls at both ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use antiphon_node::Core;
use antiphon_node::bridge::Event;
use antiphon_node::calls::Operation;
use antiphon_xmpp::Jid;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, SignatureScheme, StreamOwned};
use rustls::{DigitallySignedStruct, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const DOMAIN: &str = "capulet.example";
const USER: &str = "juliet";
const PASSWORD: &str = "R0m30MyR0m30";
const TIMEOUT: Duration = Duration::from_secs(20);
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;
const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const EXPORTER: &str = "tls-exporter";
const END_POINT: &str = "tls-server-end-point";
const PLUS: &str = "SCRAM-SHA-256-PLUS";
const CLIENT_NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

// -- the node -----------------------------------------------------------------------------------

/// A running node with one account, in a folder of its own.
struct World {
    core: Core,
    folder: PathBuf,
    certificate: CertificateDer<'static>,
    starttls: SocketAddr,
    direct: SocketAddr,
}

impl World {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("antiphon-channel-binding-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = antiphon_net::tls::self_signed(&[DOMAIN.to_owned()]).unwrap();
        std::fs::write(folder.join("cert.pem"), &certificate).unwrap();
        std::fs::write(folder.join("key.pem"), key).unwrap();
        let core = Core::new(&config(&folder)).unwrap();
        core.start().unwrap();
        let mut addresses = core
            .addresses()
            .into_iter()
            .map(|(_, a)| a.parse().unwrap());
        let world = Self {
            certificate: CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap(),
            starttls: addresses.next().unwrap(),
            direct: addresses.next().unwrap(),
            core,
            folder,
        };
        world.create_account();
        world
    }

    fn create_account(&self) {
        let jid = Jid::parse(&format!("{USER}@{DOMAIN}")).unwrap();
        let password = PASSWORD.to_owned();
        let node = self.core.node().unwrap();
        node.call(1, Operation::AccountCreate { jid, password });
        let until = Instant::now() + TIMEOUT;
        while Instant::now() < until {
            for event in self.core.bridge().drain(100) {
                match event {
                    Event::Result(1, _) => return,
                    Event::Failed(1, error) => panic!("no account: {error:?}"),
                    _ => {}
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no account within {TIMEOUT:?}");
    }

    /// `tls-server-end-point` of the certificate, whose signature is ECDSA with SHA-256.
    fn end_point(&self) -> Vec<u8> {
        let hash = digest::digest(&digest::SHA256, &self.certificate);
        hash.as_ref().to_vec()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.core.stop(Duration::from_secs(5));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn config(folder: &std::path::Path) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    serde_json::json!({
        "node_name": "test", "data_dir": file("data"), "log_level": 10, "worker_threads": 1,
        "hosts": [{
            "domain": DOMAIN, "certificate": file("cert.pem"), "key": file("key.pem"),
            "extra_features": "", "registration": false,
        }],
        "listeners": [
            {"kind": "c2s", "address": "127.0.0.1:0", "tls": "starttls"},
            {"kind": "c2s", "address": "127.0.0.1:0", "tls": "direct"},
        ],
        "auth": {
            "mechanisms": ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"],
            "scram_iterations": 4096, "client_ca": null, "allow_plaintext": false,
        },
        "storage": {"backend": "sqlite"},
        "components": [],
        "limits": {
            "connections_per_address": 0, "connections_before_login": 0,
            "logins_per_worker": 0, "stanza_bytes": 262_144,
            "stanza_bytes_before_login": 65_536, "stanza_depth": 64, "stanza_elements": 10_000,
            "stanza_attributes": 100, "login_seconds": 60, "idle_seconds": 0, "auth_attempts": 5,
            "auth_failures_per_minute": 0, "sessions_per_user": 20, "roster_items": 2000,
            "blocked_items": 1000, "offline_messages": 1000, "sm_queue_stanzas": 1000,
            "sm_resume_seconds": 600, "stanzas_per_second": 0, "burst_stanzas": 0,
            "bytes_per_second": 0, "burst_bytes": 0, "outgoing_bytes": 1_000_000,
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

// -- the TLS client -----------------------------------------------------------------------------

/// Believes one certificate, self-signed as it is.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl Pinned {
    fn algorithms() -> rustls::crypto::WebPkiSupportedAlgorithms {
        rustls::crypto::ring::default_provider().signature_verification_algorithms
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() == self.0.as_ref() {
            Ok(ServerCertVerified::assertion())
        } else {
            let reason = rustls::CertificateError::ApplicationVerificationFailure;
            Err(rustls::Error::InvalidCertificate(reason))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &Self::algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &Self::algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::algorithms().supported_schemes()
    }
}

fn tls_config(world: &World, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(world.certificate.clone())))
        .with_no_client_auth();
    // XEP-0368 #table-1
    config.alpn_protocols = vec![b"xmpp-client".to_vec()];
    Arc::new(config)
}

// -- the XMPP client ----------------------------------------------------------------------------

fn header() -> String {
    format!(
        "<?xml version='1.0'?><stream:stream to='{DOMAIN}' version='1.0' xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams'>"
    )
}

fn read_until(stream: &mut impl Read, ends: &[&str]) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !ends.iter().any(|end| text.contains(end)) {
        let count = stream.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "the stream ended behind {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    text
}

/// The text between the end of `<name …>` and the next tag.
fn content<'a>(text: &'a str, name: &str) -> &'a str {
    let rest = &text[text.find(&format!("<{name}")).unwrap()..];
    let rest = &rest[rest.find('>').unwrap() + 1..];
    &rest[..rest.find('<').unwrap_or(0)]
}

/// A client behind TLS whose features it has read.
struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    features: String,
}

impl Client {
    fn connect(address: SocketAddr, config: Arc<ClientConfig>, has_starttls: bool) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        if has_starttls {
            socket.write_all(header().as_bytes()).unwrap();
            let offer = read_until(&mut socket, &["</stream:features>"]);
            assert!(offer.contains("<starttls"), "{offer}");
            assert!(!offer.contains("<mechanism"), "{offer}");
            socket
                .write_all(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
                .unwrap();
            read_until(&mut socket, &["<proceed"]);
        }
        let name = ServerName::try_from(DOMAIN).unwrap();
        let tls = ClientConnection::new(config, name).unwrap();
        let mut client = Self {
            stream: StreamOwned::new(tls, socket),
            features: String::new(),
        };
        client.features = client.ask(&header(), &["</stream:features>"]);
        client
    }

    fn direct(world: &World, version: &'static SupportedProtocolVersion) -> Self {
        Self::connect(world.direct, tls_config(world, version), false)
    }

    fn starttls(world: &World, version: &'static SupportedProtocolVersion) -> Self {
        Self::connect(world.starttls, tls_config(world, version), true)
    }

    fn ask(&mut self, text: &str, ends: &[&str]) -> String {
        self.stream.write_all(text.as_bytes()).unwrap();
        self.stream.flush().unwrap();
        read_until(&mut self.stream, ends)
    }

    /// RFC 9266 §2.
    fn exporter(&self) -> Vec<u8> {
        let label = b"EXPORTER-Channel-Binding";
        let material = self
            .stream
            .conn
            .export_keying_material([0; 32], label, Some(b""));
        material.unwrap().to_vec()
    }

    fn sasl(&mut self, element: &str, attributes: &str, message: &str) -> Result<String, String> {
        let message = BASE64.encode(message);
        let text = format!(
            "<{element} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'{attributes}>{message}</{element}>"
        );
        let answer = self.ask(&text, &["</challenge>", "</success>", "</failure>"]);
        if let Some((_, failure)) = answer.split_once("<failure") {
            let (_, condition) = failure.split_once("><").unwrap();
            let end = condition.find(['/', '>', ' ']).unwrap();
            return Err(condition[..end].to_owned());
        }
        let name = if answer.contains("<success") {
            "success"
        } else {
            "challenge"
        };
        Ok(String::from_utf8(BASE64.decode(content(&answer, name)).unwrap()).unwrap())
    }

    /// A SCRAM-SHA-256 exchange (RFC 5802 §3); the condition of its failure. `gs2` is the flag,
    /// `bound` what the client believes the channel to be.
    fn scram(&mut self, mechanism: &str, gs2: &str, bound: &[u8]) -> Result<(), String> {
        let first_bare = format!("n={USER},r={CLIENT_NONCE}");
        let attributes = format!(" mechanism='{mechanism}'");
        let first = self.sasl("auth", &attributes, &format!("{gs2},,{first_bare}"))?;
        let mut fields = first.split(',').map(|field| &field[2..]);
        let (nonce, salt) = (fields.next().unwrap(), fields.next().unwrap());
        let iterations: NonZeroU32 = fields.next().unwrap().parse().unwrap();
        assert!(nonce.starts_with(CLIENT_NONCE) && nonce.len() > CLIENT_NONCE.len());

        let mut salted = [0; 32];
        let salt = BASE64.decode(salt).unwrap();
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(
            algorithm,
            iterations,
            &salt,
            PASSWORD.as_bytes(),
            &mut salted,
        );
        let binding = [format!("{gs2},,").as_bytes(), bound].concat();
        let without_proof = format!("c={},r={nonce}", BASE64.encode(binding));
        let auth_message = format!("{first_bare},{first},{without_proof}");
        let client_key = mac(&salted, "Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = mac(stored_key.as_ref(), &auth_message);
        let pairs = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = pairs.map(|(a, b)| a ^ b).collect();
        let message = format!("{without_proof},p={}", BASE64.encode(proof));
        let last = self.sasl("response", "", &message)?;

        let server_key = mac(&salted, "Server Key");
        let verifier = BASE64.encode(mac(server_key.as_ref(), &auth_message));
        assert_eq!(last, format!("v={verifier}"), "the server's own proof");
        Ok(())
    }

    fn scram_plus(&mut self, kind: &str, bound: &[u8]) -> Result<(), String> {
        self.scram(PLUS, &format!("p={kind}"), bound)
    }

    /// The new stream after login takes a resource.
    fn bind(&mut self) {
        self.ask(&header(), &["</stream:features>"]);
        let iq = "<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
        let answer = self.ask(iq, &["</iq>"]);
        assert!(answer.contains(&format!("{USER}@{DOMAIN}/")), "{answer}");
    }
}

fn mac(key: &[u8], message: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes())
}

fn refused(condition: &str) -> Result<(), String> {
    Err(condition.to_owned())
}

// -- the tests ----------------------------------------------------------------------------------

#[test]
fn tls_1_3_logs_in_with_each_binding_by_direct_tls_and_by_starttls() {
    let world = World::new();
    for connect in [Client::direct, Client::starttls] {
        for kind in [EXPORTER, END_POINT] {
            let mut client = connect(&world, TLS13);
            let version = client.stream.conn.protocol_version();
            assert_eq!(version, Some(ProtocolVersion::TLSv1_3));
            for offer in [
                "<mechanism>SCRAM-SHA-256-PLUS</mechanism>",
                "<channel-binding type='tls-exporter'/>",
                "<channel-binding type='tls-server-end-point'/>",
            ] {
                assert!(client.features.contains(offer), "{}", client.features);
            }
            let bound = match kind {
                EXPORTER => client.exporter(),
                _ => world.end_point(),
            };
            assert_eq!(client.scram_plus(kind, &bound), Ok(()), "{kind}");
            client.bind();
        }
    }
}

#[test]
fn direct_tls_agrees_on_the_protocol() {
    // XEP-0368 #recs
    let world = World::new();
    let client = Client::direct(&world, TLS13);
    let protocol = client.stream.conn.alpn_protocol();
    assert_eq!(protocol, Some(b"xmpp-client".as_slice()));
}

#[test]
fn tls_1_2_has_the_end_point_alone() {
    // RFC 9266 §4.2: rustls cannot say whether the extended master secret was agreed on.
    let world = World::new();
    for connect in [Client::direct, Client::starttls] {
        let mut client = connect(&world, TLS12);
        let version = client.stream.conn.protocol_version();
        assert_eq!(version, Some(ProtocolVersion::TLSv1_2));
        assert!(client.features.contains("type='tls-server-end-point'"));
        assert!(!client.features.contains(EXPORTER), "{}", client.features);
        let exported = client.exporter();
        let result = client.scram_plus(EXPORTER, &exported);
        assert_eq!(result, refused("not-authorized"));
        assert_eq!(client.scram_plus(END_POINT, &world.end_point()), Ok(()));
        client.bind();
    }
}

#[test]
fn a_channel_that_is_not_the_one_at_hand_is_refused() {
    let world = World::new();
    let other = Client::direct(&world, TLS13).exporter();
    for (kind, bound) in [
        // What somebody in the middle would relay from another connection.
        (EXPORTER, other),
        (EXPORTER, vec![0; 32]),
        (EXPORTER, Vec::new()),
        (EXPORTER, world.end_point()),
        (END_POINT, vec![0; 32]),
        (END_POINT, Vec::new()),
    ] {
        let mut client = Client::direct(&world, TLS13);
        let result = client.scram_plus(kind, &bound);
        assert_eq!(result, refused("not-authorized"), "{kind} {bound:02x?}");
        // The failure costs an attempt and no more.
        let bound = client.exporter();
        assert_eq!(client.scram_plus(EXPORTER, &bound), Ok(()));
    }
}

#[test]
fn a_type_that_there_is_not_is_refused() {
    let world = World::new();
    for kind in ["tls-unique", "tls-exporter-2", "TLS-EXPORTER"] {
        let mut client = Client::direct(&world, TLS13);
        let bound = client.exporter();
        let result = client.scram_plus(kind, &bound);
        assert_eq!(result, refused("not-authorized"), "{kind}");
    }
    let mut client = Client::direct(&world, TLS13);
    let bound = client.exporter();
    let result = client.scram_plus("", &bound);
    assert_eq!(result, refused("malformed-request"), "no name");
}

#[test]
fn a_flag_that_does_not_fit_is_refused() {
    let world = World::new();
    // RFC 5802 §6: `y` says that the offer was seen without -PLUS, so somebody has stripped it.
    let mut client = Client::direct(&world, TLS13);
    let result = client.scram("SCRAM-SHA-256", "y", b"");
    assert_eq!(result, refused("not-authorized"));
    for (flag, condition) in [("y", "not-authorized"), ("n", "malformed-request")] {
        let mut client = Client::direct(&world, TLS13);
        let result = client.scram(PLUS, flag, b"");
        assert_eq!(result, refused(condition), "{flag} with -PLUS");
    }
    let mut client = Client::direct(&world, TLS13);
    let bound = client.exporter();
    let result = client.scram("SCRAM-SHA-256", "p=tls-exporter", &bound);
    assert_eq!(result, refused("malformed-request"), "p without -PLUS");
    assert_eq!(client.scram("SCRAM-SHA-256", "n", b""), Ok(()));
}

#[test]
fn a_resumed_tls_session_has_its_own_exporter() {
    let world = World::new();
    let config = tls_config(&world, TLS13);
    let mut first = Client::connect(world.direct, Arc::clone(&config), false);
    let old = first.exporter();
    assert_eq!(first.scram_plus(EXPORTER, &old), Ok(()));
    first.bind();
    let mut second = Client::connect(world.direct, config, false);
    let kind = second.stream.conn.handshake_kind();
    assert_eq!(kind, Some(rustls::HandshakeKind::Resumed));
    assert_ne!(second.exporter(), old);
    assert_eq!(second.scram_plus(EXPORTER, &old), refused("not-authorized"));
    assert_eq!(second.scram_plus(END_POINT, &world.end_point()), Ok(()));
    second.bind();
}
