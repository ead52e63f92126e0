// SPDX-License-Identifier: GPL-2.0

//! A marker behind the bios that dm core has deferred during a suspend.
//!
//! While a device is suspended, dm core puts the bios that are sent to it into a list. After the
//! resume a work item of the device maps them in this order, while new bios are mapped as well
//! (`dm_wq_work()` in `drivers/md/dm.c`). dm core does not tell the target when the list is empty.
//!
//! A [`Marker`] is an empty bio that the target sends to its own device from [`Target::resume`]. dm
//! core still defers bios then, so that the marker becomes the last one in the list. When the
//! marker is mapped ([`MapBio::is_marker`]), all bios that were deferred before have been mapped.
//!
//! ```text
//!   resume: send() --> deferred list --> map: is_marker() --> end() --> it may be sent again
//! ```
//!
//! blk-throttle may delay a bio between the list and `map`. To the target such a bio is one that
//! arrived after the resume.
//!
//! # Limits
//!
//! dm core can also suspend a device without calling its targets (`dm_internal_suspend_fast()`).
//! dm-stats does so when a region is created (`dmsetup stats create`), and dm-snapshot when it
//! merges into an origin. The target then sees neither `presuspend` nor `resume`, and no marker is
//! sent. dm core first waits for all bios of the device, including the held ones. The bios that it
//! defers meanwhile look to the target like bios that have just arrived.
//!
//! # States
//!
//! ```text
//!   out:     send() has handed the bio to dm core; it belongs to dm core
//!   not out: the bio has ended, or was never sent; it belongs to the marker
//! ```
//!
//! [`Target::resume`]: super::Target::resume
//! [`MapBio::is_marker`]: super::MapBio::is_marker

use super::{
    bindings,
    module::Use,
    target::Resuming,
    thread::{new_wait_queue, WaitQueue}, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc, //
    },
    types::Opaque, //
};

/// A bio by which a target learns that all deferred bios have been mapped; see the module
/// documentation.
///
/// # Invariants
///
/// - While `is_out`, dm core owns `bio`, which has not ended, and the bio owns a reference on this
///   value (`bi_private`).
/// - Otherwise no one uses `bio`.
#[pin_data]
pub struct Marker {
    #[pin]
    bio: Opaque<bindings::bio>,
    /// The address that `bi_io_vec` of the bio and of its clones has. No one reads the vector,
    /// because the bio is empty.
    #[pin]
    vec: Opaque<bindings::bio_vec>,
    is_out: Atomic<bool>,
    #[pin]
    back: WaitQueue,
    _in_use: Use,
}

// SAFETY: Neither the bio nor the wait queue is bound to a thread.
unsafe impl Send for Marker {}
// SAFETY: The one task that changes `is_out` to true uses the bio, until it has sent it.
unsafe impl Sync for Marker {}

impl Marker {
    /// Makes a marker. May sleep.
    pub fn new() -> Result<Arc<Self>> {
        let in_use = Use::new()?;
        Arc::pin_init(
            pin_init!(Self {
                bio: Opaque::zeroed(),
                vec: Opaque::zeroed(),
                is_out: Atomic::new(false),
                back <- new_wait_queue!("dm marker"),
                _in_use: in_use,
            }),
            GFP_KERNEL,
        )
    }

    /// Appends the marker to the bios that dm core has deferred for the device of `ti`, unless the
    /// marker is among them already. In an interrupt this does nothing.
    pub fn send(self: &Arc<Self>, ti: &Resuming<'_>) {
        // In an interrupt dm core would use `current->bio_list` of the interrupted task.
        // SAFETY: `in_task()` may be called in any context.
        let in_task = unsafe { bindings::dm_in_task() };
        if !in_task || self.is_out.xchg(true, ordering::Full) {
            return;
        }
        let bio = self.bio.get();
        let opf = bindings::req_op_REQ_OP_WRITE;
        // SAFETY: The disk of the mapped device exists, and `part0` does not change.
        let bdev = unsafe { (*ti.disk()).part0 };
        // SAFETY: By the type invariant no one uses the bio, because `is_out` was false. The bio
        // and the vector exist until the bio has ended, because it gets a reference below.
        unsafe { bindings::bio_init(bio, bdev, self.vec.get(), 0, opf) };
        // INVARIANT: The bio owns this reference.
        let owner = Arc::into_raw(self.clone());
        // SAFETY: The bio was initialised above and is ours.
        unsafe { (*bio).bi_private = owner.cast_mut().cast() };
        // SAFETY: The bio was initialised above and is ours.
        unsafe { (*bio).bi_end_io = Some(Self::end_io) };
        // The bio does not pass `submit_bio()`, which could throttle it. The marker would then not
        // be the last one in the list.
        // SAFETY: The bio is complete. `fops->submit_bio` of a bio-based mapped device is
        // `dm_submit_bio()`, and the block layer calls it in process context, too.
        unsafe { bindings::dm_disk_submit_bio(ti.disk(), bio) };
    }

    /// Waits until the bio has ended. The device must not be suspended, or the wait does not end.
    pub fn wait(&self) {
        self.back.wait(|| !self.is_out.load(ordering::Acquire));
    }

    /// Returns the address that `bi_io_vec` of the marker's clones has, and that of no other bio
    /// has.
    pub(super) fn vec_ptr(&self) -> *mut bindings::bio_vec {
        self.vec.get()
    }

    /// Takes the bio back.
    ///
    /// # Safety
    ///
    /// Only `bio_endio()` may call this. `bio` must be a bio that [`Marker::send`] has sent, and
    /// that has ended.
    unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
        // SAFETY: `send` stored the reference that the bio owns, and it is taken back once.
        // Dropping it at the end may drop the last `Use` of the module. The end of the module then
        // waits until this function has returned (`synchronize_rcu_tasks()`).
        let marker = unsafe { Arc::from_raw((*bio).bi_private.cast_const().cast::<Self>()) };
        // SAFETY: The bio has ended and is ours again. `bio_uninit()` drops the objects that the
        // block layer has attached to it.
        unsafe { bindings::bio_uninit(bio) };
        // INVARIANT: The bio has ended. Its reference is dropped at the end of this function.
        let _ = marker.is_out.xchg(false, ordering::Full);
        marker.back.wake_all();
    }
}
