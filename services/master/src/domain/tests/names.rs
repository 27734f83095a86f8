//! Names: conditions by ETag, copies and renames, lists, selections, answers that carry their
//! position.

use std::collections::BTreeSet;

use cstore_types::{ErrorCode, SessionUsage};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::*;
use super::fixture::*;

fn code<T>(result: Result<T, Fault>) -> ErrorCode {
    result.err().expect("is refused").code
}

#[tokio::test]
async fn a_change_that_demands_an_etag_meets_no_other_file() {
    let fixture = Fixture::new().await;
    fixture.publish(1, "a").await;
    let namespace = &fixture.master.namespace;
    let other = CopyOrRename {
        etag: "other".to_owned(),
        ..Fixture::second_name("a", "b")
    };
    assert_eq!(
        code(namespace.rename_file(&other).await),
        ErrorCode::PreconditionFailed
    );
    assert_eq!(
        code(namespace.copy_file(&other).await),
        ErrorCode::PreconditionFailed
    );
    let deleted = namespace.delete_file(&tenant(), &name("a"), "other").await;
    assert_eq!(code(deleted), ErrorCode::PreconditionFailed);
    let etag = "9e107d9d372bb6826bd81d3542a419d6-1";
    namespace
        .delete_file(&tenant(), &name("a"), etag)
        .await
        .unwrap();
    assert_eq!(code(fixture.delete("a").await), ErrorCode::NotFound);
}

#[tokio::test]
async fn copies_and_renames_count_the_names_of_a_session_and_end_it_with_the_last() {
    let fixture = Fixture::new().await;
    let namespace = &fixture.master.namespace;
    fixture.publish(1, "a").await;
    fixture.publish(2, "z").await;
    let kept = CopyOrRename {
        overwrite: false,
        ..Fixture::second_name("a", "z")
    };
    assert_eq!(
        code(namespace.copy_file(&kept).await),
        ErrorCode::AlreadyExists
    );

    let copy = namespace
        .copy_file(&Fixture::second_name("a", "b"))
        .await
        .unwrap();
    assert_eq!(copy.meta.version, 1);
    let over = namespace
        .copy_file(&Fixture::second_name("a", "b"))
        .await
        .unwrap();
    assert_eq!(
        over.meta.version, 2,
        "a copy over a name of the same session is a new version of it"
    );
    namespace
        .rename_file(&Fixture::second_name("a", "b"))
        .await
        .unwrap();
    fixture.check("two names became one").await;
    let moved = namespace
        .rename_file(&Fixture::second_name("b", "z"))
        .await
        .unwrap();
    assert_eq!(moved.meta.version, 2);
    fixture.check("z lost its file").await;
    assert!(matches!(
        fixture.master.releases.verdict(session(2)).await,
        Ok(Verdict::Ended(_))
    ));
    fixture.delete("z").await.unwrap();
    assert!(matches!(
        fixture.master.releases.verdict(session(1)).await,
        Ok(Verdict::Ended(_))
    ));
    assert_eq!(
        fixture.master.context.derived.usage.total(),
        FileTotals::default()
    );
}

/// All names of a file count in one record. Without turns most of these changes run out of tries.
#[tokio::test]
async fn copies_and_removals_of_one_file_at_once_refuse_none() {
    const N_COPIES: usize = 400;

    let fixture = Fixture::new().await;
    let namespace = &fixture.master.namespace;
    fixture.publish(1, "a").await;
    let names: Vec<String> = (0..N_COPIES).map(|n| format!("copy-{n}")).collect();
    let copies = names.iter().map(|to| async move {
        let request = Fixture::second_name("a", to);
        namespace.copy_file(&request).await.map(drop)
    });
    for copied in futures_util::future::join_all(copies).await {
        copied.unwrap();
    }
    fixture.check("a file with many names").await;

    let changes = names.iter().enumerate().map(|(n, from)| {
        let fixture = &fixture;
        async move {
            if n % 2 == 0 {
                return fixture.delete(from).await;
            }
            let request = Fixture::second_name(from, &format!("again-{n}"));
            namespace.copy_file(&request).await.map(drop)
        }
    });
    for changed in futures_util::future::join_all(changes).await {
        changed.unwrap();
    }
    fixture.check("a file with other names").await;
    assert_eq!(
        fixture.master.context.derived.usage.total().files,
        N_COPIES as u64 + 1
    );
}

