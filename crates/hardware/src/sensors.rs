//! Temperatures, clocks of devices, and power.
//!
//! | fact | from |
//! |---|---|
//! | temperature, and where the kernel begins to slow down | `/sys/class/thermal/thermal_zone*` |
//! | clock of memory, GPU and NPU of a board | `/sys/class/devfreq` |
//! | power | `/sys/class/hwmon` (`power*`, INA3221), `/sys/class/powercap` |
//! | what a Raspberry Pi's firmware does to the clocks | `get_throttled` of its firmware's device, where the kernel has it; `in0_lcrit_alarm` of the sensor `rpi_volt` |

use crate::Root;

/// A zone is told by its `type`: the numbers change with the kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    pub name: String,
    pub celsius: f64,
    pub trips: Vec<Trip>,
}

/// Where something happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Trip {
    pub kind: TripKind,
    pub celsius: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TripKind {
    /// A fan starts.
    Active,
    /// Clocks are lowered.
    Passive,
    Hot,
    /// The machine stops.
    Critical,
}

/// The clock of a device that is no CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceClock {
    /// `dmc`, `fb000000.gpu`, `fdab0000.npu`.
    pub device: String,
    pub governor: Option<String>,
    pub hz: Option<u64>,
    pub max_hz: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PowerMeter {
    pub name: String,
    /// `None` where it only counts energy, or may not be read.
    pub watts: Option<f64>,
    pub readable: bool,
}

/// What the firmware of a Raspberry Pi finds wrong, and does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Throttle {
    /// The supply gives less than the 4.63 V that the board must have.
    UnderVoltage,
    /// The processor's clock is held below its highest.
    FrequencyCapped,
    /// The clocks are lowered.
    Throttled,
    /// The temperature above which the firmware begins to lower clocks is reached.
    SoftTemperature,
}

impl Throttle {
    /// In the order of the firmware's bits; 16 bits higher they stand for the time since the
    /// start.
    const BITS: [Self; 4] = [
        Self::UnderVoltage,
        Self::FrequencyCapped,
        Self::Throttled,
        Self::SoftTemperature,
    ];
    const SINCE_START: u32 = 16;

    /// A name for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnderVoltage => "under_voltage",
            Self::FrequencyCapped => "frequency_capped",
            Self::Throttled => "throttled",
            Self::SoftTemperature => "soft_temperature",
        }
    }

    fn of_bits(bits: u32) -> Vec<Self> {
        let set = Self::BITS.iter().enumerate();
        let set = set.filter(|(bit, _)| bits >> bit & 1 == 1);
        set.map(|(_, throttle)| *throttle).collect()
    }
}

/// What the firmware has found, now and at any time since the start. Since it tells of the
/// start only where the kernel passes its word on, that may be less than what is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Throttling {
    pub now: Vec<Throttle>,
    pub since_start: Vec<Throttle>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sensors {
    pub zones: Vec<Zone>,
    pub clocks: Vec<DeviceClock>,
    pub power: Vec<PowerMeter>,
    /// `None` where no firmware tells, as on other boards.
    pub throttling: Option<Throttling>,
}

impl Sensors {
    /// Reads all sensors. Blocking; a slow bus may take some milliseconds a sensor.
    #[must_use]
    pub fn read(root: &Root) -> Self {
        let zones = root.numbered("/sys/class/thermal", "thermal_zone");
        let mut power = Self::read_power(root);
        power.extend(powercap(root));
        Self {
            zones: zones
                .into_iter()
                .filter_map(|(_, folder)| zone(root, &folder))
                .collect(),
            clocks: clocks(root),
            power,
            throttling: throttling(root),
        }
    }

    /// The meters that tell watts. Blocking.
    #[must_use]
    pub fn read_power(root: &Root) -> Vec<PowerMeter> {
        hwmon(root)
    }

    /// Whether the firmware lowers clocks now because of the temperature.
    #[must_use]
    pub fn is_throttled_by_heat(&self) -> bool {
        let now = self.throttling.iter().flat_map(|of| &of.now);
        let mut now = now.copied();
        now.any(|throttle| throttle == Throttle::SoftTemperature)
    }
}

impl Zone {
    /// Where the clocks are lowered, or the machine stops if nothing is known of that.
    #[must_use]
    pub fn slows_at(&self) -> Option<f64> {
        let least = |kinds: &[TripKind]| {
            let trips = self.trips.iter().filter(|trip| kinds.contains(&trip.kind));
            trips.map(|trip| trip.celsius).min_by(f64::total_cmp)
        };
        least(&[TripKind::Passive, TripKind::Hot]).or_else(|| least(&[TripKind::Critical]))
    }
}

fn zone(root: &Root, folder: &str) -> Option<Zone> {
    let name = root.line(&format!("{folder}/type"))?;
    let celsius = degrees(root, &format!("{folder}/temp"))?;
    let mut trips = Vec::new();
    for file in root.names(folder) {
        let Some(trip) = file.strip_suffix("_type") else {
            continue;
        };
        let kind = match root.line(&format!("{folder}/{file}")).as_deref() {
            Some("active") => TripKind::Active,
            Some("passive") => TripKind::Passive,
            Some("hot") => TripKind::Hot,
            Some("critical") => TripKind::Critical,
            _ => continue,
        };
        // Points that are switched off stand at or below freezing.
        let celsius = degrees(root, &format!("{folder}/{trip}_temp"));
        trips.extend(
            celsius
                .filter(|celsius| *celsius > 0.0)
                .map(|celsius| Trip { kind, celsius }),
        );
    }
    Some(Zone {
        name,
        celsius,
        trips,
    })
}

