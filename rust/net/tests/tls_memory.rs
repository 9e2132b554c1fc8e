//! What an idle TLS connection holds: bytes, counted and not timed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests"
)]

use antiphon_counting::Counting;
use antiphon_net::tls::{CertificateFiles, Protocol, TlsConnection, TlsHosts, self_signed};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use std::io::{Read, Write};
use std::sync::Arc;

#[global_allocator]
static COUNTING: Counting = Counting::new();

const DOMAIN: &str = "capulet.example";
const CONNECTIONS: usize = 64;

/// Believes every certificate.
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
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn hosts() -> (TlsHosts, Arc<ClientConfig>) {
    let folder = std::env::temp_dir().join(format!("antiphon-tls-memory-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = self_signed(&[DOMAIN.to_owned()]).unwrap();
    let files = CertificateFiles {
        domain: DOMAIN.to_owned(),
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&files.certificate, &certificate).unwrap();
    std::fs::write(&files.key, key).unwrap();
    let hosts = TlsHosts::load(&[files], None).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    (hosts, Arc::new(config))
}

/// A connection over which some text went both ways; the client's side is gone.
fn idle(hosts: &TlsHosts, config: &Arc<ClientConfig>) -> Box<TlsConnection> {
    let server = hosts.config(Some(DOMAIN), Protocol::Client).unwrap();
    let mut server = Box::new(TlsConnection::new(server).unwrap());
    let name = ServerName::try_from(DOMAIN).unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut got = 0;
    for _ in 0..20 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        for piece in bytes.chunks(100) {
            let mut buf = vec![0; server.unfinished()];
            buf.extend_from_slice(piece);
            let sink = &mut |text: &[u8]| got += text.len();
            server.receive(&mut buf, sink).unwrap();
        }
        let unsent = server.unsent().to_vec();
        server.took(unsent.len());
        let mut records = vec![0; 16 * 1024];
        let mut made = 0;
        if !server.is_handshaking() {
            made = server.seal(b"<r/>", &mut records).unwrap();
            client.writer().write_all(&[b' '; 500]).unwrap();
        }
        for mut bytes in [&unsent[..], &records[..made]] {
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                client.process_new_packets().unwrap();
                let _ = client.reader().read(&mut [0; 4096]);
            }
        }
    }
    assert!(got > 5_000);
    let channel = hosts.channel(&mut server, None);
    assert!(channel.exporter.is_some());
    server
}

#[test]
fn an_idle_tls_connection_holds_no_buffer() {
    let (hosts, config) = hosts();
    let mut all = Vec::with_capacity(2 * CONNECTIONS);
    // The tables of resumption fill until they have what they may hold; a store of 256 sessions.
    for _ in 0..300 {
        drop(idle(&hosts, &config));
    }
    let before = (COUNTING.bytes(), COUNTING.live());
    for _ in 0..CONNECTIONS {
        all.push(idle(&hosts, &config));
    }
    let bytes = (COUNTING.bytes() - before.0) / CONNECTIONS as isize;
    let blocks = (COUNTING.live() - before.1) / CONNECTIONS as isize;
    println!("{bytes} bytes in {blocks} blocks for an idle TLS connection");
    // A read buffer alone would be 4 KiB.
    assert!(bytes <= BYTES, "{bytes}");
}

const BYTES: isize = 3_840;
