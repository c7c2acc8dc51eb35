use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn model(name: &str) -> Model {
    Model {
        name: name.into(),
        is_loaded: true,
        context: Some(4096),
        capabilities: vec![(Capability::Chat, Knowledge::Has)],
    }
}

fn provider(name: &str, reach: Reach, models: &[&str]) -> Provider {
    Provider {
        name: name.into(),
        reach,
        priority: 10,
        weight: 100,
        availability: Availability::Up,
        load: Load {
            running: 0,
            running_max: 4,
        },
        ttft: None,
        default_model: models.first().map(|name| (*name).into()),
        models: models.iter().map(|name| model(name)).collect(),
    }
}

/// The first model of a provider whose models nobody else looks at.
fn first(provider: &mut Provider) -> &mut Model {
    let models = Arc::make_mut(&mut provider.models);
    &mut models[0]
}

/// This machine, a box next door and a service, in this order of priority.
fn fleet() -> Fleet {
    let mut providers = vec![
        provider("embedded", Reach::Device, &["smol", "llama3.1:8b"]),
        provider("box", Reach::Lan, &["smol", "qwen"]),
        provider("cloud", Reach::Cloud, &["big", "qwen"]),
    ];
    for (provider, priority) in providers.iter_mut().zip([1, 2, 3]) {
        provider.priority = priority;
    }
    Fleet { providers }
}

fn ask(model: Option<&str>) -> Ask {
    Ask {
        wanted: Wanted::parse(model).unwrap(),
        limit: Limit::strictest([], Reach::Cloud),
        needs: Needs {
            capabilities: vec![Capability::Chat],
            tokens: None,
        },
        home: None,
        ticket: 7,
    }
}

fn local(mut ask: Ask) -> Ask {
    ask.limit = Limit {
        reach: Reach::Device,
        bound: Bound::Header,
    };
    ask
}

fn targets(decision: &Decision) -> Vec<String> {
    let candidates = decision.candidates.iter();
    candidates.map(|one| one.target.to_string()).collect()
}

fn excluded(decision: &Decision) -> Vec<(&str, &str)> {
    let excluded = decision.excluded.iter();
    excluded
        .map(|one| (one.provider.as_str(), one.reason.word()))
        .collect()
}

#[test]
fn a_name_goes_to_whoever_has_it_in_order_of_priority() {
    let decision = decide(&ask(Some("smol")), &fleet(), &Policy::default());
    assert_eq!(targets(&decision), ["embedded:smol", "box:smol"]);
    assert_eq!(decision.candidates[0].ahead, Some(Advantage::Priority));
    assert_eq!(excluded(&decision), [("cloud", "lacks_model")]);
}

#[test]
fn only_names_of_providers_count_before_a_colon() {
    let decision = decide(&ask(Some("llama3.1:8b")), &fleet(), &Policy::default());
    assert_eq!(targets(&decision), ["embedded:llama3.1:8b"]);
    assert_eq!(decision.route, Route::Name("llama3.1:8b".into()));
    let decision = decide(&ask(Some("box:qwen")), &fleet(), &Policy::default());
    assert_eq!(targets(&decision), ["box:qwen"]);
    assert_eq!(decision.route, Route::Explicit);
    let decision = decide(&ask(Some("cloud:")), &fleet(), &Policy::default());
    assert_eq!(targets(&decision), ["cloud:big"]);
}

#[test]
fn a_named_provider_that_is_too_far_is_refused_and_not_replaced() {
    let policy = Policy {
        fallback: vec!["embedded:smol".into()],
        ..Policy::default()
    };
    let decision = decide(&local(ask(Some("cloud:big"))), &fleet(), &policy);
    assert!(decision.candidates.is_empty());
    assert_eq!(excluded(&decision), [("cloud", "too_far")]);
    assert_eq!(
        decision.excluded[0].reason.to_string(),
        "it is in the cloud, and the request's header says `local_only`"
    );
}

