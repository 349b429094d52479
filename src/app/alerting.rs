//! The threads of alerts: the keeper, and one per receiver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;

use crate::alert::alertmanager::Alertmanager;
use crate::alert::delivery::{self, DeliveryOptions, DeliveryParts, Post, ReceiverKind, ReceiverStatus};
use crate::alert::keeper::{self, KeeperParts};
use crate::alert::webhook::{SECRET_MIN, Webhook};
use crate::app::service::spawn;
use crate::duty::Clock;
use crate::kill::alerts::Alerts;

/// A receiver that is ready to be told.
pub(super) struct Ready {
    /// Shown by the metrics.
    pub status: Arc<ReceiverStatus>,
    outlet: Kind,
}

enum Kind {
    Alertmanager(Box<Alertmanager>),
    Webhook(Box<Webhook>),
}

/// Makes every receiver of the configuration: secrets and certificates are read now, so that a start finds what is wrong.
pub(super) fn outlets(options: &DeliveryOptions, clock: &Arc<dyn Clock>) -> anyhow::Result<Vec<Ready>> {
    let make = |receiver: &delivery::ReceiverOptions| -> Result<Ready, String> {
        let post = |url: String| Post::new(url, &receiver.ca_file, options.timeout);
        let outlet = match &receiver.kind {
            ReceiverKind::Alertmanager { token_file } => {
                let token = token_file.as_ref().map(|file| delivery::secret(file, 1)).transpose()?;
                let post = post(Alertmanager::endpoint(&receiver.url))?;
                let made = Alertmanager::new(options.clone(), clock.clone(), post, token.as_deref());
                Kind::Alertmanager(Box::new(made))
            }
            ReceiverKind::Webhook { secret_file } => {
                let secret = delivery::secret(secret_file, SECRET_MIN)?;
                let post = post(receiver.url.clone())?;
                let made = Webhook::new(&receiver.name, &options.instance, clock.clone(), post, &secret)?;
                Kind::Webhook(Box::new(made))
            }
        };
        let status = ReceiverStatus { name: receiver.name.clone(), ..ReceiverStatus::default() };
        Ok(Ready { status: Arc::new(status), outlet })
    };
    let named = |receiver| make(receiver).map_err(|why| anyhow::anyhow!("{why}"));
    let context = |receiver: &delivery::ReceiverOptions| format!("the receiver of alerts {}", receiver.name);
    options.receivers.iter().map(|receiver| named(receiver).with_context(|| context(receiver))).collect()
}

/// The threads, running.
pub(super) struct Alerting {
    stop_outlets: Arc<AtomicBool>,
    outlets: Vec<(String, JoinHandle<()>)>,
    stop_keeper: Arc<AtomicBool>,
    keeper: JoinHandle<()>,
}

/// Starts them. The centre has been restored by now.
pub(super) fn start(keeper: KeeperParts, outlets: Vec<Ready>) -> anyhow::Result<Alerting> {
    let flag = || Arc::new(AtomicBool::new(false));
    let (stop_outlets, stop_keeper) = (flag(), flag());
    let (alerts, clock) = (keeper.alerts.clone(), keeper.clock.clone());
    let mut threads = Vec::new();
    let hooks = outlets.iter().filter(|ready| matches!(ready.outlet, Kind::Webhook(_)));
    let hooks: Vec<String> = hooks.map(|ready| ready.status.name.clone()).collect();
    alerts.keep_receivers(&hooks);
    for hook in &hooks {
        // From now on changes wait for it.
        let _ = alerts.receiver(hook);
    }
    for ready in outlets {
        let parts = DeliveryParts { alerts: alerts.clone(), clock: clock.clone(), status: ready.status.clone() };
        let (woken, stop) = (hear(&alerts), stop_outlets.clone());
        let name = format!("tell-{}", ready.status.name);
        let thread = spawn(&name, move || match ready.outlet {
            Kind::Alertmanager(outlet) => delivery::run(*outlet, &parts, &woken, &stop),
            Kind::Webhook(outlet) => delivery::run(*outlet, &parts, &woken, &stop),
        })?;
        threads.push((name, thread));
    }
    let (woken, stop) = (hear(&alerts), stop_keeper.clone());
    let keeper = spawn("alerts", move || keeper::run(&keeper, &woken, &stop))?;
    Ok(Alerting { stop_outlets, outlets: threads, stop_keeper, keeper })
}

fn hear(alerts: &Alerts) -> crossbeam_channel::Receiver<()> {
    let (wake, woken) = keeper::bell();
    alerts.on_change(Box::new(move || {
        // Full: it is about to look anyway.
        let _ = wake.try_send(());
    }));
    woken
}

impl Alerting {
    /// Ends them, the keeper last: it writes down what the others have told.
    pub(super) fn stop(self) -> Result<(), String> {
        self.stop_outlets.store(true, Ordering::Release);
        for (name, thread) in self.outlets {
            thread.join().map_err(|_| name)?;
        }
        self.stop_keeper.store(true, Ordering::Release);
        self.keeper.join().map_err(|_| "alerts".to_owned())
    }
}
