//! Which scope a key needs for a route. The table stands beside the routes' own
//! (`routes::router`); a test holds the two together.

use store::Scope;

/// What a key needs for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Not even a key.
    Nothing,
    /// Any key.
    Key,
    Scope(Scope),
}

/// Every route with what it needs.
pub(crate) const ROUTES: [(&str, Need); 58] = [
    ("/health", Need::Nothing),
    ("/", Need::Nothing),
    ("/assets/{*path}", Need::Nothing),
    ("/api/chats", Need::Key),
    ("/api/chats/{id}", Need::Key),
    ("/api/chats/{id}/stop", Need::Key),
    ("/api/chats/{id}/messages/{message}/events", Need::Key),
    ("/ready", Need::Key),
    ("/openapi.json", Need::Key),
    ("/api/version", Need::Key),
    ("/v1/chat/completions", Need::Scope(Scope::Chat)),
    ("/v1/completions", Need::Scope(Scope::Chat)),
    ("/v1/responses", Need::Scope(Scope::Chat)),
    ("/v1/responses/{id}", Need::Scope(Scope::Chat)),
    ("/v1/responses/{id}/input_items", Need::Scope(Scope::Chat)),
    ("/v1/responses/input_tokens", Need::Scope(Scope::Chat)),
    ("/v1/messages", Need::Scope(Scope::Chat)),
    ("/v1/messages/count_tokens", Need::Scope(Scope::Chat)),
    ("/v1/route", Need::Scope(Scope::Chat)),
    ("/api/chat", Need::Scope(Scope::Chat)),
    ("/api/generate", Need::Scope(Scope::Chat)),
    ("/api/chats/{id}/messages", Need::Scope(Scope::Chat)),
    ("/tokenize", Need::Scope(Scope::Chat)),
    ("/detokenize", Need::Scope(Scope::Chat)),
    ("/apply-template", Need::Scope(Scope::Chat)),
    ("/v1/embeddings", Need::Scope(Scope::Embeddings)),
    ("/v1/rerank", Need::Scope(Scope::Embeddings)),
    ("/v1/reranking", Need::Scope(Scope::Embeddings)),
    ("/rerank", Need::Scope(Scope::Embeddings)),
    ("/api/embed", Need::Scope(Scope::Embeddings)),
    ("/api/embeddings", Need::Scope(Scope::Embeddings)),
    ("/v1/models", Need::Scope(Scope::Models)),
    ("/v1/models/{*id}", Need::Scope(Scope::Models)),
    ("/v1/providers", Need::Scope(Scope::Models)),
    ("/api/tags", Need::Scope(Scope::Models)),
    ("/api/ps", Need::Scope(Scope::Models)),
    ("/api/show", Need::Scope(Scope::Models)),
    ("/api/plan", Need::Scope(Scope::Models)),
    ("/api/events", Need::Scope(Scope::Models)),
    ("/api/machine", Need::Scope(Scope::Models)),
    ("/api/library", Need::Scope(Scope::Models)),
    ("/props", Need::Scope(Scope::Models)),
    ("/slots", Need::Scope(Scope::Metrics)),
    ("/metrics", Need::Scope(Scope::Metrics)),
    ("/api/telemetry", Need::Scope(Scope::Metrics)),
    ("/api/telemetry/notes", Need::Scope(Scope::Admin)),
    ("/api/telemetry/notes/{id}", Need::Scope(Scope::Admin)),
    ("/api/pull", Need::Scope(Scope::Admin)),
    ("/api/delete", Need::Scope(Scope::Admin)),
    ("/api/doctor", Need::Scope(Scope::Admin)),
    ("/api/logs", Need::Scope(Scope::Admin)),
    ("/hosts/{name}/{*path}", Need::Scope(Scope::Admin)),
    ("/v1/audit", Need::Scope(Scope::Admin)),
    ("/v1/providers/discovered", Need::Scope(Scope::Admin)),
    ("/admin/reload", Need::Scope(Scope::Admin)),
    ("/admin/models", Need::Scope(Scope::Admin)),
    ("/admin/models/load", Need::Scope(Scope::Admin)),
    ("/admin/models/unload", Need::Scope(Scope::Admin)),
];

/// What a route needs. One that the table lacks is for the operator; where there is no route
/// at all, any key may hear that.
pub(crate) fn need(route: Option<&str>) -> Need {
    let Some(route) = route else {
        return Need::Key;
    };
    let mut routes = ROUTES.iter();
    let known = routes.find(|(known, _)| *known == route);
    known.map_or(Need::Scope(Scope::Admin), |(_, need)| *need)
}

impl Need {
    /// Whether requests of this kind count against a key's limits: those that models answer.
    pub(crate) const fn is_metered(self) -> bool {
        matches!(self, Self::Scope(Scope::Chat | Scope::Embeddings))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The first argument of each `.route(` in the source of the routes.
    fn routes_of_the_source() -> BTreeSet<String> {
        let source = include_str!("../routes/mod.rs");
        let calls = source.split(".route(").skip(1);
        calls
            .map(|call| call.trim_start().split('"').nth(1).unwrap().to_owned())
            .collect()
    }

    #[test]
    fn every_route_has_its_need() {
        let listed: BTreeSet<_> = ROUTES
            .iter()
            .map(|(route, _)| (*route).to_owned())
            .collect();
        assert_eq!(listed.len(), ROUTES.len(), "a route stands there twice");
        assert_eq!(listed, routes_of_the_source());
    }

    #[test]
    fn every_described_route_has_its_need() {
        let description: serde_json::Value = serde_json::from_str(&crate::openapi_json()).unwrap();
        for path in description["paths"].as_object().unwrap().keys() {
            let found = ROUTES
                .iter()
                .any(|(route, _)| route.replace("{*", "{") == *path);
            assert!(found, "{path}");
        }
    }

    /// The page says in which scope each route is.
    #[test]
    fn the_page_on_keys_has_every_route_in_its_scope() {
        let page = include_str!("../../../../docs/keys.md");
        for (route, need) in ROUTES {
            let Need::Scope(scope) = need else { continue };
            let row = format!("| `{}` |", scope.word());
            let (_, rest) = page.split_once(&row).unwrap();
            let row = rest.lines().next().unwrap();
            let named = row.split('`').filter(|part| part.starts_with('/'));
            let mut named = named.map(|named| route == named || below(route, named));
            assert!(
                named.any(|fits| fits),
                "{route} is not in the row of {}",
                scope.word()
            );
        }
    }

    fn below(route: &str, named: &str) -> bool {
        let rest = route.strip_prefix(named);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    #[test]
    fn what_is_not_listed_is_for_the_operator() {
        assert_eq!(need(Some("/new")), Need::Scope(Scope::Admin));
        assert_eq!(need(None), Need::Key);
        assert_eq!(need(Some("/health")), Need::Nothing);
    }
}
