//! What the examples that move a guest within one process have in common.

use vmm::{PAGE_BYTES, Vm};

/// Copies the memory that `from` has, neither of them running. Returns how many pages that were.
///
/// # Errors
/// If it cannot be told what there is.
pub fn copy_memory(from: &Vm, to: &Vm) -> Result<u64, Box<dyn std::error::Error>> {
    let mut resident = vec![0; from.memory().bitmap_words()];
    from.memory().resident(&mut resident)?;
    let mut pages = 0;
    for page in 0..from.memory().page_count() {
        if resident[(page / 64) as usize] >> (page % 64) & 1 == 1 {
            let at = (page * PAGE_BYTES) as usize;
            // SAFETY: both memories have this page, they are apart, and no vCPU of either runs.
            unsafe {
                let (from, to) = (from.memory().as_ptr().add(at), to.memory().as_ptr().add(at));
                std::ptr::copy_nonoverlapping(from, to, PAGE_BYTES as usize);
            }
            pages += 1;
        }
    }
    Ok(pages)
}
