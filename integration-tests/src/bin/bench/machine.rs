//! The machine and the commit that results belong to.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::processes::{TICKS, data_folder};

/// Share of the processors' time that others may use on an idle machine.
const BUSY: f64 = 0.05;
/// Time in which that share is measured, before any contestant starts. A load average would still
/// count the build of this program.
const LOOK: Duration = Duration::from_secs(2);

/// Facts of the machine before the measurement.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) commit: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) file_system: String,
    /// Share of the processors' time that was used, by others than this program.
    pub(crate) busy: f64,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Returns the value of a line `name: value` of a file of /proc.
fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or(String::new(), |(_, value)| value.trim().to_owned())
}

/// Returns the kind of the file system that a folder is on: that of the longest mount point above.
fn file_system(folder: &Path) -> String {
    let mounts = read("/proc/self/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    mounts
        .filter(|(point, _)| folder.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map_or(String::new(), |(_, kind)| kind.to_owned())
}

/// Time of all processors since the start of the machine, in clock ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processors {
    total: f64,
    idle: f64,
}

impl Processors {
    pub(crate) fn read() -> Self {
        let stat = read("/proc/stat");
        let line = stat.lines().next().unwrap_or_default();
        // Time that a hypervisor gave to others is the eighth field, and counts as used.
        let fields = line.split_whitespace().skip(1).take(8);
        let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
        Self {
            total: ticks.iter().sum(),
            // Without and with outstanding reads and writes.
            idle: ticks.iter().skip(3).take(2).sum(),
        }
    }

    /// Returns the share of the time since then that was used, without `own_seconds` of it.
    pub(crate) fn used_by_others(&self, own_seconds: f64) -> f64 {
        let now = Self::read();
        let total = now.total - self.total;
        let used = total - (now.idle - self.idle) - own_seconds * TICKS;
        used / total
    }
}

impl Machine {
    pub(crate) fn inspect() -> Self {
        let processors = Processors::read();
        std::thread::sleep(LOOK);
        let busy = processors.used_by_others(0.0);
        let git = Command::new("git")
            .args(["describe", "--always", "--dirty", "--exclude=*"])
            .output();
        let commit = git.map_or(String::new(), |out| {
            String::from_utf8_lossy(&out.stdout).trim().to_owned()
        });
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0);
        Self {
            commit,
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib / f64::from(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(&data_folder()),
            busy,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy > BUSY
    }

    pub(crate) fn describe(&self) -> String {
        let idle = if self.is_busy() {
            format!(
                "; {:.0} % of the processors were used by others at the start: the machine was NOT \
                 idle, publish none of this",
                self.busy * 100.0
            )
        } else {
            String::new()
        };
        format!(
            "{} cores of {}, {:.0} GiB, Linux {}, {}{idle}",
            self.cores, self.cpu, self.memory_gib, self.kernel, self.file_system
        )
    }
}
