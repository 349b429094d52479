//! Where the engine shows how far the cancels of each halted scope are.
//!
//! # Synchronization
//!
//! As in [`published`](crate::engine::published): one writer, relaxed words under a sequence lock of atomics; a reader that met
//! the writer reads again, the writer never waits.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::engine::published::Counter;
use crate::model::cancel::{CancelState, CancelView};

#[derive(Debug)]
#[repr(align(64))]
struct Cell {
    version: AtomicU64,
    words: [AtomicU64; CancelView::WORDS],
}

/// See the module.
#[derive(Debug)]
pub struct CancelBoard {
    scopes: Box<[Cell]>,
    /// Instructions that were given: one by one, in mass, and asking for a disconnect.
    pub instructions: [Counter; 3],
    /// Instructions that found no room on their way. They are repeated like those that are not answered.
    pub lost: Counter,
    /// Orders that ended while they were being canceled: canceled, filled, otherwise.
    pub ended: [Counter; 3],
    /// Orders by the state of their cancel.
    pub states: [Counter; CancelState::COUNT],
}

impl CancelBoard {
    /// A board of `scopes` scopes, nothing canceled.
    #[must_use]
    pub fn new(scopes: usize) -> CancelBoard {
        let cell = || Cell { version: AtomicU64::new(0), words: core::array::from_fn(|_| AtomicU64::new(0)) };
        CancelBoard {
            scopes: (0..scopes).map(|_| cell()).collect(),
            instructions: Default::default(),
            lost: Counter::default(),
            ended: Default::default(),
            states: Default::default(),
        }
    }

    /// Shows the scope at `slot`. The engine's thread only.
    pub fn show(&self, slot: usize, view: &CancelView) {
        let Some(cell) = self.scopes.get(slot) else { return };
        let version = cell.version.load(Ordering::Relaxed);
        // SYNC cancels: odd while words change; pairs with the fence and the second load in `view`.
        cell.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in cell.words.iter().zip(view.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        cell.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The scope at `slot` as last shown; `None` if there is no such slot.
    #[must_use]
    pub fn view(&self, slot: usize) -> Option<CancelView> {
        let cell = self.scopes.get(slot)?;
        loop {
            let before = cell.version.load(Ordering::Acquire);
            let mut words = [0; CancelView::WORDS];
            for (value, word) in words.iter_mut().zip(&cell.words) {
                *value = word.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before % 2 == 0 && cell.version.load(Ordering::Relaxed) == before {
                return Some(CancelView::from_words(&words));
            }
            core::hint::spin_loop();
        }
    }
}