#[tokio::test]
async fn a_name_is_taken_also_for_its_own_file() {
    let fixture = Fixture::new().await;
    let namespace = &fixture.master.namespace;
    fixture.publish(1, "a").await;
    let onto_itself = Fixture::second_name("a", "a");
    let kept = CopyOrRename {
        overwrite: false,
        ..Fixture::second_name("a", "a")
    };
    assert_eq!(
        code(namespace.copy_file(&kept).await),
        ErrorCode::AlreadyExists
    );
    assert_eq!(
        code(namespace.rename_file(&kept).await),
        ErrorCode::AlreadyExists
    );
    for changed in [
        namespace.copy_file(&onto_itself).await,
        namespace.rename_file(&onto_itself).await,
    ] {
        assert_eq!(changed.unwrap().meta.version, 1);
    }
    fixture.check("a file over itself").await;
}

#[tokio::test]
async fn a_file_under_another_name_counts_as_modified_when_it_got_the_name() {
    let fixture = Fixture::new().await;
    let namespace = &fixture.master.namespace;
    fixture.publish(1, "a").await;
    let published_ms = fixture.master.context.clock.now_ms();
    fixture.clock.advance(Duration::from_secs(1));
    let copy = namespace
        .copy_file(&Fixture::second_name("a", "b"))
        .await
        .unwrap();
    assert_eq!(copy.meta.modified_ms, published_ms + 1_000);
    fixture.clock.advance(Duration::from_secs(1));
    namespace
        .rename_file(&Fixture::second_name("b", "c"))
        .await
        .unwrap();
    let (renamed, _) = namespace.get_file(&tenant(), &name("c")).await.unwrap();
    assert_eq!(renamed.meta.modified_ms, published_ms + 2_000);
    let (source, _) = namespace.get_file(&tenant(), &name("a")).await.unwrap();
    assert_eq!(source.meta.modified_ms, published_ms);
}

#[tokio::test]
async fn an_answer_carries_a_position_that_is_not_before_what_it_rests_on() {
    let fixture = Fixture::new().await;
    let before = fixture.master.state().head.position;
    fixture.publish(1, "a").await;
    let written = fixture
        .store
        .get(&keys::name_key(&tenant(), &name("a")))
        .await
        .unwrap()
        .unwrap();
    assert!(written.version > before && fixture.master.state().head.position >= written.version);
}

/// All pages of a list, with folders among the names.
/// Lists all pages. Checks that each has at most `page_size` entries, in order, all after those of the
/// page before.
async fn list(fixture: &Fixture, prefix: &str, delimiter: &str, page_size: u32) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut token = String::new();
    loop {
        let query =
            ListQuery::new(tenant(), prefix.to_owned(), delimiter, page_size, token).unwrap();
        let page = fixture.master.namespace.list_files(&query).await.unwrap();
        let mut entries: Vec<String> = page.files.into_iter().map(|file| file.name).collect();
        assert!(entries.is_sorted() && page.prefixes.is_sorted());
        entries.extend(page.prefixes);
        entries.sort();
        assert!(entries.len() <= page_size as usize);
        assert!(names.last() < entries.first() || entries.is_empty());
        names.extend(entries);
        if page.next_page_token.is_empty() {
            return names;
        }
        token = page.next_page_token;
    }
}

/// Returns what a list without pages shows.
fn expected_list(model: &BTreeSet<String>, prefix: &str, delimiter: &str) -> Vec<String> {
    let roll = |name: &String| match name[prefix.len()..].find(delimiter) {
        Some(i) if !delimiter.is_empty() => name[..prefix.len() + i + delimiter.len()].to_owned(),
        _ => name.clone(),
    };
    let matching = model.iter().filter(|name| name.starts_with(prefix));
    let entries: BTreeSet<String> = matching.map(roll).collect();
    entries.into_iter().collect()
}

