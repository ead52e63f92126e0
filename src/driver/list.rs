// SPDX-License-Identifier: GPL-2.0

//! A list whose elements are allocated before the lock of the list is taken.
//!
//! Adding an element to a vector may allocate, and an allocation may wait for memory that is
//! written back through a suspended device. A [`Chain`] takes [`Link`]s that exist already, and
//! gives them back when they are removed, so that they are freed without the lock too [R60].
//!
//! Locking: none; the owner of a chain protects it.

use kernel::{alloc::AllocError, prelude::*};

/// One element, and the place of the next one.
pub struct Link<T> {
    value: T,
    next: Option<KBox<Link<T>>>,
}

impl<T> Link<T> {
    /// Allocates an element. May wait for I/O: call it without any lock.
    pub fn new(value: T) -> Result<KBox<Self>, AllocError> {
        KBox::new(Self { value, next: None }, GFP_KERNEL)
    }

    /// The value of an element that is in no chain.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The same, to be changed.
    pub fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// The list; the element that was added last comes first.
pub struct Chain<T> {
    first: Option<KBox<Link<T>>>,
}

impl<T> Chain<T> {
    /// A list without elements.
    pub const EMPTY: Self = Self { first: None };

    /// Adds an element.
    pub fn push(&mut self, mut link: KBox<Link<T>>) {
        link.next = self.first.take();
        self.first = Some(link);
    }

    /// Removes the first element for which `is_it` holds, and returns it.
    pub fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<KBox<Link<T>>> {
        let mut place = &mut self.first;
        while place.as_ref().is_some_and(|link| !is_it(&link.value)) {
            place = &mut place.as_mut()?.next;
        }
        let mut taken = place.take()?;
        *place = taken.next.take();
        Some(taken)
    }

    /// The values, that of the element added last first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let first = self.first.as_deref();
        core::iter::successors(first, |link| link.next.as_deref()).map(|link| &link.value)
    }

    /// The first value for which `is_it` holds.
    pub fn find_mut(&mut self, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        let mut next = self.first.as_deref_mut();
        while let Some(link) = next {
            if is_it(&link.value) {
                return Some(&mut link.value);
            }
            next = link.next.as_deref_mut();
        }
        None
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl<T> Drop for Chain<T> {
    fn drop(&mut self) {
        // One after the other: a long chain must not be a deep recursion.
        while let Some(link) = self.take(|_| true) {
            drop(link);
        }
    }
}
