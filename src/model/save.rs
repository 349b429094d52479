//! State as bytes: what a snapshot is made of. Pure but for the writer that it is given.
//!
//! Every struct of the engine's state says its fields with `saved_value` or `saved_state`, which take it apart without
//! `..`: a field that is added later does not compile until it is saved, or said to follow from the rest.
//!
//! Numbers are little-endian and fixed; lengths are `u64`. Tables with many places that were never used are written as
//! runs: so many blank places, so many others, those, and again. There is no version in it: what carries these bytes
//! has one, and says which program may read them.

use core::fmt;
use std::collections::VecDeque;
use std::io;

use crate::model::{Mode, OrdType, Side};
use crate::units::{
    AccountId, CurrencyId, ExecId, InstrumentId, MonoNanos, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos,
};

/// Why bytes are not the state that they are read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSave {
    /// Bytes that were left.
    pub left: usize,
    /// What is wrong there.
    pub what: &'static str,
}

impl fmt::Display for BadSave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes before its end)", self.what, self.left)
    }
}

impl std::error::Error for BadSave {}

/// Takes state as bytes, and hands them on in large pieces.
pub struct Out<'a> {
    sink: &'a mut dyn io::Write,
    buffer: Vec<u8>,
    written: u64,
    result: io::Result<()>,
}

/// Bytes that are handed on at once.
const PIECE: usize = 1 << 16;

impl<'a> Out<'a> {
    /// Writes to `sink`.
    pub fn new(sink: &'a mut dyn io::Write) -> Out<'a> {
        Out { sink, buffer: Vec::with_capacity(PIECE + 4096), written: 0, result: Ok(()) }
    }

    /// Takes bytes as they are.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.hand_on();
        }
    }

    #[cold]
    fn hand_on(&mut self) {
        self.written += self.buffer.len() as u64;
        if self.result.is_ok() {
            self.result = self.sink.write_all(&self.buffer);
        }
        self.buffer.clear();
    }

    /// Hands the rest on. Returns how many bytes it was in all.
    ///
    /// # Errors
    /// The first that the sink had.
    pub fn finish(mut self) -> io::Result<u64> {
        self.hand_on();
        self.result.map(|()| self.written)
    }
}

/// Gives state from bytes.
#[derive(Clone, Copy)]
pub struct In<'a> {
    rest: &'a [u8],
}

impl<'a> In<'a> {
    /// Reads `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> In<'a> {
        In { rest: bytes }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`BadSave`] if there are fewer.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadSave> {
        match self.rest.split_at_checked(count) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.bad("it ends too soon")),
        }
    }

    /// A length that is at most `most`.
    ///
    /// # Errors
    /// [`BadSave`] if it is larger: it does not fit the table that it is for.
    pub fn length(&mut self, most: usize) -> Result<usize, BadSave> {
        let length = u64::load(self)?;
        usize::try_from(length).ok().filter(|n| *n <= most).ok_or(self.bad("a table is larger than its place"))
    }

    /// The complaint `what` about this place.
    #[must_use]
    pub const fn bad(&self, what: &'static str) -> BadSave {
        BadSave { left: self.rest.len(), what }
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// [`BadSave`] if something is.
    pub const fn end(&self) -> Result<(), BadSave> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("it goes on behind its end")) }
    }
}

