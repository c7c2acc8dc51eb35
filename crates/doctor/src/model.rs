//! A model's files, and what is asked of them.

use std::io::ErrorKind;
use std::path::Path;

use chat::{Template, TemplateTokens};
use models::diagnose::Foreign;
use models::examine::Checksum;
use models::tokenizer::TokenizerFlaw;
use models::{ArtifactFault, Examination, Facts, Kind, architecture};

use crate::{Code, Finding};

const OTHER_CONVERSION: &str = "get another conversion of this model";

/// What is asked of a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes<'a> {
    /// Tokens of context that are configured.
    pub context: Option<u32>,
    /// A template that stands in for the file's.
    pub template: Option<&'a str>,
    pub templates: Templates,
    /// The chip of this machine, one of [`models::rkllm::PLATFORMS`].
    pub chip: Option<&'a str>,
}

/// Whether chat templates are run. They come out of a file that anybody may have made, and
/// nothing bounds the memory that one takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Templates {
    #[default]
    Run,
    Skip,
}

/// Everything that is wrong with a model's files, or with what is asked of them.
#[must_use]
pub fn of_model(examination: &Examination, wishes: &Wishes<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &examination.diagnosis {
        Err(fault) => {
            findings.push(Finding::new(code_of(fault), fault.what(), fault.fix()));
            rkllm(examination, wishes, &mut findings);
        }
        Ok(facts) => {
            architecture(facts, &mut findings);
            context(facts, wishes, &mut findings);
            template(examination, facts, wishes, &mut findings);
        }
    }
    let path = &examination.path;
    let flaws = examination.tokenizer.iter();
    findings.extend(flaws.map(|flaw| of_tokenizer(path, flaw)));
    for (file, checksum) in &examination.checksums {
        findings.extend(of_checksum(file, checksum));
    }
    findings
}

fn code_of(fault: &ArtifactFault) -> Code {
    match fault {
        ArtifactFault::NotFound { .. } => Code::FileMissing,
        ArtifactFault::Dangling { .. } => Code::LinkDangling,
        ArtifactFault::Folder { .. } => Code::IsFolder,
        ArtifactFault::NoFile { .. } => Code::NoPlainFile,
        ArtifactFault::Unreadable {
            kind: ErrorKind::PermissionDenied,
            ..
        } => Code::PermissionDenied,
        ArtifactFault::Unreadable { .. } => Code::FileUnreadable,
        ArtifactFault::Empty { .. } => Code::FileEmpty,
        ArtifactFault::WrongFormat { format, .. } => code_of_format(*format),
        ArtifactFault::BigEndian { .. } => Code::BigEndian,
        ArtifactFault::UnsupportedVersion { .. } => Code::GgufVersion,
        ArtifactFault::Truncated { .. } => Code::FileTruncated,
        ArtifactFault::UnknownTensorType { .. } => Code::TensorType,
        ArtifactFault::Corrupt { .. } => Code::Damaged,
        ArtifactFault::MissingShard { .. } => Code::ShardMissing,
        ArtifactFault::MixedShards { .. } => Code::ShardsMixed,
        ArtifactFault::ShardName { .. } => Code::ShardName,
        ArtifactFault::MissingArchitecture { .. } => Code::ArchitectureMissing,
        ArtifactFault::MissingTokenizer { .. } => Code::TokenizerMissing,
        ArtifactFault::NoWeights { .. } => Code::WeightsMissing,
        ArtifactFault::NotAModel { kind, .. } => match kind {
            Kind::Projector => Code::ProjectorAlone,
            Kind::Adapter => Code::AdapterAlone,
            Kind::ImportanceMatrix | Kind::Model => Code::ImatrixAlone,
        },
    }
}

fn code_of_format(format: Foreign) -> Code {
    match format {
        Foreign::Safetensors => Code::Safetensors,
        Foreign::Html => Code::WebPage,
        Foreign::GitLfsPointer => Code::LfsPointer,
        Foreign::Zip => Code::ZipArchive,
        Foreign::Rkllm => Code::RkllmFile,
        Foreign::Pickle => Code::Pickle,
        Foreign::OldGgml => Code::OldGgml,
        Foreign::Json => Code::JsonText,
        Foreign::Gzip => Code::GzipData,
        Foreign::Zeros => Code::ZerosOnly,
        Foreign::Unknown => Code::FormatUnknown,
    }
}

fn architecture(facts: &Facts, findings: &mut Vec<Finding>) {
    let name = &facts.architecture;
    if !architecture::is_known(name) {
        findings.push(Finding::new(
            Code::ArchitectureUnknown,
            format!(
                "`{}` is of the architecture `{name}`, which is none of the {} that the \
                 llama.cpp in this program has",
                facts.path.display(),
                architecture::all().count()
            ),
            "update this program, or serve it with a newer llama-server as a provider",
        ));
    }
}

fn context(facts: &Facts, wishes: &Wishes<'_>, findings: &mut Vec<Finding>) {
    let (Some(asked), Some(trained)) = (wishes.context, facts.context_length) else {
        return;
    };
    if u64::from(asked) > trained {
        findings.push(Finding::new(
            Code::ContextAboveTrained,
            format!(
                "`context` is {asked} tokens, and `{}` was trained for {trained}",
                facts.path.display()
            ),
            format!("set `context = {trained}` or less"),
        ));
    }
}

