//! The manifest as it is written: TOML in, TOML out, and the changes that a deployment pipeline makes to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::value::{Datetime, Offset};

use crate::kill::words::rfc3339;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestText {
    /// Counts up with every change.
    pub version: u64,
    /// Days without use after which a strategy, order path or flag has to be woken; left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dormant_after_days: Option<u32>,
    /// By name.
    #[serde(default)]
    pub strategies: BTreeMap<String, StrategyText>,
}

/// One strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StrategyText {
    /// The sessions that are expected to trade it.
    pub instances: Vec<String>,
    /// The ways by which its orders may come: `gate`, `websocket`.
    pub paths: Vec<String>,
    /// Whether an instance that cannot be measured is believed.
    #[serde(default)]
    pub claim_suffices: bool,
    /// Whether its instances may run different approved builds at the same time.
    #[serde(default)]
    pub mixed_builds: bool,
    /// When its parts were last used, by their names (`strategy`, `build:ID`, `path:WAY`, `flag:NAME`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exercised: BTreeMap<String, Datetime>,
    /// Approved builds.
    pub builds: Vec<BuildText>,
    /// Flags that they may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<FlagText>,
}

/// An approved build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildText {
    /// What it calls itself.
    pub id: String,
    /// SHA-256 of its executable in hex; left out: it is known by its word alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When it was approved.
    pub approved_at: Datetime,
    /// How long after that it counts as new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp_hours: Option<u32>,
    /// Hashes of the configurations that it may run with; left out: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config_hashes: Vec<String>,
}

/// A flag, with one meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlagText {
    /// Its name.
    pub name: String,
    /// What it means to `builds`.
    pub meaning: String,
    /// The builds that may read it.
    pub builds: Vec<String>,
    /// The values that it may have; left out: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What a deployment changes about one strategy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    /// Which strategy; made if it is not there.
    pub strategy: String,
    /// Builds to approve: id and SHA-256 of the executable. One that is there is replaced, and approved anew.
    pub builds: Vec<(String, Option<String>)>,
    /// How long they count as new.
    pub ramp_hours: Option<u32>,
    /// Builds that are not approved any more. Flags that only they read go with them.
    pub retire: Vec<String>,
    /// Instances to expect besides.
    pub instances: Vec<String>,
    /// Instances that are expected no more.
    pub drop_instances: Vec<String>,
    /// Ways to allow besides.
    pub paths: Vec<String>,
    /// Flags, name and meaning, that the builds of this edit read.
    pub flags: Vec<(String, String)>,
    /// A new number of days, for all strategies.
    pub dormant_after_days: Option<u32>,
}

impl ManifestText {
    /// Reads TOML.
    ///
    /// # Errors
    /// Where it is not a manifest, and why.
    pub fn parse(text: &str) -> Result<ManifestText, String> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            format!("line {line}: {}", error.message().lines().next().unwrap_or("it is not TOML"))
        })
    }

    /// Writes TOML.
    ///
    /// # Errors
    /// If a value has no such form, which none of ours is without.
    pub fn write(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|error| error.to_string())
    }

    /// The next version, with `edit` made at `now` (Unix ns). Whether it is valid says [`super::manifest::Manifest::of_text`].
    #[must_use]
    pub fn edited(&self, edit: &Edit, now: u64) -> ManifestText {
        let mut next = self.clone();
        next.version = self.version.saturating_add(1);
        next.dormant_after_days = edit.dormant_after_days.or(self.dormant_after_days);
        let strategy = next.strategies.entry(edit.strategy.clone()).or_default();
        strategy.builds.retain(|build| !edit.retire.contains(&build.id));
        for flag in &mut strategy.flags {
            flag.builds.retain(|id| !edit.retire.contains(id));
        }
        strategy.exercised.retain(|part, _| !edit.retire.iter().any(|id| *part == format!("build:{id}")));
        for (id, digest) in &edit.builds {
            strategy.builds.retain(|build| build.id != *id);
            strategy.builds.push(BuildText {
                id: id.clone(),
                digest: digest.clone(),
                approved_at: datetime(now),
                ramp_hours: edit.ramp_hours,
                config_hashes: Vec::new(),
            });
        }
        strategy.instances.retain(|name| !edit.drop_instances.contains(name));
        add_new(&mut strategy.instances, &edit.instances);
        add_new(&mut strategy.paths, &edit.paths);
        for (name, meaning) in &edit.flags {
            let ids: Vec<String> = edit.builds.iter().map(|(id, _)| id.clone()).collect();
            // What a build read before, it now reads with this meaning.
            for flag in strategy.flags.iter_mut().filter(|flag| flag.name == *name && flag.meaning != *meaning) {
                flag.builds.retain(|id| !ids.contains(id));
            }
            match strategy.flags.iter_mut().find(|flag| flag.name == *name && flag.meaning == *meaning) {
                Some(flag) => add_new(&mut flag.builds, &ids),
                None => strategy.flags.push(FlagText {
                    name: name.clone(),
                    meaning: meaning.clone(),
                    builds: ids,
                    values: Vec::new(),
                }),
            }
        }
        strategy.flags.retain(|flag| !flag.builds.is_empty());
        let flags: Vec<String> = strategy.flags.iter().map(|flag| format!("flag:{}", flag.name)).collect();
        strategy.exercised.retain(|part, _| !part.starts_with("flag:") || flags.contains(part));
        next
    }
}

