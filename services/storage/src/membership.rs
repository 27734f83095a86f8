//! The storage node as a member of the cluster: what its heartbeats report, and what it takes from
//! the answers.
//!
//! Only the master decides what is dead. This node reports the sessions whose sets it holds and
//! that nobody confirmed to it; it never releases anything on its own. An answer is handed to the
//! releaser, never worked on here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cstore_mesh::member::{Member, Occasion, Report};
use cstore_node::admin::{PartState, Readiness};
use cstore_node::shutdown::spawn;
use cstore_proto::v1;
use cstore_types::epoch::{SealPoint, SeenSeals};
use cstore_types::history::{Life, Point};
use cstore_types::{SessionId, error_chain};

use tokio::time::Instant;

use crate::engine::{Answer, AuditPage, Audited, Doubt, Engine, MasterHistory};
use crate::limits::{AUDIT_INTERVAL, NOTE_INTERVAL};
use crate::releaser::Releases;
use crate::roll_call::RollCall;

/// Version of the protocol with the master: this program judges its disk by both seals.
pub(crate) const PROTOCOL: u32 = 4;

/// Reports of one storage node.
#[derive(Debug)]
pub(crate) struct StorageMember {
    engine: Engine,
    readiness: Readiness,
    releases: Releases,
    roll_call: RollCall,
    /// Sessions that the last report acknowledged.
    acknowledging: Vec<SessionId>,
    /// An answer is being judged, or what it has noted is being written, on another thread.
    is_judging: Arc<AtomicBool>,
    /// Tick of the last write of what was noted, which needs no more than one each second.
    noted_at: Option<Instant>,
    /// Tick from which on the next audit is due; `None` while one goes on.
    audit_due: Option<Instant>,
    /// Sessions without a set here, for the next report.
    absent: Vec<SessionId>,
    /// Accepts of the last answer that the disk refused because it is open for reads only. Every answer
    /// repeats them; each is logged once.
    refused_accepts: Vec<u32>,
}

