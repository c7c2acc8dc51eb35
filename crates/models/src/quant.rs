//! The quantisation in a file name, and which one to take when nobody says.

/// The order in which a quantisation is chosen when none is asked for: the best
/// quality for its size on small machines first, then what needs more memory,
/// then what loses more quality.
pub const PREFERENCE: [&str; 24] = [
    "Q4_K_M", "Q4_K_XL", "Q4_K_S", "Q4_K_L", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "MXFP4", "Q5_K_M",
    "Q5_K_S", "Q5_0", "Q6_K", "Q8_0", "NVFP4", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "BF16",
    "F16", "Q2_K", "IQ2_M", "F32",
];

/// The quantisation a file name ends in, in capitals: `Q4_K_M` for
/// `model-q4_k_m.gguf`. Shard numbers and prefixes such as `UD-` are ignored.
#[must_use]
pub fn of_file_name(file_name: &str) -> Option<String> {
    let stem = crate::gguf::shard_name(file_name).map_or_else(
        || {
            file_name
                .strip_suffix(".gguf")
                .unwrap_or(file_name)
                .to_owned()
        },
        |shard| shard.stem,
    );
    stem.rsplit(['-', '.', '/', ' '])
        .map(str::to_ascii_uppercase)
        .find(|part| is_quant(part))
}

/// True for names such as `Q4_K_M`, `IQ3_XXS`, `BF16`, `MXFP4_MOE`.
#[must_use]
pub fn is_quant(name: &str) -> bool {
    if matches!(name, "F16" | "F32" | "BF16" | "FP16" | "FP32") {
        return true;
    }
    if name.starts_with("MXFP4") || name.starts_with("NVFP4") {
        return true;
    }
    let digits = ["IQ", "TQ", "Q"]
        .into_iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    let Some((bits, rest)) = digits.and_then(|digits| digits.split_at_checked(1)) else {
        return false;
    };
    bits.bytes().all(|byte| byte.is_ascii_digit())
        && rest.starts_with('_')
        && rest
            .bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

/// The place of `quant` in [`PREFERENCE`]; unknown ones come last.
#[must_use]
pub fn rank(quant: Option<&str>) -> usize {
    quant
        .and_then(|quant| PREFERENCE.iter().position(|known| *known == quant))
        .unwrap_or(PREFERENCE.len())
}

/// True for files that go with a model but are none: projectors, draft heads,
/// importance matrices.
#[must_use]
pub fn is_companion(file_name: &str) -> bool {
    let name = file_name.to_ascii_lowercase();
    let starts = ["mtp-", "draft-", "eagle-", "eagle3-"];
    name.contains("mmproj")
        || name.contains("imatrix")
        || name.contains("-draft-")
        || name.contains("-draft.")
        || starts.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::{is_companion, of_file_name, rank};

    #[test]
    fn finds_the_quantisation_in_real_file_names() {
        let table = [
            ("SmolLM2-135M-Instruct.Q4_1.gguf", Some("Q4_1")),
            ("gemma-3-270m-q4_k_m.gguf", Some("Q4_K_M")),
            (
                "Qwen3-30B-A3B-UD-IQ3_XXS-00001-of-00002.gguf",
                Some("IQ3_XXS"),
            ),
            ("gpt-oss-20b-MXFP4.gguf", Some("MXFP4")),
            ("gpt-oss-20b-mxfp4_moe.gguf", Some("MXFP4_MOE")),
            ("phi-bf16.gguf", Some("BF16")),
            ("Q4_K_M/model-00001-of-00002.gguf", Some("Q4_K_M")),
            ("ternary-TQ1_0.gguf", Some("TQ1_0")),
            ("Qwen3-4B.gguf", None),
            ("quokka-Q.gguf", None),
        ];
        for (name, quant) in table {
            assert_eq!(of_file_name(name).as_deref(), quant, "{name}");
        }
    }

    #[test]
    fn companions_are_not_models() {
        for name in [
            "mmproj-model-f16.gguf",
            "model-mmproj-BF16.gguf",
            "mtp-q8.gguf",
            "Qwen-0.5B-draft-Q8_0.gguf",
            "imatrix.gguf",
        ] {
            assert!(is_companion(name), "{name}");
        }
        assert!(!is_companion("SmolLM2-135M-Instruct.Q4_1.gguf"));
    }

    #[test]
    fn unknown_quantisations_rank_last() {
        assert!(rank(Some("Q4_K_M")) < rank(Some("Q8_0")));
        assert!(rank(Some("F32")) < rank(None));
    }
}
