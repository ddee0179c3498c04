//! The committed description of the API is the one that is served, and what is served is as it says.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::{Value, json};

use crate::ferry::{Host, PATIENCE, await_that};

#[test]
fn the_committed_openapi_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let document = ferry::api::document().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("FERRY_BLESS").is_some() {
        fs::write(&path, &document).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == document,
        "docs/openapi.json is old: FERRY_BLESS=1 cargo test -p ferry --test cli openapi"
    );
}

/// Of a schema for something or null: that for something.
fn present(schema: &Value) -> Option<&Value> {
    schema["oneOf"].as_array()?.iter().find(|choice| choice["type"] != "null")
}

/// The document, to hold values against.
struct Document(Value);

impl Document {
    fn new() -> Document {
        Document(serde_json::to_value(ferry::api::document()).unwrap())
    }

    /// What stands where a schema refers to, or itself.
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(place) => self.resolve(self.0.pointer(&place[1..]).expect("a schema that is there")),
            None => schema,
        }
    }

    /// The fields of an object: each with its schema, and whether it must be there.
    fn fields<'a>(&'a self, schema: &'a Value) -> BTreeMap<&'a str, (&'a Value, bool)> {
        let schema = self.resolve(schema);
        let mut fields = BTreeMap::new();
        for part in schema["allOf"].as_array().into_iter().flatten() {
            fields.extend(self.fields(part));
        }
        let required =
            |name: &str| schema["required"].as_array().is_some_and(|all| all.contains(&name.into()));
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            fields.insert(name, (field, required(name)));
        }
        fields
    }

    /// What is wrong with a value, each with its place.
    fn complaints(&self, schema: &Value, value: &Value, place: &str) -> Vec<String> {
        let schema = self.resolve(schema);
        if let Some(schema) = present(schema) {
            return if value.is_null() { Vec::new() } else { self.complaints(schema, value, place) };
        }
        let fields = self.fields(schema);
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let wanted = &schema["type"];
        let fits = match wanted {
            Value::Null => fields.is_empty() || kind == "object",
            one_of => one_of == kind || one_of.as_array().is_some_and(|all| all.contains(&kind.into())),
        };
        if !fits {
            return vec![format!("{place} is {value}, which is no {wanted}")];
        }
        let mut complaints = Vec::new();
        if let Some(names) = schema["enum"].as_array()
            && !names.contains(value)
        {
            complaints.push(format!("{place} is {value}, which is none of {names:?}"));
        }
        for (number, item) in value.as_array().into_iter().flatten().enumerate() {
            complaints.extend(self.complaints(&schema["items"], item, &format!("{place}[{number}]")));
        }
        for (name, (field, required)) in &fields {
            let place = format!("{place}.{name}");
            match value.get(name) {
                Some(value) => complaints.extend(self.complaints(field, value, &place)),
                None if *required => complaints.push(format!("{place} is missing")),
                None => {}
            }
            let description = &present(field).unwrap_or(field)["description"];
            if description.as_str().is_none_or(str::is_empty) {
                complaints.push(format!("{place} has no description"));
            }
        }
        let names = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let unknown = names.filter(|name| !fields.contains_key(name));
        complaints.extend(unknown.map(|name| format!("{place}.{name} is not described")));
        complaints
    }
}

/// A VM's API, every answer of which is held against the document.
struct Api {
    document: Document,
    host: Host,
}

