//! What the benches share: arguments, floors measured in the same run, and the report. `nautilus`, the comparison with
//! nautilus-risk, is a package of its own that shares this file and that nothing here builds: see its `src/main.rs`.
#![allow(dead_code)]

use std::hint::black_box;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// `--quick` shortens a run, `--json` prints one object and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    pub quick: bool,
    pub json: bool,
    /// `--only=N`: one size alone, for a profiler.
    pub only: Option<usize>,
}

impl Args {
    pub fn parse() -> Args {
        let args: Vec<String> = std::env::args().skip(1).collect();
        for arg in &args {
            let known =
                matches!(arg.as_str(), "--quick" | "--json" | "--bench" | "--test") || arg.starts_with("--only=");
            if !known && arg.starts_with('-') {
                eprintln!("unknown option {arg}; there are --quick, --json and --only=N");
                std::process::exit(2);
            }
        }
        // Under `cargo test` a bench only shows that it runs.
        let test = args.iter().any(|a| a == "--test");
        let only = args.iter().find_map(|a| a.strip_prefix("--only=")).and_then(|n| n.parse().ok());
        Args { quick: test || args.iter().any(|a| a == "--quick"), json: args.iter().any(|a| a == "--json"), only }
    }
}

/// One figure of a report.
#[derive(Clone, Debug)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub value: f64,
    /// (percentile, value)
    pub percentiles: Vec<(f64, f64)>,
    /// What it is compared with, measured in the same run: name and value.
    pub floor: Option<(String, f64)>,
}

/// Collects figures and prints them.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    args: Args,
    figures: Vec<Figure>,
}

impl Report {
    pub fn new(name: &'static str, args: Args, includes: &str) -> Report {
        if !args.json {
            println!("{name}: {includes}");
            println!("{:<58} {:>10}  {:<9} percentiles and floor", "figure", "value", "unit");
        }
        Report { name, args, figures: Vec::new() }
    }

    pub fn add(&mut self, figure: Figure) {
        if !self.args.json {
            let mut tail = String::new();
            for (p, v) in &figure.percentiles {
                tail += &format!("p{p} {v:.0}  ");
            }
            if let Some((floor, v)) = &figure.floor {
                tail += &format!("= {:.2} × {floor} ({v:.1})", figure.value / v);
            }
            println!("{:<58} {:>10.1}  {:<9} {tail}", figure.name, figure.value, figure.unit);
        }
        self.figures.push(figure);
    }

    pub fn value(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.add(Figure { name: name.into(), unit, value, percentiles: Vec::new(), floor: None });
    }

    pub fn against(&mut self, name: impl Into<String>, unit: &'static str, value: f64, floor: (&str, f64)) {
        let floor = Some((floor.0.to_owned(), floor.1));
        self.add(Figure { name: name.into(), unit, value, percentiles: Vec::new(), floor });
    }

    /// A distribution in nanoseconds, shown in microseconds by its median, p99 and p99.9.
    pub fn times(&mut self, name: impl Into<String>, times: &hdrhistogram::Histogram<u64>, floor: Option<(&str, f64)>) {
        let at = |q| times.value_at_quantile(q) as f64 / 1e3;
        let percentiles = vec![(50.0, at(0.5)), (99.0, at(0.99)), (99.9, at(0.999))];
        let floor = floor.map(|(name, value)| (name.to_owned(), value));
        self.add(Figure { name: name.into(), unit: "µs", value: at(0.5), percentiles, floor });
    }

    pub fn finish(self) {
        if !self.args.json {
            return;
        }
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|f| {
                let percentiles: Map<String, Value> =
                    f.percentiles.iter().map(|(p, v)| (format!("p{p}"), json!(v))).collect();
                let floor = f.floor.as_ref().map(|(name, v)| json!({ "name": name, "value": v }));
                let ratio = f.floor.as_ref().map(|(_, v)| f.value / v);
                let figure = json!({
                    "value": f.value, "unit": f.unit, "percentiles": percentiles, "floor": floor, "ratio": ratio
                });
                (f.name.clone(), figure)
            })
            .collect();
        println!("{}", json!({ "bench": self.name, "quick": self.args.quick, "figures": figures }));
    }
}

/// The processor time of this thread: what others on the machine take does not count.
#[derive(Clone, Copy, Debug)]
pub struct CpuTimer(Duration);

impl CpuTimer {
    pub fn start() -> CpuTimer {
        CpuTimer(CpuTimer::read())
    }
    fn read() -> Duration {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    }
    pub fn elapsed(&self) -> Duration {
        CpuTimer::read() - self.0
    }
}

/// A small fast generator (splitmix64), so that a bench needs no crate for it.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

/// ns per load of a pointer chase through `bytes` (each load waits for the one before), and per independent load.
pub fn load_floors(bytes: usize, loads: usize) -> (f64, f64) {
    // One entry per cache line.
    let lines = (bytes / 64).max(16);
    let mut table: Vec<[u64; 8]> = vec![[0; 8]; lines];
    let mut order: Vec<u32> = (0..lines as u32).collect();
    let mut random = Random(9);
    for i in (1..lines).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    for i in 0..lines {
        table[order[i] as usize][0] = u64::from(order[(i + 1) % lines]);
    }
    let mut at = 0u64;
    let begin = CpuTimer::start();
    for _ in 0..loads {
        at = table[at as usize][0];
    }
    let dependent = begin.elapsed().as_nanos() as f64 / loads as f64;
    black_box(at);
    let picks: Vec<u32> = (0..loads.min(1 << 20)).map(|_| random.below(lines as u64) as u32).collect();
    let mut sum = 0u64;
    let begin = CpuTimer::start();
    for _ in 0..loads.div_ceil(picks.len()) {
        for &pick in &picks {
            sum = sum.wrapping_add(table[pick as usize][0]);
        }
    }
    let independent = begin.elapsed().as_nanos() as f64 / (loads.div_ceil(picks.len()) * picks.len()) as f64;
    black_box(sum);
    (dependent, independent)
}

/// The processor's name, for the report.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{name}, {cores} cores")
}
