//! All values of a run, and their medians and ratios.

use crate::disk::Limits;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::processes::Servers;
use crate::rows::{Figure, Measured, Row};

/// A contestant as results name it.
#[derive(Debug, Clone)]
pub(crate) struct Entrant {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) program: String,
}

/// Measurements of all rounds.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) entrants: Vec<Entrant>,
    /// Limits of the disk, one of each round.
    pub(crate) limits: Vec<Limits>,
    /// Row, place of the contestant, measurement, in the order of time.
    values: Vec<(Row, usize, Measured)>,
    /// Share of the processors' time that others used during the rounds, the kernel's own threads
    /// and interrupts among them.
    pub(crate) others: f64,
    /// Peak memory in MB of each contestant after the rows.
    pub(crate) loaded_peaks: Vec<f64>,
    /// Memory of each contestant after 60,000 names and 10 large files. Empty if it was not asked for.
    pub(crate) memory: Vec<Memory>,
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        return values.get(middle).copied();
    }
    let below = values.get(middle.checked_sub(1)?)?;
    Some((below + values.get(middle)?) / 2.0)
}

impl Results {
    pub(crate) fn new(machine: Machine, running: &[Servers]) -> Self {
        let entrant = |servers: &Servers| Entrant {
            name: servers.name.clone(),
            version: servers.version.clone(),
            program: servers.program.clone(),
        };
        Self {
            machine,
            entrants: running.iter().map(entrant).collect(),
            limits: Vec::new(),
            values: Vec::new(),
            others: 0.0,
            loaded_peaks: Vec::new(),
            memory: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: Row, place: usize, measured: Measured) {
        self.values.push((row, place, measured));
    }

    /// Returns the figure of each round. Empty if the contestant does not tell it.
    pub(crate) fn runs(&self, row: Row, place: usize, figure: Figure) -> Vec<f64> {
        let runs = self
            .values
            .iter()
            .filter(|(of, by, _)| (*of, *by) == (row, place));
        runs.filter_map(|(_, _, measured)| figure.of(measured))
            .collect()
    }

    pub(crate) fn median(&self, row: Row, place: usize, figure: Figure) -> Option<f64> {
        median(self.runs(row, place, figure))
    }

    /// Returns the median of the judged one of a pair divided by that of the rival.
    pub(crate) fn ratio(
        &self,
        row: Row,
        (judged, rival): (usize, usize),
        figure: Figure,
    ) -> Option<f64> {
        let rival = self.median(row, rival, figure)?;
        Some(self.median(row, judged, figure)? / rival)
    }

    /// Returns the medians of the limits of the disk.
    pub(crate) fn limits(&self) -> Option<Limits> {
        let of = |get: fn(&Limits) -> f64| median(self.limits.iter().map(get).collect());
        Some(Limits {
            large_mb_per_second: of(|limits| limits.large_mb_per_second)?,
            small_per_second: of(|limits| limits.small_per_second)?,
        })
    }
}
