//! The house and the processes: what holds for the repository as a whole, and for the program when it runs.

mod clauses;
mod house;
mod process;
