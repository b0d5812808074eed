//! Study Governor: the state of every scan session on a workflow graph, its callbacks on workers, and its whole
//! history.
//!
//! Each module has one purpose and begins with its life cycle. Dependencies point one way, `cli → web | api | worker →
//! http → app → import | view → engine | account | callback → workflow → queue → study → audit → database | mail →
//! context → entity | config | clock | fault`; `tests/structure` reads the imports and fails on a reversed one. Modules
//! do not know axum, minijinja, lapin, lettre or clap. The longer map is in `docs/ARCHITECTURE.md`.

pub mod account;
pub mod api;
pub mod app;
pub mod audit;
pub mod callback;
pub mod cli;
pub mod clock;
pub mod config;
pub mod context;
pub mod database;
pub mod engine;
pub mod entity;
pub mod fault;
pub mod http;
pub mod import;
pub mod mail;
pub mod project;
pub mod queue;
pub mod study;
pub mod view;
pub mod web;
pub mod worker;
pub mod workflow;
