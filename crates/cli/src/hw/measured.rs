//! The measurement that is kept between calls, and the inner loops it times.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hardware::measure::{self, BandwidthPoint, Busy, ComputePoint, Measured, Workload, Workloads};
use hardware::{Machine, Root, Sensors};
use kernels::Isa;
use kernels::attention::{Attention, CacheRows, CacheType, Queries, Scratch, attend};
use kernels::matmul::{self, Operands, Products, WeightType};
use serde_json::{Value, json};

use super::{Known, Source, rates};
use crate::trial;

/// Counts up when what is measured changes.
const VERSION: u64 = 2;
/// Bytes of the file that keeps it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The kept measurement if it is of the same cores under the same limits, else a new one,
/// which is kept unless the machine was busy or hot. What went wrong is told in words.
pub(super) fn get(
    root: &Root,
    machine: &Machine,
    file: Option<&Path>,
    anew: bool,
) -> Result<Known, String> {
    let key = key_of_build(machine);
    if !anew && let Some(known) = file.and_then(|file| read(file, &key)) {
        return Ok(known);
    }
    // As a worker would.
    worker::allow_huge_pages();
    let isa = Isa::best();
    let int8 = move || int8_products(isa);
    let f32 = move || f32_attention(isa);
    let workloads = [
        Workload {
            name: "int8",
            operations: int8_operations(),
            make: &int8,
        },
        Workload {
            name: "f32",
            operations: f32_operations(),
            make: &f32,
        },
    ];
    let kernels = rates::Kernels::of(isa, machine);
    let workloads = Workloads {
        machine: &workloads,
        kernels: &kernels.workloads(),
    };
    let measured = measure::measure(root, machine, workloads).map_err(|error| error.to_string())?;
    if let Some(file) = file
        && !measured.busy.was_busy()
        && !trial::is_hot(&Sensors::read(root))
        && let Err(error) = write(file, &key, &measured)
    {
        let file = file.display();
        crate::output::say(&format!("the measurement is not kept in `{file}`: {error}"));
    }
    Ok(Known {
        measured,
        source: Source::Now,
    })
}

/// The measurement of this very machine that an earlier call has kept.
pub(super) fn kept(machine: &Machine, file: &Path) -> Option<Measured> {
    Some(read(file, &key_of_build(machine))?.measured)
}

/// Kernels differ between builds.
fn key_of_build(machine: &Machine) -> String {
    format!("{}; {}", key(machine), worker::build())
}

/// What the figures depend on.
pub(crate) fn key(machine: &Machine) -> String {
    let cores = &machine.plan.decode.cpus;
    let mut governors: Vec<&str> = machine
        .processor
        .cpus
        .iter()
        .filter(|cpu| cores.contains(cpu.id))
        .filter_map(|cpu| cpu.governor.as_deref())
        .collect();
    governors.sort_unstable();
    governors.dedup();
    let quota = machine.limits.quota_milli_cpus;
    let quota = quota.map_or("none".to_owned(), |milli| milli.to_string());
    // Memory clocks have governors too, and a folder of caches may be shared by several boxes.
    let clocks = machine.sensors.clocks.iter();
    let clocks: Vec<_> = clocks
        .map(|clock| {
            format!(
                "{} {}",
                clock.device,
                clock.governor.as_deref().unwrap_or("-")
            )
        })
        .collect();
    let board = machine.surroundings.model.as_deref().unwrap_or("unnamed");
    let total = machine.memory.total.unwrap_or_default();
    format!(
        "{VERSION}; {board}; {}; {total} of memory; cores {cores}; governor {}; clocks {}; quota \
         {quota}; {}",
        machine.processor.name(),
        governors.join("+"),
        clocks.join("+"),
        Isa::best()
    )
}

fn now_secs() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn write(file: &Path, key: &str, measured: &Measured) -> std::io::Result<()> {
    let value = json!({
        "key": key,
        "at_unix_secs": now_secs(),
        "measured": as_json(measured),
    });
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = tempfile::NamedTempFile::new_in(folder)?;
    fs::write(new.path(), format!("{value:#}\n"))?;
    new.persist(file)?;
    Ok(())
}

