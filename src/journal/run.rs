//! What the beginning of a run leaves in the journal.

use serde::{Deserialize, Serialize};

/// The JSON of a [`BlobKind::Start`](crate::engine::record::BlobKind::Start).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStart {
    /// The program's version.
    pub haltline: String,
    /// The boot that it ran in, as the system names it.
    pub boot: String,
    /// The host's monotonic clock, ns, when the run's own showed the reading that this record was made at.
    pub host_mono: u64,
    /// The whole configuration. Limits that differ from those before are in force from here on.
    pub config: String,
}

impl RunStart {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // A struct of strings and numbers has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The start in `bytes`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<RunStart, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}
