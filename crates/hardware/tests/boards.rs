//! Every recorded machine reads as what it is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use hardware::gpu::GpuMemory;
use hardware::root::Access;
use hardware::storage::StorageKind;
use hardware::surroundings::Container;
use hardware::warning::{self, Context, Warning};
use hardware::{CoreKind, Machine, Recording, Root, Tier, storage};

/// What a machine must read as.
struct Board {
    name: &'static str,
    tier: Tier,
    processor: &'static str,
    /// `big CPUS, n cores, MHz`, a line a cluster.
    clusters: &'static [&'static str],
    /// Cores to compute on.
    cores: &'static str,
    last_level_mib: u64,
    gpu: &'static str,
    npu: &'static str,
    /// Of `/`, `/models` being another mount in one of them.
    storage: &'static str,
    warnings: &'static [&'static str],
}

const BOARDS: &[Board] = &[
    Board {
        name: "rock-5b-plus",
        tier: Tier::RockchipBoard,
        processor: "4x Cortex-A76 + 4x Cortex-A55",
        clusters: &[
            "little 0-3, 4 Cortex-A55, 1800 MHz",
            "big 4-5, 2 Cortex-A76, 2400 MHz",
            "big 6-7, 2 Cortex-A76, 2400 MHz",
        ],
        cores: "4-7",
        last_level_mib: 3,
        gpu: "Mali-G610 4 cores r0p0 0xA8670000, shared",
        npu: "rknpu 0.9.8, 3 cores, /dev/dri/renderD129 Usable",
        storage: "nvme nvme0n1",
        warnings: &["slow_governor", "slow_device_clock"],
    },
    Board {
        name: "raspberry-pi-5",
        tier: Tier::ArmBoard,
        processor: "4x Cortex-A76",
        clusters: &["big 0-3, 4 Cortex-A76, 2400 MHz"],
        cores: "0-3",
        last_level_mib: 2,
        gpu: "VideoCore, shared",
        npu: "",
        storage: "sd card mmcblk0",
        warnings: &["slow_governor", "slow_storage"],
    },
    Board {
        name: "jetson-orin-nano",
        tier: Tier::NvidiaUnified,
        processor: "6x Cortex-A78AE",
        clusters: &[
            "big 0-3, 4 Cortex-A78AE, 1728 MHz",
            "big 4-5, 2 Cortex-A78AE, 1728 MHz",
        ],
        cores: "0-5",
        last_level_mib: 4,
        gpu: "Orin (nvgpu), shared",
        npu: "",
        storage: "nvme nvme0n1",
        warnings: &[],
    },
    Board {
        name: "intel-i7-1360p-laptop",
        tier: Tier::Laptop,
        processor: "13th Gen Intel(R) Core(TM) i7-1360P",
        clusters: &[
            "big 0-7, 4 cores, 5000 MHz",
            "little 8-15, 8 cores, 3700 MHz",
        ],
        cores: "0,2,4,6",
        last_level_mib: 18,
        gpu: "Intel 8086:a7a0, shared",
        npu: "",
        storage: "nvme nvme0n1",
        warnings: &["channels_unknown"],
    },
    Board {
        name: "epyc-7r13-numa",
        tier: Tier::NumaServer,
        processor: "AMD EPYC 7R13 48-Core Processor",
        clusters: &["big 0-191, 96 cores, 2650 MHz"],
        cores: "0-95",
        last_level_mib: 512,
        gpu: "",
        npu: "",
        storage: "hard disk sda",
        warnings: &["several_nodes", "slow_storage"],
    },
    Board {
        name: "gb10",
        tier: Tier::NvidiaUnified,
        processor: "10x Cortex-X925 + 10x Cortex-A725",
        clusters: &[
            "little 0-4,10-14, 10 Cortex-A725, 2860 MHz",
            "big 5-9,15-19, 10 Cortex-X925, 4004 MHz",
        ],
        cores: "5-9,15-19",
        last_level_mib: 24,
        gpu: "NVIDIA GB10, shared",
        npu: "",
        storage: "nvme nvme0n1",
        warnings: &[],
    },
    Board {
        name: "strix-halo",
        tier: Tier::AmdUnified,
        processor: "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S",
        clusters: &["big 0-31, 16 cores, 5187 MHz"],
        cores: "0-15",
        last_level_mib: 64,
        gpu: "AMD Strix Halo, shared, maps 108000 MiB",
        npu: "amdxdna ?, ? cores, /dev/accel/accel0 Denied",
        storage: "nvme nvme0n1",
        warnings: &["node_denied"],
    },
    Board {
        name: "kvm-guest",
        tier: Tier::VirtualMachine,
        processor: "AMD EPYC",
        clusters: &["big 0-1, 2 cores, ? MHz"],
        cores: "0-1",
        last_level_mib: 32,
        gpu: "",
        npu: "",
        storage: "virtual disk vda",
        warnings: &[],
    },
    Board {
        name: "container-cgroup-v2",
        tier: Tier::Workstation,
        processor: "AMD Ryzen 7 5700G with Radeon Graphics",
        clusters: &["big 0-15, 8 cores, 4673 MHz"],
        cores: "0-2",
        last_level_mib: 16,
        gpu: "NVIDIA GeForce RTX 3060, 12288 MiB",
        npu: "",
        storage: "network nas:/models",
        warnings: &[
            "swap_in_use",
            "quota_below_cores",
            "group_below_available",
            "channels_unknown",
            "slow_storage",
        ],
    },
    Board {
        name: "container-cgroup-v1",
        tier: Tier::Workstation,
        processor: "AMD Ryzen 7 5700G with Radeon Graphics",
        clusters: &["big 0-15, 8 cores, 4673 MHz"],
        cores: "0",
        last_level_mib: 16,
        gpu: "NVIDIA device, ? + AMD Cezanne, shared, maps 16000 MiB",
        npu: "",
        storage: "unknown overlay",
        warnings: &[
            "slow_governor",
            "swap_in_use",
            "node_denied",
            "gpu_silent",
            "quota_below_cores",
            "group_below_available",
            "channels_unknown",
        ],
    },
];

