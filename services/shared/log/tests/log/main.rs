//! The log, over disks that lie and disks that do not.

mod behaviour;
mod crash;
mod damage;
mod damage_ends;
mod fixture;
mod full;
mod handles;