#[test]
fn auto_walks_the_default_models() {
    let decision = decide(&ask(None), &fleet(), &Policy::default());
    assert_eq!(
        targets(&decision),
        ["embedded:smol", "box:smol", "cloud:big"]
    );
    let mut fleet = fleet();
    fleet.providers[0].default_model = None;
    let decision = decide(&ask(Some("auto")), &fleet, &Policy::default());
    assert_eq!(targets(&decision), ["box:smol", "cloud:big"]);
    assert_eq!(excluded(&decision), [("embedded", "no_default_model")]);
}

#[test]
fn aliases_tasks_and_fallbacks_are_lists_in_order() {
    let policy = Policy {
        aliases: BTreeMap::from([("gpt-4o".into(), vec!["qwen".into(), "cloud:big".into()])]),
        tasks: BTreeMap::from([(Task::Code, vec!["box:qwen".into()])]),
        fallback: vec!["cloud:".into()],
        ..Policy::default()
    };
    let decision = decide(&ask(Some("gpt-4o")), &fleet(), &policy);
    assert_eq!(targets(&decision), ["box:qwen", "cloud:qwen", "cloud:big"]);
    assert_eq!(decision.candidates[1].ahead, Some(Advantage::Rank));
    let decision = decide(&ask(Some("auto:code")), &fleet(), &policy);
    assert_eq!(targets(&decision), ["box:qwen"]);
    let decision = decide(&ask(Some("smol")), &fleet(), &policy);
    assert_eq!(
        targets(&decision),
        ["embedded:smol", "box:smol", "cloud:big"]
    );
    // Without a route of its own a task is `auto`.
    let decision = decide(&ask(Some("auto:deep")), &fleet(), &policy);
    assert_eq!(decision.candidates.len(), 3);
    assert_eq!(Wanted::parse(Some("auto:poetry")), None);
}

/// Two providers that are equal but for what `change` does to the second.
fn second_first(change: impl FnOnce(&mut Provider), ask: &Ask) -> (String, Option<Advantage>) {
    let mut providers = vec![
        provider("one", Reach::Lan, &["m"]),
        provider("two", Reach::Lan, &["m"]),
    ];
    for provider in &mut providers {
        provider.load.running = 1;
        provider.ttft = Some(Duration::from_millis(200));
    }
    change(&mut providers[1]);
    let decision = decide(ask, &Fleet { providers }, &Policy::default());
    let first = &decision.candidates[0];
    (first.target.provider.clone(), first.ahead)
}

#[test]
fn each_advantage_decides() {
    let ask = ask(Some("m"));
    let mut at_home = ask.clone();
    at_home.home = Some(Target {
        provider: "two".into(),
        model: "m".into(),
    });
    let two = |advantage| ("two".to_owned(), Some(advantage));
    let one = |advantage| ("one".to_owned(), Some(advantage));
    assert_eq!(second_first(|_| {}, &ask), one(Advantage::Order));
    assert_eq!(second_first(|_| {}, &at_home), two(Advantage::Home));
    assert_eq!(
        second_first(|two| two.priority = 1, &ask),
        two(Advantage::Priority)
    );
    assert_eq!(
        second_first(|two| two.load.running = 4, &at_home),
        one(Advantage::Room)
    );
    assert_eq!(
        second_first(|two| two.load.running = 0, &ask),
        two(Advantage::Idleness)
    );
    assert_eq!(
        second_first(|two| two.ttft = Some(Duration::from_millis(100)), &ask),
        two(Advantage::Latency)
    );
    assert_eq!(
        second_first(|two| two.ttft = None, &ask),
        two(Advantage::Latency)
    );
    assert_eq!(
        second_first(|two| first(two).is_loaded = false, &ask),
        one(Advantage::Loaded)
    );
    assert_eq!(
        second_first(|two| first(two).capabilities.clear(), &ask),
        one(Advantage::Certainty)
    );
    assert_eq!(
        second_first(|two| two.availability = Availability::Unknown, &ask),
        one(Advantage::Certainty)
    );
}

