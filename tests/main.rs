//! All integration tests in one binary; the folders correspond to the modules of the program.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::unused_self, reason = "a test that cannot go on fails")]

mod api;
mod audit;
mod browser;
mod callback;
mod cli;
mod condition;
mod database;
mod deployment;
mod engine;
mod http;
mod import;
mod people;
mod queue;
mod structure;
mod support;
mod web;
mod workflow;
