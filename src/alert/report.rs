//! Alerts for Prometheus.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::alert::delivery::ReceiverStatus;
use crate::duty::Clock;
use crate::kill::alerts::{Alerts, Severity, Standing, State};
use crate::metrics::{Sample, SampleKind, Source};

/// The alert centre's numbers.
pub struct AlertSource {
    /// The centre.
    pub alerts: Arc<Alerts>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How delivery goes, by receiver.
    pub receivers: Vec<Arc<ReceiverStatus>>,
}

impl Source for AlertSource {
    fn samples(&self) -> Vec<Sample> {
        let Standing { open, unanswered, oldest_unanswered, tally } = self.alerts.standing();
        let mut samples = Vec::new();
        let mut add = |name, help, kind, labels: &[(&'static str, &str)], value: f64| {
            let labels = labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
            samples.push(Sample { name, help, kind, labels, value });
        };
        let (counter, gauge) = (SampleKind::Counter, SampleKind::Gauge);
        for severity in Severity::ALL {
            for state in [State::Firing, State::Escalated, State::Acknowledged] {
                let labels = [("severity", severity.name()), ("state", state.name())];
                let value = open[severity as usize][state as usize] as f64;
                add("haltline_alerts", "Alerts that are not over, by severity and state.", gauge, &labels, value);
            }
        }
        let help = "Critical alerts that nobody has acknowledged.";
        add("haltline_alerts_unacknowledged", help, gauge, &[], unanswered as f64);
        let age = oldest_unanswered.map_or(0, |at| self.clock.now().unix.0.saturating_sub(at));
        let help = "Age of the oldest critical alert that nobody has acknowledged; 0 if there is none.";
        add("haltline_alerts_unacknowledged_age_seconds", help, gauge, &[], age as f64 / 1e9);
        for severity in Severity::ALL {
            let labels = [("severity", severity.name())];
            let value = tally.fired[severity as usize] as f64;
            add("haltline_alerts_fired_total", "Alerts that began to fire, by severity.", counter, &labels, value);
        }
        for (name, help, value) in [
            ("haltline_alerts_acknowledged_total", "Alerts that somebody acknowledged.", tally.acknowledgements),
            ("haltline_alerts_escalated_total", "Steps of escalation that were taken.", tally.escalations),
            (
                "haltline_alerts_summed_up_total",
                "Alerts that flood control told in a summary instead of one by one.",
                tally.summed_up,
            ),
            (
                "haltline_alerts_overflowed_total",
                "Alerts that found no room in the list; the summary counts them.",
                tally.overflowed,
            ),
            (
                "haltline_alert_changes_dropped_total",
                "Changes of alerts that were dropped before every receiver had been told.",
                tally.changes_dropped,
            ),
        ] {
            add(name, help, counter, &[], value as f64);
        }
        let failing = self.receivers.iter().filter(|receiver| receiver.failing.load(Ordering::Relaxed)).count();
        let help = "Receivers of alerts: Alertmanagers and webhooks.";
        add("haltline_alert_receivers", help, gauge, &[], self.receivers.len() as f64);
        let help = "Receivers of alerts whose last delivery failed.";
        add("haltline_alert_receivers_failing", help, gauge, &[], failing as f64);
        for receiver in &self.receivers {
            for (result, value) in [("delivered", &receiver.delivered), ("failed", &receiver.failed)] {
                let labels = [("receiver", receiver.name.as_str()), ("result", result)];
                let help = "Exchanges with receivers of alerts, by result.";
                add("haltline_alert_deliveries_total", help, counter, &labels, value.load(Ordering::Relaxed) as f64);
            }
        }
        for receiver in &self.receivers {
            let latency = receiver.latency_ns.load(Ordering::Relaxed) as f64 / 1e9;
            let help = "From the last alert that was delivered to its delivery.";
            let labels = [("receiver", receiver.name.as_str())];
            add("haltline_alert_delivery_latency_seconds", help, gauge, &labels, latency);
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::alerts::Raise;
    use crate::kill::testing::TestClock;

    #[test]
    fn open_alerts_are_counted_by_severity_and_state_and_the_oldest_has_an_age() {
        let clock = TestClock::new();
        let alerts = Arc::new(Alerts::default());
        let source = AlertSource { alerts: alerts.clone(), clock: clock.clone(), receivers: vec![] };
        let value = |name: &str, labels: &[&str]| {
            let fits =
                |s: &Sample| s.name == name && s.labels.iter().map(|(_, v)| v.as_str()).eq(labels.iter().copied());
            source.samples().into_iter().find(fits).map(|s| s.value)
        };
        assert_eq!(value("haltline_alerts_unacknowledged_age_seconds", &[]), Some(0.0));
        let at = clock.now().unix.0;
        alerts.raise(Raise::new(at, "signature", "a", "text").critical());
        alerts.raise(Raise::new(at, "signature", "b", "text").critical());
        clock.advance(30_000_000_000);
        assert_eq!(value("haltline_alerts", &["critical", "firing"]), Some(2.0));
        assert_eq!(value("haltline_alerts_unacknowledged_age_seconds", &[]).map(f64::round), Some(30.0));
        alerts.acknowledge(1, "alice", "looking", at).unwrap();
        assert_eq!(value("haltline_alerts", &["critical", "acknowledged"]), Some(1.0));
        assert_eq!(value("haltline_alerts_unacknowledged", &[]), Some(1.0));
        assert_eq!(value("haltline_alerts_fired_total", &["critical"]), Some(2.0));
    }
}
