//! Every derivative rule against central finite differences in float64, by the reference evaluator.

mod check;
mod collectives;
mod control;
mod data;
mod elementwise;
mod index;
mod linear;
mod scan;
