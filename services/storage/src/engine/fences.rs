//! Fences: records on their way to the disk keep others away until they are durable.
//!
//! | on its way | who meets it |
//! |---|---|
//! | a block | a put or a seal of the same block waits for it |
//! | a seal | another seal of the part is refused; a release of its session does not move |
//! | a release | another release of the session is refused; records of the session do not move |
//! | a move of a session's sets | releases and other moves of the session wait |
//! | a move of a session's release | so do its seals |
//!
//! One [`Fence`] holds the claims of one group of records. It belongs to the callback of the group,
//! so claims end when the group is durable or has failed, also if nobody waits for it any more.
//!
//! Invariants
//! * A claim that follows from a look at the index is made in the same hold of the index's mutex.
//!   The index is changed BEFORE the claim ends: otherwise a second request could find neither the
//!   block nor its claim.
//! * The mutex of the fences is the inner one: it MAY be taken while the index is locked, never the
//!   reverse.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cstore_types::{BlockId, PartNo, SessionId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use super::error::EngineError;
use super::index::Live;

/// The end of somebody else's claim: true if its records are durable. An error counts as false.
pub(super) type Completion = oneshot::Receiver<bool>;

type Waiters = Vec<oneshot::Sender<bool>>;

/// All claims of an open disk. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Fences {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    claims: Mutex<Claims>,
    /// Notified when a claim on a session has ended.
    session_freed: Notify,
}

#[derive(Debug, Default)]
struct Claims {
    blocks: HashMap<BlockId, Waiters>,
    sessions: HashMap<SessionId, SessionClaims>,
}

/// The claims on one session.
#[derive(Debug, Default)]
struct SessionClaims {
    seals: HashSet<PartNo>,
    is_released: bool,
    relocation: Option<Relocation>,
}

impl SessionClaims {
    fn is_empty(&self) -> bool {
        self.seals.is_empty() && !self.is_released && self.relocation.is_none()
    }
}

/// A move of records of a session.
#[derive(Debug, Default)]
struct Relocation {
    /// The release of the session is among them.
    has_release: bool,
    waiters: Waiters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Block(BlockId),
    Seal(SessionId, PartNo),
    Release(SessionId),
    Move(SessionId),
}

impl Claims {
    fn end(&mut self, claim: Claim, is_durable: bool) {
        let (session, waiters) = match claim {
            Claim::Block(id) => (None, self.blocks.remove(&id).unwrap_or_default()),
            Claim::Seal(session, part) => {
                self.sessions
                    .entry(session)
                    .or_default()
                    .seals
                    .remove(&part);
                (Some(session), Waiters::new())
            }
            Claim::Release(session) => {
                self.sessions.entry(session).or_default().is_released = false;
                (Some(session), Waiters::new())
            }
            Claim::Move(session) => {
                let ended = self.sessions.entry(session).or_default().relocation.take();
                (Some(session), ended.unwrap_or_default().waiters)
            }
        };

        if let Some(session) = session
            && self
                .sessions
                .get(&session)
                .is_some_and(SessionClaims::is_empty)
        {
            self.sessions.remove(&session);
        }
        for waiter in waiters {
            let _ = waiter.send(is_durable);
        }
    }
}

impl Fences {
    /// Returns a fence without claims.
    pub(super) fn fence(&self) -> Fence {
        Fence {
            fences: self.clone(),
            claims: Vec::new(),
            is_durable: false,
        }
    }

    /// Locks the claims to look at them and to add some. A caller that decides by the index keeps
    /// it locked until then. No [`Fence`] MAY be dropped while the claims are locked, because its
    /// drop locks them.
    pub(super) fn lock(&self) -> ClaimsGuard<'_> {
        ClaimsGuard {
            claims: self.shared.claims.lock(),
        }
    }

    /// Returns a future that completes after the next end of a claim on a session. Enable it BEFORE
    /// the look at the claims that decides whether to wait, otherwise an end in between is missed.
    pub(super) fn session_freed(&self) -> Notified<'_> {
        self.shared.session_freed.notified()
    }
}

/// The locked claims.
#[derive(Debug)]
pub(super) struct ClaimsGuard<'a> {
    claims: MutexGuard<'a, Claims>,
}

