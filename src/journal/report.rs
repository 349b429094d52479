//! The journal's numbers as metrics.

use crate::engine::durability::Durability;
use crate::engine::published::LATENCY_BOUNDS_NS;
use crate::journal::compact::Compaction;
use crate::metrics::{Sample, SampleKind, Source};

impl Source for Durability {
    fn samples(&self) -> Vec<Sample> {
        let state = self.state();
        let mut samples = Vec::new();
        let mut add = |name, help, kind, labels: Vec<(&'static str, String)>, value: f64| {
            samples.push(Sample { name, help, kind, labels, value });
        };
        let (counter, gauge) = (SampleKind::Counter, SampleKind::Gauge);
        for (name, help, value) in [
            (
                "haltline_journal_failed",
                "1 while the journal cannot be written.",
                f64::from(u8::from(state.failed_since.is_some())),
            ),
            (
                "haltline_journal_denies_new_flow",
                "1 while new flow is denied because the journal is behind its grace.",
                f64::from(u8::from(state.denies_new_flow)),
            ),
            ("haltline_journal_waiting_cells", "Cells recorded and not on disk.", state.waiting as f64),
            ("haltline_journal_ring_cells", "Cells that may wait for the disk.", state.capacity as f64),
        ] {
            add(name, help, gauge, Vec::new(), value);
        }
        for (name, help, value) in [
            ("haltline_journal_cells_total", "Cells recorded since the journal began.", self.recorded.get()),
            ("haltline_journal_written_bytes_total", "Bytes written to segments.", self.bytes.get()),
            ("haltline_journal_groups_total", "Groups written.", self.groups.get()),
            ("haltline_journal_segments_total", "Segments begun.", self.segments.get()),
            ("haltline_journal_syncs_total", "Syncs that succeeded.", self.syncs.get()),
            ("haltline_journal_failures_total", "Writes and syncs that failed.", self.failures.get()),
            ("haltline_journal_checkpoints_total", "Signed checkpoints written.", self.checkpoints.get()),
            ("haltline_journal_lost_cells_total", "Cells that found no room: a fault of the program.", self.lost.get()),
        ] {
            add(name, help, counter, Vec::new(), value as f64);
        }
        let (counts, sum) = self.sync_latency.read();
        let slow = LATENCY_BOUNDS_NS.partition_point(|bound| *bound < 25_000_000);
        add(
            "haltline_journal_slow_syncs_total",
            "Syncs that took more than 25 ms.",
            counter,
            Vec::new(),
            counts[slow + 1..].iter().sum::<u64>() as f64,
        );
        add("haltline_journal_sync_seconds_total", "Time spent in syncs.", counter, Vec::new(), sum as f64 / 1e9);
        samples
    }
}

impl Source for Compaction {
    fn samples(&self) -> Vec<Sample> {
        let sample = |name, help, kind, value: f64| Sample { name, help, kind, labels: Vec::new(), value };
        let (counter, gauge) = (SampleKind::Counter, SampleKind::Gauge);
        vec![
            sample("haltline_snapshots_total", "Snapshots made.", counter, self.snapshots.get() as f64),
            sample(
                "haltline_snapshot_failures_total",
                "Rounds in which no snapshot could be made.",
                counter,
                self.failures.get() as f64,
            ),
            sample(
                "haltline_snapshot_timestamp_seconds",
                "When this run last made a snapshot, Unix time; 0: not yet.",
                gauge,
                self.newest.get() as f64 / 1e9,
            ),
            sample("haltline_snapshot_bytes", "Size of that snapshot.", gauge, self.bytes.get() as f64),
            sample(
                "haltline_snapshot_duration_seconds",
                "How long replaying up to it, writing it and reading it back took.",
                gauge,
                self.took_ns.get() as f64 / 1e9,
            ),
            sample(
                "haltline_journal_removed_segments_total",
                "Segments removed because they are older than `keep`.",
                counter,
                self.removed.get() as f64,
            ),
        ]
    }
}
