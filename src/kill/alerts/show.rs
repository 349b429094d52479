//! Alerts as JSON: the same for the HTTP interface, the stream of states and webhooks.

use serde_json::{Value, json};

use super::book::{Alert, Change};
use crate::kill::words::rfc3339;

impl Alert {
    /// The alert as `GET /v1/alerts` lists it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let ack = self.acknowledged.as_ref();
        json!({
            "id": self.number.to_string(),
            "number": self.number,
            "kind": self.kind,
            "name": self.name,
            "scope": self.scope,
            "severity": self.severity.name(),
            "state": self.state.name(),
            "owner": self.owner,
            "owners": self.owners,
            "runbook": self.runbook,
            "text": self.text,
            "first_text": self.first_text,
            "count": self.count,
            "at": rfc3339(self.at),
            "last_at": rfc3339(self.last_at),
            "escalations": self.escalations,
            "acknowledged": ack.map(|ack| json!({ "by": ack.by, "reason": ack.reason, "at": rfc3339(ack.at) })),
            "resolved_at": self.resolved_at.map(rfc3339),
            "summed_up": self.summed_up,
            "needs_acknowledgement": self.is_unanswered_critical(),
        })
    }
}

impl Change {
    /// The change as a webhook is sent it; `instance` says which haltline.
    #[must_use]
    pub fn to_json(&self, id: &str, instance: &str) -> Value {
        json!({
            "id": id,
            "type": format!("alert.{}", self.what.name()),
            "timestamp": rfc3339(self.at),
            "instance": instance,
            "seq": self.seq,
            "alert": self.alert.to_json(),
        })
    }
}
