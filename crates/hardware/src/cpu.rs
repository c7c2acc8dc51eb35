//! Cores: which there are, which are alike, what they share.
//!
//! | fact | from |
//! |---|---|
//! | CPUs in use | `/sys/devices/system/cpu/online` |
//! | threads of one core, packages | `cpu*/topology` |
//! | big and little | `cpu*/cpu_capacity`, `/sys/devices/cpu_core` and `cpu_atom`, `cpu*/cpufreq/cpuinfo_max_freq` |
//! | design of an Arm core | `cpu*/regs/identification/midr_el1`, `/proc/cpuinfo` |
//! | instructions | `flags` and `Features` of `/proc/cpuinfo` |
//! | caches, NUMA nodes | `cpu*/cache`, `/sys/devices/system/node` |

use std::collections::{BTreeMap, BTreeSet};

use stdx::Bytes;

use crate::arm::Part;
use crate::memory::kib_of;
use crate::{CpuSet, Root};

const CPUS: &str = "/sys/devices/system/cpu";
/// A core is big when it has at least this share of the best one's capacity: RK3588 has
/// 40 %, GB10 70 %, and the slower big cores of three-tier parts 88 %.
const BIG_PERCENT: u64 = 80;
/// Clock domains above which they say nothing of clusters: servers clock cores in pairs.
const DOMAINS_MAX: usize = 8;

/// The processor, all packages together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Processor {
    /// As it calls itself; Arm processors have no name.
    pub model: Option<String>,
    /// Those in use, by number.
    pub cpus: Vec<Cpu>,
    /// Cores that are alike and clocked together, the least number first.
    pub clusters: Vec<Cluster>,
    pub caches: Vec<Cache>,
    /// Instructions that matter to inference and that every CPU has, as the kernel names
    /// them.
    pub features: Vec<&'static str>,
    /// Whether a hypervisor says that it is there.
    pub is_virtual: bool,
    pub family: Family,
    pub nodes: Vec<NumaNode>,
}

/// Whose instructions it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Family {
    X86,
    Arm,
    #[default]
    Unknown,
}

/// A logical CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    pub id: u32,
    pub package: Option<u32>,
    /// The threads of its core, itself among them.
    pub siblings: CpuSet,
    pub kind: CoreKind,
    pub part: Option<Part>,
    /// What it can do, by the kernel's measure: 1,024 is the best core.
    pub capacity: Option<u64>,
    pub max_khz: Option<u64>,
    pub governor: Option<String>,
    /// Who sets the clock.
    pub clock_driver: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoreKind {
    Big,
    Little,
}

/// Cores that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub kind: CoreKind,
    pub cpus: CpuSet,
    /// Physical ones.
    pub n_cores: usize,
    pub part: Option<Part>,
    pub capacity: Option<u64>,
    pub max_khz: Option<u64>,
    pub governor: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    pub level: u32,
    pub kind: CacheKind,
    pub bytes: Bytes,
    pub cpus: CpuSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheKind {
    Data,
    Instruction,
    Unified,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    pub id: u32,
    /// None for memory without a processor.
    pub cpus: CpuSet,
    pub total: Option<Bytes>,
    /// To every node, itself 10.
    pub distances: Vec<u32>,
}

/// What is looked for among the flags, the plainest first.
const FEATURES: &[&str] = &[
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "neon",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
];

impl Processor {
    /// Reads the processor. Blocking, some dozen small files a CPU.
    #[must_use]
    pub fn read(root: &Root) -> Self {
        let info = CpuInfo::read(root);
        let mut cpus = cpus(root, &info);
        let little = little(root, &cpus);
        for cpu in &mut cpus {
            if little.contains(cpu.id) {
                cpu.kind = CoreKind::Little;
            }
        }
        Self {
            model: info.model,
            clusters: clusters(root, &cpus),
            caches: caches(root, &cpus),
            cpus,
            features: info.features,
            is_virtual: info.is_virtual,
            family: info.family,
            nodes: nodes(root),
        }
    }