/// Where a zone's clocks are lowered; as [`Zone::slows_at`].
pub(crate) fn slows_at(root: &Root, folder: &str) -> Option<f64> {
    zone(root, folder)?.slows_at()
}

/// Thousandths of a degree, within what silicon can have.
pub(crate) fn degrees(root: &Root, path: &str) -> Option<f64> {
    let milli: i64 = root.number(path)?;
    (-60_000..=300_000)
        .contains(&milli)
        .then(|| milli as f64 / 1e3)
}

/// What a Raspberry Pi's firmware says. The device is `soc:firmware`, and on a Raspberry Pi 5
/// `soc@107c000000:firmware`; some kernels have only the alarm of the voltage.
pub(crate) fn throttling(root: &Root) -> Option<Throttling> {
    let folder = "/sys/devices/platform";
    let names = root.names(folder).into_iter();
    let mut words = names
        .filter(|name| name.starts_with("soc"))
        .filter_map(|name| root.line(&format!("{folder}/{name}/{name}:firmware/get_throttled")));
    let word = words.find_map(|word| {
        let digits = word.trim_start_matches("0x");
        u32::from_str_radix(digits, 16).ok()
    });
    let alarm = under_voltage_alarm(root);
    if word.is_none() && alarm.is_none() {
        return None;
    }
    let word = word.unwrap_or(0);
    let mut now = Throttle::of_bits(word);
    if alarm == Some(true) && !now.contains(&Throttle::UnderVoltage) {
        now.insert(0, Throttle::UnderVoltage);
    }
    Some(Throttling {
        now,
        since_start: Throttle::of_bits(word >> Throttle::SINCE_START),
    })
}

fn under_voltage_alarm(root: &Root) -> Option<bool> {
    let sensors = root.numbered("/sys/class/hwmon", "hwmon").into_iter();
    let mut folders = sensors.map(|(_, folder)| folder);
    let is_supply =
        |folder: &String| root.line(&format!("{folder}/name")).as_deref() == Some("rpi_volt");
    let folder = folders.find(is_supply)?;
    let alarm: u32 = root.number(&format!("{folder}/in0_lcrit_alarm"))?;
    Some(alarm != 0)
}

fn clocks(root: &Root) -> Vec<DeviceClock> {
    let folder = "/sys/class/devfreq";
    let names = root.names(folder).into_iter();
    let clocks = names.map(|device| {
        let file = |name: &str| format!("{folder}/{device}/{name}");
        DeviceClock {
            governor: root.line(&file("governor")),
            hz: root.number(&file("cur_freq")),
            max_hz: root.number(&file("max_freq")),
            device,
        }
    });
    clocks.collect()
}

fn hwmon(root: &Root) -> Vec<PowerMeter> {
    let mut meters = Vec::new();
    for (_, folder) in root.numbered("/sys/class/hwmon", "hwmon") {
        let chip = root.line(&format!("{folder}/name")).unwrap_or_default();
        for file in root.names(&folder) {
            let number = |name: &str| root.number::<f64>(&format!("{folder}/{name}"));
            let is_power = file.starts_with("power")
                && (file.ends_with("_input") || file.ends_with("_average"));
            if is_power {
                let watts = number(&file).map(|micro| micro / 1e6);
                meters.push(PowerMeter {
                    name: format!("{chip} {file}"),
                    readable: watts.is_some(),
                    watts,
                });
            }
            // Jetson's monitor gives millivolts and milliamperes.
            let channel = file
                .strip_prefix("curr")
                .and_then(|rest| rest.strip_suffix("_input"))
                .filter(|_| chip.starts_with("ina3221"));
            if let Some(channel) = channel {
                let volts = number(&format!("in{channel}_input"));
                let watts = number(&file).zip(volts).map(|(ma, mv)| ma * mv / 1e6);
                let label = root.line(&format!("{folder}/in{channel}_label"));
                meters.push(PowerMeter {
                    name: label.unwrap_or_else(|| format!("{chip} {channel}")),
                    readable: watts.is_some(),
                    watts,
                });
            }
        }
    }
    meters
}

/// Energy counters. Most systems let only root read them.
fn powercap(root: &Root) -> Vec<PowerMeter> {
    let folder = "/sys/class/powercap";
    let names = root.names(folder).into_iter();
    let zones = names.filter(|name| name.contains(':'));
    let meters = zones.filter_map(|zone| {
        let name = root.line(&format!("{folder}/{zone}/name"))?;
        let energy: Option<u64> = root.number(&format!("{folder}/{zone}/energy_uj"));
        Some(PowerMeter {
            name: format!("rapl {name}"),
            watts: None,
            readable: energy.is_some(),
        })
    });
    meters.collect()
}
