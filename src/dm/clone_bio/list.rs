// SPDX-License-Identifier: GPL-2.0

//! Lists of bios and completions that a target keeps back.

use super::Held;
use crate::dm::{
    bindings,
    bio::Bio, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// A first-in first-out list of held bios, linked through the bios themselves.
///
/// Dropping the list drops what is in it, that is, fails it with [`BlkStatus::IOERR`].
///
/// # Invariants
///
/// `head` starts a chain of `len` bios linked by `bi_next` and ended by null, of which `tail` is
/// the last; each was given up by [`Held::into_bio`] of `H` and belongs to the list. Both are
/// `None` if and only if the list is empty.
pub struct BioList<H: Held> {
    head: Option<NonNull<bindings::bio>>,
    tail: Option<NonNull<bindings::bio>>,
    len: usize,
    _held: PhantomData<H>,
}

// SAFETY: The list owns its bios, and whoever may own one on another thread may own many.
unsafe impl<H: Held + Send> Send for BioList<H> {}

impl<H: Held> BioList<H> {
    /// Makes an empty list.
    pub const fn new() -> Self {
        // INVARIANT: No bio at all.
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

    /// Returns the bio that [`BioList::pop`] would remove.
    pub fn front(&self) -> Option<&Bio> {
        // SAFETY: `Bio` is transparent; the bio belongs to the list, which is borrowed.
        self.head.map(|bio| unsafe { bio.cast().as_ref() })
    }

    /// Adds a bio at the end.
    pub fn push(&mut self, held: H) {
        let bio = held.into_bio();
        // SAFETY: The bio is ours now.
        unsafe { (*bio.as_ptr()).bi_next = core::ptr::null_mut() };
        match self.tail {
            // SAFETY: The last bio belongs to the list.
            Some(tail) => unsafe { (*tail.as_ptr()).bi_next = bio.as_ptr() },
            None => self.head = Some(bio),
        }
        // INVARIANT: The bio is the new last one and ends the chain.
        self.tail = Some(bio);
        self.len = self.len.wrapping_add(1);
    }

    /// Puts a bio in front of all others.
    pub fn push_front(&mut self, held: H) {
        let bio = held.into_bio();
        let first = self.head.map_or(core::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: The bio is ours now.
        unsafe { (*bio.as_ptr()).bi_next = first };
        // INVARIANT: The bio is the new first one, and the last one if there was none.
        self.head = Some(bio);
        self.tail = self.tail.or(Some(bio));
        self.len = self.len.wrapping_add(1);
    }

    /// Removes the first bio.
    pub fn pop(&mut self) -> Option<H> {
        let bio = self.head?;
        // SAFETY: The first bio belongs to the list.
        let next =
            unsafe { core::mem::replace(&mut (*bio.as_ptr()).bi_next, core::ptr::null_mut()) };
        // INVARIANT: The chain starts with the second bio now, or is empty.
        self.head = NonNull::new(next);
        if self.head.is_none() {
            self.tail = None;
        }
        self.len = self.len.wrapping_sub(1);
        // SAFETY: By the type invariant the bio was given up by `H`, and the list forgot it.
        Some(unsafe { H::from_bio(bio) })
    }

    /// Returns all bios and leaves the list empty: the way to dispose of them outside of the lock.
    #[must_use]
    pub fn take_all(&mut self) -> Self {
        core::mem::take(self)
    }

    /// Moves all bios of `other` to the end of this list.
    pub fn append(&mut self, mut other: Self) {
        // INVARIANT: Both chains are joined; `other` forgets its own before it is dropped.
        let Some(head) = other.head.take() else {
            return;
        };
        match self.tail {
            // SAFETY: The last bio belongs to the list.
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
