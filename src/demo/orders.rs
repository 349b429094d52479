//! The order management side of the morning: it knows the parents, and sees when they are filled.
//!
//! At Knight one component knew that a parent was filled and the router did not (SEC Release 34-70694, paragraph 16). Here
//! it says so, over a session of its own.

use anyhow::Context;

use super::gateway::{Gateway, Route};
use super::knight::{self, PARENTS};
use crate::model::{Event, EventKind, OrdType, Universe};
use crate::units::{OrdId, SessionId};

/// See the module.
#[derive(Debug)]
pub struct Orders {
    session: SessionId,
    parents: Vec<Event>,
    /// What of each parent is filled, as far as it was told.
    filled: Vec<i64>,
}

impl Orders {
    /// The parents that the instance of `route` received before the open, told over the session called `session`.
    ///
    /// # Errors
    /// If the universe lacks the session.
    pub fn new(universe: &Universe, session: &str, route: &Route, seed: u64) -> anyhow::Result<Orders> {
        let id = universe.session(session).with_context(|| format!("the configuration has no session {session:?}"))?;
        let parent = |(number, parent): (usize, &knight::Parent)| Event {
            session: id,
            id: OrdId(number as u64 + 1),
            // Market orders of customers: no limit price.
            ord_type: OrdType::Market,
            ..route.parent(parent)
        };
        let parents = knight::parents(seed).iter().enumerate().map(parent).collect();
        Ok(Orders { session: id, parents, filled: vec![0; PARENTS] })
    }

    /// Its session.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The parents, as they are told before the open.
    #[must_use]
    pub fn parents(&self) -> &[Event] {
        &self.parents
    }

    /// Takes an event of the instance; if it is the execution that completes a parent, that is over.
    pub fn hear(&mut self, event: &Event) -> Option<Event> {
        if event.kind != EventKind::Fill {
            return None;
        }
        // Its children go round all parents, again and again.
        let number = (Gateway::order_number(event.id.0) as usize - 1) % PARENTS;
        let (filled, parent) = (&mut self.filled[number], &self.parents[number]);
        let was = *filled;
        *filled += event.qty.0;
        let completed = was < parent.qty.0 && *filled >= parent.qty.0;
        completed.then(|| Event { id: parent.id, ..Event::new(EventKind::ParentDone, self.session, 0) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::gateway::tests::universe;
    use super::*;
    use crate::units::Qty;

    #[test]
    fn a_parent_is_over_once_with_the_execution_that_completes_it() {
        let universe = universe();
        let route = Route::find(&universe, "smars-8").unwrap();
        let mut orders = Orders::new(&universe, "oms", &route, 1).unwrap();
        assert_eq!(orders.parents().len(), PARENTS);
        let first = orders.parents()[0];
        assert_eq!((first.kind, first.id, first.session), (EventKind::ParentNew, OrdId(1), orders.session()));
        let fill = |n: u64, qty| Event {
            id: OrdId(n * 4 + 1),
            qty: Qty(qty),
            ..Event::new(EventKind::Fill, route.session, 0)
        };
        assert_eq!(orders.hear(&fill(0, first.qty.0 - 1)), None);
        assert_eq!(orders.hear(&fill(1, 1)), None, "of another parent");
        let done = orders.hear(&fill(PARENTS as u64, 1)).unwrap();
        assert_eq!((done.kind, done.id), (EventKind::ParentDone, OrdId(1)));
        assert_eq!(orders.hear(&fill(2 * PARENTS as u64, 100)), None, "it is over already");
    }
}
