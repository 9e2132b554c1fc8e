//! Runs histories of the simulation: `simulate [--seeds N] [--seed FIRST] [--bug NAME] [--trace]`.
//!
//! Prints the seeds that fail; `--trace` shows what happened in the first of them.

use antiphon_cluster::planted::Bug;
use antiphon_cluster::sim::{Options, run};
use std::process::ExitCode;

fn number(value: Option<String>) -> Result<u64, String> {
    let value = value.ok_or("a number is missing")?;
    value.parse().map_err(|_| format!("{value} is no number"))
}

fn main() -> ExitCode {
    match simulate() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate: {error}");
            ExitCode::from(2)
        }
    }
}

/// How many histories failed.
fn simulate() -> Result<u64, String> {
    let (mut seeds, mut first, mut bug, mut is_tracing) = (1000, 0, None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seeds" => seeds = number(arguments.next())?,
            "--seed" => first = number(arguments.next())?,
            "--trace" => is_tracing = true,
            "--bug" => {
                let name = arguments.next().unwrap_or_default();
                let known = Bug::ALL.into_iter().find(|b| format!("{b:?}") == name);
                bug = Some(known.ok_or(format!("no such bug: {:?}", Bug::ALL))?);
            }
            other => return Err(format!("what is {other}?")),
        }
    }
    let (mut failed, mut messages, mut dead) = (0, 0, 0);
    for seed in first..first + seeds {
        let options = Options {
            seed,
            bug,
            is_tracing,
        };
        let outcome = run(&options);
        match outcome.result {
            Ok(summary) => {
                messages += summary.messages;
                dead += summary.dead;
            }
            Err(failure) => {
                failed += 1;
                outcome.trace.iter().for_each(|line| eprintln!("{line}"));
                eprintln!("seed {seed}: {failure}");
                if is_tracing {
                    break;
                }
            }
        }
    }
    eprintln!(
        "{seeds} seeds from {first}: {failed} failed, {messages} messages, {dead} late writes"
    );
    Ok(failed)
}
