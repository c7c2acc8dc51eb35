//! Machines and places with something wrong, each with what must be said of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use doctor::{
    Class, Clock, Demand, Descriptors, Finding, Folder, FolderState, Gpu, Holder, OnGpu, Place,
    Port, Use, in_order, of_demand, of_machine, of_place, of_program,
};
use hardware::storage::{self, Storage};
use hardware::warning::Context;
use hardware::{Machine, Recording, Root};
use stdx::Bytes;

/// 2026-11-01.
const NOW: u64 = 1_793_491_200;

/// A machine of the crate that reads them, with lines that replace its own.
fn root(board: &str, lines: &str) -> Root {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hardware/fixtures");
    let text = match board {
        "" => String::new(),
        board => std::fs::read_to_string(fixtures.join(format!("{board}.txt"))).unwrap(),
    };
    Root::recorded(Recording::parse(&format!("{text}\n{lines}")).unwrap())
}

fn machine(board: &str, lines: &str) -> Machine {
    Machine::read(&root(board, lines))
}

fn on(board: &str, lines: &str) -> Vec<Finding> {
    of_machine(&machine(board, lines), &Context::default())
}

fn demand(gib: u64, kv_gib: u64) -> Demand<'static> {
    Demand {
        model: "big",
        weights: Bytes(gib * Bytes::GIB),
        kv: Bytes(kv_gib * Bytes::GIB),
        other: Bytes::mib(192),
        context: 8192,
        context_max: None,
        gpu_layers: None,
        gpu: Gpu::NoBackEnd,
        on_card: Bytes(0),
        memory_max: None,
    }
}

/// A card of 8 GiB, and a model whose 33 layers would take 10 there.
const CARD: OnGpu<'_> = OnGpu {
    name: "Radeon RX 7600",
    room: Bytes(8 * Bytes::GIB),
    need: Bytes(10 * Bytes::GIB),
    fitting: 24,
    layers: 33,
};