impl ClaimsGuard<'_> {
    /// Returns the end of the write of a block that is on its way.
    pub(super) fn wait_for_block(&mut self, id: &BlockId) -> Option<Completion> {
        Some(add_waiter(self.claims.blocks.get_mut(id)?))
    }

    pub(super) fn is_on_its_way(&self, id: &BlockId) -> bool {
        self.claims.blocks.contains_key(id)
    }

    /// Claims a block that is neither stored nor on its way.
    pub(super) fn claim_block(&mut self, fence: &mut Fence, id: BlockId) {
        self.claims.blocks.insert(id, Waiters::new());
        fence.claims.push(Claim::Block(id));
    }

    pub(super) fn is_sealing(&self, session: SessionId, part: PartNo) -> bool {
        self.claims
            .sessions
            .get(&session)
            .is_some_and(|claims| claims.seals.contains(&part))
    }

    pub(super) fn claim_seal(&mut self, fence: &mut Fence, session: SessionId, part: PartNo) {
        self.claims
            .sessions
            .entry(session)
            .or_default()
            .seals
            .insert(part);
        fence.claims.push(Claim::Seal(session, part));
    }

    /// Returns the end of a move of the session's release. A set that was appended before the copy
    /// of the release would be dropped by it.
    pub(super) fn wait_for_move_of_release(&mut self, session: SessionId) -> Option<Completion> {
        let relocation = self
            .claims
            .sessions
            .get_mut(&session)?
            .relocation
            .as_mut()?;
        relocation
            .has_release
            .then(|| add_waiter(&mut relocation.waiters))
    }

    /// Claims sessions for their releases, which keeps new moves away. Returns the ends of the
    /// moves that run: the releases MUST be appended AFTER those, otherwise a copied set would come
    /// after its release.
    ///
    /// # Errors
    /// [`EngineError::Busy`] if one of them is being released already. Nothing is claimed then.
    pub(super) fn claim_releases(
        &mut self,
        fence: &mut Fence,
        sessions: &[SessionId],
    ) -> Result<Vec<Completion>, EngineError> {
        let is_released = |session| {
            self.claims
                .sessions
                .get(session)
                .is_some_and(|claims| claims.is_released)
        };
        if sessions.iter().any(is_released) {
            return Err(EngineError::Busy(
                "this session is being released by another request",
            ));
        }

        let mut moves = Vec::new();
        for session in sessions {
            let claims = self.claims.sessions.entry(*session).or_default();
            claims.is_released = true;
            fence.claims.push(Claim::Release(*session));
            moves.extend(
                claims
                    .relocation
                    .as_mut()
                    .map(|relocation| add_waiter(&mut relocation.waiters)),
            );
        }
        Ok(moves)
    }

    /// Returns true if a seal, a release or another move keeps the record from moving. Moves of
    /// `own` do not count.
    pub(super) fn is_kept(&self, live: &Live, own: Option<&Fence>) -> bool {
        let Some(session) = live.session() else {
            return false;
        };
        let Some(claims) = self.claims.sessions.get(&session) else {
            return false;
        };
        let is_own = || own.is_some_and(|fence| fence.claims.contains(&Claim::Move(session)));
        let is_sealed = matches!(live, Live::Release(_)) && !claims.seals.is_empty();
        claims.is_released || is_sealed || (claims.relocation.is_some() && !is_own())
    }

    /// Claims the session of a record that moves. Blocks need no claim: their moves are
    /// compare-and-set.
    pub(super) fn claim_move(&mut self, fence: &mut Fence, live: &Live) {
        let Some(session) = live.session() else {
            return;
        };
        let relocation = &mut self.claims.sessions.entry(session).or_default().relocation;
        if relocation.is_none() {
            fence.claims.push(Claim::Move(session));
        }
        relocation.get_or_insert_default().has_release |= matches!(live, Live::Release(_));
    }
}

fn add_waiter(waiters: &mut Waiters) -> Completion {
    let (sender, completion) = oneshot::channel();
    waiters.push(sender);
    completion
}

/// The claims of one group of records. Dropping it ends them: as failed, unless [`Self::end`] was
/// called.
#[derive(Debug)]
pub(super) struct Fence {
    fences: Fences,
    claims: Vec<Claim>,
    is_durable: bool,
}

