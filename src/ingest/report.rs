//! The transport's counters as metrics.

use std::sync::atomic::Ordering;

use crate::ingest::ws::IngestStats;
use crate::metrics::{Sample, SampleKind, Source};

impl Source for IngestStats {
    fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        let mut add = |name, help, kind, labels: &[(&'static str, &str)], value: &std::sync::atomic::AtomicU64| {
            let labels = labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
            samples.push(Sample { name, help, kind, labels, value: value.load(Ordering::Relaxed) as f64 });
        };
        let (counter, gauge) = (SampleKind::Counter, SampleKind::Gauge);
        let none: &[(&'static str, &str)] = &[];
        add("haltline_ws_connections", "WebSocket connections now.", gauge, none, &self.connections);
        add("haltline_ws_accepted_total", "WebSocket connections accepted.", counter, none, &self.accepted);
        for (reason, value) in [
            ("full", &self.refused_full),
            ("auth", &self.refused_auth),
            ("origin", &self.refused_origin),
            ("protocol", &self.refused_protocol),
            ("handshake", &self.refused_handshake),
            ("gate", &self.refused_gate),
        ] {
            let help = "WebSocket connections refused, by reason.";
            add("haltline_ws_refused_total", help, counter, &[("reason", reason)], value);
        }
        for (name, help, value) in [
            ("haltline_ws_events_total", "Events passed to the engine.", &self.events),
            ("haltline_ws_duplicates_total", "Events received again after they were taken.", &self.duplicates),
            ("haltline_ws_errors_total", "Messages answered with an error.", &self.errors),
            ("haltline_ws_resends_total", "Times a client was asked to send again.", &self.resends),
            ("haltline_ws_replayed_total", "Answers sent again to a client.", &self.replayed),
            (
                "haltline_ws_dropped_slow_total",
                "Connections dropped because the client read too slowly.",
                &self.dropped_slow,
            ),
            ("haltline_ws_mode_pushes_total", "Halt page states pushed to clients.", &self.mode_pushes),
            ("haltline_ws_withdrawn_total", "Admissions withheld because of a halt in between.", &self.withdrawn),
            ("haltline_ws_received_bytes_total", "Bytes of messages received.", &self.bytes_in),
            ("haltline_ws_texts_total", "Log lines and reject texts passed to the guard.", &self.log_texts),
            (
                "haltline_ws_texts_dropped_total",
                "Log lines and reject texts for which the guard had no room.",
                &self.log_texts_dropped,
            ),
            ("haltline_ws_sent_bytes_total", "Bytes of messages sent.", &self.bytes_out),
        ] {
            add(name, help, counter, none, value);
        }
        samples
    }
}