/// It takes 8 of 10 GiB there.
fn on_card(gpu_layers: Option<u32>, card: OnGpu<'static>) -> Demand<'static> {
    Demand {
        gpu_layers,
        gpu: Gpu::Usable(card),
        on_card: Bytes(8 * Bytes::GIB),
        ..demand(9, 1)
    }
}

fn folder(used_for: Use) -> Folder {
    Folder {
        path: "/srv/sextant".into(),
        there: "/srv/sextant".into(),
        used_for,
        state: FolderState::Writable,
        free: Some(Bytes(50 * Bytes::GIB)),
        storage: None,
    }
}

fn of_one(folder: Folder) -> Vec<Finding> {
    of_place(&Place {
        folders: vec![folder],
        ..Place::default()
    })
}

fn of_port(holder: Option<Holder>) -> Vec<Finding> {
    let address = "127.0.0.1:11460".parse().unwrap();
    of_place(&Place {
        port: Some(Port { address, holder }),
        ..Place::default()
    })
}

fn program(name: &str) -> Holder {
    Holder {
        pid: 77,
        program: name.to_owned(),
    }
}

fn of_clock(now_unix_s: u64, hardware_unix_s: Option<u64>) -> Vec<Finding> {
    of_place(&Place {
        clock: Some(Clock {
            now_unix_s,
            hardware_unix_s,
            written_unix_s: Some(NOW),
        }),
        ..Place::default()
    })
}

fn network() -> Option<Storage> {
    let mounts = "/proc/self/mountinfo:\n\
                  | 21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                  | 40 21 0:40 / /srv rw - nfs4 box:/srv rw\n";
    storage::of_folder(&root("", mounts), Path::new("/srv/sextant"))
}

type Found = fn() -> Vec<Finding>;

/// What is wrong, what finds it, and the code, the class and a word of the fix.
#[rustfmt::skip]
fn machines() -> Vec<(&'static str, Found, &'static str, Class, &'static str)> {
    use Class::{Configuration, Runtime};
    vec![
        ("a board without the NPU's driver",
            || on("", "/proc/device-tree/compatible:\n| radxa,rock-5b-plus\n| rockchip,rk3588\n"),
            "npu_driver_missing", Runtime, "vendor's kernel"),
        ("the mainline driver",
            || on("", "/sys/class/accel/accel0/device/uevent = DRIVER=rocket\n/dev/accel/accel0 node\n"),
            "mainline_npu_driver", Runtime, "vendor's kernel"),
        ("an NPU that this user may not open",
            || on("", "/sys/module/rknpu/version = 0.9.8\n/dev/rknpu denied\n"),
            "node_denied", Runtime, "usermod"),
        ("an old driver of the NPU",
            || on("", "/sys/module/rknpu/version = 0.9.6\n/dev/rknpu node\n"),
            "old_npu_driver", Runtime, "0.9.8"),
        ("little memory in one piece",
            || on("", "/sys/module/rknpu/version = 0.9.8\n/dev/rknpu node\n/proc/meminfo:\n| CmaTotal: 65536 kB\n"),
            "small_cma", Runtime, "cma="),
        ("a hot board",
            || on("rock-5b-plus", "/sys/class/thermal/thermal_zone0/temp = 84000\n"),
            "hot_zone", Runtime, "cool"),
        ("a board with a weak supply",
            || on("raspberry-pi-5", "/sys/class/hwmon/hwmon1/in0_lcrit_alarm = 1\n"),
            "under_voltage", Runtime, "power supply"),
        ("a board whose firmware lowers clocks by heat",
            || on("raspberry-pi-5", "/sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled = e0008\n"),
            "clocks_lowered", Runtime, "fan"),
        ("a governor that keeps clocks low",
            || on("jetson-orin-nano", "/sys/devices/system/cpu/cpu{0-5}/cpufreq/scaling_governor = powersave\n"),
            "slow_governor", Runtime, "performance"),
        ("swapping",
            || on("", "/proc/meminfo:\n| MemTotal: 8000000 kB\n| SwapTotal: 2000000 kB\n| SwapFree: 500000 kB\n/proc/swaps:\n| Filename Type Size Used Priority\n| /dev/sda2 partition 2000000 1500000 -2\n"),
            "swap_in_use", Runtime, "swapoff"),
        ("little cores in use",
            || {
                let context = Context { threads: Some(8), ..Context::default() };
                of_machine(&machine("rock-5b-plus", ""), &context)
            },
            "little_cores_used", Configuration, "threads = 4"),
        ("a GPU whose driver does not answer",
            || on("", "/sys/bus/pci/devices/0000:01:00.0/vendor = 0x10de\n/sys/bus/pci/devices/0000:01:00.0/class = 0x030000\n/sys/class/drm/card0/device/vendor = 0x10de\n/sys/class/drm/card0/device/class = 0x030000\n"),
            "gpu_silent", Runtime, "driver"),
        ("less memory than the model needs",
            || of_demand(&demand(40, 1), &machine("rock-5b-plus", "")),
            "memory_short", Runtime, "smaller model"),
        ("less memory than the context needs",
            || of_demand(&demand(4, 60), &machine("rock-5b-plus", "")),
            "memory_short", Runtime, "context = "),
        ("memory that others have",
            || of_demand(&demand(4, 1), &machine("", "/proc/meminfo:\n| MemTotal: 16000000 kB\n| MemAvailable: 3000000 kB\n")),
            "memory_busy", Runtime, "end what is not needed"),
        ("a control group with less than the model needs",
            || of_demand(&demand(40, 0), &machine("container-cgroup-v2", "")),
            "memory_short", Runtime, "smaller model"),
        ("a GPU with too little memory",
            || of_demand(&on_card(None, CARD), &machine("rock-5b-plus", "")),
            "vram_short", Runtime, "slower memory"),
        ("more layers for a GPU than it has memory for",
            || of_demand(&on_card(Some(33), CARD), &machine("rock-5b-plus", "")),
            "vram_short", Runtime, "gpu_layers = 24"),
        ("layers for a GPU that is not there",
            || of_demand(&Demand { gpu: Gpu::NoDevice, gpu_layers: Some(99), ..demand(1, 0) }, &machine("rock-5b-plus", "")),
            "gpu_layers_ignored", Configuration, "driver"),
        ("a control group that slows what the model needs",
            || of_demand(&demand(3, 0), &machine("container-cgroup-v2", "/sys/fs/cgroup/memory.high = 2147483648\n")),
            "memory_short", Runtime, "MemoryHigh="),
        ("less memory for models than this one needs",
            || of_demand(&Demand { memory_max: Some(Bytes::mib(2048)), ..demand(4, 1) }, &machine("rock-5b-plus", "")),
            "memory_short", Runtime, "raise `model_memory_max`"),
        ("layers for a GPU that the program cannot use",
            || of_demand(&Demand { gpu: Gpu::NoBackEnd, gpu_layers: Some(99), ..demand(1, 0) }, &machine("rock-5b-plus", "")),
            "gpu_layers_ignored", Configuration, "as a provider"),
        ("a program of another machine",
            || of_program(&["avx512f", "avx2"], &machine("intel-i7-1360p-laptop", "").processor),
            "cpu_features_missing", Runtime, "make build"),
        ("a program for any machine",
            || of_program(&[], &machine("intel-i7-1360p-laptop", "").processor),
            "cpu_features_unused", Runtime, "make build"),
    ]
}

/// What files of RKLLM are for, where they are read, and what machines are told to be.
#[test]
fn the_chips_of_rkllm_are_those_of_the_machines() {
    let chips = hardware::npu::ROCKCHIP.iter().filter(|chip| chip.has_rkllm);
    let chips: Vec<_> = chips.map(|chip| chip.name).collect();
    assert_eq!(chips, models::rkllm::PLATFORMS);
}

#[rustfmt::skip]
fn places() -> Vec<(&'static str, Found, &'static str, Class, &'static str)> {
    use Class::{Configuration, Runtime};
    vec![
        ("a port that another program has", || of_port(Some(program("nginx"))),
            "port_taken", Runtime, "kill 77"),
        ("a port that another user has", || of_port(None),
            "port_taken", Runtime, "sudo ss"),
        ("another Sextant", || of_port(Some(program("sextant"))),
            "already_serving", Runtime, "sextant ps"),
        ("a disk that is full",
            || of_one(Folder { free: Some(Bytes::mib(3)), ..folder(Use::Data) }),
            "disk_full", Runtime, "data_dir"),
        ("a disk that is nearly full",
            || of_one(Folder { free: Some(Bytes::mib(300)), ..folder(Use::Models) }),
            "disk_nearly_full", Runtime, "models_dir"),
        ("a folder of another user",
            || of_one(Folder { state: FolderState::Denied, ..folder(Use::Data) }),
            "folder_not_writable", Configuration, "chown"),
        ("a folder that takes no changes",
            || of_one(Folder { state: FolderState::ReadOnly, ..folder(Use::Data) }),
            "folder_not_writable", Configuration, "mount"),
        ("a file in a folder's place",
            || of_one(Folder { state: FolderState::File("/srv".into()), ..folder(Use::Data) }),
            "folder_is_file", Configuration, "data_dir"),
        ("a cache on a network",
            || of_one(Folder { storage: network(), ..folder(Use::Cache) }),
            "folder_on_network", Configuration, "XDG_CACHE_HOME"),
        ("a clock that starts in 1970", || of_clock(86_400 * 30, None),
            "clock_off", Runtime, "timedatectl"),
        ("a clock behind the other", || of_clock(NOW, Some(NOW + 86_400 * 40)),
            "clock_off", Runtime, "timedatectl"),
        ("a clock behind its own files", || of_clock(NOW - 86_400 * 9, None),
            "clock_off", Runtime, "timedatectl"),
        ("few files",
            || of_place(&Place {
                descriptors: Some(Descriptors { soft_max: 256, hard_max: 4096, connections_max: 1024 }),
                ..Place::default()
            }),
            "descriptors_few", Runtime, "ulimit -n 1088"),
    ]
}

#[test]
fn every_broken_environment_is_told_apart() {
    let cases = [machines(), places()].concat();
    assert!(cases.len() >= 15);
    let mut page = String::new();
    for (name, find, code, class, fix) in cases {
        let findings = find();
        let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
        let finding = findings.iter().find(|finding| finding.code == code);
        let finding = finding.unwrap_or_else(|| panic!("{name}: found {codes:?}"));
        assert_eq!(finding.class, class, "{name}");
        assert!(finding.fix.contains(fix), "{name}: {}", finding.fix);
        page.push_str(&format!("{name}\n  {}: {finding}\n", finding.code));
    }
    insta::assert_snapshot!(page);
}

#[test]
fn what_is_in_order_is_not_told() {
    let place = Place {
        folders: vec![folder(Use::Data), folder(Use::Cache), folder(Use::Models)],
        port: None,
        clock: Some(Clock {
            now_unix_s: NOW,
            // Without a battery it says nothing.
            hardware_unix_s: Some(5),
            written_unix_s: Some(NOW + 60),
        }),
        descriptors: Some(Descriptors {
            soft_max: 4096,
            hard_max: 4096,
            connections_max: 1024,
        }),
    };
    assert_eq!(of_place(&place), []);
    let board = machine("rock-5b-plus", "");
    assert_eq!(of_demand(&demand(4, 1), &board), []);
    // A small card is of no account to a program that cannot use it.
    let card = "/sys/class/drm/card0/device/vendor = 0x1002\n\
                /sys/class/drm/card0/device/device = 0x744c\n\
                /sys/class/drm/card0/device/mem_info_vram_total = 1000000000\n";
    let without = demand(4, 1);
    assert_eq!(of_demand(&without, &machine("rock-5b-plus", card)), []);
    // Nor to a model that fits there, or is kept from it.
    let roomy = OnGpu {
        room: CARD.need,
        ..CARD
    };
    for demand in [
        on_card(None, roomy),
        on_card(Some(33), roomy),
        on_card(Some(0), CARD),
    ] {
        assert_eq!(of_demand(&demand, &board), []);
    }
    let compiled: Vec<_> = board.processor.features.clone();
    assert_eq!(of_program(&compiled, &board.processor), []);
    // Of a processor that nobody knows nothing is said.
    assert_eq!(of_program(&["avx2"], &machine("", "").processor), []);
    // What may be lost is no fault.
    let cache = of_one(Folder {
        state: FolderState::Denied,
        ..folder(Use::Cache)
    });
    assert_eq!(cache[0].severity, doctor::Severity::Warning);
}

#[test]
fn findings_are_told_once_and_the_worst_first() {
    let mut all = of_port(None);
    all.extend(of_port(None));
    all.extend(of_clock(0, None));
    all.splice(0..0, of_clock(0, None));
    let codes: Vec<_> = in_order(all).iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["port_taken", "clock_off"]);
}
