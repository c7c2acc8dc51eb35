//! Reranking.

use proto::{EmbeddingInput, Event, Job};
use serde_json::{Value, json};

use super::scripted::{Scripted, post};

const PATH: &str = "/v1/rerank";

fn vectors() -> Vec<Event> {
    let vectors = [
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.6, 0.8, 0.0],
        [-1.0, 0.0, 0.0],
        [0.6, 0.0, 0.8],
    ];
    vec![Event::Embeddings {
        vectors: vectors.iter().map(|vector| vector.to_vec()).collect(),
        prompt_tokens: 30,
    }]
}

fn body(extra: Value) -> String {
    let mut body =
        json!({ "query": "sea", "documents": ["a", { "text": "b", "id": 7 }, "c", "d"] });
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    body.to_string()
}

#[tokio::test]
async fn documents_come_in_the_order_of_their_scores() {
    for path in [PATH, "/v1/reranking", "/rerank"] {
        let backend = Scripted::new(vec![vectors()]);
        let answer = post(&backend, path, body(json!({}))).await.json();
        let results = answer["results"].as_array().unwrap();
        let order: Vec<_> = results.iter().map(|result| &result["index"]).collect();
        // Those alike stay in the order of the request.
        assert_eq!(order, [1, 3, 0, 2]);
        let jobs = backend.jobs.lock().unwrap();
        let Job::Embedding(job) = &jobs[0].1 else {
            panic!("{jobs:?}");
        };
        let inputs = ["sea", "a", "b", "c", "d"].map(|text| EmbeddingInput::Text(text.into()));
        assert_eq!(job.inputs, inputs);
    }
}

#[tokio::test]
async fn the_best_are_given_with_their_documents() {
    let backend = Scripted::new(vec![vectors()]);
    let wanted = json!({ "top_n": 2, "return_documents": true, "model": "tiny" });
    let answer = post(&backend, PATH, body(wanted)).await.json();
    insta::assert_json_snapshot!(answer);
    let backend = Scripted::new(vec![vectors()]);
    let all = post(&backend, PATH, body(json!({ "top_n": 99 })))
        .await
        .json();
    assert_eq!(all["results"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn another_number_of_vectors_is_an_error() {
    let backend = Scripted::new(vec![vectors()]);
    let reply = post(&backend, PATH, body(json!({ "documents": ["a"] }))).await;
    assert_eq!(reply.status, 500);
}

#[tokio::test]
async fn bad_requests_name_the_field() {
    let many = vec!["x"; 1025];
    let long = "x".repeat((64 << 10) + 1);
    let cases: [(Value, &str, &str); 11] = [
        (json!({ "query": null }), "query", "missing"),
        (json!({ "query": "" }), "query", "empty"),
        (
            json!({ "query": long }),
            "query",
            "65537 bytes; the limit is 65536",
        ),
        (json!({ "documents": null }), "documents", "missing"),
        (json!({ "documents": [] }), "documents", "empty"),
        (
            json!({ "documents": many }),
            "documents",
            "1025 documents; the limit is 1024",
        ),
        (json!({ "documents": ["a", ""] }), "documents[1]", "empty"),
        (json!({ "documents": ["a", 5] }), "documents[1]", "`5`"),
        (
            json!({ "documents": [{ "title": "a" }] }),
            "documents[0].text",
            "missing",
        ),
        (
            json!({ "documents": [{ "text": long }] }),
            "documents[0].text",
            "65537",
        ),
        (json!({ "top_n": 0 }), "top_n", "from 1"),
    ];
    for (fields, param, says) in cases {
        let backend = Scripted::idle();
        let reply = post(&backend, PATH, body(fields)).await;
        assert_eq!(reply.status, 400, "{param}");
        let error = &reply.json()["error"];
        assert_eq!(error["param"], param, "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
        assert!(backend.jobs.lock().unwrap().is_empty());
    }
}
