//! Has calls of `ggml_new_tensor_3d` arrive in `llama::layer_types`. Cargo passes a flag of the
//! linker to the targets of one package only, so this is the build script of every package with a
//! program that loads models. A program without it has one type for all keys and one for all
//! values, and says so.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    let mut cargo = io::stdout();
    writeln!(cargo, "cargo::rerun-if-changed=../llama/link.rs")?;
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // Linkers of ELF know the flag: GNU's, LLVM's, gold and mold. Those of Apple and Microsoft
    // do not.
    let is_elf = is("CARGO_CFG_TARGET_FAMILY", "unix") && !is("CARGO_CFG_TARGET_VENDOR", "apple");
    if is_elf {
        writeln!(cargo, "cargo::rustc-link-arg=-Wl,--wrap=ggml_new_tensor_3d")?;
    }
    Ok(())
}
