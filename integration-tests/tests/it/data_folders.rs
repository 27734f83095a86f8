//! Data folders of earlier programs, and of this one, open in the program under test.

use cstore_integration_tests::data_folder::{FileEntry, Manifest, labels, path_of, unpack};
use cstore_testkit::random;
use tempfile::TempDir;

use crate::PROGRAM;

/// Fixtures of the first formats: `cstore dev` stopped and killed, a cluster stopped.
const MIN_FIXTURES: usize = 3;

#[test]
fn i1_i6_data_folders_of_earlier_programs_open_and_work_on() {
    let labels = labels();
    assert!(labels.len() >= MIN_FIXTURES, "only {labels:?}");
    for label in labels {
        println!("data folder {label}");
        opens_and_works_on(&label, unpack(&label));

        // The master's index is only a cache: without it, snapshot and log say the same.
        println!("data folder {label} without the index of the master");
        let folder = unpack(&label);
        std::fs::remove_dir_all(folder.path().join("master/index")).unwrap();
        opens_and_works_on(&label, folder);
    }
}

fn opens_and_works_on(label: &str, folder: TempDir) {
    let mut manifest = Manifest::read(label);
    let cluster = manifest.builder(PROGRAM).folder(folder).start();
    manifest.verify(&cluster);

    // New files: one of new blocks, one of blocks that the earlier program stored.
    let old = manifest
        .files
        .iter()
        .find(|file| file.name == "folder/large")
        .unwrap()
        .clone();
    for (name, size, seed) in [
        ("new/large", 50_000, 1_000),
        ("new/same as old", old.size, old.seed),
    ] {
        let put = manifest.ask(&cluster, "", "PUT", &path_of(name), "", &random(size, seed));
        assert_eq!(put.status, 201, "{label}: {name}: {}", put.text());
        if seed == old.seed {
            assert_eq!(put.json()["new_blocks"], 0, "{label}: {}", put.text());
        }
        let file = manifest.described(&cluster, "", name, seed);
        manifest.files.push(file);
    }

    // One of two names of a session goes, a file of a single name goes, and a file is replaced.
    for name in ["folder/large", "folder/ä/ß"] {
        let deleted = manifest.ask(&cluster, "", "DELETE", &path_of(name), "", b"");
        assert_eq!(deleted.status, 204, "{label}: {name}: {}", deleted.text());
        forget(&mut manifest.files, name);
        manifest.absent.push((String::new(), name.to_owned()));
    }
    let path = path_of("overwritten") + "?overwrite=true";
    let replaced = manifest.ask(&cluster, "", "PUT", &path, "", &random(900, 1_001));
    assert_eq!(replaced.status, 200, "{label}: {}", replaced.text());
    forget(&mut manifest.files, "overwritten");
    let file = manifest.described(&cluster, "", "overwritten", 1_001);
    manifest.files.push(file);
    manifest.verify(&cluster);

    // The files of both programs survive a clean stop.
    let roles = cluster.roles();
    for role in &roles {
        assert!(
            cluster.stop(role).success(),
            "{label}: {role} stopped cleanly"
        );
    }
    for role in &roles {
        cluster.launch(role);
    }
    cluster.wait_ready();
    manifest.verify(&cluster);
    cluster.audit(&[]);
}

fn forget(files: &mut Vec<FileEntry>, name: &str) {
    files.retain(|file| !file.tenant.is_empty() || file.name != name);
}