fn path(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    fixtures.join(format!("{name}.txt"))
}

fn root(name: &str) -> Root {
    Root::open(&path(name)).unwrap()
}

/// The machine with some lines more, which stand before those of the recording.
fn with(name: &str, lines: &str) -> Machine {
    let text = std::fs::read_to_string(path(name)).unwrap() + lines;
    Machine::read(&Root::recorded(Recording::parse(&text).unwrap()))
}

fn clusters(machine: &Machine) -> Vec<String> {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
    let clusters = machine.processor.clusters.iter().map(|cluster| {
        let kind = match cluster.kind {
            CoreKind::Big => "big",
            CoreKind::Little => "little",
        };
        let part = cluster.part.map_or("cores".to_owned(), |part| part.name());
        let mhz = or_unknown(cluster.max_khz.map(|khz| (khz / 1000).to_string()));
        let (cpus, n_cores) = (&cluster.cpus, cluster.n_cores);
        format!("{kind} {cpus}, {n_cores} {part}, {mhz} MHz")
    });
    clusters.collect()
}

fn gpus(machine: &Machine) -> String {
    let mib = |bytes: stdx::Bytes| bytes.0 >> 20;
    let gpus = machine.gpus.iter().map(|gpu| {
        let memory = match gpu.memory {
            GpuMemory::Own { total, .. } => format!("{} MiB", mib(total)),
            GpuMemory::Shared {
                mapped: Some(mapped),
                ..
            } => format!("shared, maps {} MiB", mib(mapped)),
            GpuMemory::Shared { .. } => "shared".to_owned(),
            GpuMemory::Unknown => "?".to_owned(),
        };
        format!("{}, {memory}", gpu.name)
    });
    gpus.collect::<Vec<_>>().join(" + ")
}

fn npus(machine: &Machine) -> String {
    let npus = machine.npus.iter().map(|npu| {
        let version = npu.driver_version.as_deref().unwrap_or("?");
        let cores = npu.n_cores.map_or("?".to_owned(), |n| n.to_string());
        let (node, access) = npu.node.clone().unwrap();
        format!(
            "{} {version}, {cores} cores, {node} {access:?}",
            npu.kind.name()
        )
    });
    npus.collect::<Vec<_>>().join(" + ")
}

