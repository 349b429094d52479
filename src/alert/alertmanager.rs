//! Alertmanager, API v2: it is told everything that is open, again and again. What it is not told for a while it takes for
//! resolved, so there is no list of what it has missed.

use std::collections::HashSet;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::alert::delivery::{DeliveryOptions, Done, Outlet, Post};
use crate::kill::alerts::{Alert, Alerts, Filter, KEPT, State};
use crate::kill::words::rfc3339;

/// How long something that is over is still told, ns: in case that the first time got lost.
const TELL_RESOLVED_NS: u64 = 900_000_000_000;
/// An alert that is not told anew for so many times the usual is taken for resolved.
const MISSED: u32 = 4;
/// A label's value is at most this long.
const LABEL_MAX: usize = 128;

/// See the module.
pub struct Alertmanager {
    options: DeliveryOptions,
    clock: std::sync::Arc<dyn crate::duty::Clock>,
    post: Post,
    bearer: Option<String>,
    told: Option<(u64, Instant)>,
}

impl Alertmanager {
    /// The receiver at `post`'s address.
    #[must_use]
    pub fn new(
        options: DeliveryOptions,
        clock: std::sync::Arc<dyn crate::duty::Clock>,
        post: Post,
        token: Option<&str>,
    ) -> Alertmanager {
        let bearer = token.map(|token| format!("Bearer {token}"));
        Alertmanager { options, clock, post, bearer, told: None }
    }

    /// Where alerts are posted to, for an Alertmanager at `url`.
    #[must_use]
    pub fn endpoint(url: &str) -> String {
        format!("{}/api/v2/alerts", url.trim_end_matches('/'))
    }

    /// The message: everything that is open, and what is over since not long ago.
    fn message(&self, alerts: &Alerts) -> (Vec<Value>, Option<u64>) {
        let now = self.clock.now().unix.0;
        let all = alerts.list(&Filter::default(), KEPT);
        let mut taken = HashSet::new();
        let mut message = Vec::new();
        // Open ones first: a later alert of the same labels is the present one.
        let (open, over): (Vec<&Alert>, Vec<&Alert>) =
            all.iter().filter(|alert| !alert.summed_up).partition(|alert| alert.state != State::Resolved);
        let lately = |alert: &&&Alert| alert.resolved_at.is_some_and(|at| now.saturating_sub(at) < TELL_RESOLVED_NS);
        for alert in open.iter().chain(over.iter().filter(lately)) {
            for owner in &alert.owners {
                let labels = self.labels(alert, owner);
                if taken.insert(Value::Object(labels.clone()).to_string()) {
                    message.push(self.one(alert, labels, now));
                }
            }
        }
        let newest = all.iter().flat_map(|alert| [Some(alert.at), alert.resolved_at]).flatten().max();
        (message, newest)
    }

    /// Few, and bounded: they are what routes and silences go by. Each owner of an escalated alert has one of their own.
    fn labels(&self, alert: &Alert, owner: &str) -> Map<String, Value> {
        let cut = |text: &str| Value::String(text.chars().take(LABEL_MAX).collect());
        let mut labels = Map::new();
        labels.insert("alertname".into(), cut(&alert.name));
        labels.insert("kind".into(), cut(&alert.kind));
        labels.insert("severity".into(), alert.severity.name().into());
        labels.insert("owner".into(), cut(owner));
        labels.insert("instance".into(), cut(&self.options.instance));
        labels.insert("job".into(), "haltline".into());
        if let Some(scope) = &alert.scope {
            labels.insert("scope_kind".into(), cut(&scope.kind));
            // An empty label is none.
            if !scope.name.is_empty() {
                labels.insert("scope".into(), cut(&scope.name));
            }
        }
        labels
    }