fn add_new(list: &mut Vec<String>, more: &[String]) {
    for name in more {
        if !list.contains(name) {
            list.push(name.clone());
        }
    }
}

/// `unix` ns as TOML writes it, whole seconds.
#[must_use]
pub fn datetime(unix: u64) -> Datetime {
    let text = rfc3339(unix - unix % 1_000_000_000);
    let whole = text.split_once('.').map_or(text.clone(), |(whole, _)| format!("{whole}Z"));
    // The years up to 2554 have four digits: nothing in the text is out of range.
    whole.parse().unwrap_or(Datetime { date: None, time: None, offset: Some(Offset::Z) })
}

/// `at` in Unix ns; `None` if it is not a moment in UTC from 1970 on.
#[must_use]
pub fn unix_ns(at: &Datetime) -> Option<u64> {
    let (date, time) = (at.date?, at.time?);
    let utc = matches!(at.offset, Some(Offset::Z | Offset::Custom { minutes: 0 }));
    if !utc || date.year < 1970 {
        return None;
    }
    // Days since the epoch, by eras of 400 years that begin on 1 March.
    let (year, month, day) = (u64::from(date.year), u64::from(date.month), u64::from(date.day));
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = days.checked_sub(719_468)?;
    // A leap second counts as the one before it.
    let second = u64::from(time.second.unwrap_or(0)).min(59);
    let seconds = days * 86_400 + u64::from(time.hour) * 3_600 + u64::from(time.minute) * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(u64::from(time.nanosecond.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000_000_000;

    #[test]
    fn times_are_the_calendars() {
        for (text, unix) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000_000),
            ("2012-08-01T13:30:00+00:00", 1_343_827_800_000_000_000),
            ("2100-03-01T00:00:00.000000001Z", 4_107_542_400_000_000_001),
        ] {
            assert_eq!(unix_ns(&text.parse().unwrap()), Some(unix), "{text}");
        }
        for text in ["1969-12-31T23:59:59Z", "2012-08-01", "2012-08-01T13:30:00", "2012-08-01T13:30:00+02:00"] {
            assert_eq!(unix_ns(&text.parse().unwrap()), None, "{text}");
        }
        for day in 0..60_000 {
            let unix = day * DAY + 86_399_000_000_000;
            assert_eq!(unix_ns(&datetime(unix)), Some(unix));
        }
    }

    #[test]
    fn a_deployment_replaces_its_build_and_what_it_reads() {
        let first = Edit {
            strategy: "alpha".into(),
            builds: vec![("r1".into(), Some("aa".into()))],
            instances: vec!["gw-1".into(), "gw-2".into()],
            paths: vec!["gate".into()],
            flags: vec![("mode".into(), "power peg".into())],
            ..Edit::default()
        };
        let one = ManifestText::default().edited(&first, DAY);
        assert_eq!((one.version, one.strategies["alpha"].builds[0].approved_at), (1, datetime(DAY)));
        let second = Edit {
            strategy: "alpha".into(),
            builds: vec![("r2".into(), None)],
            instances: vec!["gw-2".into(), "gw-3".into()],
            drop_instances: vec!["gw-1".into()],
            flags: vec![("mode".into(), "retail".into())],
            dormant_after_days: Some(30),
            ..Edit::default()
        };
        let two = one.edited(&second, 2 * DAY);
        assert_eq!((two.version, two.dormant_after_days), (2, Some(30)));
        let alpha = &two.strategies["alpha"];
        assert_eq!(alpha.instances, ["gw-2", "gw-3"]);
        let meanings: Vec<(&str, &[String])> = alpha.flags.iter().map(|f| (&*f.meaning, &*f.builds)).collect();
        assert_eq!(meanings, [("power peg", &["r1".to_owned()][..]), ("retail", &["r2".to_owned()][..])]);
        let retire = Edit { strategy: "alpha".into(), retire: vec!["r1".into()], ..Edit::default() };
        let three = two.edited(&retire, 3 * DAY);
        let alpha = &three.strategies["alpha"];
        assert_eq!((alpha.builds.len(), alpha.flags.len(), &*alpha.flags[0].meaning), (1, 1, "retail"));
        // And all of it can be written and read.
        assert_eq!(ManifestText::parse(&three.write().unwrap()), Ok(three));
    }

    #[test]
    fn what_cannot_be_read_says_in_which_line() {
        let wrong = ManifestText::parse("version = 1\n[strategies.alpha]\ninstance = []\n").unwrap_err();
        assert!(wrong.starts_with("line 3: unknown field `instance`"), "{wrong}");
    }
}