#[test]
fn every_board_reads_as_what_it_is() {
    for board in BOARDS {
        let name = board.name;
        let root = root(name);
        let machine = Machine::read(&root);
        assert_eq!(machine.tier, board.tier, "{name}");
        assert_eq!(machine.processor.name(), board.processor, "{name}");
        assert_eq!(clusters(&machine), board.clusters, "{name}");
        assert_eq!(machine.plan.decode.cpus.to_string(), board.cores, "{name}");
        let last = machine.processor.last_level_bytes().unwrap();
        assert_eq!(last.0 >> 20, board.last_level_mib, "{name}");
        assert_eq!(gpus(&machine), board.gpu, "{name}");
        assert_eq!(npus(&machine), board.npu, "{name}");
        let folder = match name {
            "container-cgroup-v2" => "/models/gguf",
            _ => "/home/somebody/models",
        };
        let storage = storage::of_folder(&root, Path::new(folder)).unwrap();
        let told = format!("{} {}", storage.kind.name(), storage.device);
        assert_eq!(told, board.storage, "{name}");
        let context = Context {
            threads: None,
            storage: Some(storage),
        };
        let warnings = warning::warnings(&machine, &context);
        let codes: Vec<_> = warnings.iter().map(|warning| warning.code()).collect();
        assert_eq!(codes, board.warnings, "{name}");
        for warning in warnings {
            assert!(!warning.message().is_empty() && !warning.fix().is_empty());
        }
    }
}

#[test]
fn every_recording_is_in_the_table_and_names_its_sources() {
    let mut names: Vec<_> = std::fs::read_dir(path("x").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    for path in &names {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("# Source"), "{}", path.display());
    }
    let names: Vec<_> = names
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap())
        .collect();
    let mut known: Vec<_> = BOARDS.iter().map(|board| board.name).collect();
    known.sort_unstable();
    assert_eq!(names, known);
}

#[test]
fn limits_of_containers_are_found_and_a_made_over_image_is_none() {
    let v2 = Machine::read(&root("container-cgroup-v2"));
    assert_eq!(v2.surroundings.container, Some(Container::Docker));
    // 8 GiB less 1 in use, of which half is cache; and a tenth kept.
    let left = 8 * 1024 - 512;
    assert_eq!(v2.limits.memory_left.unwrap().0 >> 20, left);
    assert_eq!(v2.budget().unwrap().0 >> 20, left - left / 10);
    assert_eq!(v2.limits.quota_milli_cpus, Some(3500));
    assert_eq!(v2.plan.usable.to_string(), "0-11");
    let v1 = Machine::read(&root("container-cgroup-v1"));
    assert_eq!(v1.surroundings.container, Some(Container::Docker));
    assert_eq!(v1.limits.memory_max.unwrap().0, 4 << 30);
    assert_eq!(v1.limits.quota_milli_cpus, Some(1500));
    let guest = Machine::read(&root("kvm-guest"));
    assert_eq!(guest.surroundings.container, None);
    assert_eq!(guest.limits.memory_max, None);
    assert_eq!(guest.limits.quota_milli_cpus, None);
}

#[test]
fn what_could_not_be_read_is_told() {
    let laptop = Machine::read(&root("intel-i7-1360p-laptop"));
    let paths: Vec<_> = laptop.unread.iter().map(|unread| &unread.path).collect();
    assert_eq!(paths, ["/sys/class/powercap/intel-rapl:0/energy_uj"]);
    assert!(!laptop.sensors.power[0].readable);
    let jetson = Machine::read(&root("jetson-orin-nano"));
    let meter = &jetson.sensors.power[0];
    assert_eq!(meter.name, "VDD_IN");
    assert!((meter.watts.unwrap() - 5.599).abs() < 0.001);
}

const PI_FIRMWARE: &str =
    "/sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";

/// The firmware's word, bit by bit, and what follows from it.
#[test]
fn the_firmware_of_a_raspberry_pi_is_understood() {
    use hardware::sensors::Throttle::{FrequencyCapped, SoftTemperature, Throttled, UnderVoltage};
    let read = |lines: &str| with("raspberry-pi-5", lines);
    let word = |word: &str| read(&format!("{PI_FIRMWARE} = {word}\n"));
    let told = |machine: &Machine| {
        let warnings = warning::warnings(machine, &Context::default());
        let of_it = warnings
            .iter()
            .filter(|one| matches!(one.code(), "under_voltage" | "clocks_lowered"));
        let told = of_it.map(|one| format!("{} {:?}: {}", one.code(), one.severity(), one.fix()));
        told.collect::<Vec<_>>()
    };
    assert!(told(&word("0")).is_empty());
    let all = word("f000f").sensors.throttling.unwrap();
    let four = [UnderVoltage, FrequencyCapped, Throttled, SoftTemperature];
    assert_eq!((all.now, all.since_start), (four.to_vec(), four.to_vec()));

    // Capped for want of voltage: the supply, twice. Since the start only: the same, as a note.
    let now = told(&word("0x50007"));
    assert_eq!(now.len(), 2, "{now:?}");
    assert!(
        now.iter()
            .all(|line| line.contains("Warning") && line.contains("5 A")),
        "{now:?}"
    );
    let before = told(&word("70000"));
    assert!(before[0].starts_with("under_voltage Warning"), "{before:?}");
    assert!(before[1].starts_with("clocks_lowered Note"), "{before:?}");
    // Heat: cooling, and the tuner waits.
    let hot = word("e");
    assert!(hot.sensors.is_throttled_by_heat());
    assert!(told(&hot)[0].contains("fan"), "{:?}", told(&hot));
    assert!(!word("e0000").sensors.is_throttled_by_heat());

    // Other places of the same, and what is no word.
    let older = "/sys/devices/platform/soc/soc:firmware/get_throttled = 1\n";
    let older = Machine::read(&Root::recorded(Recording::parse(older).unwrap()));
    assert_eq!(older.sensors.throttling.unwrap().now, [UnderVoltage]);
    let silent = Machine::read(&root("rock-5b-plus"));
    assert_eq!(silent.sensors.throttling, None);
    let odd = "/sys/devices/platform/soc/soc:firmware/get_throttled = nothing\n";
    let odd = Machine::read(&Root::recorded(Recording::parse(odd).unwrap()));
    assert_eq!(odd.sensors.throttling, None);
}

