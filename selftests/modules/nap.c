// SPDX-License-Identifier: GPL-2.0
/*
 * nap: the system sleeps for a moment, and no PM notifier has announced it.
 *
 * usage: insmod dm_lease_nap.ko ms=N
 *
 * That is what happens in a Xen guest that is saved, and when a kernel comes back from the kernel
 * that it had started by kexec: with one processor and interrupts off the system's core is suspended
 * and resumed. Devices do not notice. The module prints CLOCK_MONOTONIC_RAW at the end of the sleep,
 * which is what it was at the beginning. Loading it fails with EAGAIN in any case, so that it need
 * not be unloaded.
 */

#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/syscore_ops.h>
#include <linux/timekeeping.h>

static unsigned int ms = 10;
module_param(ms, uint, 0);
MODULE_PARM_DESC(ms, "how long to sleep, in milliseconds");

static int __init nap_init(void)
{
	unsigned long flags;
	unsigned int left;
	u64 raw_ns;
	int ret;

	if (num_online_cpus() != 1)
		return -EBUSY;
	local_irq_save(flags);
	/* As suspend_enter() does: the ACPI code of the system's core takes semaphores then. */
	system_state = SYSTEM_SUSPEND;
	ret = syscore_suspend();
	if (!ret) {
		for (left = ms; left; left--)
			udelay(1000);
		syscore_resume();
	}
	raw_ns = ktime_get_raw_fast_ns();
	system_state = SYSTEM_RUNNING;
	local_irq_restore(flags);
	if (ret)
		return ret;
	pr_notice("dm_lease_nap: slept, raw %llu\n", raw_ns);
	return -EAGAIN;
}

module_init(nap_init);
MODULE_DESCRIPTION("A sleep that nothing announces, for the tests of dm_lease");
MODULE_LICENSE("GPL");
