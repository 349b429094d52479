//! A request for huge pages under a large table: random look-ups then miss the TLB far less often.

use std::io;

/// What came of asking for memory ahead of its use: the bytes that are there now.
pub type Populated = io::Result<usize>;

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

/// Has the kernel put zeroed pages under the whole capacity of `table` now, rather than one by one when each is first
/// written to: a fault of a huge page takes a millisecond where a hypervisor has to find it. What is in the table stays.
///
/// # Errors
///
/// The kernel has not that much memory, or does not know the request (Linux before 5.14). The table works as it is.
pub fn populate<T>(table: &Vec<T>) -> Populated {
    populate_range(table.as_ptr().cast(), table.capacity() * size_of::<T>())
}

/// As [`populate`], for a boxed slice.
///
/// # Errors
///
/// As [`populate`].
pub fn populate_slice<T>(table: &[T]) -> Populated {
    populate_range(table.as_ptr().cast(), size_of_val(table))
}

fn populate_range(start: *const u8, bytes: usize) -> Populated {
    let page = rustix::param::page_size();
    let begin = (start as usize).next_multiple_of(page);
    let end = (start as usize + bytes) / page * page;
    if begin >= end {
        return Ok(0);
    }
    let start = start.wrapping_add(begin - start as usize).cast_mut().cast();
    // JUSTIFICATION: there is no safe form of madvise.
    // SAFETY: the range lies within one live allocation of the caller's; MADV_POPULATE_WRITE faults its pages in as a write
    // would, and changes neither contents nor protection.
    unsafe { rustix::mm::madvise(start, end - begin, rustix::mm::Advice::LinuxPopulateWrite) }?;
    Ok(end - begin)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of the process's memory is there: none of it was taken from the kernel before it is asked for.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn memory_is_there_once_it_was_asked_for_and_what_was_in_it_stays() {
        // Far more than what other tests take meanwhile.
        let bytes = 256 << 20;
        let mut table = Vec::<u64>::with_capacity(bytes / 8);
        table.extend([7, 8, 9]);
        advise(&table);
        let before = resident();
        let there = populate(&table).unwrap();
        assert!(there <= bytes && there > bytes - (1 << 20), "{there} of {bytes}");
        assert!(resident() >= before + bytes * 9 / 10);
        assert_eq!(table, [7, 8, 9]);
        assert_eq!(table.capacity(), bytes / 8);
    }

    #[test]
    fn a_table_of_less_than_a_page_needs_nothing() {
        assert_eq!(populate(&vec![1u8; 100]).unwrap(), 0);
        assert_eq!(populate::<u64>(&Vec::new()).unwrap(), 0);
        assert_eq!(populate_slice::<u32>(&[]).unwrap(), 0);
    }
}
