// SPDX-License-Identifier: GPL-2.0

//! Keys, and the list of the registered keys of a device.

use crate::dm::bindings;
use core::num::NonZeroU64;
use kernel::prelude::*;

/// The key of a registered host. It is never zero, which the commands use for "no key".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key(NonZeroU64);

impl Key {
    /// Makes a key. Returns `None` for zero.
    pub const fn new(key: u64) -> Option<Self> {
        match NonZeroU64::new(key) {
            Some(key) => Some(Self(key)),
            None => None,
        }
    }

    /// Returns the key as a number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    pub(super) fn get_or_zero(key: Option<Self>) -> u64 {
        key.map_or(0, Self::get)
    }
}

/// The registered keys of a device, in memory that is allocated once.
///
/// # Invariants
///
/// `words` has one word for a `struct pr_keys` without its keys, and one for each key. There are at
/// least one and at most [`Self::MAX_CAPACITY`] of the latter.
pub struct KeyList {
    words: KVec<u64>,
    generation: u32,
    total: u32,
}

impl KeyList {
    /// The maximum number of keys. sd has 16 bits for the length of a list.
    pub const MAX_CAPACITY: u32 = 8190;

    /// The value that the generation has before the driver sets it.
    const UNSET: u32 = u32::MAX;

    /// Allocates a list with room for `capacity` keys. May sleep.
    ///
    /// NVMe sends 64 bytes for each key. If the list is longer than a transfer of the device can
    /// be, the driver refuses to read it ([`Failure::Unsupported`](super::Failure::Unsupported)).
    ///
    /// Errors: `EINVAL` for no keys, and for more than [`Self::MAX_CAPACITY`].
    pub fn new(capacity: u32) -> Result<Self> {
        if capacity == 0 || capacity > Self::MAX_CAPACITY {
            return Err(EINVAL);
        }
        let len = (capacity as usize).saturating_add(1);
        // INVARIANT: There is one word more than the capacity.
        Ok(Self {
            words: KVec::from_elem(0, len, GFP_KERNEL)?,
            generation: 0,
            total: 0,
        })
    }

    /// Returns the number of keys for which there is room.
    pub fn capacity(&self) -> u32 {
        // By the type invariant this neither overflows nor is negative.
        (self.words.len() as u32).saturating_sub(1)
    }

    /// Returns the number of changes of the registrations since the device started.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns the number of registrations that the device has, which may be more than the list has
    /// room for.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Returns whether the device has more registrations than the list has room for. Then a key
    /// that is not in the list may be registered.
    pub fn is_cut(&self) -> bool {
        self.total > self.capacity()
    }

    /// Returns the keys in the order of the device. A host that is registered through several paths
    /// may occur several times. `None` is a registration with the key zero, which NVMe knows; see
    /// [`Reservations::unregister`](super::Reservations::unregister).
    pub fn keys(&self) -> impl Iterator<Item = Option<Key>> + '_ {
        let listed = self.total.min(self.capacity()) as usize;
        // The first word is no key.
        let keys = self.words.iter().skip(1).take(listed);
        keys.map(|key| Key::new(*key))
    }

    /// Returns whether the list has `key`.
    pub fn contains(&self, key: Key) -> bool {
        self.keys().any(|listed| listed == Some(key))
    }

    /// Empties the list, and fills in what the driver expects. The pointer is valid for the header
    /// and for [`Self::capacity`] keys, until the list is used otherwise.
    pub(super) fn prepare(&mut self) -> *mut bindings::pr_keys {
        let num_keys = self.capacity();
        self.total = 0;
        self.generation = 0;
        self.words.iter_mut().for_each(|word| *word = 0);
        let keys = self.words.as_mut_ptr().cast::<bindings::pr_keys>();
        let header = bindings::pr_keys {
            generation: Self::UNSET,
            num_keys,
            ..Default::default()
        };
        // SAFETY: By the type invariant there is a word for the header, which has the size and the
        // alignment of a word.
        unsafe { keys.write(header) };
        keys
    }

    /// Takes the header that the driver has filled in. Returns `false` if no driver did: dm core
    /// reports success also then.
    pub(super) fn accept(&mut self) -> bool {
        let keys = self.words.as_ptr().cast::<bindings::pr_keys>();
        // SAFETY: By the type invariant there is a word for the header. All words are initialised,
        // and each value of a word is a valid header.
        let (generation, total) = unsafe { ((*keys).generation, (*keys).num_keys) };
        let is_untouched = generation == Self::UNSET
            && total == self.capacity()
            && self.words.iter().skip(1).all(|key| *key == 0);
        if is_untouched {
            return false;
        }
        self.generation = generation;
        self.total = total;
        true
    }
}

// The header of `struct pr_keys` is the first word of a list, and the keys are the others.
static_assert!(size_of::<bindings::pr_keys>() == size_of::<u64>());
static_assert!(align_of::<bindings::pr_keys>() == align_of::<u64>());
