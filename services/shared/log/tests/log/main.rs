//! The log, over disks that lie and disks that do not.

mod behaviour;
mod crash;
mod fixture;
mod full;
