//! The kill switch: the mode of every scope as everybody sees it, who pressed, who has confirmed it, and
//! the authorised way back.

pub mod board;
pub mod page;
#[cfg(not(loom))]
pub mod page_file;

#[cfg(feature = "service")]
pub mod alerts;
#[cfg(feature = "service")]
pub mod audit;
#[cfg(feature = "service")]
pub mod drill;
#[cfg(feature = "service")]
pub mod gates;
#[cfg(feature = "service")]
pub mod names;
#[cfg(feature = "service")]
pub mod rearm;
#[cfg(feature = "service")]
pub mod receipt;
#[cfg(feature = "service")]
pub mod switch;
#[cfg(feature = "service")]
pub mod words;

#[cfg(all(test, feature = "service"))]
pub(crate) mod testing;
