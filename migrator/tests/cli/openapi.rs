//! The committed description of the API is the one that is served.

use std::{fs, path::Path};

#[test]
fn the_committed_openapi_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let document = migrator::api::document().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("FERRY_BLESS").is_some() {
        fs::write(&path, &document).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == document,
        "docs/openapi.json is old: FERRY_BLESS=1 cargo test -p migrator --test cli openapi"
    );
}