    /// All CPUs in use.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// Those of big cores.
    #[must_use]
    pub fn big(&self) -> CpuSet {
        let big = self.cpus.iter().filter(|cpu| cpu.kind == CoreKind::Big);
        big.map(|cpu| cpu.id).collect()
    }

    /// Whether cores differ.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        self.cpus.iter().any(|cpu| cpu.kind == CoreKind::Little)
    }

    /// One CPU of every physical core in a set: the first of its threads that is in it.
    #[must_use]
    pub fn one_a_core(&self, within: &CpuSet) -> CpuSet {
        let firsts = self.cpus.iter().filter(|cpu| within.contains(cpu.id));
        firsts
            .filter(|cpu| cpu.siblings.and(within).first() == Some(cpu.id))
            .map(|cpu| cpu.id)
            .collect()
    }

    #[must_use]
    pub fn n_cores(&self) -> usize {
        self.one_a_core(&self.online()).len()
    }

    #[must_use]
    pub fn n_packages(&self) -> usize {
        let packages: BTreeSet<_> = self.cpus.iter().filter_map(|cpu| cpu.package).collect();
        packages.len().max(1)
    }

    /// The caches before memory, all of them together; `None` where none is known.
    #[must_use]
    pub fn last_level_bytes(&self) -> Option<Bytes> {
        let level = self.caches.iter().map(|cache| cache.level).max()?;
        let last = self.caches.iter().filter(|cache| cache.level == level);
        Some(last.map(|cache| cache.bytes).sum())
    }

    /// Nodes that have processors and memory. Of several with the same processors the first:
    /// a kernel may divide one memory into nodes (`numa=fake`), which are all equally near.
    pub fn full_nodes(&self) -> impl Iterator<Item = &NumaNode> {
        let is_full =
            |node: &&NumaNode| !node.cpus.is_empty() && node.total.is_none_or(|total| total.0 > 0);
        let nodes = self.nodes.iter().enumerate();
        let apart = nodes.filter(move |(index, node)| {
            let mut before = self.nodes.iter().take(*index).filter(is_full);
            before.all(|known| known.cpus != node.cpus)
        });
        apart.map(|(_, node)| node).filter(is_full)
    }

    /// The model, or what it is made of: `4x Cortex-A76 + 4x Cortex-A55`.
    #[must_use]
    pub fn name(&self) -> String {
        if let Some(model) = &self.model {
            return model.clone();
        }
        let mut parts: Vec<(CoreKind, String, usize)> = Vec::new();
        for cluster in &self.clusters {
            let name = cluster.part.map_or("core".to_owned(), |part| part.name());
            match parts.iter_mut().find(|(_, known, _)| *known == name) {
                Some((_, _, n_cores)) => *n_cores += cluster.n_cores,
                None => parts.push((cluster.kind, name, cluster.n_cores)),
            }
        }
        parts.sort();
        let parts: Vec<_> = parts
            .into_iter()
            .map(|(_, name, n_cores)| format!("{n_cores}x {name}"))
            .collect();
        if parts.is_empty() {
            "unknown processor".to_owned()
        } else {
            parts.join(" + ")
        }
    }
}

/// What `/proc/cpuinfo` says.
#[derive(Debug, Default)]
struct CpuInfo {
    model: Option<String>,
    parts: BTreeMap<u32, Part>,
    features: Vec<&'static str>,
    is_virtual: bool,
    family: Family,
}