#[test]
fn weights_share_and_zero_keeps_only_old_conversations() {
    let mut providers = vec![
        provider("old", Reach::Lan, &["m"]),
        provider("new", Reach::Lan, &["m"]),
    ];
    providers[0].weight = 900;
    let fleet = Fleet { providers };
    let mut ask = ask(Some("m"));
    let firsts = (0..2000).filter(|ticket| {
        ask.ticket = *ticket;
        let decision = decide(&ask, &fleet, &Policy::default());
        decision.candidates[0].target.provider == "new"
    });
    // One in ten; five standard deviations either way.
    let n = firsts.count();
    assert!((133..=267).contains(&n), "{n}");

    let mut drained = fleet.clone();
    drained.providers[0].weight = 0;
    let decision = decide(&ask, &drained, &Policy::default());
    assert_eq!(targets(&decision), ["new:m"]);
    assert_eq!(excluded(&decision), [("old", "drained")]);
    ask.home = Some(Target {
        provider: "old".into(),
        model: "m".into(),
    });
    let decision = decide(&ask, &drained, &Policy::default());
    assert_eq!(targets(&decision)[0], "old:m");
}

#[test]
fn what_a_model_lacks_excludes_it() {
    let mut fleet = fleet();
    first(&mut fleet.providers[0])
        .capabilities
        .push((Capability::Tools, Knowledge::Lacks));
    first(&mut fleet.providers[1]).context = Some(100);
    let mut ask = ask(Some("smol"));
    ask.needs.capabilities.push(Capability::Tools);
    ask.needs.tokens = Some(101);
    let decision = decide(&ask, &fleet, &Policy::default());
    assert_eq!(
        excluded(&decision),
        [
            ("embedded", "lacks_capability"),
            ("box", "context_too_small"),
            ("cloud", "lacks_model")
        ]
    );
}

#[test]
fn the_strictest_limit_holds_and_says_whose_it_is() {
    let limit = |reach, bound| Limit { reach, bound };
    let strictest = Limit::strictest(
        [
            limit(Reach::Cloud, Bound::Header),
            limit(Reach::Lan, Bound::Key("phone".into())),
            limit(Reach::Lan, Bound::Rule("secrets".into())),
        ],
        Reach::Cloud,
    );
    assert_eq!(strictest, limit(Reach::Lan, Bound::Key("phone".into())));
    // Nobody widens the default.
    let wider = Limit::strictest([limit(Reach::Cloud, Bound::Header)], Reach::Device);
    assert_eq!(wider, limit(Reach::Device, Bound::Default));
}

#[test]
fn a_models_label_holds_under_every_name() {
    let policy = Policy {
        aliases: BTreeMap::from([("notes".into(), vec!["qwen".into()])]),
        auto: vec!["cloud:qwen".into()],
        model_reach: BTreeMap::from([("qwen".into(), Reach::Lan)]),
        ..Policy::default()
    };
    for name in ["qwen", "qwen:latest", "notes", "cloud:qwen", "auto"] {
        let decision = decide(&ask(Some(name)), &fleet(), &policy);
        let cloud = decision.excluded.iter().find(|one| one.provider == "cloud");
        assert_eq!(
            cloud.map(|one| one.reason.word()),
            Some("too_far"),
            "{name}"
        );
        let reaches = decision.candidates.iter().map(|one| one.reach_max);
        assert!(
            reaches.into_iter().all(|reach| reach == Reach::Lan),
            "{name}"
        );
    }
    let name = Policy::name_limit(&policy, Some("qwen:latest"));
    assert_eq!(name.map(|limit| limit.reach), Some(Reach::Lan));
    let none = decide(&ask(Some("big")), &fleet(), &policy);
    assert_eq!(targets(&none), ["cloud:big"]);
}

#[test]
fn vectors_and_tokens_do_not_fall_back_to_another_model() {
    let policy = Policy {
        fallback: vec!["cloud:big".into()],
        ..Policy::default()
    };
    let mut ask = ask(Some("nowhere"));
    assert_eq!(targets(&decide(&ask, &fleet(), &policy)), ["cloud:big"]);
    ask.needs.capabilities = vec![Capability::Embeddings];
    assert!(decide(&ask, &fleet(), &policy).candidates.is_empty());
}

