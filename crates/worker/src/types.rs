//! The types of the KV cache: what was asked for, and what the engine says of it.

use engine::{EngineFacts, OpenOptions};
use kv::{LayerTypes, PlanError, Pool, Request, TypePlan, Types, WindowCells};
use llama::CacheTypes;
use models::{Facts, Gguf};
use proto::{
    CacheType, FlashAttention, KvLayerFacts, LoadFailure, LoadFailureKind, LoadSpec, ModelFacts,
};

use crate::load::{UBATCH_DEFAULT, failure};

/// What is said of keys or values whose type differs from layer to layer.
const MIXED: &str = "mixed";

/// The types that were asked for: `kv_plan`, and where that leaves something open `kv_type_k` and
/// `kv_type_v`.
///
/// # Errors
/// A failure of [`LoadFailureKind::Setting`]: the plan cannot be read.
pub fn types_asked(spec: &LoadSpec) -> Result<TypePlan, LoadFailure> {
    let usual = Types::default();
    let open = Types {
        keys: spec.kv_type_k.map_or(usual.keys, cache_type),
        values: spec.kv_type_v.map_or(usual.values, cache_type),
    };
    let Some(text) = &spec.kv_plan else {
        return Ok(TypePlan::uniform(open));
    };
    TypePlan::read(text, open).map_err(|error| setting(&format!("kv_plan: {error}")))
}

/// Those of each layer of the model, if they differ.
pub(crate) fn chosen(spec: &LoadSpec, file: &Facts) -> Result<CacheTypes, LoadFailure> {
    let plan = types_asked(spec)?;
    let has_flash_attention = spec.flash_attention != Some(FlashAttention::Off);
    if let Some(types) = plan.as_uniform() {
        let values = types.values;
        if values.is_quantised() && !has_flash_attention {
            return Err(setting(&PlanError::NeedsFlash { values }.to_string()));
        }
        return Ok(CacheTypes::Uniform(types));
    }
    let headers: Result<Vec<Gguf>, _> = file.files.iter().map(|file| Gguf::open(file)).collect();
    let headers = headers.map_err(|error| setting(&error.to_string()))?;
    let model = planner::Model::read(&headers).map_err(|error| {
        setting(&format!(
            "kv_plan: the layers of this model are not known ({error}); use one type for all keys \
             and one for all values"
        ))
    })?;
    // Which layers there are, in which order, and whether the engine takes the types: sizes do
    // not matter to that.
    let request = Request {
        context: u64::from(UBATCH_DEFAULT),
        sequences: 1,
        batch: u64::from(UBATCH_DEFAULT),
        ubatch: u64::from(UBATCH_DEFAULT),
        types: plan,
        pool: Pool::Shared,
        window: WindowCells::Window,
        has_flash_attention,
        alignment: 1,
    };
    let plan =
        kv::Plan::new(&model.shape, &request).map_err(|error| setting(&error.to_string()))?;
    if !plan.is_mixed() {
        let types = plan.uniform_types().unwrap_or_default();
        return Ok(CacheTypes::Uniform(types));
    }
    if !llama::can_choose_layer_types() {
        return Err(setting(
            "kv_plan has several types, and this program was linked without `--wrap`, by which \
             layers get types of their own; use one type for all keys and one for all values",
        ));
    }
    let layers = plan.layers.iter().map(|layer| LayerTypes {
        layer: layer.layer,
        types: layer.types,
    });
    Ok(CacheTypes::Layers(layers.collect()))
}

/// Which pairs of types a GPU takes is not known here.
pub(crate) fn check_device(options: &OpenOptions) -> Result<(), LoadFailure> {
    match (&options.types, &options.offload) {
        (CacheTypes::Layers(_), Some(offload)) => {
            let gpu_layers = offload.layers;
            Err(setting(
                &PlanError::MixedOnDevice { gpu_layers }.to_string(),
            ))
        }
        _ => Ok(()),
    }
}

