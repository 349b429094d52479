//! The kill switch: the mode of every scope as everybody sees it, and who has confirmed it.

pub mod board;
pub mod page;
