//! One node of the cluster in virtual time: core and sessions over a model log.

mod sim;
mod simulation;
