//! The defects of the C prototype, one test each: none of them happens here. `docs/prototype.md`
//! lists them with its promises; the numbers are those of its table.

mod bytes;
mod doors;
mod names;
mod space;

use cstore_integration_tests::cluster::Cluster;
use serde_json::Value;

fn stats(cluster: &Cluster) -> Value {
    cluster.ask("GET", "/api/stats", b"").json()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn every_defect_and_every_promise_is_in_the_document() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap();
    let text = std::fs::read_to_string(root.join("docs/prototype.md")).unwrap();
    let code = ["bytes", "doors", "names", "space"].map(|part| {
        std::fs::read_to_string(
            root.join(format!("integration-tests/tests/it/prototype/{part}.rs")),
        )
        .unwrap()
    });
    let code = code.concat();
    for number in 1..=20 {
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| B{number} |")))
            .unwrap();
        let named = row
            .split('`')
            .find(|word| word.starts_with(&format!("b{number:02}_")));
        let named = named.unwrap_or_else(|| panic!("B{number} names no test: {row}"));
        assert!(
            code.contains(&format!("fn {named}()")),
            "there is no test {named}"
        );
    }
    for number in 1..=30 {
        assert!(
            text.contains(&format!("\n| {number} |")),
            "promise {number} is missing"
        );
    }
}