#[test]
fn rules_find_secrets_and_people() {
    let rule = |name: &str, patterns: &[&str], reach| Rule {
        name: name.into(),
        patterns: patterns.iter().map(|text| (*text).into()).collect(),
        reach,
    };
    let rules = Rules::new(&[
        rule("keys", &["secrets"], Reach::Device),
        rule("people", &["pii"], Reach::Lan),
        rule("project", &["(?i)blue heron"], Reach::Device),
    ])
    .unwrap();
    let cases: &[(&str, &[&str])] = &[
        ("What is the capital of France?", &[]),
        ("port 11460, 3.14159, 2026-11-21, v1.2.3, a@b", &[]),
        ("my key is AKIAIOSFODNN7EXAMPLE, why?", &["keys"]),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", &["keys"]),
        ("sk-proj-abcdefghij0123456789xyz", &["keys"]),
        ("password = hunter2hunter2", &["keys"]),
        (r#"{"password": "hunter2hunter2"}"#, &["keys"]),
        (r#"{\"api_key\": \"hunter2hunter2\"}"#, &["keys"]),
        ("DB_PASSWORD=hunter2hunter2", &["keys"]),
        ("aws_secret_access_key = abcdefghijkl", &["keys"]),
        (r"first\nAKIAIOSFODNN7EXAMPLE\nlast", &["keys"]),
        ("密AKIAIOSFODNN7EXAMPLE", &["keys"]),
        ("The password must have 8 characters.", &[]),
        ("call +1 (555) 123-4567", &["people"]),
        ("write to jane.doe@example.org", &["people"]),
        ("call +41 44 668 18 00", &["people"]),
        ("IBAN CH93 0076 2011 6238 5295 7", &["people"]),
        ("card 4111 1111 1111 1111", &["people"]),
        ("ssn 078-05-1120 of Blue Heron", &["people", "project"]),
    ];
    for (text, names) in cases {
        let found: Vec<_> = rules.limits(&[text]).map(|limit| limit.bound).collect();
        let wanted: Vec<_> = names
            .iter()
            .map(|name| Bound::Rule((*name).into()))
            .collect();
        assert_eq!(found, wanted, "{text}");
    }
    let error = Rules::new(&[rule("odd", &["("], Reach::Lan)]).unwrap_err();
    assert!(error.to_string().starts_with("the privacy rule `odd`"));
}

#[test]
fn policies_are_checked() {
    let with = |alias: &str, targets: &[&str]| Policy {
        aliases: BTreeMap::from([
            (
                alias.to_owned(),
                targets.iter().map(|text| (*text).into()).collect(),
            ),
            ("other".into(), vec!["m".into()]),
        ]),
        ..Policy::default()
    };
    assert_eq!(with("a", &["m"]).check(), Ok(()));
    assert!(matches!(
        with("a", &[]).check(),
        Err(PolicyError::Empty { .. })
    ));
    let nested = with("a", &["other"]).check();
    assert!(matches!(nested, Err(PolicyError::Nested { .. })));
    let reserved = with("auto:x", &["m"]).check();
    assert!(matches!(reserved, Err(PolicyError::Reserved { .. })));
}

#[test]
fn a_breaker_opens_tries_and_closes() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut standing = Standing::default();
    let failed = Outcome::Failed {
        cause: "status 500".into(),
    };
    for _ in 0..FAILURES_MAX - 1 {
        standing.ended(&failed, at(0));
    }
    assert_eq!(standing.availability(at(0)), Availability::Unknown);
    standing.ended(&failed, at(0));
    let broken = |pause| Availability::Broken {
        cause: "status 500".into(),
        pause,
    };
    assert_eq!(standing.availability(at(0)), broken(BREAKER_PAUSE));
    // Half open: one request tries, others stay away meanwhile.
    assert_eq!(standing.availability(at(5)), Availability::Unknown);
    standing.sent(at(5));
    assert_eq!(standing.availability(at(5)), broken(Duration::ZERO));
    standing.ended(&failed, at(6));
    assert_eq!(standing.availability(at(6)), broken(BREAKER_PAUSE * 2));
    standing.sent(at(16));
    standing.ended(&Outcome::Nothing, at(17));
    standing.sent(at(18));
    standing.ended(&Outcome::Answered, at(19));
    assert_eq!(standing.availability(at(19)), Availability::Up);
}

#[test]
fn who_limits_its_rate_rests_and_who_is_gone_is_down() {
    let now = Instant::now();
    let mut standing = Standing::default();
    let limited = |seconds| Outcome::RateLimited {
        retry_after: Some(Duration::from_secs(seconds)),
    };
    standing.ended(&limited(30), now);
    standing.ended(&limited(5), now);
    let pause = Duration::from_secs(30);
    assert_eq!(standing.availability(now), Availability::Cooling { pause });
    assert_eq!(standing.availability(now + pause), Availability::Unknown);
    standing.ended(&limited(u64::MAX), now);
    let pause = COOLING_MAX;
    assert_eq!(standing.availability(now), Availability::Cooling { pause });
    let cause = "connection refused".to_owned();
    standing.ended(
        &Outcome::Unreachable {
            cause: cause.clone(),
        },
        now,
    );
    assert_eq!(standing.availability(now), Availability::Down { cause });
    standing.looked_at(Ok(()));
    assert_eq!(standing.availability(now + COOLING_MAX), Availability::Up);
}

const CAPABILITIES: [Capability; 4] = [
    Capability::Chat,
    Capability::Tools,
    Capability::JsonSchema,
    Capability::Vision,
];

fn any_model() -> impl Strategy<Value = Model> {
    let knowledge = prop::option::of(prop_oneof![Just(Knowledge::Has), Just(Knowledge::Lacks)]);
    (
        "[a-d]",
        any::<bool>(),
        prop::option::of(0_u32..200),
        prop::collection::vec(knowledge, CAPABILITIES.len()),
    )
        .prop_map(|(name, is_loaded, context, known)| Model {
            name,
            is_loaded,
            context,
            capabilities: CAPABILITIES
                .into_iter()
                .zip(known)
                .filter_map(|(capability, known)| Some((capability, known?)))
                .collect(),
        })
}

fn any_availability() -> impl Strategy<Value = Availability> {
    let cause = || String::from("some cause");
    let pause = Duration::from_secs(3);
    prop_oneof![
        3 => Just(Availability::Up),
        2 => Just(Availability::Unknown),
        1 => Just(Availability::Down { cause: cause() }),
        1 => Just(Availability::Broken { cause: cause(), pause }),
        1 => Just(Availability::Cooling { pause }),
    ]
}

fn any_reach() -> impl Strategy<Value = Reach> {
    prop::sample::select(Reach::ALL.to_vec())
}

fn any_fleet() -> impl Strategy<Value = Fleet> {
    let one = (
        any_reach(),
        (0_u32..3, 0_u32..3, 0_u32..4, 0_u32..4),
        any_availability(),
        prop::option::of(0_u64..50),
        prop::option::of("[a-d]"),
        prop::collection::vec(any_model(), 0..4),
    );
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let providers = all.into_iter().enumerate();
        let providers = providers.map(
            |(index, (reach, numbers, availability, ttft, default_model, models))| Provider {
                name: format!("p{index}"),
                reach,
                priority: numbers.0,
                weight: numbers.1,
                availability,
                load: Load {
                    running: numbers.2,
                    running_max: numbers.3,
                },
                ttft: ttft.map(Duration::from_millis),
                default_model,
                models: models.into(),
            },
        );
        Fleet {
            providers: providers.collect(),
        }
    })
}