fn template(
    examination: &Examination,
    facts: &Facts,
    wishes: &Wishes<'_>,
    findings: &mut Vec<Finding>,
) {
    let path = facts.path.display();
    let other = "name a template that fits it with `chat_template_file`";
    let Some(source) = wishes.template.or(facts.chat_template.as_deref()) else {
        if !facts.is_embedder {
            findings.push(Finding::new(
                Code::TemplateMissing,
                format!(
                    "`{path}` has no chat template, as base models have none: chats go through \
                     ChatML"
                ),
                format!("use it for completions, or {other}"),
            ));
        }
        return;
    };
    if wishes.templates == Templates::Skip {
        return;
    }
    let tokens = TemplateTokens {
        bos: examination.bos.clone(),
        eos: examination.eos.clone(),
    };
    if let Err(error) = Template::compile(source, tokens) {
        let whose = match wishes.template {
            Some(_) => "the template of `chat_template_file`".to_owned(),
            None => format!("the template in `{path}`"),
        };
        findings.push(Finding::new(
            Code::TemplateBroken,
            format!("{whose} cannot be used, so chats go through ChatML: {error}"),
            other,
        ));
    }
}

fn of_tokenizer(path: &Path, flaw: &TokenizerFlaw) -> Finding {
    let path = path.display();
    match flaw {
        TokenizerFlaw::Unknown { model } => Finding::new(
            Code::TokenizerUnknown,
            format!(
                "`{path}` has a tokenizer of the kind `{model}`, which llama.cpp does not know"
            ),
            "update this program, or get another conversion of this model",
        ),
        TokenizerFlaw::NoTokens => Finding::new(
            Code::TokensMissing,
            format!("the tokenizer in `{path}` has no tokens (`tokenizer.ggml.tokens`)"),
            OTHER_CONVERSION,
        ),
        TokenizerFlaw::Embeddings { n_tokens, n_rows } => Finding::new(
            Code::TokensMismatched,
            format!("`{path}` has {n_tokens} tokens and {n_rows} embeddings"),
            OTHER_CONVERSION,
        ),
        TokenizerFlaw::NoMerges { model } => Finding::new(
            Code::MergesMissing,
            format!(
                "the tokenizer in `{path}` is of the kind `{model}` and has no merges \
                 (`tokenizer.ggml.merges`)"
            ),
            OTHER_CONVERSION,
        ),
        TokenizerFlaw::ShortTable {
            key,
            n_rows,
            n_tokens,
        } => Finding::new(
            Code::TokenTableShort,
            format!("`{key}` in `{path}` has {n_rows} rows for {n_tokens} tokens"),
            OTHER_CONVERSION,
        ),
        TokenizerFlaw::OutOfRange { key, id, n_tokens } => Finding::new(
            Code::SpecialTokenRange,
            format!("`{key}` in `{path}` is {id}, and there are {n_tokens} tokens"),
            format!("{OTHER_CONVERSION}; without it an answer may not know its end"),
        ),
    }
}

fn of_checksum(file: &Path, checksum: &Checksum) -> Option<Finding> {
    match checksum {
        Checksum::Differs { expected, found } => Some(Finding::new(
            Code::ChecksumDiffers,
            format!(
                "the SHA-256 of `{}` is {found}, and its store says {expected}",
                file.display()
            ),
            "delete it and pull the model again",
        )),
        Checksum::Unreadable(words) => Some(Finding::new(
            Code::FileUnreadable,
            format!("`{}` cannot be read to its end ({words})", file.display()),
            "check the disk: `sudo dmesg` and `sudo smartctl -a` tell more",
        )),
        Checksum::Unknown | Checksum::NotRead | Checksum::Matches => None,
    }
}

fn rkllm(examination: &Examination, wishes: &Wishes<'_>, findings: &mut Vec<Finding>) {
    let Some(facts) = &examination.rkllm else {
        return;
    };
    let path = examination.path.display();
    if let Some(platform) = facts.platform.filter(|one| wishes.chip != Some(one)) {
        let here = match wishes.chip {
            Some(chip) => format!("this machine has an {}", chip.to_uppercase()),
            None => "this machine has no chip that RKLLM supports".to_owned(),
        };
        findings.push(Finding::new(
            Code::RkllmPlatform,
            format!(
                "`{path}` is for the {}, and {here}",
                platform.to_uppercase()
            ),
            match wishes.chip {
                Some(chip) => format!("get the file for the {}", chip.to_uppercase()),
                None => "get the GGUF of this model".to_owned(),
            },
        ));
    }
    if let (Some(max), Some(asked)) = (facts.context_max, wishes.context)
        && u64::from(asked) > max
    {
        findings.push(Finding::new(
            Code::RkllmContext,
            format!("`context` is {asked} tokens, and `{path}` was converted for {max}"),
            format!("set `context = {max}` or less; only a new conversion raises the limit"),
        ));
    }
}
