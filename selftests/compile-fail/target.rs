// SPDX-License-Identifier: GPL-2.0

//! A correct target. `run` appends `pub mod dm`, which is src/dm, and the cases. It compiles the
//! result as the crate of a module.

use dm::*;
use kernel::prelude::*;

target_module! {
    type: Probe,
    name: "dm_probe",
    authors: ["dm-lease contributors"],
    description: "Target of the compile-fail tests",
    license: "GPL",
}

/// The target type, and the state of the module, which is empty.
pub struct Probe;

impl TargetModule for Probe {
    type Target = Self;

    fn init() -> impl PinInit<Self, Error> {
        Ok(Self)
    }
}

/// One instance.
#[pin_data]
pub struct Instance<'ti> {
    /// The device below.
    pub dev: DmDevice<'ti>,
    /// A place for a second device.
    #[pin]
    pub spare: kernel::sync::Mutex<Option<DmDevice<'ti>>>,
}

#[vtable]
impl Target for Probe {
    const NAME: &'static CStr = c"probe";
    const VERSION: [u32; 3] = [1, 0, 0];
    type Data<'ti> = Instance<'ti>;
    type PerBio = u64;
    const TRACKED: Tracked = Tracked::AllButReads;

    fn ctr<'ti>(
        ti: &mut TargetBuilder<'ti>,
        mut args: Args<'_>,
    ) -> Result<impl PinInit<Instance<'ti>, CtrError>, CtrError> {
        let path = args.next().or_ctr(c"Missing device")?;
        let dev = ti.get_device(path).or_ctr(c"Device lookup failed")?;
        Ok(try_pin_init!(Instance {
            dev,
            spare <- kernel::new_mutex!(None),
        }? CtrError))
    }

    fn map<'ti>(data: &Instance<'ti>, bio: MapBio<'ti, Self>) -> MapOutcome<'ti> {
        let sector = bio.sector();
        bio.remap(data.dev, sector)
    }

    fn end_io<'ti>(_data: &Instance<'ti>, bio: EndBio<'ti, Self>) -> EndOutcome<'ti> {
        bio.pass_on()
    }

    fn status(_: &Instance<'_>, _: &DmTarget, _: StatusKind, _: &mut TextWriter<'_>) {}

    fn iterate_devices<'ti>(data: &Instance<'ti>, ti: &DmTarget, visitor: &mut Visitor<'ti>) {
        visitor.visit(data.dev, 0, ti.len_sectors());
    }
}
