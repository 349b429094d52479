//! The texts that orders are called by, for those that are being canceled: reports name an order as its trader does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::units::{OrdId, SessionId};

/// The last texts that were noted. Any thread.
#[derive(Debug, Default)]
pub struct OrderNames(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    texts: HashMap<(SessionId, OrdId), Box<str>>,
    order: VecDeque<(SessionId, OrdId)>,
}

impl OrderNames {
    /// The most texts that are kept; the oldest go.
    pub const KEPT: usize = 1 << 16;

    /// Order `id` of `session` is called `text`.
    pub fn note(&self, session: SessionId, id: OrdId, text: &str) {
        let mut noted = self.noted();
        if noted.texts.insert((session, id), text.into()).is_none() {
            noted.order.push_back((session, id));
            if noted.order.len() > OrderNames::KEPT
                && let Some(oldest) = noted.order.pop_front()
            {
                noted.texts.remove(&oldest);
            }
        }
    }

    /// What order `id` of `session` is called: its text, or the number that is its name.
    #[must_use]
    pub fn name(&self, session: SessionId, id: OrdId) -> String {
        self.noted().texts.get(&(session, id)).map_or_else(|| id.0.to_string(), |text| text.to_string())
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        // Nothing in here can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_called_by_its_text_and_the_oldest_texts_go() {
        let names = OrderNames::default();
        let session = SessionId(3);
        names.note(session, OrdId(1), "A-1");
        assert_eq!((names.name(session, OrdId(1)), names.name(session, OrdId(2))), ("A-1".into(), "2".into()));
        for id in 2..=OrderNames::KEPT as u64 + 1 {
            names.note(session, OrdId(id), "x");
        }
        assert_eq!(names.name(session, OrdId(1)), "1");
    }
}