impl Fence {
    /// Ends the claims of records that are durable. The index MUST know the records before.
    pub(super) fn end(mut self) {
        self.is_durable = true;
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        let mut claims = self.fences.shared.claims.lock();
        let mut has_session = false;
        for claim in self.claims.drain(..) {
            has_session |= !matches!(claim, Claim::Block(_));
            claims.end(claim, self.is_durable);
        }
        drop(claims);

        if has_session {
            self.fences.shared.session_freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: BlockId = BlockId::from_bytes([1; 32]);
    const S: SessionId = SessionId::from_bytes([1; 16]);
    const SET: Live = Live::Set(S, PartNo(0));
    const RELEASE: Live = Live::Release(S);

    fn claimed(fences: &Fences, claim: impl FnOnce(&mut ClaimsGuard<'_>, &mut Fence)) -> Fence {
        let mut fence = fences.fence();
        claim(&mut fences.lock(), &mut fence);
        fence
    }

    #[test]
    fn whoever_waits_for_a_block_learns_whether_it_is_durable() {
        for is_durable in [true, false] {
            let fences = Fences::default();
            let fence = claimed(&fences, |claims, fence| claims.claim_block(fence, ID));
            let mut waiters = [(); 2].map(|()| fences.lock().wait_for_block(&ID).unwrap());
            assert!(waiters[0].try_recv().is_err());
            if is_durable {
                fence.end()
            } else {
                drop(fence)
            }
            assert!(
                waiters
                    .iter_mut()
                    .all(|waiter| waiter.try_recv() == Ok(is_durable))
            );
            assert!(fences.lock().wait_for_block(&ID).is_none());
        }
    }

    #[test]
    fn i3_a_release_waits_for_moves_and_keeps_new_ones_away() {
        let fences = Fences::default();
        let moving = claimed(&fences, |claims, fence| {
            claims.claim_move(fence, &SET);
            assert!(
                !claims.is_kept(&SET, Some(fence)),
                "its own move does not keep a record of the session"
            );
        });
        let mut releasing = fences.fence();
        let mut moves = fences.lock().claim_releases(&mut releasing, &[S]).unwrap();
        assert_eq!(moves.len(), 1);
        moving.end();
        assert_eq!(moves[0].try_recv(), Ok(true));
        assert!(fences.lock().is_kept(&SET, None) && fences.lock().is_kept(&RELEASE, None));

        let mut second = fences.fence();
        assert!(fences.lock().claim_releases(&mut second, &[S]).is_err());
        drop(second);
        assert!(
            fences.lock().is_kept(&SET, None),
            "what was refused ends no claim of others"
        );
        drop(releasing);
        assert!(!fences.lock().is_kept(&SET, None));
        assert!(
            fences.shared.claims.lock().sessions.is_empty(),
            "sessions without claims take no memory"
        );
    }

    #[test]
    fn i1_seals_wait_for_the_move_of_a_release_and_keep_it_away() {
        let fences = Fences::default();
        let sealing = claimed(&fences, |claims, fence| {
            claims.claim_seal(fence, S, PartNo(3))
        });
        assert!(fences.lock().is_kept(&RELEASE, None) && !fences.lock().is_kept(&SET, None));
        assert!(fences.lock().is_sealing(S, PartNo(3)) && !fences.lock().is_sealing(S, PartNo(4)));
        drop(sealing);

        let sets = claimed(&fences, |claims, fence| claims.claim_move(fence, &SET));
        assert!(fences.lock().wait_for_move_of_release(S).is_none());
        drop(sets);
        let release = claimed(&fences, |claims, fence| claims.claim_move(fence, &RELEASE));
        let mut completion = fences.lock().wait_for_move_of_release(S).unwrap();
        release.end();
        assert_eq!(completion.try_recv(), Ok(true));
    }

    #[tokio::test]
    async fn the_end_of_a_claim_on_a_session_wakes_whoever_waits_for_one() {
        let fences = Fences::default();
        let block = claimed(&fences, |claims, fence| claims.claim_block(fence, ID));
        let seal = claimed(&fences, |claims, fence| {
            claims.claim_seal(fence, S, PartNo(0))
        });
        let freed = fences.session_freed();
        tokio::pin!(freed);
        freed.as_mut().enable();
        block.end();
        assert!(futures_util::FutureExt::now_or_never(freed.as_mut()).is_none());
        seal.end();
        freed.await;
    }
}