    fn one(&self, alert: &Alert, labels: Map<String, Value>, now: u64) -> Value {
        let resend = u64::try_from(self.options.resend_every.as_nanos()).unwrap_or(u64::MAX);
        let ends = alert.resolved_at.unwrap_or_else(|| now.saturating_add(resend.saturating_mul(MISSED.into())));
        let mut annotations = json!({
            "summary": alert.text,
            "first": alert.first_text,
            "runbook": alert.runbook,
            "count": alert.count.to_string(),
            "state": alert.state.name(),
            "id": alert.number.to_string(),
        });
        if let Some(ack) = &alert.acknowledged {
            annotations["acknowledged_by"] = ack.by.clone().into();
            annotations["acknowledged_because"] = ack.reason.clone().into();
        }
        let url = format!("{}/v1/alerts/{}", self.options.external_url.trim_end_matches('/'), alert.number);
        json!({
            "labels": labels,
            "annotations": annotations,
            "startsAt": rfc3339(alert.at),
            "endsAt": rfc3339(ends.max(alert.at)),
            "generatorURL": url,
        })
    }
}

impl Outlet for Alertmanager {
    fn tell(&mut self, alerts: &Alerts) -> Result<Done, String> {
        // Before the list: what changes in between is told again.
        let seq = alerts.last_seq();
        let news = match self.told {
            None => true,
            Some((told, at)) => told != seq || at.elapsed() >= self.options.resend_every,
        };
        if !news {
            return Ok(Done::Nothing);
        }
        let (message, newest) = self.message(alerts);
        if !message.is_empty() {
            let bearer: Vec<(&str, &str)> = self.bearer.iter().map(|b| ("authorization", b.as_str())).collect();
            self.post.post(&bearer, Value::Array(message).to_string().as_bytes())?;
        }
        let first = self.told.is_none_or(|(told, _)| told != seq);
        self.told = Some((seq, Instant::now()));
        Ok(Done::Told(newest.filter(|_| first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::alerts::Raise;
    use crate::kill::testing::TestClock;
    use crate::kill::words::ScopeName;
    use std::time::Duration;

    #[test]
    fn it_is_told_what_is_open_to_each_owner_and_the_end_of_what_is_over() {
        let clock = TestClock::new();
        let post = Post::new("http://127.0.0.1:1".into(), "/".as_ref(), Duration::from_secs(1)).unwrap();
        let outlet = Alertmanager::new(DeliveryOptions::default(), clock.clone(), post, None);
        let alerts = Alerts::default();
        let at = crate::duty::Clock::now(clock.as_ref()).unix.0;
        let scope = ScopeName { kind: "session".into(), name: "gw-8".into() };
        alerts.raise(Raise::new(at, "signature", "power_peg", "Power Peg disabled").on(scope).critical());
        alerts.raise(Raise::new(at, "warn", "order_rate", "80 percent"));
        alerts.resolve(at + 1, "warn", "order_rate", None);
        // The same again is another alert with the same labels: only that it is open counts.
        alerts.raise(Raise::new(at + 2, "warn", "order_rate", "85 percent"));
        let (message, _) = outlet.message(&alerts);
        let name = |value: &Value| value["labels"]["alertname"].as_str().unwrap().to_owned();
        assert_eq!(message.iter().map(name).collect::<Vec<_>>(), ["order_rate", "power_peg"]);
        let peg = &message[1];
        assert_eq!(peg["labels"]["scope"], "gw-8");
        assert_eq!(peg["labels"]["owner"], "risk");
        assert_eq!(peg["generatorURL"], "http://127.0.0.1:7402/v1/alerts/1");
        assert!(peg["endsAt"].as_str() > peg["startsAt"].as_str());
        alerts.resolve(at + 3, "warn", "order_rate", None);
        let (message, _) = outlet.message(&alerts);
        assert_eq!(message[1]["endsAt"], rfc3339(at + 3));
        // Long over, it is not told any more.
        clock.advance(TELL_RESOLVED_NS + 1_000_000_000);
        assert_eq!(outlet.message(&alerts).0.len(), 1);
    }
}
