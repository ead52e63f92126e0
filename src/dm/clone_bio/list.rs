// SPDX-License-Identifier: GPL-2.0

//! Lists of bios and completions that a target holds.

use super::Held;
use crate::dm::{
    bindings,
    bio::Bio, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// A first-in first-out list of held bios, linked by the `bi_next` field of the bios.
///
/// Dropping the list drops its elements, which ends them with an I/O error.
///
/// # Invariants
///
/// - `head` is the first of `len` bios, each of which points to the next one by `bi_next`. `tail`
///   is the last one, whose `bi_next` is null.
/// - `head` and `tail` are `None` if and only if the list is empty.
/// - Each bio is a result of [`Held::into_bio`] of `H` and is owned by the list.
pub struct BioList<H: Held> {
    head: Option<NonNull<bindings::bio>>,
    tail: Option<NonNull<bindings::bio>>,
    len: usize,
    _held: PhantomData<H>,
}

// SAFETY: The list owns its elements, and each of them may be sent to another thread.
unsafe impl<H: Held + Send> Send for BioList<H> {}

impl<H: Held> BioList<H> {
    /// Makes an empty list.
    pub const fn new() -> Self {
        // INVARIANT: The list is empty.
        Self {
            head: None,
            tail: None,
            len: 0,
            _held: PhantomData,
        }
    }

    /// Returns how many bios are in the list.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Returns the first bio, which [`BioList::pop`] would remove.
    pub fn front(&self) -> Option<&Bio> {
        // SAFETY: `Bio` is a transparent wrapper. By the type invariant the list, which is
        // borrowed, owns the bio.
        self.head.map(|bio| unsafe { bio.cast().as_ref() })
    }

    /// Adds a bio at the end.
    pub fn push(&mut self, held: H) {
        let bio = held.into_bio();
        // SAFETY: `into_bio` has just transferred the bio to the list.
        unsafe { (*bio.as_ptr()).bi_next = core::ptr::null_mut() };
        match self.tail {
            // SAFETY: By the type invariant the list owns its last bio.
            Some(tail) => unsafe { (*tail.as_ptr()).bi_next = bio.as_ptr() },
            None => self.head = Some(bio),
        }
        // INVARIANT: The bio is the new last one and ends the chain.
        self.tail = Some(bio);
        self.len = self.len.wrapping_add(1);
    }

    /// Adds a bio at the front.
    pub fn push_front(&mut self, held: H) {
        let bio = held.into_bio();
        let first = self.head.map_or(core::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: `into_bio` has just transferred the bio to the list.
        unsafe { (*bio.as_ptr()).bi_next = first };
        // INVARIANT: The bio is the new first one, and the last one if there was none.
        self.head = Some(bio);
        self.tail = self.tail.or(Some(bio));
        self.len = self.len.wrapping_add(1);
    }

    /// Removes the first bio.
    pub fn pop(&mut self) -> Option<H> {
        let bio = self.head?;
        // SAFETY: By the type invariant the list owns its first bio.
        let next =
            unsafe { core::mem::replace(&mut (*bio.as_ptr()).bi_next, core::ptr::null_mut()) };
        // INVARIANT: The chain starts with the second bio now, or is empty.
        self.head = NonNull::new(next);
        if self.head.is_none() {
            self.tail = None;
        }
        self.len = self.len.wrapping_sub(1);
        // SAFETY: By the type invariant the bio is a result of `H::into_bio` that the list owned.
        // The list no longer refers to it.
        Some(unsafe { H::from_bio(bio) })
    }

    /// Returns all bios and leaves the list empty. A target uses this under its lock, and disposes
    /// of the bios after it has released the lock.
    #[must_use]
    pub fn take_all(&mut self) -> Self {
        core::mem::take(self)
    }

    /// Moves all bios of `other` to the end of this list.
    pub fn append(&mut self, mut other: Self) {
        // INVARIANT: The two chains are joined. `other` is empty before it is dropped.
        let Some(head) = other.head.take() else {
            return;
        };
        match self.tail {
            // SAFETY: By the type invariant the list owns its last bio.
            Some(tail) => unsafe { (*tail.as_ptr()).bi_next = head.as_ptr() },
            None => self.head = Some(head),
        }
        self.tail = other.tail.take();
        self.len = self.len.wrapping_add(other.len);
        other.len = 0;
    }
}

impl<H: Held> Default for BioList<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Held> Iterator for BioList<H> {
    type Item = H;

    fn next(&mut self) -> Option<H> {
        self.pop()
    }
}

impl<H: Held> Drop for BioList<H> {
    fn drop(&mut self) {
        while let Some(held) = self.pop() {
            drop(held);
        }
    }
}
