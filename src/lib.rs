pub mod clock;
pub mod config;
pub mod database;
pub mod entity;
pub mod study;
pub mod workflow;
