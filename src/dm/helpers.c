// SPDX-License-Identifier: GPL-2.0
/*
 * C bodies for inline functions and macros that Rust cannot call.
 *
 * Each function has one line, which calls the C function or macro that follows rust_helper_ in its
 * name. bindings.rs declares it under the C name. A function named dm_* is one expression of more
 * than one C name.
 */

#include <linux/blkdev.h>
#include <linux/cred.h>
#include <linux/device-mapper.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/pr.h>
#include <linux/preempt.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>

/* These functions have no declaration in C, because only Rust calls them. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wmissing-declarations"

/* Bios. */

void rust_helper_bio_wouldblock_error(struct bio *bio)
{
	bio_wouldblock_error(bio);
}

/* Mapped devices. */

dev_t rust_helper_disk_devt(struct gendisk *disk)
{
	return disk_devt(disk);
}

unsigned int rust_helper_disk_openers(struct gendisk *disk)
{
	return disk_openers(disk);
}

void rust_helper_dm_disk_submit_bio(struct gendisk *disk, struct bio *bio)
{
	disk->fops->submit_bio(bio);
}

/* To lockdep the code between these two is code that memory reclaim waits for. */

void rust_helper_dm_reclaim_waits_begin(void)
{
	fs_reclaim_acquire(GFP_KERNEL);
}

void rust_helper_dm_reclaim_waits_end(void)
{
	fs_reclaim_release(GFP_KERNEL);
}

/* Block devices. */

sector_t rust_helper_bdev_nr_sectors(struct block_device *bdev)
{
	return bdev_nr_sectors(bdev);
}

unsigned int rust_helper_bdev_logical_block_size(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

unsigned int rust_helper_bdev_physical_block_size(struct block_device *bdev)
{
	return bdev_physical_block_size(bdev);
}

bool rust_helper_bdev_is_zoned(struct block_device *bdev)
{
	return bdev_is_zoned(bdev);
}

bool rust_helper_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

bool rust_helper_bdev_write_cache(struct block_device *bdev)
{
	return bdev_write_cache(bdev);
}

bool rust_helper_bdev_fua(struct block_device *bdev)
{
	return bdev_fua(bdev);
}

void rust_helper_bdev_name(struct block_device *bdev, char *buffer, size_t size)
{
	scnprintf(buffer, size, "%pg", bdev);
}

struct file *rust_helper_bdev_open_as_kernel(dev_t dev, blk_mode_t mode)
{
	scoped_with_kernel_creds()
		return bdev_file_open_by_dev(dev, mode, NULL, NULL);
}

bool rust_helper_bdev_is_partition(struct block_device *bdev)
{
	return bdev_is_partition(bdev);
}

/* Reservations. The function of the driver must not be null. No command has a flag. */

const struct pr_ops *rust_helper_dm_bdev_pr_ops(struct block_device *bdev)
{
	return bdev->bd_disk->fops->pr_ops;
}

int rust_helper_dm_bdev_pr_register(struct block_device *bdev, u64 old_key, u64 new_key)
{
	return bdev->bd_disk->fops->pr_ops->pr_register(bdev, old_key, new_key, 0);
}

int rust_helper_dm_bdev_pr_reserve(struct block_device *bdev, u64 key, u32 type)
{
	return bdev->bd_disk->fops->pr_ops->pr_reserve(bdev, key, type, 0);
}

int rust_helper_dm_bdev_pr_release(struct block_device *bdev, u64 key, u32 type)
{
	return bdev->bd_disk->fops->pr_ops->pr_release(bdev, key, type);
}

int rust_helper_dm_bdev_pr_preempt(struct block_device *bdev, u64 own, u64 victim, u32 type,
				   bool abort)
{
	return bdev->bd_disk->fops->pr_ops->pr_preempt(bdev, own, victim, type, abort);
}

int rust_helper_dm_bdev_pr_clear(struct block_device *bdev, u64 key)
{
	return bdev->bd_disk->fops->pr_ops->pr_clear(bdev, key);
}

int rust_helper_dm_bdev_pr_read_keys(struct block_device *bdev, struct pr_keys *keys)
{
	return bdev->bd_disk->fops->pr_ops->pr_read_keys(bdev, keys);
}

int rust_helper_dm_bdev_pr_read_reservation(struct block_device *bdev,
					    struct pr_held_reservation *held)
{
	return bdev->bd_disk->fops->pr_ops->pr_read_reservation(bdev, held);
}

/* Allocations between these two do not wait for I/O. */

unsigned int rust_helper_memalloc_noio_save(void)
{
	return memalloc_noio_save();
}

void rust_helper_memalloc_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

/* Threads. The "%s" keeps a name from being used as a format. */

struct task_struct *rust_helper_dm_kthread_create(int (*main)(void *), void *data, const char *name)
{
	return kthread_create(main, data, "%s", name);
}

void rust_helper_dm_set_current_state_idle(void)
{
	set_current_state(TASK_IDLE);
}

void rust_helper_dm_set_current_state_running(void)
{
	__set_current_state(TASK_RUNNING);
}

bool rust_helper_dm_in_task(void)
{
	return in_task();
}

/* Notifiers. Without CONFIG_VMGENID these do nothing and succeed. */

int rust_helper_dm_register_vmfork_notifier(struct notifier_block *block)
{
	return register_random_vmfork_notifier(block);
}

int rust_helper_dm_unregister_vmfork_notifier(struct notifier_block *block)
{
	return unregister_random_vmfork_notifier(block);
}

/* The module that this file is linked into. */

void rust_helper_dm_hold_this_module(void)
{
	__module_get(THIS_MODULE);
}

void rust_helper_dm_release_this_module(void)
{
	module_put(THIS_MODULE);
}

void rust_helper_dm_synchronize_rcu_tasks(void)
{
	synchronize_rcu_tasks();
}
