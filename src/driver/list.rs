// SPDX-License-Identifier: GPL-2.0

//! A list whose elements are allocated before the lock of the list is taken.
//!
//! An element that is added to a vector may cause an allocation, and an allocation may wait for
//! memory that is written back through a suspended device [R60]. A [`List`] takes [`Node`]s that
//! were allocated before. It returns a node that is removed, so that the caller frees it without
//! the lock.
//!
//! Locking: none; the owner of a list protects it.

use kernel::{alloc::AllocError, prelude::*};

/// An element with the link to the next one.
pub struct Node<T> {
    value: T,
    next: Option<KBox<Node<T>>>,
}

impl<T> Node<T> {
    /// Allocates a node. May wait for I/O, so the caller holds no lock.
    pub fn new(value: T) -> Result<KBox<Self>, AllocError> {
        KBox::new(Self { value, next: None }, GFP_KERNEL)
    }

    /// The value of a node that is in no list.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The value of a node that is in no list, mutably.
    pub fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// A singly linked list; the element that was added last comes first.
pub struct List<T> {
    first: Option<KBox<Node<T>>>,
}

impl<T> List<T> {
    /// A list without elements.
    pub const EMPTY: Self = Self { first: None };

    /// Adds an element.
    pub fn push(&mut self, mut node: KBox<Node<T>>) {
        node.next = self.first.take();
        self.first = Some(node);
    }

    /// Removes the first element for which `is_it` holds, and returns it.
    pub fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<KBox<Node<T>>> {
        let mut place = &mut self.first;
        while place.as_ref().is_some_and(|node| !is_it(&node.value)) {
            place = &mut place.as_mut()?.next;
        }
        let mut taken = place.take()?;
        *place = taken.next.take();
        Some(taken)
    }

    /// The values; the one that was added last comes first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let first = self.first.as_deref();
        core::iter::successors(first, |node| node.next.as_deref()).map(|node| &node.value)
    }

    /// The first value for which `is_it` holds.
    pub fn find_mut(&mut self, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        let mut next = self.first.as_deref_mut();
        while let Some(node) = next {
            if is_it(&node.value) {
                return Some(&mut node.value);
            }
            next = node.next.as_deref_mut();
        }
        None
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl<T> Drop for List<T> {
    fn drop(&mut self) {
        // A loop, because recursion over a long list could overflow the stack.
        while let Some(node) = self.take(|_| true) {
            drop(node);
        }
    }
}
