//! The rules over a real store on a simulated disk, with a clock that the tests set.

mod audit;
mod away;
mod dropped;
mod fixture;
mod history;
mod kept;
mod members;
mod names;
mod read_only;
mod seals;
mod sessions;