impl Api {
    /// The answer, which must have this status and be as described.
    #[track_caller]
    fn ask(&self, name: &str, method: &str, path: &str, body: Option<&Value>, status: &str) -> Value {
        let mut stream = UnixStream::connect(self.host.socket(name)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = body.map(ToString::to_string).unwrap_or_default();
        let head = "Host: x\r\nContent-Type: application/json\r\nConnection: close";
        write!(stream, "{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(&head[9..12], status, "{method} {path}: {answer}");
        let value: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let (path, method) = (path.split('?').next().unwrap(), method.to_lowercase());
        let described = &self.document.0["paths"][path][&method]["responses"][status];
        let schema = &described["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} {status} is not described");
        let complaints = self.document.complaints(schema, &value, path);
        assert!(complaints.is_empty(), "{complaints:#?}");
        value
    }

    fn migration(&self, name: &str, wait: bool) -> Value {
        self.ask(name, "GET", &format!("/v1/migration?wait={wait}"), None, "200")
    }
}

#[test]
fn what_is_answered_is_as_the_document_says() {
    let api = Api { document: Document::new(), host: Host::new() };
    api.host.run_sim("a", &[]);
    for (method, path) in [
        ("GET", "/v1/vm"),
        ("GET", "/v1/vm/guest"),
        ("POST", "/v1/vm/guest/check"),
        ("PUT", "/v1/vm/pause"),
        ("PUT", "/v1/vm/resume"),
    ] {
        api.ask("a", method, path, None, "200");
    }
    // A simulated guest has no balloon; one that has answers in on_kvm.rs.
    api.ask("a", "GET", "/v1/vm/balloon", None, "409");
    api.ask("a", "PUT", "/v1/vm/balloon", Some(&json!({ "target_bytes": 0 })), "409");
    assert_eq!(api.migration("a", false), json!({ "progress": null, "report": null }));
    api.ask("a", "DELETE", "/v1/migration", None, "409");
    let nowhere = json!({ "address": "http://nowhere", "strategy": "pre-copy" });
    api.ask("a", "POST", "/v1/migration", Some(&nowhere), "400");

    // One under way, then called off.
    let address = api.host.receive("b");
    let slow =
        json!({ "address": address, "strategy": "pre-copy", "max_bandwidth_bits_per_second": 8_000_000 });
    api.ask("a", "POST", "/v1/migration", Some(&slow), "202");
    await_that("pages go", || api.migration("a", false)["progress"]["phase"] == "rounds");
    api.ask("a", "DELETE", "/v1/migration", None, "202");
    let report = &api.migration("a", true)["report"];
    assert_eq!((&report["outcome"], &report["downtime_engine_us"]), (&json!("cancelled"), &Value::Null));

    // And one by each strategy that comes to its end.
    let mut from = "a";
    for (to, strategy) in [("b", "pre-copy"), ("c", "post-copy"), ("d", "stop-and-copy")] {
        let address = if to == "b" { address.clone() } else { api.host.receive(to) };
        let request = json!({ "address": address, "strategy": strategy, "verify": "after-start" });
        api.ask(from, "POST", "/v1/migration", Some(&request), "202");
        let report = &api.migration(from, true)["report"];
        assert_eq!((&report["outcome"], &report["verified"]), (&json!("completed"), &json!(true)));
        assert!(
            report["downtime_parts_us"]["load"].is_u64() && report["page_faults"]["histogram"].is_array()
        );
        from = to;
    }
}

#[test]
fn what_is_not_as_described_is_found() {
    let document = Document::new();
    let state = json!({ "$ref": "#/components/schemas/MigrationState" });
    let complaints = |progress: Value| {
        document.complaints(&state, &json!({ "progress": progress, "report": null }), "state")
    };
    let mut good = serde_json::to_value(engine::progress::ProgressSnapshot::default()).unwrap();
    assert_eq!(complaints(good.clone()), [] as [String; 0]);
    assert_eq!(complaints(Value::Null), [] as [String; 0]);
    good["round"] = json!("first");
    assert_eq!(complaints(good.clone()).len(), 1);
    good["phase"] = json!("lunch");
    assert_eq!(complaints(good.clone()).len(), 2);
    good["speed"] = json!(1);
    assert!(complaints(good.clone()).iter().any(|c| c.ends_with("speed is not described")));
    good.as_object_mut().unwrap().remove("pages_left");
    assert!(complaints(good).iter().any(|c| c.ends_with("pages_left is missing")));
}