#[test]
fn changes_to_a_board_change_its_warnings() {
    let zone = "/sys/class/thermal/thermal_zone0/temp = 84100\n";
    let cpu = "/sys/devices/system/cpu";
    let cases = [
        ("rock-5b-plus", zone, "hot_zone"),
        (
            "rock-5b-plus",
            "/proc/meminfo:\n| MemTotal: 24571508 kB\n| CmaTotal: 65536 kB\n",
            "small_cma",
        ),
        (
            "rock-5b-plus",
            "/sys/module/rknpu/version = 0.9.6\n",
            "old_npu_driver",
        ),
        (
            "rock-5b-plus",
            "/dev/dri/renderD129 denied\n",
            "node_denied",
        ),
        (
            "rock-5b-plus",
            "/sys/class/accel/accel0/device/uevent = DRIVER=rocket\n",
            "mainline_npu_driver",
        ),
        (
            "rock-5b-plus",
            "/proc/self/status:\n| Cpus_allowed_list:\t0-3\n",
            "only_little_cores",
        ),
        // Throttled and capped by heat, now; under-voltage only before.
        (
            "raspberry-pi-5",
            &format!("{PI_FIRMWARE} = 1000e\n"),
            "clocks_lowered",
        ),
        (
            "raspberry-pi-5",
            &format!("{PI_FIRMWARE} = 50000\n"),
            "under_voltage",
        ),
        (
            "raspberry-pi-5",
            "/sys/class/hwmon/hwmon1/in0_lcrit_alarm = 1\n",
            "under_voltage",
        ),
        (
            "raspberry-pi-5",
            "/proc/cpuinfo:\n| Features : fp asimd crc32\n",
            "no_dot_products",
        ),
        (
            "strix-halo",
            "/sys/class/drm/card1/device/mem_info_gtt_total = 67150000000\n",
            "mapped_below_memory",
        ),
        (
            "intel-i7-1360p-laptop",
            &format!("{cpu}/cpu{{0-15}}/cpufreq/scaling_driver = acpi-cpufreq\n"),
            "slow_governor",
        ),
        (
            "intel-i7-1360p-laptop",
            "/sys/devices/system/edac/mc/mc0/dimm0/size = 16384\n\
             /sys/devices/system/edac/mc/mc0/dimm0/dimm_location = channel 0 slot 0 \n\
             /sys/devices/system/edac/mc/mc0/dimm1/size = 0\n\
             /sys/devices/system/edac/mc/mc0/dimm1/dimm_location = channel 1 slot 0 \n",
            "one_memory_channel",
        ),
        (
            "intel-i7-1360p-laptop",
            "/proc/cpuinfo:\n| flags : fpu sse sse2 ssse3\n",
            "no_dot_products",
        ),
    ];
    for (name, lines, code) in cases {
        let has = |machine: &Machine| {
            let warnings = warning::warnings(machine, &Context::default());
            warnings.iter().any(|warning| warning.code() == code)
        };
        assert!(!has(&Machine::read(&root(name))), "{name}: {code} before");
        assert!(has(&with(name, lines)), "{name}: no {code}");
    }
}

