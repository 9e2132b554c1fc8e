//! `antiphon-load`: loads an XMPP server on loopback and reports what that cost the server.
//!
//! One thread, one epoll; see `options::HELP`. Never part of what is shipped.

mod counter;
mod crew;
mod frame;
mod histogram;
mod meter;
mod options;
mod pool;
mod proc;
mod scenario;
mod scram;
mod session;
mod words;

use options::{HELP, Kind, Options};
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a run gives no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A mistake on the command line.
    #[error("{0}; see antiphon-load --help")]
    Usage(String),
    /// The server did not let a client in; its words.
    #[error("login: {0}")]
    Login(String),
    /// A stream error; the server's words.
    #[error("stream: {0}")]
    Stream(String),
    /// TLS failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// Something took too long.
    #[error("{0}")]
    Stalled(String),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

fn run(arguments: &[String]) -> Result<String, Failure> {
    let options = Options::parse(arguments)?;
    let report = match options.kind {
        Kind::Login => scenario::login::run(&options),
        Kind::Msg => scenario::msg::run(&options),
        Kind::Presence => scenario::presence::run(&options),
        Kind::Idle => scenario::idle::run(&options),
        Kind::Resume => scenario::resume::run(&options),
        Kind::Soak => scenario::soak::run(&options),
        Kind::Mamq | Kind::Search | Kind::Inbox => scenario::query::run(&options),
    }?;
    Ok(report.to_string())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        let _ = std::io::stdout().write_all(HELP.as_bytes());
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(report) => {
            let _ = writeln!(std::io::stdout(), "{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "antiphon-load: {failure}");
            ExitCode::FAILURE
        }
    }
}
