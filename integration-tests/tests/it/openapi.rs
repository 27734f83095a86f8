//! The description of the REST surface against what it answers: schemathesis makes requests from
//! the one and judges the other.

use std::process::Command;
use std::time::Duration;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::tools;

use crate::PROGRAM;

/// * `positive_data_acceptance`: a schema cannot say all rules, such as that two headers exclude
///   each other.
/// * `allow_header_conformance`: `/api/files/a:copy` is also the path of the file `a:copy`, which
///   can be read.
const UNFIT: &str = "positive_data_acceptance,allow_header_conformance";
/// Time after which schemathesis is ended: it has no bound of its own.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn what_the_description_says_is_what_the_gateway_answers() {
    let Some(schemathesis) = tools::find_or_skip("schemathesis", "openapi") else {
        return;
    };
    let cluster = Cluster::builder(PROGRAM).start();
    for name in ["docs/a.txt", "docs/b.txt"] {
        assert_eq!(
            cluster
                .ask("PUT", &format!("/api/files/{name}"), b"described")
                .status,
            201
        );
    }
    let seed = cstore_testkit::seed(20_261_124).to_string();
    let mut command = Command::new("timeout");
    command
        .arg(LIMIT.as_secs().to_string())
        .arg(schemathesis)
        .arg("run")
        .arg(format!("http://{}/api/openapi.json", cluster.gateway))
        .args([
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "40",
        ])
        .args([
            "--seed",
            &seed,
            "--exclude-checks",
            UNFIT,
            "--no-color",
            "--request-timeout",
            "20",
        ])
        .current_dir(cluster.dir());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!(
        "{}",
        said.lines()
            .filter(|line| line.contains("generated"))
            .collect::<String>()
    );
    cluster.audit(&[]);
}
