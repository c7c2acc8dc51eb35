use serde_json::json;

use super::*;

/// What is kept of a schema, without the engine's options.
fn kept(schema: Value) -> Value {
    let mut prepared = prepare(&schema).unwrap();
    prepared.as_object_mut().unwrap().remove("x-guidance");
    prepared
}

#[test]
fn annotations_go_and_constraints_stay() {
    let table = [
        (json!(true), json!({})),
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://e.org/s", "title": "t", "type": "string", "default": 1, "x-rank": 2}),
            json!({"type": "string"}),
        ),
        (
            json!({"type": "array", "uniqueItems": false, "items": {"description": "d", "maximum": 1}}),
            json!({"type": "array", "items": {"maximum": 1}}),
        ),
        (
            json!({"properties": {"title": {"type": "null"}}, "propertyNames": {"type": "string"}}),
            json!({"properties": {"title": {"type": "null"}}}),
        ),
        (
            json!({"type": "integer", "format": "int32", "minimum": 0}),
            json!({"type": "integer", "minimum": 0, "maximum": 2_147_483_647_i64}),
        ),
        (
            json!({"type": "number", "format": "double"}),
            json!({"type": "number"}),
        ),
        (json!({"enum": [{"not": 1}]}), json!({"enum": [{"not": 1}]})),
        (
            json!({"$defs": {"a b": {"title": "x"}}, "$ref": "#/$defs/a%20b"}),
            json!({"$defs": {"a b": {}}, "$ref": "#/$defs/a%20b"}),
        ),
    ];
    for (schema, expected) in table {
        assert_eq!(kept(schema.clone()), expected, "{schema}");
    }
}

#[test]
fn what_would_be_ignored_is_refused_by_name_and_place() {
    let table = [
        (json!({"uniqueItems": true}), "uniqueItems", ""),
        (
            json!({"properties": {"a/b": {"not": {}}}}),
            "not",
            "/properties/a~1b",
        ),
        (json!({"anyOf": [{}, {"if": {}}]}), "if", "/anyOf/1"),
        (json!({"items": [{"contains": {}}]}), "contains", "/items/0"),
        (
            json!({"additionalProperties": {"minimun": 1}}),
            "minimun",
            "/additionalProperties",
        ),
        (
            json!({"$defs": {"x": {"dependentRequired": {}}}}),
            "dependentRequired",
            "/$defs/x",
        ),
        (json!({"nullable": true}), "nullable", ""),
        (json!({"x-guidance": {"lenient": true}}), "x-guidance", ""),
        (
            json!({"unevaluatedProperties": false}),
            "unevaluatedProperties",
            "",
        ),
        (
            json!({"propertyNames": {"pattern": "^a"}}),
            "propertyNames",
            "",
        ),
        (json!({"additionalItems": false}), "additionalItems", ""),
        (json!({"prefixItems": [{}], "items": [{}]}), "items", ""),
        (json!({"type": "string", "format": "iri"}), "format", ""),
        (json!({"format": "int32"}), "format", ""),
        (json!({"items": {"$id": "urn:x"}}), "$id", "/items"),
        (json!({"$ref": "https://e.org/s"}), "$ref", ""),
        (
            json!({"items": {"$ref": "#/default"}, "default": {}}),
            "$ref",
            "/items",
        ),
        (
            json!({"items": {"$ref": "#/$defs/missing"}}),
            "$ref",
            "/items",
        ),
        (json!({"minimum": 9_007_199_254_740_993_u64}), "minimum", ""),
        (
            json!({"const": {"a": [18_446_744_073_709_551_615_u64]}}),
            "const",
            "",
        ),
        (json!({"enum": ["a\u{1}"]}), "enum", ""),
        (json!({"minProperties": 2}), "minProperties", ""),
        (
            json!({"minProperties": 4, "required": ["a", "b"]}),
            "minProperties",
            "",
        ),
    ];
    for (schema, keyword, pointer) in table {
        match prepare(&schema) {
            Err(ConstraintError::Unsupported {
                keyword: k,
                pointer: p,
                message,
            }) => {
                assert_eq!((k.as_str(), p.as_str()), (keyword, pointer), "{schema}");
                assert!(!message.is_empty());
            }
            other => panic!("{schema}: {other:?}"),
        }
    }
}

#[test]
fn malformed_schemas_are_invalid_with_their_place() {
    let table = [
        (
            json!("string"),
            "the root: a schema must be an object or a boolean",
        ),
        (
            json!({"items": {"type": "strin"}}),
            "/items/type: \"strin\" is not a type; types are null, boolean, number, integer, string, array, object",
        ),
        (
            json!({"anyOf": {}}),
            "/anyOf: it must be an array of schemas",
        ),
        (
            json!({"properties": []}),
            "/properties: it must be an object of schemas",
        ),
        (json!({"enum": 1}), "/enum: it must be an array"),
        (json!({"minimum": "1"}), "/minimum: it must be a number"),
        (json!({"pattern": 1}), "/pattern: it must be a string"),
        (json!({"$ref": 1}), "/$ref: it must be a string"),
    ];
    for (schema, message) in table {
        let error = prepare(&schema).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the schema is invalid at {message}")
        );
    }
}
