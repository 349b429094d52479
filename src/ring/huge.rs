//! A request for huge pages under a large table: random look-ups then miss the TLB far less often.

/// The pages that can be asked for.
const HUGE: usize = 2 << 20;

/// Asks the kernel to put the whole capacity of `table` on huge pages, as far as it covers any. Where the kernel does
/// not know huge pages, or has none, nothing changes: only speed depends on it.
pub fn advise<T>(table: &Vec<T>) {
    advise_range(table.as_ptr().cast(), table.capacity() * size_of::<T>());
}

/// As [`advise`], for a boxed slice.
pub fn advise_slice<T>(table: &[T]) {
    advise_range(table.as_ptr().cast(), size_of_val(table));
}

fn advise_range(start: *const u8, bytes: usize) {
    let begin = (start as usize).next_multiple_of(HUGE);
    let end = (start as usize + bytes) / HUGE * HUGE;
    if begin >= end {
        return;
    }
    let start = start.wrapping_add(begin - start as usize).cast_mut().cast();
    // JUSTIFICATION: there is no safe form of madvise.
    // SAFETY: the range lies within one live allocation of the caller's; MADV_HUGEPAGE changes neither its contents
    // nor its protection.
    let advised = unsafe { rustix::mm::madvise(start, end - begin, rustix::mm::Advice::LinuxHugepage) };
    // Refused: the table works as it is.
    let _ = advised;
}
