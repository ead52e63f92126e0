// SPDX-License-Identifier: GPL-2.0
/*
 * fork: this virtual machine is told that it was copied.
 *
 * usage: insmod dm_lease_fork.ko
 *
 * It calls what the kernel's driver for vmgenid calls when the hypervisor has changed the generation
 * number. That function is not exported; a kprobe knows where it is. Loading the module fails with
 * EAGAIN in any case, so that it need not be unloaded.
 */

#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/random.h>

static int __init copied_init(void)
{
	struct kprobe probe = { .symbol_name = "add_vmfork_randomness" };
	void (*tell)(const void *id, size_t size);
	u8 id[16];
	int ret;

	ret = register_kprobe(&probe);
	if (ret)
		return ret;
	tell = (void *)probe.addr;
	unregister_kprobe(&probe);
	get_random_bytes(id, sizeof(id));
	tell(id, sizeof(id));
	pr_notice("dm_lease_fork: this machine is a copy\n");
	return -EAGAIN;
}

module_init(copied_init);
MODULE_DESCRIPTION("Tells a virtual machine that it was copied, for the tests of dm_lease");
MODULE_LICENSE("GPL");