fn random_text(rng: &mut StdRng, longest: usize) -> String {
    const PARTS: [&str; 7] = ["a", "b", "/", "-", "ü", "🦀", "\u{10ffff}"];
    let n_parts = rng.random_range(0..=longest);
    (0..n_parts)
        .map(|_| PARTS[rng.random_range(0..PARTS.len())])
        .collect()
}

/// Lists of random names, prefixes, delimiters and page sizes equal a sorted set.
/// `CSTORE_CASES=100000` makes the long run.
#[tokio::test]
async fn lists_equal_a_sorted_set_for_every_prefix_delimiter_and_page_size() {
    const LISTS_OF_A_STORE: u64 = 500;

    let (seed, cases) = cstore_testkit::seed_and_cases(20_261_127, 20_000);
    println!("CSTORE_SEED={seed} CSTORE_CASES={cases}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut n_lists = 0;
    while n_lists < cases {
        let fixture = Fixture::new().await;
        fixture.publish(1, "a").await;
        let mut model = BTreeSet::from(["a".to_owned()]);
        // Sometimes more names than the index reads at a time.
        let n_names = if rng.random_bool(0.2) { 700 } else { 60 };
        for _ in 0..n_names {
            let name = random_text(&mut rng, 9);
            if cstore_types::FileName::new(name.as_str()).is_ok() && name != "a" {
                let request = Fixture::second_name("a", &name);
                fixture.master.namespace.copy_file(&request).await.unwrap();
                model.insert(name);
            }
        }
        for _ in 0..LISTS_OF_A_STORE.min(cases - n_lists) {
            let prefix = random_text(&mut rng, 3);
            let delimiter = random_text(&mut rng, 2);
            let page_size = [1, 2, 3, 7, 100, 255, 256, 257, 1_000][rng.random_range(0..9)];
            let found = list(&fixture, &prefix, &delimiter, page_size).await;
            assert_eq!(
                found,
                expected_list(&model, &prefix, &delimiter),
                "prefix {prefix:?}, delimiter {delimiter:?}, {page_size} a page"
            );
            n_lists += 1;
        }
    }
}

#[tokio::test]
async fn a_page_token_of_another_list_is_refused() {
    let fixture = Fixture::new().await;
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        fixture.publish(n as u8 + 1, name).await;
    }
    let query =
        |prefix: &str, token| ListQuery::new(tenant(), prefix.to_owned(), "", 1, token).unwrap();
    let page = fixture
        .master
        .namespace
        .list_files(&query("", String::new()))
        .await
        .unwrap();
    let foreign = fixture
        .master
        .namespace
        .list_files(&query("b", page.next_page_token))
        .await;
    assert_eq!(code(foreign), ErrorCode::InvalidArgument);
    let long = "/".repeat(1_025);
    assert!(ListQuery::new(tenant(), String::new(), &long, 1, String::new()).is_err());
    assert!(ListQuery::new(tenant(), String::new(), "", 1_001, String::new()).is_err());
}

#[tokio::test]
async fn a_selection_tells_which_sessions_end_with_it() {
    let fixture = Fixture::new().await;
    let namespace = &fixture.master.namespace;
    fixture.publish(1, "x/a").await;
    fixture.publish(2, "x/b").await;
    namespace
        .copy_file(&Fixture::second_name("x/a", "y"))
        .await
        .unwrap();
    let selection = Selection::Prefix("x/".to_owned());
    let mut found = namespace.select_files(&tenant(), &selection).await.unwrap();
    found.sessions.sort_by_key(|usage| usage.session);
    let usage = |n, ends| SessionUsage {
        session: session(n),
        ends,
    };
    assert_eq!(found.sessions, [usage(1, false), usage(2, true)]);
    assert_eq!(
        (found.files, found.logical_bytes, found.other_names),
        (2, 32, 1)
    );
    let one = namespace
        .select_files(&tenant(), &Selection::Name(name("none")))
        .await;
    assert_eq!(code(one), ErrorCode::NotFound);
}
