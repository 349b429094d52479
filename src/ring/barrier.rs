//! The two halves of one barrier between a gate, which passes it at every order, and a kill, which passes it once.
//!
//! A gate stores "I am inside" and then reads the page; a kill stores the mode and then reads who is inside. Without
//! a barrier between store and load on *both* sides each can miss the other, and an order leaves after the kill was
//! acknowledged. `SeqCst` fences on both sides cost the gate some 3 ns. With `membarrier(2)` the kill's side makes
//! every processor that runs a registered process pass a full barrier, and the gate's half shrinks to nothing but a bar
//! to the compiler.

use crate::ring::sync::{Ordering, fence};

/// How a gate's half of the barrier is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    /// A full fence at every entry. Works everywhere.
    Fence,
    /// Nothing at run time: the kill's side does it with `membarrier`. Only where [`register`] succeeded in this process.
    Membarrier,
}

/// The gate's half.
#[inline(always)]
pub fn light(fencing: Fencing) {
    match fencing {
        // SYNC gate: pairs with `heavy` on the kill's side.
        Fencing::Fence => fence(Ordering::SeqCst),
        Fencing::Membarrier => compiler_bar(),
    }
}

/// The kill's half: after it, a gate has either seen what was stored before, or is seen to be inside. Returns whether
/// the gates that rely on `membarrier` were reached; those that fence themselves always are.
pub fn heavy() -> bool {
    // SYNC gate: pairs with `light`.
    fence(Ordering::SeqCst);
    let reached = membarrier();
    fence(Ordering::SeqCst);
    reached
}

/// Makes this process one that [`heavy`] reaches from any other.
#[must_use]
pub fn register() -> Fencing {
    #[cfg(all(not(loom), not(miri)))]
    {
        use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};
        let needed = MembarrierQuery::GLOBAL_EXPEDITED | MembarrierQuery::REGISTER_GLOBAL_EXPEDITED;
        if membarrier_query().contains(needed) && membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok() {
            return Fencing::Membarrier;
        }
    }
    Fencing::Fence
}

#[inline(always)]
fn compiler_bar() {
    #[cfg(not(loom))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

#[cfg(all(not(loom), not(miri)))]
fn membarrier() -> bool {
    rustix::thread::membarrier(rustix::thread::MembarrierCommand::GlobalExpedited).is_ok()
}

#[cfg(any(loom, miri))]
fn membarrier() -> bool {
    false
}