/// The facts with the types in force.
pub(crate) fn told(
    facts: ModelFacts,
    (spec, options): (&LoadSpec, &OpenOptions),
    engine: &EngineFacts,
) -> ModelFacts {
    let layers = match &options.types {
        CacheTypes::Uniform(types) => {
            return ModelFacts {
                kv_type_k: types.keys.to_string(),
                kv_type_v: types.values.to_string(),
                ..facts
            };
        }
        CacheTypes::Layers(_) => &engine.layers,
    };
    let side = |of: fn(&Types) -> kv::CacheType| {
        let mut types = layers.iter().map(|layer| of(&layer.types));
        let first = types.next().unwrap_or(kv::CacheType::F16);
        match types.all(|other| other == first) {
            true => first.to_string(),
            false => MIXED.to_owned(),
        }
    };
    let each = layers.iter().map(|layer| KvLayerFacts {
        layer: layer.layer,
        keys: layer.types.keys.to_string(),
        values: layer.types.values.to_string(),
        bytes: layer.keys_bytes + layer.values_bytes,
    });
    let mut kv_layers: Vec<_> = each.collect();
    kv_layers.sort_by_key(|layer| layer.layer);
    ModelFacts {
        kv_type_k: side(|types| types.keys),
        kv_type_v: side(|types| types.values),
        kv_plan: types_asked(spec).ok().map(|plan| plan.to_string()),
        kv_layers,
        ..facts
    }
}

fn setting(message: &str) -> LoadFailure {
    failure(LoadFailureKind::Setting, message.to_owned())
}

fn cache_type(cache: CacheType) -> kv::CacheType {
    match cache {
        CacheType::F32 => kv::CacheType::F32,
        CacheType::F16 => kv::CacheType::F16,
        CacheType::Bf16 => kv::CacheType::Bf16,
        CacheType::Q8_0 => kv::CacheType::Q8_0,
        CacheType::Q5_0 => kv::CacheType::Q5_0,
        CacheType::Q5_1 => kv::CacheType::Q5_1,
        CacheType::Q4_0 => kv::CacheType::Q4_0,
        CacheType::Q4_1 => kv::CacheType::Q4_1,
        CacheType::Iq4Nl => kv::CacheType::Iq4Nl,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::tiny::{self, Family};

    #[test]
    fn kv_types_are_told_as_the_setting_takes_them() {
        for known in kv::CacheType::ALL {
            let setting: CacheType = serde_json::from_value(known.name().into()).unwrap();
            assert_eq!(cache_type(setting), known);
        }
    }

    fn of(family: Family, spec: &LoadSpec) -> Result<CacheTypes, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        std::fs::write(&path, tiny::gguf(family)).unwrap();
        let file = models::diagnose(&path).unwrap();
        chosen(spec, &file).map_err(|failure| {
            assert_eq!(failure.kind, LoadFailureKind::Setting);
            failure.message
        })
    }

    fn with(plan: &str) -> LoadSpec {
        LoadSpec {
            kv_plan: Some(plan.to_owned()),
            ..LoadSpec::default()
        }
    }

    #[test]
    fn a_plan_stands_before_the_types_of_all_layers() {
        let spec = LoadSpec {
            kv_type_k: Some(CacheType::Q8_0),
            kv_type_v: Some(CacheType::Q5_0),
            ..with("v=q4_0;k[1]=f16")
        };
        let CacheTypes::Layers(layers) = of(Family::Llama, &spec).unwrap() else {
            panic!("it is mixed")
        };
        let told: Vec<_> = layers.iter().map(|one| one.types.to_string()).collect();
        assert_eq!(told, ["q8_0/q4_0", "f16/q4_0", "q8_0/q4_0"]);
        // What comes to the same in every layer needs no linker's help.
        let same = of(Family::Llama, &with("kv=q8_0;kv[1]=q8_0")).unwrap();
        assert!(matches!(same, CacheTypes::Uniform(types) if types.keys == kv::CacheType::Q8_0));
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_reason() {
        let off = |plan: &str| LoadSpec {
            flash_attention: Some(FlashAttention::Off),
            ..with(plan)
        };
        let cases = [
            (Family::Llama, with("k=q6_k"), "kv_plan: the KV type `q6_k`"),
            (Family::Llama, with("k[3]=f16"), "layers 0 to 2"),
            (Family::Lfm2, with("k[0]=q8_0"), "keeps no keys"),
            (
                Family::DeepSeek2,
                with("kv=f16;k[1]=q8_0"),
                "one vector (MLA)",
            ),
            (Family::Llama, off("q4_0"), "flash attention is off"),
            (Family::Llama, off("v[1]=q4_0"), "flash attention is off"),
        ];
        for (family, spec, told) in cases {
            let error = of(family, &spec).unwrap_err();
            assert!(error.contains(told), "{told}: {error}");
        }
    }
}
