// SPDX-License-Identifier: GPL-2.0

//! Finding out when dm core has mapped everything that it deferred during a suspend.
//!
//! While a device is suspended, dm core puts the bios that are sent to it into a list. After the
//! resume a work item of the device maps them, in this order, beside those that arrive then
//! (`dm_wq_work()` in `drivers/md/dm.c`). Nothing tells a target when it has come to the end.
//!
//! A [`Marker`] is an empty bio that the target sends to its own device from [`Target::resume`],
//! when bios are still deferred: so it becomes the last one of the list. When it is mapped
//! ([`MapBio::is_marker`]), everything that was deferred before has been mapped.
//!
//! ```text
//!   resume: send() --> deferred list --> map: is_marker() --> end() --> it may be sent again
//! ```
//!
//! A bio that blk-throttle holds back once more, between the list and `map`, is not covered: to the
//! target it is one that arrives later.
//!
//! [`Target::resume`]: super::Target::resume
//! [`MapBio::is_marker`]: super::MapBio::is_marker

use super::{
    bindings,
    module::Use,
    target::DmTarget,
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

/// See the top of the file.
///
/// # Invariants
///
/// While `is_out`, `bio` has been handed to dm core and has not ended, and a reference on this
/// value belongs to it; otherwise nobody uses `bio`.
#[pin_data]
pub struct Marker {
    #[pin]
    bio: Opaque<bindings::bio>,
    /// Its address tells a clone of the marker from every other bio. Nothing is ever read from it,
    /// since the bio is empty.
    #[pin]
    vec: Opaque<bindings::bio_vec>,
    is_out: Atomic<bool>,
    #[pin]
    back: WaitQueue,
    _in_use: Use,
}

// SAFETY: The task that sets `is_out` has the bio to itself; nothing is bound to a thread.
unsafe impl Send for Marker {}
// SAFETY: As above.
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

    /// Puts the marker behind everything that was deferred for the device of `ti`, unless it is
    /// there already. Only from `preresume` or `resume`: at other times it would be mapped at once.
    /// In an interrupt nothing happens.
    pub fn send(self: &Arc<Self>, ti: &DmTarget) {
        // In an interrupt dm core would use the list of bios of the interrupted task.
        // SAFETY: Has no preconditions.
        let in_task = unsafe { bindings::dm_in_task() };
        if !in_task || self.is_out.xchg(true, ordering::Full) {
            return;
        }
        let bio = self.bio.get();
        let opf = bindings::req_op_REQ_OP_WRITE;
        // SAFETY: By the type invariant nobody uses the bio, as `is_out` was false, and what it
        // points to lives until it has ended.
        unsafe { bindings::bio_init(bio, ti.as_bdev_ptr(), self.vec.get(), 0, opf) };
        // INVARIANT: This is the reference that belongs to the bio.
        let owner = Arc::into_raw(self.clone());
        // SAFETY: The bio is initialised and ours.
        unsafe { (*bio).bi_private = owner.cast_mut().cast() };
        // SAFETY: As above.
        unsafe { (*bio).bi_end_io = Some(Self::end_io) };
        // SAFETY: The bio is complete. This is what the block layer calls for a bio of the device,
        // which exists; it is left out because it could hold the bio back, so that the marker would
        // not be the last one.
        unsafe { bindings::dm_target_md_submit_bio(ti.as_raw(), bio) };
    }

    /// Waits until the marker is not out. The device must not be suspended.
    pub fn wait(&self) {
        self.back.wait(|| !self.is_out.load(ordering::Acquire));
    }

    /// Returns what the clones of the marker point to, and no other bio does.
    pub(super) fn vec_ptr(&self) -> *mut bindings::bio_vec {
        self.vec.get()
    }

    /// # Safety
    ///
    /// Only for the block layer: `bio` was sent by [`Marker::send`] and has ended.
    unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
        // SAFETY: `send` stored the reference that belongs to the bio. It is dropped last, and with
        // it, perhaps, the last `Use` of the module, whose end waits for this function.
        let marker = unsafe { Arc::from_raw((*bio).bi_private.cast_const().cast::<Self>()) };
        // SAFETY: The bio is ours again; drops what the block layer attached to it.
        unsafe { bindings::bio_uninit(bio) };
        // INVARIANT: The bio has ended, and its reference ends below.
        let _ = marker.is_out.xchg(false, ordering::Full);
        marker.back.wake_all();
    }
}
