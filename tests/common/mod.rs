//! Random graphs with known values, shared by the test programs.
//!
//! A [`sketch::Sketch`] grows a graph operation by operation and evaluates each on its own, so that every value is known while
//! the graph is still growing. [`bounds`] says how far another implementation may be from it.
#![allow(dead_code)] // each test program uses a part

pub mod actions;
pub mod bodies;
pub mod bounds;
pub mod compare;
pub mod dice;
pub mod exchange;
pub mod indexing;
pub mod looping;
pub mod sketch;
pub mod values;
#[cfg(feature = "cpu")]
pub mod xla_cpu;
