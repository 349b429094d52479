//! A hint that memory will be read soon. Changes nothing but time.

/// Asks for the cache lines of `value`, of which at most four.
#[inline(always)]
pub fn lines<T>(value: &T) {
    lines_at(core::ptr::from_ref(value));
}

/// Asks for the cache lines that a value at `place` would have, of which at most four. There need not be one.
#[inline(always)]
pub fn lines_at<T>(place: *const T) {
    let lines = size_of::<T>().div_ceil(64).clamp(1, 4);
    let start = place.cast::<i8>();
    for line in 0..lines {
        #[cfg(target_arch = "x86_64")]
        // JUSTIFICATION: the intrinsic has no safe form.
        // SAFETY: a prefetch reads nothing and faults on no address; `wrapping_add` makes no claim about bounds.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(start.wrapping_add(line * 64));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, line);
    }
}
