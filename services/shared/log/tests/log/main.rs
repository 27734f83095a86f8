//! The log, over disks that lie and disks that do not.

mod behaviour;
mod crash;
mod damage;
mod fixture;
mod full;