/// What is kept; `None` where there is none, or of another key, or it cannot be read.
fn read(file: &Path, key: &str) -> Option<Known> {
    if fs::metadata(file).ok()?.len() > FILE_BYTES_MAX {
        return None;
    }
    let value: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    if value["key"] != key {
        return None;
    }
    Some(Known {
        measured: of_json(&value["measured"])?,
        source: Source::Kept {
            age_secs: now_secs().saturating_sub(value["at_unix_secs"].as_u64()?),
        },
    })
}

/// The measurement as it is shown and kept.
pub(super) fn as_json(measured: &Measured) -> Value {
    let Busy {
        others_percent,
        stolen_percent,
        load_a_cpu,
    } = measured.busy;
    let bandwidth = measured.bandwidth.iter().map(|point| {
        json!({
            "cores": point.n_cores,
            "best_gb_per_second": point.best_gb_per_second,
            "median_gb_per_second": point.median_gb_per_second,
            "rounds": point.n_rounds,
        })
    });
    let points = |points: &[ComputePoint]| {
        let each = points.iter().map(|point| {
            json!({
                "name": point.name,
                "cores": point.n_cores,
                "best_giga_per_second": point.best_giga_per_second,
                "median_giga_per_second": point.median_giga_per_second,
            })
        });
        each.collect::<Vec<_>>()
    };
    json!({
        "cores": measured.cores.to_string(),
        "bandwidth": bandwidth.collect::<Vec<_>>(),
        "compute": points(&measured.compute),
        "kernels": points(&measured.kernels),
        "buffer_bytes": measured.buffer.0,
        "pinned": measured.is_pinned,
        "busy": {
            "others_percent": others_percent,
            "stolen_percent": stolen_percent,
            "load_a_cpu": load_a_cpu,
        },
        "seconds": measured.seconds,
    })
}

fn of_json(value: &Value) -> Option<Measured> {
    let count = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let bandwidth = value["bandwidth"].as_array()?.iter().map(|point| {
        Some(BandwidthPoint {
            n_cores: count(&point["cores"])?,
            best_gb_per_second: point["best_gb_per_second"].as_f64()?,
            median_gb_per_second: point["median_gb_per_second"].as_f64()?,
            n_rounds: count(&point["rounds"])?,
        })
    });
    let points = |points: &Value| {
        let each = points.as_array()?.iter().map(|point| {
            Some(ComputePoint {
                name: point["name"].as_str()?.to_owned(),
                n_cores: count(&point["cores"])?,
                best_giga_per_second: point["best_giga_per_second"].as_f64()?,
                median_giga_per_second: point["median_giga_per_second"].as_f64()?,
            })
        });
        each.collect::<Option<Vec<_>>>()
    };
    let busy = &value["busy"];
    Some(Measured {
        cores: value["cores"].as_str()?.parse().ok()?,
        bandwidth: bandwidth.collect::<Option<_>>()?,
        compute: points(&value["compute"])?,
        kernels: points(&value["kernels"])?,
        buffer: stdx::Bytes(value["buffer_bytes"].as_u64()?),
        is_pinned: value["pinned"].as_bool()?,
        busy: Busy {
            others_percent: busy["others_percent"].as_f64(),
            stolen_percent: busy["stolen_percent"].as_f64(),
            load_a_cpu: busy["load_a_cpu"].as_f64(),
        },
        seconds: value["seconds"].as_f64()?,
    })
}

const K: usize = 1024;
/// Panels that stay in a core's own cache: 16 of 17 KiB.
const PANELS: usize = 16;
const INT8_TYPE: WeightType = WeightType::Q8_0;

pub(crate) fn int8_operations() -> f64 {
    (2 * PANELS * matmul::PANEL_ROWS * matmul::TILE_COLUMNS * K) as f64
}