impl CpuInfo {
    fn read(root: &Root) -> Self {
        let text = root.text("/proc/cpuinfo").unwrap_or_default();
        let mut info = Self::default();
        let mut cpu = 0;
        let mut implementer = None;
        let mut features: Option<BTreeSet<&str>> = None;
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match name.trim() {
                "processor" => cpu = value.parse().unwrap_or(cpu),
                "model name" if info.model.is_none() && !value.is_empty() => {
                    info.model = Some(value.to_owned());
                }
                "CPU implementer" => implementer = hex(value),
                "CPU part" => {
                    if let (Some(implementer), Some(part)) = (implementer, hex(value)) {
                        info.parts.insert(cpu, Part { implementer, part });
                    }
                }
                "flags" | "Features" => {
                    let flags: BTreeSet<&str> = value.split_whitespace().collect();
                    info.is_virtual |= flags.contains("hypervisor");
                    if name.trim() == "Features" {
                        info.family = Family::Arm;
                    } else if flags.contains("sse2") {
                        info.family = Family::X86;
                    }
                    features = Some(match features {
                        None => flags,
                        Some(known) => known.intersection(&flags).copied().collect(),
                    });
                }
                _ => {}
            }
        }
        // 32-bit Arm kernels give a processor's model; it says no more than its part.
        if !info.parts.is_empty() {
            info.model = None;
        }
        let features = features.unwrap_or_default();
        info.features = FEATURES
            .iter()
            .copied()
            .filter(|name| features.contains(name))
            .collect();
        info
    }
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn cpus(root: &Root, info: &CpuInfo) -> Vec<Cpu> {
    let set = |path: &str| root.line(path)?.parse::<CpuSet>().ok();
    let online = set(&format!("{CPUS}/online")).unwrap_or_else(|| {
        let numbered = root.numbered(CPUS, "cpu");
        numbered.into_iter().map(|(id, _)| id).collect()
    });
    // Of a chip that a device tree describes some kernels call its clusters packages.
    let is_board = root.exists("/proc/device-tree/compatible");
    let cpus = online.iter().map(|id| {
        let file = |name: &str| format!("{CPUS}/cpu{id}/{name}");
        let siblings = set(&file("topology/core_cpus_list"))
            .or_else(|| set(&file("topology/thread_siblings_list")))
            .filter(|siblings| siblings.contains(id))
            .unwrap_or_else(|| [id].into_iter().collect());
        let midr = root.line(&file("regs/identification/midr_el1"));
        let midr = midr.and_then(|text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok());
        Cpu {
            id,
            package: root
                .number(&file("topology/physical_package_id"))
                .filter(|_| !is_board),
            siblings: siblings.and(&online),
            kind: CoreKind::Big,
            part: midr
                .map(Part::of_midr)
                .or_else(|| info.parts.get(&id).copied()),
            capacity: root.number(&file("cpu_capacity")),
            max_khz: root.number(&file("cpufreq/cpuinfo_max_freq")),
            governor: root.line(&file("cpufreq/scaling_governor")),
            clock_driver: root.line(&file("cpufreq/scaling_driver")),
        }
    });
    cpus.collect()
}

/// The CPUs of little cores: those an Intel kernel calls so, else those well below the best
/// in capacity, or in clock where no capacity is known.
fn little(root: &Root, cpus: &[Cpu]) -> CpuSet {
    let set = |path: &str| root.line(path)?.parse::<CpuSet>().ok();
    let core = set("/sys/devices/cpu_core/cpus").filter(|cpus| !cpus.is_empty());
    if let (Some(_), Some(atom)) = (core, set("/sys/devices/cpu_atom/cpus")) {
        // Some have a third kind, of still lower power.
        let lowest = set("/sys/devices/cpu_lowpower/cpus").unwrap_or_default();
        return atom.iter().chain(lowest.iter()).collect();
    }
    let below = |value: fn(&Cpu) -> Option<u64>| {
        let known: Option<Vec<u64>> = cpus.iter().map(value).collect();
        let best = known?.into_iter().max().filter(|best| *best > 0)?;
        let little = cpus.iter().filter(|cpu| {
            value(cpu).is_some_and(|value| {
                u128::from(value) * 100 < u128::from(best) * u128::from(BIG_PERCENT)
            })
        });
        Some(little.map(|cpu| cpu.id).collect::<CpuSet>()).filter(|little| !little.is_empty())
    };
    below(|cpu| cpu.capacity)
        .or_else(|| below(|cpu| cpu.max_khz))
        .unwrap_or_default()
}

