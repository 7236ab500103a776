//! Copies of whole lines into and out of shared memory.
//!
//! A plain `memcpy` from memory that another process changes would be a data race to the
//! compiler, and a loop of atomics is never made into vector instructions: 8 bytes a step
//! cannot keep up with a cache that delivers 64. Hence instructions of our own, which the
//! compiler takes as they are: racing accesses are then the processor's matter, which
//! moves each aligned word whole.

/// How lines are copied. For all: what is read and what is written is mapped, writable
/// where it is written, and does not overlap. No alignment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    /// So many lines in a row, from the second to the first address.
    pub(super) run: unsafe fn(*mut u8, *const u8, usize),
    /// The lines of these numbers.
    pub(super) listed: unsafe fn(*mut u8, *const u8, &[u32]),
}

/// How many lines ahead a scattered copy has the next ones fetched, where they come from and where
/// they go: of 8, 16, 32 and 48 this was fastest for lines in the second cache and beyond.
pub(super) const AHEAD: usize = 16;

/// The widest copy this processor has; none: word by word.
pub(super) fn fastest() -> Option<Ways> {
    all().into_iter().next()
}

/// All this processor has, the widest first.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) fn all() -> Vec<Ways> {
    let mut all = Vec::new();
    if std::arch::is_x86_feature_detected!("avx512f") {
        all.push(Ways {
            run: x86::avx512,
            listed: x86::avx512_listed,
        });
    }
    if std::arch::is_x86_feature_detected!("avx") {
        all.push(Ways {
            run: x86::avx,
            listed: x86::each::<{ x86::AVX }>,
        });
    }
    all.push(Ways {
        run: x86::sse,
        listed: x86::each::<{ x86::SSE }>,
    });
    all
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(super) fn all() -> Vec<Ways> {
    Vec::new()
}

/// Has a line fetched for a store.
#[inline]
pub(super) fn expect_store(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint: whatever the address, nothing changes; no-operation where unknown.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) line.addr(), options(nostack, preserves_flags, nomem));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = line;
}

/// Has a line fetched for a load.
#[inline]
pub(super) fn expect_load(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prefetcht1 [{}]", in(reg) line.addr(), options(nostack, preserves_flags, nomem));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = line;
}

/// Has a line fetched for a load that comes next.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
fn expect_load_first(line: *const u8) {
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prefetcht0 [{}]", in(reg) line.addr(), options(nostack, preserves_flags, nomem));
    }
}

