//! All integration tests in one binary; folders as the product's rooms and edges.

mod browser;
mod callback;
mod cli;
mod condition;
mod database;
mod engine;
mod import;
mod structure;
mod support;
mod web;
mod workflow;