/// Cores with the same kind, the same design and, on Arm, a common clock.
fn clusters(root: &Root, cpus: &[Cpu]) -> Vec<Cluster> {
    let domain = |cpu: &Cpu| {
        cpu.part?;
        let path = format!("{CPUS}/cpu{}/cpufreq/related_cpus", cpu.id);
        let related: CpuSet = root.line(&path)?.parse().ok()?;
        related.first().filter(|_| related.len() > 1)
    };
    let domains: Vec<Option<u32>> = cpus.iter().map(domain).collect();
    let n_domains = domains.iter().collect::<BTreeSet<_>>().len();
    let mut groups: BTreeMap<_, Vec<&Cpu>> = BTreeMap::new();
    for (cpu, domain) in cpus.iter().zip(&domains) {
        let domain = domain.filter(|_| n_domains <= DOMAINS_MAX);
        let group = groups.entry((cpu.kind, cpu.part, domain)).or_default();
        group.push(cpu);
    }
    let mut clusters: Vec<_> = groups
        .into_iter()
        .map(|((kind, part, _), cpus)| {
            let cores: BTreeSet<_> = cpus.iter().map(|cpu| &cpu.siblings).collect();
            Cluster {
                kind,
                n_cores: cores.len(),
                part,
                capacity: cpus.iter().filter_map(|cpu| cpu.capacity).max(),
                max_khz: cpus.iter().filter_map(|cpu| cpu.max_khz).max(),
                governor: cpus.iter().find_map(|cpu| cpu.governor.clone()),
                cpus: cpus.iter().map(|cpu| cpu.id).collect(),
            }
        })
        .collect();
    clusters.sort_by_key(|cluster| cluster.cpus.first());
    clusters
}

fn caches(root: &Root, cpus: &[Cpu]) -> Vec<Cache> {
    let mut caches: Vec<Cache> = Vec::new();
    let mut known = BTreeSet::new();
    for cpu in cpus {
        let folder = format!("{CPUS}/cpu{}/cache", cpu.id);
        for (_, index) in root.numbered(&folder, "index") {
            let Some(cache) = cache(root, &index, cpu.id) else {
                continue;
            };
            if known.insert((cache.level, cache.kind, cache.cpus.clone())) {
                caches.push(cache);
            }
        }
    }
    caches.sort_by_key(|cache| (cache.level, cache.kind, cache.cpus.first()));
    caches
}

fn cache(root: &Root, folder: &str, cpu: u32) -> Option<Cache> {
    let kind = match root.line(&format!("{folder}/type"))?.as_str() {
        "Data" => CacheKind::Data,
        "Instruction" => CacheKind::Instruction,
        "Unified" => CacheKind::Unified,
        _ => return None,
    };
    let size = root.line(&format!("{folder}/size"))?;
    let (number, unit) = match size.strip_suffix('K') {
        Some(number) => (number, Bytes::KIB),
        None => (size.strip_suffix('M')?, Bytes::MIB),
    };
    let shared = root.line(&format!("{folder}/shared_cpu_list"));
    let shared = shared.and_then(|list| list.parse().ok());
    Some(Cache {
        level: root.number(&format!("{folder}/level"))?,
        kind,
        bytes: Bytes(number.parse::<u64>().ok()?.checked_mul(unit)?),
        cpus: shared.unwrap_or_else(|| [cpu].into_iter().collect()),
    })
}

fn nodes(root: &Root) -> Vec<NumaNode> {
    let folders = root.numbered("/sys/devices/system/node", "node");
    let nodes = folders.into_iter().map(|(id, folder)| {
        let cpus = root.line(&format!("{folder}/cpulist"));
        let total = root.text(&format!("{folder}/meminfo")).and_then(|text| {
            let line = text.lines().find(|line| line.contains("MemTotal:"))?;
            kib_of(line.split_once("MemTotal:")?.1)
        });
        let distances = root.line(&format!("{folder}/distance")).unwrap_or_default();
        NumaNode {
            id,
            cpus: cpus.and_then(|list| list.parse().ok()).unwrap_or_default(),
            total,
            distances: distances
                .split_whitespace()
                .map_while(|distance| distance.parse().ok())
                .collect(),
        }
    });
    nodes.collect()
}
