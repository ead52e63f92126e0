// SPDX-License-Identifier: GPL-2.0

//! An atomic 64-bit word whose operations need no function call.
//!
//! In a kernel built with gcc each operation of [`kernel::sync::atomic::Atomic`] calls a C
//! function, because Rust cannot inline code that gcc has compiled. On the path of a bio the calls
//! would be half of the cost. [`Word64`] has the operations that such a path needs. All other code
//! uses `Atomic`. The operations have the same meaning as in the kernel's memory model
//! (`Documentation/memory-barriers.txt`, `tools/memory-model`):
//!
//! | here | in C | order |
//! |---|---|---|
//! | [`Word64::peek`] | `atomic64_read()` | none |
//! | [`Word64::load`] | `atomic64_read_acquire()` | acquire |
//! | [`Word64::swap`] | `atomic64_xchg()` | full |
//! | [`Word64::compare_exchange`] | `atomic64_cmpxchg()` | full if it succeeds |
//! | [`Word64::fetch_add`] | `atomic64_fetch_add()` | full |
//!
//! On x86-64 they are the same instructions as in `arch/x86/include/asm/atomic64_64.h`: plain
//! loads, which the processor keeps in order, and locked instructions, which are full barriers. On
//! other architectures `Word64` is a wrapper of `Atomic`.

#[cfg(target_arch = "x86_64")]
mod arch {
    use core::{
        arch::asm,
        cell::UnsafeCell,
        sync::atomic::{compiler_fence, Ordering},
    };

    /// An atomic 64-bit word; see the module documentation.
    #[repr(transparent)]
    pub struct Word64(UnsafeCell<u64>);

    // SAFETY: The methods change the word only by single locked instructions, and read it only by
    // single aligned loads.
    unsafe impl Sync for Word64 {}

    impl Word64 {
        /// Makes a word with this value.
        pub const fn new(value: u64) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// Reads the word, in no order with other accesses.
        #[inline(always)]
        pub fn peek(&self) -> u64 {
            // SAFETY: The pointer is valid and aligned. A volatile load of this size is one load.
            unsafe { self.0.get().read_volatile() }
        }

        /// Reads the word.
        #[inline(always)]
        pub fn load(&self) -> u64 {
            // SAFETY: The pointer is valid and aligned. A volatile load of this size is one load.
            let value = unsafe { self.0.get().read_volatile() };
            compiler_fence(Ordering::Acquire);
            value
        }

        /// Replaces the value and returns the old one.
        #[inline(always)]
        pub fn swap(&self, mut value: u64) -> u64 {
            // SAFETY: The pointer is valid and aligned. `xchg` with memory is locked without a
            // prefix.
            unsafe {
                asm!("xchg qword ptr [{word}], {value}", word = in(reg) self.0.get(),
                     value = inout(reg) value, options(nostack, preserves_flags))
            };
            value
        }

        /// Replaces `old` by `new`. Returns the value that was found, in `Err` if it is not `old`.
        #[inline(always)]
        pub fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
            let found: u64;
            // SAFETY: The pointer is valid and aligned.
            unsafe {
                asm!("lock cmpxchg qword ptr [{word}], {new}", word = in(reg) self.0.get(),
                     new = in(reg) new, inout("rax") old => found, options(nostack))
            };
            match found == old {
                true => Ok(found),
                false => Err(found),
            }
        }

        /// Adds `value`, wrapping around, and returns the old value.
        #[inline(always)]
        pub fn fetch_add(&self, mut value: u64) -> u64 {
            // SAFETY: The pointer is valid and aligned.
            unsafe {
                asm!("lock xadd qword ptr [{word}], {value}", word = in(reg) self.0.get(),
                     value = inout(reg) value, options(nostack))
            };
            value
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use kernel::sync::atomic::{ordering, Atomic};

    /// An atomic 64-bit word; see the module documentation.
    #[repr(transparent)]
    pub struct Word64(Atomic<u64>);

    impl Word64 {
        /// Makes a word with this value.
        pub const fn new(value: u64) -> Self {
            Self(Atomic::new(value))
        }

        /// Reads the word, in no order with other accesses.
        pub fn peek(&self) -> u64 {
            self.0.load(ordering::Relaxed)
        }

        /// Reads the word.
        pub fn load(&self) -> u64 {
            self.0.load(ordering::Acquire)
        }

        /// Replaces the value and returns the old one.
        pub fn swap(&self, value: u64) -> u64 {
            self.0.xchg(value, ordering::Full)
        }

        /// Replaces `old` by `new`. Returns the value that was found, in `Err` if it is not `old`.
        pub fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
            self.0.cmpxchg(old, new, ordering::Full)
        }

        /// Adds `value`, wrapping around, and returns the old value.
        pub fn fetch_add(&self, value: u64) -> u64 {
            self.0.fetch_add(value, ordering::Full)
        }
    }
}

pub use arch::Word64;
