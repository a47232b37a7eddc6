//! Documents of every shape, by the values and positions that come out.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Document, Position, read};

fn good(text: &str) -> Vec<Document> {
    let (documents, errors) = read(text);
    assert_eq!(errors, [], "{text}");
    documents
}

fn values(text: &str) -> Vec<Value> {
    good(text).into_iter().map(|document| document.value).collect()
}

/// What is wrong, as `LINE:COLUMN: MESSAGE`.
fn wrong(text: &str) -> Vec<String> {
    let (_, errors) = read(text);
    errors
        .into_iter()
        .map(|error| format!("{}:{}: {}", error.at.line, error.at.column, error.message))
        .collect()
}

#[test]
fn yaml_and_json_are_values() {
    let yaml = "a: 1\nb:\n- x\n- 'y'\n- {z: null}\n---\n# nothing\n---\n\"c\": |\n  text\n";
    assert_eq!(values(yaml), [json!({"a": 1, "b": ["x", "y", {"z": null}]}), json!({"c": "text\n"})]);
    assert_eq!(
        values("{\n\t\"a\": [1, 2.5, true],\n\t\"b\": \"80\"\n}"),
        [json!({"a": [1, 2.5, true], "b": "80"})]
    );
    assert_eq!(values("a: !!str 80\nb: !!int '80'\n80: c"), [json!({"a": "80", "b": 80, "80": "c"})]);
    assert_eq!(values(""), [] as [Value; 0]);
    assert_eq!(values("\u{feff}a: b"), [json!({"a": "b"})]);
}

#[test]
fn aliases_and_merge_keys_are_written_out() {
    let text = "base: &base {a: 1, b: 2}\nother: &other {b: 3, c: 4}\nuse: *base\nmore:\n  <<: *base\n  a: 9\nboth:\n  <<: [*base, *other]\n";
    let expected = json!({
        "base": {"a": 1, "b": 2}, "other": {"b": 3, "c": 4}, "use": {"a": 1, "b": 2},
        "more": {"a": 9, "b": 2}, "both": {"a": 1, "b": 2, "c": 4},
    });
    assert_eq!(values(text), [expected]);
    assert_eq!(values("'<<': x"), [json!({"<<": "x"})]);
    assert_eq!(
        wrong("a:\n  <<: 5"),
        ["2:3: << takes over mappings; give an alias of one, or a list of them"]
    );
}

#[test]
fn every_value_has_a_position() {
    let text = "a:\n  - b: 1\n    c/d:\n      e~f: x\n  - second\n";
    let document = &good(text)[0];
    for (pointer, line, column) in [
        ("", 1, 1),
        ("/a", 1, 1),
        ("/a/0", 2, 5),
        ("/a/0/b", 2, 5),
        ("/a/0/c~1d", 3, 5),
        ("/a/0/c~1d/e~0f", 4, 7),
        ("/a/1", 5, 5),
        ("/a/7/b", 1, 1),
        ("/a/0/nothing/there", 2, 5),
        ("/nothing", 1, 1),
    ] {
        assert_eq!(document.position(pointer), Position { line, column }, "{pointer}");
    }
}

#[test]
fn a_list_is_what_is_in_it() {
    let text = "kind: List\nitems:\n- kind: A\n  x: 1\n- kind: B\n";
    let list = good(text).remove(0).unfolded();
    assert_eq!(
        list.iter().map(|one| one.value["kind"].clone()).collect::<Vec<_>>(),
        [json!("A"), json!("B")]
    );
    assert_eq!(list[0].position("/x"), Position { line: 4, column: 3 });
    assert_eq!(list[1].position(""), Position { line: 5, column: 3 });
    assert_eq!(good("kind: PodList\nitems: []").remove(0).unfolded().len(), 0);
    assert_eq!(good("kind: Pod\nitems: []").remove(0).unfolded().len(), 1);
    assert_eq!(good("kind: List\nitems: 5").remove(0).unfolded().len(), 1);
}

#[test]
fn what_is_wrong_is_told_and_the_next_document_read() {
    let text = "a: 1\na: 2\n---\nb: [\n---\nc: 3\n";
    let (documents, errors) = read(text);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(errors[0].message, "the key \"a\" is there already, in line 1; remove one of them");
    assert_eq!((errors[0].at.line, errors[0].at.column), (2, 1));
    assert_eq!(documents.last().map(|document| document.value.clone()), Some(json!({"c": 3})));
    assert_eq!(wrong("? [a]\n: b"), ["1:3: a key must be a word, not a list or mapping"]);
    assert_eq!(wrong("a: !secret x"), ["1:12: the tag \"!secret\" means nothing here; remove it"]);
    assert_eq!(wrong("a: &x [*x]"), ["1:8: an alias inside of what it stands for; write the value out"]);
    assert_eq!(wrong("a: *x").len(), 1);
}

#[test]
fn bombs_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{alias}]\n");
    }
    assert!(wrong(&bomb)[0].contains("more than 1048576 values"), "{:?}", wrong(&bomb));
    let text = "x".repeat(1 << 20);
    let repeated = format!("a: &a {text}\nb: [{}]", vec!["*a"; 20].join(", "));
    assert!(wrong(&repeated)[0].contains("aliases repeat"), "{:?}", wrong(&repeated));
    assert_eq!(wrong(&"[".repeat(100_000)).len(), 1);
    assert_eq!(wrong(&"- ".repeat(100_000)).len(), 1);
    assert_eq!(wrong(&"{a: ".repeat(100_000)).len(), 1);
    // Deeper by aliases than it is written.
    let nested = |inside: &str| "[".repeat(40) + inside + &"]".repeat(40);
    let deep = format!("a: &a {}\nb: {}", nested("x"), nested("*a"));
    assert!(wrong(&deep)[0].contains("deep inside of each other"), "{:?}", wrong(&deep));
    assert!(wrong(&"[],".repeat(2 << 20)).len() == 1);
}

proptest! {
    #[test]
    fn never_panics(text in "(?s).{0,300}") {
        for document in read(&text).0 {
            document.position("/a/0/b");
            document.unfolded();
        }
    }

    #[test]
    fn pieces_of_yaml_never_panic(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "a", ":", " ", "\n", "- ", "[", "]", "{", "}", ",", "&x ", "*x", "<<", "---\n", "...\n", "|\n", ">\n",
            "'", "\"", "#", "!!str ", "!", "? ", "  ", "1", "items", "kind", "List", "\t", "%", "\\",
        ]), 0..60),
    ) {
        let text = pieces.concat();
        for document in read(&text).0 {
            document.position("/items/0/a");
            document.unfolded();
        }
    }

    #[test]
    fn json_comes_back(number in any::<i64>(), text in "[a-z \"\\\\\u{e9}]{0,20}", flag in any::<bool>()) {
        let value = json!({"list": [number, text, {"flag": flag}], "nothing": null, "empty": {}, "none": []});
        prop_assert_eq!(values(&value.to_string()), vec![value.clone()]);
        prop_assert_eq!(values(&serde_json::to_string_pretty(&value).unwrap()), vec![value]);
    }
}