/// What looks like a fault and is none.
#[test]
fn what_is_as_it_should_be_is_not_warned_of() {
    let node = "/sys/devices/system/node/node";
    let fake: String = (0..4)
        .map(|n| {
            format!("{node}{n}/cpulist = 0-3\n{node}{n}/meminfo = Node {n} MemTotal: 2000000 kB\n")
        })
        .collect();
    let codes = |machine: &Machine| -> Vec<_> {
        let warnings = warning::warnings(machine, &Context::default());
        warnings.iter().map(Warning::code).collect()
    };
    // One memory in four equal parts.
    let board = with("raspberry-pi-5", &fake);
    assert_eq!(board.processor.full_nodes().count(), 1);
    assert_eq!(board.tier, Tier::ArmBoard);
    assert!(!codes(&board).contains(&"several_nodes"));
    // Firmware that counts modules and no channels.
    let edac = "/sys/devices/system/edac/mc/mc0/dimm";
    let modules = format!(
        "{edac}0/size = 16384\n{edac}0/dimm_location = memory 0 \n\
         {edac}1/size = 16384\n{edac}1/dimm_location = memory 1 \n"
    );
    let server = with("intel-i7-1360p-laptop", &modules);
    assert_eq!(server.memory.channels, None);
    assert!(!codes(&server).contains(&"one_memory_channel"));
    // A Jetson's GPU is part of the chip, with NVIDIA's library or without.
    let jetson = "/proc/device-tree/compatible:\n| nvidia,tegra234\n\
                  /sys/devices/system/cpu/online = 0-5\n";
    let jetson = Machine::read(&Root::recorded(Recording::parse(jetson).unwrap()));
    assert_eq!(jetson.tier, Tier::NvidiaUnified);
    assert_eq!(jetson.gpus[0].trouble, None);
    // Clusters of a board's chip are no packages.
    let package = "/sys/devices/system/cpu/cpu";
    let packages = format!("{package}{{0-3}}/topology/physical_package_id = {{}}\n");
    assert_eq!(with("raspberry-pi-5", &packages).processor.n_packages(), 1);
}

#[test]
fn graphics_with_little_memory_of_their_own_share_the_machines() {
    let device = "/sys/class/drm/card0/device";
    let gpu = |id: &str, vram: u64, gtt: u64| {
        let text = format!(
            "{device}/vendor = 0x1002\n{device}/device = {id}\n\
             {device}/mem_info_vram_total = {vram}\n{device}/mem_info_gtt_total = {gtt}\n"
        );
        let root = Root::recorded(Recording::parse(&text).unwrap());
        Machine::read(&root).gpus[0].memory
    };
    assert!(gpu("0x15dd", 2 << 30, 8 << 30).is_shared());
    // One that nobody has tabled.
    assert!(gpu("0x1999", 512 << 20, 8 << 30).is_shared());
    // A small card in a machine with much memory.
    assert!(!gpu("0x743f", 4 << 30, 64 << 30).is_shared());
}

/// Arm has no flag for guests.
#[test]
fn guests_of_arm_clouds_are_told_from_their_metal() {
    let dmi = "/sys/class/dmi/id";
    let tier = |vendor: &str, product: &str| {
        let text = format!(
            "/sys/devices/system/cpu/online = 0-3\n/proc/cpuinfo:\n| Features : fp asimd asimddp\n\
             {dmi}/sys_vendor = {vendor}\n{dmi}/product_name = {product}\n"
        );
        Machine::read(&Root::recorded(Recording::parse(&text).unwrap())).tier
    };
    for (vendor, product, expected) in [
        ("Amazon EC2", "c7g.large", Tier::VirtualMachine),
        ("Amazon EC2", "c7g.metal", Tier::Workstation),
        ("Google", "Google Compute Engine", Tier::VirtualMachine),
        ("QEMU", "QEMU Virtual Machine", Tier::VirtualMachine),
        ("GIGABYTE", "R272-P30-JG", Tier::Workstation),
    ] {
        assert_eq!(tier(vendor, product), expected, "{vendor} {product}");
    }
}

/// A file system over several devices has no number, and its source is a volume's name.
#[test]
fn the_disk_below_a_volume_with_a_name_is_found() {
    let text = "/proc/self/mountinfo:\n\
                | 30 1 0:28 / / rw,relatime - btrfs /dev/mapper/luks-1 rw\n\
                /dev/mapper/luks-1 -> ../dm-0\n\
                /sys/class/block/dm-0/slaves/nvme0n1p3/partition = 3\n\
                /sys/class/block/nvme0n1p3/partition = 3\n\
                /sys/class/block/nvme0n1p3 -> ../../devices/nvme0/nvme0n1/nvme0n1p3\n";
    let root = Root::recorded(Recording::parse(text).unwrap());
    let storage = storage::of_folder(&root, Path::new("/models")).unwrap();
    assert_eq!(storage.kind, StorageKind::Nvme);
    assert_eq!(storage.device, "nvme0n1");
}

