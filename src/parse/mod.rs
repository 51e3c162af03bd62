//! Bytes of a format to normalized text, outline and title.
//!
//! HTML is read by parsers whose worst case nobody knows, so it is parsed in child processes with limits; text,
//! Markdown and JSON are read here by code whose time is linear and whose stack does not grow with nesting.

mod article;
mod charset;
mod error;
mod front_matter;
mod gate;
mod html;
mod json;
mod limits;
mod markdown;
mod media_type;
mod nesting;
mod parser;
mod pool;
mod wire;
mod worker;
mod writer;

pub use error::ParseError;
pub use media_type::{Format, MediaType, detect, media_type_of_extension};
pub use parser::{InvalidParsing, ParseSettings, Parser};
pub use pool::WorkerCommand;
pub use worker::worker_main;
