pub mod clock;
pub mod config;
pub mod database;
pub mod engine;
pub mod entity;
pub mod study;
pub mod workflow;