/// The turn of one answer: others are not used until it is dropped, also by a panic.
#[derive(Debug)]
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(is_judging: &Arc<AtomicBool>) -> Self {
        is_judging.store(true, Ordering::Release);
        Self(is_judging.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl StorageMember {
    pub(crate) fn new(
        engine: Engine,
        readiness: Readiness,
        releases: Releases,
        roll_call: RollCall,
    ) -> Self {
        Self {
            engine,
            readiness,
            releases,
            roll_call,
            acknowledging: Vec::new(),
            is_judging: Arc::default(),
            noted_at: None,
            audit_due: Some(Instant::now()),
            absent: Vec::new(),
            refused_accepts: Vec::new(),
        }
    }

    /// Logs once for each accept that a disk which is open for reads only cannot take the accept.
    fn refuse_accepts(&mut self, numbers: Vec<u32>) {
        let is_new = |number: &&u32| !self.refused_accepts.contains(number);
        let new = numbers.iter().filter(is_new).copied();
        accept(&self.engine, new.collect());
        self.refused_accepts = numbers;
    }

    /// Judges an answer on a blocking thread: a heartbeat must not wait for the disk. Doubts that a
    /// person accepted come first.
    fn judge(&self, answer: Answer, accepted: Vec<u32>) {
        let (engine, turn) = (self.engine.clone(), Turn::take(&self.is_judging));
        let judging = cstore_node::blocking(move || {
            accept(&engine, accepted);
            engine.judge().judge(&answer);
            drop(turn);
        });
        drop(spawn("judge answer", judging));
    }

    /// Hands releases over that an answer named, AFTER its place in the master's history is on the
    /// disk: a master that lacks it must be told from this one, also by the next process.
    fn obey(&mut self, releases: Vec<SessionId>) {
        let is_kept = self.engine.judge().is_noted_kept();
        if is_kept {
            return self.releases.offer(&releases);
        }
        let is_due = self
            .noted_at
            .is_none_or(|last| last.elapsed() >= NOTE_INTERVAL);
        if releases.is_empty() && !is_due {
            return;
        }

        self.noted_at = Some(Instant::now());
        let (engine, turn) = (self.engine.clone(), Turn::take(&self.is_judging));
        let offered = self.releases.clone();
        let keeping = cstore_node::blocking(move || {
            match engine.judge().keep_noted() {
                Ok(()) => offered.offer(&releases),
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::error!(%error, "the place in the master's history cannot be noted; nothing is released");
                }
            }
            drop(turn);
        });
        drop(spawn("note place of master", keeping));
    }

    /// Returns the cursor of the audit that goes on. Begins the next one if it is due.
    fn audit_cursor(&mut self) -> Option<v1::AuditCursor> {
        let audit = self.engine.audit();
        let is_due = self.audit_due.is_some_and(|due| due <= Instant::now());
        let is_outdated = audit.is_outdated();
        if is_outdated {
            // The accepted master may not know sessions that the previous one confirmed. Ask about
            // them again; otherwise the master neither keeps nor drops them.
            self.roll_call.forget_all();
        }
        if is_due || is_outdated {
            audit.begin();
            self.audit_due = None;
        }
        self.audit_due.is_none().then(|| v1::AuditCursor {
            after: audit.cursor().as_ref().map(raw).unwrap_or_default(),
        })
    }

    /// Compares a page of committed sessions with the sets of the disk.
    fn audit(&mut self, page: v1::AuditPage) {
        let page = AuditPage {
            sessions: page.sessions.iter().filter_map(|raw| parse(raw)).collect(),
            last: parse(&page.last),
            is_last: page.is_last,
        };
        if self.audit_due.is_some() {
            return;
        }
        let Audited { lost, finding } = self.engine.audit().take(&page);
        self.absent = lost;
        if page.is_last {
            self.audit_due = Some(Instant::now() + AUDIT_INTERVAL);
        }
        if let Some(finding) = finding {
            let engine = self.engine.clone();
            let settling = cstore_node::blocking(move || engine.audit().settle(&finding));
            drop(spawn("settle audit", settling));
        }
    }

    /// Returns the sessions to ask the master about.
    fn unconfirmed(&self) -> Vec<SessionId> {
        let mut sessions = self.roll_call.take();
        self.engine.holdings().retain_held(&mut sessions);
        sessions
    }
}

impl Member for StorageMember {
    fn health(&mut self) -> PartState {
        let hold = match self.engine.hold().reason() {
            Some(reason) => PartState::Limited(format!("on hold, nothing is freed: {reason}")),
            None => PartState::Ready,
        };
        self.readiness.set("hold", hold);
        self.engine
            .read_only()
            .map_or(PartState::Ready, PartState::NotReady)
    }

    fn report(&mut self, occasion: Occasion) -> Report {
        // BEFORE the sessions to ask about are looked up, otherwise one that is released in between
        // would be in both lists, and the master would put it on its release list again.
        self.acknowledging = self.releases.to_acknowledge();
        let unconfirmed = match occasion {
            Occasion::Tick => self.unconfirmed(),
            Occasion::Early => Vec::new(),
        };
        Report::Storage(Box::new(v1::StorageReport {
            released: self.acknowledging.iter().map(raw).collect(),
            unconfirmed: unconfirmed.iter().map(raw).collect(),
            audit: self.audit_cursor(),
            absent: std::mem::take(&mut self.absent).iter().map(raw).collect(),
            ..report(&self.engine)
        }))
    }

    fn handle_answer(&mut self, answer: v1::HeartbeatResponse) {
        self.releases.acknowledged(&self.acknowledging);
        if self.engine.is_for_reads() {
            // Nothing that an answer asks for can be written.
            self.refuse_accepts(answer.accept_doubts);
            return;
        }
        if self.is_judging.load(Ordering::Acquire) {
            // Answers are judged one after the other. What this one says is said again.
            return;
        }
        let seen = answer.seen;
        let said = said(seen, answer.seen_in_doubt, answer.history);
        if !self.engine.judge().agrees(&said) {
            // Nothing else of the answer is used: what it asks for may rest on what is lost.
            self.releases.withdraw();
            self.judge(said, answer.accept_doubts);
            return;
        }

        // A master that knows no epochs judges by itself.
        let age = match answer.suspect && seen.is_none() {
            true => {
                PartState::NotReady("disk is older than what the master has seen of it".to_owned())
            }
            false => PartState::Ready,
        };
        self.readiness.set("disk age", age);

        let is_settled = |verdict: &&v1::SessionVerdict| {
            let state = verdict.state();
            state == v1::SessionState::Committed || state == v1::SessionState::Kept
        };
        let settled = answer.verdicts.iter().filter(is_settled);
        self.roll_call
            .confirm(settled.filter_map(|verdict| parse(&verdict.session)));

        if !answer.accept_doubts.is_empty() {
            let engine = self.engine.clone();
            let accepting = cstore_node::blocking(move || accept(&engine, answer.accept_doubts));
            drop(spawn("accept doubts", accepting));
        }

        // BEFORE what the answer releases: the page is of that moment.
        if let Some(page) = answer.audit {
            self.audit(page);
        }

        // A disk that may be too old, or may hide references, frees nothing.
        let is_suspect = answer.suspect && seen.is_none();
        if is_suspect || self.engine.hold().is_held() {
            self.releases.withdraw();
            self.obey(Vec::new());
        } else {
            let named: Vec<SessionId> = answer
                .releases
                .iter()
                .filter_map(|raw| parse(raw))
                .collect();
            self.obey(named);
        }
    }

    fn disk(&self) -> Option<v1::StorageReport> {
        Some(report(&self.engine))
    }
}

fn raw(session: &SessionId) -> Bytes {
    Bytes::copy_from_slice(session.as_bytes())
}

fn parse(raw: &[u8]) -> Option<SessionId> {
    SessionId::try_from(raw).ok()
}

fn doubt(doubt: &Doubt) -> v1::Doubt {
    v1::Doubt {
        number: doubt.number,
        kind: doubt.kind.name().to_owned(),
        detail: doubt.to_string(),
        accepted: doubt.accepted,
        seal: doubt.lost_seal().map(v1::SealPoint::from),
    }
}

/// Reads what an answer says about the disk and about the master.
pub(crate) fn said(
    seen: Option<v1::SealPoint>,
    in_doubt: Option<v1::SealPoint>,
    history: Option<v1::History>,
) -> Answer {
    let seen = seen.map(|newest| SeenSeals {
        newest: newest.into(),
        in_doubt: in_doubt.map(SealPoint::from).unwrap_or_default(),
    });
    Answer {
        seen,
        history: history.map(|history| MasterHistory {
            head: history.head.map(Point::from).unwrap_or_default(),
            lives: history.lives.into_iter().map(Life::from).collect(),
            accepted: history.accepted.map(Point::from),
        }),
    }
}

/// Accepts doubts. What fails is tried again when the next answer names it. Blocks the thread.
fn accept(engine: &Engine, numbers: Vec<u32>) {
    for number in numbers {
        if let Err(error) = engine.hold().accept(number) {
            let error = error_chain(&error);
            tracing::error!(number, %error, "doubt is not accepted");
        }
    }
}

/// Returns the state of the disk as the master sees it, without sessions.
pub(crate) fn report(engine: &Engine) -> v1::StorageReport {
    let (totals, space) = (engine.holdings().totals(), engine.compactor().space());
    let used = space.capacity.saturating_sub(space.free);
    let pressure = used
        .saturating_mul(100)
        .checked_div(space.capacity)
        .unwrap_or(100);
    v1::StorageReport {
        store_uuid: Bytes::copy_from_slice(engine.store().as_bytes()),
        seal_seq: engine.seal_seq().0,
        capacity_bytes: space.capacity,
        // Requests without room compact for themselves.
        free_bytes: space.free + engine.compactor().stats().winnable_bytes,
        unique_bytes: totals.unique_bytes,
        physical_bytes: totals.physical_bytes,
        blocks: totals.blocks,
        released: Vec::new(),
        unconfirmed: Vec::new(),
        fill_pressure: u32::try_from(pressure).unwrap_or(100),
        doubts: engine.hold().doubts().iter().map(doubt).collect(),
        epochs: engine
            .judge()
            .epochs()
            .into_iter()
            .map(v1::SequenceEpoch::from)
            .collect(),
        unopened: false,
        noted: Some(engine.judge().noted().into()),
        audit: None,
        absent: Vec::new(),
        protocol: PROTOCOL,
        room: space.shared.map(|room| v1::SharedRoom {
            file_system: room.file_system ^ machine(),
            free_bytes: room.free,
            growth_bytes: room.growth,
        }),
        allocated_bytes: space.allocated,
    }
}

/// Returns a number that identifies this boot of this machine, the same in all containers on the
/// machine; 0 if the kernel has no boot id.
fn machine() -> u64 {
    static MACHINE: OnceLock<u64> = OnceLock::new();

    *MACHINE.get_or_init(|| {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let digits: String = boot
            .unwrap_or_default()
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(16)
            .collect();
        u64::from_str_radix(&digits, 16).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cstore_log::{Disk, FaultyDisk, RealDisk};
    use cstore_testkit::until;

    use super::*;
    use crate::engine::small_disk;

    fn member() -> StorageMember {
        let (identity, options) = small_disk();
        let disk = Arc::new(FaultyDisk::new());
        let engine = Engine::open(disk, "memory", &identity, &options).unwrap();
        let readiness = Readiness::new(&[]);
        StorageMember::new(engine, readiness, Releases::default(), RollCall::default())
    }

    /// An answer of a master at `position`, with a page of which the disk holds nothing.
    fn answer(position: u64, page: v1::AuditPage) -> v1::HeartbeatResponse {
        let life = Life {
            term: 1,
            life: 7,
            first: 1,
            ..Life::default()
        };
        let head = Point {
            term: 1,
            life: 7,
            position,
            ..Point::default()
        };
        v1::HeartbeatResponse {
            history: Some(v1::History {
                head: Some(head.into()),
                lives: vec![life.into()],
                accepted: None,
            }),
            audit: Some(page),
            ..v1::HeartbeatResponse::default()
        }
    }

    #[test]
    fn disks_in_two_folders_of_one_file_system_tell_the_same_number() {
        let folder = tempfile::tempdir().unwrap();
        let room = |name: &str| {
            let (identity, options) = small_disk();
            let disk = RealDisk::open(folder.path().join(name)).unwrap();
            let engine = Engine::open(disk, "real", &identity, &options).unwrap();
            let told = report(&engine);
            let room = told.room.unwrap();
            assert!(room.growth_bytes > 0 && room.growth_bytes <= told.free_bytes);
            assert!(room.growth_bytes <= room.free_bytes);
            room.file_system
        };
        assert_eq!(room("a"), room("b"));
        assert_ne!(room("a"), 0);

        let in_memory = member();
        assert_eq!(report(&in_memory.engine).room, None);
    }

    #[tokio::test]
    async fn i4_a_disk_for_reads_refuses_an_accept_once_and_keeps_the_doubt() {
        let (identity, options) = small_disk();
        let disk = FaultyDisk::new();
        let open = || Engine::open(Arc::new(disk.clone()), "memory", &identity, &options).unwrap();
        drop(open());
        Disk::remove(&disk, "inventory.bin").unwrap();
        disk.refuse_writes(true);
        let engine = open();
        assert!(engine.is_for_reads());
        let number = engine.hold().doubts()[0].number;
        let refused = engine.hold().accept(number).unwrap_err();
        let text = error_chain(&refused).to_string();
        assert!(text.contains("when the disk takes writes again"), "{text}");

        let readiness = Readiness::new(&[]);
        let mut member =
            StorageMember::new(engine, readiness, Releases::default(), RollCall::default());
        for accepting in [vec![number], vec![number], Vec::new()] {
            let mut answer = answer(100, v1::AuditPage::default());
            answer.accept_doubts.clone_from(&accepting);
            member.handle_answer(answer);
            assert_eq!(member.refused_accepts, accepting);
            assert!(!member.engine.hold().doubts()[0].accepted);
        }
    }

    /// The place of the master is written while the answer is handled, and the page must not wait for
    /// that write.
    #[tokio::test]
    async fn i4_each_answer_of_a_busy_master_takes_an_audit_further() {
        let mut member = member();
        for beat in 1..50u8 {
            let Report::Storage(report) = member.report(Occasion::Tick) else {
                panic!()
            };
            let after = report.audit.unwrap().after;
            assert_eq!(after.first().copied().unwrap_or_default(), beat - 1);
            let page = v1::AuditPage {
                last: Bytes::copy_from_slice(&[beat; 16]),
                ..v1::AuditPage::default()
            };
            let mut answer = answer(100 + u64::from(beat), page);
            answer.releases = vec![Bytes::copy_from_slice(&[beat; 16])];
            // Each answer may be one that writes.
            member.noted_at = None;
            member.handle_answer(answer);
            let is_judging = member.is_judging.clone();
            until("the place is noted", || !is_judging.load(Ordering::Acquire)).await;
        }
    }

    /// The node lives on while another copy of the master's metadata is put in place and accepted.
    #[tokio::test]
    async fn i12_an_accepted_master_is_asked_about_what_the_one_before_it_confirmed() {
        let mut member = member();
        let session = SessionId::from_bytes([9; 16]);
        let judge = |member: &StorageMember, life: u64, accepted: bool| {
            let head = Point {
                term: life,
                life,
                position: 100,
                ..Point::default()
            };
            let first = Life {
                term: life,
                life,
                first: 1,
                ..Life::default()
            };
            let noted = member.engine.judge().noted();
            member.engine.judge().judge(&Answer {
                seen: None,
                history: Some(MasterHistory {
                    head,
                    lives: vec![first],
                    accepted: accepted.then_some(noted),
                }),
            })
        };
        assert!(judge(&member, 7, false));
        drop(member.audit_cursor());
        member.roll_call.confirm([session]);
        drop(member.audit_cursor());
        assert!(member.roll_call.has_confirmed(session));

        assert!(!judge(&member, 8, false), "another master");
        drop(member.audit_cursor());
        assert!(member.roll_call.has_confirmed(session));
        assert!(judge(&member, 8, true), "a person has accepted it");
        drop(member.audit_cursor());
        assert!(!member.roll_call.has_confirmed(session));
    }

    #[tokio::test]
    async fn i4_a_round_is_due_after_the_start_and_then_hourly() {
        tokio::time::pause();
        let mut member = member();
        assert!(member.audit_cursor().is_some());
        let last = v1::AuditPage {
            is_last: true,
            ..v1::AuditPage::default()
        };
        member.audit(last);
        assert!(member.audit_cursor().is_none());
        tokio::time::advance(AUDIT_INTERVAL - Duration::from_secs(1)).await;
        assert!(member.audit_cursor().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(member.audit_cursor().unwrap().after, Bytes::new());
    }
}