/// Copies one line. Part of the caller, and yet opaque: of a loop of words the compiler makes
/// bytes, once somebody looks at bytes, and keeps sixty-four of them apart.
///
/// # Safety
/// As [`Ways`], of one line.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
pub(super) unsafe fn line(to: *mut u8, from: *const u8) {
    // SAFETY: as promised by the caller; every x86-64 has SSE2.
    unsafe {
        core::arch::asm!(
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            "movdqu [{to} + 32], {c}",
            "movdqu [{to} + 48], {d}",
            from = in(reg) from,
            to = in(reg) to,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// The same word by word.
///
/// # Safety
/// As [`Ways`], of one line; what is read begins at a word.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
pub(super) unsafe fn line(to: *mut u8, from: *const u8) {
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
    for at in (0..super::LINE).step_by(size_of::<u64>()) {
        // SAFETY: as promised by the caller; words of shared memory are atomics.
        unsafe {
            let word = AtomicU64::from_ptr(from.add(at).cast_mut().cast()).load(Relaxed);
            to.add(at).cast::<u64>().write_unaligned(word);
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use core::arch::asm;

    use super::{AHEAD, expect_load_first, expect_store, line};

    pub(super) const AVX: u8 = 1;
    pub(super) const SSE: u8 = 0;

    #[inline(always)]
    fn expect(to: *mut u8, from: *const u8, line: u32) {
        let at = line as usize * 64;
        expect_store(to.wrapping_add(at));
        expect_load_first(from.wrapping_add(at));
    }

    /// # Safety
    /// As [`super::Ways`], on a processor that has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512_listed(to: *mut u8, from: *const u8, list: &[u32]) {
        for (index, line) in list.iter().enumerate() {
            if let Some(ahead) = list.get(index + AHEAD) {
                expect(to, from, *ahead);
            }
            // SAFETY: as promised by the caller; only declared registers and memory change.
            unsafe {
                let at = *line as usize * 64;
                asm!(
                    "vmovdqu64 zmm16, [{from}]",
                    "vmovdqu64 [{to}], zmm16",
                    from = in(reg) from.add(at),
                    to = in(reg) to.add(at),
                    out("zmm16") _,
                    options(nostack, preserves_flags),
                );
            }
        }
    }

    /// # Safety
    /// As [`super::Ways`], on a processor that has what is named.
    pub(super) unsafe fn each<const WAY: u8>(to: *mut u8, from: *const u8, list: &[u32]) {
        for (index, line) in list.iter().enumerate() {
            if let Some(ahead) = list.get(index + AHEAD) {
                expect(to, from, *ahead);
            }
            // SAFETY: as promised by the caller.
            unsafe {
                let at = *line as usize * 64;
                match WAY {
                    AVX => avx(to.add(at), from.add(at), 1),
                    _ => super::line(to.add(at), from.add(at)),
                }
            }
        }
    }

    /// # Safety
    /// As [`super::Ways`], on a processor that has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(to: *mut u8, from: *const u8, lines: usize) {
        // Registers 16 and above: their use costs later SSE code nothing.
        // SAFETY: as promised by the caller; only declared registers and memory change.
        unsafe {
            asm!(
                "cmp {fours}, 0",
                "je 3f",
                "2:",
                "vmovdqu64 zmm16, [{from}]",
                "vmovdqu64 zmm17, [{from} + 64]",
                "vmovdqu64 zmm18, [{from} + 128]",
                "vmovdqu64 zmm19, [{from} + 192]",
                "vmovdqu64 [{to}], zmm16",
                "vmovdqu64 [{to} + 64], zmm17",
                "vmovdqu64 [{to} + 128], zmm18",
                "vmovdqu64 [{to} + 192], zmm19",
                "add {from}, 256",
                "add {to}, 256",
                "dec {fours}",
                "jnz 2b",
                "3:",
                "cmp {ones}, 0",
                "je 5f",
                "4:",
                "vmovdqu64 zmm16, [{from}]",
                "vmovdqu64 [{to}], zmm16",
                "add {from}, 64",
                "add {to}, 64",
                "dec {ones}",
                "jnz 4b",
                "5:",
                from = inout(reg) from => _,
                to = inout(reg) to => _,
                fours = inout(reg) lines / 4 => _,
                ones = inout(reg) lines % 4 => _,
                out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                options(nostack),
            );
        }
    }

    /// # Safety
    /// As [`super::Ways`], on a processor that has AVX.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn avx(to: *mut u8, from: *const u8, lines: usize) {
        // SAFETY: as promised by the caller; only declared registers and memory change.
        unsafe {
            asm!(
                "cmp {lines}, 0",
                "je 3f",
                "2:",
                "vmovdqu ymm0, [{from}]",
                "vmovdqu ymm1, [{from} + 32]",
                "vmovdqu [{to}], ymm0",
                "vmovdqu [{to} + 32], ymm1",
                "add {from}, 64",
                "add {to}, 64",
                "dec {lines}",
                "jnz 2b",
                "vzeroupper",
                "3:",
                from = inout(reg) from => _,
                to = inout(reg) to => _,
                lines = inout(reg) lines => _,
                // vzeroupper clears the upper half of all of them.
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nostack),
            );
        }
    }

    /// # Safety
    /// As [`super::Ways`].
    pub(super) unsafe fn sse(to: *mut u8, from: *const u8, lines: usize) {
        for at in (0..lines).map(|line| line * 64) {
            // SAFETY: as promised by the caller.
            unsafe { line(to.add(at), from.add(at)) };
        }
    }
}
