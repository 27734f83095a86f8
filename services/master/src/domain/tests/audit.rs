//! Audits: which sessions a disk must hold sets of.

use super::fixture::*;
use cstore_types::{SessionId, WriteCondition};

#[tokio::test]
async fn i1_a_page_names_what_is_committed_on_a_store_and_nothing_else() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    for (n, file) in [(1, "a"), (2, "b"), (3, "c")] {
        fixture.publish(n, file).await;
    }
    fixture.delete("b").await.unwrap();
    master.releases.end(session(4)).await.unwrap();

    let all = master.audits.page(store_of(1), None).await.unwrap();
    assert_eq!(all.sessions, [session(1), session(3)]);
    assert_eq!((all.last, all.is_last), (Some(session(4)), true));
    let rest = master.audits.page(store_of(2), Some(session(1))).await;
    assert_eq!(rest.unwrap().sessions, [session(3)]);
    let none = master.audits.page(store_of(9), None).await.unwrap();
    assert_eq!((none.sessions, none.is_last), (Vec::new(), true));
    let behind = master.audits.page(store_of(1), Some(session(200))).await;
    let behind = behind.unwrap();
    assert_eq!((behind.last, behind.is_last), (None, true));
}

#[tokio::test]
async fn i10_a_page_is_bounded_and_the_next_one_goes_on_behind_it() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    for n in 0..crate::limits::AUDITED_SESSIONS + 1 {
        let n = u32::try_from(n).unwrap().to_be_bytes();
        let id = SessionId::from_bytes([[7; 12].as_slice(), &n].concat().try_into().unwrap());
        let commit = fixture.commit(id, "a", WriteCondition::Any);
        master.uploads.commit(&commit).await.unwrap();
    }
    // All but the last one were overwritten.
    let first = master.audits.page(store_of(1), None).await.unwrap();
    assert_eq!((first.sessions.len(), first.is_last), (0, false));
    let second = master.audits.page(store_of(1), first.last).await.unwrap();
    assert_eq!((second.sessions.len(), second.is_last), (1, true));
}
