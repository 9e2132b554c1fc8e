//! What the programs share that fill archives and ask them: who writes what to whom, and questions.
#![allow(dead_code, reason = "no program uses all of it")]

pub mod questions;
pub mod world;
