//! The engine and the storage node, over disks that lie.

mod audit;
mod compaction;
mod damage;
mod damage_blows;
mod damage_losses;
mod disk;
mod disk_edges;
mod doubt_model;
mod engine_model;
mod epochs;
mod fences;
mod full_disk;
mod heartbeats;
mod hold;
mod losses;
mod masters;
mod model;
mod races;
mod small_fs;
mod space_returns;
mod superblock_losses;
mod threads;
mod upgrade;
mod verdicts;
mod verification;
mod verification_faults;
