//! Cancels as bytes: see [`save`](crate::model::save).

use super::{Cancels, Halt, Link, Mark, Told, Totals};
use crate::model::cancel::{CancelState, CancelView};
use crate::model::save::{Blank, saved_enum, saved_state, saved_value};

saved_enum!(CancelState { Untold = 0, Instructed = 1, Requested = 2, Refused = 3, Unanswered = 4, Unknown = 5 });
saved_value!(CancelView { on, epoch, swept, at_halt, working, states, instructions, ended, last_end, flat_at });
saved_value!(Mark { at, state, attempts, owed });
saved_value!(Halt { view, since, swept_at, told_epoch, states });
saved_value!(Told { place, since });
saved_value!(Link { there, mass, since, lapsed, disconnect_asked, told });
saved_value!(Totals { instructions, ended });
saved_state!(Cancels {
    marks, halts, on, links, cursor, left, slots, again, rounds, round_at, marked, lapse_at, totals,
} derived {
    // Of the step that is over.
    kind
});

impl Blank for Mark {
    const BLANK: Mark = Mark::NONE;
}

impl Blank for Halt {
    const BLANK: Halt = Halt::NONE;
}

impl Blank for Link {
    const BLANK: Link = Link::NONE;
}