fn any_name() -> impl Strategy<Value = String> {
    "(p[0-5]:)?[a-d]|p[0-5]:"
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let list = || prop::collection::vec(any_name(), 0..3);
    (list(), list(), list()).prop_map(|(aliased, auto, fallback)| Policy {
        aliases: BTreeMap::from([("alias".into(), aliased.clone())]),
        tasks: BTreeMap::from([(Task::Code, aliased)]),
        auto,
        fallback,
        model_reach: BTreeMap::new(),
    })
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let wanted = prop_oneof![
        any_name().prop_map(Some),
        Just(Some("alias".to_owned())),
        Just(Some("auto:code".to_owned())),
        Just(None),
    ];
    (
        wanted,
        any_reach(),
        prop::sample::subsequence(CAPABILITIES.to_vec(), 0..3),
        prop::option::of(0_u32..200),
        prop::option::of(("p[0-5]", "[a-d]")),
        any::<u64>(),
    )
        .prop_map(|(wanted, reach, capabilities, tokens, home, ticket)| Ask {
            wanted: Wanted::parse(wanted.as_deref()).unwrap(),
            limit: Limit {
                reach,
                bound: Bound::Header,
            },
            needs: Needs {
                capabilities,
                tokens,
            },
            home: home.map(|(provider, model)| Target { provider, model }),
            ticket,
        })
}

