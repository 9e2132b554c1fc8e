//! Against rustls's own client.

use super::*;
use crate::tls::{CertificateFiles, Protocol, TlsHosts, self_signed};
use antiphon_xmpp::stream::c2s::Channel;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    SignatureScheme, SupportedCipherSuite,
};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::LazyLock;

const DOMAIN: &str = "capulet.example";
const SUITES: [SupportedCipherSuite; 5] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

struct Files {
    folder: PathBuf,
    hosts: TlsHosts,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("antiphon-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = self_signed(&[DOMAIN.to_owned()]).unwrap();
    let files = CertificateFiles {
        domain: DOMAIN.to_owned(),
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&files.certificate, certificate).unwrap();
    std::fs::write(&files.key, key).unwrap();
    let authority = write_client_certificate(&folder);
    let hosts = TlsHosts::load(&[files], Some(&authority)).unwrap();
    Files { folder, hosts }
});

/// An authority, whose file is returned, and what it signed for a client.
fn write_client_certificate(folder: &std::path::Path) -> PathBuf {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let mut params = rcgen::CertificateParams::new(vec!["juliet".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let client = params.signed_by(&key, &issuer).unwrap();
    let file = folder.join("authority.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    std::fs::write(folder.join("client.pem"), client.pem()).unwrap();
    std::fs::write(folder.join("client-key.pem"), key.serialize_pem()).unwrap();
    file
}

#[derive(Debug)]
struct Anyone;
impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

fn client_config(suite: SupportedCipherSuite, has_certificate: bool) -> Arc<ClientConfig> {
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = if has_certificate {
        let file = |name| FILES.folder.join(name);
        let cert = CertificateDer::from_pem_file(file("client.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("client-key.pem")).unwrap();
        builder.with_client_auth_cert(vec![cert], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"xmpp-client".to_vec()];
    Arc::new(config)
}

/// Both ends, and what the server has read.
struct Pair {
    client: ClientConnection,
    server: TlsConnection,
    got: Vec<u8>,
}

impl Pair {
    fn of(config: Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("Capulet.example").unwrap();
        let server = FILES.hosts.config(Some(DOMAIN), Protocol::Client).unwrap();
        let mut client = ClientConnection::new(config, name).unwrap();
        client.set_buffer_limit(None);
        Self {
            client,
            server: TlsConnection::new(server).unwrap(),
            got: Vec::new(),
        }
    }

    /// After the handshake, in pieces of so many bytes.
    fn after_handshake(config: Arc<ClientConfig>, piece: usize) -> Self {
        let mut pair = Self::of(config);
        for _ in 0..4 {
            for piece in pair.client_bytes().chunks(piece) {
                pair.feed(piece).unwrap();
            }
            pair.deliver().unwrap();
        }
        assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
        pair
    }

    fn new(suite: SupportedCipherSuite) -> Self {
        Self::after_handshake(client_config(suite, false), 1 << 16)
    }

    fn channel(&mut self) -> Channel {
        FILES.hosts.channel(&mut self.server, None)
    }

    fn client_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// The client's records for this text.
    fn records(&mut self, text: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(text).unwrap();
        self.client_bytes()
    }

    /// What one read brings.
    fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut buf = vec![0xee; self.server.unfinished()];
        buf.extend_from_slice(bytes);
        let got = &mut self.got;
        self.server
            .receive(&mut buf, &mut |text| got.extend_from_slice(text))
    }

    /// Brings the client what the server has to send.
    fn deliver(&mut self) -> Result<(), Error> {
        let bytes = self.server.unsent().to_vec();
        self.server.took(bytes.len());
        self.hand_to_client(&bytes)
    }

    fn hand_to_client(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            assert!(self.client.read_tls(&mut bytes).unwrap() > 0);
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    /// What the client reads when the server writes this.
    fn answer(&mut self, text: &[u8]) -> Vec<u8> {
        self.deliver().unwrap();
        let mut records = vec![0; text.len() + SEALING];
        let made = self.server.seal(text, &mut records).unwrap();
        let mut got = Vec::new();
        for part in records[..made].chunks(4096) {
            self.hand_to_client(part).unwrap();
            let mut buf = [0; 65_536];
            while let Ok(n @ 1..) = self.client.reader().read(&mut buf) {
                got.extend_from_slice(&buf[..n]);
            }
        }
        got
    }

    fn take_got(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.got)
    }

    fn holds_nothing(&self) -> bool {
        self.server.incoming.capacity() == 0 && self.server.outgoing.capacity() == 0
    }

    /// The alert that ends the client's side.
    fn alert(&mut self) -> Option<AlertDescription> {
        match self.deliver() {
            Err(Error::AlertReceived(alert)) => Some(alert),
            _ => None,
        }
    }
}

/// Numbers that are the same in each run.
struct Dice(u64);
impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn text_goes_both_ways_with_every_suite_in_pieces_of_any_size() {
    for suite in SUITES {
        for piece in [1, 2, 7, 1 << 16] {
            let mut pair = Pair::after_handshake(client_config(suite, false), piece);
            let _ = pair.channel();
            for text in [b"<a/>".to_vec(), vec![b'x'; 100_000]] {
                for piece in pair.records(&text).chunks(piece.max(5)) {
                    pair.feed(piece).unwrap();
                }
                assert!(pair.take_got() == text, "{suite:?}");
                assert!(pair.answer(&text) == text, "{suite:?}");
            }
            assert!(pair.holds_nothing() && pair.server.greeting.is_none());
        }
    }
}

#[test]
fn the_exporter_is_the_clients_under_tls_1_3_alone() {
    for suite in SUITES {
        let mut pair = Pair::new(suite);
        let label = b"EXPORTER-Channel-Binding";
        let exported = pair
            .client
            .export_keying_material([0; 32], label, Some(b""));
        let channel = pair.channel();
        let is_13 = suite.tls13().is_some();
        let expected = is_13.then(|| Box::from(&exported.unwrap()[..]));
        assert_eq!(channel.exporter, expected, "{suite:?}");
        assert_eq!(channel.sni.as_deref(), Some(DOMAIN));
        assert!(channel.secure && channel.server_end_point.is_some());
        // It is given out once.
        assert_eq!(pair.channel().exporter, None);
    }
}

#[test]
fn a_resumed_session_has_its_own_exporter() {
    let config = client_config(cipher_suite::TLS13_AES_256_GCM_SHA384, false);
    let mut first = Pair::after_handshake(Arc::clone(&config), 1 << 16);
    let mut second = Pair::after_handshake(config, 1 << 16);
    let kind = second.client.handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::Resumed));
    let (old, new) = (first.channel(), second.channel());
    assert_eq!(new.sni.as_deref(), Some(DOMAIN));
    assert!(new.exporter.is_some() && new.exporter != old.exporter);
}

#[test]
fn a_client_certificate_is_read() {
    for suite in SUITES {
        let pair = Pair::after_handshake(client_config(suite, true), 3);
        let certificates = pair.server.state().peer_certificates();
        assert_eq!(certificates.map(<[_]>::len), Some(1), "{suite:?}");
    }
}

#[test]
fn records_may_be_cut_at_every_byte() {
    let mut pair = Pair::new(SUITES[0]);
    let text = b"<message><body>Art thou not Romeo, and a Montague?</body></message>";
    let length = {
        let bytes = [pair.records(text), pair.records(b"1"), pair.records(text)].concat();
        pair.feed(&bytes).unwrap();
        pair.take_got();
        bytes.len()
    };
    for cut in 0..=length {
        let bytes = [pair.records(text), pair.records(b"1"), pair.records(text)].concat();
        pair.feed(&bytes[..cut]).unwrap();
        pair.feed(&bytes[cut..]).unwrap();
        assert_eq!(pair.take_got(), [&text[..], b"1", text].concat(), "{cut}");
        assert!(pair.holds_nothing());
    }
}

#[test]
fn records_may_be_cut_and_merged_at_random() {
    for suite in SUITES {
        let (mut pair, mut dice) = (Pair::new(suite), Dice(1));
        let mut flight = Vec::new();
        let mut sent = Vec::new();
        for round in 0..2_000 {
            let size = [1, 30, 300, 20_000][dice.below(4)];
            let text: Vec<u8> = (0..dice.below(size) + 1).map(|i| i as u8).collect();
            flight.extend(pair.records(&text));
            sent.extend(text);
            if suite.tls13().is_some() && dice.below(20) == 0 {
                pair.client.refresh_traffic_keys().unwrap();
                flight.extend(pair.client_bytes());
            }
            let n = dice.below(flight.len() + 1);
            pair.feed(&flight[..n]).unwrap();
            flight.drain(..n);
            if dice.below(10) == 0 {
                // While a record is there in part, and with keys that may be new.
                assert!(pair.answer(&sent[..1]) == sent[..1], "{round}");
            }
        }
        pair.feed(&flight).unwrap();
        assert!(pair.got == sent, "{suite:?}");
        pair.deliver().unwrap();
        assert!(pair.holds_nothing());
    }
}

#[test]
fn ten_thousand_writes_of_one_byte_come_in_one_read() {
    let mut pair = Pair::new(SUITES[0]);
    let bytes: Vec<u8> = (0..10_000).flat_map(|i| pair.records(&[i as u8])).collect();
    pair.feed(&bytes).unwrap();
    let expected: Vec<u8> = (0..10_000).map(|i| i as u8).collect();
    assert!(pair.got == expected);
}

#[test]
fn the_largest_record_fits_and_a_larger_one_is_refused() {
    let mut pair = Pair::new(SUITES[0]);
    let text = vec![b'x'; 16_384];
    let bytes = pair.records(&text);
    assert!(bytes.len() > 16_384 && bytes[0] == 23);
    pair.feed(&bytes[..bytes.len() - 1]).unwrap();
    pair.feed(&bytes[bytes.len() - 1..]).unwrap();
    assert!(pair.take_got() == text);
    let mut records = vec![0; 65_536 + SEALING];
    let made = pair.server.seal(&[b'y'; 65_536], &mut records).unwrap();
    assert!(made < 65_536 + 200);
    pair.feed(&[23, 3, 3, 0x48, 0x01]).unwrap_err();
    assert!(!pair.server.unsent().is_empty());
}

#[test]
fn garbage_is_answered_with_an_alert_and_ends_the_connection() {
    for suite in SUITES {
        let mut pair = Pair::new(suite);
        let mut bytes = pair.records(b"whole");
        bytes.extend(pair.records(b"broken"));
        let more = pair.records(b"more");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let error = pair.feed(&bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(pair.take_got(), b"whole");
        assert_eq!(pair.alert(), Some(AlertDescription::BadRecordMac));
        // Nothing goes on from here.
        pair.feed(&more).unwrap();
        assert!(pair.got.is_empty() && pair.holds_nothing());
        assert!(pair.server.seal(b"x", &mut [0; SEALING]).is_err());
        pair.server.close_notify();
        assert!(pair.server.unsent().is_empty());
    }
}

#[test]
fn garbage_within_the_handshake_is_answered_with_an_alert() {
    let hello = Pair::of(client_config(SUITES[0], false)).client_bytes();
    let mut cases: Vec<(Vec<u8>, bool)> = vec![
        (b"<stream:stream to='capulet.example'>".to_vec(), true),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), true),
        // A part of a hello, then what may not come between.
        (
            [&[22, 3, 1, 0, 4], &hello[5..9], &[21, 3, 3, 0, 2, 2, 0]].concat(),
            false,
        ),
        (
            [&[22, 3, 1, 0, 4], &hello[5..9], &[99, 3, 3, 0, 2, 2, 0]].concat(),
            true,
        ),
        (
            [&[22, 3, 1, 0, 4], &hello[5..9], &[23, 3, 3, 0, 2, 2, 0]].concat(),
            false,
        ),
        // Two messages in one record, the first a bad one.
        (vec![22, 3, 3, 0, 8, 1, 0, 0, 0, 1, 0, 0, 0], true),
        // The peer's own alert.
        (vec![21, 3, 3, 0, 2, 2, 40], false),
    ];
    let mut bad = hello.clone();
    bad[12] ^= 0xff;
    bad.truncate(60);
    bad.extend([0; 500]);
    cases.push((bad, true));
    for (bytes, has_alert) in cases {
        for piece in [1, bytes.len()] {
            let mut pair = Pair::of(client_config(SUITES[0], false));
            let mut pieces = bytes.chunks(piece);
            let failed = pieces.any(|piece| pair.feed(piece).is_err());
            assert!(failed, "{bytes:02x?}");
            let unsent = pair.server.unsent();
            assert!(!has_alert || unsent.first() == Some(&21), "{bytes:02x?}");
            assert!(pair.server.unfinished() == 0);
        }
    }
}

#[test]
fn any_byte_of_the_hello_may_be_wrong() {
    let hello = Pair::of(client_config(SUITES[0], false)).client_bytes();
    for at in 0..hello.len() {
        for piece in [5, hello.len()] {
            let mut bytes = hello.clone();
            bytes[at] ^= 0x41;
            let mut pair = Pair::of(client_config(SUITES[0], false));
            let _ = bytes.chunks(piece).try_for_each(|piece| pair.feed(piece));
            assert!(pair.server.unfinished() <= UNFINISHED);
        }
    }
}

#[test]
fn a_close_is_told_both_ways_and_what_follows_is_ignored() {
    for suite in SUITES {
        let mut pair = Pair::new(suite);
        let mut bytes = pair.records(b"last");
        pair.client.send_close_notify();
        bytes.extend(pair.client_bytes());
        bytes.extend([0xff; 20_000]);
        pair.feed(&bytes).unwrap();
        assert_eq!(pair.take_got(), b"last");
        assert!(pair.server.is_peer_done() && pair.server.unfinished() == 0);
        pair.feed(&[0xff; 20_000]).unwrap();
        assert!(pair.got.is_empty());
        // Half closed: the other direction goes on.
        assert_eq!(pair.answer(b"bye"), b"bye");
        pair.server.close_notify();
        pair.server.close_notify();
        let bytes = pair.server.unsent().to_vec();
        let state = {
            let mut rest = &bytes[..];
            pair.client.read_tls(&mut rest).unwrap();
            pair.client.process_new_packets().unwrap()
        };
        assert!(state.peer_has_closed(), "{suite:?}");
        assert!(pair.server.seal(b"x", &mut [0; SEALING]).is_err());
    }
}

#[test]
fn a_key_update_is_answered_with_the_next_record() {
    let mut pair = Pair::new(SUITES[0]);
    for _ in 0..100 {
        pair.client.refresh_traffic_keys().unwrap();
        let bytes = pair.records(b"x");
        pair.feed(&bytes).unwrap();
        assert_eq!(pair.take_got(), b"x");
        assert_eq!(pair.answer(b"y"), b"y");
        assert!(pair.holds_nothing());
    }
}

#[test]
fn floods_that_bring_nothing_are_cut_off() {
    let mut pair = Pair::new(SUITES[0]);
    let mut updates = 0;
    let failed = (0..100).any(|_| {
        pair.client.refresh_traffic_keys().unwrap();
        let bytes = pair.client_bytes();
        updates += 1;
        pair.feed(&bytes).is_err()
    });
    assert!(failed && updates < 40, "{updates}");
    assert!(pair.server.unsent().len() < 100);

    let mut pair = Pair::of(client_config(SUITES[0], false));
    let failed = (0..100).any(|_| pair.feed(&[22, 3, 3, 0, 0]).is_err());
    assert!(failed, "empty records");

    // A message of 60,000 bytes in records of one byte.
    let mut pair = Pair::of(client_config(SUITES[0], false));
    pair.feed(&[22, 3, 3, 0, 4, 1, 0, 0xea, 0x60]).unwrap();
    let mut most = 0;
    let failed = (0..60_000 / 1_000).any(|_| {
        most = most.max(pair.server.unfinished());
        pair.feed(&[22, 3, 3, 0, 1, 0].repeat(1_000)).is_err()
    });
    assert!(failed && most <= UNFINISHED, "{most}");
}

#[test]
fn what_the_socket_leaves_is_kept_in_order() {
    let mut pair = Pair::new(SUITES[0]);
    pair.channel();
    let mut records = vec![0; 100 + SEALING];
    let made = pair.server.seal(&[b'z'; 100], &mut records).unwrap();
    pair.server.keep(&records[10..made]);
    pair.server.took(5);
    let rest = [&records[..15], pair.server.unsent()].concat();
    assert_eq!(rest, records[..made]);
    pair.server.took(made - 15);
    assert!(pair.holds_nothing());
}
