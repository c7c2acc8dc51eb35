//! Whatever the files say, a reading ends, and ends well.

use std::path::Path;

use hardware::warning::{self, Context};
use hardware::{Machine, Recording, Root, storage};
use proptest::prelude::*;

const FIXTURES: &[&str] = &[
    include_str!("../fixtures/rock-5b-plus.txt"),
    include_str!("../fixtures/intel-i7-1360p-laptop.txt"),
    include_str!("../fixtures/strix-halo.txt"),
    include_str!("../fixtures/container-cgroup-v1.txt"),
    include_str!("../fixtures/jetson-orin-nano.txt"),
];

/// Everything that is computed from a tree.
fn read_all(root: &Root) {
    let machine = Machine::read(root);
    let context = Context {
        threads: Some(u32::MAX),
        storage: storage::of_folder(root, Path::new("/home/somebody/models")),
    };
    for warning in warning::warnings(&machine, &context) {
        let _ = (warning.message(), warning.fix(), warning.code());
    }
    let _ = (
        machine.budget(),
        machine.plan.threads(),
        machine.processor.name(),
    );
    assert!(machine.plan.threads() >= 1);
    assert!(machine.unread.len() <= 256);
}

/// What odd kernels, drivers and file systems might say.
fn odd_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u64>().prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        Just("18446744073709551615".to_owned()),
        Just("-1".to_owned()),
        Just("0".to_owned()),
        Just(String::new()),
        Just("max 0".to_owned()),
        Just("1 0".to_owned()),
        Just("0-4095".to_owned()),
        Just("4095-0,9-1".to_owned()),
        Just("0x".to_owned()),
        Just("K".to_owned()),
        Just("18446744073709551615M".to_owned()),
        Just("\\0\\777/../..//".to_owned()),
        Just("é日本[".to_owned()),
        "[ -~]{0,60}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_values_in_the_files_of_a_board(
        board in 0..FIXTURES.len(),
        values in prop::collection::vec((any::<prop::sample::Index>(), odd_value()), 1..40),
    ) {
        let mut lines: Vec<String> = FIXTURES[board].lines().map(str::to_owned).collect();
        for (index, value) in values {
            let line = index.get_mut(&mut lines);
            *line = if line.starts_with('|') {
                // A part of a longer file: its name stays in half of the cases.
                match line.split_once(':') {
                    Some((name, _)) if value.len() % 2 == 0 => format!("{name}: {value}"),
                    _ => format!("| {value}"),
                }
            } else if let Some((path, _)) = line.split_once(" = ") {
                format!("{path} = {}", value.replace(['{', '}'], ""))
            } else if let Some((path, _)) = line.split_once(" -> ") {
                format!("{path} -> {value}")
            } else {
                continue;
            };
        }
        if let Ok(recording) = Recording::parse(&lines.join("\n")) {
            read_all(&Root::recorded(recording));
        }
    }

    #[test]
    fn any_bytes_in_the_files_of_a_folder(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 12),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let paths = [
            "proc/cpuinfo", "proc/meminfo", "proc/self/cgroup", "proc/self/mountinfo",
            "proc/self/status", "proc/swaps", "proc/device-tree/compatible",
            "sys/devices/system/cpu/online", "sys/devices/system/cpu/cpu0/cpu_capacity",
            "sys/devices/system/cpu/cpu0/cache/index0/size", "sys/class/thermal/thermal_zone0/temp",
            "sys/fs/cgroup/cpu.max",
        ];
        for (path, content) in paths.iter().zip(&contents) {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        read_all(&Root::folder(folder.path()));
    }

    #[test]
    fn any_text_as_a_recording(text in "(?s).{0,400}") {
        if let Ok(recording) = Recording::parse(&text) {
            read_all(&Root::recorded(recording));
        }
    }
}