/// The product that prefill consists of: panels of 8-bit weights by a full tile.
pub(crate) fn int8_products(isa: Isa) -> Box<dyn FnMut()> {
    let columns = matmul::TILE_COLUMNS;
    let panel_bytes = INT8_TYPE.panel_bytes(K);
    let weights = vec![0x11; panel_bytes * PANELS];
    let values = vec![0.5; K];
    let slices = vec![values.as_slice(); columns];
    let mut tile = vec![0; matmul::tile_bytes(columns, K)];
    matmul::quantize_tile(isa, &slices, &mut tile);
    let mut out = vec![0f32; columns * matmul::PANEL_ROWS];
    Box::new(move || {
        for panel in weights.chunks_exact(panel_bytes) {
            let operands = Operands {
                weight_type: INT8_TYPE,
                panel,
                tile: &tile,
                columns,
                k: K,
            };
            let rows = matmul::PANEL_ROWS;
            matmul::multiply(isa, &operands, Products::new(&mut out, rows, rows, columns));
        }
        std::hint::black_box(&out);
    })
}

const POSITIONS: usize = 32;
const CELLS: usize = 512;
const HEAD: usize = 64;

fn f32_operations() -> f64 {
    // Keys and values, a multiplication and an addition each.
    (4 * POSITIONS * CELLS * HEAD) as f64
}

/// Attention of a prompt's share over a short cache.
fn f32_attention(isa: Isa) -> Box<dyn FnMut()> {
    let row_bytes = CacheType::F32.row_bytes(HEAD).unwrap_or(0);
    // Small numbers in 32 bits.
    let cache = vec![0x3a; CELLS * row_bytes];
    let queries = vec![0.1; POSITIONS * HEAD];
    let mut scratch = Scratch::new();
    let mut output = vec![0.0; POSITIONS * HEAD];
    Box::new(move || {
        let rows = || CacheRows {
            kind: CacheType::F32,
            data: &cache,
            stride_bytes: row_bytes,
            head_size: HEAD,
        };
        let problem = Attention {
            queries: Queries {
                data: &queries,
                positions: POSITIONS,
                heads: 1,
                position_stride: HEAD,
                head_stride: HEAD,
            },
            keys: rows(),
            values: rows(),
            cells: CELLS,
            mask: None,
            scale: 0.125,
            softcap: 0.0,
            slopes: None,
            sinks: None,
        };
        let mut places = output.chunks_exact_mut(HEAD);
        attend(isa, &problem, &mut scratch, |_| {
            places.next().unwrap_or_default()
        });
        std::hint::black_box(&output);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_under_its_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sextant/hardware.json");
        let measured = Measured {
            cores: "4-7".parse().unwrap(),
            bandwidth: vec![BandwidthPoint {
                n_cores: 1,
                best_gb_per_second: 10.5,
                median_gb_per_second: 9.25,
                n_rounds: 3,
            }],
            compute: vec![ComputePoint {
                name: "int8".into(),
                n_cores: 4,
                best_giga_per_second: 300.0,
                median_giga_per_second: 299.5,
            }],
            kernels: vec![ComputePoint {
                name: "decode Q4_K".into(),
                n_cores: 4,
                best_giga_per_second: 80.5,
                median_giga_per_second: 79.25,
            }],
            buffer: stdx::Bytes::mib(64),
            is_pinned: true,
            busy: Busy {
                others_percent: Some(1.5),
                stolen_percent: None,
                load_a_cpu: Some(0.25),
            },
            seconds: 0.75,
        };
        assert!(read(&file, "key").is_none());
        write(&file, "key", &measured).unwrap();
        assert_eq!(read(&file, "key").unwrap().measured, measured);
        assert!(read(&file, "other").is_none());
        for broken in ["", "{", "{\"key\": \"key\"}", "[1]"] {
            fs::write(&file, broken).unwrap();
            assert!(read(&file, "key").is_none(), "{broken}");
        }
    }

    #[test]
    fn the_loops_run_on_every_set_of_instructions() {
        for isa in Isa::available() {
            int8_products(isa)();
            f32_attention(isa)();
        }
    }
}
