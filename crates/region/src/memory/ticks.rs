//! The processor's own counter: what tells in a few nanoseconds that nothing is due.

/// The counter, if this machine has one that runs evenly at all times.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(crate) fn ticks() -> Option<u64> {
    use std::sync::OnceLock;
    static EVEN: OnceLock<bool> = OnceLock::new();
    let even = EVEN.get_or_init(|| {
        let known = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = known.lines().find(|line| line.starts_with("flags"));
        flags.is_some_and(|flags| {
            let has = |flag| flags.split_whitespace().any(|f| f == flag);
            has("constant_tsc") && has("nonstop_tsc")
        })
    });
    // SAFETY: every x86-64 has RDTSC; it has no effect but its answer.
    even.then(|| unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub(crate) fn ticks() -> Option<u64> {
    None
}