#[test]
fn who_is_taken_out_is_told_and_the_others_keep_their_order() {
    let mut fleet = fleet();
    // So that different things tell the candidates apart.
    fleet.providers[1].priority = 1;
    fleet.providers[1].load.running = 4;
    for provider in &mut fleet.providers {
        provider.models = Arc::new([model("smol")]);
    }
    let decision = decide(&ask(Some("smol")), &fleet, &Policy::default());
    let ahead = |decision: &Decision| -> Vec<Option<Advantage>> {
        let candidates = decision.candidates.iter();
        candidates.map(|candidate| candidate.ahead).collect()
    };
    let (room, priority) = (Some(Advantage::Room), Some(Advantage::Priority));
    assert_eq!(ahead(&decision), [room, priority, None]);
    let without = |name: &str| {
        let mut decision = decision.clone();
        decision.exclude(|candidate| {
            let is_out = candidate.target.provider == name;
            is_out.then(|| Exclusion::NotAllowed { key: "k".into() })
        });
        decision
    };
    for (name, left, reasons) in [
        ("embedded", ["box:smol", "cloud:smol"], [priority, None]),
        ("box", ["embedded:smol", "cloud:smol"], [priority, None]),
        ("cloud", ["embedded:smol", "box:smol"], [room, None]),
    ] {
        let decision = without(name);
        assert_eq!(targets(&decision), left);
        assert_eq!(ahead(&decision), reasons);
        let excluded = decision.excluded.last().unwrap();
        assert_eq!(
            (excluded.provider.as_str(), excluded.model.as_deref()),
            (name, Some("smol"))
        );
        assert_eq!(excluded.reason.word(), "not_allowed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// The rules a candidate must keep, said a second time and without the code's order.
    #[test]
    fn nobody_is_picked_who_must_not_be(
        ask in any_ask(),
        fleet in any_fleet(),
        policy in any_policy(),
    ) {
        let decision = decide(&ask, &fleet, &policy);
        let mut seen = Vec::new();
        for candidate in &decision.candidates {
            let provider = fleet.provider(&candidate.target.provider).unwrap();
            prop_assert!(provider.reach <= ask.limit.reach);
            prop_assert!(matches!(
                provider.availability,
                Availability::Up | Availability::Unknown
            ));
            let mut models = provider.models.iter();
            let model = models.find(|model| model.name == candidate.target.model).unwrap();
            for need in &ask.needs.capabilities {
                prop_assert_ne!(model.knowledge(*need), Some(Knowledge::Lacks));
            }
            if let (Some(tokens), Some(context)) = (ask.needs.tokens, model.context) {
                prop_assert!(tokens <= context);
            }
            let is_home = ask.home.as_ref() == Some(&candidate.target);
            prop_assert!(provider.weight > 0 || is_home);
            prop_assert!(!seen.contains(&&candidate.target));
            seen.push(&candidate.target);
        }
        // Ranks and, within them, priorities only go up.
        let keys: Vec<_> = decision.candidates.iter().map(|candidate| {
            let provider = fleet.provider(&candidate.target.provider).unwrap();
            (candidate.rank, provider.priority)
        }).collect();
        prop_assert!(keys.is_sorted());
        // Who is too far is told with nothing but that.
        for one in &decision.excluded {
            let provider = fleet.provider(&one.provider).unwrap();
            let is_too_far = matches!(one.reason, Exclusion::TooFar { .. });
            prop_assert_eq!(is_too_far, provider.reach > ask.limit.reach);
        }
        prop_assert_eq!(&decision, &decide(&ask, &fleet, &policy));
    }
}