/// A value that can be made of its bytes alone.
pub trait Value: Sized {
    /// Writes it.
    fn save(&self, out: &mut Out<'_>);

    /// Makes it again.
    ///
    /// # Errors
    /// [`BadSave`] if that is not what the bytes are.
    fn load(input: &mut In<'_>) -> Result<Self, BadSave>;
}

/// State whose memory is there already: restored into a table of the same size, made of the same configuration.
pub trait State {
    /// Writes it.
    fn keep(&self, out: &mut Out<'_>);

    /// Becomes what was written.
    ///
    /// # Errors
    /// [`BadSave`]: it does not fit. What is restored by half is not to be used.
    fn restore(&mut self, input: &mut In<'_>) -> Result<(), BadSave>;
}

impl<T: Value> State for T {
    fn keep(&self, out: &mut Out<'_>) {
        Value::save(self, out);
    }

    fn restore(&mut self, input: &mut In<'_>) -> Result<(), BadSave> {
        *self = T::load(input)?;
        Ok(())
    }
}

/// A list that grows within the memory that it has.
impl<T: Value> State for Vec<T> {
    fn keep(&self, out: &mut Out<'_>) {
        Value::save(&self.len(), out);
        self.iter().for_each(|item| item.save(out));
    }

    fn restore(&mut self, input: &mut In<'_>) -> Result<(), BadSave> {
        let length = input.length(self.capacity())?;
        self.clear();
        for _ in 0..length {
            self.push(T::load(input)?);
        }
        Ok(())
    }
}

/// The same of a queue.
impl<T: Value> State for VecDeque<T> {
    fn keep(&self, out: &mut Out<'_>) {
        Value::save(&self.len(), out);
        self.iter().for_each(|item| item.save(out));
    }

    fn restore(&mut self, input: &mut In<'_>) -> Result<(), BadSave> {
        let length = input.length(self.capacity())?;
        self.clear();
        for _ in 0..length {
            self.push_back(T::load(input)?);
        }
        Ok(())
    }
}

/// A value of which most places of a table may hold the same one.
pub trait Blank: Value + PartialEq {
    /// That one.
    const BLANK: Self;
}

impl Blank for u64 {
    const BLANK: u64 = 0;
}

impl Blank for u32 {
    const BLANK: u32 = 0;
}

impl Blank for MonoNanos {
    const BLANK: MonoNanos = MonoNanos(0);
}

/// A table of a fixed number of places.
impl<T: Blank> State for Box<[T]> {
    fn keep(&self, out: &mut Out<'_>) {
        save_places(self, out);
    }

    fn restore(&mut self, input: &mut In<'_>) -> Result<(), BadSave> {
        restore_places(self, input)
    }
}

/// Writes the places of a table as runs.
pub fn save_places<T: Blank>(places: &[T], out: &mut Out<'_>) {
    Value::save(&places.len(), out);
    let mut rest = places;
    while !rest.is_empty() {
        let blank = rest.iter().take_while(|place| **place == T::BLANK).count();
        let used = rest[blank..].iter().take_while(|place| **place != T::BLANK).count();
        Value::save(&(blank as u32), out);
        Value::save(&(used as u32), out);
        rest[blank..blank + used].iter().for_each(|place| place.save(out));
        rest = &rest[blank + used..];
    }
}

/// Restores what [`save_places`] wrote.
///
/// # Errors
/// [`BadSave`].
pub fn restore_places<T: Blank>(places: &mut [T], input: &mut In<'_>) -> Result<(), BadSave> {
    if input.length(places.len())? != places.len() {
        return Err(input.bad("a table has another size"));
    }
    let mut rest = places;
    while !rest.is_empty() {
        let (blank, used) = (u32::load(input)? as usize, u32::load(input)? as usize);
        if blank + used == 0 || blank + used > rest.len() {
            return Err(input.bad("a table does not fit its place"));
        }
        let (run, behind) = rest.split_at_mut(blank + used);
        for place in &mut run[..blank] {
            // Memory that nobody wrote to need not be there.
            if *place != T::BLANK {
                *place = T::BLANK;
            }
        }
        for place in &mut run[blank..] {
            *place = T::load(input)?;
        }
        rest = behind;
    }
    Ok(())
}

/// Writes each of a number of states that follows from the configuration.
pub fn save_each<T: State>(states: &[T], out: &mut Out<'_>) {
    Value::save(&states.len(), out);
    states.iter().for_each(|state| state.keep(out));
}

/// Restores what [`save_each`] wrote.
///
/// # Errors
/// [`BadSave`].
pub fn restore_each<T: State>(states: &mut [T], input: &mut In<'_>) -> Result<(), BadSave> {
    if input.length(states.len())? != states.len() {
        return Err(input.bad("there is another number of them"));
    }
    states.iter_mut().try_for_each(|state| state.restore(input))
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            #[inline]
            fn save(&self, out: &mut Out<'_>) {
                out.bytes(&self.to_le_bytes());
            }

            #[inline]
            fn load(input: &mut In<'_>) -> Result<$number, BadSave> {
                const SIZE: usize = size_of::<$number>();
                let bytes = input.bytes(SIZE)?;
                let bytes = <[u8; SIZE]>::try_from(bytes).map_err(|_| input.bad("it ends too soon"))?;
                Ok(<$number>::from_le_bytes(bytes))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, i64, i128);

impl Value for usize {
    #[inline]
    fn save(&self, out: &mut Out<'_>) {
        (*self as u64).save(out);
    }

    #[inline]
    fn load(input: &mut In<'_>) -> Result<usize, BadSave> {
        usize::try_from(u64::load(input)?).map_err(|_| input.bad("a number is too large"))
    }
}

impl Value for bool {
    #[inline]
    fn save(&self, out: &mut Out<'_>) {
        u8::from(*self).save(out);
    }

    #[inline]
    fn load(input: &mut In<'_>) -> Result<bool, BadSave> {
        match u8::load(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(input.bad("neither yes nor no")),
        }
    }
}

impl<T: Value + Copy + Default, const N: usize> Value for [T; N] {
    #[inline]
    fn save(&self, out: &mut Out<'_>) {
        self.iter().for_each(|item| item.save(out));
    }

    #[inline]
    fn load(input: &mut In<'_>) -> Result<[T; N], BadSave> {
        let mut items = [T::default(); N];
        for item in &mut items {
            *item = T::load(input)?;
        }
        Ok(items)
    }
}

impl<T: Value> Value for Option<T> {
    fn save(&self, out: &mut Out<'_>) {
        self.is_some().save(out);
        if let Some(value) = self {
            value.save(out);
        }
    }

    fn load(input: &mut In<'_>) -> Result<Option<T>, BadSave> {
        Ok(if bool::load(input)? { Some(T::load(input)?) } else { None })
    }
}

impl Value for String {
    fn save(&self, out: &mut Out<'_>) {
        self.len().save(out);
        out.bytes(self.as_bytes());
    }

    fn load(input: &mut In<'_>) -> Result<String, BadSave> {
        let length = usize::load(input)?;
        let bytes = input.bytes(length)?;
        let text = core::str::from_utf8(bytes).map_err(|_| input.bad("a text is none"))?;
        Ok(text.to_owned())
    }
}

macro_rules! units {
    ($($unit:ident),*) => {$(
        impl Value for $unit {
            #[inline]
            fn save(&self, out: &mut Out<'_>) {
                self.0.save(out);
            }

            #[inline]
            fn load(input: &mut In<'_>) -> Result<$unit, BadSave> {
                Value::load(input).map($unit)
            }
        }
    )*};
}
units!(AccountId, CurrencyId, ExecId, InstrumentId, MonoNanos, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos);

/// Saves a struct by its fields: all of them have to be named, those behind `derived` with what they are until whoever
/// loads it makes them again.
macro_rules! saved_value {
    ($type:ty { $($field:ident),* $(,)? } $(derived { $($derived:ident = $until:expr),* $(,)? })?) => {
        impl $crate::model::save::Value for $type {
            #[inline]
            fn save(&self, out: &mut $crate::model::save::Out<'_>) {
                let Self { $($field,)* $($($derived: _,)*)? } = self;
                $($crate::model::save::Value::save($field, out);)*
            }

            #[inline]
            fn load(
                input: &mut $crate::model::save::In<'_>,
            ) -> Result<Self, $crate::model::save::BadSave> {
                Ok(Self {
                    $($field: $crate::model::save::Value::load(input)?,)*
                    $($($derived: $until,)*)?
                })
            }
        }
    };
}
pub(crate) use saved_value;

/// Saves a struct whose memory stays where it is: all fields have to be named, those behind `derived` follow from the
/// configuration that the struct was made of.
macro_rules! saved_state {
    ($type:ty { $($field:ident),* $(,)? } derived { $($derived:ident),* $(,)? }) => {
        impl $crate::model::save::State for $type {
            fn keep(&self, out: &mut $crate::model::save::Out<'_>) {
                let Self { $($field,)* $($derived: _,)* } = self;
                $($crate::model::save::State::keep($field, out);)*
            }

            fn restore(
                &mut self,
                input: &mut $crate::model::save::In<'_>,
            ) -> Result<(), $crate::model::save::BadSave> {
                let Self { $($field,)* $($derived: _,)* } = self;
                $($crate::model::save::State::restore($field, input)?;)*
                Ok(())
            }
        }
    };
}
pub(crate) use saved_state;

/// Saves an enum by numbers that never change meaning: all variants have to be named.
macro_rules! saved_enum {
    ($type:ty { $($variant:ident = $number:literal),* $(,)? }) => {
        impl $crate::model::save::Value for $type {
            #[inline]
            fn save(&self, out: &mut $crate::model::save::Out<'_>) {
                let number: u8 = match self { $(Self::$variant => $number),* };
                $crate::model::save::Value::save(&number, out);
            }

            #[inline]
            fn load(
                input: &mut $crate::model::save::In<'_>,
            ) -> Result<Self, $crate::model::save::BadSave> {
                match <u8 as $crate::model::save::Value>::load(input)? {
                    $($number => Ok(Self::$variant),)*
                    _ => Err(input.bad(concat!("no ", stringify!($type)))),
                }
            }
        }
    };
}
pub(crate) use saved_enum;

saved_value!(Now { mono, unix });
saved_enum!(Mode { Normal = 0, ReduceOnly = 1, Halted = 2 });
saved_enum!(Side { Buy = 1, Sell = 2 });
saved_enum!(OrdType { Limit = 1, Market = 2, Stop = 3, StopLimit = 4 });

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(state: &impl State) -> Vec<u8> {
        let mut sink = Vec::new();
        let mut out = Out::new(&mut sink);
        state.keep(&mut out);
        out.finish().unwrap();
        sink
    }

    #[test]
    fn a_table_of_mostly_blank_places_is_restored_over_whatever_was_there() {
        let mut places = vec![0u64; 10_000].into_boxed_slice();
        for at in [0, 1, 2, 500, 9_999] {
            places[at] = at as u64 + 7;
        }
        let saved = bytes(&places);
        assert!(saved.len() < 100, "{} bytes", saved.len());
        let mut other = vec![3u64; 10_000].into_boxed_slice();
        let mut input = In::new(&saved);
        other.restore(&mut input).unwrap();
        assert_eq!((other, input.end()), (places, Ok(())));
        let mut smaller = vec![0u64; 9_999].into_boxed_slice();
        assert!(smaller.restore(&mut In::new(&saved)).is_err());
    }

    #[test]
    fn what_is_cut_off_anywhere_is_refused() {
        let mut sink = Vec::new();
        let mut out = Out::new(&mut sink);
        Value::save(&1u64, &mut out);
        Value::save(&"one".to_owned(), &mut out);
        Value::save(&Some(true), &mut out);
        out.finish().unwrap();
        let load = |bytes: &[u8]| {
            let mut input = In::new(bytes);
            let read = (u64::load(&mut input)?, String::load(&mut input)?, Option::<bool>::load(&mut input)?);
            input.end().map(|()| read)
        };
        assert_eq!(load(&sink).unwrap(), (1, "one".to_owned(), Some(true)));
        for length in 0..sink.len() {
            assert!(load(&sink[..length]).is_err(), "{length}");
        }
        assert!(load(&[&sink[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_list_does_not_outgrow_its_memory() {
        let saved = bytes(&vec![1u32; 100]);
        let mut list: Vec<u32> = Vec::with_capacity(8);
        assert!(list.restore(&mut In::new(&saved)).is_err());
        let mut list: Vec<u32> = Vec::with_capacity(100);
        list.restore(&mut In::new(&saved)).unwrap();
        assert_eq!(list.len(), 100);
    }
}