#[test]
fn more_threads_than_big_cores_are_warned_of() {
    let board = Machine::read(&root("rock-5b-plus"));
    for (threads, warned) in [(4, false), (8, true)] {
        let context = Context {
            threads: Some(threads),
            storage: None,
        };
        let warnings = warning::warnings(&board, &context);
        let found = warnings
            .iter()
            .find(|warning| warning.code() == "little_cores_used");
        assert_eq!(found.is_some(), warned);
        if let Some(warning) = found {
            assert!(warning.fix().contains("threads = 4"), "{}", warning.fix());
        }
    }
}

#[test]
fn intel_hybrids_without_their_lists_are_told_by_clock() {
    let text = std::fs::read_to_string(path("intel-i7-1360p-laptop")).unwrap();
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("/sys/devices/cpu_"))
        .map(|line| format!("{line}\n"))
        .collect();
    let machine = Machine::read(&Root::recorded(Recording::parse(&text).unwrap()));
    assert_eq!(machine.plan.decode.cpus.to_string(), "0,2,4,6");
}

#[test]
fn a_third_kind_of_core_is_little_as_well() {
    let cpu = "/sys/devices/system/cpu/cpu{16-17}/topology/core_cpus_list = {}\n\
               /sys/devices/system/cpu/online = 0-17\n\
               /proc/self/status:\n| Cpus_allowed_list:\t0-17\n\
               /sys/devices/cpu_lowpower/cpus = 16-17\n";
    let machine = with("intel-i7-1360p-laptop", cpu);
    assert_eq!(machine.processor.cpus.len(), 18);
    assert_eq!(machine.plan.decode.cpus.to_string(), "0,2,4,6");
}

#[test]
fn this_machine_is_read_without_a_fault() {
    let machine = Machine::read(&Root::live());
    assert!(!machine.processor.cpus.is_empty());
    assert!(machine.memory.total.is_some());
    assert!(machine.plan.threads() >= 1);
    for gpu in &machine.gpus {
        assert!(
            gpu.node
                .as_ref()
                .is_none_or(|(_, access)| *access != Access::Absent)
        );
    }
}

#[test]
fn a_reading_that_was_kept_reads_the_same() {
    for board in BOARDS {
        let root = root(board.name);
        let folder = tempfile::tempdir().unwrap();
        unfold(
            &std::fs::read_to_string(path(board.name)).unwrap(),
            folder.path(),
        );
        let live = Root::folder(folder.path()).keeping();
        let read = Machine::read(&live);
        let again = Root::recorded(Recording::parse(&live.kept().to_string()).unwrap());
        assert_eq!(Machine::read(&again), read, "{}", board.name);
        // As a folder it is what it is as a recording, but for what only users who are not
        // root are denied.
        let recorded = Machine::read(&root);
        assert_eq!(read.processor, recorded.processor, "{}", board.name);
        assert_eq!(read.limits, recorded.limits, "{}", board.name);
        assert_eq!(read.tier, recorded.tier, "{}", board.name);
    }
}

/// The recording as a folder of files.
fn unfold(text: &str, folder: &Path) {
    let plain = Recording::parse(text).unwrap().to_string();
    let mut open: Option<PathBuf> = None;
    let mut content = String::new();
    let mut links = Vec::new();
    for line in plain.lines().chain([""]) {
        if let Some(line) = line.strip_prefix('|') {
            content += line.strip_prefix(' ').unwrap_or(line);
            content.push('\n');
            continue;
        }
        if let Some(path) = open.take() {
            std::fs::write(path, std::mem::take(&mut content)).unwrap();
        }
        let below = |path: &str| {
            let path = folder.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        if let Some((path, target)) = line.split_once(" -> ") {
            links.push((below(path), target));
        } else if let Some(path) = line.strip_suffix(" node") {
            std::fs::write(below(path), "").unwrap();
        } else if let Some(path) = line.strip_suffix(':') {
            open = Some(below(path));
        }
    }
    for (path, target) in links {
        // One with files below its name stays a folder.
        if !path.exists() {
            std::os::unix::fs::symlink(target, path).unwrap();
        }
    }
}
